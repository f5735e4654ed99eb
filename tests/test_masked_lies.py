"""Does a hospital stop when the lab lies in a masked sum? One word leaves, and the reason is in the hospital's log.

Lies about keys, shares and signatures are taken apart in ``tests/test_secure_lies.py``; here they come as messages.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bioface_core.messages import Code, Phase, Request
from bioface_core.secure import Advert
from bioface_core.steps import AskKeys, AskMasked, Keys, Masked, Opening
from bioface_core.wire import pack_request
from client.app import answer
from client.masking import Masking
from simulation.identities import open_identity
from tests.lying_lab import LyingLab, message_of
from tests.masked_federation import MaskedSites, masked_study
from tests.small_federation import SmallLearner

STUDY = masked_study(5)
ONE, TWO, THREE, FOUR, FIVE = (f"hospital-{number}" for number in range(1, 6))
EVERYBODY = (ONE, TWO, THREE, FOUR, FIVE)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LyingLab]:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    yield LyingLab(MaskedSites(STUDY, tmp_path))


@pytest.fixture
def remembering(tmp_path: Path, lab: LyingLab) -> Iterator[LyingLab]:
    """Hospitals with a disk."""
    lab.sites = MaskedSites(STUDY, tmp_path, remembers=True)
    yield lab
    lab.sites.close()


@pytest.fixture
def refused(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """The reasons that are in the hospitals' logs, and how many words left must be as many."""
    reasons: list[str] = []
    yield reasons
    facts = [vars(record)["facts"] for record in caplog.get_records("call") if record.msg == "refused"]
    assert [fact["code"] for fact in facts] == [Code.SECURE] * len(reasons)
    assert all(reason in fact["why"] for reason, fact in zip(reasons, facts, strict=True)), facts


def test_keys_that_nobody_signed(lab: LyingLab, refused: list[str]) -> None:
    adverts = [lab.keys(name) for name in EVERYBODY]
    adverts[1] = replace(adverts[1], mask_key=adverts[2].mask_key)
    assert lab.shares(ONE, adverts) == Code.SECURE
    refused.append("hospital-2: advert is not genuine")


def test_a_hospital_that_is_not_in_the_roster(lab: LyingLab, refused: list[str]) -> None:
    adverts = [lab.keys(name) for name in EVERYBODY]
    stranger = Advert("hospital-6", bytes(32), bytes(32), bytes(64))
    assert lab.shares(ONE, [*adverts, stranger]) == Code.SECURE
    refused.append("hospital-6 is no member")


def test_fewer_than_the_threshold(lab: LyingLab, refused: list[str]) -> None:
    adverts = [lab.keys(name) for name in EVERYBODY]
    assert lab.shares(ONE, adverts[:2]) == Code.SECURE
    assert lab.shares(ONE, adverts) == Code.SECURE, "the session is over"
    refused.extend(["adverts: 2, expected at least 3", "asked to share"])


@pytest.mark.parametrize("change", [{"round": 2}, {"attempt": 2}, {"run_id": "other"}, {"phase": Phase.EVALUATE}])
def test_keys_of_another_sum(lab: LyingLab, refused: list[str], change: dict[str, object]) -> None:
    theirs = lab.ticket
    lab.ticket = replace(theirs, **change)  # type: ignore[arg-type]
    old = [lab.keys(name) for name in (TWO, THREE, FOUR)]
    lab.ticket = theirs
    assert lab.shares(ONE, [lab.keys(ONE), *old]) == Code.SECURE
    refused.append("advert is not genuine")


def test_a_sum_that_this_process_did_not_begin(remembering: LyingLab, refused: list[str]) -> None:
    shares = remembering.up_to_shares()
    remembering.sites.kill(0)
    assert (
        remembering.mask(ONE, {sender: sealed[ONE] for sender, sealed in shares.items() if sender != ONE})
        == Code.SECURE
    )
    assert remembering.ask(ONE, AskKeys(remembering.ticket, SmallLearner.schema)) == Code.SECURE, "nor begins it again"
    refused.extend(["no such sum was begun since", "begun before: its keys are gone"])
    remembering.ticket = replace(remembering.ticket, attempt=2)
    assert isinstance(remembering.ask(ONE, AskKeys(remembering.ticket, SmallLearner.schema)), Keys)


