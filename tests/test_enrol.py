"""Does a hospital take part in what it approved and in nothing else, and do its keys stay where they were made?"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from bioface_core.bundle import bundle_sha256
from bioface_core.errors import HospitalError, PhotoError, UserError
from bioface_core.identity import is_signed_by
from bioface_core.start import read_start
from client.enrol import init_hospital
from client.hospital import Hospital, HospitalSettings
from client.policy import Policy
from server.provision import fingerprint
from tests.small_lab import (
    ADDRESS,
    NAMES,
    World,
    a_request,
    a_world,
    private_halves,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    return a_world(tmp_path_factory.mktemp("made"))


@pytest.fixture
def world(made: World, tmp_path: Path) -> World:
    return made.copy(tmp_path)


def one_line(error: pytest.ExceptionInfo[UserError]) -> bool:
    return "\n" not in str(error.value)


def test_request_invitation_kit_and_approval(world: World) -> None:
    kit, issued = world.approve(), world.lab.issued()
    assert kit.study == issued and kit.study.study_id == issued.study_id
    assert (kit.hospital, kit.address) == ("charite", ADDRESS)
    assert kit.authority_sha256 == fingerprint(world.lab.authority)
    assert kit.bundle_sha256 == issued.bundle_sha256 == bundle_sha256(world.lab.bundle.read_bytes())
    assert [(one.name, one.identity_key) for one in issued.roster] == [
        (name, world.hospitals[name].identity) for name in NAMES
    ]
    start = read_start(kit.start, kit.study)
    assert start.base.sha256 == issued.model.base_sha256
    assert Hospital.open(world.folder / "charite").approved() == kit


def test_nothing_is_approved_by_itself(world: World) -> None:
    with pytest.raises(HospitalError, match="has approved no study: `bioface hospital approve KIT`"):
        world.hospitals["charite"].approved()


def test_every_secret_is_its_owner_s_alone(world: World) -> None:
    for folder in (world.lab.folder, *(hospital.folder for hospital in world.hospitals.values())):
        secrets = [path for path in (folder / "keys").iterdir() if path.suffix != ".crt"]
        assert {stat.S_IMODE(path.stat().st_mode) for path in secrets} == {0o600} and len(secrets) >= 3
        private = [folder / name for name in ("", "keys", "state", "logs", "runs", "kits", "approvals")]
        assert {stat.S_IMODE(path.stat().st_mode) for path in private if path.exists()} == {0o700}


def test_no_private_half_leaves_the_hospital(world: World) -> None:
    """Neither the request nor anything in the lab's folder holds one."""
    world.approve()
    files = [path for path in world.lab.folder.rglob("*") if path.is_file()]
    sent = [path.read_bytes() for path in [*files, *(world.folder / name / "join-request.json" for name in NAMES)]]
    kept = [half for name in NAMES for half in private_halves(world.folder / name)]
    assert len(kept) >= 10
    assert not any(half in content for half in kept for content in sent)
    assert not any(b"PRIVATE KEY" in content for content in sent[-2:])


def test_no_secret_of_the_lab_is_in_a_kit(world: World) -> None:
    kept = private_halves(world.lab.folder)
    sent = [path.read_bytes() for path in world.lab.kits.rglob("*") if path.is_file()]
    assert not any(half in content for half in kept for content in sent)


def test_a_hospital_s_keys_are_its_own(world: World) -> None:
    charite, bonn = ({path.read_bytes() for path in (world.folder / name / "keys").iterdir()} for name in NAMES)
    assert len(charite | bonn) == 2 * len(charite) == 8


def test_a_request_says_what_it_must_and_nothing_else(world: World) -> None:
    content = json.loads((world.folder / "charite" / "join-request.json").read_text())
    assert content.keys() == {"version", "name", "identity_key", "node_key", "made_at", "signature"}
    signature = content.pop("signature")
    assert is_signed_by(content["identity_key"], content, signature)


def test_a_hospital_starts_with_the_settings_that_are_the_defaults(tmp_path: Path) -> None:
    """The file with its comments says what the code would assume without it."""
    a_request(tmp_path / "charite", "charite")
    settings = Hospital.open(tmp_path / "charite").settings
    assert settings == HospitalSettings(name="charite", store=tmp_path / "store")
    written = (tmp_path / "charite" / "hospital.yaml").read_text()
    assert all(f"{name}:" in written for name in (*HospitalSettings.model_fields, *Policy.model_fields))


@pytest.mark.parametrize("name", ["no", "1e5", "12", "null", "2024-01-01"])
def test_a_hospital_may_be_called_what_yaml_takes_for_something_else(tmp_path: Path, name: str) -> None:
    a_request(tmp_path / "hospital", name)
    assert Hospital.open(tmp_path / "hospital").settings.name == name


def test_photos_may_lie_anywhere(tmp_path: Path) -> None:
    a_request(tmp_path / "charite", "charite")
    odd = tmp_path / 'Fotos: "größe" 😀 #1 <NAME>'
    os.rename(tmp_path / "store", odd)
    init_hospital(tmp_path / "bonn", "bonn", odd)
    assert Hospital.open(tmp_path / "bonn").settings.store == odd


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", "-a", "é", "a" * 65, "a\n"])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(HospitalError, match="name is ") as error:
        a_request(tmp_path / "hospital", name)
    assert one_line(error) and not (tmp_path / "hospital").exists()


def test_no_keys_are_made_for_photos_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(PhotoError):
        init_hospital(tmp_path / "hospital", "charite", tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["make_identity", "make_node_key", "write_secret", "write_text", "_write_settings"])
def test_what_was_half_made_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def power_cut(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(f"client.enrol.{step}", power_cut)
        a_request(tmp_path / "charite", "charite")
    assert [path.name for path in tmp_path.iterdir()] == ["store"], "no key is left lying about"
    assert a_request(tmp_path / "charite", "charite").is_file()
    assert {path.name for path in (tmp_path / "charite" / "keys").iterdir()} == {
        *("identity.key", "node.key", "superexec.secret", "rounding.secret")
    }


def test_a_hospital_s_keys_are_not_made_over(world: World) -> None:
    before = private_halves(world.folder / "charite")
    with pytest.raises(HospitalError, match="is not empty: choose a new folder"):
        a_request(world.folder / "charite", "charite")
    assert private_halves(world.folder / "charite") == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is no hospital's folder .no hospital.yaml.: make it with `bioface hospital init`"),
        ("name: a\n", "store"),
        ("{name: a, store: b, polcy: {}}", "polcy is no known key; nearest: policy"),
        ("{name: a, store: b, policy: {round: 3}}", "policy.round is no known key; nearest: policy.rounds"),
        ("{name: a, store: b, address: lab}", "address: expected HOST:PORT"),
        ("{name: a, store: b, ports: {health: 0}}", "ports.health is 0"),
    ],
)
def test_what_is_no_hospital_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "hospital.yaml").write_text(content)
    with pytest.raises(HospitalError, match=message) as error:
        Hospital.open(tmp_path)
    assert one_line(error)
