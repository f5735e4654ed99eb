"""Does a hospital learn, before it approves, all that it should know, and in numbers that are right?"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from rich.console import Console

from bioface_core import accounting
from bioface_core.accounting import Charge, plan_of
from bioface_core.config import Study
from bioface_core.errors import ConfigError
from bioface_core.evaluate import Counts, cells_of
from bioface_core.learner import Learner
from bioface_core.messages import Evaluation, Phase, Request, Ticket, Update
from bioface_core.photos import Demographics
from bioface_core.store import Store
from bioface_core.weights import Base
from bioface_core.wire import pack_reply, pack_request, payload_bytes
from client.explain import describe, sections
from client.forecast import Past
from client.policy import Policy
from client.review import Review, Traffic, held, review, vector_length
from client.spending import EpsilonOf, Spending
from tests.small_federation import CLASSES, SIZE, photos_of, small_study

KEY, BUNDLE = "a" * 64, "b" * 64
ALLOWS = Policy(metrics=("loss", "counts"), epsilon=None, must_mask=False)


def plain_epsilon(charges: Sequence[Charge], delta: float) -> float:
    """An accountant that is quick and easy to follow: each step costs what its noise leaves."""
    return sum(charge.steps / charge.noise_multiplier for charge in charges)


def plain_noise(epsilon: float, delta: float, rate: float, steps: int) -> float:
    if epsilon > 1e5:
        raise ConfigError("next to no noise keeps it")
    return steps / epsilon


@pytest.fixture(autouse=True)
def a_plain_accountant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the real one, which takes seconds."""
    if "slow" not in request.keywords:
        monkeypatch.setattr(accounting, "epsilon_of", plain_epsilon)
        monkeypatch.setattr(accounting, "noise_for", plain_noise)


def issued(**federation: Any) -> Study:
    """A study as a start kit holds it."""
    roster = [{"name": "charite", "identity_key": KEY}, {"name": "bonn", "identity_key": "c" * 64}]
    return small_study(**federation).replace({"roster": roster, "bundle_sha256": BUNDLE})


def a_store() -> Store:
    """Seven, two and seven patients of the three syndromes, some held out; the first has two photos."""
    photos = photos_of([0] * 10 + [1] * 3 + [2] * 9)
    photos.patients_N[1] = photos.patients_N[0]
    heldout_N = torch.tensor([False] * 8 + [True] * 2 + [False] * 2 + [True] + [False] * 7 + [True] * 2)
    return Store(("down", "noonan", "williams"), photos, heldout_N, Demographics.unknown(len(photos)))


def past(*charges: Charge, accountant: EpsilonOf = plain_epsilon) -> Past:
    """What 14 patients have lost, all of them the same."""
    histories = dict.fromkeys(range(14), frozenset({(1, 1)}))
    return Past(Spending({1: charges}, histories, accountant, 1e-4), dict.fromkeys(range(14), 1))


def reviewed(policy: Policy = ALLOWS, study: Study | None = None, **changes: Any) -> Review:
    settings = {
        "hospital": "charite",
        "identity_key": KEY,
        "lab": "lab.example.org:8443",
        "values": SIZE,
        "past": past(),
    }
    return review(study or issued(), policy, a_store(), **{**settings, **changes})


def text(found: Review) -> str:
    console = Console(width=100, file=io.StringIO())
    console.print(describe(found))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_patients_are_counted_by_syndrome_and_part() -> None:
    rows = held(a_store(), ALLOWS, private=False)
    assert [(row.train_patients, row.train_photos) for row in rows] == [(7, 8), (2, 2), (7, 7)]
    assert [(row.heldout_patients, row.heldout_photos) for row in rows] == [(2, 2), (1, 1), (2, 2)]
    assert [row.takes_part for row in rows] == [True, False, True]


