"""Does a hospital's policy forbid all that it does not allow, and say what would allow it?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from bioface_core.errors import WireError
from bioface_core.evaluate import Counts
from bioface_core.messages import WEIGHT_BOUND, Code, Evaluation, Phase, Request, Ticket, Update
from client.gate import Gate, open_gate, training_patients
from client.policy import Policy, violations
from tests.small_federation import CLASSES, SIZE, SmallLearner, photos_of, small_study

STUDY = small_study()
KEY = bytes(range(16))
ALLOWS = Policy(metrics=("loss", "counts"))
TICKET = Ticket(STUDY.study_id, "run", 1, 1, Phase.TRAIN)
REQUEST = Request(TICKET, SmallLearner.schema, torch.zeros(SIZE))
UPDATE = Update(TICKET, "hospital-1", SmallLearner.schema, torch.zeros(SIZE), 40, torch.tensor([40, 0, 40]), 1.23456)
COUNTS = Counts(torch.tensor([[7, 2, 0], [0, 0, 0], [1, 0, 4]]), torch.tensor([[7, 2, 0], [0, 0, 0], [4, 1, 0]]))
EVALUATION = Evaluation(TICKET, "hospital-1", COUNTS)


def gate(policy: Policy = ALLOWS, approved: str | None = STUDY.study_id) -> Gate:
    return Gate(policy, approved, KEY)


def code_of(error: pytest.ExceptionInfo[WireError]) -> str:
    return error.value.code


def test_a_policy_that_says_nothing_allows_no_study() -> None:
    found = violations(Policy(), STUDY)
    assert len(found) == 2 and "add loss to policy.metrics" in found[0] and "add counts to policy.metrics" in found[1]
    assert violations(ALLOWS, STUDY) == []


@pytest.mark.parametrize(
    ("rules", "federation", "said"),
    [
        ({"rounds": 2}, {}, "asks for 3 rounds, and the policy allows 2"),
        ({"weight_step": 20}, {}, "to 10, and the policy demands 20 or coarser"),
        ({"metrics": ("loss",)}, {}, "allows loss: to allow it, add counts"),
        ({"rounds": 3}, {}, None),
        ({"weight_step": 20}, {"weight_step": 25}, None),
        ({"weight_step": 20}, {"weighting": "equal"}, None),
    ],
)
def test_each_rule_says_what_is_asked_and_what_is_allowed(
    rules: dict[str, Any], federation: dict[str, Any], said: str | None
) -> None:
    policy = ALLOWS.model_copy(update=rules)
    found = violations(policy, small_study(**federation))
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


@pytest.mark.parametrize("content", [{"metric": ["loss"]}, {"metrics": ["confusion"]}, {"count_step": 0}])
def test_a_policy_with_a_typing_error_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Policy.model_validate(content)


@pytest.mark.parametrize(
    ("closed", "request_", "code"),
    [
        (gate(approved=None), REQUEST, Code.NOT_APPROVED),
        (gate(approved="0" * 64), REQUEST, Code.NOT_APPROVED),
        (gate(), replace(REQUEST, ticket=replace(TICKET, study_id="0" * 64)), Code.STUDY),
        (gate(Policy()), REQUEST, Code.POLICY),
        (gate(ALLOWS.model_copy(update={"fewest_patients": 13})), REQUEST, Code.POLICY),
    ],
)
def test_the_gate_lets_in_what_is_approved_and_allowed_alone(closed: Gate, request_: Request, code: Code) -> None:
    with pytest.raises(WireError) as error:
        closed.admit(request_, STUDY, 12)
    assert code_of(error) == code
    gate().admit(REQUEST, STUDY, 12)


def test_an_approval_ends_with_the_study_changed_by_a_character() -> None:
    changed = STUDY.replace({"train": {"rate": 0.0021}})
    with pytest.raises(WireError) as error:
        gate().admit(REQUEST, changed, 12)
    assert code_of(error) == Code.NOT_APPROVED


def test_what_leaves_is_rounded() -> None:
    released = gate().release(EVALUATION, STUDY)
    assert isinstance(released, Evaluation)
    assert bool((released.counts.confusion_KK % 5 == 0).all()) and Counts.from_json(released.counts.to_json())
    update = gate().release(UPDATE, STUDY)
    assert isinstance(update, Update) and update.loss == pytest.approx(1.23, abs=1e-9)
    assert update.delta is UPDATE.delta and update.weight == 40


@pytest.mark.parametrize("reply", [UPDATE, EVALUATION])
def test_releasing_twice_is_releasing_once(reply: Update | Evaluation) -> None:
    once = gate().release(reply, STUDY)
    twice = gate().release(once, STUDY)
    if isinstance(once, Evaluation) and isinstance(twice, Evaluation):
        assert once.counts.to_json() == twice.counts.to_json()
    else:
        assert isinstance(once, Update) and isinstance(twice, Update) and once.loss == twice.loss


@pytest.mark.parametrize(
    ("policy", "reply"),
    [
        (Policy(metrics=("counts",)), UPDATE),
        (Policy(metrics=("loss",)), EVALUATION),
        (ALLOWS, replace(UPDATE, weight=37)),
        (ALLOWS, replace(UPDATE, class_weights_K=torch.tensor([40, 3, 0]))),
        (ALLOWS.model_copy(update={"weight_step": 20}), UPDATE),
    ],
)
def test_egress_stops_what_the_policy_does_not_let_out(policy: Policy, reply: Update | Evaluation) -> None:
    with pytest.raises(WireError) as error:
        gate(policy).release(reply, STUDY)
    assert code_of(error) == Code.POLICY


def test_equal_weights_and_the_largest_weight_pass() -> None:
    equal = replace(UPDATE, weight=1, class_weights_K=torch.tensor([1, 0, 1]))
    gate().release(equal, small_study(weighting="equal"))
    gate().release(replace(UPDATE, weight=WEIGHT_BOUND, class_weights_K=torch.tensor([0, 0, WEIGHT_BOUND])), STUDY)
    with pytest.raises(WireError):
        gate().release(UPDATE, small_study(weighting="equal"))


def test_a_class_of_few_patients_takes_no_part() -> None:
    train, heldout = photos_of([0, 0, 0, 1, 1, 2, 2, 2, 2]), photos_of([0, 1, 1, 1, 2])
    chosen, tried = gate().select(train, heldout, CLASSES)
    assert chosen.labels_N.tolist() == [0, 0, 0, 2, 2, 2, 2]
    assert tried.labels_N.tolist() == [0, 2], "its held-out patients would give it away as well"


def test_patients_count_and_photos_do_not() -> None:
    photos = replace(photos_of([0, 0, 0, 1, 1]), patients_N=torch.tensor([7, 7, 7, 1, 2]))
    assert training_patients(photos, CLASSES).tolist() == [1, 2, 0]


def test_an_open_gate_changes_nothing() -> None:
    opened = open_gate(STUDY)
    opened.admit(REQUEST, STUDY, 0)
    assert opened.release(UPDATE, STUDY) is UPDATE
    released = opened.release(EVALUATION, STUDY)
    assert isinstance(released, Evaluation) and released.counts.to_json() == COUNTS.to_json()
    train, heldout = photos_of([0]), photos_of([2])
    assert opened.select(train, heldout, CLASSES) == (train, heldout)


def test_the_key_is_in_no_log() -> None:
    assert KEY.hex() not in repr(gate()) and repr(KEY) not in repr(gate())
