"""How is a picture drawn into the page? As SVG elements, escaped, with scales that map data to the drawing.

Colours are classes and not values, so that the page's style gives them for light, dark and paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup, escape


def element(name: str, *children: str, **attributes: str | float) -> Markup:
    """One SVG element.

    Args:
        name: its tag.
        children: elements, or text to be escaped.
        attributes: ``class_`` is ``class``, and other underscores are hyphens; numbers keep two decimals.
    """
    written = [f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"' for key, value in attributes.items()]
    inside = Markup().join(children)
    return Markup(f"<{name}{''.join(written)}>{inside}</{name}>")


def picture(title: str, description: str, width: float, height: float, *children: str) -> Markup:
    """An SVG image that a screen reader announces by ``title`` and describes by ``description``."""
    body = Markup().join([element("title", title), element("desc", description), *children])
    return Markup(f'<svg viewBox="0 0 {_value(width)} {_value(height)}" role="img">{body}</svg>')


def path(points: Iterable[tuple[float, float]], closed: bool = False) -> str:
    """The ``d`` of a path through points in drawing units."""
    steps = " L".join(f"{_value(x)} {_value(y)}" for x, y in points)
    return f"M{steps}Z" if closed else f"M{steps}"


@dataclass(frozen=True)
class Scale:
    """Maps ``low..high`` of the data to ``start..end`` of the drawing."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where ``value`` lies in the drawing."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from ``low`` to ``high``, 1, 2 or 5 times a power of ten apart.

    Args:
        low: where the axis starts.
        high: where it ends, above ``low``.
        about: how many are wanted; at most one more come out.
    """
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _value(value: str | float) -> str:
    return escape(value) if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
