"""Does the doctor name the fault, and no other? Every one is made for real in a hospital's folder, or at its lab."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from filelock import FileLock
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from rich.console import Console

from bioface_core.config import Study
from bioface_core.errors import HospitalError
from bioface_core.identity import certificate_sha256, read_identity
from bioface_core.photos import Demographics
from bioface_core.start import Start, write_start
from bioface_core.store import Store, write_store
from bioface_core.weights import random_base
from client import doctor
from client.audit import AuditLog
from client.books import begin_books
from client.doctor import describe, diagnose
from client.finding import Finding
from client.health import HealthServer
from client.hospital import Hospital
from tests.certificates import Authority, make_authority
from tests.small_federation import photos_of
from tests.test_connection import FakeLab, served
from tests.test_health import free_port

SYNDROMES = ["down", "noonan", "williams"]
KNOWN, UNKNOWN = (400, {"code": 2003, "detail": ""}), (412, {"code": 2004, "detail": ""})


class FleetLab(FakeLab):
    """A lab that also answers the question about the key, as Flower does (tests/test_fleet.py)."""

    answer: tuple[int, Any] = KNOWN
    asked: list[ActivateNodeRequest] = []

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/v1/fleet/activate-node"
        self.asked.append(ActivateNodeRequest.FromString(content))
        status, body = self.answer
        text = json.dumps(body).encode()
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@dataclass
class World:
    """A hospital's folder in which all is well, and a lab that is well, on loopback.

    Attributes:
        folder: the hospital's.
        port: the lab's.
        lab: what the lab answers; a test sets its attributes.
        authority: the lab's.
    """

    folder: Path
    port: int
    lab: type[FleetLab]
    authority: Authority

    def diagnose(self) -> dict[str, Finding]:
        return {one.name: one for one in diagnose(Hospital.open(self.folder))}

    def faults(self) -> list[str]:
        return [name for name, one in self.diagnose().items() if one.ok is False]

    def settings(self, **changes: Any) -> None:
        """Edits ``hospital.yaml`` as an administrator does."""
        path = self.folder / "hospital.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    authority = make_authority(tmp_path / "authority")
    lab = type("Lab", (FleetLab,), {"asked": []})
    with served(authority.issue(tmp_path), lab) as port:
        yield World(hospital_folder(tmp_path, authority, port), port, lab, authority)


def hospital_folder(at: Path, authority: Authority, port: int) -> Path:
    """Keys, settings, photos and an approved kit, as `bioface hospital init` and `approve` leave them."""
    folder = at / "hospital"
    for name in ("keys", "state", "logs", "approvals", "kit"):
        (folder / name).mkdir(mode=0o700, parents=True)
    identity_key, node_key = make_keys(folder)
    request = {"version": 1, "name": "charite", "identity_key": identity_key, "node_key": node_key}
    (folder / "join-request.json").write_text(json.dumps(request))
    write_store(at / "store", a_store())
    ports = {name: free_port() for name in ("runtime", "health", "metrics")}
    policy = {"metrics": ["loss", "counts"], "epsilon": None, "must_mask": False, "largest_share": 1}
    settings = {"name": "charite", "store": str(at / "store"), "device": "cpu", "ports": ports, "policy": policy}
    (folder / "hospital.yaml").write_text(yaml.safe_dump(settings))
    hospital = Hospital.open(folder)
    begin_books(hospital, read_identity(hospital.identity_key, HospitalError))
    start = Start(random_base(a_study().model, seed=0), None)
    (folder / "kit" / "start").mkdir()
    write_start(folder / "kit" / "start", start)
    write_kit(folder, authority, port, issued(identity_key, start.base.sha256))
    return folder


def make_keys(folder: Path) -> tuple[str, str]:
    """Private halves in files; the public ones as in a join request."""
    identity, node = Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1())
    keys = {
        "identity.key": identity.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "node.key": node.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
        "superexec.secret": b"0" * 64,
        "rounding.secret": b"0" * 32,
    }
    for name, content in keys.items():
        path = folder / "keys" / name
        path.write_bytes(content)
        path.chmod(0o600)
    public = node.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return identity.public_key().public_bytes_raw().hex(), public


def write_kit(folder: Path, authority: Authority, port: int, study: Study) -> None:
    """The kit, and the approval of its study."""
    kit, bundle = folder / "kit", study.bundle_sha256
    lab = {"address": f"127.0.0.1:{port}", "authority_sha256": certificate_sha256(authority.path, HospitalError)}
    names = {"hospital": "charite", "study_id": study.study_id, "bundle_sha256": bundle, **lab}
    (kit / "kit.json").write_text(json.dumps(names))
    (kit / "study.yaml").write_text(study.to_yaml())
    (kit / "ca.crt").write_bytes(authority.path.read_bytes())
    approval = {"study_id": study.study_id, "bundle_sha256": bundle, **lab, "approved_at": "2025-01-01T00:00:00+00:00"}
    (folder / "approvals" / f"{study.study_id}.json").write_text(json.dumps(approval))


def a_study() -> Study:
    changes = {"syndromes": SYNDROMES, "model": {"depth": 10, "width": 0.125, "embedding": 8}}
    return Study().replace({**changes, "loss": {"identification": False, "mode": "arcface"}})


def issued(identity_key: str, base_sha256: str) -> Study:
    roster = [{"name": "charite", "identity_key": identity_key}]
    return a_study().replace({"roster": roster, "bundle_sha256": "b" * 64, "model": {"base_sha256": base_sha256}})


def a_store(classes: tuple[str, ...] = tuple(SYNDROMES), patients: int = 5) -> Store:
    photos = photos_of([label for label in range(len(classes)) for _ in range(patients)])
    return Store(classes, photos, torch.zeros(len(photos), dtype=torch.bool), Demographics.unknown(len(photos)))


def test_nothing_is_wrong(world: World) -> None:
    found = world.diagnose()
    assert {name: one.ok for name, one in found.items() if one.ok is not True} == {"site": None}, found
    assert found["site"].found == "not running"


def test_only_a_question_that_changes_nothing_was_sent(world: World) -> None:
    world.diagnose()
    (question,) = world.lab.asked
    assert question.heartbeat_interval == 0 and b"PUBLIC KEY" in question.public_key


def missing_key(world: World) -> None:
    (world.folder / "keys" / "node.key").unlink()


def readable_key(world: World) -> None:
    (world.folder / "keys" / "identity.key").chmod(0o644)


def broken_key(world: World) -> None:
    (world.folder / "keys" / "identity.key").write_text("nothing")


def other_keys(world: World) -> None:
    make_keys(world.folder)


def no_request(world: World) -> None:
    (world.folder / "join-request.json").unlink()


def no_such_device(world: World) -> None:
    world.settings(device="cuda")


def no_store(world: World) -> None:
    world.settings(store=str(world.folder / "elsewhere"))


def old_store(world: World) -> None:
    header = world.folder.parent / "store" / "store.json"
    header.write_text(json.dumps(json.loads(header.read_text()) | {"version": 99}))


def other_syndromes(world: World) -> None:
    write_store(world.folder.parent / "store", a_store(("apert", "sotos")))


def few_patients(world: World) -> None:
    write_store(world.folder.parent / "store", a_store(patients=3))


def nothing_approved(world: World) -> None:
    for path in (world.folder / "approvals").iterdir():
        path.unlink()


def lost_ledger(world: World) -> None:
    Hospital.open(world.folder).ledger.unlink()


def altered_log(world: World) -> None:
    log = AuditLog(Hospital.open(world.folder).audit, read_identity(world.folder / "keys/identity.key", HospitalError))
    log.record(what="answered")
    log.close()
    log_path = Hospital.open(world.folder).audit
    log_path.write_bytes(log_path.read_bytes().replace(b"answered", b"refused!"))


def strict_policy(world: World) -> None:
    world.settings(policy={"metrics": ["loss"]})


def other_start(world: World) -> None:
    random_base(a_study().model, seed=1).write(world.folder / "kit" / "start" / "base.safetensors")


def same_ports(world: World) -> None:
    world.settings(ports=dict.fromkeys(("runtime", "health", "metrics"), free_port()))


def revoked(world: World) -> None:
    world.lab.answer = UNKNOWN


def refused(world: World) -> None:
    world.lab.answer = (401, {"detail": "Invalid SuperNode authentication"})


def wrong_clock(world: World) -> None:
    world.lab.ahead_s = -3600


@pytest.mark.parametrize(
    ("break_it", "name", "said", "advised"),
    [
        (missing_key, "keys", "node.key is missing", "backup"),
        (readable_key, "keys", "identity.key can be read by others", "chmod go="),
        (broken_key, "keys", "a key cannot be read", "backup"),
        (no_request, "join-request", "is missing", "backup"),
        (no_store, "store", "is not a store", "bioface prepare"),
        (old_store, "store", "of version 99", "prepare"),
        (other_syndromes, "syndromes", "none of the study's syndromes", "called as in the study"),
        (few_patients, "syndromes", "9 training patients", "policy"),
        (nothing_approved, "approval", "approve", "bioface hospital approve"),
        (lost_ledger, "books", "ledger.sqlite is missing", "restore it from a backup"),
        (altered_log, "books", "line 1 was altered", "bioface hospital audit"),
        (strict_policy, "approval", "the policy forbids the approved study", "hospital.yaml"),
        (same_ports, "ports", "the same", "different"),
        (revoked, "registration", "revoked, or never registered", "ask the lab"),
        (refused, "registration", "401", "clock"),
        (wrong_clock, "clock", "60 min ahead", "NTP"),
    ],
)
def test_a_fault_is_called_by_its_name(
    world: World, break_it: Callable[[World], None], name: str, said: str, advised: str
) -> None:
    break_it(world)
    found = world.diagnose()
    assert [name for name, one in found.items() if one.ok is False] == [name]
    assert said in found[name].found and advised in found[name].advice, found[name]


def test_keys_made_anew_are_not_those_that_the_lab_knows(world: World) -> None:
    other_keys(world)
    found = world.diagnose()
    assert world.faults() == ["join-request", "books", "approval"]
    assert "identity key is not the one of the join request" in found["join-request"].found
    assert "the study's roster does not hold charite" in found["approval"].found


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(world: World) -> None:
    no_such_device(world)
    assert world.faults() == ["device"]
    assert "device cuda cannot be used" in world.diagnose()["device"].found


def test_other_files_than_the_study_names(world: World) -> None:
    other_start(world)
    assert world.faults() == ["start"]


def test_a_port_in_other_hands(world: World) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        world.settings(ports={"runtime": free_port(), "health": port, "metrics": free_port()})
        assert world.faults() == ["ports"]
        assert f"port {port} (health) is taken by another program" in world.diagnose()["ports"].found


def test_ports_in_our_own_hands_and_a_site_that_serves(world: World) -> None:
    server = HealthServer(0)
    world.settings(ports={"runtime": free_port(), "health": server.port, "metrics": free_port()})
    with FileLock(world.folder / "state" / ".join.lock"):
        assert world.diagnose()["site"].found == "started, and not serving yet"
        server.serving(True)
        found = world.diagnose()
    server.stop()
    assert found["ports"].ok and found["site"].ok and found["site"].found == "serving"


def test_a_full_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_LEAST_FREE_BYTES", 10**18)
    assert world.faults() == ["disk"]


def test_syndromes_that_are_left_out_are_worth_knowing(world: World) -> None:
    write_store(world.folder.parent / "store", a_store(("down", "noonan", "apert"), patients=6))
    found = world.diagnose()["syndromes"]
    assert found.ok is None and found.found == "2 of the study's 3 syndromes are trained on here; not williams"


def test_another_lab_in_the_lab_s_place_gets_no_question(world: World, tmp_path: Path) -> None:
    """Neither the key nor the hospital's name is shown to somebody whom the start kit does not name."""
    study = Hospital.open(world.folder).approved().study
    write_kit(world.folder, make_authority(tmp_path / "other"), world.port, study)
    assert world.faults() == ["authority"]
    assert world.lab.asked == []


def test_nothing_is_changed(world: World) -> None:
    def state() -> dict[str, bytes]:
        files = sorted(path for path in world.folder.rglob("*") if path.is_file())
        return {str(path): path.read_bytes() for path in files}

    before = state()
    world.diagnose()
    assert state() == before


def test_a_fault_is_told_to_people_and_to_scripts(world: World) -> None:
    revoked(world)
    findings = diagnose(Hospital.open(world.folder))
    console = Console(width=200, file=io.StringIO())
    console.print(describe(findings))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "FAULT" in shown and "-> ask the lab" in shown and shown.count("FAULT") == 1
    content = json.loads(json.dumps([one.to_json() for one in findings]))
    assert {tuple(sorted(one)) for one in content} == {("advice", "found", "name", "ok")}
