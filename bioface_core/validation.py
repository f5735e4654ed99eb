"""How is a wrong configuration put into one line? Its key, what was found, what is expected, and the nearest name."""

from __future__ import annotations

import difflib
import typing
from typing import Any

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem of a validation as one line, with a count of the others.

    Args:
        error: what pydantic raised.
        model: the model that was to be read, for the names it knows.

    Returns:
        For instance ``train.rat is no known key; nearest: train.rate``.
    """
    problems = error.errors()
    first = problems[0]
    place = tuple(str(part) for part in first["loc"])
    line = _unknown(place, model) if first["type"] == "extra_forbidden" else _wrong(place, first)
    return line if len(problems) == 1 else f"{line} (and {len(problems) - 1} more)"


def _unknown(place: tuple[str, ...], model: type[BaseModel]) -> str:
    """The line for a key that does not exist."""
    known = _names(_section(model, place[:-1]))
    nearest = difflib.get_close_matches(place[-1], known, n=1, cutoff=0.5)
    key = ".".join(place)
    if nearest:
        return f"{key} is no known key; nearest: {'.'.join((*place[:-1], nearest[0]))}"
    return f"{key} is no known key; known: {', '.join(known)}"


def _wrong(place: tuple[str, ...], problem: Any) -> str:
    """The line for a value that does not fit."""
    message = str(problem["msg"]).removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if problem["type"] == "value_error":
        return ".".join((*place, message)) if not place else f"{'.'.join(place)}: {message}"
    return f"{'.'.join(place)} is {problem['input']!r}: {message.removeprefix('input ')}"


def _section(model: type[BaseModel], place: tuple[str, ...]) -> type[BaseModel]:
    """The model that ``place`` leads to, as far as it leads to one."""
    for part in place:
        field = model.model_fields.get(part)
        candidates = [] if field is None else [field.annotation, *typing.get_args(field.annotation)]
        nested = [item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)]
        if not nested:
            break
        model = nested[0]
    return model


def _names(model: type[BaseModel]) -> list[str]:
    return list(model.model_fields)
