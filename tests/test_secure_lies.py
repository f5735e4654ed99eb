"""Does a hospital stop when somebody lies, and the server rather than find a wrong sum? Whatever is told to either."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bioface_core.secure import (
    Advert,
    Party,
    Revealed,
    Sealed,
    SecureError,
    Session,
    check_advert,
    check_confirmation,
)
from bioface_core.secure.session import statement
from server.secure import unmask
from tests.circle import (
    IDENTITIES,
    MODEL,
    NAMES,
    OTHERS,
    ROSTER,
    SOME,
    STAYS,
    Circle,
    circle,
    flipped,
    party,
    session_of,
)

FEW = session_of(3)
FIRST, SECOND, THIRD, FOURTH, LAST = SOME.members
HIDDEN = (FIRST, LAST)  # from the first hospital it is hidden that the last one shared


def forged_advert(session: Session, name: str, cipher_key: bytes, mask_key: bytes) -> Advert:
    """Keys of the hospital's own making, signed as it should be."""
    return Advert.signed(session, name, cipher_key, mask_key, IDENTITIES[name])


NEVER_MIND = bytes(32)  # a public key of small order
ADVERT_LIES: dict[str, Callable[[list[Advert]], list[Advert]]] = {
    "name of another": lambda all_: [all_[0], replace(all_[1], hospital=THIRD), *all_[3:]],
    "name of a stranger": lambda all_: [*all_[:4], replace(all_[4], hospital="nobody")],
    "name outside the session": lambda all_: [*all_[:4], replace(all_[4], hospital=NAMES[9])],
    "cipher key": lambda all_: [*all_[:4], replace(all_[4], cipher_key=flipped(all_[4].cipher_key))],
    "mask key": lambda all_: [*all_[:4], replace(all_[4], mask_key=flipped(all_[4].mask_key))],
    "keys exchanged": lambda all_: [
        *all_[:4],
        replace(all_[4], cipher_key=all_[4].mask_key, mask_key=all_[4].cipher_key),
    ],
    "signature": lambda all_: [*all_[:4], replace(all_[4], signature=flipped(all_[4].signature))],
    "no signature": lambda all_: [*all_[:4], replace(all_[4], signature=b"")],
    "signature of another": lambda all_: [*all_[:4], replace(all_[4], signature=all_[3].signature)],
    "short key": lambda all_: [*all_[:4], forged_advert(SOME, LAST, all_[4].cipher_key[:31], all_[4].mask_key)],
    "key of small order": lambda all_: [*all_[:4], forged_advert(SOME, LAST, NEVER_MIND, all_[4].mask_key)],
    "repeated": lambda all_: [*all_[:4], all_[3]],
    "repeated with other keys": lambda all_: [*all_, party(SOME, LAST).advert()],
    "own missing": lambda all_: all_[1:],
    "own with other keys": lambda all_: [party(SOME, FIRST).advert(), *all_[1:]],
    "too few": lambda all_: all_[:2],
    "none": lambda all_: [],
}


