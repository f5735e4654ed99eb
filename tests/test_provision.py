"""Does a lab come to be, and does it invite and shut out those hospitals that it means to, and nobody by mistake?"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import server.provision
from bioface_core.config import find_study, read_study
from bioface_core.enrolment import JoinRequest
from bioface_core.errors import HospitalError, LabError, WeightsError
from bioface_core.identity import make_identity, make_node_key, public_hex, read_identity
from client.hospital import read_kit
from client.policy import Policy, violations
from server.lab import Lab
from server.provision import fingerprint, invite, issue_kits, plan_lab, renew, revoke, warnings
from tests.small_lab import ADDRESS, NAMES, World, a_lab, a_request, a_world, edit, lab_study


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    return a_world(tmp_path_factory.mktemp("made"))


@pytest.fixture
def world(made: World, tmp_path: Path) -> World:
    return made.copy(tmp_path)


def test_a_lab_is_read_back(world: World) -> None:
    again = Lab.open(world.folder / "lab")
    assert again.settings == world.lab.settings and again.roster() == world.lab.roster()
    assert (again.host, again.settings.listen) == ("lab.example.org", "0.0.0.0:8443")
    assert read_study(again.template_file) == lab_study()
    assert {path.name for path in again.folder.iterdir() if not path.name.startswith(".")} == {
        *("lab.yaml", "study.yaml", "roster.json", "bundle.fab", "keys", "start", "kits", "state", "runs", "logs")
    }


def test_a_lab_is_not_made_over_another(world: World) -> None:
    before = {path: path.read_bytes() for path in world.lab.keys.iterdir()}
    with pytest.raises(LabError, match="is not empty: choose a new folder"):
        a_lab(world.lab.folder)
    assert {path: path.read_bytes() for path in world.lab.keys.iterdir()} == before


def test_what_was_half_made_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def power_cut() -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(server.provision, "build_bundle", power_cut)
        a_lab(tmp_path / "lab")
    assert not (tmp_path / "lab").exists()
    (tmp_path / ".lab.part" / "keys").mkdir(parents=True)  # and what a kill -9 leaves
    assert a_lab(tmp_path / "lab").roster() == ()
    assert [path.name for path in tmp_path.iterdir()] == ["lab"]


@pytest.mark.parametrize(
    ("address", "settings", "message"),
    [
        ("lab.example.org", {}, "address: expected HOST:PORT, such as lab.example.org:8443"),
        ("https://lab.example.org:8443", {}, "address: expected HOST:PORT"),
        (ADDRESS, {"listen": "8443"}, "listen: expected HOST:PORT"),
        (ADDRESS, {"admin_port": 0}, "admin_port is 0"),
        (ADDRESS, {"admin_prot": 1}, "admin_prot is no known key; nearest: admin_port"),
    ],
)
def test_a_wrong_setting_is_found_before_anything_is_made(
    tmp_path: Path, address: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(LabError, match=message) as error:
        plan_lab(tmp_path / "lab", address, **settings)
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is no lab .no lab.yaml.: make one with `bioface lab init`"),
        ("[1]", "holds list"),
        ("address: lab:1\nlisten: lab:1\nadress: x\n", "adress is no known key; nearest: address"),
        ("listen: lab:1\n", "address"),
    ],
)
def test_what_is_no_lab_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "lab.yaml").write_text(content)
    with pytest.raises(LabError, match=message) as error:
        Lab.open(tmp_path)
    assert "\n" not in str(error.value)


def test_a_damaged_roster_is_named(world: World) -> None:
    whole = world.lab.roster_file.read_text()
    node_key = json.loads(whole)[0]["node_key"]
    for damaged in (whole[:-1], "{}", "[3]", '[{"name": "x"}]', whole.replace(node_key, node_key[:60])):
        world.lab.roster_file.write_text(damaged)
        with pytest.raises(LabError, match="roster.json is damaged .*: restore it from a backup"):
            world.lab.roster()


def test_a_lab_without_hospitals_issues_nothing(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no hospital on its roster: `bioface lab invite`"):
        issue_kits(a_lab(tmp_path / "lab"))


def test_other_start_files_than_the_study_s_are_not_issued(world: World) -> None:
    edited = lab_study().replace({"model": {"base_sha256": "0" * 64}})
    with pytest.raises(WeightsError, match="has the hash"):
        world.lab.issued(edited)


def test_another_study_is_issued_with_the_same_roster(world: World) -> None:
    longer = lab_study().replace({"federation": {"rounds": 9}})
    issued = world.lab.issued(longer)
    assert issued.federation.rounds == 9 and issued.roster == world.lab.issued().roster
    assert [path.name for path in issue_kits(world.lab, longer)] == list(NAMES)
    assert world.approve().study == issued


def test_certificates_are_watched(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert warnings(world.lab) == []
    monkeypatch.setattr(server.provision, "expires_in", lambda path: timedelta(days=29, hours=5))
    assert warnings(world.lab)[0] == "server.crt expires in 29 days: `bioface lab renew`"
    monkeypatch.setattr(server.provision, "expires_in", lambda path: timedelta(seconds=-1))
    assert [line.partition(":")[0] for line in warnings(world.lab)] == ["server.crt has expired", "ca.crt has expired"]


def test_renewing_changes_nothing_for_the_hospitals(world: World) -> None:
    kit, before = world.approve(), world.lab.certificate.read_bytes()
    renew(world.lab)
    assert world.lab.certificate.read_bytes() != before
    assert fingerprint(world.lab.authority) == kit.authority_sha256 and world.lab.issued() == kit.study


def test_the_shipped_template_can_be_approved() -> None:
    """`bioface lab init` starts from configs/lab.yaml, whose every setting a hospital's policy can allow."""
    study = read_study(find_study("lab"))
    assert study.roster == () and study.model.norm == "frozen" and len(study.syndromes) == 10
    assert violations(Policy(metrics=("loss", "counts")), study) == []


