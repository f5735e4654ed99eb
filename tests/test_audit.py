"""Does every change of the audit log show, and does nothing leave that is not in it?"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Context, Message, RecordDict
from flwr.app.message import make_message
from flwr.supercore.task_identity import TaskIdentity

import client.audit
from bioface_core.accounting import Charge
from bioface_core.errors import HospitalError, WireError
from bioface_core.identity import public_hex
from bioface_core.messages import Code, Phase, Request, Ticket
from bioface_core.wire import pack_request, payload_bytes
from client.app import answer, refusal
from client.audit import AuditLog, head_path, verify
from client.audited import Clerk
from client.ledger import Ledger
from tests.small_federation import SmallLearner, SmallSites, in_a_process, small_study
from tests.test_ledger import DELTA, people_of, plainly
from tests.test_site import CONTEXT, message

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
HEX = public_hex(KEY)
STUDY = small_study()
_OPEN: list[AuditLog | Ledger] = []  # closed when a test ends


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    AuditLog.begin(tmp_path / "audit.jsonl", KEY)
    yield tmp_path / "audit.jsonl"
    while _OPEN:
        _OPEN.pop().close()


@pytest.fixture(autouse=True)
def a_task() -> None:
    """Flower's messages want to know who makes them."""
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1


def open_log(path: Path) -> AuditLog:
    log = AuditLog(path, KEY)
    _OPEN.append(log)
    return log


def written(path: Path, lines: int = 5) -> list[bytes]:
    """A log of so many lines, closed; the lines with their breaks."""
    log = open_log(path)
    for number in range(1, lines + 1):
        log.record(what="answered", asked={"round": number})
    log.close()
    return path.read_bytes().splitlines(keepends=True)


def test_a_log_that_nobody_touched_is_in_order(path: Path) -> None:
    assert verify(path, HEX) == client.audit.Verdict(0, None)
    lines = written(path)
    assert verify(path, HEX) == client.audit.Verdict(5, None)
    first, second = (json.loads(line) for line in lines[:2])
    assert first["number"] == 1 and second["before"] == hashlib.sha256(lines[0].rstrip(b"\n")).hexdigest()
    log = open_log(path)
    log.record(what="answered")
    assert verify(path, HEX).lines == 6, "while it is open"


def replaced(lines: list[bytes], index: int, **changes: Any) -> list[bytes]:
    changed = json.dumps(json.loads(lines[index]) | changes).encode() + b"\n"
    return [*lines[:index], changed, *lines[index + 1 :]]


@pytest.mark.parametrize(
    ("change", "in_order", "said"),
    [
        (lambda lines: replaced(lines, 2, asked={"round": 7}), 2, "line 3 was altered: its signature"),
        (lambda lines: replaced(lines, 4, what="refused"), 4, "line 5 was altered: its signature"),
        (lambda lines: [*lines[:1], b"nonsense\n", *lines[2:]], 1, "line 2 was altered: it is no line"),
        (lambda lines: lines[:2] + lines[3:], 2, "line 3 is missing or not in its place: line 4"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], 1, "line 2 is missing or not in its place: line 3"),
        (lambda lines: lines[1:], 0, "line 1 is missing"),
        (lambda lines: [*lines, lines[-1]], 5, "line 6 is missing or not in its place: line 5"),
        (lambda lines: lines[:3], 3, "lines 4 to 5 are cut off"),
        (lambda lines: [*lines[:4], lines[4][:50]], 4, "lines 5 to 5 are cut off"),
        (lambda lines: [], 0, "lines 1 to 5 are cut off"),
    ],
)
def test_the_first_line_that_is_wrong_is_told(
    path: Path, change: Callable[[list[bytes]], list[bytes]], in_order: int, said: str
) -> None:
    path.write_bytes(b"".join(change(written(path))))
    verdict = verify(path, HEX)
    assert verdict.lines == in_order and verdict.fault is not None and said in verdict.fault


def test_a_line_of_another_log_of_the_same_hospital_does_not_fit(path: Path) -> None:
    lines, other = written(path), path.with_name("other.jsonl")
    AuditLog.begin(other, KEY)
    strangers = written(other)
    path.write_bytes(b"".join([*lines[:2], strangers[2], *lines[3:]]))
    assert "line 3 follows another line" in str(verify(path, HEX).fault) or lines[1] == strangers[1]
    path.write_bytes(b"".join(replaced(lines, 4, at="1970-01-01T00:00:00+00:00")))
    assert verify(path, HEX).lines == 4


