"""What do a clinician's findings add to the photo? HPO terms, present or absent, update the ranking by likelihood.

The photo's ranking is left as it is; the updated one stands beside it, with what each term did to each syndrome:

    after(s)  is proportional to  before(s) * product over terms of ratio(term, s) ** WEIGHT
    ratio     how often the syndrome has the term (or lacks it, where it was looked for and is absent), over how often
              the ranked syndromes have it on average; never above 10 nor below 1/10

What is assumed, and wrong to some degree:

    frequencies    those of configs/syndromes.yaml, from HPO annotations, mostly class midpoints (0.545 for "frequent").
    background     a term that a syndrome's list lacks is given 0.05. HPO calls a feature "occasional" from 5 % on; what
                   is rarer, or was never looked for, is not listed. It is our reading of the lists, counted nowhere.
    bound          lists have gaps and observers err, so no single term may rule a syndrome out.
    independence   terms are taken to be independent given the syndrome (naive Bayes): two terms for one sign count
                   twice.
    no ontology    a term speaks for itself, not for its parents: give the term that the catalogue has.
    counted twice  all terms here are facial, and the photo shows the face: its probability has used part of the same
                   evidence. The logarithm of every ratio is therefore halved (WEIGHT). That is a guess between the two
                   ends, 1 for terms the photo knows nothing of and 0 for terms it shows in full.

A syndrome without known terms (a hospital's own, in its gallery) is not spoken for or against: ratio 1, not a list of
zeros.

Legend: K syndromes, T terms.

Source: Robinson et al. 2020, "Interpretable clinical genomics with a likelihood ratio paradigm" (LIRICAL) for ratios of
phenotypic terms. Background, bound and weight are ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache

from bioface_core.errors import ConfigError
from bioface_core.syndromes import catalogue

BACKGROUND = 0.05
MOST = 10.0  # a term's largest ratio, and one over its smallest
WEIGHT = 0.5


@dataclass(frozen=True)
class Term:
    """A facial term that some syndrome of the catalogue has.

    Attributes:
        hpo: identifier, such as ``HP:0000286``.
        label: the term's name.
    """

    hpo: str
    label: str


@dataclass(frozen=True)
class Finding:
    """What a clinician saw: a term, and whether it is there or was looked for and is not."""

    term: Term
    present: bool


@dataclass(frozen=True)
class Moved:
    """What one finding did to one syndrome.

    Attributes:
        finding: which one.
        frequency: share of the syndrome's patients who have the term; None where the syndrome's terms are unknown.
        listed: whether that comes from the syndrome's list; otherwise it is the background rate.
        factor: what the syndrome's odds were multiplied by, against a syndrome that nothing is known of.
    """

    finding: Finding
    frequency: float | None
    listed: bool
    factor: float


@dataclass(frozen=True)
class Updated:
    """A syndrome's probability by the photo, and by photo and terms.

    Attributes:
        key: of the syndrome.
        before: by the photo.
        after: by photo and terms.
        moved: one for each finding, in the order they were given.
    """

    key: str
    before: float
    after: float
    moved: tuple[Moved, ...]


@lru_cache(maxsize=1)
def known_terms() -> dict[str, Term]:
    """Identifier -> term, of all syndromes of the catalogue, in the order of the labels."""
    found = {
        feature.hpo: Term(feature.hpo, feature.label)
        for syndrome in catalogue().syndromes.values()
        for feature in syndrome.features
    }
    return {term.hpo: term for term in sorted(found.values(), key=lambda term: (term.label.lower(), term.hpo))}


def search(text: str, top: int = 10) -> tuple[Term, ...]:
    """Terms for an autocomplete: those whose identifier or label begins, word for word, as was typed.

    Args:
        text: an identifier or its digits, in part, or beginnings of words in any order.
        top: how many, at most.

    Returns:
        Labels that begin with the text first, then by label. Nothing for an empty text.
    """
    typed = text.strip().lower()
    found = [term for term in known_terms().values() if typed and (_is_id(typed, term) or _has_words(typed, term))]
    return tuple(sorted(found, key=lambda term: not term.label.lower().startswith(typed))[:top])


def term(text: str) -> Term:
    """The term with an identifier or a label.

    Raises:
        ConfigError: the catalogue has none; the nearest is named.
    """
    terms, typed = known_terms(), text.strip()
    if typed.upper() in terms:
        return terms[typed.upper()]
    by_label = {one.label.lower(): one for one in terms.values()}
    if typed.lower() in by_label:
        return by_label[typed.lower()]
    names = [*by_label] if not typed.upper().startswith("HP:") else []
    nearest = get_close_matches(typed.lower(), names, n=1, cutoff=0.5)
    hint = f"nearest: {by_label[nearest[0]].hpo} {by_label[nearest[0]].label}" if nearest else "search by a word of it"
    raise ConfigError(f"{typed!r} is no term of a syndrome we know; {hint}")


def findings(present: Iterable[str] = (), absent: Iterable[str] = ()) -> tuple[Finding, ...]:
    """What was seen, present terms first, each term once.

    Args:
        present: identifiers or labels of terms that are there.
        absent: of terms that were looked for and are not there.

    Raises:
        ConfigError: an unknown term, or one that is said to be both.
    """
    seen, missed = ({term(text): None for text in texts} for texts in (present, absent))
    both = next((one for one in seen if one in missed), None)
    if both is not None:
        raise ConfigError(f"{both.hpo} {both.label} is said to be present and absent: remove one of them")
    return (*(Finding(one, True) for one in seen), *(Finding(one, False) for one in missed))


def update(photo: Mapping[str, float], seen: Iterable[Finding]) -> tuple[Updated, ...]:
    """The ranking by photo and terms.

    Args:
        photo: key -> probability of each of the K ranked syndromes; they sum to 1.
        seen: the findings.

    Returns:
        All K, likeliest first; of equals, the first of ``photo``. ``after`` sums to 1.
    """
    seen = tuple(seen)
    lists = {key: _frequencies(key) for key in photo}
    moved = {key: tuple(_moved(one, key, lists) for one in seen) for key in photo}
    likely = {key: before * math.prod(move.factor for move in moved[key]) for key, before in photo.items()}
    total = sum(likely.values())
    ranked = [
        Updated(key, before, likely[key] / total if total else before, moved[key]) for key, before in photo.items()
    ]
    return tuple(sorted(ranked, key=lambda one: -one.after))


@lru_cache(maxsize=64)
def _frequencies(key: str) -> dict[str, float] | None:
    """Identifier -> share of a syndrome's patients; None where the catalogue does not know the syndrome."""
    syndrome = catalogue().syndromes.get(key)
    if syndrome is None:
        return None
    found: dict[str, float] = {}
    for feature in syndrome.features:
        found[feature.hpo] = max(feature.probability, found.get(feature.hpo, 0.0))
    return found


def _moved(seen: Finding, key: str, lists: Mapping[str, dict[str, float] | None]) -> Moved:
    """What a finding does to a syndrome."""
    own = lists[key]
    if own is None:
        return Moved(seen, None, False, 1.0)
    shares = [known.get(seen.term.hpo, BACKGROUND) for known in lists.values() if known is not None]
    frequency, mean = own.get(seen.term.hpo, BACKGROUND), sum(shares) / len(shares)
    ratio = frequency / mean if seen.present else (1 - frequency) / (1 - mean) if mean < 1 else 1.0
    return Moved(seen, frequency, seen.term.hpo in own, min(max(ratio, 1 / MOST), MOST) ** WEIGHT)


def _is_id(typed: str, one: Term) -> bool:
    digits = typed.removeprefix("hp:")
    number = one.hpo.removeprefix("HP:")
    return digits.isdigit() and (number.startswith(digits) or number.lstrip("0").startswith(digits))


def _has_words(typed: str, one: Term) -> bool:
    words = one.label.lower().replace(",", " ").replace("-", " ").split()
    parts = typed.replace(",", " ").replace("-", " ").split()
    return bool(parts) and all(any(word.startswith(part) for word in words) for part in parts)
