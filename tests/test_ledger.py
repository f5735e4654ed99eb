"""Is no privacy spent that the ledger does not know, whatever happens to the process, the disk and the clock?"""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import client.ledger
from bioface_core import accounting
from bioface_core.accounting import Charge, Plan, epsilon_of, plan_of
from bioface_core.errors import HospitalError, WireError
from bioface_core.learner import LocalResult
from bioface_core.messages import Code, Phase, Request, Ticket
from bioface_core.photos import FACE_SIZE_PX, PhotoSet
from bioface_core.seeding import generator
from client.ledger import Ledger
from client.memory import Memory
from client.people import Marks, patient_marks
from client.site import Site
from client.spending import EpsilonOf, as_one, rounds_left
from tests.small_federation import SmallLearner, in_a_process, small_study

STUDY, KEY, DELTA = "a" * 64, bytes(range(32)), 1e-4
ROUND = Charge(noise_multiplier=1.5, sampling_rate=0.1, steps=10)
_OPEN: list[Ledger] = []  # closed when a test ends


def plainly(charges: Sequence[Charge], delta: float) -> float:
    """An accountant that is quick and easy to follow: a hundredth for each step, at any noise."""
    return sum(charge.steps / charge.noise_multiplier for charge in charges) / 100


A_ROUND = plainly([ROUND], DELTA)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    Ledger.begin(tmp_path / "ledger.sqlite")
    yield tmp_path / "ledger.sqlite"
    while _OPEN:
        _OPEN.pop().close()


def open_ledger(path: Path, limit: float | None = 8.0, accountant: Any = plainly) -> Ledger:
    _OPEN.append(Ledger(path, limit, DELTA, accountant))
    return _OPEN[-1]


def ticket(round_: int = 1, attempt: int = 1, ask: int = 1, study: str = STUDY, run: str = "run") -> Ticket:
    return Ticket(study, run, round_, attempt, Phase.TRAIN, ask)


def people_of(*photos: str) -> list[Marks]:
    """One patient per word; a letter is a photo."""
    return [frozenset(letter.encode() * 16 for letter in word) for word in photos]


def spent(ledger: Ledger, patients: Sequence[Marks]) -> list[float]:
    """What each of them has lost, in rounds."""
    spending = ledger.spending()
    return [round(spending.worst(ledger.patients([one])) / A_ROUND, 6) for one in patients]


def known(ledger: Ledger, *photos: str) -> list[Marks]:
    patients = people_of(*photos)
    ledger.recognise(patients)
    return patients


def code(error: pytest.ExceptionInfo[WireError]) -> str:
    return error.value.code


def test_rounds_runs_studies_and_restarts_add_up_for_each_patient(path: Path) -> None:
    ledger = open_ledger(path)
    one, two, three = known(ledger, "a", "b", "c")
    ledger.charge(ticket(1), ROUND, [one, two])
    ledger.charge(ticket(2), ROUND, [one, two])
    ledger.close()
    ledger = open_ledger(path)
    ledger.charge(ticket(1, run="other"), ROUND, [one])
    ledger.charge(ticket(1, study="b" * 64), ROUND, [one, three])
    assert spent(ledger, [one, two, three]) == [4, 2, 1]
    first, second = ledger.studies()
    assert (first.study_id, first.rounds, first.charges, second.charges) == (STUDY, 3, 3, 1)
    assert first.epsilon == pytest.approx(3 * A_ROUND) and second.epsilon == pytest.approx(A_ROUND)


def test_the_limit_binds_the_worst_off_and_stays(path: Path) -> None:
    ledger = open_ledger(path, limit=2.5 * A_ROUND)
    one, two = known(ledger, "a", "b")
    for round_ in (1, 2):
        ledger.charge(ticket(round_), ROUND, [one])
    for _ in range(2):
        with pytest.raises(WireError) as error:
            ledger.charge(ticket(3), ROUND, [one, two])
        assert code(error) == Code.BUDGET
    ledger.charge(ticket(3), ROUND, [two])
    assert spent(ledger, [one, two]) == [2, 1], "a refusal costs nothing"
    ledger.close()
    with pytest.raises(WireError):
        open_ledger(path, limit=2.5 * A_ROUND).charge(ticket(4), ROUND, [one])


def test_without_a_limit_the_books_are_kept(path: Path) -> None:
    ledger = open_ledger(path, limit=None)
    patients = known(ledger, "a")
    for round_ in range(50):
        ledger.charge(ticket(round_), ROUND, patients)
    assert spent(ledger, patients) == [50] and ledger.last_number() == 50


