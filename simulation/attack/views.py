"""What does the lab see of one hospital in one round? It depends on the setting: plain, masked, private, or both.

The victim is as exposed as a hospital can be: it has one patient with one photo in this round, takes a single step of
plain descent, and does not augment. Every other hospital takes one such step on an ordinary batch. All is computed by
what hospitals run: the learner's step, plain or private, the cut to the study's bound, and the integers of a masked
sum. Of those the masks leave the lab nothing but the total, so nothing else is computed here.

Legend: n values of the vector, S hospitals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bioface_core.accounting import Plan, plan_of, rounded_up
from bioface_core.config import Study
from bioface_core.learner import Learner
from bioface_core.messages import Phase, Ticket, Update
from bioface_core.photos import PhotoSet
from bioface_core.secret import SecretRandom
from bioface_core.secure.session import FEWEST_MEMBERS
from bioface_core.summand import Summand
from bioface_core.weights import Base
from client.site import clip, patient_weight

_UNTOUCHED = {"rotate_deg": 0, "scale": 0, "shift": 0, "light": 0, "colour": 0, "erase": 0, "mirror": False}
_STEP = {"epochs": 1, "optimiser": "sgd", "weight_decay": 0, "proximal": 0, "clip": 0, "augment": _UNTOUCHED}


@dataclass(frozen=True)
class Setting:
    """What stands between a hospital and the lab.

    Attributes:
        name: as it is printed.
        masked: whether the lab sees the sum over the hospitals alone.
        private: whether each hospital clips and noises its steps.
    """

    name: str
    masked: bool
    private: bool


SETTINGS = (
    Setting("plain", masked=False, private=False),
    Setting("masked", masked=True, private=False),
    Setting("DP", masked=False, private=True),
    Setting("masked + DP", masked=True, private=True),
)


def settings_for(hospitals: int) -> tuple[Setting, ...]:
    """The settings that so many hospitals can have: masks need three."""
    return tuple(setting for setting in SETTINGS if hospitals >= FEWEST_MEMBERS or not setting.masked)


def plans_of(study: Study, train: Sequence[PhotoSet]) -> list[Plan]:
    """Each hospital's plan in a private study."""
    step = study.federation.weight_step
    return [plan_of(study, rounded_up(photos.patients(), step)) for photos in train]


class Lab:
    """Whoever coordinates a round and looks at what comes in.

    Args:
        study: the run's, without privacy.
        base: where the trunk started from.
        vector: float32 (n,), the shared model that goes out in the attacked round.
        round_: its number.
        train: training photos of each hospital, the victim's first.
        plans: of each hospital, for the private settings.
    """

    def __init__(
        self, study: Study, base: Base, vector: Tensor, round_: int, train: Sequence[PhotoSet], plans: Sequence[Plan]
    ) -> None:
        self.study = study.replace({"train": _STEP, "loss": {"identification": False}})
        self.vector, self.round = vector, round_
        self._learner = Learner(self.study, base)
        self._train = [_batch(photos, study.train.batch) for photos in train[1:]]
        self._weights = [patient_weight(photos.patients(), study.federation) for photos in train[1:]]
        self._plans = [replace(plan, steps=1) for plan in plans]
        self._whole = list(train[1:])
        self._others: dict[bool, list[Update]] = {}

    def sees(self, setting: Setting, victim: PhotoSet) -> Tensor:
        """What comes in under ``setting``, float32 (n,): the victim's update, or the mean over all hospitals.

        Args:
            setting: what stands between.
            victim: one photo.
        """
        plan = replace(self._plans[0], sampling_rate=1.0) if setting.private else None
        own = self._update(victim, patient_weight(1, self.study.federation), plan)
        if not setting.masked:
            return own.delta
        if setting.private not in self._others:  # what they do does not depend on the victim
            self._others[setting.private] = self._updates_of_others(setting.private)
        return self._sum([own, *self._others[setting.private]])

    def _updates_of_others(self, private: bool) -> list[Update]:
        if private:
            steps = zip(self._whole, self._weights, self._plans[1:], strict=True)
            return [self._update(photos, weight, plan) for photos, weight, plan in steps]
        return [self._update(photos, weight, None) for photos, weight in zip(self._train, self._weights, strict=True)]

    def _update(self, photos: PhotoSet, weight: int, plan: Plan | None) -> Update:
        """A hospital's update, as it leaves or goes into the sum."""
        result = self._learner.train(self.vector, photos, self.round, "attacked", plan)
        present_K = torch.bincount(photos.labels_N, minlength=self._learner.classes) > 0
        shown_K = torch.ones_like(present_K) if plan is not None else present_K
        delta = clip(result.delta, self.study.update_bound)
        ticket = Ticket(self.study.study_id, "attack", self.round, 1, Phase.TRAIN)
        return Update(ticket, "hospital", self._learner.schema, delta, weight, weight * shown_K.long(), result.loss)

    def _sum(self, updates: Sequence[Update]) -> Tensor:
        """The weighted mean of the updates by way of a masked sum's integers."""
        largest = max(update.weight for update in updates)
        shape = (self._learner.size, self._learner.classes, self._learner.embedding)
        summand = Summand(*shape, len(updates), largest, self.study.update_bound, has_loss=True)
        total_m = np.zeros(summand.vector(Phase.TRAIN).length, np.uint32)
        for update in updates:
            total_m += summand.encode(update, SecretRandom())  # modulo 2**32, as masks cancel
        return summand.mean(summand.updates(total_m, len(updates)))


def _batch(photos: PhotoSet, size: int) -> PhotoSet:
    """At most ``size`` photos, spread over all."""
    return photos.take(torch.linspace(0, len(photos) - 1, min(size, len(photos))).long())
