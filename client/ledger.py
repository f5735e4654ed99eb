"""How much privacy have this hospital's patients left? Every private round is charged here before its noise is drawn.

The unit is the patient. A charge is made to all patients that a training draws from, and what a patient has lost is the
composition of every charge made to them: over rounds, runs, studies, restarts and stores. What would pass the
hospital's limit for one of them is refused. A charge is on the disk before anything is computed; it is never taken
back, and never taken for another: if the site is killed between a charge and its answer, the next answer is charged
again.

The database stands under transactions that no other process can enter, not under a lock for the process's life, so that
`bioface hospital ledger` can read it while the site works. Charges are in the order of a counter; the clock's time
stands beside each for people to read, and decides nothing.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from bioface_core.accounting import Charge, epsilon_of
from bioface_core.messages import Code, Ticket, demand
from client import people
from client.database import Kind, as_failure, copy_database, open_database, transaction
from client.people import Marks
from client.spending import EpsilonOf, Membership, Spending, bounded_epsilon

_KIND = Kind(
    content="the ledger of what this hospital's patients have spent",
    tables=(
        *people.TABLES,
        """CREATE TABLE IF NOT EXISTS members (
            cohort INTEGER, patient INTEGER, times INTEGER NOT NULL, PRIMARY KEY (cohort, patient)
        ) WITHOUT ROWID""",
        """CREATE TABLE IF NOT EXISTS charges (
            number INTEGER PRIMARY KEY AUTOINCREMENT, cohort INTEGER NOT NULL,
            study TEXT NOT NULL, run TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL,
            ask INTEGER NOT NULL, noise REAL NOT NULL, rate REAL NOT NULL, steps INTEGER NOT NULL, at TEXT NOT NULL
        )""",
    ),
    version=1,
    remedy="restore it from a backup; if there is none, nobody knows what these patients have spent: make the hospital "
    "anew (`bioface hospital init`), with patients who took part in nothing",
    alone=False,
)
_as_failure = partial(as_failure, "the ledger")


@dataclass(frozen=True)
class StudySpent:
    """What one study has spent here.

    Attributes:
        study_id: 64 hexadecimal digits.
        rounds: how many different ones were charged for, over all runs.
        charges: how often it was charged; more than rounds where answers were lost.
        epsilon: what its charges alone have cost the worst-off patient.
    """

    study_id: str
    rounds: int
    charges: int
    epsilon: float


class Ledger:
    """The books of a hospital.

    Args:
        path: of a ledger that ``begin`` has begun, such as ``state/ledger.sqlite``.
        limit_epsilon: the most that a patient may lose; None sets no limit, and keeps the books.
        limit_delta: at which epsilon is told.
        accountant: gives the epsilon of a list of charges.
        copy: works on a copy in memory: to read while another process writes, or to try out what would be.

    Raises:
        HospitalError: missing, damaged, of another version, or not writable.
    """

    def __init__(
        self,
        path: Path,
        limit_epsilon: float | None,
        limit_delta: float,
        accountant: EpsilonOf = epsilon_of,
        copy: bool = False,
    ) -> None:
        self._limit, self._delta, self._accountant = limit_epsilon, limit_delta, accountant
        self._lock = threading.Lock()
        self._database = copy_database(path, _KIND) if copy else open_database(path, _KIND, may_begin=False)

    @staticmethod
    def begin(path: Path) -> None:
        """Makes an empty ledger, for a hospital that is new: a missing one is never taken for an empty one."""
        open_database(path, _KIND).close()

    def close(self) -> None:
        """Lets go of the database."""
        self._database.close()

    def recognise(self, everybody: Sequence[Marks], trust_newcomers: bool = False) -> None:
        """Makes everybody in the hospital's store known, before anyone is charged for.

        Photos that other software has prepared anew share no mark with those of before, so whoever is not recognised
        may be anybody who is missing now: newcomers are taken to have lost as much as the worst-off of the missing.

        Args:
            everybody: in the store, of whatever syndrome, held out or not.
            trust_newcomers: takes newcomers for people who have lost nothing.

        Raises:
            WireError: the disk does not take it.
        """
        with self._writing():
            known = people.known_patients(self._database)
            for marks in everybody:
                self._recognise(marks)
            present = set(people.count_patients(self._database, everybody))
            if not trust_newcomers:
                self._inherit(present - known, known - present)

    def charge(self, ticket: Ticket, charge: Charge, patients: Sequence[Marks]) -> None:
        """Puts a charge on the disk, before any of its noise is drawn.

        Args:
            ticket: of the question whose answer costs it.
            charge: what the answer will cost.
            patients: whom the training draws from, all of them recognised before.

        Raises:
            WireError: it would pass the limit, or the disk does not take it; nothing was charged, and nothing may be
                computed.
        """
        with self._writing():
            members = people.count_patients(self._database, patients)
            if self._limit is not None:
                worst = self._spending().worst(members, [charge])
                demand(worst <= self._limit, Code.BUDGET, f"epsilon {worst:.3f}, and policy.epsilon: {self._limit:g}")
            self._enter(ticket, charge, self._cohort(members))

    def charged(self, ticket: Ticket) -> list[tuple[int, Charge]]:
        """The numbered charges made for a ticket; none where an answer was given again."""
        asked = "study = ? AND run = ? AND round = ? AND attempt = ? AND ask = ?"
        with self._lock, _as_failure():
            rows = self._database.execute(
                f"SELECT number, noise, rate, steps FROM charges WHERE {asked} ORDER BY number",
                (ticket.study_id, ticket.run_id, ticket.round, ticket.attempt, ticket.ask),
            ).fetchall()
        return [(number, Charge(noise, rate, steps)) for number, noise, rate, steps in rows]

    def cost(self, charges: Sequence[Charge]) -> float:
        """The epsilon of some charges by themselves."""
        return bounded_epsilon(self._accountant, charges, self._delta)

    def last_number(self) -> int:
        """Of the newest charge; 0 before the first."""
        with self._lock, _as_failure():
            return int(self._database.execute("SELECT COALESCE(MAX(number), 0) FROM charges").fetchone()[0])

    def spending(self) -> Spending:
        """All that was charged until now."""
        with self._lock, _as_failure():
            return self._spending()

    def patients(self, among: Sequence[Marks] | None = None) -> Mapping[int, int]:
        """Patients who were recognised before, and how often each is in the list; all of them where there is none."""
        with self._lock, _as_failure():
            if among is None:
                return dict.fromkeys(people.known_patients(self._database), 1)
            return people.count_patients(self._database, among)

    def studies(self) -> tuple[StudySpent, ...]:
        """What each study has spent, in the order in which they began."""
        summary = (
            "study, COUNT(DISTINCT run || ' ' || round), COUNT(*) FROM charges GROUP BY study ORDER BY MIN(number)"
        )
        with self._lock, _as_failure():
            rows = self._database.execute(f"SELECT {summary}").fetchall()
            alone = [self._spending(study) for study, _, _ in rows]
        return tuple(
            StudySpent(study, rounds, charges, spending.worst_of_all())
            for (study, rounds, charges), spending in zip(rows, alone, strict=True)
        )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._lock, _as_failure(), transaction(self._database):
            yield

    def _recognise(self, marks: Marks) -> None:
        """Notes down a patient; who turns out to be the same person brings along what was charged to them."""
        patient, same = people.recognise(self._database, marks)
        for other in same:
            self._add_member(patient, self._memberships(other))
            self._database.execute("DELETE FROM members WHERE patient = ?", (other,))

    def _inherit(self, newcomers: set[int], missing: set[int]) -> None:
        """Gives newcomers what was charged to the worst-off of the missing."""
        spending = self._spending()
        charged = missing & spending.histories.keys()
        if newcomers and charged:
            heritage = self._memberships(spending.worst_off(charged))
            for newcomer in newcomers:
                self._add_member(newcomer, heritage)

    def _memberships(self, patient: int) -> list[Membership]:
        return self._database.execute("SELECT cohort, times FROM members WHERE patient = ?", (patient,)).fetchall()

    def _add_member(self, patient: int, memberships: Iterable[Membership]) -> None:
        self._database.executemany(
            "INSERT INTO members VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET times = times + excluded.times",
            [(cohort, patient, times) for cohort, times in memberships],
        )

    def _cohort(self, members: Mapping[int, int]) -> int:
        """The cohort of exactly these members, made if there is none."""
        cohorts: defaultdict[int, dict[int, int]] = defaultdict(dict)
        for cohort, patient, times in self._database.execute("SELECT cohort, patient, times FROM members"):
            cohorts[cohort][patient] = times
        for cohort, found in cohorts.items():
            if found == members:
                return cohort
        new = int(self._database.execute("SELECT COALESCE(MAX(cohort), 0) + 1 FROM charges").fetchone()[0])
        for patient, times in members.items():
            self._add_member(patient, [(new, times)])
        return new

    def _enter(self, ticket: Ticket, charge: Charge, cohort: int) -> None:
        asked = (ticket.study_id, ticket.run_id, ticket.round, ticket.attempt, ticket.ask)
        cost = (charge.noise_multiplier, charge.sampling_rate, charge.steps)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._database.execute(
            "INSERT INTO charges (cohort, study, run, round, attempt, ask, noise, rate, steps, at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (cohort, *asked, *cost, now),
        )

    def _spending(self, study: str | None = None) -> Spending:
        """All charges, or those of one study."""
        charges: defaultdict[int, list[Charge]] = defaultdict(list)
        for cohort, noise, rate, steps in self._database.execute(
            "SELECT cohort, noise, rate, SUM(steps) FROM charges WHERE ?1 IS NULL OR study = ?1 "
            "GROUP BY cohort, noise, rate",
            (study,),
        ):
            charges[cohort].append(Charge(noise, rate, steps))
        histories: defaultdict[int, set[Membership]] = defaultdict(set)
        for cohort, patient, times in self._database.execute("SELECT cohort, patient, times FROM members"):
            histories[patient].add((cohort, times))
        frozen = {patient: frozenset(history) for patient, history in histories.items()}
        return Spending(charges, frozen, self._accountant, self._delta)
