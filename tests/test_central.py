"""Does the server's noise hide a hospital, and does it say what that costs?"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import torch
from scipy import stats

from bioface_core.accounting import Charge, epsilon_of
from bioface_core.config import Study
from bioface_core.errors import ConfigError
from bioface_core.secret import SecretRandom
from server.central import CentralPlan
from server.journal import Journal
from tests.small_federation import run_small, small_study

KEY = bytes(range(32))


def study(**privacy: float) -> Study:
    return Study(syndromes=("down", "noonan")).replace(
        {
            "privacy": {"unit": "hospital", **privacy},
            "federation": {"rounds": 4, "weighting": "equal"},
        }
    )


def test_the_noise_keeps_the_budget_of_all_rounds() -> None:
    plan = CentralPlan.of(study(epsilon=4.0))
    assert 3.9 < plan.epsilon_after(4) <= 4.0
    assert plan.epsilon_after(5) > 4.0, "a round whose sum was noised twice costs twice"
    assert plan.epsilon_after(4) == epsilon_of([Charge(plan.noise_multiplier, 1.0, 4)], plan.delta)


def test_the_mean_gets_the_noise_of_the_sum() -> None:
    plan, mean = CentralPlan(2.0, 3.0, 1e-5), torch.full((20_000,), 0.25)
    noise = plan.noisy(mean, 10, SecretRandom(KEY)) - mean
    assert stats.kstest(noise.numpy() / (2.0 * 3.0 / 10), "norm").pvalue > 1e-6
    assert stats.kstest(noise.numpy() / (2.0 * 3.0), "norm").pvalue < 1e-6
    assert noise.dtype == torch.float32


def test_every_round_of_a_run_gets_fresh_noise(tmp_path: Path) -> None:
    private = small_study(weighting="equal").replace({"privacy": {"unit": "hospital", "clip": 1.0, "epsilon": 8.0}})
    plain = small_study(weighting="equal", norm_bound=1.0)
    first, second = (run_small(tmp_path / name, private).server.vector for name in ("first", "second"))
    without = run_small(tmp_path / "without", plain).server.vector
    assert not torch.equal(first, second), "the noise is secret: no two runs are the same"
    rounds, hospitals = private.federation.rounds, private.simulation.hospitals
    deviation = rounds**0.5 * CentralPlan.of(private).noise_multiplier / hospitals
    assert 0.5 < float((first - without).std()) / deviation < 1.6
    with closing(Journal(tmp_path / "first" / "journal.jsonl")) as journal:
        assert journal.aggregations() == rounds


def test_a_hospital_without_patients_does_not_thin_the_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean is over the others, so that each of them moves it by more than one of all would."""
    added_up: list[int] = []

    def noisy(plan: CentralPlan, mean: torch.Tensor, hospitals: int, secret: SecretRandom) -> torch.Tensor:
        added_up.append(hospitals)
        return mean

    monkeypatch.setattr(CentralPlan, "noisy", noisy)
    monkeypatch.setattr("tests.small_federation.TRAINED", ([0, 1, 2], [], [0, 1]))
    private = small_study(weighting="equal", rounds=1).replace({"privacy": {"unit": "hospital"}})
    run_small(tmp_path / "run", private)
    assert added_up == [2]


def test_few_hospitals_are_told_that_they_drown() -> None:
    plan = CentralPlan.of(study(epsilon=8.0))
    assert "drowns" in plan.cost(11_000_000, 5)
    assert "can be heard" in plan.cost(100, 1000)


def test_hospitals_must_count_the_same() -> None:
    with pytest.raises(ConfigError, match="set federation.weighting: equal"):
        study().replace({"federation": {"weighting": "patients"}})


def test_an_update_is_no_longer_than_the_clipping_norm() -> None:
    assert study(clip=0.5).update_bound == 0.5
    assert Study().update_bound == Study().federation.norm_bound