@pytest.mark.parametrize(
    ("cuts", "accountant"),
    [
        ((6,), plainly),
        ((1, 5), plainly),
        ((1, 1, 1, 1, 1, 1), plainly),
        pytest.param((2, 2, 2), epsilon_of, marks=pytest.mark.slow),
    ],
)
def test_a_run_cut_into_restarts_spends_what_the_uncut_run_spends(
    path: Path, cuts: tuple[int, ...], accountant: EpsilonOf
) -> None:
    round_ = 0
    for rounds in cuts:
        ledger = open_ledger(path, None, accountant)
        patients = known(ledger, "a", "b")
        for _ in range(rounds):
            round_ += 1
            ledger.charge(ticket(round_), ROUND, patients)
        ledger.close()
    (group,) = open_ledger(path, None, accountant).spending().groups({1: 1, 2: 1})
    uncut = accountant([Charge(ROUND.noise_multiplier, ROUND.sampling_rate, 6 * ROUND.steps)], DELTA)
    assert group.epsilon == pytest.approx(uncut, rel=1e-12)


def test_a_lost_answer_is_charged_again(path: Path) -> None:
    ledger = open_ledger(path)
    patients = known(ledger, "a")
    ledger.charge(ticket(), ROUND, patients)
    ledger.charge(ticket(ask=2), ROUND, patients)
    ledger.charge(ticket(), ROUND, patients)
    assert [number for number, _ in ledger.charged(ticket())] == [1, 3]
    assert ledger.charged(ticket(ask=2)) == [(2, ROUND)] and ledger.charged(ticket(round_=2)) == []
    assert spent(ledger, patients) == [3]


def test_more_photos_are_the_same_patient(path: Path) -> None:
    ledger = open_ledger(path)
    ledger.charge(ticket(), ROUND, known(ledger, "ab", "c"))
    assert spent(ledger, known(ledger, "abx", "yc", "z")) == [1, 1, 0], "z is new, and nobody is missing"


def test_two_who_turn_out_to_be_one_have_been_there_twice(path: Path) -> None:
    ledger = open_ledger(path)
    ledger.charge(ticket(1), ROUND, known(ledger, "a", "b", "c"))
    ledger.charge(ticket(2), ROUND, people_of("b", "c"))
    one, other = known(ledger, "ab", "c")
    twice = as_one(ROUND, 2)
    assert (twice.noise_multiplier, twice.steps) == (0.75, 10) and twice.sampling_rate == pytest.approx(0.19)
    (worst, rest) = ledger.spending().groups(ledger.patients([one, other]))
    assert worst.charges == (twice, ROUND) and rest.charges == (ROUND, ROUND)


def test_one_who_is_taken_for_two_costs_more(path: Path) -> None:
    ledger = open_ledger(path)
    patients = known(ledger, "ab", "bc")
    assert list(ledger.patients(patients).values()) == [2]
    ledger.charge(ticket(), ROUND, patients)
    assert ledger.spending().groups(ledger.patients())[0].charges == (as_one(ROUND, 2),)


def test_being_there_twice_is_bounded_by_the_charge_for_it() -> None:
    """The plain accountant's answer for the loss of somebody drawn twice, on a fine grid, for one step."""
    charge, values = Charge(1.0, 0.3, 1), torch.linspace(-20, 20, 400_001, dtype=torch.float64)

    def density(shift: float) -> torch.Tensor:
        return torch.exp(-(values - shift).square() / 2) / math.sqrt(2 * math.pi)

    with_them = 0.49 * density(0) + 0.42 * density(1) + 0.09 * density(2)
    bound = epsilon_of([as_one(charge, 2)], DELTA)
    for one, other in ((with_them, density(0)), (density(0), with_them)):
        delta = float((one - torch.exp(torch.tensor(bound)) * other).clamp(min=0).sum()) * 1e-4
        assert delta <= DELTA


def test_whoever_is_not_recognised_may_be_anybody_who_is_missing(path: Path) -> None:
    ledger = open_ledger(path)
    ledger.charge(ticket(1), ROUND, known(ledger, "a", "b", "c"))
    ledger.charge(ticket(2), ROUND, people_of("a"))
    assert spent(ledger, known(ledger, "b", "c", "x")) == [1, 1, 2], "x may be a"
    assert spent(ledger, known(ledger, "A", "B", "C")) == [2, 2, 2], "the whole store was prepared anew"


