"""How is a result put into words? Honest sentences: what was gained, how sure that is, what is missing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bioface_core.evaluate import Difference, Rate

if TYPE_CHECKING:
    from bioface_core.config import Study
    from bioface_core.report.facts import Report

NOT_KNOWN = "\N{EN DASH}"
INTERVAL = "95\N{NO-BREAK SPACE}% interval"


def percent(value: float) -> str:
    """``75.2 %``, with a space that does not break."""
    return NOT_KNOWN if math.isnan(value) else f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def interval(rate: Rate) -> str:
    """``68.9–80.6``, in per cent."""
    return f"{100 * rate.low:.1f}\N{EN DASH}{100 * rate.high:.1f}"


def whole_interval(rate: Rate) -> str:
    """``68–81``, in whole per cent, rounded outwards so that it never claims more."""
    return f"{math.floor(100 * rate.low)}\N{EN DASH}{math.ceil(100 * rate.high)}"


def points(share: float) -> str:
    """``-2.1``, in percentage points, with a true minus sign."""
    return f"{100 * share:.1f}".replace("-", "\N{MINUS SIGN}")


def plural(number: int, noun: str) -> str:
    """``1 hospital``, ``5 hospitals``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def data_size(size: float) -> str:
    """Bytes as people read them: ``1.4 MB``."""
    value, units = float(size), ["B", "kB", "MB", "GB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    digits = 0 if units[0] == "B" or value >= 100 else 1
    return f"{value:.{digits}f}\N{NO-BREAK SPACE}{units[0]}"


def moved(report: Report) -> tuple[str, ...]:
    """What went over the hospitals' lines; nothing where that was not counted by hospital."""
    if not report.traffic:
        return ()
    most = max(report.traffic, key=lambda line: line.down_per_round + line.up_per_round)
    down, up = (sum(getattr(line, way) for line in report.traffic) for way in ("down", "up"))
    return (
        f"Over a hospital's line: {data_size(most.down_per_round)} down and {data_size(most.up_per_round)} up a round "
        f"at most; over all lines and rounds {data_size(down)} and {data_size(up)}.",
    )


def privacy(study: Study) -> str:
    """What a study promises, and to whom."""
    settings = study.privacy
    if settings.unit == "none":
        return "none"
    promise = f"epsilon {settings.epsilon:g}, delta {settings.delta:g} over all rounds, clipping norm {settings.clip:g}"
    if settings.unit == "hospital":
        return f"for each hospital, by the server's noise: {promise}"
    return f"for each patient: {promise}; those alone and all pooled train without it"


def headline(report: Report) -> tuple[str, ...]:
    """The result: in one sentence, then against going alone, then against pooling."""
    federated = report.federated
    if federated is None:
        return ("No round has finished yet: there is nothing to report.",)
    unfinished = report.rounds and not report.finished
    so_far = f"After round {report.rounds[-1].round} of {report.rounds_planned}: " if unfinished else ""
    together = f"together the hospitals recognise {percent(federated.top1.value)} of the patients held out"
    if report.gain is None or report.alone_top1 is None:
        first = f"{so_far}{together}."
        second = f"This is macro Top-1, averaged over syndromes ({INTERVAL} {interval(federated.top1)})."
    else:
        first = f"{so_far}{_verdict(report.gain)}{together}, alone {percent(report.alone_top1.value)} on average."
        second = (
            f"Federating {'gains' if report.gain.value >= 0 else 'loses'} {points(abs(report.gain.value))} points of "
            f"macro Top-1 against the mean of {plural(len(report.alone), 'hospital')} alone ({_range(report.gain)})."
        )
    return (first[0].upper() + first[1:], second, *_against_pooled(report))


def _verdict(gain: Difference) -> str:
    """What to say first where there is no gain to show."""
    if gain.is_clear:
        return "" if gain.value > 0 else "federating did harm: "
    return "no clear gain: "


def _against_pooled(report: Report) -> tuple[str, ...]:
    """Where pooling every photo in one place stands."""
    if report.pooled is None or report.distance is None:
        return ()
    change, proof = report.distance, "" if report.distance.is_clear else "; too close to call"
    return (
        f"Pooling all photos in one place, which federating avoids, reaches {percent(report.pooled.top1.value)}: "
        f"{points(abs(change.value))} points {'more' if change.value >= 0 else 'less'} ({_range(change)}{proof}).",
    )


def _range(change: Difference) -> str:
    return f"{INTERVAL} of the difference {points(change.low)} to {points(change.high)}"


def notes(report: Report) -> tuple[str, ...]:
    """What is missing, and why."""
    done = max(0, len(report.rounds) - 1)
    found = [
        (not report.finished, f"This run is not finished: {done} of {report.rounds_planned} rounds are done."),
        (
            0 < len(report.alone) < len(report.hospitals),
            f"Only {len(report.alone)} of {len(report.hospitals)} hospitals were trained alone so far.",
        ),
        (not report.alone, "No hospital was trained alone: what federating gains cannot be said."),
        (report.pooled is None, "No model was trained on pooled photos: what federating costs cannot be said."),
        (not report.hospitals, "Nobody may know here how patients are spread over hospitals."),
    ]
    return tuple(sentence for applies, sentence in found if applies)


def limits(report: Report) -> tuple[str, ...]:
    """What must not be concluded."""
    phantoms = not report.study.simulation.stores
    return (
        *(
            ("Phantoms are not patients: they show that the method works, not how well it recognises people.",)
            * phantoms
        ),
        "For research. Not a medical device; no figure here supports a decision about a person.",
        "Intervals cover the chance of which patients were held out, not that of training (one seed) or of which "
        "hospitals took part.",
        "Differences are treated as if measured on different patients: their intervals are wider than need be.",
        "Per-syndrome figures rest on few patients each; with many syndromes some intervals miss the truth by chance.",
        "Macro figures weigh every syndrome alike, however rare; they say nothing of faces without any of them.",
    )
