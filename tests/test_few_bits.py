"""Is a federation of few bits exact in what it keeps: over rounds, over crashes, over engines, under masks?"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bioface_core.accounting import Plan
from bioface_core.checkpoint import RunFolder
from bioface_core.config import Study
from bioface_core.errors import ConfigError, WireError
from bioface_core.evaluate import cells_of
from bioface_core.learner import LocalResult
from bioface_core.messages import Code, Phase, Request, Ticket, Update
from bioface_core.photos import PhotoSet
from bioface_core.precision import Bits, as_float16, vector_bytes
from bioface_core.secret import SecretRandom
from bioface_core.seeding import generator
from bioface_core.summand import Summand, cut, joined
from bioface_core.wire import norm, pack_reply, payload_bytes, unpack_reply
from client.app import make_client_app
from client.memory import Memory
from client.residuals import Residuals
from client.site import Site
from tests.masked_federation import MaskedRun, MaskedSites, masked_study
from tests.small_federation import (
    SIZE,
    SmallLearner,
    SmallSites,
    dying_at,
    in_a_process,
    names,
    photos_of,
    run_small,
    small_study,
)

BITS = pytest.mark.parametrize("bits", [16, 8])
ROUNDS = 40


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk guards against power cuts, which no test makes; messages want to know who makes them."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1


def few(bits: int, model_bits: int = 32, **federation: Any) -> Study:
    return small_study(update_bits=bits, model_bits=model_bits, **federation)


def request(study: Study, round_: int, run: str = "run") -> Request:
    ticket = Ticket(study.study_id, run, round_, 1, Phase.TRAIN)
    return Request(ticket, SmallLearner.schema, torch.zeros(SIZE))


class SameEveryRound(SmallLearner):
    """Trains to changes that are known beforehand: small ones beside one that is large, which costs them precision."""

    def train(
        self, vector: Tensor, photos: PhotoSet, round_: int, stream: str, plan: Plan | None = None
    ) -> LocalResult:
        change = 1e-4 * torch.randn(SIZE, generator=generator("few bits", round_)) + 1e-4
        change[0] = 1.0
        return LocalResult(change, 1.0)


def site_at(folder: Path, study: Study, learner: SmallLearner | None = None, memory: Memory | None = None) -> Site:
    photos = photos_of([0, 1, 2]), photos_of([0])
    residuals = Residuals(folder)
    return Site("hospital-1", study, learner or SameEveryRound(), *photos, memory=memory, residuals=residuals)


def update_of(site: Site, asked: Request) -> Update:
    reply = site.answer(asked)
    assert isinstance(reply, Update)
    return reply


@BITS
def test_what_was_sent_in_all_is_what_was_trained_in_all(tmp_path: Path, bits: int) -> None:
    """The twin: a plain sum of all changes. Without feedback, 40 rounds of int8 are off by many times one round's."""
    study, site = few(bits, rounds=ROUNDS), site_at(tmp_path, few(bits, rounds=ROUNDS))
    sent, trained = torch.zeros(SIZE, dtype=torch.float64), torch.zeros(SIZE, dtype=torch.float64)
    for round_ in range(1, ROUNDS + 1):
        asked = request(study, round_)
        sent += update_of(site, asked).delta
        trained += SameEveryRound().train(asked.vector, photos_of([]), round_, "").delta
        left = Residuals(tmp_path).before(request(study, round_ + 1).ticket)
        assert left is not None and torch.allclose(sent + left.double(), trained, rtol=0, atol=1e-6)
        step = 1.0 / 127 if bits == 8 else 2.0**-11
        assert float(left.abs().max()) <= step * 1.01, "it does not grow from round to round"


@BITS
def test_an_update_leaves_in_few_bits_and_is_read_as_it_was_sent(tmp_path: Path, bits: Bits) -> None:
    site, asked = site_at(tmp_path, few(bits)), request(few(bits), 1)
    update = update_of(site, asked)
    record = pack_reply(update)
    assert payload_bytes(record) == vector_bytes(SIZE, bits) < vector_bytes(SIZE, 32)
    read = unpack_reply(record, site.contract, asked.ticket)
    assert isinstance(read, Update) and torch.equal(read.delta, update.delta)
    exact = SameEveryRound().train(asked.vector, photos_of([]), 1, "").delta
    assert not torch.equal(read.delta, exact) and torch.allclose(read.delta, exact, rtol=0, atol=1 / 127)


