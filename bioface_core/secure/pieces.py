"""How can the others open a secret that one of them took away? By Shamir's pieces: the threshold of them or none.

pycryptodome shares 16 bytes over GF(2**128), so a secret goes in blocks, each with a polynomial of its own. A piece
does not say which it is: its number is its keeper's place in the roster, whatever the keeper says.

Pieces that were tampered with give another secret, silently. Whoever rebuilds one therefore compares: a mask key with
the public half that was advertised; a self seed with a tag that was shared together with it. To get past the tag
somebody would have to know how the hash of an unknown seed changes when the seed does.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from Crypto.Protocol.SecretSharing import Shamir
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from bioface_core.secure.session import KEY_BYTES, Advert, Session, require

SEED_BYTES = 32

_BLOCK_BYTES = 16
_TAG_BYTES = 16
_SEED_PIECE = SEED_BYTES + _TAG_BYTES


@dataclass(frozen=True)
class Pieces:
    """What one hospital keeps of another; it will give away one of the two, never both.

    Attributes:
        self_seed: 48 bytes.
        mask_key: 32 bytes.
    """

    self_seed: bytes = field(repr=False)
    mask_key: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        """As they are sealed."""
        return self.self_seed + self.mask_key

    @staticmethod
    def from_bytes(content: bytes) -> Pieces:
        """The inverse of ``to_bytes``.

        Raises:
            SecureError: another length.
        """
        require(len(content) == _SEED_PIECE + KEY_BYTES, "pieces of another length")
        return Pieces(content[:_SEED_PIECE], content[_SEED_PIECE:])


def cut(session: Session, hospital: str, seed: bytes, mask_key: X25519PrivateKey) -> dict[str, Pieces]:
    """A hospital's two secrets in pieces, one pair for every member.

    Args:
        session: this one.
        hospital: whose they are.
        seed: 32 bytes.
        mask_key: its private half.
    """
    seeds = _cut(session, seed + _tag(session, hospital, seed))
    keys = _cut(session, mask_key.private_bytes_raw())
    return {name: Pieces(seeds[name], keys[name]) for name in session.members}


def rebuild_seed(session: Session, hospital: str, pieces: Mapping[str, bytes]) -> bytes:
    """The self seed of a hospital.

    Args:
        session: this one.
        hospital: whose it is.
        pieces: of the threshold or more, by keeper.

    Raises:
        SecureError: too few, of another length, or not those that were shared.
    """
    content = _rebuild(session, hospital, pieces, _SEED_PIECE)
    seed, tag = content[:SEED_BYTES], content[SEED_BYTES:]
    genuine = hmac.compare_digest(tag, _tag(session, hospital, seed))
    require(genuine, f"{hospital}: its self seed cannot be rebuilt, a piece is wrong")
    return seed


def rebuild_mask_key(session: Session, advert: Advert, pieces: Mapping[str, bytes]) -> X25519PrivateKey:
    """The mask key of a hospital.

    Args:
        session: this one.
        advert: the hospital's.
        pieces: of the threshold or more, by keeper.

    Raises:
        SecureError: too few, of another length, or not those that were shared.
    """
    key = X25519PrivateKey.from_private_bytes(_rebuild(session, advert.hospital, pieces, KEY_BYTES))
    genuine = key.public_key().public_bytes_raw() == advert.mask_key
    require(genuine, f"{advert.hospital}: its mask key cannot be rebuilt, a piece is wrong")
    return key


def _cut(session: Session, secret: bytes) -> dict[str, bytes]:
    """A piece for each member, as long as the secret."""
    blocks = [secret[start : start + _BLOCK_BYTES] for start in range(0, len(secret), _BLOCK_BYTES)]
    shared = [dict(Shamir.split(session.threshold, len(session.members), block, False)) for block in blocks]
    return {name: b"".join(pieces[number] for pieces in shared) for number, name in enumerate(session.members, 1)}


def _rebuild(session: Session, hospital: str, pieces: Mapping[str, bytes], length: int) -> bytes:
    """The secret that the first pieces in the roster's order give, as many as are needed."""
    keepers = session.ordered(pieces, f"pieces of {hospital}")[: session.threshold]
    require(all(len(pieces[name]) == length for name in keepers), f"{hospital}: a piece of another length")
    numbered = [(session.index(name) + 1, pieces[name]) for name in keepers]
    starts = range(0, length, _BLOCK_BYTES)
    blocks = [[(number, piece[start : start + _BLOCK_BYTES]) for number, piece in numbered] for start in starts]
    return b"".join(Shamir.combine(block, False) for block in blocks)


def _tag(session: Session, hospital: str, seed: bytes) -> bytes:
    """By which a seed is recognised; it tells nothing of it, and is shared as secretly."""
    return sha256(session.context("self seed", hospital) + seed).digest()[:_TAG_BYTES]