def test_a_log_without_its_head_or_with_a_forged_one_is_refused(path: Path) -> None:
    written(path)
    assert "is damaged or not signed" in str(verify(path, public_hex(Ed25519PrivateKey.generate())).fault)
    head = json.loads(head_path(path).read_text())
    head_path(path).write_text(json.dumps(head | {"lines": 3}))
    for said in ("not signed by this hospital", "is missing"):
        with pytest.raises(HospitalError, match=said) as error:
            AuditLog(path, KEY)
        assert "restore both files" in str(error.value) and "\n" not in str(error.value)
        assert verify(path, HEX).fault == str(error.value)
        head_path(path).unlink(missing_ok=True)


def test_every_bit_that_is_flipped_shows(path: Path) -> None:
    content, random = b"".join(written(path, 2)), Random(0)
    for bit in random.sample(range(8 * len(content)), 100):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert verify(path, HEX).fault is not None, bit


@pytest.mark.parametrize("lost", ["end", "last line", "log"])
def test_a_log_that_lost_something_is_not_written_on(path: Path, lost: str) -> None:
    lines = written(path)
    if lost == "log":
        path.unlink()
    else:
        path.write_bytes(b"".join(lines[:3] if lost == "end" else replaced(lines, 4, at="1970-01-01T00:00:00+00:00")))
    with pytest.raises(HospitalError, match="restore both files"):
        AuditLog(path, KEY)


def test_a_line_torn_by_a_crash_is_cut_off_and_said_so(path: Path) -> None:
    lines = written(path)
    path.write_bytes(b"".join(lines) + lines[0][:40])
    assert verify(path, HEX) == client.audit.Verdict(5, None), "it was never answered"
    log = open_log(path)
    log.close()
    assert verify(path, HEX) == client.audit.Verdict(6, None)
    last = json.loads(path.read_bytes().splitlines()[-1])
    assert (last["what"], last["torn_bytes"]) == ("mended", 40)


class KilledAt:
    """Lets ``moments`` steps pass, and kills the process at the next."""

    def __init__(self, moments: int) -> None:
        self.left = moments

    def __call__(self) -> None:
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)


def record_and_be_killed(path: Path, moments: int) -> None:
    """Runs in a process of its own: dies before, between, during or after what is written."""
    log, kill = AuditLog(path, KEY), KilledAt(moments)
    append, write = client.audit._append, client.audit._write_head

    def slow_append(target: Path, size: int, content: bytes) -> None:
        kill()
        append(target, size, content[:30])
        kill()
        append(target, size, content)
        kill()

    def slow_write(*arguments: Any) -> None:
        kill()
        write(*arguments)
        kill()

    patch = pytest.MonkeyPatch()
    patch.setattr(client.audit, "_append", slow_append)
    patch.setattr(client.audit, "_write_head", slow_write)
    log.record(what="answered")
    path.with_name("left").write_text("the answer left")
    kill()


@pytest.mark.slow
def test_after_kill_9_what_left_is_in_the_log_and_the_log_in_order(path: Path) -> None:
    ended, moments = None, 0
    while ended != 0:
        before = verify(path, HEX).lines
        ended = in_a_process(record_and_be_killed, path, moments)
        assert ended in (0, -signal.SIGKILL) and moments < 12
        left = path.with_name("left")
        assert verify(path, HEX).fault is None and (not left.exists() or verify(path, HEX).lines > before)
        open_log(path).close()
        assert verify(path, HEX).fault is None
        left.unlink(missing_ok=True)
        moments += 1


def test_one_process_writes(path: Path) -> None:
    open_log(path)
    with pytest.raises(HospitalError, match="in use by another site process"):
        AuditLog(path, KEY)