def test_a_round_that_is_asked_again_is_rounded_the_same_and_nobody_can_tell_how(tmp_path: Path) -> None:
    study, site = few(8), site_at(tmp_path, few(8))
    first = [update_of(site, request(study, round_)).delta for round_ in (1, 2, 3)]
    again = [update_of(site, request(study, round_)).delta for round_ in (3,)]
    assert torch.equal(first[2], again[0]), "from the same residual as before"
    other = Site("hospital-2", study, SameEveryRound(), photos_of([0]), photos_of([0]), residuals=Residuals(tmp_path))
    gate, asked = site._gate, request(study, 1)
    assert gate.chance(asked, "hospital-1").bytes(16) == gate.chance(asked, "hospital-1").bytes(16)
    streams = [gate.chance(asked, "hospital-1"), gate.chance(request(study, 2), "hospital-1")]
    streams += [
        gate.chance(asked, other.name),
        type(gate)(gate.policy, gate.approved, bytes(15) + b"1").chance(asked, "hospital-1"),
    ]
    assert len({stream.bytes(16) for stream in streams}) == 4


@BITS
def test_an_update_is_never_longer_than_the_bound(tmp_path: Path, bits: int) -> None:
    class Long(SmallLearner):
        def train(self, vector: Tensor, *others: Any) -> LocalResult:
            return LocalResult(torch.randn(SIZE, generator=generator("long", others[1])) * 100, 1.0)

    study = few(bits, norm_bound=1.0, rounds=20)
    site = site_at(tmp_path, study, Long())
    for round_ in range(1, 21):
        update = update_of(site, request(study, round_))
        assert 0.98 < norm(update.delta) <= 1.0
        unpack_reply(pack_reply(update), site.contract, request(study, round_).ticket)


@BITS
def test_what_a_hospital_remembers_is_what_it_sent(tmp_path: Path, bits: int) -> None:
    """After kill -9 the stored answer is sent again, byte for byte, and its residual is not added a second time."""
    study = few(bits)
    memory = Memory(tmp_path / "memory.sqlite")
    site = site_at(tmp_path / "residuals", study, memory=memory)
    update_of(site, request(study, 1))
    sent = pack_reply(update_of(site, request(study, 2)))
    memory.close()
    again = Memory(tmp_path / "memory.sqlite")
    asked = request(study, 2)
    asked = Request(Ticket(study.study_id, "run", 2, 2, Phase.TRAIN), asked.schema, asked.vector)
    reply = pack_reply(update_of(site_at(tmp_path / "residuals", study, memory=again), asked))
    again.close()
    assert reply.array_records["arrays"]["flat"].data == sent.array_records["arrays"]["flat"].data


def test_a_site_of_few_bits_needs_a_place_for_what_is_left() -> None:
    with pytest.raises(ValueError, match="give the site its residuals"):
        SmallSites(few(8)).site(0)


# Residuals on the disk.


def kept(residuals: Residuals, study: Study, *rounds: int, run: str = "run") -> None:
    for round_ in rounds:
        residuals.keep(request(study, round_, run).ticket, torch.full((3,), float(round_)))


def value(residuals: Residuals, study: Study, round_: int, run: str = "run") -> float | None:
    found = residuals.before(request(study, round_, run).ticket)
    return None if found is None else float(found[0])


def test_a_residual_is_of_the_last_round_before(tmp_path: Path) -> None:
    residuals, study = Residuals(tmp_path / "made"), few(8)
    assert value(residuals, study, 5) is None
    kept(residuals, study, 1, 2, 5)
    assert [value(residuals, study, round_) for round_ in (6, 5, 3, 2)] == [5, 2, 2, None]
    assert len(list((tmp_path / "made").iterdir())) == 2, "the one before the last, and the last"
    kept(residuals, study, 5)
    assert value(residuals, study, 5) == 2, "a round that is asked again takes nobody else's away"


def test_another_run_begins_without(tmp_path: Path) -> None:
    residuals, study = Residuals(tmp_path), few(8)
    kept(residuals, study, 1, 2)
    assert value(residuals, study, 3, run="other") is None and value(residuals, few(16), 3) is None
    kept(residuals, study, 1, run="other")
    assert value(residuals, study, 3) is None, "runs that are over leave nothing"


