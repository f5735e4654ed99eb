"""Who is a simulated hospital? A name with an identity key, which follows from the study's seed.

In a masked study every message is signed and checked as in a real one. Nobody is hidden from anybody in a simulation:
so the keys may be known, and the same study gives the same run.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bioface_core.config import Study
from bioface_core.errors import RunError
from bioface_core.identity import public_hex, read_identity, write_identity
from simulation.hospitals import hospital_names

_KEYS = "identity-keys"


def with_roster(study: Study) -> Study:
    """The study with its simulated hospitals in the roster, if it needs one.

    Raises:
        ConfigError: too few hospitals, or too many, for secure aggregation.
    """
    if not study.secure.enabled:
        return study
    names = hospital_names(study)
    return study.replace({"roster": [{"name": it, "identity_key": public_hex(_identity(study, it))} for it in names]})


def lay_identities(folder: Path, study: Study) -> None:
    """Writes the identity keys of the hospitals that have none in the run folder."""
    for name in hospital_names(study):
        if not identity_file(folder, name).exists():
            write_identity(identity_file(folder, name), _identity(study, name))


def open_identity(folder: Path, name: str) -> Ed25519PrivateKey:
    """The identity of a hospital.

    Raises:
        RunError: there is none in the run folder.
    """
    return read_identity(identity_file(folder, name), RunError)


def identity_file(folder: Path, name: str) -> Path:
    """Where the identity of a hospital lies."""
    return folder / _KEYS / f"{name}.key"


def _identity(study: Study, name: str) -> Ed25519PrivateKey:
    seed = hashlib.sha256(f"identity of a simulated hospital\0{study.seed}\0{name}".encode())
    return Ed25519PrivateKey.from_private_bytes(seed.digest())
