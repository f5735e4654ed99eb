"""Is a kit approved only if it is, to the last character, what the lab issued to this hospital?"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bioface_core.config import read_study
from bioface_core.errors import HospitalError, UserError, WeightsError
from bioface_core.start import Start, write_start
from bioface_core.weights import random_base
from client.enrol import approve
from client.hospital import Hospital, HospitalSettings, read_kit
from server.provision import fingerprint
from tests.small_lab import ADDRESS, World, a_lab, a_request, a_world, allowing, edit, lab_study


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    return a_world(tmp_path_factory.mktemp("made"))


@pytest.fixture
def world(made: World, tmp_path: Path) -> World:
    return made.copy(tmp_path)


def one_line(error: pytest.ExceptionInfo[UserError]) -> bool:
    return "\n" not in str(error.value)


def one_character(kit: Path) -> None:
    path = kit / "study.yaml"
    path.write_text(path.read_text().replace("rounds: 3", "rounds: 4"))


def one_digit_of_the_id(kit: Path) -> None:
    study_id = json.loads((kit / "kit.json").read_text())["study_id"]
    edit(kit / "kit.json", study_id=("0" if study_id[0] != "0" else "1") + study_id[1:])


def another_bundle(kit: Path) -> None:
    edit(kit / "kit.json", bundle_sha256="0" * 64)


def no_study(kit: Path) -> None:
    (kit / "study.yaml").write_text("a: [")


def no_address(kit: Path) -> None:
    edit(kit / "kit.json", address="lab")


def no_kit(kit: Path) -> None:
    (kit / "kit.json").unlink()


def no_certificate(kit: Path) -> None:
    (kit / "ca.crt").write_text("certificate")


def without(name: str) -> Callable[[Path], None]:
    """Takes a part out of a kit."""

    def take(kit: Path) -> None:
        if (kit / name).is_dir():
            shutil.rmtree(kit / name)
        else:
            (kit / name).unlink()

    return take


def other_certificate_and_name(kit: Path) -> None:
    """Whoever changes the authority can change its fingerprint in the kit as well."""
    other_lab(kit)
    edit(kit / "kit.json", authority_sha256=fingerprint(kit / "ca.crt"))


def other_bundle_and_study(kit: Path) -> None:
    """A kit of another bundle that holds together."""
    study = read_study(kit / "study.yaml").replace({"bundle_sha256": "0" * 64})
    (kit / "study.yaml").write_text(study.to_yaml())
    edit(kit / "kit.json", bundle_sha256="0" * 64, study_id=study.study_id)


def other_lab(kit: Path) -> None:
    (kit / "ca.crt").write_bytes(a_lab(kit.with_name("other-lab")).authority.read_bytes())


def other_start(kit: Path) -> None:
    """What is put into the start folder on its way."""
    write_start(kit / "start", Start(random_base(lab_study().model, seed=1), None))


@pytest.mark.parametrize(
    ("tamper", "error", "message"),
    [
        (one_character, HospitalError, "study.yaml is study .* it was altered; ask the lab for a new kit"),
        (one_digit_of_the_id, HospitalError, "it was altered"),
        (another_bundle, HospitalError, "kit and study name different bundles"),
        (no_study, HospitalError, "not YAML.*ask the lab for a new kit"),
        (no_address, HospitalError, "address: expected HOST:PORT"),
        (no_kit, HospitalError, "is no start kit .no kit.json.: name the folder the lab sent"),
        (no_certificate, HospitalError, "ca.crt holds no certificate"),
        *(
            (without(name), HospitalError, f"lacks {name}: ask the lab for the whole kit")
            for name in ("study.yaml", "ca.crt", "start")
        ),
        (without("start/base.safetensors"), WeightsError, "base.safetensors"),
        (other_lab, HospitalError, "ca.crt is not the certificate that the kit names"),
        (other_start, WeightsError, "base.safetensors has the hash"),
    ],
)
def test_a_kit_that_was_altered_is_not_approved(
    world: World, tamper: Callable[[Path], None], error: type[UserError], message: str
) -> None:
    approved = world.approve()
    tamper(world.kit())
    with pytest.raises(error, match=message) as raised:
        world.approve()
    assert one_line(raised)
    assert world.hospitals["charite"].approved() == approved, "what was approved stays approved"


@pytest.mark.parametrize("tamper", [one_character, other_lab, no_certificate, no_kit, no_address])
def test_an_approved_kit_that_is_altered_is_approved_no_more(world: World, tamper: Callable[[Path], None]) -> None:
    world.approve()
    tamper(world.folder / "charite" / "kit")
    with pytest.raises(HospitalError) as raised:
        world.hospitals["charite"].approved()
    assert one_line(raised)


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (other_certificate_and_name, "authority_sha256 is not what was approved: review the kit and approve it anew"),
        (other_bundle_and_study, "is not approved: review and approve it"),
    ],
)
def test_a_kit_that_holds_together_is_still_not_what_was_approved(
    world: World, tamper: Callable[[Path], None], message: str
) -> None:
    world.approve()
    tamper(world.folder / "charite" / "kit")
    with pytest.raises(HospitalError, match=message):
        world.hospitals["charite"].approved()


def with_another(text: str, place: int) -> str:
    """A digit stays a digit, everything else becomes a letter."""
    old = text[place]
    new = str((int(old) + 1) % 10) if old.isdigit() else "x" if old != "x" else "y"
    return text[:place] + new + text[place + 1 :]


@pytest.mark.parametrize("everywhere", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_no_character_that_says_something_can_be_changed(world: World, everywhere: bool) -> None:
    """The last one of each line, or every one; what a study says of speed and simulation is nobody's to approve."""
    path, approved = world.kit() / "study.yaml", read_kit(world.kit()).study
    text = path.read_text()
    public = range(text.index("\nspeed:"))
    refused = 0
    for place in (place for place in public if everywhere or text[place + 1] == "\n"):
        path.write_text(with_another(text, place))
        try:
            found = read_kit(world.kit()).study
        except HospitalError:
            refused += 1
        else:  # where a base once lay at the lab says nothing, nor does a zero that is written 0x0
            assert found.replace({"model": {"base": approved.model.base}}) == approved
    assert refused > 50