def test_newcomers_are_new_where_the_hospital_says_so(path: Path) -> None:
    ledger = open_ledger(path)
    ledger.charge(ticket(1), ROUND, known(ledger, "a"))
    ledger.recognise(people_of("x"), trust_newcomers=True)
    assert spent(ledger, people_of("x", "a")) == [0, 1]


def photos(patients: list[int], seed: str = "photos") -> PhotoSet:
    shape = (len(patients), 3, FACE_SIZE_PX, FACE_SIZE_PX)
    pixels = torch.randint(256, shape, generator=generator(seed), dtype=torch.uint8)
    return PhotoSet(pixels, torch.zeros(len(patients), dtype=torch.int64), torch.tensor(patients))


def test_marks_are_of_the_photos_under_the_key() -> None:
    everybody = photos([5, 5, 2, 9])
    marks = patient_marks(everybody, KEY)
    assert [len(one) for one in marks] == [1, 2, 1], "in the order of the patients' numbers"
    assert patient_marks(everybody.take(torch.tensor([3, 0, 1])), KEY) == [marks[1], marks[2]]
    assert not frozenset().union(*marks) & frozenset().union(*patient_marks(everybody, bytes(32)))
    assert not frozenset().union(*marks) & frozenset().union(*patient_marks(photos([1, 2], "others"), KEY))


def test_a_clock_that_jumps_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = open_ledger(path)
    patients = known(ledger, "a")
    for round_, year in enumerate((2030, 1970, 2100, 2001), start=1):
        frozen = type("Clock", (), {"now": staticmethod(lambda zone, year=year: datetime(year, 1, 1, tzinfo=UTC))})
        monkeypatch.setattr(client.ledger, "datetime", frozen)
        ledger.charge(ticket(round_), ROUND, patients)
    assert [ledger.charged(ticket(round_))[0][0] for round_ in (1, 2, 3, 4)] == [1, 2, 3, 4]
    assert spent(ledger, patients) == [4]


def test_a_full_disk_stops_the_charge_and_what_was_known_is_known(path: Path) -> None:
    ledger = open_ledger(path, limit=None)
    patients = known(ledger, "a")
    pages = ledger._database.execute("PRAGMA page_count").fetchone()[0]
    ledger._database.execute(f"PRAGMA max_page_count = {pages}").fetchall()
    with pytest.raises(WireError, match="full") as error:
        for round_ in range(1000):
            ledger.charge(ticket(round_), ROUND, patients)
    assert code(error) == Code.FAILED
    charged = ledger.last_number()
    ledger._database.execute("PRAGMA max_page_count = 1000000").fetchall()
    ledger.charge(ticket(), ROUND, patients)
    assert ledger.last_number() == charged + 1 and spent(ledger, patients) == [charged + 1]


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "is missing"), (b"", "is damaged"), (b"no database" * 50, "is damaged")],
)
def test_a_ledger_that_is_lost_does_not_begin_at_zero(path: Path, content: bytes | None, said: str) -> None:
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(HospitalError, match=said) as error:
        Ledger(path, 8.0, DELTA)
    assert "restore it from a backup" in str(error.value) and "\n" not in str(error.value)
    assert path.exists() == (content is not None)