class TestAdverts:
    @pytest.mark.parametrize("lie", ADVERT_LIES)
    def test_a_lie_stops_the_hospital(self, lie: str) -> None:
        run = circle().play(1)
        with pytest.raises(SecureError):
            run.parties[FIRST].share(ADVERT_LIES[lie](run.adverts))
        with pytest.raises(SecureError, match="expected nothing"):  # and nothing goes on after it
            run.parties[FIRST].share(run.adverts)

    @pytest.mark.parametrize("other", OTHERS)
    def test_of_another_session_is_refused(self, other: str) -> None:
        replayed = party(OTHERS[other], LAST).advert()
        run = circle().play(1)
        with pytest.raises(SecureError, match="not genuine"):
            run.parties[FIRST].share([*run.adverts[:4], replayed])
        with pytest.raises(SecureError, match="not genuine"):
            check_advert(SOME, ROSTER, replayed)

    def test_a_mask_key_of_small_order_is_refused_before_anything_is_masked(self) -> None:
        run = circle(FEW).play(1)
        bad = forged_advert(FEW, THIRD, run.adverts[2].cipher_key, NEVER_MIND)
        run.adverts[2], run.parties[THIRD]._adverts[THIRD] = bad, bad
        for name in run.present(2):
            run.sealed += run.parties[name].share(run.adverts)
        with pytest.raises(SecureError, match="no secret can be agreed"):
            run.parties[FIRST].mask(run.values[FIRST], run.for_(FIRST), MODEL)

    @pytest.mark.parametrize("length", [0, 31, 33])
    def test_the_server_refuses_keys_of_another_length(self, length: int) -> None:
        for keys in ((bytes(length), bytes(32)), (bytes(32), bytes(length))):
            with pytest.raises(SecureError, match="another length"):
                check_advert(SOME, ROSTER, forged_advert(SOME, LAST, *keys))

    @pytest.mark.parametrize("identity", ["", "zz" * 32, "00" * 31, None, ROSTER[FIRST]])
    def test_an_identity_that_is_none_signs_nothing(self, identity: str | None) -> None:
        run = circle().play(1)
        roster = {name: key for name, key in (ROSTER | {LAST: identity}).items() if key is not None}
        with pytest.raises(SecureError, match="not genuine"):
            check_advert(SOME, roster, run.adverts[4])

    def test_a_party_is_a_member_with_the_identity_of_the_roster(self) -> None:
        with pytest.raises(SecureError, match="no member"):
            Party(SOME, NAMES[9], IDENTITIES[NAMES[9]], ROSTER)
        with pytest.raises(SecureError, match="another identity"):
            Party(SOME, FIRST, IDENTITIES[SECOND], ROSTER)

    def test_keys_are_fresh_in_each_session(self) -> None:
        one, two = party(SOME, FIRST).advert(), party(SOME, FIRST).advert()
        assert len({one.cipher_key, one.mask_key, two.cipher_key, two.mask_key}) == 4


SEALED_LIES: dict[str, Callable[[list[Sealed]], list[Sealed]]] = {
    "sender is another": lambda all_: [*all_[:3], replace(all_[3], sender=all_[2].sender)],
    "senders exchanged": lambda all_: [
        *all_[:2],
        replace(all_[2], sender=all_[3].sender),
        replace(all_[3], sender=all_[2].sender),
    ],
    "sender is a stranger": lambda all_: [*all_[:3], replace(all_[3], sender="nobody")],
    "sender is itself": lambda all_: [*all_[:3], replace(all_[3], sender=FIRST)],
    "for another": lambda all_: [*all_[:3], replace(all_[3], recipient=SECOND)],
    "ciphertext": lambda all_: [*all_[:3], replace(all_[3], ciphertext=flipped(all_[3].ciphertext))],
    "tag": lambda all_: [*all_[:3], replace(all_[3], ciphertext=flipped(all_[3].ciphertext, 760))],
    "cut off": lambda all_: [*all_[:3], replace(all_[3], ciphertext=all_[3].ciphertext[:-1])],
    "empty": lambda all_: [*all_[:3], replace(all_[3], ciphertext=b"")],
    "repeated": lambda all_: [*all_, all_[3]],
    "too few": lambda all_: all_[:1],
    "none": lambda all_: [],
}


class TestSealed:
    @pytest.mark.parametrize("lie", SEALED_LIES)
    def test_a_lie_stops_the_hospital(self, lie: str) -> None:
        run = circle().play(2)
        with pytest.raises(SecureError):
            run.parties[FIRST].mask(run.values[FIRST], SEALED_LIES[lie](run.for_(FIRST)), MODEL)
        with pytest.raises(SecureError, match="expected nothing"):
            run.parties[FIRST].mask(run.values[FIRST], run.for_(FIRST), MODEL)

    def test_what_was_sealed_for_another_does_not_open(self) -> None:
        run = circle().play(2)
        redirected = [replace(message, recipient=FIRST) for message in run.for_(SECOND) if message.sender != FIRST]
        with pytest.raises(SecureError, match="does not open"):
            run.parties[FIRST].mask(run.values[FIRST], redirected, MODEL)

    def test_what_was_sealed_to_go_the_other_way_does_not_open(self) -> None:
        run = circle().play(2)
        mine = [Sealed(one.recipient, FIRST, one.ciphertext) for one in run.sealed if one.sender == FIRST]
        with pytest.raises(SecureError, match="does not open"):
            run.parties[FIRST].mask(run.values[FIRST], mine, MODEL)

    @pytest.mark.parametrize("other", ["round", "attempt", "purpose"])
    def test_of_another_session_does_not_open(self, other: str) -> None:
        run, earlier = circle().play(2), circle(OTHERS[other]).play(2)
        with pytest.raises(SecureError, match="does not open"):
            run.parties[FIRST].mask(run.values[FIRST], [*run.for_(FIRST)[:3], earlier.for_(FIRST)[3]], MODEL)

    def test_of_one_who_advertised_nothing_is_refused(self) -> None:
        run = circle(steps=[STAYS, STAYS, STAYS, STAYS, 0]).play(2)
        stranger = replace(run.for_(FIRST)[0], sender=LAST)
        with pytest.raises(SecureError, match="advertised no keys"):
            run.parties[FIRST].mask(run.values[FIRST], [*run.for_(FIRST), stranger], MODEL)