def test_the_traffic_is_what_the_messages_weigh() -> None:
    train, evaluate = (Ticket("0" * 64, "run", 1, 1, phase) for phase in Phase)
    vector = torch.zeros(SIZE)
    update = Update(train, "charite", "", vector, 10, torch.zeros(CLASSES, dtype=torch.int64), 0.0)
    down = [payload_bytes(pack_request(Request(ticket, "", vector))) for ticket in (train, evaluate)]
    up = [
        payload_bytes(pack_reply(reply)) for reply in (update, Evaluation(evaluate, "charite", Counts.zeros(CLASSES)))
    ]
    traffic = Traffic.of(Study().replace({"syndromes": list("abc"), "federation": {"rounds": 3}}), SIZE)
    assert (traffic.down_per_round, traffic.up_per_round) == (sum(down), sum(up))
    assert traffic.down_in_all == 3 * sum(down) + down[1], "round 0 is evaluated and not trained"
    assert traffic.up_in_all == 3 * sum(up) + up[1]


@pytest.mark.parametrize("trainable", ["all", "head"])
def test_the_vector_s_length_is_the_learner_s(trainable: str) -> None:
    tiny = {"depth": 10, "width": 0.125, "embedding": 8, "stem": "strided", "pool": "global", "norm": "group"}
    model = {**tiny, "base": "scratch", "trainable": trainable}
    study = issued().replace({"model": model, "loss": {"identification": False}})
    assert vector_length(study) == Learner(study, Base({})).size


def test_a_study_within_the_policy_meets_no_obstacle() -> None:
    found = reviewed(installed_sha256=BUNDLE)
    assert found.obstacles == () and found.same_code is True
    assert found.weight == 20, "14 patients, as they leave"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"policy": Policy()}, "add counts to policy.metrics"),
        ({"hospital": "lyon"}, "does not name lyon"),
        ({"identity_key": "d" * 64}, "with another identity key"),
        ({"policy": ALLOWS.model_copy(update={"fewest_patients": 20})}, "have 14 training patients here"),
        ({"study": issued(weight_step=5)}, "policy.weight_step: 5"),
    ],
)
def test_every_obstacle_is_named_with_what_to_do(changes: dict[str, Any], said: str) -> None:
    found = reviewed(**changes)
    assert any(said in obstacle for obstacle in found.obstacles)
    assert "every question of this study is refused" in " ".join(text(found).split())


def test_the_text_answers_a_data_protection_officer() -> None:
    said = " ".join(text(reviewed()).split())
    for part in (
        "The lab at lab.example.org:8443, and 2 hospitals: charite, bonn.",
        "14 training patients with 15 photos, and 4 held-out patients, of 2 of the study's 3 syndromes.",
        f"The update: {SIZE:,} numbers",
        "The weight 20: the number of training patients, rounded up to a multiple of 10",
        "rounded at random to multiples of 5",
        "Williams",
        "no, too few",
        "The lab's code never runs here",
        "no differential privacy for patients in this study",
        "this study does not mask them",
        "and, for each syndrome, whether training patients of it take part here",
        "To take part: bioface hospital approve KIT.",
    ):
        assert part in said, part


def private(**privacy: Any) -> Study:
    settings = {"unit": "patient", "epsilon": 3.0, "delta": 1e-5, "batch": 4, "steps": 5} | privacy
    roster = [*issued().model_dump()["roster"], {"name": "lyon", "identity_key": "e" * 64}]
    return issued().replace({"privacy": settings, "secure": {"enabled": True}, "roster": roster})


DEMANDS = Policy(metrics=("counts",))


def test_a_private_study_is_within_the_policy_as_it_is_shipped_but_for_the_counts() -> None:
    found = reviewed(DEMANDS, private())
    assert found.obstacles == () and all(row.takes_part for row in found.held)
    said = " ".join(text(found).split())
    assert found.forecast is not None and [after.rounds for after in found.forecast.after] == [1, 2, 3]
    for part in (
        "takes 5 steps, each on one photo of about 4 training patients drawn at random",
        "16 training patients",
        "All but the name is masked",
        "After 3 rounds, epsilon is 3.00 by this study alone",
        "the policy allows 8",
        "as long as the longest possible sum of 4 patients' gradients",
        "The counts of held-out patients are rounded and have none",
    ):
        assert part in said, part
    assert "mean loss" not in said and "whether training patients of it" not in said and "does not mask" not in said


