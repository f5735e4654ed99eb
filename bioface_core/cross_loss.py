"""What is a step's loss? The cross-loss of one network: what patients teach it, and what public people do.

The terms are in bioface_core/loss.py, the patients' half is its ``syndrome_loss``; here the two halves meet, as a study
says, and as its rounds go on.

Legend: B photos of a step, K syndromes, D embedding, I identities.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bioface_core import loss
from bioface_core.clipping import LossOf
from bioface_core.config import Study


class CrossLoss:
    """The two streams of a study: syndromes of patients, and identities of public people.

    Args:
        study: its ``loss``, and the margin of stage 1.
        prototypes_KD: of the syndromes, a parameter of the network.
        identities_ID: of the public people; they stay where stage 1 left them. None where nobody is identified.
    """

    def __init__(self, study: Study, prototypes_KD: Tensor, identities_ID: Tensor | None) -> None:
        self._settings, self._identity_margin = study.loss, study.pretrain.margin
        self._prototypes_KD, self._identities_ID = prototypes_KD, identities_ID

    @property
    def sums(self) -> bool:
        """Whether a step adds the people's loss to the patients'; else a step of their own follows."""
        return self._settings.mode == "cross-sum"

    def is_peoples_turn(self, step: int) -> bool:
        """Whether it is the people's turn at a step, counted from 1."""
        return self.sums or step % self._settings.identification_every == 0

    def of_patients(self, embeddings_BD: Tensor, labels_B: Tensor, present_K: Tensor, progress: float) -> Tensor:
        """Tells syndromes apart and tightens each.

        Args:
            embeddings_BD: unit embeddings.
            labels_B: int64 syndromes.
            present_K: bool, the syndromes this hospital has.
            progress: of the study, 0 to 1; the margin grows with it.

        Returns:
            A scalar.
        """
        margin = loss.margin_at(self._settings, progress)
        return loss.syndrome_loss(embeddings_BD, labels_B, self._prototypes_KD, present_K, self._settings, margin)

    def of_one_patient(self, progress: float) -> LossOf:
        """The same of a single patient. No syndrome counts as absent: which ones are is what a patient may betray."""
        settings, margin = self._settings, loss.margin_at(self._settings, progress)
        every_K = torch.ones(len(self._prototypes_KD), dtype=torch.bool, device=self._prototypes_KD.device)

        def loss_of(embedding_1D: Tensor, label_1: Tensor, heads: Mapping[str, Tensor]) -> Tensor:
            return loss.syndrome_loss(embedding_1D, label_1, heads["prototypes"], every_K, settings, margin)

        return loss_of

    def of_people(self, embeddings_BD: Tensor, labels_B: Tensor) -> Tensor:
        """Tells public people apart, and from every syndrome; weighted where it is added to the patients' loss.

        Args:
            embeddings_BD: unit embeddings.
            labels_B: int64, which of the I people.

        Returns:
            A scalar.
        """
        assert self._identities_ID is not None, "people without their prototypes"
        settings, cosines_BI = self._settings, loss.cosines(embeddings_BD, self._identities_ID)
        told_apart = loss.arcface(cosines_BI, labels_B, settings.scale, self._identity_margin)
        if settings.healthy == "repel":
            cosines_BK = loss.cosines(embeddings_BD, self._prototypes_KD)
            told_apart = told_apart + settings.healthy_weight * loss.repel(cosines_BK, settings.scale)
        return settings.identification_weight * told_apart if self.sums else told_apart
