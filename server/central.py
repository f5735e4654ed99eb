"""How is a whole hospital hidden in the shared model? The server adds noise to the sum of the clipped updates.

Whoever sees the models cannot tell whether a hospital took part, up to (epsilon, delta); the server itself sees every
update. It is for simulations with many hospitals: the noise does not shrink with them, so with a handful it drowns what
they say, and ``cost`` says by how much.

Legend: n values of the vector, S hospitals.

Source: McMahan et al. 2018, "Learning differentially private recurrent language models" (DP-FedAvg, all take part).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bioface_core.accounting import Charge, epsilon_of, noise_for
from bioface_core.config import Study
from bioface_core.secret import SecretRandom

_EVERYBODY = 1.0  # the sampling rate: every hospital is asked in every round
_CHUNK = 2**18


@dataclass(frozen=True)
class CentralPlan:
    """The noise of every round.

    Attributes:
        noise_multiplier: standard deviation of the noise over ``clip``.
        clip: longest update of a hospital.
        delta: of the guarantee.
    """

    noise_multiplier: float
    clip: float
    delta: float

    @staticmethod
    def of(study: Study) -> CentralPlan:
        """The plan of a study with ``privacy.unit: hospital``.

        Raises:
            ConfigError: no noise keeps the budget.
        """
        privacy, rounds = study.privacy, study.federation.rounds
        noise = noise_for(privacy.epsilon, privacy.delta, _EVERYBODY, rounds)
        return CentralPlan(noise, privacy.clip, privacy.delta)

    def epsilon_after(self, aggregations: int) -> float:
        """What so many noisy sums tell; a round that was begun again after its sum counts twice."""
        return epsilon_of([Charge(self.noise_multiplier, _EVERYBODY, aggregations)], self.delta)

    def noisy(self, mean: Tensor, hospitals: int, secret: SecretRandom) -> Tensor:
        """The mean update with the noise of one sum.

        Args:
            mean: float32 (n,), of updates that are no longer than ``clip``, each with the same weight.
            hospitals: how many were added up; those of no weight do not count.
            secret: where the noise comes from.
        """
        deviation = self.noise_multiplier * self.clip / hospitals
        parts = [part + secret.normal(len(part)).mul_(deviation) for part in mean.split(_CHUNK)]
        return torch.cat(parts).float()

    def cost(self, values: int, hospitals: int) -> str:
        """What the noise does to so few hospitals, in a sentence.

        Args:
            values: n.
            hospitals: S.
        """
        times = self.noise_multiplier * math.sqrt(values) / hospitals
        verdict = "it drowns what they have learned" if times > 1 else "what they have learned can be heard"
        return (
            f"privacy for whole hospitals: a round's noise is {times:,.2g} times as long as the longest mean update "
            f"of {hospitals} hospitals (noise multiplier {self.noise_multiplier:g}, {values:,} values): {verdict}"
        )
