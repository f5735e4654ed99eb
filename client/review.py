"""What would a hospital agree to? The facts of a study, put together for whoever decides there.

``bioface hospital review`` shows them; client/explain.py puts them into words. Numbers of patients are exact in here:
a review is read at the hospital and goes nowhere.

Legend: n values of the vector, K syndromes.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bioface_core.bundle import build_bundle, bundle_sha256
from bioface_core.config import Study
from bioface_core.errors import ConfigError
from bioface_core.evaluate import cells_of
from bioface_core.layout import layout_of
from bioface_core.messages import Phase
from bioface_core.model import Recogniser, set_trainable
from bioface_core.precision import vector_bytes
from bioface_core.store import Store, as_studied, read_store
from bioface_core.summand import Summand
from client.books import open_ledger
from client.enrol import check_kit
from client.forecast import Forecast, Past, forecast, overspent
from client.hospital import Hospital
from client.people import patient_marks
from client.policy import Policy, is_private, too_few_patients, too_little_noise, violations
from client.site import patient_weight

_WORD_BYTES = {"uint32": 4, "uint16": 2}
_COUNT_BYTES = 8


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
    def of(study: Study, values: int) -> Traffic:
        """The traffic of a run in which nothing has to be asked twice.

        Args:
            study: the whole of it.
            values: n.
        """
        rounds, vector = study.federation.rounds, vector_bytes(values, study.federation.model_bits)
        update, counts = _answers(study, values)
        down, up = 2 * vector, update + counts
        return Traffic(down, up, rounds * down + vector, rounds * up + counts)


@dataclass(frozen=True)
class _Shape:
    """Of a study's vector, as far as the size of messages depends on it."""

    size: int
    classes: int
    embedding: int
    schema: str = ""


def _answers(study: Study, values: int) -> tuple[int, int]:
    """Bytes of an update, and of counts."""
    classes = len(study.syndromes)
    if not study.secure.enabled:
        return vector_bytes(values, study.federation.update_bits), cells_of(classes) * _COUNT_BYTES
    summand = Summand.of(study, _Shape(values, classes, study.model.embedding))
    update, counts = (summand.vector(phase) for phase in (Phase.TRAIN, Phase.EVALUATE))
    return update.length * _WORD_BYTES[update.dtype], counts.length * _WORD_BYTES[counts.dtype]


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
        forecast: of what the study costs in privacy; None for one without differential privacy for each patient.
        obstacles: why the hospital would answer nothing, or not to the end, and what to do; empty if it would.
    """

    hospital: str
    lab: str
    study: Study
    policy: Policy
    held: tuple[Held, ...]
    values: int
    weight: int
    installed_sha256: str | None
    forecast: Forecast | None
    obstacles: tuple[str, ...]

    @property
    def traffic(self) -> Traffic:
        """What goes over the line."""
        return Traffic.of(self.study, self.values)

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
            "forecast": None if self.forecast is None else asdict(self.forecast),
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
    past: Past,
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
        past: what the ledger says of the store's training patients.
        installed_sha256: hash of the lab's code as it is installed here, if it is known.
    """
    holdings = held(store, policy, is_private(study))
    patients = sum(row.train_patients for row in holdings if row.takes_part)
    expected, noise = _forecast(study, policy, patients, values, past)
    obstacles = (
        *_not_a_member(study, hospital, identity_key),
        *violations(policy, study),
        *too_few_patients(policy, study, patients),
        *noise,
        *overspent(policy, expected),
    )
    weight = patient_weight(patients, study.federation)
    return Review(hospital, lab, study, policy, holdings, values, weight, installed_sha256, expected, obstacles)


def review_kit(hospital: Hospital, folder: Path) -> Review:
    """The review of a start kit, with this hospital's photos and rules.

    Raises:
        HospitalError: the kit is for somebody else, or was altered.
        PhotoError: the store cannot be read.
    """
    kit, settings = check_kit(hospital, folder), hospital.settings
    prepared = read_store(settings.store)
    store = as_studied(prepared, kit.study.syndromes)
    return review(
        kit.study,
        settings.policy,
        store,
        hospital=settings.name,
        identity_key=hospital.identity,
        lab=f"{kit.address}, authority SHA-256 {kit.authority_sha256}",
        values=vector_length(kit.study),
        past=_past(hospital, prepared, store),
        installed_sha256=bundle_sha256(build_bundle()),
    )


def vector_length(study: Study) -> int:
    """The length n of a study's vector, from the shapes of its network alone: in milliseconds, without weights."""
    with torch.device("meta"):
        model = Recogniser(study.model, len(study.syndromes))
    set_trainable(model, study.model.trainable)
    return layout_of(model).size


def held(store: Store, policy: Policy, private: bool) -> tuple[Held, ...]:
    """What a store holds of each of its classes, and which of them may be used: where each patient is private, all."""
    rows = []
    for label, syndrome in enumerate(store.classes):
        of_class_N = store.photos.labels_N == label
        train = _patients_and_photos(store, of_class_N & ~store.heldout_N)
        heldout = _patients_and_photos(store, of_class_N & store.heldout_N)
        rows.append(
            Held(syndrome, *train, *heldout, takes_part=private or train[0] >= policy.fewest_patients_per_class)
        )
    return tuple(rows)


def _past(hospital: Hospital, prepared: Store, studied: Store) -> Past:
    """What a study's patients have lost before, found out on a copy of the ledger."""
    key, policy = hospital.rounding_key, hospital.settings.policy
    with closing(open_ledger(hospital)) as ledger:
        ledger.recognise(patient_marks(prepared.photos, key), policy.trust_newcomers)
        return Past(ledger.spending(), ledger.patients(patient_marks(studied.train(), key)))


def _forecast(
    study: Study, policy: Policy, patients: int, values: int, past: Past
) -> tuple[Forecast | None, list[str]]:
    """What a study costs, and why its noise will not do."""
    try:
        return forecast(study, patients, values, past), too_little_noise(policy, study, patients)
    except ConfigError as error:
        return None, [f"At this hospital the study's budget cannot be kept: {error}"]


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
