"""Is an exported model what its maker made? A passport: the hash of every file, under one signature.

    passport.json   {"format", "files": {name: SHA-256}, "signer": Ed25519 public key, "signature"}

The signature says who sealed the files, not that the signer is to be trusted: compare the key with one that you have
from the lab by another way.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bioface_core.errors import PassportError
from bioface_core.files import write_text
from bioface_core.identity import is_signed_by, public_hex, sign

PASSPORT = "passport.json"
MODEL, GRAPH, STUDY, CARD = "model.safetensors", "model.onnx", "study.yaml", "card.json"
_FORMAT = 1


class _Seal(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    format: int
    files: dict[str, str] = Field(min_length=1)
    signer: str = Field(pattern=r"^[0-9a-f]{64}$")
    signature: str = Field(pattern=r"^[0-9a-f]{128}$")


@dataclass(frozen=True)
class Sealed:
    """A folder whose files are what its passport says.

    Attributes:
        signer: Ed25519 public key, 64 hexadecimal digits.
        files: name to SHA-256.
    """

    signer: str
    files: dict[str, str]


def seal(folder: Path, key: Ed25519PrivateKey) -> Sealed:
    """Writes the passport of all files that lie in a folder."""
    files = {path.name: _sha256(path) for path in sorted(folder.iterdir()) if path.name != PASSPORT}
    signed = _signed(_FORMAT, files)
    content = signed | {"signer": public_hex(key), "signature": sign(key, signed)}
    write_text(folder / PASSPORT, json.dumps(content, indent=1))
    return Sealed(public_hex(key), files)


def is_sealed(folder: Path) -> bool:
    """Whether a folder claims to hold an exported model."""
    return (folder / PASSPORT).is_file()


def verify(folder: Path, signer: str | None = None) -> Sealed:
    """Checks every file of an exported model, and the signature over them.

    Args:
        folder: as ``seal`` left it.
        signer: whose signature it must be; None takes anybody's.

    Raises:
        PassportError: no passport, a file that is missing, another or more, or a signature that does not hold.
    """
    passport = _read(folder / PASSPORT)
    if not is_signed_by(passport.signer, _signed(passport.format, passport.files), passport.signature):
        raise PassportError(f"{folder / PASSPORT} is not signed by the key it names: get the model anew")
    if signer is not None and signer != passport.signer:
        found = f"{passport.signer[:12]}, not by {signer[:12]}"
        raise PassportError(f"{folder} is signed by {found}: get it from the lab whose key that is")
    there = {path.name for path in folder.iterdir()} - {PASSPORT}
    for name in sorted(there ^ passport.files.keys()):
        told = "holds a file that its passport does not name" if name in there else "lacks a file of its passport"
        raise PassportError(f"{folder} {told}: {name}; get the model anew")
    for name, sha256 in passport.files.items():
        if _sha256(folder / name) != sha256:
            raise PassportError(f"{folder / name} was changed after it was sealed: get the model anew")
    return Sealed(passport.signer, passport.files)


def _signed(format_: int, files: dict[str, str]) -> dict[str, Any]:
    return {"format": format_, "files": files}


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PassportError(
            f"{path} cannot be read ({error.strerror}): expected a file of an exported model"
        ) from error


def _read(path: Path) -> _Seal:
    try:
        found = _Seal.model_validate_json(path.read_bytes())
    except OSError as error:
        raise PassportError(f"{path.parent} is no exported model (no {PASSPORT}): expected one of `export`") from error
    except ValidationError as error:
        raise PassportError(f"{path} is damaged: get the model anew") from error
    if found.format != _FORMAT:
        raise PassportError(f"{path} has format {found.format}, expected {_FORMAT}: update bioface")
    return found
