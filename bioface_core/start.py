"""What do all hospitals of a study start from? One folder: a base, and public people if the loss identifies.

The folder goes with the study to every hospital. Its content is named by two hashes, which a study that is to be
deployed carries, so that nobody starts from anything else.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from bioface_core.config import Study
from bioface_core.errors import WeightsError
from bioface_core.photos import Demographics, PhotoSet
from bioface_core.store import Store, read_store, write_store
from bioface_core.weights import Base, read_base

_BASE, _IDENTITIES = "base.safetensors", "identities"


@dataclass(frozen=True)
class Start:
    """What every learner of a study is built from.

    Attributes:
        base: the trunk, and the identities' prototypes if the loss identifies.
        identities: public people on the CPU, or None where nothing needs them.
    """

    base: Base
    identities: PhotoSet | None

    @property
    def identities_sha256(self) -> str | None:
        """Hash of the people's photos, labels and prototypes, 64 hexadecimal digits; None without people."""
        if self.identities is None:
            return None
        digest = hashlib.sha256(str(tuple(self.identities.photos_NCHW.shape)).encode())
        digest.update(self.identities.photos_NCHW.contiguous().numpy().tobytes())
        digest.update(self.identities.labels_N.contiguous().numpy().tobytes())
        if self.base.identities_ID is not None:
            digest.update(self.base.identities_ID.contiguous().numpy().tobytes())
        return digest.hexdigest()


def write_start(folder: Path, start: Start) -> None:
    """Writes the base and the people; the base last, so that its presence means both are there."""
    if start.identities is not None:
        people = start.identities
        nobody_N = torch.zeros(len(people), dtype=torch.bool)
        names = tuple(f"person-{label}" for label in range(int(people.labels_N.max()) + 1))
        write_store(folder / _IDENTITIES, Store(names, people, nobody_N, Demographics.unknown(len(people))))
    folder.mkdir(parents=True, exist_ok=True)
    start.base.write(folder / _BASE)


def has_start(folder: Path) -> bool:
    """Whether ``write_start`` was completed."""
    return (folder / _BASE).exists()


def read_start(folder: Path, study: Study) -> Start:
    """What ``write_start`` wrote, compared with the hashes that the study names.

    Raises:
        WeightsError: the files are not what the study names.
        PhotoError: the people's store is damaged.
    """
    identities = read_store(folder / _IDENTITIES).photos if study.loss.identifies else None
    start = Start(read_base(folder / _BASE, study.model), identities)
    named = {"base.safetensors": study.model.base_sha256, "identities": study.identities_sha256}
    found = {"base.safetensors": start.base.sha256, "identities": start.identities_sha256}
    for name, sha256 in named.items():
        if sha256 is not None and sha256 != found[name]:
            short = f"{str(found[name])[:12]}, the study names {sha256[:12]}"
            raise WeightsError(f"{folder / name} has the hash {short}: ask whoever gave you the folder for both anew")
    return start
