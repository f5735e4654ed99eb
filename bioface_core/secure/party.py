"""What does a hospital do in a masked sum, and when does it stop? Five steps, each once, each after its checks.

The server carries every message and may lie in all of them. A hospital's vector stays hidden as long as the server does
not have the pieces of both of the hospital's secrets: so nobody reveals both, and nobody reveals anything before the
threshold of hospitals signed one and the same list of survivors, which each of them does once.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bioface_core.errors import SecureError
from bioface_core.identity import public_hex
from bioface_core.secure.keys import pair_keys, seal_key, self_key
from bioface_core.secure.masks import Words, add_masks
from bioface_core.secure.pieces import SEED_BYTES, Pieces, cut
from bioface_core.secure.session import (
    Advert,
    Revealed,
    Sealed,
    Session,
    check_advert,
    check_confirmation,
    require,
    statement,
)

_STEPS = ("advert", "share", "mask", "confirm", "reveal", "nothing")
_NONCE = bytes(12)  # may be the same for all: every message has a key of its own


class Party:
    """One hospital's side of one session; its keys live and die with it.

    Asked out of order, or twice, it refuses, and nothing changes. A step whose checks fail is the last: the session is
    over for this hospital, and a new attempt begins with new keys.

    Args:
        session: this one.
        hospital: its own name.
        identity: its own.
        roster: Ed25519 public halves by name, 64 hexadecimal digits, from its approved study.

    Raises:
        SecureError: the hospital is no member, or the roster holds another identity for it.
    """

    def __init__(self, session: Session, hospital: str, identity: Ed25519PrivateKey, roster: Mapping[str, str]) -> None:
        session.index(hospital)
        require(roster.get(hospital) == public_hex(identity), "the roster holds another identity for this hospital")
        self._session, self._hospital, self._identity, self._roster = session, hospital, identity, dict(roster)
        self._cipher_key, self._mask_key = X25519PrivateKey.generate(), X25519PrivateKey.generate()
        self._seed = secrets.token_bytes(SEED_BYTES)
        self._next = _STEPS[0]
        self._adverts: dict[str, Advert] = {}
        self._kept: dict[str, Pieces] = {}
        self._sharers: tuple[str, ...] = ()
        self._survivors: tuple[str, ...] = ()

    def advert(self) -> Advert:
        """Step 1: fresh public keys, signed."""
        with self._step("advert"):
            cipher_key, mask_key = (key.public_key().public_bytes_raw() for key in (self._cipher_key, self._mask_key))
            own = Advert.signed(self._session, self._hospital, cipher_key, mask_key, self._identity)
            self._adverts[self._hospital] = own
            return own

    def share(self, adverts: Sequence[Advert]) -> list[Sealed]:
        """Step 2: its secrets in pieces, one pair for each of the others.

        Args:
            adverts: of the threshold or more, its own among them.

        Raises:
            SecureError: too few, one that is not genuine, repeated or of a stranger, or its own is not as it was.
        """
        with self._step("share"):
            own = self._adverts[self._hospital]
            self._session.ordered((advert.hospital for advert in adverts), "adverts")
            for advert in adverts:
                check_advert(self._session, self._roster, advert)
            self._adverts = {advert.hospital: advert for advert in adverts}
            require(self._adverts.get(self._hospital) == own, "its own advert is missing or altered")
            pieces = cut(self._session, self._hospital, self._seed, self._mask_key)
            self._kept[self._hospital] = pieces[self._hospital]
            return [self._seal(name, pieces[name]) for name in self._adverts if name != self._hospital]

    def mask(self, values_n: Words, sealed: Sequence[Sealed], model: str) -> Words:
        """Step 3: the vector under a mask of its own and one for each other sharer.

        Args:
            values_n: uint32 or uint16 (n,).
            sealed: of the threshold or more, counting itself; their senders and itself are the sharers.
            model: names what the vector is an answer about; where another hospital's is another, the sum is noise.

        Returns:
            As many words of the same type, uniform to whoever lacks the keys.

        Raises:
            SecureError: too few, or one that is repeated, not for it, of a stranger, or does not open.
        """
        with self._step("mask"):
            senders = [message.sender for message in sealed]
            self._sharers = self._session.ordered([self._hospital, *senders], "sharers")
            self._kept |= {message.sender: self._open(message) for message in sealed}
            others = [self._adverts[name] for name in self._sharers if name != self._hospital]
            pairs = pair_keys(self._session, self._mask_key, self._adverts[self._hospital], others, model)
            own = self_key(self._session, self._hospital, self._seed)
            masked_n = values_n.copy()
            add_masks(masked_n, [own, *pairs.adding], pairs.subtracting)
            return masked_n

    def confirm(self, survivors: Sequence[str]) -> bytes:
        """Step 4: its signature over who shared and who survived, the only one it gives in this session.

        Args:
            survivors: the sharers whose masked vectors are in the sum.

        Raises:
            SecureError: too few, one that is repeated or did not share, or itself is missing.
        """
        with self._step("confirm"):
            self._survivors = self._session.ordered(survivors, "survivors")
            require(set(self._survivors) <= set(self._sharers), "survivors: one did not share")
            require(self._hospital in self._survivors, "survivors: this hospital masked, and is missing")
            return self._identity.sign(statement(self._session, self._sharers, self._survivors))

    def reveal(self, confirmations: Mapping[str, bytes]) -> Revealed:
        """Step 5: its pieces of the survivors' self seeds and of the drop-outs' mask keys.

        Args:
            confirmations: of the threshold or more of the survivors, by name.

        Raises:
            SecureError: too few, or one that is not genuine, or of other lists than it signed itself.
        """
        with self._step("reveal"):
            self._session.ordered(confirmations, "confirmations")
            for name, signature in confirmations.items():
                check_confirmation(self._session, self._roster, name, signature, self._sharers, self._survivors)
            dropped = [name for name in self._sharers if name not in self._survivors]
            return Revealed(
                {name: self._kept[name].self_seed for name in self._survivors},
                {name: self._kept[name].mask_key for name in dropped},
            )

    def expect(self, name: str) -> None:
        """Refuses a step that is not the next one, so that no work is done for it; nothing changes.

        Raises:
            SecureError: another is.
        """
        require(self._next == name, f"asked to {name}, expected {self._next}")

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        """Lets each step happen once and in order; one that fails is the last."""
        self.expect(name)
        self._next = _STEPS[-1]
        yield
        self._next = _STEPS[_STEPS.index(name) + 1]

    def _seal(self, recipient: str, pieces: Pieces) -> Sealed:
        own, other = self._adverts[self._hospital], self._adverts[recipient]
        key = seal_key(self._session, self._cipher_key, own, other, other)
        ciphertext = AESGCM(key).encrypt(_NONCE, pieces.to_bytes(), self._route(self._hospital, recipient))
        return Sealed(self._hospital, recipient, ciphertext)

    def _open(self, sealed: Sealed) -> Pieces:
        require(sealed.recipient == self._hospital, f"{sealed.sender}: sealed for {sealed.recipient[:64]}")
        require(sealed.sender in self._adverts, f"{sealed.sender}: shares, and advertised no keys")
        own, other = self._adverts[self._hospital], self._adverts[sealed.sender]
        key = seal_key(self._session, self._cipher_key, other, own, other)
        try:
            content = AESGCM(key).decrypt(_NONCE, sealed.ciphertext, self._route(sealed.sender, self._hospital))
        except (InvalidTag, ValueError) as wrong:
            raise SecureError(f"{sealed.sender}: what it sealed does not open") from wrong
        return Pieces.from_bytes(content)

    def _route(self, sender: str, recipient: str) -> bytes:
        """What a sealed message is bound to besides its key."""
        return self._session.context("sealed", sender, recipient)
