"""Is a masked sum the sum, whoever drops out, and does nobody see what is in it? Whole runs, in one process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.app.metadata import validate_message_type

import server.masked
from bioface_core.checkpoint import RunFolder
from bioface_core.config import Study
from bioface_core.errors import RoundError
from bioface_core.messages import Code, Phase, Request, Ticket
from bioface_core.secure import Words
from bioface_core.steps import MESSAGE_TYPES, Step, message_type
from bioface_core.summand import Summand, Vector
from server.central import CentralPlan
from server.journal import Aggregated, Failed, LeftOut, Survived
from server.rounds import RunState
from tests.masked_federation import MaskedRun, MaskedSites, hospital_of, masked_study
from tests.small_federation import SmallLearner, names, run_small, small_study

STUDY = masked_study()
FIVE = masked_study(5)


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk guards against power cuts, which no test makes."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def sums(monkeypatch: pytest.MonkeyPatch) -> list[Words]:
    """Every sum that a server opens, as it comes out of the masks."""
    opened: list[Words] = []

    def unmask(*arguments: Any) -> Words:
        opened.append(server.secure.unmask(*arguments))
        return opened[-1]

    monkeypatch.setattr("server.masked.unmask", unmask)
    return opened


def resolution(study: Study, weight: int) -> float:
    """How far apart a masked mean and a plain one of so much weight can be: a step for each hospital."""
    summand = Summand.of(study, SmallLearner())
    return summand.members * summand.largest_weight / summand._steps.scale / weight


def plain_integers(run: MaskedRun, phase: Phase, round_: int, vector: torch.Tensor, hospitals: list[int]) -> Words:
    """What these hospitals, from 0, put into a sum, added up in the open."""
    ticket = Ticket(run.study.study_id, "run", round_, 1, phase)
    request, sites = Request(ticket, SmallLearner.schema, vector), MaskedSites(run.study, run.path / "oracle")
    parts = [site._integers(site._masking, request) for site in map(sites.site, hospitals) if site._masking]
    total: Words = np.stack(parts).sum(axis=0, dtype=np.uint32)
    return total


def test_a_masked_run_ends_like_a_plain_one(tmp_path: Path) -> None:
    masked, plain = MaskedRun(tmp_path / "masked").go(), run_small(tmp_path / "plain", small_study(rounds=2))
    assert torch.allclose(masked.server.vector, plain.server.vector, atol=2 * resolution(STUDY, 90), rtol=0)
    for one, other in zip(masked.history, plain.history, strict=True):
        assert one.counts.to_json() == other.counts.to_json()
        assert (one.answered, one.refused) == (other.answered, other.refused)
        assert one.loss == pytest.approx(other.loss, abs=1e-3)


def test_the_sum_is_that_of_the_plain_integers(tmp_path: Path, sums: list[Words]) -> None:
    run = MaskedRun(tmp_path / "run")
    run.go()
    vectors = [RunFolder(run.path).read_tensors(round_)["vector"] for round_ in (0, 1, 2)]
    for total, phase, round_, model in zip(
        sums,
        [Phase.EVALUATE, Phase.TRAIN, Phase.EVALUATE, Phase.TRAIN, Phase.EVALUATE],
        [0, 1, 1, 2, 2],
        [0, 0, 1, 1, 2],
        strict=True,
    ):
        assert np.array_equal(total, plain_integers(run, phase, round_, vectors[model], [0, 1, 2]))


def test_the_same_run_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    first, again = MaskedRun(tmp_path / "first").go(), MaskedRun(tmp_path / "again").go()
    assert torch.equal(first.server.vector, again.server.vector)


@pytest.mark.parametrize("unit", ["none", "hospital"])
def test_hospitals_of_equal_weight(tmp_path: Path, unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CentralPlan, "noisy", lambda plan, mean, hospitals, secret: mean)  # what is noised is compared
    study = STUDY.replace({"federation": {"weighting": "equal"}, "privacy": {"unit": unit}})
    masked = MaskedRun(tmp_path / "masked", study).go()
    plain = run_small(tmp_path / "plain", study.replace({"secure": {"enabled": False}, "roster": []}))
    assert torch.allclose(masked.server.vector, plain.server.vector, atol=2 * resolution(study, 3) + 1e-6, rtol=0)


def test_a_weight_is_cut_off_at_the_largest(tmp_path: Path) -> None:
    run = MaskedRun(tmp_path / "run", STUDY.replace({"secure": {"largest_weight": 25}}))
    run.go()
    assert [event.weight for event in run.of(Aggregated)] == [20 + 25 + 25] * 2


def test_private_patients_keep_their_loss() -> None:
    summand = Summand.of(STUDY.replace({"privacy": {"unit": "patient"}}), SmallLearner())
    assert summand.vector(Phase.TRAIN) == Vector(SmallLearner.size + 1 + 3, "uint32")
    assert summand.updates(np.zeros(36, np.uint32), 3).loss is None


def lost(step: Step, phase: Phase, hospitals: set[int]) -> Callable[[Message], Message | None]:
    """Keeps back a question to some hospitals, from 1, in every round."""

    def down(message: Message) -> Message | None:
        gone = message.metadata.message_type == message_type(phase, step) and hospital_of(message) in hospitals
        return None if gone else message

    return down


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("step", list(Step))
def test_whoever_drops_out_before_a_step_is_missing_from_then_on(
    tmp_path: Path, sums: list[Words], step: Step, phase: Phase
) -> None:
    run = MaskedRun(tmp_path / "run", FIVE.replace({"federation": {"rounds": 1}}), lost(step, phase, {2, 5}))
    state = run.go()
    stays = list(range(5)) if step in (Step.CONFIRM, Step.UNMASK) else [0, 2, 3]
    trained = stays if phase is Phase.TRAIN else list(range(5))
    start = SmallLearner().start()
    assert np.array_equal(sums[1], plain_integers(run, Phase.TRAIN, 1, start, trained))
    assert np.array_equal(sums[2], plain_integers(run, Phase.EVALUATE, 1, state.server.vector, stays))
    assert state.history[1].answered == tuple(names(FIVE)[index] for index in trained)
    expected = {"hospital-2": Code.LATE, "hospital-5": Code.LATE}
    assert state.history[1].refused == expected
    waited = run.clock.time
    assert waited <= FIVE.federation.deadline_s * 2 + 1, "one deadline for all the steps of a phase"


@pytest.mark.parametrize("step", list(Step))
def test_fewer_than_the_threshold_fail_the_round(tmp_path: Path, step: Step) -> None:
    run = MaskedRun(tmp_path / "run", FIVE, lost(step, Phase.TRAIN, {1, 2, 5}))
    with pytest.raises(RoundError, match=rf"2 of 5 hospitals answered {message_type(Phase.TRAIN, step)}, expected at"):
        run.go()
    assert RunFolder(run.path).last_round() == 0, "a failed round is never a finished one"
    assert [event.phase for event in run.of(Failed)] == ["train"] and not run.of(Aggregated)


def test_fewer_than_the_quorum_fail_the_round(tmp_path: Path) -> None:
    study = masked_study(5, quorum=0.8)
    with pytest.raises(RoundError, match="3 of 5 hospitals answered train, expected at least 4"):
        MaskedRun(tmp_path / "run", study, lost(Step.MASK, Phase.TRAIN, {1, 2})).go()
    state = MaskedRun(tmp_path / "other", study, lost(Step.UNMASK, Phase.TRAIN, {1, 2})).go()
    assert len(state.history[1].answered) == 5, "their vectors are in the sum"


def changed_words(message: Message, by: int) -> Message:
    """A vector, masked or shared, with another last value."""
    arrays = message.content.array_records["arrays"]
    words = np.frombuffer(arrays["flat"].data, "<u4").copy()
    words[-4:] += np.uint32(by)
    flat = arrays["flat"]
    array = type(flat)(flat.dtype, flat.shape, flat.stype, words.tobytes())
    message.content = RecordDict({"header": message.content["header"], "arrays": ArrayRecord({"flat": array})})
    return message


@pytest.mark.parametrize("phase", list(Phase))
def test_a_sum_of_noise_fails_the_round(tmp_path: Path, phase: Phase) -> None:
    def up(reply: Message) -> Message:
        mine = reply.metadata.message_type == phase.value and hospital_of(reply) == 2
        return changed_words(reply, 2**30) if mine else reply

    with pytest.raises(RoundError, match="no answers add up to the masked sum"):
        MaskedRun(tmp_path / "run", up=up).go()


@pytest.mark.parametrize("phase", list(Phase))
def test_a_hospital_that_is_asked_about_another_model_spoils_the_sum(
    tmp_path: Path, sums: list[Words], phase: Phase
) -> None:
    """Else a lab could ask all but one about a model whose answers it knows, and subtract them."""

    def down(message: Message) -> Message:
        if (message.metadata.message_type, hospital_of(message)) != (phase.value, 1):
            return message
        return changed_words(message, 1)

    with pytest.raises(RoundError, match="no answers add up to the masked sum"):
        MaskedRun(tmp_path / "run", down=down).go()
    assert bool((sums[-1] > 2**24).any()), "it stays masked"


def test_the_server_never_sees_what_a_hospital_has_to_say(tmp_path: Path) -> None:
    """Neither a plain update, nor its integers, nor the counts, in any byte that comes."""
    seen: list[bytes] = []

    def up(reply: Message) -> Message:
        records = reply.content
        seen.extend(array.data for arrays in records.array_records.values() for array in arrays.values())
        seen.append(repr({name: dict(record) for name, record in records.config_records.items()}).encode())
        return reply

    run = MaskedRun(tmp_path / "run", up=up)
    run.go()
    everything = b"\n".join(seen)
    for round_ in (1, 2):
        vector = RunFolder(run.path).read_tensors(round_ - 1)["vector"]
        for index in range(3):
            words = plain_integers(run, Phase.TRAIN, round_, vector, [index])
            parts = [words[start : start + 2].tobytes() for start in range(len(words) - 1)]
            assert not [part for part in parts if any(part) and part in everything]
            counts = plain_integers(run, Phase.EVALUATE, 0, vector, [index])
            assert counts.tobytes() not in everything
    assert b"'loss'" not in everything and b"weight" not in everything


def test_every_step_has_a_type_that_flower_takes() -> None:
    assert len(MESSAGE_TYPES) == 10 and all(validate_message_type(kind) for kind in MESSAGE_TYPES)


def test_a_hospital_that_was_started_anew_is_a_drop_out_and_back_in_the_next_round(tmp_path: Path) -> None:
    """Its process dies between its mask and what comes after; what it had said is in the sum all the same."""
    run = MaskedRun(tmp_path / "run", remembers=True)

    def up(reply: Message) -> Message:
        if (reply.metadata.message_type, reply.metadata.group_id, hospital_of(reply)) == ("train", "1", 3):
            run.sites.kill(2)
        return reply

    run.up = up
    state = run.go()
    assert [(event.hospital, event.phase, event.code) for event in run.of(LeftOut)] == [
        ("hospital-3", "train.confirm", Code.SECURE)
    ]
    assert state.history[1].answered == state.history[2].answered == names(STUDY)
    assert torch.equal(state.server.vector, MaskedRun(tmp_path / "whole").go().server.vector)


@pytest.mark.parametrize("step", [Step.SHARES, Step.MASK])
def test_a_hospital_that_forgot_its_keys_does_no_work(tmp_path: Path, step: Step) -> None:
    run = MaskedRun(tmp_path / "run", remembers=True)

    def down(message: Message) -> Message:
        if message.metadata.message_type == message_type(Phase.TRAIN, step) and hospital_of(message) == 3:
            run.sites.kill(2)
        return message

    run.down = down
    assert all(summary.refused == {"hospital-3": Code.SECURE} for summary in run.go().history[1:])


class Died(BaseException):
    """In place of kill -9 where nothing but what is on the disk is looked at afterwards."""


def die_at(kind: type[Any], nth: int) -> Callable[[Any], None]:
    seen: list[Any] = []

    def on_event(event: Any) -> None:
        seen.extend([event] if isinstance(event, kind) else [])
        if len(seen) == nth and seen[-1] is event:
            raise Died

    return on_event


def killed(path: Path, kind: type[Any], nth: int, down: Callable[[Message], Message | None]) -> MaskedRun:
    """A run whose server died at an event."""
    run = MaskedRun(path, remembers=True, down=down, on_event=die_at(kind, nth))
    with pytest.raises(Died):
        run.go()
    return run


def resumed(
    path: Path, down: Callable[[Message], Message | None] = lambda message: message
) -> tuple[MaskedRun, RunState]:
    run = MaskedRun(path, remembers=True, down=down)
    return run, run.go()


def without_3(message: Message) -> Message | None:
    return lost(Step.MASK, Phase.TRAIN, {3})(message)


@pytest.mark.parametrize("kind", [Survived, Aggregated])
def test_a_sum_that_may_have_been_opened_is_made_again_of_the_same_hospitals(tmp_path: Path, kind: type[Any]) -> None:
    nth = 2 if kind is Survived else 1  # the first is of round 0
    killed(tmp_path / "run", kind, nth, without_3)
    run, state = resumed(tmp_path / "run")
    whole = MaskedRun(tmp_path / "whole", down=lambda it: without_3(it) if it.metadata.group_id == "1" else it)
    assert state.history[1].answered == ("hospital-1", "hospital-2")
    assert state.history[1].refused == {"hospital-3": Code.ABSENT}
    assert torch.equal(state.server.vector, whole.go().server.vector)
    assert [event.hospitals for event in run.of(Survived)][0] == ("hospital-1", "hospital-2")


def test_a_hospital_of_a_sum_that_was_opened_is_waited_for(tmp_path: Path) -> None:
    killed(tmp_path / "run", Aggregated, 1, without_3)
    away = lost(Step.KEYS, Phase.TRAIN, {2})
    with pytest.raises(RoundError, match=r"sum of hospital-1, hospital-2 may have been .*; hospital-2 did not answer"):
        resumed(tmp_path / "run", away)
    _, state = resumed(tmp_path / "run")
    assert state.round == 2


def test_hospitals_refuse_to_open_another_sum_of_a_round(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The journal of a lab that lies has forgotten the first."""
    killed(tmp_path / "run", Aggregated, 1, without_3)
    journal = tmp_path / "run" / "journal.jsonl"
    kept = [line for line in journal.read_text().splitlines() if '"survived"' not in line]
    journal.write_text("\n".join(kept) + "\n")
    run = MaskedRun(tmp_path / "run", remembers=True)
    with pytest.raises(RoundError, match="1 of 3 hospitals answered train.confirm, expected at least 2"):
        run.go()
    assert {(event.hospital, event.code) for event in run.of(LeftOut)} == {
        ("hospital-1", Code.SECURE),
        ("hospital-2", Code.SECURE),
    }
