"""Where does every random choice come from? From a generator whose seed is a hash of what the choice is for."""

from __future__ import annotations

import hashlib

import torch


def generator(*purpose: int | str) -> torch.Generator:
    """A CPU generator that depends on ``purpose`` alone.

    Args:
        purpose: for instance ``(study.seed, "hospital-3", 7)``; the order counts, and no two lists collide.

    Returns:
        A fresh generator.
    """
    return torch.Generator().manual_seed(seed(*purpose))


def seed(*purpose: int | str) -> int:
    """63 bits of the SHA-256 of ``purpose``."""
    text = "\0".join(f"{type(part).__name__}:{part}" for part in purpose)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big") >> 1
