"""Which key is for what? HKDF-SHA256 gives each use its own, named by session, step, hospitals and public halves.

Two hospitals agree on a secret by X25519. No derived key is ever used twice: not for two messages, not for two masks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from bioface_core.errors import SecureError
from bioface_core.secure.session import KEY_BYTES, Advert, Session


@dataclass(frozen=True)
class PairKeys:
    """The mask keys of one hospital with others; never shown, for they are secrets.

    Attributes:
        adding: with those that come later in the roster.
        subtracting: with those that come earlier, so that both of a pair cancel.
    """

    adding: list[bytes]
    subtracting: list[bytes]

    def __repr__(self) -> str:
        return f"PairKeys({len(self.adding)} adding, {len(self.subtracting)} subtracting)"


def seal_key(session: Session, private: X25519PrivateKey, sender: Advert, recipient: Advert, other: Advert) -> bytes:
    """The key of the one message from ``sender`` to ``recipient``.

    Args:
        session: this one.
        private: the cipher key of either of the two.
        sender: advert of who seals.
        recipient: advert of who opens.
        other: whichever of the two ``private`` is not of.
    """
    use = "seal", sender.hospital, recipient.hospital, sender.cipher_key.hex(), recipient.cipher_key.hex()
    return _derive(_agree(private, other, other.cipher_key), session.context(*use))


def self_key(session: Session, hospital: str, seed: bytes) -> bytes:
    """The key of a hospital's mask for itself."""
    return _derive(seed, session.context("self mask", hospital))


def pair_keys(
    session: Session, private: X25519PrivateKey, own: Advert, others: Iterable[Advert], model: str
) -> PairKeys:
    """The keys of the masks that a hospital puts on for every other; two hospitals derive the same of the same model.

    Masks of answers about different models do not cancel. Else a server could ask all but one about a model whose
    answers it knows, and would have the last one's in the sum.

    Args:
        session: this one.
        private: the hospital's mask key.
        own: its advert.
        others: theirs.
        model: names the model that the answers are about.

    Raises:
        SecureError: a public key with which no secret can be agreed.

    Source: Pasquini, Francati, Ateniese 2022, "Eluding secure aggregation in federated learning via model
    inconsistency".
    """
    keys = PairKeys([], [])
    for other in others:
        early, late = sorted((own, other), key=lambda advert: session.index(advert.hospital))
        use = "pair mask", early.hospital, late.hospital, early.mask_key.hex(), late.mask_key.hex(), model
        key = _derive(_agree(private, other, other.mask_key), session.context(*use))
        (keys.adding if early is own else keys.subtracting).append(key)
    return keys


def _agree(private: X25519PrivateKey, other: Advert, public: bytes) -> bytes:
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as wrong:  # of small order: the secret would be zero whatever our key is
        raise SecureError(f"{other.hospital}: no secret can be agreed with its key") from wrong


def _derive(secret: bytes, context: bytes) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, None, context).derive(secret)