def test_a_damaged_residual_is_not_taken_for_none(tmp_path: Path) -> None:
    residuals, study = Residuals(tmp_path), few(8)
    kept(residuals, study, 1)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(WireError, match="is damaged .*remove it to go on without it") as error:
        residuals.before(request(study, 2).ticket)
    assert error.value.code == Code.FAILED
    path.unlink()
    assert value(residuals, study, 2) is None, "the advice works"


# Whole runs.


@pytest.mark.parametrize(("bits", "model_bits"), [(16, 16), (8, 16), (8, 32), (32, 16)])
def test_a_run_ends_near_one_of_all_bits(tmp_path: Path, bits: Bits, model_bits: Bits) -> None:
    study = few(bits, model_bits)
    small, whole = run_small(tmp_path / "few", study), run_small(tmp_path / "all", small_study())
    assert not torch.equal(small.server.vector, whole.server.vector)
    assert torch.allclose(small.server.vector, whole.server.vector, rtol=0, atol=0.02)
    counts = 8 * cells_of(SmallLearner.classes)
    down, up = 2 * vector_bytes(SIZE, model_bits), vector_bytes(SIZE, bits) + counts
    last = small.history[-1]
    assert last.hospital_bytes == dict.fromkeys(names(study), (down, up))
    assert (last.bytes_down, last.bytes_up) == (3 * down, 3 * up)


def test_the_model_of_a_round_is_the_one_the_hospitals_get(tmp_path: Path) -> None:
    state = run_small(tmp_path / "run", few(8, 16))
    model, vector = RunFolder(tmp_path / "run").read_model(3), state.server.vector
    shared = as_float16(vector).vector
    assert torch.equal(model["network"], SmallLearner().weights(shared)["network"])
    assert not torch.equal(shared, vector), "the server's own has all its bits"


def kill_at(path: Path, study: Study, event_number: int) -> None:
    """Runs until an event of this number, then dies as of kill -9."""
    run_small(path, study, dying_at(event_number))


@pytest.mark.parametrize("event_number", [9, 12, 20, 22, 24, 31])
@pytest.mark.parametrize(("bits", "model_bits"), [(16, 16), (8, 32)])
def test_a_killed_run_ends_like_one_that_was_not(tmp_path: Path, bits: int, model_bits: int, event_number: int) -> None:
    study = few(bits, model_bits, strategy="fedyogi")
    assert in_a_process(kill_at, tmp_path / "run", study, event_number) == -signal.SIGKILL
    run_small(tmp_path / "run", study)
    run_small(tmp_path / "whole", study)
    files = sorted((tmp_path / "run").rglob("*.safetensors"))
    assert len(files) == 4 + 3 * 2, "the rounds, and two residuals of each hospital"
    for file in files:
        if file.name.startswith("round"):
            assert file.read_bytes() == (tmp_path / "whole" / file.name).read_bytes(), file.name


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "model_bits"), [(16, 16), (8, 16)])
def test_flower_ends_with_the_same_bits(tmp_path: Path, bits: int, model_bits: int) -> None:
    """Ray's actors have no memory in common: what is left behind is on the disk."""
    from tests.test_engines import run_on_flower

    study = few(bits, model_bits, deadline_s=120.0)
    inline = run_small(tmp_path / "inline", study)
    app = make_client_app(SmallSites(study, tmp_path / "flower"))
    ray = run_on_flower(tmp_path / "flower", study, app, SmallLearner())
    assert torch.equal(inline.server.vector, ray.server.vector)


# Under masks.


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=2), min_size=1, max_size=32))
def test_sums_of_digits_are_digits_of_the_sum(rows: list[list[int]]) -> None:
    total = np.zeros(6, np.uint16)
    for row in rows:
        total += cut(np.array(row, np.uint32))
    assert joined(total).tolist() == [sum(column) % 2**32 for column in zip(*rows, strict=True)]


def test_no_digit_overflows() -> None:
    assert 32 * int(cut(np.array([2**32 - 1], np.uint32)).max()) < 2**16


MASKED = masked_study(rounds=3, update_bits=16, model_bits=16)


def masked_request(round_: int) -> Request:
    return Request(Ticket(MASKED.study_id, "run", round_, 1, Phase.TRAIN), SmallLearner.schema, torch.zeros(SIZE))