def test_the_forecast_is_of_the_study_and_of_what_was_spent_before() -> None:
    found, before = reviewed(DEMANDS, private()).forecast, Charge(2.0, 0.5, 100)
    burdened = reviewed(DEMANDS, private(), past=past(before)).forecast
    assert found is not None and burdened is not None
    plan = plan_of(private(), 20)
    assert found.noise_multiplier == plan.noise_multiplier and found.patients_per_step == 4
    signal = 4 * plan.clip
    assert found.noise_to_signal == pytest.approx(plan.noise_multiplier * plan.clip * SIZE**0.5 / signal)
    assert [after.study for after in found.after] == [plan.epsilon_after(rounds) for rounds in (1, 2, 3)]
    assert found.after[-1].study <= 3 and found.spent == 0
    assert burdened.spent == plain_epsilon([before], 1e-4)
    for one, other in zip(burdened.after, found.after, strict=True):
        assert one.in_all == pytest.approx(other.in_all + burdened.spent) and one.study == other.study


@pytest.mark.slow
def test_the_real_accountant_s_forecast_keeps_the_budget() -> None:
    found = reviewed(DEMANDS, private(), past=past(accountant=accounting.epsilon_of)).forecast
    assert found is not None and 2.9 < found.after[-1].study <= 3
    assert 0 < found.after[-1].in_all < found.after[-1].study, "the policy's delta is larger"
    assert [one.study for one in found.after] == sorted(one.study for one in found.after)


def test_a_study_that_the_ledger_would_end_is_an_obstacle() -> None:
    found = reviewed(DEMANDS, private(), past=past(Charge(100.0, 0.5, 800)))
    assert len(found.obstacles) == 1 and "the ledger would end it early" in found.obstacles[0]
    assert json.loads(json.dumps(found.to_json()))["forecast"]["spent"] == 8.0


@pytest.mark.parametrize(
    ("study", "policy", "said"),
    [
        (private(epsilon=9.0), DEMANDS, "set policy.epsilon: 9"),
        (private(delta=1e-3), DEMANDS, "set policy.delta: 0.001"),
        (private(), DEMANDS.model_copy(update={"least_noise": 90.0}), "set policy.least_noise: "),
        (private(epsilon=1e6, steps=1), DEMANDS.model_copy(update={"epsilon": None}), "budget cannot be kept"),
    ],
)
def test_each_limit_of_privacy_is_an_obstacle_with_what_would_lift_it(study: Study, policy: Policy, said: str) -> None:
    assert any(said in obstacle for obstacle in reviewed(policy, study).obstacles)


def test_nothing_is_claimed_that_the_policy_does_not_keep() -> None:
    exact = " ".join(text(reviewed(ALLOWS.model_copy(update={"count_step": 1, "loss_step": 0}))).split())
    assert "exactly (policy.count_step is 1)" in exact and "as it is (policy.loss_step is 0)" in exact
    assert "an exact number of patients" not in exact
    assert "every hospital counts the same" in text(reviewed(study=issued(weighting="equal")))


@pytest.mark.parametrize(("installed", "said"), [(BUNDLE, "is the code"), ("e" * 64, "is NOT"), (None, "not known")])
def test_the_lab_s_code_is_compared_with_ours(installed: str | None, said: str) -> None:
    assert said in " ".join(dict(sections(reviewed(installed_sha256=installed)))["Which code"])


def test_names_of_the_lab_s_choosing_are_shown_as_they_are() -> None:
    assert "[bold]lab" in text(reviewed(lab="[bold]lab"))


def test_json_says_the_same() -> None:
    content = json.loads(json.dumps(reviewed().to_json()))
    assert content["members"] == ["charite", "bonn"] and content["same_code"] is None
    assert content["held"][0] == {
        "syndrome": "down",
        "train_patients": 7,
        "train_photos": 8,
        "heldout_patients": 2,
        "heldout_photos": 2,
        "takes_part": True,
    }
    assert content["traffic_bytes"]["up_per_round"] == 4 * SIZE + 8 * cells_of(CLASSES)
