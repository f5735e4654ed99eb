"""What do all commands share? Their options, and how a result is shown."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from bioface_core.config import Study

StudyArgument = Annotated[str, typer.Argument(metavar="[STUDY]", help="A study file, or demo, paper, smoke.")]
Overrides = Annotated[
    list[str], typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override, e.g. train.rate=1e-4.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def study_of(name: str, overrides: list[str]) -> Study:
    """The study that was typed."""
    from bioface_core.config import find_study, read_study

    return read_study(find_study(name), tuple(overrides))


def show(result: Any, as_json: bool) -> None:
    """The result on standard output."""
    if as_json:
        return print(json.dumps(result))
    if isinstance(result, str):
        return print(result)  # as it is: no line is broken, and a path in brackets is no markup
    from rich.console import Console

    Console(highlight=False).print(result)
