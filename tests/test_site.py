"""Does a hospital answer only what its own study says, and keep to itself what is its own?"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from torch import Tensor

from bioface_core.accounting import Plan
from bioface_core.errors import WireError
from bioface_core.learner import LocalResult
from bioface_core.messages import WEIGHT_BOUND, Code, Evaluation, Phase, Request, Ticket, Update
from bioface_core.photos import PhotoSet
from bioface_core.sections import Federation
from bioface_core.wire import norm, pack_reply, pack_request, unpack_reply
from client.app import answer, make_client_app
from client.gate import Gate
from client.memory import Memory
from client.policy import Policy
from client.site import Site, clip, patient_weight
from tests.small_federation import HELD_OUT, SIZE, SmallLearner, SmallSites, photos_of, small_study

STUDY = small_study()
CONTEXT = Context(run_id=1, node_id=9, node_config={"partition-id": 2}, state=RecordDict(), run_config={})


@pytest.fixture(autouse=True)
def a_task() -> None:
    """Flower's messages want to know who makes them."""
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1


def ticket(phase: Phase = Phase.TRAIN, round_: int = 1) -> Ticket:
    return Ticket(STUDY.study_id, "run", round_, 1, phase)


def request(phase: Phase = Phase.TRAIN, round_: int = 1) -> Request:
    return Request(ticket(phase, round_), SmallLearner.schema, SmallLearner().start())


def message(asked: Request, kind: str | None = None) -> Message:
    return Message(pack_request(asked), 9, kind or asked.ticket.phase.value)


class LearnerThatGives(SmallLearner):
    """Trains to a given change, or stumbles over a given error."""

    def __init__(self, outcome: Tensor | Exception) -> None:
        self._outcome = outcome

    def train(
        self, vector: Tensor, photos: PhotoSet, round_: int, stream: str, plan: Plan | None = None
    ) -> LocalResult:
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return LocalResult(self._outcome, 1.0)


def site_with(learner: SmallLearner) -> Site:
    return Site("hospital-1", STUDY, learner, photos_of([0, 2]), photos_of([0]))


def test_training_is_answered_by_an_update() -> None:
    reply = SmallSites(STUDY).site(2).answer(request())
    assert isinstance(reply, Update)
    expected = SmallLearner().train(request().vector, photos_of([]), 1, "hospital-3")
    assert torch.equal(reply.delta, expected.delta) and reply.loss == expected.loss
    assert reply.weight == 40, "32 patients, rounded up to a multiple of 10"
    assert reply.class_weights_K.tolist() == [40, 40, 0], "it has nobody of the third class"


def test_evaluation_is_answered_by_counts() -> None:
    reply = SmallSites(STUDY).site(1).answer(request(Phase.EVALUATE))
    assert isinstance(reply, Evaluation)
    assert reply.counts.patients_K.tolist() == [HELD_OUT[1].count(label) for label in range(3)]


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (replace(request(), ticket=replace(ticket(), study_id="0" * 64)), Code.STUDY),
        (replace(request(), schema="0" * 64), Code.SCHEMA),
        (request(round_=STUDY.federation.rounds + 1), Code.ROUND),
        (request(round_=0), Code.ROUND),
    ],
)
def test_another_study_layout_or_round_is_refused(asked: Request, code: Code) -> None:
    with pytest.raises(WireError) as error:
        SmallSites(STUDY).site(0).answer(asked)
    assert error.value.code == code
    reply = answer(message(asked), CONTEXT, SmallSites(STUDY))
    assert reply.has_error() and reply.error.reason == code


@pytest.mark.parametrize(("patients", "weight"), [(0, 0), (1, 10), (10, 10), (11, 20), (2**30, WEIGHT_BOUND)])
def test_no_exact_number_of_patients_leaves(patients: int, weight: int) -> None:
    assert patient_weight(patients, Federation(weight_step=10)) == weight
    assert patient_weight(patients, Federation(weighting="equal")) == min(1, patients)


def test_an_update_over_the_bound_is_shortened() -> None:
    delta = torch.randn(1000, generator=torch.Generator().manual_seed(1)) * 50
    shortened = clip(delta, 100.0)
    assert 99.99 < norm(shortened) <= 100.0
    assert torch.allclose(shortened / norm(shortened), delta / norm(delta), atol=1e-6)
    assert clip(shortened, 100.0) is shortened, "what is short enough is left alone"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_training_that_diverged_sends_one_word(value: float) -> None:
    site = site_with(LearnerThatGives(torch.full((SIZE,), value)))
    reply = answer(message(request()), CONTEXT, lambda context: site)
    assert reply.has_error() and reply.error.reason == Code.NOT_FINITE


def test_an_error_s_text_stays_in_the_hospital(caplog: pytest.LogCaptureFixture) -> None:
    site = site_with(LearnerThatGives(RuntimeError("/photos/williams/anna.png cannot be read")))
    with caplog.at_level(logging.ERROR):
        reply = answer(message(request()), CONTEXT, lambda context: site)
    assert reply.error.reason == "failed"
    assert "anna.png" not in repr(reply)
    assert "anna.png" in caplog.text, "the hospital's own log says what happened"


