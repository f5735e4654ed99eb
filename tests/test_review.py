"""Does a hospital learn, before it approves, all that it should know, and in numbers that are right?"""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import torch
from rich.console import Console

from bioface_core.config import Study
from bioface_core.evaluate import Counts
from bioface_core.learner import Learner
from bioface_core.messages import Evaluation, Phase, Request, Ticket, Update
from bioface_core.photos import Demographics
from bioface_core.store import Store
from bioface_core.weights import Base
from bioface_core.wire import pack_reply, pack_request, payload_bytes
from client.explain import describe, sections
from client.policy import Policy
from client.review import Review, Traffic, held, review, vector_length
from tests.small_federation import CLASSES, SIZE, photos_of, small_study

KEY, BUNDLE = "a" * 64, "b" * 64
ALLOWS = Policy(metrics=("loss", "counts"))


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


def reviewed(policy: Policy = ALLOWS, study: Study | None = None, **changes: Any) -> Review:
    settings = {"hospital": "charite", "identity_key": KEY, "lab": "lab.example.org:8443", "values": SIZE}
    return review(study or issued(), policy, a_store(), **{**settings, **changes})


def text(found: Review) -> str:
    console = Console(width=100, file=io.StringIO())
    console.print(describe(found))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_patients_are_counted_by_syndrome_and_part() -> None:
    rows = held(a_store(), ALLOWS)
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
    traffic = Traffic.of(SIZE, CLASSES, rounds=3)
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
        "no differential privacy in this version",
        "To take part: bioface hospital approve KIT.",
    ):
        assert part in said, part


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
    assert content["traffic_bytes"]["up_per_round"] == 4 * SIZE + 16 * CLASSES**2