def no_room(*arguments: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("step", ["_append", "_write_head"])
def test_a_full_disk_lets_nothing_out_and_the_log_goes_on_when_there_is_room(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    clerk = clerk_of(path, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(client.audit, step, no_room)
        reply = asked(clerk, Phase.TRAIN)
        assert reply.error.reason == Code.FAILED and not reply.has_content()
        clerk.refused(Code.BUNDLE)
    assert asked(clerk, Phase.TRAIN).has_content() and verify(path, HEX) == client.audit.Verdict(1, None)


def clerk_of(path: Path, folder: Path) -> Clerk:
    Ledger.begin(folder / "ledger.sqlite")
    ledger = Ledger(folder / "ledger.sqlite", None, DELTA, plainly)
    _OPEN.append(ledger)
    patients = people_of("a", "b")
    ledger.recognise(patients)
    ledger.charge(ticket(), Charge(2.0, 0.1, 10), patients)
    return Clerk(open_log(path), ledger, STUDY)


def ticket(phase: Phase = Phase.TRAIN) -> Ticket:
    return Ticket(STUDY.study_id, "run", 1, 1, phase)


def asked(clerk: Clerk, phase: Phase) -> Message:
    site = SmallSites(STUDY).site(0)

    def answering(message: Message, context: Context) -> Message:
        return answer(message, context, lambda context: site)

    request = Request(ticket(phase), SmallLearner.schema, SmallLearner().start())
    return clerk.audited(answering)(message(request), CONTEXT)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_what_leaves_is_described_and_not_shown(path: Path, tmp_path: Path) -> None:
    clerk = clerk_of(path, tmp_path)
    update, evaluation = asked(clerk, Phase.TRAIN), asked(clerk, Phase.EVALUATE)
    trained, evaluated = lines_of(path)
    question = {"study": STUDY.study_id, "run": "run", "round": 1, "attempt": 1, "ask": 1}
    assert trained["asked"] == {"type": "train"} | question and evaluated["asked"]["type"] == "evaluate"
    assert trained["charges"] == [1] and "charges" not in evaluated
    left = trained["left"]
    assert left["epsilon"] == pytest.approx(0.05) and left["norm_bound"] == STUDY.federation.norm_bound
    assert left["masked"] is evaluated["left"]["masked"] is False
    assert left["bytes"] > payload_bytes(update.content) and left["sha256"] != evaluated["left"]["sha256"]
    assert evaluated["left"]["bytes"] > payload_bytes(evaluation.content)
    assert left["sha256"] == hashed_by_hand(update.content), "whoever has the message can compare"


def hashed_by_hand(content: RecordDict) -> str:
    """By hand, from how it is described."""
    header, flat = dict(content.config_records["header"]), content.array_records["arrays"]["flat"]
    arrays = json.dumps(["arrays", "flat", flat.dtype, list(flat.shape)]).encode() + flat.data
    return hashlib.sha256(arrays + json.dumps(["header", header], sort_keys=True).encode()).hexdigest()


def test_a_refusal_is_its_word_and_the_lab_s_words_are_cut_to_what_was_agreed(path: Path, tmp_path: Path) -> None:
    clerk = clerk_of(path, tmp_path)
    record = pack_request(Request(ticket(), SmallLearner.schema, SmallLearner().start()))
    record.config_records["header"]["run"] = "x" * 1000
    record.config_records["header"]["round"] = "one"
    told = message(Request(ticket(), SmallLearner.schema, SmallLearner().start()))
    strange = make_message(told.metadata, record)
    clerk.audited(lambda message, context: refusal(message, Code.MALFORMED))(strange, CONTEXT)
    clerk.refused(Code.BUNDLE)
    first, second = lines_of(path)
    assert first["asked"] == {"type": "train", "study": STUDY.study_id, "attempt": 1, "ask": 1}
    assert (first["what"], first["code"]) == ("refused", "malformed")
    assert (second["what"], second["code"]) == ("refused", "other-bundle") and "asked" not in second


def test_the_head_knows_the_newest_charge(path: Path, tmp_path: Path) -> None:
    asked(clerk_of(path, tmp_path), Phase.TRAIN)
    assert verify(path, HEX).fault is None and client.audit.read_head(path, HEX).charge == 1


def test_a_full_disk_is_the_site_s_failure(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = open_log(path)
    monkeypatch.setattr(client.audit, "_append", no_room)
    with pytest.raises(WireError, match="audit log cannot be written") as error:
        log.record(what="answered")
    assert error.value.code == Code.FAILED
