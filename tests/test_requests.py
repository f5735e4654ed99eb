"""Does a lab invite whom a request speaks for, and nobody whose request was altered, borrowed or made up?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from bioface_core.enrolment import JoinRequest
from bioface_core.errors import HospitalError, LabError
from bioface_core.identity import make_identity, make_node_key, public_hex, read_identity
from client.hospital import read_kit
from server.provision import invite, issue_kits, revoke
from tests.small_lab import NAMES, World, a_request, a_world, edit


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    return a_world(tmp_path_factory.mktemp("made"))


@pytest.fixture
def world(made: World, tmp_path: Path) -> World:
    return made.copy(tmp_path)


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


def another_signature(request: Path) -> None:
    signature = json.loads(request.read_text())["signature"]
    edit(request, signature=("0" if signature[0] != "0" else "1") + signature[1:])


def signed_for_other_content(request: Path) -> None:
    """Hexadecimal digits are read in either case, and the key is still what was signed."""
    edit(request, identity_key=json.loads(request.read_text())["identity_key"].upper())


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


def empty(request: Path) -> None:
    request.write_text("")


def missing(request: Path) -> None:
    request.unlink()


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        *((tamper, "was altered") for tamper in (altered, renamed, another_node_key, another_identity)),
        *((tamper, "was altered") for tamper in (another_signature, unsigned)),
        (signed_for_other_content, "identity_key is "),
        (empty, "is no JSON"),
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


def test_no_garbage_is_invited_nor_does_it_do_harm(world: World) -> None:
    """The name is another than bonn signed, so that no request of these is genuine."""
    request, before, dice = world.folder / "bonn" / "join-request.json", world.lab.roster_file.read_bytes(), Random(0)
    whole = request.read_bytes().replace(b"bonn", b"jena")
    for _ in range(200):
        content = bytearray(whole)
        for place in dice.choices(range(len(whole)), k=dice.choice([1, 1, 4])):
            content[place : place + dice.randrange(3)] = dice.choice(
                [b"", b'"', b"\0", b"\xff", b"[", dice.randbytes(1)]
            )
        request.write_bytes(content)
        with pytest.raises(LabError) as error:
            invite(world.lab, [request])
        assert "\n" not in str(error.value)
    assert world.lab.roster_file.read_bytes() == before


def test_a_name_is_one_hospital_s(world: World, tmp_path: Path) -> None:
    with pytest.raises(LabError, match="bonn is on the roster already: the hospital must choose another name"):
        invite(world.lab, [a_request(tmp_path / "new", "bonn")])


def test_a_lab_that_invites_twice_is_told_what_it_wants(world: World) -> None:
    with pytest.raises(LabError, match="bonn is on the roster already: `bioface lab invite` issues its kit anew"):
        invite(world.lab, [world.folder / "bonn" / "join-request.json"])
    revoke(world.lab, "bonn")
    with pytest.raises(LabError, match="bonn is on the roster already: the hospital must choose another name"):
        invite(world.lab, [world.folder / "bonn" / "join-request.json"])


def test_a_request_counts_once(world: World, tmp_path: Path) -> None:
    request = a_request(tmp_path / "jena", "jena")
    with pytest.raises(LabError, match="jena is on the roster already"):
        invite(world.lab, [request, request])


@pytest.mark.parametrize("is_revoked", [False, True])
def test_a_key_is_one_hospital_s(world: World, tmp_path: Path, is_revoked: bool) -> None:
    """Not even under another name, nor with a comment behind it, nor once that hospital was shut out."""
    if is_revoked:
        revoke(world.lab, "bonn")
    bonn = world.lab.roster()[1]
    request = a_request(tmp_path / "jena", "jena")
    mine(request, node_key=f"{bonn.node_key} another comment")
    with pytest.raises(LabError, match="a key of jena is bonn's: each hospital makes its own"):
        invite(world.lab, [request])


@pytest.mark.parametrize("is_revoked", [False, True])
def test_an_identity_is_one_hospital_s(world: World, tmp_path: Path, is_revoked: bool) -> None:
    if is_revoked:
        revoke(world.lab, "bonn")
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
    assert all(read_kit(world.kit(name)).study == after for name in (*NAMES, "jena"))
    assert after.study_id != before.study_id and [one.name for one in after.roster] == [*NAMES, "jena"]
    assert world.hospitals["charite"].approved().study == before, "until it approves the new one"