SURVIVOR_LIES = {
    "too few": [FIRST, SECOND],
    "one who did not share": [FIRST, SECOND, THIRD, LAST],
    "a stranger": [FIRST, SECOND, THIRD, "nobody"],
    "repeated": [FIRST, SECOND, SECOND, THIRD],
    "without itself": [SECOND, THIRD, FOURTH],
    "none": [],
}


class TestConfirm:
    @pytest.mark.parametrize("lie", SURVIVOR_LIES)
    def test_a_list_that_cannot_be_stops_the_hospital(self, lie: str) -> None:
        run = circle(steps=[STAYS, STAYS, STAYS, STAYS, 1]).play(3)
        with pytest.raises(SecureError):
            run.parties[FIRST].confirm(SURVIVOR_LIES[lie])
        with pytest.raises(SecureError, match="expected nothing"):
            run.parties[FIRST].confirm(run.survivors)

    def test_one_list_is_signed_and_no_other(self) -> None:
        run = circle().play(3)
        run.parties[FIRST].confirm([FIRST, SECOND, THIRD])
        for survivors in ([FIRST, SECOND, THIRD], [FIRST, SECOND, FOURTH]):
            with pytest.raises(SecureError, match="asked to confirm"):
                run.parties[FIRST].confirm(survivors)


def confirmed(run: Circle, survivors: dict[str, list[str]]) -> dict[str, bytes]:
    """Signatures of the hospitals over the lists that each of them was shown."""
    return {name: run.parties[name].confirm(shown) for name, shown in survivors.items()}


