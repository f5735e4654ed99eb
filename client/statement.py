"""What have this hospital's patients spent, and what have they left? The ledger, put together and shown.

Numbers of patients are exact in here: a statement is read at the hospital and goes nowhere.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bioface_core.accounting import plan_of, rounded_up
from bioface_core.report.words import plural
from bioface_core.store import as_studied, read_store
from client.books import open_ledger
from client.ledger import Ledger, StudySpent
from client.people import patient_marks
from client.policy import is_private
from client.spending import rounds_left

if TYPE_CHECKING:
    from rich.console import Group as Shown

    from client.hospital import Hospital


@dataclass(frozen=True)
class Share:
    """Patients who have lost the same.

    Attributes:
        patients: how many, exactly.
        epsilon: what they have lost.
        left: until the limit; None where there is none.
    """

    patients: int
    epsilon: float
    left: float | None


@dataclass(frozen=True)
class Approved:
    """What the approved study may still do, if it is one with differential privacy.

    Attributes:
        study_id: 64 hexadecimal digits.
        round_epsilon: what one round costs by itself.
        rounds_left: how many more of its rounds fit, for the patients who are in the store now; None without a limit.
        rounds: how many it asks for in all.
    """

    study_id: str
    round_epsilon: float
    rounds_left: int | None
    rounds: int


@dataclass(frozen=True)
class Statement:
    """The whole ledger.

    Attributes:
        limit: epsilon that no patient may pass; None where there is none.
        delta: at which epsilon is told.
        studies: what each has spent, in the order in which they began.
        shares: patients by what they have lost, the worst-off first.
        approved: of the approved study; None where there is none that spends.
    """

    limit: float | None
    delta: float
    studies: tuple[StudySpent, ...]
    shares: tuple[Share, ...]
    approved: Approved | None

    def to_json(self) -> dict[str, Any]:
        """The facts, for a script at the hospital; it holds exact numbers of patients."""
        return asdict(self)


def draw_up(hospital: Hospital) -> Statement:
    """The statement of a hospital, whose site may be at work.

    Raises:
        HospitalError: the ledger cannot be read.
        PhotoError: a study is approved, and the store cannot be read.
    """
    policy = hospital.settings.policy
    with closing(open_ledger(hospital)) as ledger:
        groups = ledger.spending().groups(ledger.patients())
        shares = tuple(Share(one.patients, one.epsilon, _left(policy.epsilon, one.epsilon)) for one in groups)
        approved = _approved(hospital, ledger) if hospital.kit.is_dir() else None
        return Statement(policy.epsilon, policy.delta, ledger.studies(), shares, approved)


def describe(statement: Statement) -> Shown:
    """For people."""
    from rich import box
    from rich.console import Group as Shown
    from rich.table import Table
    from rich.text import Text

    patients = Table(box=box.SIMPLE_HEAD, title="Patients", title_justify="left")
    for heading in ("Patients", "epsilon lost", "left"):
        patients.add_column(heading, justify="right")
    for share in statement.shares:
        left = "no limit" if share.left is None else f"{share.left:.3f}"
        patients.add_row(f"{share.patients:,}", f"{share.epsilon:.3f}", left)
    studies = Table(box=box.SIMPLE_HEAD, title="Studies", title_justify="left")
    for heading in ("Study", "rounds", "charges", "epsilon by itself"):
        studies.add_column(heading, justify="left" if heading == "Study" else "right")
    for study in statement.studies:
        studies.add_row(study.study_id[:12], str(study.rounds), str(study.charges), f"{study.epsilon:.3f}")
    lines = [Text(line) for line in _sentences(statement)]
    return Shown(*lines, *([patients] if statement.shares else []), *([studies] if statement.studies else []))


def _sentences(statement: Statement) -> list[str]:
    limit = "no limit" if statement.limit is None else f"{statement.limit:g}"
    lines = [f"The most that a patient may lose (policy.epsilon): {limit}, at delta {statement.delta:g}."]
    if not statement.studies:
        lines.append("Nothing was spent yet.")
    approved = statement.approved
    if approved is None:
        return [*lines, "No study with differential privacy is approved."]
    costs = f"A round of the approved study {approved.study_id[:12]} costs {approved.round_epsilon:.3f} by itself"
    if approved.rounds_left is None:
        return [*lines, f"{costs}."]
    fit = "all of its rounds fit" if approved.rounds_left >= approved.rounds else f"{approved.rounds_left} more fit"
    return [*lines, f"{costs}; it asks for {plural(approved.rounds, 'round')}, of which {fit}."]


def _approved(hospital: Hospital, ledger: Ledger) -> Approved | None:
    """What the approved study may still do, tried out on a copy of the ledger."""
    study, limit = hospital.approved().study, hospital.settings.policy.epsilon
    if not is_private(study):
        return None
    store = read_store(hospital.settings.store)
    photos = as_studied(store, study.syndromes).train()
    plan = plan_of(study, rounded_up(photos.patients(), study.federation.weight_step))
    left = None
    if limit is not None:
        ledger.recognise(patient_marks(store.photos, hospital.rounding_key), hospital.settings.policy.trust_newcomers)
        known = ledger.patients(patient_marks(photos, hospital.rounding_key))
        left = rounds_left(ledger.spending(), known, plan.round_charge, limit, plan.rounds)
    return Approved(study.study_id, ledger.cost([plan.round_charge]), left, plan.rounds)


def _left(limit: float | None, epsilon: float) -> float | None:
    return None if limit is None else max(0.0, limit - epsilon)
