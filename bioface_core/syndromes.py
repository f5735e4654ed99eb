"""What is known about each syndrome's face? Facts from the Human Phenotype Ontology, read from configs/syndromes.yaml.

Probabilities and references are facts of the HPO release named in the file; ``effects`` say how phantoms draw a
feature and are our own design, not clinical data.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bioface_core.app_path import app_root
from bioface_core.config import load_yaml
from bioface_core.errors import ConfigError
from bioface_core.validation import explain

Probability = Annotated[float, Field(gt=0, le=1)]
Number = Annotated[int, Field(ge=1)]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Feature(_Entry):
    """One facial feature of one syndrome.

    Attributes:
        hpo: identifier of the term, such as ``HP:0000286``.
        label: the term's name.
        probability: share of patients who have it.
        basis: how the share was found; ``class`` is the midpoint of a frequency class, ``shrunk`` is (k+1)/(n+2) of
            fewer than ten patients, ``default`` means that the source gives none.
        frequency: what the source says, for instance ``440/524``; None where it says nothing.
        reference: the annotation's source.
        effects: parameter of the phantom generator -> shift in standard deviations at severity 1.
    """

    hpo: Annotated[str, Field(pattern=r"^HP:\d{7}$")]
    label: str
    probability: Probability
    basis: Literal["class", "fraction", "shrunk", "percentage", "default"]
    frequency: str | None = None
    reference: str
    effects: Annotated[dict[str, float], Field(min_length=1)]


class Cases(_Entry):
    """How many patients a realistic collection has, and whether that was counted or is our guess."""

    count: Number
    basis: Literal["collection", "assumed"]


class Syndrome(_Entry):
    """One syndrome.

    Attributes:
        name: what people call it.
        omim: number in OMIM, where one entry stands for the syndrome.
        orpha: number in Orphanet.
        only: the sex of all patients, where there is but one.
        unseen: kept out of training, for trying a gallery on something new.
        cases: patients in a realistic collection.
        features: what its faces show, in the file's order.
    """

    name: str
    omim: int | None = None
    orpha: int
    only: Literal["female", "male"] | None = None
    unseen: bool
    cases: Cases
    features: Annotated[tuple[Feature, ...], Field(min_length=1)]


class Catalogue(_Entry):
    """The file: every syndrome under its key, and the HPO release the facts come from."""

    hpo_release: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    syndromes: dict[str, Syndrome]

    @property
    def seen(self) -> tuple[str, ...]:
        """Keys of the syndromes meant for training, in the file's order."""
        return tuple(key for key, syndrome in self.syndromes.items() if not syndrome.unseen)

    @property
    def unseen(self) -> tuple[str, ...]:
        """Keys of the syndromes kept for galleries."""
        return tuple(key for key, syndrome in self.syndromes.items() if syndrome.unseen)

    def pick(self, keys: Iterable[str]) -> tuple[Syndrome, ...]:
        """The syndromes under ``keys``, in that order.

        Raises:
            ConfigError: a key is unknown; the message names the nearest.
        """
        return tuple(self._one(key) for key in keys)

    def realistic_counts(self, keys: Iterable[str], mean: int) -> dict[str, int]:
        """Patients per syndrome in the proportions of real collections.

        Args:
            keys: syndromes.
            mean: patients per syndrome on average.

        Returns:
            key -> patients, at least 2, with a mean close to ``mean``.

        Raises:
            ConfigError: a key is unknown.
        """
        chosen = {key: self._one(key).cases.count for key in keys}
        share = mean * len(chosen) / sum(chosen.values()) if chosen else 0.0
        return {key: max(2, round(count * share)) for key, count in chosen.items()}

    def _one(self, key: str) -> Syndrome:
        if key not in self.syndromes:
            nearest = get_close_matches(key, self.syndromes, n=1, cutoff=0.4)
            known = f"nearest: {nearest[0]}" if nearest else f"known: {', '.join(self.syndromes)}"
            raise ConfigError(f"{key} is no known syndrome; {known}")
        return self.syndromes[key]


def read_syndromes(path: Path) -> Catalogue:
    """Reads a file of syndromes.

    Raises:
        ConfigError: no such file, or one line that names the key, what was found and what is expected.
    """
    try:
        return Catalogue.model_validate(load_yaml(path))
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, Catalogue)}") from error


@lru_cache(maxsize=1)
def catalogue() -> Catalogue:
    """The catalogue that comes with this project."""
    return read_syndromes(app_root() / "configs" / "syndromes.yaml")