class TestReveal:
    @pytest.mark.parametrize(
        "lie",
        [
            lambda all_: {name: all_[name] for name in (FIRST, SECOND)},
            lambda all_: {},
            lambda all_: all_ | {SECOND: flipped(all_[SECOND])},
            lambda all_: all_ | {SECOND: b""},
            lambda all_: all_ | {SECOND: all_[THIRD]},
            lambda all_: all_ | {LAST: all_[SECOND]},
            lambda all_: all_ | {"nobody": all_[SECOND]},
        ],
    )
    def test_a_lie_stops_the_hospital(self, lie: Callable[[dict[str, bytes]], dict[str, bytes]]) -> None:
        run = circle(steps=[STAYS, STAYS, STAYS, STAYS, 2]).play(4)
        with pytest.raises(SecureError):
            run.parties[FIRST].reveal(lie(run.confirmations))
        with pytest.raises(SecureError, match="expected nothing"):
            run.parties[FIRST].reveal(run.confirmations)

    def test_two_lists_of_survivors_open_nothing(self) -> None:
        """The server says to some that one dropped out and to others that it did not: that would give it away."""
        run = circle().play(3)
        without, full = SOME.members[:4], SOME.members
        signatures = confirmed(run, {FIRST: [*without], SECOND: [*without], THIRD: [*full], FOURTH: [*full]})
        mixed = signatures | confirmed(run, {LAST: [*full]})
        for name in SOME.members:
            with pytest.raises(SecureError, match="not genuine|no survivor"):
                run.parties[name].reveal(mixed)

    def test_a_minority_of_a_list_opens_nothing(self) -> None:
        run = circle().play(3)
        signatures = confirmed(run, {FIRST: [*SOME.members[:4]], SECOND: [*SOME.members[:4]]})
        with pytest.raises(SecureError, match="2, expected at least 3"):
            run.parties[FIRST].reveal(signatures)

    def test_two_lists_of_sharers_open_nothing(self) -> None:
        """The server hides from one hospital that the last one shared: its masks would not be those of the others."""
        run = circle().play(2)
        for name in SOME.members[:4]:
            run.parties[name].mask(
                run.values[name], [one for one in run.for_(name) if (name, one.sender) != HIDDEN], MODEL
            )
        signatures = confirmed(run, {name: [*SOME.members[:4]] for name in SOME.members[:4]})
        with pytest.raises(SecureError, match="not genuine"):
            run.parties[FIRST].reveal(signatures)

    @pytest.mark.parametrize("other", ["round", "attempt", "purpose"])
    def test_confirmations_of_another_session_are_refused(self, other: str) -> None:
        run, earlier = circle().play(4), circle(OTHERS[other]).play(4)
        with pytest.raises(SecureError, match="not genuine"):
            run.parties[FIRST].reveal(earlier.confirmations)
        with pytest.raises(SecureError, match="not genuine"):
            signature = earlier.confirmations[SECOND]
            check_confirmation(SOME, ROSTER, SECOND, signature, run.sharers, run.survivors)

    def test_a_drop_out_confirms_nothing(self) -> None:
        """Whoever is not in the list does not count for it, however genuine the signature."""
        run = circle(steps=[STAYS, STAYS, STAYS, STAYS, 2]).play(4)
        signature = IDENTITIES[LAST].sign(statement(SOME, run.sharers, run.survivors))
        with pytest.raises(SecureError, match="is no survivor"):
            run.parties[FIRST].reveal(run.confirmations | {LAST: signature})

    def test_one_secret_of_each_and_never_both(self) -> None:
        run = circle(steps=[STAYS, STAYS, 2, STAYS, 1]).play()
        for one in run.revealed.values():
            assert one.self_seeds.keys() == {FIRST, SECOND, FOURTH}
            assert one.mask_keys.keys() == {THIRD}

    @pytest.mark.parametrize("step", range(1, STAYS + 1))
    def test_asked_twice_it_refuses(self, step: int) -> None:
        run = circle().play(step)
        with pytest.raises(SecureError, match="asked to"):
            run._take(step, FIRST, run.parties[FIRST])

    @pytest.mark.parametrize("step", range(2, STAYS + 1))
    def test_asked_too_early_it_refuses_and_goes_on(self, step: int) -> None:
        run = circle()
        with pytest.raises(SecureError, match="expected advert"):
            run._take(step, FIRST, run.parties[FIRST])
        assert np.array_equal(run.play().unmask(), run.plain())


@pytest.mark.parametrize("steps", [(), (2, STAYS, 3)])
def test_answers_about_different_models_do_not_add_up(steps: tuple[int, ...]) -> None:
    """The second hospital is asked about another model than the rest, whose answers the server might know."""
    run = circle(steps=steps).play(2)
    for name in run.present(3):
        run.masked[name] = run.parties[name].mask(
            run.values[name], run.for_(name), "1" * 64 if name == SECOND else MODEL
        )
    for step in (4, STAYS):
        for name in run.present(step):
            run._take(step, name, run.parties[name])
    for model in (MODEL, "1" * 64):
        total = unmask(run.session, run.adverts, run.sharers, run.total(), run.survivors, run.revealed, model)
        assert not bool((total == run.plain()).any())


def with_piece(run: Circle, keeper: str, of: str, piece: bytes) -> None:
    """One revealed piece is another."""
    one = run.revealed[keeper]
    seeds, keys = dict(one.self_seeds), dict(one.mask_keys)
    (seeds if of in seeds else keys)[of] = piece
    run.revealed[keeper] = Revealed(seeds, keys)


def piece_of(run: Circle, keeper: str, of: str) -> bytes:
    """What was revealed."""
    one = run.revealed[keeper]
    return one.self_seeds.get(of) or one.mask_keys[of]


