"""What would a hospital agree to? The facts of a study, put together for whoever decides there.

``bioface hospital review`` shows them; client/explain.py puts them into words. Numbers of patients are exact in here:
a review is read at the hospital and goes nowhere.

Legend: n values of the vector, K syndromes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bioface_core.bundle import build_bundle, bundle_sha256
from bioface_core.config import Study
from bioface_core.layout import layout_of
from bioface_core.model import Recogniser, set_trainable
from bioface_core.store import Store, as_studied, read_store
from client.enrol import check_kit
from client.hospital import Hospital
from client.policy import Policy, violations
from client.site import patient_weight

_FLOAT_BYTES, _COUNT_BYTES = 4, 8


@dataclass(frozen=True)
class Held:
    """What this hospital holds of one syndrome.

    Attributes:
        syndrome: as the study calls it.
        train_patients: to learn from.
        train_photos: of them.
        heldout_patients: never trained on.
        heldout_photos: of them.
        takes_part: whether the policy lets the syndrome's photos be used.
    """

    syndrome: str
    train_patients: int
    train_photos: int
    heldout_patients: int
    heldout_photos: int
    takes_part: bool


@dataclass(frozen=True)
class Traffic:
    """What goes over the hospital's line, in bytes; messages' headers of a few hundred bytes come on top.

    Attributes:
        down_per_round: the shared model, once to train and once to evaluate.
        up_per_round: the update and the counts.
        down_in_all: over all rounds, and the evaluation before the first.
        up_in_all: the same.
    """

    down_per_round: int
    up_per_round: int
    down_in_all: int
    up_in_all: int

    @staticmethod
    def of(values: int, classes: int, rounds: int) -> Traffic:
        """The traffic of a run in which nothing has to be asked twice.

        Args:
            values: n.
            classes: K.
            rounds: of training.
        """
        vector, counts = values * _FLOAT_BYTES, 2 * classes**2 * _COUNT_BYTES
        down, up = 2 * vector, vector + counts
        return Traffic(down, up, rounds * down + vector, rounds * up + counts)


@dataclass(frozen=True)
class Review:
    """All that a hospital should know before it approves a study.

    Attributes:
        hospital: this hospital's name.
        lab: the lab's address.
        study: the study under review.
        policy: this hospital's.
        held: per syndrome of the study.
        values: n, numbers in an update.
        weight: as it would leave.
        installed_sha256: hash of the lab's code as it is installed here, None where that is not known.
        obstacles: why the hospital would answer nothing, and what to do; empty if it would.
    """

    hospital: str
    lab: str
    study: Study
    policy: Policy
    held: tuple[Held, ...]
    values: int
    weight: int
    installed_sha256: str | None
    obstacles: tuple[str, ...]

    @property
    def traffic(self) -> Traffic:
        """What goes over the line."""
        return Traffic.of(self.values, len(self.study.syndromes), self.study.federation.rounds)

    @property
    def same_code(self) -> bool | None:
        """Whether the lab runs the code that is installed here; None where one of the two is not known."""
        if self.installed_sha256 is None or self.study.bundle_sha256 is None:
            return None
        return self.installed_sha256 == self.study.bundle_sha256

    def to_json(self) -> dict[str, Any]:
        """The facts, for a script at the hospital; it holds exact numbers of patients."""
        return {
            "hospital": self.hospital,
            "lab": self.lab,
            "study": self.study.name,
            "study_id": self.study.study_id,
            "members": [member.name for member in self.study.roster],
            "rounds": self.study.federation.rounds,
            "held": [asdict(held) for held in self.held],
            "values": self.values,
            "weight": self.weight,
            "traffic_bytes": asdict(self.traffic),
            "policy": self.policy.model_dump(mode="json"),
            "bundle_sha256": self.study.bundle_sha256,
            "same_code": self.same_code,
            "obstacles": list(self.obstacles),
        }


def review(
    study: Study,
    policy: Policy,
    store: Store,
    *,
    hospital: str,
    identity_key: str,
    lab: str,
    values: int,
    installed_sha256: str | None = None,
) -> Review:
    """Puts a review together.

    Args:
        study: from the start kit.
        policy: the hospital's.
        store: its photos of this study's syndromes (``as_studied``).
        hospital: its name.
        identity_key: its own public key, 64 hexadecimal digits.
        lab: the lab's address.
        values: n, the length of the study's vector (``vector_length``).
        installed_sha256: hash of the lab's code as it is installed here, if it is known.
    """
    holdings = held(store, policy)
    patients = sum(row.train_patients for row in holdings if row.takes_part)
    obstacles = (
        *_not_a_member(study, hospital, identity_key),
        *violations(policy, study),
        *_too_few_patients(policy, patients),
    )
    weight = patient_weight(patients, study.federation)
    return Review(hospital, lab, study, policy, holdings, values, weight, installed_sha256, obstacles)


def review_kit(hospital: Hospital, folder: Path) -> Review:
    """The review of a start kit, with this hospital's photos and rules.

    Raises:
        HospitalError: the kit is for somebody else, or was altered.
        PhotoError: the store cannot be read.
    """
    kit, settings = check_kit(hospital, folder), hospital.settings
    return review(
        kit.study,
        settings.policy,
        as_studied(read_store(settings.store), kit.study.syndromes),
        hospital=settings.name,
        identity_key=hospital.identity,
        lab=f"{kit.address}, authority SHA-256 {kit.authority_sha256}",
        values=vector_length(kit.study),
        installed_sha256=bundle_sha256(build_bundle()),
    )


def vector_length(study: Study) -> int:
    """The length n of a study's vector, from the shapes of its network alone: in milliseconds, without weights."""
    with torch.device("meta"):
        model = Recogniser(study.model, len(study.syndromes))
    set_trainable(model, study.model.trainable)
    return layout_of(model).size


def held(store: Store, policy: Policy) -> tuple[Held, ...]:
    """What a store holds of each of its classes, and which of them may be used."""
    rows = []
    for label, syndrome in enumerate(store.classes):
        of_class_N = store.photos.labels_N == label
        train = _patients_and_photos(store, of_class_N & ~store.heldout_N)
        heldout = _patients_and_photos(store, of_class_N & store.heldout_N)
        rows.append(Held(syndrome, *train, *heldout, takes_part=train[0] >= policy.fewest_patients_per_class))
    return tuple(rows)


def _patients_and_photos(store: Store, chosen_N: Tensor) -> tuple[int, int]:
    """How many patients and photos a mask chooses."""
    return len(store.photos.patients_N[chosen_N].unique()), int(chosen_N.sum())


def _not_a_member(study: Study, hospital: str, identity_key: str) -> list[str]:
    """Why the lab would not know this hospital."""
    keys = {member.name: member.identity_key for member in study.roster}
    if hospital not in keys:
        return [f"The study's roster does not name {hospital}: send the lab the join request, and ask for a new kit"]
    if keys[hospital] != identity_key:
        return [f"The study's roster names {hospital} with another identity key: send the lab this one's join request"]
    return []


def _too_few_patients(policy: Policy, patients: int) -> list[str]:
    """Why a round would rest on too few patients of this hospital."""
    if patients >= policy.fewest_patients:
        return []
    found = f"The syndromes that may take part have {patients} training patients here"
    demanded = f"the policy demands {policy.fewest_patients}"
    return [f"{found}, and {demanded}: prepare more photos; or, to allow it, lower policy.fewest_patients"]