def test_a_masked_run_of_16_bits_ends_near_a_plain_one(tmp_path: Path) -> None:
    """Two rounds are off by a step for each hospital and round at most, of which feedback takes the first away."""
    study = MASKED.replace({"secure": {"largest_value": 2.0}})
    masked = MaskedRun(tmp_path / "masked", study).go()
    plain = run_small(tmp_path / "plain", few(16, 16))
    summand = Summand.of(study, SmallLearner())
    step = summand.members * summand.largest_weight / summand._steps.scale / 60
    assert torch.allclose(masked.server.vector, plain.server.vector, rtol=0, atol=3 * step)
    words = {one: summand.vector(one) for one in Phase}
    assert (words[Phase.TRAIN].dtype, words[Phase.EVALUATE].dtype) == ("uint16", "uint32")
    up = 2 * words[Phase.TRAIN].length + 4 * words[Phase.EVALUATE].length
    assert masked.history[-1].hospital_bytes["hospital-1"] == (2 * vector_bytes(SIZE, 16), up)
    assert masked.history[-1].loss == pytest.approx(plain.history[-1].loss, abs=1e-3)


def test_the_sum_of_16_bits_is_exact(tmp_path: Path) -> None:
    """What the hospitals' integers say one by one adds up to what the sum says, but for float32."""
    sites, summand = MaskedSites(MASKED, tmp_path), Summand.of(MASKED, SmallLearner())
    asked, total = masked_request(1), np.zeros(summand.vector(Phase.TRAIN).length, np.uint16)
    alone, weights = torch.zeros(SIZE, dtype=torch.float64), 0
    for index in range(3):
        site = sites.site(index)
        assert site._masking is not None
        integers = site._integers(site._masking, asked)
        one = summand.updates(integers, 1)
        total += integers.astype(np.uint16, casting="no")
        alone, weights = alone + one.values, weights + one.weight
    found = summand.updates(total, 3)
    assert found.weight == weights and torch.allclose(found.values.double(), alone, rtol=1e-6)


def test_what_masks_leave_behind_adds_up(tmp_path: Path) -> None:
    """Values beyond the largest are cut off, and come with the next rounds; rows that do not count are forgotten."""
    study = masked_study(rounds=ROUNDS, update_bits=16).replace(
        {"secure": {"largest_value": 0.5, "largest_weight": 20}}
    )
    summand, residuals = Summand.of(study, SmallLearner()), Residuals(tmp_path)
    sent, trained = torch.zeros(SIZE, dtype=torch.float64), torch.zeros(SIZE, dtype=torch.float64)
    class_weights_K = torch.tensor([20, 20, 0])
    for round_ in range(1, 11):
        ticket = Ticket(study.study_id, "run", round_, 1, Phase.TRAIN)
        change = SameEveryRound().train(torch.zeros(SIZE), photos_of([]), round_, "").delta
        change[0] = 1.3 if round_ == 1 else 0.1
        left = residuals.before(ticket)
        update = Update(ticket, "hospital-1", "", change if left is None else change + left, 20, class_weights_K, 0.0)
        integers = summand.encode(update, SecretRandom())
        residuals.keep(ticket, summand.left_behind(update, integers))
        sent += summand.mean(summand.updates(integers, 1))
        trained += change
    last = residuals.before(Ticket(study.study_id, "run", 11, 1, Phase.TRAIN))
    assert last is not None
    counted = slice(0, SIZE - SmallLearner.embedding)
    assert torch.allclose((sent + last.double())[counted], trained[counted], rtol=0, atol=1e-6)
    assert float(last.abs().max()) <= 1.01 / summand._steps.scale, "the large value has arrived by now"
    assert torch.equal(last[-SmallLearner.embedding :], torch.zeros(SmallLearner.embedding))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"federation": {"update_bits": 8}, "secure": {"enabled": True}}, "update_bits is 8.*set .*update_bits: 16"),
        (
            {
                "federation": {"update_bits": 16, "weighting": "equal"},
                "secure": {"enabled": True},
                "privacy": {"unit": "hospital"},
            },
            "makes updates longer than privacy.clip.*set federation.update_bits: 32",
        ),
        ({"federation": {"update_bits": 12}}, "federation.update_bits"),
    ],
)
def test_what_cannot_hold_is_refused_in_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        Study().replace(changes)
    assert "\n" not in str(error.value)


def test_the_bits_are_part_of_what_was_approved() -> None:
    studies = [few(bits, model) for bits in (32, 16, 8) for model in (32, 16)]
    assert len({study.study_id for study in studies}) == len(studies)