def test_a_site_that_cannot_be_opened_sends_one_word() -> None:
    def no_store(context: Context) -> Site:
        raise OSError("/photos is not mounted")

    assert answer(message(request()), CONTEXT, no_store).error.reason == "failed"


def test_a_phase_under_another_s_name_is_refused() -> None:
    reply = answer(message(request(Phase.TRAIN), kind="evaluate"), CONTEXT, SmallSites(STUDY))
    assert reply.error.reason == Code.MALFORMED


def test_garbage_is_refused() -> None:
    reply = answer(Message(RecordDict(), 9, "train"), CONTEXT, SmallSites(STUDY))
    assert reply.error.reason == Code.MALFORMED


@pytest.mark.parametrize("phase", list(Phase))
def test_the_client_app_answers_both_phases(phase: Phase) -> None:
    reply = make_client_app(SmallSites(STUDY))(message(request(phase)), CONTEXT)
    read = unpack_reply(reply.content, SmallSites(STUDY).site(2).contract, ticket(phase))
    assert read.hospital == "hospital-3"


ALLOWS = Policy(metrics=("loss", "counts"), epsilon=None, must_mask=False)
TRAINED, TRIED = photos_of([0] * 7 + [1] * 2 + [2] * 7), photos_of([0] * 7 + [1] * 6 + [2] * 4)


def guarded(policy: Policy, approved: str | None = STUDY.study_id, memory: Memory | None = None) -> Site:
    gate = Gate(policy, approved, bytes(range(16)))
    return Site("hospital-1", STUDY, SmallLearner(), TRAINED, TRIED, gate, memory)


def test_a_hospital_s_rules_shape_what_leaves() -> None:
    site = guarded(ALLOWS)
    update, evaluation = site.answer(request()), site.answer(request(Phase.EVALUATE))
    assert isinstance(update, Update) and isinstance(evaluation, Evaluation)
    assert update.weight == 20 and update.class_weights_K.tolist() == [20, 0, 20], "14 patients of two classes"
    assert evaluation.counts.patients_K[1] == 0, "the class of two patients takes no part"
    assert bool((evaluation.counts.confusion_KK % 5 == 0).all())
    for reply in (update, evaluation):
        assert unpack_reply(pack_reply(reply), site.contract, reply.ticket), "the lab accepts it"


@pytest.mark.parametrize(
    ("site", "code"),
    [
        (guarded(ALLOWS, approved=None), Code.NOT_APPROVED),
        (guarded(ALLOWS, approved="0" * 64), Code.NOT_APPROVED),
        (guarded(Policy()), Code.POLICY),
        (guarded(ALLOWS.model_copy(update={"fewest_patients": 15})), Code.POLICY),
    ],
)
@pytest.mark.parametrize("phase", list(Phase))
def test_a_refusal_is_one_word_and_its_reason_is_for_the_admin(
    site: Site, code: Code, phase: Phase, caplog: pytest.LogCaptureFixture
) -> None:
    reply = answer(message(request(phase)), CONTEXT, lambda context: site)
    assert reply.error.reason == code and "policy." not in repr(reply)
    assert code != Code.POLICY or "policy." in vars(caplog.records[-1])["facts"]["why"], "which rule it was"


def test_an_old_answer_is_held_against_today_s_policy(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "memory.sqlite")
    asked_again = replace(request(), ticket=replace(ticket(), ask=2))
    first = guarded(ALLOWS, memory=memory).answer(request())
    coarser = guarded(ALLOWS.model_copy(update={"loss_step": 0.5}), memory=memory).answer(asked_again)
    assert isinstance(first, Update) and isinstance(coarser, Update)
    assert coarser.loss % 0.5 == 0 and torch.equal(first.delta, coarser.delta)
    memory.close()


def test_what_was_refused_was_not_computed_and_not_remembered(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "memory.sqlite")
    with pytest.raises(WireError):
        guarded(Policy(), memory=memory).answer(request())
    assert guarded(ALLOWS, memory=memory).answer(request()).ticket == ticket(), "the same ticket, once it is allowed"
    memory.close()


def test_a_hospital_with_a_policy_must_keep_books_of_a_private_study() -> None:
    private = STUDY.replace({"privacy": {"unit": "patient", "epsilon": 8}, "loss": {"metric": "pull"}})
    gate = Gate(ALLOWS.model_copy(update={"epsilon": 8.0}), private.study_id, bytes(range(16)))
    with pytest.raises(ValueError, match="keeps books"):
        Site("hospital-1", private, SmallLearner(), TRAINED, TRIED, gate)
    assert Site("hospital-1", private, SmallLearner(), TRAINED, TRIED, gate, charge=lambda ticket, cost: None)
