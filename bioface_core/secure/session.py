"""Who is in a masked sum, and what do they say to each other? A session, and the messages of its five steps.

    step     a hospital sends                              it needs
    advert   two public keys, signed                       the session
    share    its secrets in pieces, sealed for the others  adverts of the threshold or more
    mask     its vector, masked                            sealed pieces of the threshold or more: these are the sharers
    confirm  a signature over the list of survivors        that list: the sharers whose masked vectors have come
    reveal   one piece of one secret of every sharer       confirmations of the threshold or more, all of one list

Everything that is signed, derived or sealed is bound to the session by ``Session.context``: whatever comes from another
study, run, round, attempt, purpose or step, or from another circle of members, does not verify and does not open.

Source: Bonawitz et al. 2017, "Practical secure aggregation for privacy-preserving machine learning", figure 4.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from bioface_core.errors import SecureError

FEWEST_MEMBERS, MOST_MEMBERS = 3, 20
KEY_BYTES = 32

_DOMAIN = "bioface secure sum 1"


def require(agreed: bool, reason: str) -> None:
    """Stops unless ``agreed``.

    Raises:
        SecureError: with the reason, which stays in the log of whoever found it.
    """
    if not agreed:
        raise SecureError(reason)


def threshold_of(share: float, members: int) -> int:
    """How many members must stay, and can open a mask together: more than ``share`` of them, and at least two."""
    return max(2, math.floor(share * members) + 1)


@dataclass(frozen=True)
class Session:
    """One masked sum; each hospital builds it from its own approved study and the question's ticket.

    Two majorities have a member in common, and an honest member signs one list of survivors only: hence more than half.

    Attributes:
        study_id: 64 hexadecimal digits.
        run_id: names the run of the server.
        round: of the run.
        attempt: of the round.
        purpose: what is summed, ``train`` or ``evaluate``.
        members: every hospital that may take part, in the roster's order: 3 to 20.
        threshold: so many must stay to the end, and so many together can open a mask: more than half.

    Raises:
        SecureError: not such members, or not such a threshold.
    """

    study_id: str
    run_id: str
    round: int
    attempt: int
    purpose: str
    members: tuple[str, ...]
    threshold: int

    def __post_init__(self) -> None:
        count = len(self.members)
        require(len(set(self.members)) == count, "a member is named twice")
        require(FEWEST_MEMBERS <= count <= MOST_MEMBERS, f"{count} members, expected 3 to 20")
        require(count < 2 * self.threshold <= 2 * count, f"threshold {self.threshold} of {count}, expected over half")

    def context(self, *purpose: str) -> bytes:
        """Names one use of a key or a signature in this session; two uses never have the same name."""
        place = (self.study_id, self.run_id, self.round, self.attempt, self.purpose, self.members, self.threshold)
        return json.dumps([_DOMAIN, *place, *purpose], separators=(",", ":")).encode("ascii")

    def index(self, hospital: str) -> int:
        """Place in the roster, from 0.

        Raises:
            SecureError: no member.
        """
        require(hospital in self.members, f"{hospital[:64]} is no member")
        return self.members.index(hospital)

    def ordered(self, hospitals: Iterable[str], what: str) -> tuple[str, ...]:
        """The same hospitals in the roster's order.

        Args:
            hospitals: names.
            what: they are, for the reason.

        Raises:
            SecureError: one that is repeated or no member, or fewer than the threshold.
        """
        names = tuple(sorted(hospitals, key=self.index))
        require(len(set(names)) == len(names), f"{what}: a member is repeated")
        require(len(names) >= self.threshold, f"{what}: {len(names)}, expected at least {self.threshold}")
        return names


@dataclass(frozen=True)
class Advert:
    """A hospital's public keys for one session.

    Attributes:
        hospital: its name in the roster.
        cipher_key: X25519 public half, 32 bytes: pieces of secrets are sealed for it.
        mask_key: X25519 public half, 32 bytes: the masks of pairs come from it.
        signature: by the hospital's identity, 64 bytes.
    """

    hospital: str
    cipher_key: bytes
    mask_key: bytes
    signature: bytes

    @staticmethod
    def signed(
        session: Session, hospital: str, cipher_key: bytes, mask_key: bytes, identity: Ed25519PrivateKey
    ) -> Advert:
        """A hospital's own."""
        return Advert(hospital, cipher_key, mask_key, identity.sign(_advert(session, hospital, cipher_key, mask_key)))


@dataclass(frozen=True)
class Sealed:
    """One hospital's pieces for another; only that other can read them.

    Attributes:
        sender: whose secrets they are of.
        recipient: who keeps them.
        ciphertext: 96 bytes.
    """

    sender: str
    recipient: str
    ciphertext: bytes


@dataclass(frozen=True)
class Revealed:
    """What one survivor opens: for every sharer the piece of exactly one secret.

    Attributes:
        self_seeds: 48 bytes for each survivor.
        mask_keys: 32 bytes for each sharer that dropped out before its masked vector came.
    """

    self_seeds: dict[str, bytes] = field(repr=False)
    mask_keys: dict[str, bytes] = field(repr=False)


def check_advert(session: Session, roster: Mapping[str, str], advert: Advert) -> None:
    """Refuses an advert that is not the member's own for this session.

    Args:
        session: this one.
        roster: Ed25519 public halves by name, 64 hexadecimal digits.
        advert: what came.

    Raises:
        SecureError: no member, keys of another length, or no genuine signature.
    """
    session.index(advert.hospital)
    keys = advert.cipher_key, advert.mask_key
    require(all(len(key) == KEY_BYTES for key in keys), f"{advert.hospital}: keys of another length")
    content = _advert(session, advert.hospital, *keys)
    require(
        _is_genuine(roster, advert.hospital, advert.signature, content), f"{advert.hospital}: advert is not genuine"
    )


def statement(session: Session, sharers: Sequence[str], survivors: Sequence[str]) -> bytes:
    """What a survivor signs: who shared, and whose vectors are in the sum; both in the roster's order."""
    return session.context("survivors", str(len(sharers)), *sharers, *survivors)


def check_confirmation(
    session: Session,
    roster: Mapping[str, str],
    hospital: str,
    signature: bytes,
    sharers: Sequence[str],
    survivors: Sequence[str],
) -> None:
    """Refuses a confirmation that is not a survivor's own, or of other lists.

    Raises:
        SecureError: no survivor, or no genuine signature.
    """
    content = statement(session, session.ordered(sharers, "sharers"), session.ordered(survivors, "survivors"))
    require(hospital in survivors, f"{hospital[:64]} confirms, and is no survivor")
    require(_is_genuine(roster, hospital, signature, content), f"{hospital}: confirmation is not genuine")


def _advert(session: Session, hospital: str, cipher_key: bytes, mask_key: bytes) -> bytes:
    """What the signature of an advert is of."""
    return session.context("advert", hospital, cipher_key.hex(), mask_key.hex())


def _is_genuine(roster: Mapping[str, str], hospital: str, signature: bytes, content: bytes) -> bool:
    """Whether a signature is that of the roster's identity; an identity that is none has no signatures."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(roster[hospital])).verify(signature, content)
    except (KeyError, ValueError, InvalidSignature):
        return False
    return True