def test_every_step_is_taken_once(lab: LyingLab, refused: list[str]) -> None:
    lab.up_to_masked()
    adverts = [Advert(name, bytes(32), bytes(32), bytes(64)) for name in EVERYBODY]
    assert lab.ask(ONE, AskKeys(lab.ticket, SmallLearner.schema)) == Code.SECURE
    assert lab.shares(ONE, adverts) == Code.SECURE
    again = replace(lab.ticket, ask=2)
    assert lab.ask(ONE, AskMasked(Request(again, SmallLearner.schema, SmallLearner().start()), {})) == Code.SECURE
    confirmations = {name: lab.confirm(name, EVERYBODY) for name in EVERYBODY}
    assert lab.confirm(ONE, EVERYBODY) == Code.SECURE
    assert all(isinstance(signature, bytes) for signature in confirmations.values())
    signed = {name: signature for name, signature in confirmations.items() if isinstance(signature, bytes)}
    assert isinstance(lab.unmask(ONE, signed), Opening)
    assert lab.unmask(ONE, signed) == Code.SECURE
    refused.extend(["begun before", "asked to share", "asked to mask", "asked to confirm", "asked to reveal"])


def test_two_lists_of_survivors(lab: LyingLab, refused: list[str]) -> None:
    """Half of them are told that the first hospital has dropped out, the others that it survived."""
    lab.up_to_masked()
    survived, dropped = EVERYBODY, (TWO, THREE, FOUR, FIVE)
    signed = {name: lab.confirm(name, survived if name in (ONE, TWO) else dropped) for name in EVERYBODY}
    signatures = {name: signature for name, signature in signed.items() if isinstance(signature, bytes)}
    assert signatures.keys() == set(EVERYBODY)
    for name in EVERYBODY:
        assert lab.unmask(name, signatures) == Code.SECURE
        refused.append(
            "confirmation is not genuine" if name in (ONE, TWO) else "hospital-1 confirms, and is no survivor"
        )


def test_too_few_signatures(lab: LyingLab, refused: list[str]) -> None:
    lab.up_to_masked()
    signed = {name: lab.confirm(name, EVERYBODY) for name in EVERYBODY}
    few = {name: signature for name, signature in signed.items() if isinstance(signature, bytes) and name < THREE}
    assert lab.unmask(ONE, few) == Code.SECURE
    refused.append("confirmations: 2, expected at least 3")


def test_shares_that_leave_somebody_out_for_some(lab: LyingLab, refused: list[str]) -> None:
    """The first is not told that the second shared: it cannot sign what the others sign."""
    shares = lab.up_to_shares()
    for name in EVERYBODY:
        others = [it for it in EVERYBODY if it != name and (name, it) != (ONE, TWO)]
        assert isinstance(lab.mask(name, {sender: shares[sender][name] for sender in others}), Masked)
    assert lab.confirm(ONE, EVERYBODY) == Code.SECURE
    survivors = (TWO, THREE, FOUR, FIVE)
    signed = {name: lab.confirm(name, survivors) for name in survivors}
    signatures = {name: signature for name, signature in signed.items() if isinstance(signature, bytes)}
    assert isinstance(lab.unmask(TWO, signatures), Opening), "the others agree, and the first is a drop-out"
    refused.append("survivors: one did not share")


def test_pieces_for_somebody_else(lab: LyingLab, refused: list[str]) -> None:
    shares = lab.up_to_shares()
    assert lab.mask(ONE, {sender: shares[sender][TWO] for sender in (THREE, FOUR, FIVE)}) == Code.SECURE
    refused.append("hospital-3")


def opened_by_everybody(lab: LyingLab) -> None:
    """The first hospital has opened the sum of all."""
    lab.up_to_masked()
    signed = {name: lab.confirm(name, EVERYBODY) for name in EVERYBODY}
    signatures = {name: signature for name, signature in signed.items() if isinstance(signature, bytes)}
    assert isinstance(lab.unmask(ONE, signatures), Opening)


def test_another_sum_of_the_same_round(remembering: LyingLab, refused: list[str]) -> None:
    """It was opened with all of them; without the fifth, it would be the fifth one's update."""
    opened_by_everybody(remembering)
    remembering.sites.kill(0)
    remembering.ticket = replace(remembering.ticket, attempt=2)
    remembering.up_to_masked()
    assert remembering.confirm(ONE, (ONE, TWO, THREE, FOUR)) == Code.SECURE
    assert isinstance(remembering.confirm(TWO, (ONE, TWO, THREE, FOUR)), bytes), "it opened nothing"
    refused.append("a sum of other hospitals was opened of these answers before")


