"""Does a hospital's policy forbid all that it does not allow, and say what would allow it?"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from bioface_core import accounting
from bioface_core.config import Study
from bioface_core.errors import WireError
from bioface_core.evaluate import Counts
from bioface_core.messages import WEIGHT_BOUND, Code, Evaluation, Phase, Request, Ticket, Update
from client.gate import Gate, open_gate, patients_of_classes
from client.policy import Policy, violations
from tests.small_federation import CLASSES, SIZE, SmallLearner, photos_of, small_study

STUDY = small_study()
KEY = bytes(range(16))
ALLOWS = Policy(metrics=("loss", "counts"), epsilon=None, must_mask=False)
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
    allowing = ("add loss to policy.metrics", "add counts to policy.metrics", "epsilon: null", "must_mask: false")
    assert len(found) == len(allowing) and all(setting in one for setting, one in zip(allowing, found, strict=True))
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


SHIPPED = Policy(metrics=("counts",))


def private_study(**privacy: Any) -> Study:
    roster = [
        {"name": name, "identity_key": digit * 64} for name, digit in (("bonn", "a"), ("jena", "b"), ("ulm", "c"))
    ]
    changes = {"privacy": {"unit": "patient"} | privacy, "secure": {"enabled": True}, "roster": roster}
    return STUDY.replace(changes)


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quick accountant: the noise is the number of steps over epsilon."""
    monkeypatch.setattr(accounting, "noise_for", lambda epsilon, delta, rate, steps: steps / epsilon)


@pytest.mark.parametrize(
    ("rules", "study", "said"),
    [
        ({}, private_study(), None),
        ({}, private_study(unit="none"), "to allow it, set policy.epsilon: null"),
        ({}, private_study(epsilon=8.5), "8.5, and the policy allows 8 over all studies"),
        ({"epsilon": None}, private_study(epsilon=8.5), None),
        ({"epsilon": 0}, private_study(epsilon=0.1), "set policy.epsilon: 0.1"),
        ({}, private_study(delta=2e-4), "to allow it, set policy.delta: 0.0002"),
        ({"epsilon": None}, private_study(delta=2e-4), "policy.delta"),
        ({}, private_study().replace({"federation": {"weighting": "equal"}}), None),
        (
            {},
            private_study().replace({"federation": {"weighting": "equal", "weight_step": 1}}),
            "policy.weight_step: 1",
        ),
        ({}, private_study().replace({"secure": {"enabled": False}}), "to allow it, set policy.must_mask: false"),
        ({"largest_share": 0.3}, private_study(), "to allow it, set policy.largest_share: 0.334"),
        ({"largest_share": 0.334}, private_study(), None),
        ({"largest_share": 1 / 3}, private_study(), None),
    ],
)
def test_privacy_is_demanded_unless_the_policy_says_otherwise(
    rules: dict[str, Any], study: Study, said: str | None
) -> None:
    found = violations(SHIPPED.model_copy(update={"metrics": ("loss", "counts")} | rules), study)
    assert len(found) == (said is not None), found
    assert said is None or said in found[0]


def test_a_private_study_asks_for_no_loss() -> None:
    assert violations(SHIPPED, private_study()) == []
    assert "add counts" in violations(Policy(), private_study())[0]


@pytest.mark.parametrize(
    ("share", "hospitals"), [(1, 1), (0.5, 2), (0.34, 3), (1 / 3, 3), (0.3, 4), (0.1, 10), (0.05, 20)]
)
def test_a_share_is_a_number_of_hospitals(share: float, hospitals: int) -> None:
    assert Policy(largest_share=share).fewest_survivors == hospitals


def test_too_little_noise_is_refused_before_anything_is_computed(noise: None) -> None:
    study = private_study(epsilon=8, steps=1)  # three rounds: a noise of 3 / 8
    admitted = replace(REQUEST, ticket=replace(TICKET, study_id=study.study_id))
    gate(SHIPPED, study.study_id).admit(admitted, study, 12)
    stricter = SHIPPED.model_copy(update={"least_noise": 0.4})
    with pytest.raises(WireError, match="set policy.least_noise: 0.375") as error:
        gate(stricter, study.study_id).admit(admitted, study, 12)
    assert code_of(error) == Code.POLICY


def test_no_refusal_hangs_on_one_private_patient(noise: None) -> None:
    """Hospitals of 11 to 20 patients are all the same to the lab, whatever number the policy demands."""
    study = private_study()
    request = replace(REQUEST, ticket=replace(TICKET, study_id=study.study_id))

    def admits(fewest: int, patients: int) -> bool:
        try:
            gate(SHIPPED.model_copy(update={"fewest_patients": fewest}), study.study_id).admit(request, study, patients)
        except WireError as error:
            assert error.code == Code.POLICY
            return False
        return True

    for fewest in range(1, 25):
        assert len({admits(fewest, patients) for patients in range(11, 21)}) == 1
        assert not admits(fewest, fewest - 1), "fewer are refused as ever"
    assert admits(11, 11) and not admits(12, 20)


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({}, True),
        ({"loss": 0.01}, False),
        ({"class_weights_K": torch.tensor([40, 0, 40])}, False),
        ({"weight": 0, "class_weights_K": torch.zeros(3, dtype=torch.int64)}, True),
    ],
)
def test_no_more_of_a_private_patient_leaves_than_the_noisy_vector(changes: dict[str, Any], allowed: bool) -> None:
    update = replace(UPDATE, loss=0.0, class_weights_K=torch.tensor([40, 40, 40]))
    update = replace(update, **changes)
    with nullcontext() if allowed else pytest.raises(WireError):
        gate(SHIPPED).release(update, private_study())


def test_private_photos_are_not_chosen_by_who_else_is_there() -> None:
    train, heldout = photos_of([0, 0, 0, 1, 1, 2, 2, 2, 2]), photos_of([0, 1, 1, 1, 2, 2, 2])
    chosen, tried = gate().select(train, heldout, CLASSES, private=True)
    assert chosen is train and tried.labels_N.tolist() == [1, 1, 1, 2, 2, 2], "by held-out patients alone"


@pytest.mark.parametrize(
    "content", [{"metric": ["loss"]}, {"metrics": ["confusion"]}, {"count_step": 0}, {"epsilon": -1}, {"delta": 1}]
)
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
    assert patients_of_classes(photos, CLASSES).tolist() == [1, 2, 0]


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
