"""How does a masked sum become the sum? What the survivors revealed opens the masks that did not cancel.

Legend: n values of the vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bioface_core.secure import Advert, Revealed, SecureError, Session, Words
from bioface_core.secure.keys import PairKeys, pair_keys, self_key
from bioface_core.secure.masks import add_masks
from bioface_core.secure.pieces import rebuild_mask_key, rebuild_seed
from bioface_core.secure.session import require


def unmask(
    session: Session,
    adverts: Sequence[Advert],
    sharers: Sequence[str],
    masked_total: Words,
    survivors: Sequence[str],
    revealed: Mapping[str, Revealed],
    model: str,
) -> Words:
    """The sum of the survivors' vectors in their ring.

    Args:
        session: this one.
        adverts: as every member got them, each checked by ``check_advert`` when it came.
        sharers: whose pieces every sharer got.
        masked_total: uint32 or uint16 (n,), the sum of the survivors' masked vectors; left as it is.
        survivors: those hospitals.
        revealed: what the threshold of them or more have revealed, by name.
        model: names what they all were asked about.

    Returns:
        As many words of the same type.

    Raises:
        SecureError: too few, somebody revealed other secrets than those asked for, or a piece is wrong. A sum that
            would be wrong is never returned.
    """
    shared, stayed = session.ordered(sharers, "sharers"), session.ordered(survivors, "survivors")
    require(set(stayed) <= set(shared), "survivors: one did not share")
    advertised = {advert.hospital: advert for advert in adverts}
    require(set(shared) <= set(advertised), "sharers: one advertised no keys")
    dropped = [name for name in shared if name not in stayed]
    _check_revealed(session, stayed, dropped, revealed)
    seeds = {name: {keeper: one.self_seeds[name] for keeper, one in revealed.items()} for name in stayed}
    subtracting = [self_key(session, name, rebuild_seed(session, name, seeds[name])) for name in stayed]
    adding: list[bytes] = []
    for name in dropped:
        pieces = {keeper: one.mask_keys[name] for keeper, one in revealed.items()}
        missing = _missing_masks(session, advertised[name], pieces, [advertised[other] for other in stayed], model)
        adding += missing.adding
        subtracting += missing.subtracting
    total_n = masked_total.copy()
    add_masks(total_n, adding, subtracting)
    return total_n


def _missing_masks(
    session: Session, dropped: Advert, pieces: Mapping[str, bytes], survivors: Sequence[Advert], model: str
) -> PairKeys:
    """The masks of its pairs that a drop-out would have put on: with them, those of the others cancel."""
    return pair_keys(session, rebuild_mask_key(session, dropped, pieces), dropped, survivors, model)


def _check_revealed(
    session: Session, survivors: Sequence[str], dropped: Sequence[str], revealed: Mapping[str, Revealed]
) -> None:
    """Refuses what was not asked for, so that nobody's two secrets ever lie here together."""
    for name in session.ordered(revealed, "hospitals that revealed"):
        asked = name in survivors
        exact = revealed[name].self_seeds.keys() == set(survivors) and revealed[name].mask_keys.keys() == set(dropped)
        if not (asked and exact):
            raise SecureError(f"{name} revealed other secrets than those asked for")
