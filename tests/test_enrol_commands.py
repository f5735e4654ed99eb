"""Can a lab and its hospitals find each other by typing, and is a mistake one line that says what to do?"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from bioface_core.accounting import Charge
from bioface_core.cli import main
from bioface_core.messages import Phase, Ticket
from client.books import open_books
from client.hospital import Hospital
from server.lab import Lab
from server.provision import fingerprint
from tests.small_lab import ADDRESS, NAMES, World, a_request, a_world, allowing, edit, lab_study

Bioface = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    """With a study to start another lab from, and a hospital that is not invited yet."""
    folder = tmp_path_factory.mktemp("made")
    a_study_file(folder)
    a_request(folder / "jena", "jena")
    return a_world(folder)


@pytest.fixture
def world(made: World, tmp_path: Path) -> World:
    return made.copy(tmp_path)


@pytest.fixture
def bioface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bioface:
    """Types a command in ``tmp_path``; exit status, standard output, standard error."""

    def type_(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bioface", *arguments])
        capsys.readouterr()
        try:
            main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        return status, *capsys.readouterr()

    monkeypatch.chdir(tmp_path)
    return type_


def a_study_file(folder: Path) -> str:
    """Of a study that a lab is made from in no time: without stage 1."""
    study = lab_study().replace({"model": {"base": "scratch", "norm": "group", "trainable": "all"}})
    (folder / "tiny.yaml").write_text(study.to_yaml())
    return str(folder / "tiny.yaml")


def done(answer: tuple[int, str, str]) -> str:
    """What a command that went well has to say."""
    status, out, error = answer
    assert status == 0, error
    return out


def test_the_whole_way(tmp_path: Path, bioface: Bioface) -> None:
    """From nothing to an approved study, with nothing but what is typed, sent and read out on the telephone."""
    said = done(bioface("lab", "init", "lab", "--address", ADDRESS, "--study", a_study_file(tmp_path)))
    assert "lab is made" in said
    a_request(tmp_path / "elsewhere", "elsewhere")  # prepares the photos
    for name in NAMES:
        said = done(bioface("hospital", "init", name, "--name", name, "--store", "store"))
        assert f"Send {name}/join-request.json to the lab" in said
    assert "charite: " in done(bioface("lab", "invite", *(f"{name}/join-request.json" for name in NAMES)))
    said = done(bioface("lab", "invite"))
    for name in NAMES:
        shutil.copytree(tmp_path / "lab" / "kits" / name, tmp_path / "post" / name)
        allowing(tmp_path / name)
        review = json.loads(done(bioface("hospital", "review", f"post/{name}", "--at", name, "--json")))
        assert review["obstacles"] == [] and review["same_code"] is True and review["members"] == list(NAMES)
        assert f"study {review['study_id']}\n" in said
        approved = done(bioface("hospital", "approve", f"post/{name}", "--at", name))
        assert review["study_id"] in re.sub(r"\s", "", approved)
        assert Hospital.open(tmp_path / name).approved().study == Lab.open(tmp_path / "lab").issued()
    assert f"authority {fingerprint(tmp_path / 'lab' / 'keys' / 'ca.crt')}\n" in said


def test_what_is_said_can_be_copied(world: World, bioface: Bioface, tmp_path: Path) -> None:
    """Paths are not broken into lines, nor taken for markup."""
    lab = tmp_path / f"{'a long name for a folder ' * 5}[bold]" / "lab"
    shutil.copytree(world.lab.folder, lab)
    said = done(bioface("lab", "invite", "--lab", str(lab))).splitlines()
    assert said[:2] == [f"{name}: {lab / 'kits' / name}" for name in NAMES]
    hospital = lab.parent / "ulm"
    said = done(bioface("hospital", "init", str(hospital), "--name", "ulm", "--store", "store")).splitlines()
    assert said[0].startswith(f"{hospital} is made. Send {hospital / 'join-request.json'} to the lab")


def test_a_lab_says_who_is_invited(world: World, bioface: Bioface) -> None:
    done(bioface("lab", "revoke", "bonn"))
    state = json.loads(done(bioface("lab", "status", "--json")))
    assert (state["served"], state["state"], state["warnings"]) == (False, "idle", [])
    assert state["hospitals"] == [{"name": "charite", "state": "invited"}, {"name": "bonn", "state": "revoked"}]
    assert {"charite", "invited", "bonn", "revoked"} <= set(done(bioface("lab", "status")).split())
    before = world.lab.certificate.read_bytes()
    assert "start `bioface lab serve` again" in done(bioface("lab", "renew"))
    assert world.lab.certificate.read_bytes() != before


def test_a_reason_is_shown_as_it_is(world: World, bioface: Bioface) -> None:
    reason = "expected [down], [/not] markup"
    (world.lab.state / "status.json").write_text(json.dumps({"state": "failed", "study": "small", "reason": reason}))
    assert f"small: failed, round 0. {reason}" in " ".join(done(bioface("lab", "status")).split())


def test_somebody_else_s_folder_is_named(bioface: Bioface, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", locked)
    status, _, error = bioface("lab", "status", "--lab", "theirs")
    assert (status, error) == (2, "bioface: theirs/lab.yaml is not this account's to use: be the one it belongs to\n")


def test_a_review_changes_nothing_and_says_what_to_do(world: World, bioface: Bioface, tmp_path: Path) -> None:
    folder = tmp_path / "charite"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    said = done(bioface("hospital", "review", "lab/kits/charite", "--at", "charite"))
    assert "bioface hospital approve KIT" in said and world.lab.issued().study_id in re.sub(r"\s", "", said)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_new_hospital_s_books_are_empty_and_in_order(bioface: Bioface, world: World) -> None:
    statement = json.loads(done(bioface("hospital", "ledger", "--at", "charite", "--json")))
    assert statement == {"limit": None, "delta": 0.0001, "studies": [], "shares": [], "approved": None}
    said = done(bioface("hospital", "ledger", "--at", "charite"))
    assert "(policy.epsilon): no limit" in said and "Nothing was spent yet" in said
    assert json.loads(done(bioface("hospital", "audit", "--at", "charite", "--json"))) == {
        "in_order": True,
        "lines": 0,
        "fault": None,
    }
    assert f"0 lines are in order, signed by {world.hospitals['charite'].identity}" in done(
        bioface("hospital", "audit", "--at", "charite")
    )


def test_an_altered_log_is_told_by_its_line_and_status(bioface: Bioface, world: World) -> None:
    hospital = world.hospitals["charite"]
    books = open_books(hospital)
    for what in ("answered", "refused"):
        books.log.record(what=what)
    books.close()
    assert json.loads(done(bioface("hospital", "audit", "--at", "charite", "--json")))["lines"] == 2
    hospital.audit.write_bytes(hospital.audit.read_bytes().replace(b"refused", b"honest!"))
    status, said, _ = bioface("hospital", "audit", "--at", "charite")
    assert status == 1 and "1 lines are in order" in said and "line 2 was altered" in said


def test_a_ledger_says_what_was_spent_by_whom(bioface: Bioface, world: World) -> None:
    hospital = world.hospitals["charite"]
    books, patients = open_books(hospital), [frozenset({b"one"}), frozenset({b"two"}), frozenset({b"three"})]
    books.ledger.recognise(patients)
    asked = Ticket("f" * 64, "run", 1, 1, Phase.TRAIN)
    books.ledger.charge(asked, Charge(2.0, 1.0, 1), patients[:2])
    books.close()
    statement = json.loads(done(bioface("hospital", "ledger", "--at", "charite", "--json")))
    worst, rest = statement["shares"]
    assert (worst["patients"], rest["patients"], rest["epsilon"]) == (2, 1, 0)
    assert statement["studies"][0]["epsilon"] == worst["epsilon"] > 1
    said = done(bioface("hospital", "ledger", "--at", "charite"))
    assert f"{worst['epsilon']:.3f}" in said and "ffffffffffff" in said


def test_books_that_are_not_of_the_same_time_are_refused(bioface: Bioface, world: World) -> None:
    hospital = world.hospitals["charite"]
    books = open_books(hospital)
    books.log.record((7,), what="answered")
    books.close()
    for command in ("ledger", "review"):
        kit = [] if command == "ledger" else ["lab/kits/charite"]
        status, _, error = bioface("hospital", command, *kit, "--at", "charite")
        assert status == 2 and "holds 0 charges, and the audit log tells of 7" in error and error.count("\n") == 1
    hospital.ledger.unlink()
    status, _, error = bioface("hospital", "ledger", "--at", "charite")
    assert status == 2 and "ledger.sqlite is missing" in error


def test_a_refusal_names_the_setting_that_would_allow_it(bioface: Bioface, world: World, tmp_path: Path) -> None:
    """As `bioface hospital init` makes it, a hospital approves nothing; what it must change, it is told."""
    path = tmp_path / "charite" / "hospital.yaml"
    settings = yaml.safe_load(path.read_text())
    for allowed, missing in (([], "loss"), (["loss"], "counts")):
        settings["policy"]["metrics"] = allowed
        path.write_text(yaml.safe_dump(settings))
        status, _, error = bioface("hospital", "approve", "lab/kits/charite", "--at", "charite")
        assert status == 2 and f"to allow it, add {missing} to policy.metrics. Nothing was approved" in error
        review = json.loads(done(bioface("hospital", "review", "lab/kits/charite", "--at", "charite", "--json")))
        assert f"add {missing} to policy.metrics" in review["obstacles"][0]
        assert not (tmp_path / "charite" / "kit").exists()
    allowing(tmp_path / "charite")
    done(bioface("hospital", "approve", "lab/kits/charite", "--at", "charite"))


# Mistakes, each of one who stands beside `lab`, `charite` and `bonn` of `world`


def altered_request(folder: Path) -> None:
    edit(folder / "charite" / "join-request.json", name="jena")


def altered_kit(folder: Path) -> None:
    edit(folder / "lab" / "kits" / "charite" / "kit.json", study_id="0" * 64)


def altered_study(folder: Path) -> None:
    (folder / "lab" / "study.yaml").write_text("rounds: 3\n")


def revoked(folder: Path) -> None:
    path = folder / "lab" / "roster.json"
    charite, bonn = json.loads(path.read_text())
    path.write_text(json.dumps([charite, bonn | {"revoked_at": "2026-01-01T00:00:00+00:00"}]))


def without_authority(folder: Path) -> None:
    (folder / "lab" / "keys" / "ca.key").unlink()


def open_identity(folder: Path) -> None:
    (folder / "charite" / "keys" / "identity.key").chmod(0o644)


def damaged_approval(folder: Path) -> None:
    shutil.copytree(folder / "lab" / "kits" / "charite", folder / "charite" / "kit")
    study_id = json.loads((folder / "charite" / "kit" / "kit.json").read_text())["study_id"]
    (folder / "charite" / "approvals" / f"{study_id}.json").write_text("[1]")


def nothing(folder: Path) -> None:
    pass


INIT = ("lab", "init", "new", "--study", "tiny.yaml", "--address")
HOSPITAL_INIT = ("hospital", "init", "new", "--store", "store", "--name")
KIT = ("lab/kits/charite", "--at", "charite")


@pytest.mark.parametrize(
    ("before", "arguments", "line"),
    [
        *((nothing, (*INIT, wrong), "expected HOST:PORT") for wrong in ("lab", "lab:0", "lab:99999", "::1:8443", "")),
        (nothing, ("lab", "init", "lab", "--address", ADDRESS), "lab is not empty: choose a new folder"),
        (nothing, ("lab", "init", "lab/lab.yaml", "--address", ADDRESS), "is not empty: choose a new folder"),
        (nothing, ("lab", "init", "lab/lab.yaml/x", "--address", ADDRESS, "--study", "tiny.yaml"), "cannot be made"),
        (nothing, (*INIT, ADDRESS, "-s", "syndromes=[down]"), "syndromes names 1, expected at least two"),
        (nothing, (*INIT, ADDRESS, "-s", "model.norm=batch"), "model.norm is batch"),
        (nothing, (*INIT, ADDRESS, "-s", "model.base=no.pth"), "no.pth"),
        (nothing, ("lab", "init", "new", "--address", ADDRESS, "--study", "nil"), "no study file and no shipped study"),
        (nothing, ("lab", "invite", "--lab", "nowhere"), "nowhere is no lab (no lab.yaml)"),
        (nothing, ("lab", "invite", "no.json"), "no.json cannot be read (No such file or directory)"),
        (nothing, ("lab", "invite", "charite"), "charite cannot be read (Is a directory)"),
        (nothing, ("lab", "invite", "charite/join-request.json"), "charite is on the roster already"),
        (altered_request, ("lab", "invite", "charite/join-request.json"), "was altered"),
        (altered_study, ("lab", "invite", "jena/join-request.json"), "rounds is no known key"),
        (nothing, ("lab", "revoke", "jena"), "jena is not on the roster, which holds charite, bonn"),
        (revoked, ("lab", "revoke", "bonn"), "bonn was revoked at 2026-01-01T00:00:00+00:00 already"),
        (without_authority, ("lab", "renew"), "ca.key cannot be read"),
        (nothing, ("lab", "renew", "--lab", "charite"), "charite is no lab"),
        (nothing, ("lab", "status", "--lab", "charite"), "charite is no lab"),
        (nothing, ("lab", "run"), "is not served: start `bioface lab serve --lab"),
        (nothing, ("lab", "stop"), "is not served: start `bioface lab serve --lab"),
        (nothing, (*HOSPITAL_INIT, "a b"), "name is 'a b'"),
        (nothing, ("hospital", "init", "charite", "--store", "store", "--name", "a"), "charite is not empty"),
        (nothing, ("hospital", "init", "new", "--store", "nowhere", "--name", "a"), "nowhere"),
        (nothing, ("hospital", "review", "lab/kits/charite"), "hospital is no hospital's folder (no hospital.yaml)"),
        (nothing, ("hospital", "review", "lab", "--at", "charite"), "lab is no start kit (no kit.json)"),
        (nothing, ("hospital", "review", "lab/kits/bonn", "--at", "charite"), "is bonn's kit, and this is charite"),
        (altered_kit, ("hospital", "review", *KIT), "it was altered; ask the lab for a new kit"),
        (altered_kit, ("hospital", "approve", *KIT), "it was altered; ask the lab for a new kit"),
        (open_identity, ("hospital", "approve", *KIT), "can be read by others: `chmod 600 "),
        (nothing, ("hospital", "approve", "nowhere", "--at", "charite"), "nowhere is no start kit"),
        (nothing, ("hospital", "join"), "hospital is no hospital's folder (no hospital.yaml)"),
        (nothing, ("hospital", "join", "--at", "charite"), "has approved no study: `bioface hospital approve KIT`"),
        (damaged_approval, ("hospital", "join", "--at", "charite"), "is not approved: review and approve it"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    world: World,
    tmp_path: Path,
    bioface: Bioface,
    before: Callable[[Path], None],
    arguments: tuple[str, ...],
    line: str,
) -> None:
    before(tmp_path)
    roster = world.lab.roster_file.read_bytes()
    status, out, error = bioface(*arguments)
    assert (status, out) == (2, ""), error
    error = error.strip()  # a bar of progress leaves an empty line
    assert error.startswith("bioface: ") and "\n" not in error and line in error
    assert world.lab.roster_file.read_bytes() == roster
    assert not (tmp_path / "new").exists() and not (tmp_path / "charite" / "state" / "flower").exists()


@pytest.mark.parametrize(
    "arguments", [("lab", "init", "new"), ("lab", "revoke"), ("hospital", "init", "new"), ("lab",)]
)
def test_what_is_left_out_is_asked_for(bioface: Bioface, arguments: tuple[str, ...]) -> None:
    status, out, error = bioface(*arguments)
    assert status == 2 and "Usage: " in out + error and "Traceback" not in error


def test_a_hospital_joins_once(world: World, bioface: Bioface, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world.approve()
    monkeypatch.setattr("client.join.FileLock", lambda path, timeout: FileLock(path, timeout=0))  # it waits a second
    with FileLock(tmp_path / "charite" / "state" / ".join.lock"):
        status, _, error = bioface("hospital", "join", "--at", "charite")
    assert status == 2 and "charite has joined already: stop the other `bioface hospital join` first" in error
    assert not list((tmp_path / "charite" / "logs").glob("*.out")), "it started no process"


def test_a_lab_is_served_once(world: World, bioface: Bioface, tmp_path: Path) -> None:
    with FileLock(tmp_path / "lab" / "state" / ".serve.lock"):
        status, _, error = bioface("lab", "serve")
    assert status == 2 and "lab is served already: stop the other `bioface lab serve` first" in error.splitlines()[-1]
    assert not list((tmp_path / "lab" / "logs").glob("*.out")), "it started no process"


@pytest.mark.slow
def test_a_mistake_shows_no_traceback_in_a_process_of_its_own(world: World, tmp_path: Path) -> None:
    checkout = str(Path(__file__).resolve().parent.parent)
    command = [sys.executable, "-m", "bioface_core", "lab", "revoke", "jena", "--lab", str(world.lab.folder)]
    environment = os.environ | {"PYTHONPATH": checkout}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert ended.stderr.startswith("bioface: jena is not on the roster")