class TestUnmask:
    """First dropped out before it masked, last after it confirmed: three of five reveal, and all of them are needed."""

    @staticmethod
    def played() -> Circle:
        return circle(steps=[2, STAYS, STAYS, STAYS, 4]).play()

    def test_is_exact_if_nobody_lies(self) -> None:
        run = self.played()
        assert np.array_equal(run.unmask(), run.plain())

    @settings(max_examples=20, deadline=None)
    @given(st.sampled_from([SECOND, THIRD, FOURTH]), st.sampled_from(SOME.members), st.integers(0, 255))
    def test_a_bit_of_a_piece(self, keeper: str, of: str, bit: int) -> None:
        run = self.played()
        with_piece(run, keeper, of, flipped(piece_of(run, keeper, of), bit))
        try:
            total = run.unmask()
        except SecureError as error:
            assert "a piece is wrong" in str(error)
        else:  # bits of a private key that X25519 takes no notice of
            assert of == FIRST
            assert np.array_equal(total, run.plain())

    @pytest.mark.parametrize("of", [FIRST, SECOND])
    @pytest.mark.parametrize(
        "lie",
        [
            lambda run, of: piece_of(run, SECOND, of)[:-1],
            lambda run, of: b"",
            lambda run, of: bytes(len(piece_of(run, SECOND, of))),
            lambda run, of: piece_of(run, THIRD, of),
            lambda run, of: piece_of(run, SECOND, THIRD)[: len(piece_of(run, SECOND, of))],
            lambda run, of: piece_of(TestUnmask.played(), SECOND, of),
        ],
    )
    def test_another_piece(self, lie: Callable[[Circle, str], bytes], of: str) -> None:
        run = self.played()
        with_piece(run, SECOND, of, lie(run, of))
        with pytest.raises(SecureError):
            run.unmask()

    @pytest.mark.parametrize(
        "lie",
        [
            lambda one: Revealed({}, one.mask_keys),
            lambda one: Revealed(one.self_seeds, {}),
            lambda one: Revealed({**one.self_seeds, FIRST: bytes(48)}, one.mask_keys),
            lambda one: Revealed(one.self_seeds, {**one.mask_keys, SECOND: bytes(32)}),
            lambda one: Revealed({name: one.self_seeds[name] for name in (SECOND, THIRD)}, one.mask_keys),
        ],
    )
    def test_other_secrets_than_those_asked_for(self, lie: Callable[[Revealed], Revealed]) -> None:
        run = self.played()
        run.revealed[SECOND] = lie(run.revealed[SECOND])
        with pytest.raises(SecureError, match="other secrets"):
            run.unmask()

    def test_too_few(self) -> None:
        run = self.played()
        del run.revealed[THIRD]
        with pytest.raises(SecureError, match="2, expected at least 3"):
            run.unmask()

    @pytest.mark.parametrize(("name", "reason"), [(FIRST, "other secrets"), ("nobody", "no member")])
    def test_of_one_who_is_no_survivor(self, name: str, reason: str) -> None:
        run = self.played()
        run.revealed[name] = run.revealed[SECOND]
        with pytest.raises(SecureError, match=reason):
            run.unmask()

    def test_of_a_drop_out_whose_keys_are_missing(self) -> None:
        run = self.played()
        del run.adverts[0]
        with pytest.raises(SecureError, match="advertised no keys"):
            run.unmask()

    @pytest.mark.parametrize("survivors", [[SECOND, THIRD, FOURTH], [*SOME.members], [SECOND, THIRD], []])
    def test_other_survivors(self, survivors: list[str]) -> None:
        run = self.played()
        total = run.total()
        with pytest.raises(SecureError):
            unmask(SOME, run.adverts, run.sharers, total, survivors, run.revealed, MODEL)

    @pytest.mark.parametrize("sharers", [[SECOND, THIRD, FOURTH, LAST], [FIRST, SECOND, THIRD, FOURTH]])
    def test_other_sharers(self, sharers: list[str]) -> None:
        run = self.played()
        total = run.total()
        with pytest.raises(SecureError):
            unmask(SOME, run.adverts, sharers, total, run.survivors, run.revealed, MODEL)

    def test_of_another_session(self) -> None:
        run = self.played()
        total = run.total()
        with pytest.raises(SecureError, match="a piece is wrong"):
            unmask(OTHERS["attempt"], run.adverts, run.sharers, total, run.survivors, run.revealed, MODEL)
