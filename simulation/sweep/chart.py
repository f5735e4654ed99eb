"""How is a sweep drawn? Each cell as a dot with its interval; where an axis counts something, as lines along it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from bioface_core.evaluate import Difference
from bioface_core.report.svg import Scale, element, path, picture, ticks
from simulation.sweep.plan import ARM, Sweep
from simulation.sweep.table import Cell, Row, axes_of, cells_of, spread

_WIDTH, _LEFT, _RIGHT, _ROW = 760.0, 330.0, 730.0, 26.0
_TOP, _BOTTOM, _HEIGHT = 20.0, 300.0, 350.0  # of a chart with lines
_STYLE = """
text { font: 14px system-ui, sans-serif; fill: #333 } .end { text-anchor: end } .middle { text-anchor: middle }
.grid { stroke: #ddd } .band { stroke-width: 6; stroke-opacity: .35; fill: none }
.curve { fill: none; stroke-width: 2.5 }
svg { background: #fff } text.label { font-weight: 600 }
"""
_COLOURS = ("#0b63b0", "#b3540a", "#2f7d32", "#8a3ab9", "#6b6b00", "#b0283e", "#00757a")
_DASHES = ("none", "7 4", "2 3", "9 3 2 3")
_MOST_LINES = len(_COLOURS) * len(_DASHES)


def draw(sweep: Sweep, rows: Sequence[Row], measure: str = "top1", title: str = "macro Top-1") -> Markup:
    """A picture that stands by itself, as SVG.

    Args:
        sweep: what was asked.
        rows: what came out.
        measure: a rate, 0 to 1.
        title: what it is called.
    """
    values = {
        cell: spread([row[measure] for row in by_seed.values()]) for cell, by_seed in cells_of(sweep, rows).items()
    }
    axis = _counting_axis(sweep)
    body, height = _dots(sweep, values) if axis is None else (_lines(sweep, values, axis), _HEIGHT)
    what = f"{sweep.name}: {title} with 95 % intervals over seeds"
    style = Markup("<style>{}</style>").format(Markup(_STYLE))
    inside = [element("rect", width=_WIDTH, height=height, fill="#fff"), style, *body]
    drawn = picture(what, "The figures are in the table beside this picture.", _WIDTH, height, *inside)
    return Markup(str(drawn).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def _counting_axis(sweep: Sweep) -> str | None:
    """The axis whose levels are numbers, if there are three or more of them."""
    for axis, levels in sweep.vary.items():
        if len(levels) >= 3 and all(level.replace(".", "", 1).isdigit() for level in levels):
            return axis
    return None


def _dots(sweep: Sweep, values: dict[Cell, Difference]) -> tuple[list[Markup], float]:
    """A row for each cell, coloured by arm."""
    across, arms = Scale(0, 1, _LEFT, _RIGHT), list(dict.fromkeys(cell[-1] for cell in values))
    bottom = 12 + _ROW * len(values)
    parts = [
        mark for share in (0, 0.25, 0.5, 0.75, 1) for mark in _upright(across(share), bottom, f"{100 * share:g} %")
    ]
    for number, (cell, value) in enumerate(values.items()):
        y, colour = 12 + _ROW * (number + 0.5), _COLOURS[arms.index(cell[-1])]
        low, high = (across(min(1.0, max(0.0, end))) for end in (value.low, value.high))
        parts += [
            element("text", ", ".join(_named(sweep, cell)), x=_LEFT - 12, y=y + 5, class_="end"),
            element("path", d=path([(low, y), (high, y)]), class_="band", stroke=colour),
            element("circle", cx=across(value.value), cy=y, r=5, fill=colour),
        ]
    return parts, bottom + 30


def _named(sweep: Sweep, cell: Cell) -> Cell:
    """The levels that tell a cell from the others; the arm only where there are several."""
    return cell if len(sweep.arms) > 1 or len(cell) == 1 else cell[:-1]


def _upright(x: float, bottom: float, label: str) -> list[Markup]:
    line = element("line", x1=x, x2=x, y1=12, y2=bottom, class_="grid")
    return [line, element("text", label, x=x, y=bottom + 18, class_="middle")]


def _lines(sweep: Sweep, values: dict[Cell, Difference], axis: str) -> list[Markup]:
    """A line for each combination of the other axes, along a logarithmic axis."""
    place = axes_of(sweep).index(axis)
    numbers = [float(level) for level in sweep.vary[axis]]
    across = Scale(math.log(min(numbers)), math.log(max(numbers)), 60, 500)
    up = Scale(0, 1, _BOTTOM, _TOP)
    parts = [mark for share in ticks(0, 1, 5) for mark in _level(up(share), f"{100 * share:g} %")]
    for level in sweep.vary[axis]:
        parts.append(element("text", level, x=across(math.log(float(level))), y=_BOTTOM + 18, class_="middle"))
    parts.append(element("text", axis, x=280, y=_BOTTOM + 38, class_="middle"))
    lines = dict.fromkeys((*cell[:place], *cell[place + 1 :]) for cell in values)
    for number, rest in enumerate(list(lines)[:_MOST_LINES]):
        points = [
            (across(math.log(float(level))), values[cell])
            for level in sweep.vary[axis]
            if (cell := (*rest[:place], level, *rest[place:])) in values
        ]
        parts += _line(number, _named(sweep, rest), points, up)
    return parts


def _level(y: float, label: str) -> list[Markup]:
    line = element("line", x1=60, x2=500, y1=y, y2=y, class_="grid")
    return [line, element("text", label, x=52, y=y + 5, class_="end")]


def _line(number: int, name: Cell, points: list[tuple[float, Difference]], up: Scale) -> list[Markup]:
    colour, dash = _COLOURS[number % len(_COLOURS)], _DASHES[number // len(_COLOURS)]
    marks = [
        element(
            "path",
            d=path([(x, up(one.value)) for x, one in points]),
            class_="curve",
            stroke=colour,
            stroke_dasharray=dash,
        )
    ]
    for x, one in points:
        ends = [(x, up(min(1.0, max(0.0, end)))) for end in (one.low, one.high)]
        marks.append(element("path", d=path(ends), class_="band", stroke=colour))
    legend_y = _TOP + 12 + 20 * number
    key = [(520.0, legend_y - 5), (544.0, legend_y - 5)]
    marks.append(element("path", d=path(key), class_="curve", stroke=colour, stroke_dasharray=dash))
    return [*marks, element("text", ", ".join(name) or ARM, x=550, y=legend_y, fill=colour)]
