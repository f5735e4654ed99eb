"""Do terms move the ranking as Bayes' rule says, never too far, and does each say what it did?"""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioface_core.errors import ConfigError
from bioface_core.syndromes import catalogue
from bioface_core.terms import BACKGROUND, MOST, WEIGHT, Finding, findings, known_terms, search, term, update

TEN = catalogue().seen
EVEN = dict.fromkeys(TEN, 1 / len(TEN))
EPICANTHUS = "HP:0000286"


def plain_update(
    photo: dict[str, float], present: list[str], absent: list[str], unknown: tuple[str, ...] = ()
) -> dict[str, float]:
    """The formula of the docstring, by a plain loop over the catalogue's features."""
    after = dict(photo)
    for hpo, seen in [*((one, True) for one in present), *((one, False) for one in absent)]:
        rates = {}
        for key in photo:
            if key not in unknown:
                own = [f.probability for f in catalogue().syndromes[key].features if f.hpo == hpo]
                rates[key] = max(own, default=0.05)
        mean = sum(rates.values()) / len(rates)
        for key, rate in rates.items():
            ratio = rate / mean if seen else (1 - rate) / (1 - mean)
            after[key] *= max(0.1, min(10.0, ratio)) ** 0.5
    return {key: value / sum(after.values()) for key, value in after.items()}


@given(
    st.lists(st.sampled_from(sorted(known_terms())), max_size=8, unique=True),
    st.integers(0, 8),
    st.lists(st.floats(0.001, 1), min_size=len(TEN), max_size=len(TEN)),
)
def test_the_update_is_what_a_plain_loop_gives(terms: list[str], there: int, weights: list[float]) -> None:
    photo = {key: weight / sum(weights) for key, weight in zip(TEN, weights, strict=True)}
    found = update(photo, findings(terms[:there], terms[there:]))
    plain = plain_update(photo, terms[:there], terms[there:])
    assert {one.key: one.after for one in found} == pytest.approx(plain)
    assert {one.key: one.before for one in found} == photo
    assert sum(one.after for one in found) == pytest.approx(1)
    assert all(first.after >= second.after for first, second in itertools.pairwise(found))


def test_nothing_seen_leaves_the_photo_s_ranking() -> None:
    photo = {"noonan": 0.2, "down": 0.5, "kabuki": 0.3}
    found = update(photo, ())
    assert [one.key for one in found] == ["down", "kabuki", "noonan"]
    assert all(one.after == pytest.approx(one.before) and one.moved == () for one in found)


def test_the_order_of_findings_does_not_matter() -> None:
    one = {row.key: row.after for row in update(EVEN, findings([EPICANTHUS, "HP:0000582"], ["HP:0000158"]))}
    other = {row.key: row.after for row in update(EVEN, reversed(findings(["HP:0000582", EPICANTHUS], ["HP:0000158"])))}
    assert one == pytest.approx(other)


def test_a_term_speaks_for_those_who_have_it_and_its_absence_against() -> None:
    have = {key for key in TEN if any(f.hpo == "HP:0000582" for f in catalogue().syndromes[key].features)}
    assert 0 < len(have) < len(TEN)
    there, missing = (update(EVEN, findings(*given_)) for given_ in ((["HP:0000582"],), ((), ["HP:0000582"])))
    assert {row.key for row in there[: len(have)]} == have
    assert {row.key for row in missing[-len(have) :]} == have


@pytest.mark.parametrize("hpo", sorted(known_terms()))
def test_no_single_term_rules_a_syndrome_out(hpo: str) -> None:
    for seen in (True, False):
        for row in update(EVEN, (Finding(term(hpo), seen),)):
            assert MOST**-WEIGHT <= row.moved[0].factor <= MOST**WEIGHT
            assert row.after >= EVEN[row.key] / MOST ** (2 * WEIGHT)


