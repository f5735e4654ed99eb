"""How does a hospital train without giving a patient away? By DP-SGD whose unit is the patient.

In each step every patient is drawn or not on their own (Poisson sampling), with one of their photos at random. Each
one's gradient is cut to the clipping norm, the gradients are added up, and Gaussian noise is added to the sum. So no
patient can change the sum by more than the clipping norm, whatever their photos show, and what all steps tell about one
of them is what the accountant says (bioface_core/accounting.py). Draws and noise come from the operating system: with
numbers that can be guessed there is no privacy.

Everything that follows (the optimiser, the rounds, the server) works on the noisy sums alone and costs nothing more;
identification on public people looks at no patient and costs nothing at all.

Legend: N photos, P patients, D embedding, n values that train.

Source: Abadi et al. 2016, algorithm 1 (DP-SGD).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bioface_core.accounting import Plan
from bioface_core.clipping import LossOf, clipped_sum
from bioface_core.errors import ConfigError
from bioface_core.secret import SecretRandom


@dataclass(frozen=True)
class Patients:
    """Which photos are whose.

    Attributes:
        order_N: positions of the photos, patient after patient.
        first_P: where each patient's photos begin in ``order_N``.
        count_P: how many they have.
    """

    order_N: Tensor
    first_P: Tensor
    count_P: Tensor

    @staticmethod
    def of(patients_N: Tensor) -> Patients:
        """The patients of a set of photos, on the CPU.

        Args:
            patients_N: int64 index of each photo's patient.
        """
        patients_N = patients_N.cpu()
        _, count_P = patients_N.unique(return_counts=True)
        return Patients(patients_N.argsort(stable=True), count_P.cumsum(0) - count_P, count_P)

    def draw(self, rate: float, secret: SecretRandom) -> Tensor:
        """A step's photos: each patient with probability ``rate``, one photo of each; there may be none.

        Returns:
            int64 positions, on the CPU.
        """
        drawn_P = torch.from_numpy(secret.uniform(len(self.count_P))) < rate
        return self.order_N[self.first_P[drawn_P] + secret.below(self.count_P[drawn_P])]


def check_private(network: nn.Module) -> None:
    """Refuses a network that mixes the patients of a batch, by Opacus' rules.

    Raises:
        ConfigError: which layer, and why.
    """
    from opacus.validators import ModuleValidator

    errors = ModuleValidator.validate(network, strict=False)
    if errors:
        raise ConfigError(f"privacy.unit is patient, and the network cannot be trained so: {errors[0]}")


def noisy_gradients(
    network: nn.Module,
    heads: Mapping[str, nn.Parameter],
    inputs_N: Tensor,
    labels_N: Tensor,
    loss_of: LossOf,
    plan: Plan,
    secret: SecretRandom,
) -> dict[str, Tensor]:
    """The private estimate of the mean gradient.

    Args:
        network: photos to embeddings.
        heads: what the loss trains besides, by name.
        inputs_N: one photo of each drawn patient; none is a batch, too.
        labels_N: int64.
        loss_of: of one patient.
        plan: clipping norm, noise multiplier and expected number of patients.
        secret: where the noise comes from.

    Returns:
        By name, float32: (sum of clipped gradients + noise) / expected patients.
    """
    sums = clipped_sum(network, heads, inputs_N, labels_N, loss_of, plan.clip).sums
    return {name: _noisy(total, plan, secret) for name, total in sums.items()}


def _noisy(total: Tensor, plan: Plan, secret: SecretRandom) -> Tensor:
    """Noise is added in float64, so that nothing is lost before it is there."""
    noise = secret.normal(total.numel()).view(total.shape).mul_(plan.noise_multiplier * plan.clip)
    return noise.add_(total.cpu()).div_(plan.expected).float().to(total.device)
