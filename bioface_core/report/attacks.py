"""What did attacks on a run find? The content of ``attacks.json``, which `bioface attack` writes, and its sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bioface_core.report.words import NOT_KNOWN, percent, plural

if TYPE_CHECKING:
    from rich.table import Table

ATTACKS = "attacks.json"


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Inversion:
    """What could be made of single updates.

    Attributes:
        named: how often the reconstruction's nearest face was another photo of the right patient.
        likeness_db: mean PSNR of reconstruction and photo.
    """

    named: Estimate
    likeness_db: float


@dataclass(frozen=True)
class Membership:
    """How well training patients are told from held-out ones by the final model.

    Attributes:
        area: under the ROC curve; one half is guessing.
        caught_at_1: share of the members found with 1 % false alarms; None where too few patients show such a rate.
        caught_at_01: with 0.1 %.
    """

    area: Estimate
    caught_at_1: Estimate | None
    caught_at_01: Estimate | None


@dataclass(frozen=True)
class Canaries:
    """What the canaries prove.

    Attributes:
        lower: the true epsilon is no smaller, with 95 % confidence and no assumption.
        gaussian: the same, if the canaries' scores are normal.
        accounted: the epsilon that is promised; None where none is.
        canaries: how many.
        guesses: on which ``lower`` rests.
        right: of them.
    """

    lower: float
    gaussian: float
    accounted: float | None
    canaries: int
    guesses: int
    right: int


@dataclass(frozen=True)
class Defence:
    """One setting under attack.

    Attributes:
        name: plain, masked, DP, masked + DP.
        top1: macro Top-1 of its final model: what the protection costs.
        inversion: of a hospital's part of one round.
        membership: from its final model.
        canaries: in the hospital's steps.
    """

    name: str
    top1: float
    inversion: Inversion
    membership: Membership
    canaries: Canaries


@dataclass(frozen=True)
class Attacks:
    """The content of ``attacks.json``.

    Attributes:
        hospital: whose updates were inverted.
        round: in which.
        victims: how many of its patients, one after the other.
        chance: how often guessing names the right patient.
        itself: how often the photo itself does.
        nobody_db: PSNR of the mean of public faces, which knows nothing of the patient.
        members: patients trained on.
        others: patients not trained on: held out, or of no hospital.
        references: reference models of the membership attack.
        delta: of every epsilon.
        defences: the settings.
        code: canaries under a plan that shows mistakes best: an audit of the code, not of this study.
    """

    hospital: str
    round: int
    victims: int
    chance: float
    itself: float
    nobody_db: float
    members: int
    others: int
    references: int
    delta: float
    defences: tuple[Defence, ...]
    code: Canaries


HEADINGS = (
    "Re-identified",
    "PSNR, dB",
    "Membership AUC",
    "Found at 1 %",
    "Found at 0.1 %",
    "Epsilon proven",
    "if normal",
    "promised",
    "Macro Top-1",
)


def cells(one: Defence) -> tuple[str, ...]:
    """A setting's figures, under ``HEADINGS``."""
    found = one.membership
    return (
        _share(one.inversion.named),
        f"{one.inversion.likeness_db:.1f}",
        f"{found.area.value:.2f} ({found.area.low:.2f}\N{EN DASH}{found.area.high:.2f})",
        _share(found.caught_at_1),
        _share(found.caught_at_01),
        f"{one.canaries.lower:.2f}",
        f"{one.canaries.gaussian:.2f}",
        NOT_KNOWN if one.canaries.accounted is None else f"{one.canaries.accounted:.2f}",
        percent(one.top1),
    )


def reading(attacks: Attacks) -> tuple[str, ...]:
    """How to read the table, and what it does not say."""
    code = attacks.code
    return (
        f"Re-identified: {plural(attacks.victims, 'patient')} of {attacks.hospital}, each alone in one plain step of "
        f"round {attacks.round} without augmentation, the worst case; rank 1 among the photos of all patients, the "
        f"attacked photo left out. Guessing: {percent(attacks.chance)}; the photo itself: {percent(attacks.itself)}. "
        f"PSNR of the mean of public faces, which knows nothing of the patient: {attacks.nobody_db:.1f} dB.",
        f"Membership: {plural(attacks.members, 'patient')} trained on, {attacks.others:,} not, "
        f"{plural(attacks.references, 'reference model')} of an attacker who has everybody's photos. Found: share of "
        f"the members at that rate of false alarms; {NOT_KNOWN} where so few patients cannot show it. Masks do not "
        "change the final model.",
        f"Epsilon proven: by {attacks.defences[0].canaries.canaries:,} canaries at least this much, with 95 % "
        "confidence: whatever else may be the case, and if scores are normal. Promised: what the accountant says, at "
        f"delta {attacks.delta:g}. Without noise epsilon is infinite, and the figure the most that canaries can prove; "
        "masks add no noise, and the other hospitals' parts count as known.",
        f"The code itself, under a plan that shows mistakes best: proven {code.lower:.2f} and, if normal, "
        f"{code.gaussian:.2f}, of {NOT_KNOWN if code.accounted is None else f'{code.accounted:.2f}'} promised.",
        "An attack that fails proves nothing: a better one may not. What holds is the promise.",
    )


def attack_table(attacks: Attacks, name: str) -> Table:
    """The settings for a terminal.

    Args:
        attacks: what was found.
        name: of the study.
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    grid = Table(
        title=escape(f"{name}: what do attacks find?"),
        caption=escape("\n".join(reading(attacks))),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        caption_style="",
        padding=(0, 1, 0, 0),
    )
    grid.add_column("", no_wrap=True)
    for defence in attacks.defences:
        grid.add_column(escape(defence.name), justify="right")
    for heading, *row in zip(HEADINGS, *(cells(defence) for defence in attacks.defences), strict=True):
        grid.add_row(heading, *row)
    return grid


def _share(rate: Estimate | None) -> str:
    if rate is None:
        return NOT_KNOWN
    return f"{percent(rate.value)} ({100 * rate.low:.0f}\N{EN DASH}{100 * rate.high:.0f})"
