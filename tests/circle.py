"""What does an honest session look like? Hospitals and a server that play a masked sum by the book, in one process.

A test of a lie plays up to the step it is about, and then hands one hospital something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bioface_core.identity import public_hex
from bioface_core.secure import Advert, Party, Revealed, Sealed, Session, Words, threshold_of
from server.secure import unmask

NAMES = tuple(f"hospital-{number:02d}" for number in range(20))
IDENTITIES = {name: Ed25519PrivateKey.generate() for name in NAMES}
ROSTER = {name: public_hex(identity) for name, identity in IDENTITIES.items()}

MODEL = "0" * 64
STAYS = 5  # steps a hospital takes part in; fewer where it drops out


def session_of(members: int = 5, threshold: int | None = None) -> Session:
    """A session of the first hospitals."""
    return Session("0" * 64, "run", 3, 1, "train", NAMES[:members], threshold or threshold_of(0.5, members))


def party(session: Session, name: str) -> Party:
    """An honest hospital."""
    return Party(session, name, IDENTITIES[name], ROSTER)


def flipped(content: bytes, bit: int = 100) -> bytes:
    """The same but for one bit."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def vectors(session: Session, size: int = 7, seed: int = 0) -> dict[str, Words]:
    """A vector of each hospital, over the whole range."""
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 2**32, size, dtype=np.uint32) for name in session.members}


SOME = session_of(5)
OTHERS = {
    "study": replace(SOME, study_id="1" * 64),
    "run": replace(SOME, run_id="other"),
    "round": replace(SOME, round=4),
    "attempt": replace(SOME, attempt=2),
    "purpose": replace(SOME, purpose="evaluate"),
    "threshold": replace(SOME, threshold=4),
    "members": replace(SOME, members=NAMES[:6], threshold=4),
    "order": replace(SOME, members=(NAMES[1], NAMES[0], *NAMES[2:5])),
}


@dataclass
class Circle:
    """A session on its way.

    Attributes:
        session: which.
        values: what each hospital puts in.
        steps: how many each takes part in.
    """

    session: Session
    values: dict[str, Words]
    steps: dict[str, int]
    parties: dict[str, Party] = field(init=False)
    adverts: list[Advert] = field(init=False, default_factory=list)
    sealed: list[Sealed] = field(init=False, default_factory=list)
    masked: dict[str, Words] = field(init=False, default_factory=dict)
    confirmations: dict[str, bytes] = field(init=False, default_factory=dict)
    revealed: dict[str, Revealed] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.parties = {name: party(self.session, name) for name in self.session.members}

    def present(self, step: int) -> list[str]:
        """Who takes part in a step, from 1."""
        return [name for name in self.session.members if self.steps[name] >= step]

    @property
    def sharers(self) -> list[str]:
        """Who shared."""
        return self.present(2)

    @property
    def survivors(self) -> list[str]:
        """Whose masked vectors came."""
        return self.present(3)

    def for_(self, name: str) -> list[Sealed]:
        """What the others sealed for one."""
        return [message for message in self.sealed if message.recipient == name]

    def play(self, until: int = STAYS) -> Circle:
        """The first steps, honestly."""
        for step in range(1, until + 1):
            for name in self.present(step):
                self._take(step, name, self.parties[name])
        return self

    def total(self) -> Words:
        """The sum of what came, masked."""
        total = np.zeros_like(self.values[self.session.members[0]])
        for masked in self.masked.values():
            total += masked
        return total

    def unmask(self) -> Words:
        """The sum of the survivors, as the server finds it."""
        return unmask(self.session, self.adverts, self.sharers, self.total(), self.survivors, self.revealed, MODEL)

    def plain(self) -> Words:
        """The sum of the survivors, had nobody masked anything."""
        wide = np.stack([self.values[name] for name in self.survivors]).astype(np.uint64).sum(axis=0)
        return np.asarray(wide % 2**32, np.uint32)

    def _take(self, step: int, name: str, one: Party) -> None:
        """One hospital's step."""
        if step == 1:
            self.adverts.append(one.advert())
        elif step == 2:
            self.sealed += one.share(self.adverts)
        elif step == 3:
            self.masked[name] = one.mask(self.values[name], self.for_(name), MODEL)
        elif step == 4:
            self.confirmations[name] = one.confirm(self.survivors)
        else:
            self.revealed[name] = one.reveal(self.confirmations)


def circle(session: Session | None = None, steps: Sequence[int] = ()) -> Circle:
    """A session before its first step.

    Args:
        session: which; one of five by default.
        steps: how many each takes part in, in the roster's order; whoever is not named stays.
    """
    session = session or session_of()
    taken = [*steps, *[STAYS] * (len(session.members) - len(steps))]
    return Circle(session, vectors(session), dict(zip(session.members, taken, strict=True)))
