"""What does it cost to hide every update? A masked sum with a drop-out, in CPU seconds of one thread.

Ten hospitals with eleven million values each (SE-IR-18), one after the other in this process. One of them goes away
after it shared its secrets, so the server opens nine self masks and the nine masks of its pairs. The network is not in
it: a masked vector has as many bytes as a float32 one.

Fed-BioMed's masks (LOM, pure Python) were measured once: 1.85 s for a million values and three peers. That is taken for
all three together; were it each one's, theirs would be three times as many seconds. Every peer makes a mask for every
other, so three make six masks and ten make ninety: seconds are scaled by masks and by length. LOM survives no drop-out.

Flower's SecAgg+ is run beside ours: three, five and ten hospitals with a million values, the same drop-out, the same
threshold, and for both all that hospitals and server compute from first key to last number (simulation/secagg_plus.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import Tensor

from bioface_core.fixed_point import FixedPoint
from bioface_core.identity import public_hex
from bioface_core.secret import SecretRandom
from bioface_core.secure import Advert, Party, Sealed, Session, threshold_of
from server.secure import unmask
from simulation.ratio import Ratio
from simulation.secagg_plus import RANGE, secagg_plus_sum
from simulation.spent import SERVER, Spent

_VALUES, _HOSPITALS, _REPEATS = 11_000_000, 10, 3
_BOUND = 100.0
_MEMBER_S = 1.5  # promised, of each hospital
_LOM_S_PER_MASK = 1.85 / (3 * 2)  # and million values
_LOM_PART = 1 / 20  # promised
_PLAIN_TIMES = 5.0  # promised for the whole, beside the same sum without masks
_FEW_VALUES, _COHORTS, _SECAGG_PART = 1_000_000, (3, 5, 10), 0.5


def secure_ratios() -> list[Ratio]:
    """The masked sum beside what was promised, other masks, no masks, and Flower's SecAgg+."""
    torch.set_num_threads(1)
    beside_secagg = [ratio for hospitals in _COHORTS for ratio in secagg_ratios(_FEW_VALUES, hospitals, _REPEATS)]
    return [*mask_ratios(_VALUES, _HOSPITALS, _REPEATS), *beside_secagg]


def secagg_ratios(values: int, hospitals: int, repeats: int) -> list[Ratio]:
    """Our masked sum beside Flower's SecAgg+.

    Args:
        values: of each vector.
        hospitals: 3 to 20; one of them drops out.
        repeats: of both sums in turn; medians count.
    """
    vector_n, fixed = torch.randn(values).clamp_(-RANGE, RANGE), FixedPoint(_BOUND, hospitals)
    threshold = threshold_of(0.5, hospitals)
    runs = [(masked_sum(vector_n, fixed), secagg_plus_sum(vector_n, hospitals, threshold)) for _ in range(repeats)]
    size = f"{hospitals} hospitals, {values / 1e6:g} M values"
    slowest = [(ours.slowest, other.slowest) for ours, other in runs]
    server = [(ours.seconds[SERVER], other.seconds[SERVER]) for ours, other in runs]
    return [
        Ratio.of_pairs(f"{size}: slowest hospital / in Flower's SecAgg+", _SECAGG_PART, slowest),
        Ratio.of_pairs(f"{size}: server / in Flower's SecAgg+", _SECAGG_PART, server),
    ]


def mask_ratios(values: int, hospitals: int, repeats: int) -> list[Ratio]:
    """The masked sum beside what was promised, beside Fed-BioMed's masks, and beside the same sum without masks.

    Args:
        values: of each vector.
        hospitals: 3 to 20; one of them drops out.
        repeats: of both sums in turn; medians count.
    """
    vector_n, fixed = torch.randn(values).clamp_(-_BOUND, _BOUND), FixedPoint(_BOUND, hospitals)
    runs = [(masked_sum(vector_n, fixed), plain_sum(vector_n, fixed)) for _ in range(repeats)]
    slowest, whole = median(masked.slowest for masked, _ in runs), median(masked.whole for masked, _ in runs)
    lom = _LOM_S_PER_MASK * hospitals * (hospitals - 1) * values / 1e6
    plain = median(spent.whole for _, spent in runs)
    size = f"{hospitals} hospitals, {values / 1e6:g} M values"
    return [
        Ratio.of(f"{size}: slowest hospital / promised CPU time", 1.0, slowest, _MEMBER_S),
        Ratio.of(f"{size}: hospitals and server / Fed-BioMed's masks", _LOM_PART, whole, lom),
        Ratio.of(f"{size}: hospitals and server / without masks", _PLAIN_TIMES, whole, plain),
    ]


def masked_sum(vector_n: Tensor, fixed: FixedPoint) -> Spent:
    """One session, in which the last hospital drops out before it masks; all have the same vector."""
    spent, session, parties = Spent(), *_members(fixed.members)
    adverts, sealed = _exchange_secrets(parties, spent)
    stayed, total_n = session.members[:-1], np.zeros(len(vector_n), np.uint32)
    for name in stayed:
        with spent.by(name):
            values_n = fixed.encode(vector_n, SecretRandom())
            masked_n = parties[name].mask(values_n, [one for one in sealed if one.recipient == name], "")
        with spent.by(SERVER):
            np.add(total_n, masked_n, out=total_n)
    confirmations, revealed = {}, {}
    for name in stayed:
        with spent.by(name):
            confirmations[name] = parties[name].confirm(stayed)
    for name in stayed:
        with spent.by(name):
            revealed[name] = parties[name].reveal(confirmations)
    with spent.by(SERVER):
        sum_n = fixed.decode(unmask(session, adverts, session.members, total_n, stayed, revealed, ""))
    _check(sum_n, vector_n, len(stayed), fixed)
    return spent


def plain_sum(vector_n: Tensor, fixed: FixedPoint) -> Spent:
    """The same sum of the same fixed-point numbers, which anybody at the server can read."""
    spent, total_n = Spent(), np.zeros(len(vector_n), np.uint32)
    for number in range(fixed.members - 1):
        with spent.by(str(number)):
            values_n = fixed.encode(vector_n, SecretRandom())
        with spent.by(SERVER):
            np.add(total_n, values_n, out=total_n)
    with spent.by(SERVER):
        sum_n = fixed.decode(total_n)
    _check(sum_n, vector_n, fixed.members - 1, fixed)
    return spent


def _members(count: int) -> tuple[Session, dict[str, Party]]:
    """A session with keys that every member has had all along."""
    identities = {f"hospital-{number}": Ed25519PrivateKey.generate() for number in range(count)}
    roster = {name: public_hex(identity) for name, identity in identities.items()}
    session = Session("0" * 64, "bench", 1, 1, "train", tuple(identities), threshold_of(0.5, count))
    return session, {name: Party(session, name, identity, roster) for name, identity in identities.items()}


def _exchange_secrets(parties: dict[str, Party], spent: Spent) -> tuple[Sequence[Advert], Sequence[Sealed]]:
    """The first two steps, in which all take part."""
    adverts: list[Advert] = []
    sealed: list[Sealed] = []
    for name, party in parties.items():
        with spent.by(name):
            adverts.append(party.advert())
    for name, party in parties.items():
        with spent.by(name):
            sealed += party.share(adverts)
    return adverts, sealed


def _check(sum_n: Tensor, vector_n: Tensor, hospitals: int, fixed: FixedPoint) -> None:
    """A benchmark of a wrong sum says nothing."""
    off_n = sum_n.sub_(vector_n, alpha=hospitals).abs_()
    assert float(off_n.max()) <= hospitals / fixed.scale, "the sum is wrong"
