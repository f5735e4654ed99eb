"""What comes into a hospital's work, and what goes out? Only what its policy allows, for the one study it approved.

Default deny. A request is held against the approval and the policy before anything is computed; a reply is checked
again, and rounded, on its way out. The reason of a refusal is for the hospital's own log: what leaves is one word.

Legend: N photos, K syndromes.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from bioface_core.config import Study
from bioface_core.messages import WEIGHT_BOUND, Code, Evaluation, Reply, Request, Update, demand
from bioface_core.photos import PhotoSet
from bioface_core.rounding import round_counts
from bioface_core.secret import SecretRandom
from bioface_core.steps import Asked
from client.policy import Policy, is_private, too_few_patients, too_little_noise, violations

_EVERYTHING = Policy(
    fewest_patients=0,
    fewest_patients_per_class=0,
    count_step=1,
    weight_step=1,
    metrics=("loss", "counts"),
    loss_step=0,
    epsilon=None,
    delta=math.nextafter(1, 0),
    least_noise=0,
    must_mask=False,
    largest_share=1,
)


@dataclass(frozen=True)
class Gate:
    """A hospital's gate for one study.

    Attributes:
        policy: the hospital's.
        approved: id of the study that the hospital approved; None where it approved none.
        key: the hospital's secret for rounding, 16 bytes or more, the same as long as its photos are.
    """

    policy: Policy
    approved: str | None
    key: bytes = field(repr=False)

    def admit(self, request: Request | Asked, study: Study, patients: int) -> None:
        """Lets a request in, before anything is computed.

        Args:
            request: well-formed.
            study: the hospital's own copy.
            patients: training patients of the classes that take part.

        Raises:
            WireError: the study is not approved, the request is of another one, or the policy forbids it.
        """
        demand(self.approved == study.study_id, Code.NOT_APPROVED, study.study_id[:12])
        demand(request.ticket.study_id == self.approved, Code.STUDY, request.ticket.study_id[:12])
        broken = violations(self.policy, study)
        demand(not broken, Code.POLICY, "; ".join(broken))
        few = too_few_patients(self.policy, study, patients)
        demand(not few, Code.POLICY, "; ".join(few))
        weak = too_little_noise(self.policy, study, patients)
        demand(not weak, Code.POLICY, "; ".join(weak))

    def select(
        self, train: PhotoSet, heldout: PhotoSet, classes: int, private: bool = False
    ) -> tuple[PhotoSet, PhotoSet]:
        """The photos that may be used: those of classes with enough training patients.

        Args:
            train: photos to learn from.
            heldout: photos of patients who are never trained on.
            classes: the number K of syndromes.
            private: whether each training patient is. Then all of them are used, for who else is there may not decide
                whether somebody is: no noise would cover that. Held-out photos are chosen by held-out patients alone.
        """
        fewest = self.policy.fewest_patients_per_class
        allowed_K = patients_of_classes(heldout if private else train, classes) >= fewest
        if bool(allowed_K.all()):
            return train, heldout
        tried = heldout.take(allowed_K[heldout.labels_N])
        return (train if private else train.take(allowed_K[train.labels_N])), tried

    def chance(self, request: Request, hospital: str) -> SecretRandom:
        """What rounds an update up or down: nobody else can tell it, and the same question is rounded the same.

        So a round that is asked again after a crash ends with the same bits. With a seed that is public, the lab could
        tell on which side of a step a value was.

        Args:
            request: admitted.
            hospital: its name; the hospitals of a simulation have the same key.
        """
        question = f"update\0{hospital}\0{request.ticket.study_id}\0{request.ticket.round}\0{request.vector_sha256}"
        return SecretRandom(hmac.new(self.key, question.encode(), hashlib.sha256).digest())

    def release(self, reply: Reply, study: Study) -> Reply:
        """What leaves in place of ``reply``; releasing that again changes nothing.

        Raises:
            WireError: the policy does not let it out.
        """
        if isinstance(reply, Evaluation):
            return self._release_evaluation(reply, study)
        return self._release_update(reply, study)

    def _release_update(self, update: Update, study: Study) -> Update:
        if is_private(study):
            _demand_private(update)
        else:
            demand("loss" in self.policy.metrics, Code.POLICY, "policy.metrics does not allow the loss")
        weights = {update.weight, *update.class_weights_K.tolist()} - {0, WEIGHT_BOUND}
        demand(all(self._is_coarse(weight, study) for weight in weights), Code.POLICY, "a weight is not rounded")
        step = self.policy.loss_step
        return replace(update, loss=round(update.loss / step) * step) if step else update

    def _release_evaluation(self, evaluation: Evaluation, study: Study) -> Evaluation:
        demand("counts" in self.policy.metrics, Code.POLICY, "policy.metrics does not allow counts")
        counts = round_counts(evaluation.counts, self.policy.count_step, self.key, study.syndromes)
        return replace(evaluation, counts=counts)

    def _is_coarse(self, weight: int, study: Study) -> bool:
        """Whether a weight above 0 is one that the study's rounding gives, and that rounding coarse enough."""
        federation = study.federation
        if federation.weighting == "equal":
            return weight == 1
        return weight % federation.weight_step == 0 and federation.weight_step >= self.policy.weight_step


def open_gate(study: Study) -> Gate:
    """A gate that lets everything through as it is: for a simulation, whose hospitals are invented."""
    return Gate(_EVERYTHING, study.study_id, bytes(16))


def _demand_private(update: Update) -> None:
    """Stops what the noise of a private training does not cover.

    Raises:
        WireError: the update tells more than its noisy vector and the hospital's weight.
    """
    demand(update.loss == 0, Code.POLICY, "the loss of patients who are private")
    same = bool((update.class_weights_K == update.weight).all())
    demand(same, Code.POLICY, "which syndromes patients have who are private")


def patients_of_classes(photos: PhotoSet, classes: int) -> Tensor:
    """Patients of each class, int64 (K,), on the photos' device."""
    pairs_2P = torch.stack([photos.labels_N, photos.patients_N]).unique(dim=1)
    return torch.bincount(pairs_2P[0], minlength=classes)