def test_the_roster_says_who_may_connect(world: World) -> None:
    charite, bonn = world.lab.roster()
    assert charite.node_public_bytes != bonn.node_public_bytes
    content = json.loads(world.lab.roster_file.read_text())
    assert [one.keys() for one in content] == [{"name", "identity_key", "node_key", "invited_at", "revoked_at"}] * 2


def test_init_lab_takes_its_settings(tmp_path: Path) -> None:
    lab = a_lab(tmp_path / "lab", "localhost:4443", listen="127.0.0.1:4444", admin_port=4445)
    assert (lab.settings.listen, lab.settings.admin_port) == ("127.0.0.1:4444", 4445)
    assert (lab.link.public, lab.admin.address) == (("127.0.0.1", 4444), "127.0.0.1:4445")


# Requests


def mine(request: Path, **changes: Any) -> None:
    """A request that its own maker signed, whatever it says."""
    identity = make_identity(request.parent / "other.key")
    content = json.loads(request.read_text()) | {"identity_key": public_hex(identity)} | changes
    signed = JoinRequest.model_construct(**content).signed(identity)
    request.write_text(signed.model_dump_json())


def altered(request: Path) -> None:
    edit(request, made_at="2020-01-01T00:00:00+00:00")


def renamed(request: Path) -> None:
    edit(request, name="bonn-2")


def another_node_key(request: Path) -> None:
    edit(request, node_key=make_node_key(request.parent / "other.key"))


def another_identity(request: Path) -> None:
    edit(request, identity_key=public_hex(make_identity(request.parent / "other.key")))


def unsigned(request: Path) -> None:
    edit(request, signature="")


def newer(request: Path) -> None:
    mine(request, version=2)


def out_of_the_folder(request: Path) -> None:
    mine(request, name="../keys")


def no_node_key(request: Path) -> None:
    mine(request, node_key="ssh-ed25519 AAAA")


def more(request: Path) -> None:
    edit(request, admin=True)


def less(request: Path) -> None:
    content = json.loads(request.read_text())
    request.write_text(json.dumps({name: value for name, value in content.items() if name != "node_key"}))


def cut_off(request: Path) -> None:
    request.write_bytes(request.read_bytes()[:-20])


def a_list(request: Path) -> None:
    request.write_text("[1]")


def deep(request: Path) -> None:
    request.write_text("[" * 100_000)


def binary(request: Path) -> None:
    request.write_bytes(bytes(range(256)))