def test_a_sum_of_the_same_answers_in_another_run(remembering: LyingLab, refused: list[str]) -> None:
    """Training is the same in every run: with others in the sum, a new run would give one hospital's part away."""
    opened_by_everybody(remembering)
    remembering.ticket = replace(remembering.ticket, run_id="another")
    remembering.up_to_masked()
    assert remembering.confirm(ONE, (ONE, TWO, THREE, FOUR)) == Code.SECURE
    refused.append("a sum of other hospitals was opened of these answers before")


def test_a_second_question_does_not_rename_the_answer_to_the_first(remembering: LyingLab, refused: list[str]) -> None:
    """It is refused; what it asked about must not stand in the memory for what was masked before."""
    opened_by_everybody(remembering)
    remembering.ticket = replace(remembering.ticket, attempt=2)
    remembering.up_to_masked()
    other = Request(replace(remembering.ticket, ask=2), SmallLearner.schema, SmallLearner().start() + 1)
    assert remembering.ask(ONE, AskMasked(other, {})) == Code.SECURE
    assert remembering.confirm(ONE, (ONE, TWO, THREE, FOUR)) == Code.SECURE
    refused.extend(["asked to mask", "a sum of other hospitals was opened of these answers before"])


def test_nothing_is_computed_out_of_turn(lab: LyingLab, refused: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that nobody can be sent the answer of would be charged to patients all the same."""
    lab.keys(ONE)
    monkeypatch.setattr(SmallLearner, "train", None)
    assert lab.mask(ONE, {}) == Code.SECURE
    refused.append("asked to mask, expected share")


@pytest.mark.parametrize("change", [{"run_id": "another"}, {"round": 2}])
@pytest.mark.parametrize("unit", ["none", "patient"])
def test_counts_of_the_same_model_in_another_run_or_round(
    tmp_path: Path, unit: str, change: dict[str, object], refused: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts have no noise, whatever the training has: with others in the sum, they would be one hospital's."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr("bioface_core.accounting.noise_for", lambda *_: 1.0)
    lab = LyingLab(MaskedSites(STUDY.replace({"privacy": {"unit": unit}}), tmp_path, remembers=True))
    lab.ticket = replace(lab.ticket, phase=Phase.EVALUATE)
    opened_by_everybody(lab)
    lab.ticket = replace(lab.ticket, **change)  # type: ignore[arg-type]
    lab.up_to_masked()
    assert lab.confirm(ONE, (ONE, TWO, THREE, FOUR)) == Code.SECURE
    lab.sites.close()
    refused.append("a sum of other hospitals was opened of these answers before")


def test_what_was_opened_is_what_was_signed(remembering: LyingLab, refused: list[str]) -> None:
    """Not the list that a second question named, which was refused."""
    remembering.up_to_masked()
    signed = {name: remembering.confirm(name, EVERYBODY) for name in EVERYBODY}
    assert remembering.confirm(ONE, (ONE, TWO, THREE)) == Code.SECURE
    signatures = {name: signature for name, signature in signed.items() if isinstance(signature, bytes)}
    assert isinstance(remembering.unmask(ONE, signatures), Opening)
    remembering.ticket = replace(remembering.ticket, attempt=2)
    remembering.up_to_masked()
    assert remembering.confirm(ONE, (ONE, TWO, THREE)) == Code.SECURE
    assert isinstance(remembering.confirm(ONE, EVERYBODY), bytes)
    refused.extend(["asked to confirm", "a sum of other hospitals was opened"])


def test_a_question_without_masks(lab: LyingLab, caplog: pytest.LogCaptureFixture) -> None:
    site, schema = lab.sites.site(0), SmallLearner.schema
    request = Request(lab.ticket, schema, SmallLearner().start())
    message = message_of(pack_request(request), "train", 1)
    reply = answer(message, None, lambda _: site)  # type: ignore[arg-type]
    assert reply.error.reason == Code.MALFORMED
    with pytest.raises(Exception, match="what leaves must be masked"):
        site.answer(request)


def test_a_policy_s_fewest_survivors(lab: LyingLab, caplog: pytest.LogCaptureFixture) -> None:
    site = lab.sites.site(0)
    identity = open_identity(lab.sites.folder, ONE)
    site._masking = Masking(STUDY, ONE, identity, fewest_survivors=5)
    lab.up_to_masked()
    assert lab.confirm(ONE, (ONE, TWO, THREE, FOUR)) == Code.POLICY
    assert "4 in the sum, the policy demands 5" in vars(caplog.records[-1])["facts"]["why"]