def test_a_kit_may_be_approved_again(world: World) -> None:
    """Also from the copy that was made of it."""
    approved = world.approve()
    assert world.approve() == approved
    assert approve(world.hospitals["charite"], world.folder / "charite" / "kit") == approved


def test_what_a_power_cut_leaves_is_not_approved(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kit's copy is there, the approval is not; the same command makes it."""

    def power_cut(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("client.enrol.write_text", power_cut)
        world.approve()
    with pytest.raises(HospitalError, match="is not approved: review and approve it"):
        world.hospitals["charite"].approved()
    assert world.approve() == world.hospitals["charite"].approved()


def test_another_study_in_the_approved_one_s_place_is_not_approved(world: World) -> None:
    """Whoever can write into the folder of the kit cannot approve: the approval names the study and the lab."""
    hospital = world.hospitals["charite"]
    world.approve()
    edit(hospital.kit / "kit.json", address="evil.example.org:1")
    with pytest.raises(HospitalError, match="address is not what was approved: review the kit and approve it anew"):
        hospital.approved()
    one_character(hospital.kit)
    edit(hospital.kit / "kit.json", study_id=read_study(hospital.kit / "study.yaml").study_id, address=ADDRESS)
    with pytest.raises(HospitalError, match="is not approved: review and approve it"):
        hospital.approved()


def test_another_hospital_s_kit_is_not_approved(world: World) -> None:
    with pytest.raises(HospitalError, match="is bonn's kit, and this is charite: ask the lab for yours"):
        approve(world.hospitals["charite"], world.kit("bonn"))


def test_a_roster_with_another_key_is_not_approved(world: World, tmp_path: Path) -> None:
    """A hospital that lost its keys and made new ones is not the one that was invited."""
    a_request(tmp_path / "new", "charite")
    with pytest.raises(HospitalError, match="the study's roster has no charite with this hospital's key"):
        approve(allowing(tmp_path / "new"), world.kit())


def test_only_the_kit_is_copied(world: World) -> None:
    """Whatever else was packed with it stays where it is."""
    (world.kit() / "surprise.sh").write_text("echo")
    (world.kit() / "start" / "surprise.sh").write_text("echo")
    (world.kit() / "start" / "nowhere").symlink_to(world.folder / "nowhere")
    world.approve()
    kit = world.folder / "charite" / "kit"
    assert {path.relative_to(kit).as_posix() for path in kit.rglob("*")} == {
        *("kit.json", "study.yaml", "ca.crt", "start", "start/base.safetensors")
    }


def test_the_policy_is_asked_first(world: World, tmp_path: Path) -> None:
    hospital = Hospital(world.folder / "charite", HospitalSettings(name="charite", store=tmp_path / "store"))
    with pytest.raises(HospitalError, match="policy.metrics. Nothing was approved"):
        approve(hospital, world.kit())
    assert not hospital.kit.exists() and list(hospital.approvals.iterdir()) == []