def missing(request: Path) -> None:
    request.unlink()


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        *((tamper, "was altered") for tamper in (altered, renamed, another_node_key, another_identity, unsigned)),
        (newer, "version is 2"),
        (out_of_the_folder, "name is '../keys'"),
        (no_node_key, "node_key: "),
        (more, "admin is no known key"),
        (less, "node_key"),
        (cut_off, "is no JSON"),
        (a_list, "holds list, expected a JSON object"),
        (deep, "is no JSON"),
        (binary, "is no JSON"),
        (missing, "cannot be read"),
    ],
)
def test_a_request_that_is_not_right_changes_nothing(
    world: World, tmp_path: Path, tamper: Callable[[Path], None], message: str
) -> None:
    good, bad = a_request(tmp_path / "jena", "jena"), a_request(tmp_path / "ulm", "ulm")
    tamper(bad)
    before = world.lab.roster_file.read_bytes()
    with pytest.raises(LabError, match=message) as error:
        invite(world.lab, [good, bad])
    assert "\n" not in str(error.value) and str(bad) in str(error.value) and "ask the hospital" in str(error.value)
    assert world.lab.roster_file.read_bytes() == before, "all or none"


def test_a_name_is_one_hospital_s(world: World, tmp_path: Path) -> None:
    with pytest.raises(LabError, match="bonn is on the roster already: the hospital must choose another name"):
        invite(world.lab, [a_request(tmp_path / "new", "bonn")])


def test_a_request_counts_once(world: World, tmp_path: Path) -> None:
    request = a_request(tmp_path / "jena", "jena")
    with pytest.raises(LabError, match="jena is on the roster already"):
        invite(world.lab, [request, request])


def test_a_key_is_one_hospital_s(world: World, tmp_path: Path) -> None:
    """Not even under another name, nor with a comment behind it."""
    bonn = world.lab.roster()[1]
    request = a_request(tmp_path / "jena", "jena")
    mine(request, node_key=f"{bonn.node_key} another comment")
    with pytest.raises(LabError, match="a key of jena is bonn's: each hospital makes its own"):
        invite(world.lab, [request])


def test_an_identity_is_one_hospital_s(world: World, tmp_path: Path) -> None:
    bonn = world.hospitals["bonn"]
    node_key = make_node_key(tmp_path / "node.key")
    asked = JoinRequest(name="jena", identity_key=bonn.identity, node_key=node_key, made_at="")
    request = tmp_path / "request.json"
    request.write_text(asked.signed(read_identity(bonn.identity_key, HospitalError)).model_dump_json())
    with pytest.raises(LabError, match="a key of jena is bonn's"):
        invite(world.lab, [request])


def test_a_new_hospital_makes_another_study_for_all(world: World, tmp_path: Path) -> None:
    before = world.approve().study
    invite(world.lab, [a_request(tmp_path / "jena", "jena")])
    assert [path.name for path in issue_kits(world.lab)] == [*NAMES, "jena"]
    after = read_kit(world.kit()).study
    assert after.study_id != before.study_id and [one.name for one in after.roster] == [*NAMES, "jena"]
    assert world.hospitals["charite"].approved().study == before, "until it approves the new one"


# Revocation


def test_a_revoked_hospital_stays_in_the_study(world: World) -> None:
    before = world.lab.issued()
    revoke(world.lab, "bonn")
    assert [one.revoked_at is None for one in world.lab.roster()] == [True, False]
    assert world.lab.issued() == before
    assert [path.name for path in issue_kits(world.lab)] == ["charite"], "it gets no kit any more"


def test_a_revoked_hospital_s_name_and_keys_stay_taken(world: World) -> None:
    revoke(world.lab, "bonn")
    with pytest.raises(LabError, match="bonn is on the roster already"):
        invite(world.lab, [world.folder / "bonn" / "join-request.json"])


def test_only_who_is_there_can_be_revoked(world: World) -> None:
    with pytest.raises(LabError, match="jena is not on the roster, which holds charite, bonn"):
        revoke(world.lab, "jena")
    revoke(world.lab, "bonn")
    with pytest.raises(LabError, match="bonn was revoked at 20.* already"):
        revoke(world.lab, "bonn")


def test_two_administrators_do_not_undo_each_other(world: World, tmp_path: Path) -> None:
    request = a_request(tmp_path / "jena", "jena")
    other = threading.Thread(target=invite, args=(world.lab, [request]))
    with world.lab.changing_roster() as roster:
        other.start()
        other.join(0.2)
        assert other.is_alive(), "it waits"
        world.lab.write_roster(roster[:1])
    other.join(20)
    assert [one.name for one in world.lab.roster()] == ["charite", "jena"]
