"""How did the federated model learn? Small charts over the rounds: macro Top-1, macro Top-3, loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup

from bioface_core.report.facts import Report
from bioface_core.report.svg import Scale, element, path, picture, ticks
from bioface_core.report.words import percent

_WIDTH, _HEIGHT = 396.0, 260.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 54.0, 330.0, 14.0, 222.0
_ROOM = 0.17  # of the vertical axis: two lines of text


@dataclass(frozen=True)
class Curve:
    """One line over the rounds.

    Attributes:
        title: what a screen reader says.
        description: what it says on request.
        points: (round, value, low, high) in order; low and high are the band.
        references: (class, label, value) of level lines.
        top: upper end of the vertical axis, which starts at 0.
        shares: whether values are shares, written as per cent.
    """

    title: str
    description: str
    points: tuple[tuple[int, float, float, float], ...]
    references: tuple[tuple[str, str, float], ...]
    top: float
    shares: bool


def rate_curve(report: Report, k: int) -> Markup:
    """Macro Top-1 or Top-3 by round with its interval, beside hospitals alone, pooled and guessing."""
    rates = [(one.round, one.top1 if k == 1 else one.top3) for one in report.rounds]
    points = tuple((number, rate.value, rate.low, rate.high) for number, rate in rates if not math.isnan(rate.value))
    first, last = (percent(points[0][1]), percent(points[-1][1])) if points else ("unknown", "unknown")
    description = f"Macro Top-{k} of the federated model goes from {first} at first to {last} after the last round."
    return draw(Curve(f"Macro Top-{k} by round", description, points, _references(report, k), 1.0, True))


def loss_curve(report: Report) -> Markup:
    """Mean training loss by round."""
    losses = [(one.round, one.loss) for one in report.rounds if one.loss is not None]
    points = tuple((number, loss, loss, loss) for number, loss in losses)
    top = max((loss for _, loss in losses), default=1.0)
    ends = f"from {losses[0][1]:.2f} to {losses[-1][1]:.2f}" if losses else "unknown"
    return draw(Curve("Training loss by round", f"Mean training loss, {ends}.", points, (), (top or 1.0) * 1.1, False))


def draw(curve: Curve) -> Markup:
    """The chart of a curve."""
    last_round = max([1, *(number for number, *_ in curve.points)])
    across, up = Scale(0, last_round, _LEFT, _RIGHT), Scale(0, curve.top, _BOTTOM, _TOP)
    parts = [*_vertical_axis(curve, up), *_round_axis(last_round, across)]
    parts += [part for reference in curve.references for part in _level(reference, up)]
    if curve.points:
        parts += _line(curve, across, up)
    return picture(curve.title, curve.description, _WIDTH, _HEIGHT, *parts)


def _references(report: Report, k: int) -> tuple[tuple[str, str, float], ...]:
    """Level lines: what the curve is to be compared with; guessing only where its label has room."""
    pooled = [arm.top1 if k == 1 else arm.top3 for arm in report.arms if arm.kind == "pooled"]
    alone = [(arm.top1 if k == 1 else arm.top3).value for arm in report.alone]
    levels = [("alone", "hospitals alone, mean", sum(alone) / len(alone))] if alone else []
    levels += [("pooled", "pooled", rate.value) for rate in pooled]
    guessing = min(1.0, k / max(1, len(report.syndromes)))
    if all(abs(value - guessing) > _ROOM for _, _, value in levels):
        levels.append(("guessing", "guessing", guessing))
    return tuple(level for level in levels if not math.isnan(level[2]))


def _vertical_axis(curve: Curve, up: Scale) -> list[Markup]:
    """Level grid lines with their values."""
    values = ticks(0, curve.top, 4 if curve.shares else 5)
    values = [0.0, 0.25, 0.5, 0.75, 1.0] if curve.shares else values
    labels = [f"{100 * value:.0f} %" if curve.shares else f"{value:g}" for value in values]
    lines = [element("line", x1=_LEFT, x2=_RIGHT, y1=up(value), y2=up(value), class_="grid") for value in values]
    texts = [
        element("text", label, x=_LEFT - 7, y=up(value) + 4, class_="tick end")
        for value, label in zip(values, labels, strict=True)
    ]
    return lines + texts


def _round_axis(last_round: int, across: Scale) -> list[Markup]:
    numbers = [value for value in ticks(0, last_round, 5) if value == int(value)]
    texts = [element("text", f"{value:g}", x=across(value), y=_BOTTOM + 17, class_="tick middle") for value in numbers]
    return [*texts, element("text", "round", x=(_LEFT + _RIGHT) / 2, y=_BOTTOM + 34, class_="tick middle")]


def _level(reference: tuple[str, str, float], up: Scale) -> list[Markup]:
    """A dashed line; its label stands where the curve rarely is: pooled early, the others late."""
    kind, label, value = reference
    height = up(value)
    above = kind == "guessing" or (kind == "pooled" and height > _TOP + 20)
    x, anchor = (_LEFT + 5, "start") if kind == "pooled" else (_RIGHT, "end")
    y = height - 6 if above else min(_BOTTOM - 4, height + 15)
    return [
        element("line", x1=_LEFT, x2=_RIGHT, y1=height, y2=height, class_=f"level {kind}"),
        element("text", label, x=x, y=y, class_=f"label {anchor} {kind}"),
    ]


def _line(curve: Curve, across: Scale, up: Scale) -> list[Markup]:
    """Band, line, a dot at its end and the value there."""
    upper = [(across(number), up(high)) for number, _, _, high in curve.points]
    lower = [(across(number), up(low)) for number, _, low, _ in curve.points]
    middle = [(across(number), up(value)) for number, value, _, _ in curve.points]
    (x, y), value = middle[-1], curve.points[-1][1]
    label = percent(value) if curve.shares else f"{value:.2f}"
    return [
        *([element("path", d=path(upper + lower[::-1], closed=True), class_="band")] if curve.shares else []),
        element("path", d=path(middle), class_="curve"),
        element("circle", cx=x, cy=y, r=4, class_="dot"),
        element("text", label, x=x + 8, y=y + 5, class_="value"),
    ]