def test_each_finding_says_what_it_did() -> None:
    found = update(EVEN, findings([EPICANTHUS], ["HP:0000158"]))
    down = next(row for row in found if row.key == "down")
    assert [(one.finding.term.label, one.finding.present) for one in down.moved] == [
        ("Epicanthus", True),
        ("Macroglossia", False),
    ]
    assert down.moved[0].frequency == 0.569 and down.moved[0].listed
    unlisted = [row for row in found if not row.moved[1].listed]
    assert unlisted and {row.moved[1].frequency for row in unlisted} == {BACKGROUND}
    products = {row.key: row.before * math.prod(one.factor for one in row.moved) for row in found}
    for row in found:
        assert row.after == pytest.approx(products[row.key] / sum(products.values()))


def test_a_syndrome_without_known_terms_is_not_spoken_against() -> None:
    """It keeps its odds against a syndrome of average frequency, however many terms there are."""
    photo = {"own-01": 0.5} | {key: 0.5 / len(TEN) for key in TEN}
    seen = findings(["HP:0000582", EPICANTHUS], ["HP:0000158"])
    found = {row.key: row for row in update(photo, seen)}
    assert [(one.frequency, one.listed, one.factor) for one in found["own-01"].moved] == [(None, False, 1.0)] * 3
    plain = plain_update(photo, ["HP:0000582", EPICANTHUS], ["HP:0000158"], ("own-01",))
    assert {key: row.after for key, row in found.items()} == pytest.approx(plain)
    assert found["own-01"].after > 0.3


def test_only_unknown_syndromes_stay_as_they_are() -> None:
    found = update({"own-01": 0.25, "own-02": 0.75}, findings([EPICANTHUS]))
    assert [(row.key, row.after) for row in found] == [("own-02", 0.75), ("own-01", 0.25)]


def test_a_syndrome_that_the_photo_rules_out_stays_out() -> None:
    assert update({"down": 1.0, "noonan": 0.0}, findings([EPICANTHUS]))[1].after == 0.0
    assert update({"down": 0.0, "noonan": 0.0}, findings([EPICANTHUS]))[0].after == 0.0


@pytest.mark.parametrize("text", ["HP:0000286", "hp:0000286", " Epicanthus ", "epicanthus"])
def test_a_term_is_found_by_identifier_and_by_label(text: str) -> None:
    assert term(text).hpo == EPICANTHUS


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("epicantus", "'epicantus' is no term of a syndrome we know; nearest: HP:0000286 Epicanthus"),
        ("HP:0001250", "'HP:0001250' is no term of a syndrome we know; search by a word of it"),
        ("", "'' is no term"),
    ],
)
def test_an_unknown_term_is_one_clear_line(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        findings([text])
    assert told in str(error.value) and "\n" not in str(error.value)


def test_a_term_cannot_be_both() -> None:
    with pytest.raises(ConfigError, match="HP:0000286 Epicanthus is said to be present and absent: remove one"):
        findings([EPICANTHUS], ["epicanthus"])
    assert len(findings([EPICANTHUS, "Epicanthus"])) == 1


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("epican", "Epicanthus"),
        ("EPICANTHUS", "Epicanthus"),
        ("286", "Epicanthus"),
        ("HP:0000286", "Epicanthus"),
        ("hp:00002", "Narrow face"),
        ("lobe ear", ""),
        ("bridge nasal depr", "Depressed nasal bridge"),
        ("low set", "Low-set ears"),
    ],
)
def test_search_completes_what_is_typed(text: str, first: str) -> None:
    found = [one.label for one in search(text, 50)]
    assert (first in found) if first else not any(label == "Epicanthus" for label in found)


def test_search_is_short_ordered_and_empty_for_nothing() -> None:
    assert search("") == search("   ") == search("zzz") == search("HP:") == ()
    found = search("e", 5)
    assert len(found) == 5 and all(one.label.lower().startswith("e") for one in found)
    assert len({one.hpo for one in known_terms().values()}) == len(known_terms()) > 100