def test_a_page_that_was_overwritten_is_found(path: Path) -> None:
    ledger = open_ledger(path)
    known(ledger, "a", "b")
    ledger.close()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + b"\xff" * (len(content) - len(content) // 2))
    with pytest.raises(HospitalError, match="is damaged"):
        Ledger(path, 8.0, DELTA)


def test_it_can_be_read_and_charged_by_two_at_once(path: Path) -> None:
    ledger, other = open_ledger(path, limit=2.5 * A_ROUND), open_ledger(path, limit=2.5 * A_ROUND)
    patients = known(ledger, "a")
    ledger.charge(ticket(1), ROUND, patients)
    other.charge(ticket(2), ROUND, patients)
    with pytest.raises(WireError):
        ledger.charge(ticket(3), ROUND, patients)
    assert spent(ledger, patients) == spent(other, patients) == [2]


@pytest.mark.parametrize("at_work", [False, True])
def test_a_copy_shows_what_is_and_tries_out_what_would_be(path: Path, at_work: bool) -> None:
    ledger = open_ledger(path)
    patients = known(ledger, "a", "b")
    ledger.charge(ticket(), ROUND, patients[:1])
    if not at_work:
        ledger.close()
    before = {file: file.stat().st_mtime_ns for file in (path.parent, *path.parent.iterdir())}
    copy = Ledger(path, 8.0, DELTA, plainly, copy=True)
    copy.charge(ticket(), ROUND, known(copy, "b", "x"))
    assert spent(copy, people_of("a", "b", "x")) == [1, 1, 2], "x may be a"
    copy.close()
    assert {file: file.stat().st_mtime_ns for file in (path.parent, *path.parent.iterdir())} == before
    assert spent(open_ledger(path), patients) == [1, 0]


def test_nobody_else_may_read_it(path: Path) -> None:
    open_ledger(path)
    assert path.stat().st_mode & 0o077 == 0


def test_rounds_that_are_left(path: Path) -> None:
    ledger = open_ledger(path)
    patients = known(ledger, "a", "b")
    ledger.charge(ticket(), ROUND, patients[:1])
    spending, both = ledger.spending(), ledger.patients(patients)
    assert rounds_left(spending, both, ROUND, 4.5 * A_ROUND, 10) == 3
    assert rounds_left(spending, both, ROUND, 400 * A_ROUND, 10) == 10
    assert rounds_left(spending, both, ROUND, 1.5 * A_ROUND, 10) == 0


@pytest.mark.slow
def test_three_hundred_patients_and_a_thousand_charges_are_quick(path: Path) -> None:
    ledger, patients = open_ledger(path, limit=1e6), [frozenset({str(number).encode()}) for number in range(300)]
    ledger.recognise(patients)
    with ledger._database:
        ledger._database.execute("PRAGMA synchronous = OFF")  # the disk is not what is timed
    began = time.process_time()
    for number in range(1000):
        ledger.charge(ticket(number), ROUND, patients[: 300 - number % 3])
    assert len(ledger.spending().groups(ledger.patients(patients))) == 3
    assert time.process_time() - began < 20


PRIVATE = small_study().replace({"privacy": {"unit": "patient", "epsilon": 8.0, "steps": 10}})


class PrivateLearner(SmallLearner):
    """Counts how often it draws noise, and may be killed before it does."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.worked, self._before = 0, before

    def train(
        self, vector: torch.Tensor, photos: PhotoSet, round_: int, stream: str, plan: Plan | None = None
    ) -> LocalResult:
        assert plan is not None
        self._before()
        self.worked += 1
        return replace(super().train(vector, photos, round_, stream), loss=0.0)


@contextmanager
def site(folder: Path, learner: PrivateLearner, limit: float) -> Iterator[tuple[Site, Ledger]]:
    """A site as client/node.py opens it."""
    train, heldout = photos([0, 1, 2, 3]), photos([4, 5], "heldout")
    ledger, memory = Ledger(folder / "ledger.sqlite", limit, DELTA, plainly), Memory(folder / "memory.sqlite")
    patients = patient_marks(train, KEY)
    ledger.recognise([*patients, *patient_marks(heldout, KEY)])
    charge = partial(ledger.charge, patients=patients)
    yield Site("hospital-1", PRIVATE, learner, train, heldout, memory=memory, charge=charge), ledger
    ledger.close()
    memory.close()


def asking(round_: int, ask: int = 1) -> Request:
    question = ticket(round_, ask=ask, study=PRIVATE.study_id)
    return Request(question, SmallLearner.schema, SmallLearner().start())


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Whose noise is quickly found, and whose rounds cost 0.1 of the plain epsilon each."""
    monkeypatch.setattr(accounting, "noise_for", lambda *_: 1.0)
    return plan_of(PRIVATE, 10)


def test_a_site_charges_each_new_answer_and_no_old_one(path: Path, plan: Plan) -> None:
    learner = PrivateLearner()
    for question in (asking(1), asking(2), asking(2, ask=2), asking(3)):
        with site(path.parent, learner, 8.0) as (hospital, _):
            hospital.answer(question)
    assert learner.worked == 3
    ledger = open_ledger(path)
    (study,) = ledger.studies()
    assert (study.rounds, study.charges) == (3, 3) and study.epsilon == pytest.approx(0.3)
    assert ledger.charged(asking(1).ticket) == [(1, plan.round_charge)] and not ledger.charged(asking(2, 2).ticket)


def test_a_site_whose_patients_have_nothing_left_draws_no_noise(path: Path, plan: Plan) -> None:
    learner = PrivateLearner()
    with site(path.parent, learner, 0.25) as (hospital, _):
        for round_ in (1, 2):
            hospital.answer(asking(round_))
        for ask in (1, 2):
            with pytest.raises(WireError) as error:
                hospital.answer(asking(3, ask))
            assert code(error) == Code.BUDGET
        hospital.answer(asking(2, ask=2))
    assert learner.worked == 2


def die_before_the_noise(folder: Path) -> None:
    """Runs in a process of its own."""
    accounting.noise_for = lambda *_: 1.0  # type: ignore[assignment]
    with site(folder, PrivateLearner(lambda: os.kill(os.getpid(), signal.SIGKILL)), 8.0) as (hospital, _):
        hospital.answer(asking(1))


@pytest.mark.slow
def test_a_site_killed_between_charge_and_noise_charges_again(path: Path, plan: Plan) -> None:
    assert in_a_process(die_before_the_noise, path.parent) == -signal.SIGKILL
    learner = PrivateLearner()
    with site(path.parent, learner, 8.0) as (hospital, ledger):
        hospital.answer(asking(1))
        assert [number for number, _ in ledger.charged(asking(1).ticket)] == [1, 2] and learner.worked == 1


def kill_somewhere(path: Path, moments: int) -> None:
    """Runs in a process of its own: charges and works, and dies at the given statement of SQLite."""
    ledger, left = Ledger(path, None, DELTA, plainly), iter(range(moments))

    def kill(statement: str) -> None:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    ledger._database.set_trace_callback(kill)
    ledger.charge(ticket(), ROUND, people_of("a"))
    path.with_name("used").write_text("noise was drawn")
    kill("")


@pytest.mark.slow
def test_after_kill_9_nothing_is_used_that_was_not_charged(path: Path) -> None:
    """At each statement in turn, until the process comes through."""
    known(open_ledger(path), "a")
    outcomes, ended = list[tuple[bool, bool]](), None
    while ended != 0:
        before = open_ledger(path).last_number()
        ended = in_a_process(kill_somewhere, path, len(outcomes))
        assert ended in (0, -signal.SIGKILL) and len(outcomes) < 40
        used = path.with_name("used")
        outcomes.append((open_ledger(path).last_number() > before, used.exists()))
        used.unlink(missing_ok=True)
    assert (False, True) not in outcomes, "used and not charged"
    assert {(False, False), (True, True)} <= set(outcomes)


def charge_for_ever(path: Path) -> None:
    """Runs in a process of its own: notes each use of noise in a file, after its charge."""
    ledger = Ledger(path, None, DELTA, plainly)
    with path.with_name("used").open("a", buffering=1) as used:
        for number in range(1, 10**6):
            ledger.charge(ticket(number), ROUND, people_of("a"))
            used.write("x")
            used.flush()


@pytest.mark.slow
def test_a_process_killed_at_random_moments_leaves_no_use_uncharged(path: Path) -> None:
    known(open_ledger(path), "a")
    fork = multiprocessing.get_context("forkserver")
    for moment_s in random.Random(0).choices([0.02, 0.05, 0.1, 0.2], k=6):
        process = fork.Process(target=charge_for_ever, args=(path,))
        process.start()
        while process.is_alive() and not path.with_name("used").exists():
            time.sleep(0.01)
        time.sleep(moment_s)
        process.kill()
        process.join(30)
        used = len(path.with_name("used").read_text())
        assert used <= open_ledger(path).last_number() <= used + 6, "at most one more for each kill"


@settings(max_examples=15)
@given(st.lists(st.sets(st.sampled_from("abcdef"), min_size=1), min_size=1, max_size=8))
def test_each_patient_s_loss_is_the_plain_sum(
    tmp_path_factory: pytest.TempPathFactory, cohorts: list[set[str]]
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
    Ledger.begin(path)
    ledger = Ledger(path, None, DELTA, plainly)
    everybody = known(ledger, *"abcdef")
    for round_, cohort in enumerate(cohorts, start=1):
        ledger.charge(ticket(round_), ROUND, people_of(*sorted(cohort)))
    plain = [sum(letter in cohort for cohort in cohorts) for letter in "abcdef"]
    assert spent(ledger, everybody) == plain
    ledger.close()


def test_sqlite_is_asked_to_flush_at_every_commit(path: Path) -> None:
    database: sqlite3.Connection = open_ledger(path)._database
    assert database.execute("PRAGMA synchronous").fetchone() == (2,)
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
