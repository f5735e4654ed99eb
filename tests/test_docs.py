"""Do the pages speak of what exists? Settings, links and commands are held against the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from bioface_core.cli import app
from bioface_core.config import Study
from bioface_core.sections import Section

CHECKOUT = Path(__file__).resolve().parent.parent
PAGES = sorted({*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").rglob("*.md"), *(CHECKOUT / "benchmarks").glob("*.md")})


def keys(section: type[Section], prefix: str = "") -> list[str]:
    """Every key of a study, as it is written after ``-s``."""
    found = []
    for name, field in section.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, Section):
            found += keys(nested, f"{prefix}{name}.")
        else:
            found.append(prefix + name)
    return found


@pytest.mark.parametrize("key", keys(Study))
def test_every_setting_is_documented(key: str) -> None:
    assert f"| `{key}` |" in (CHECKOUT / "docs" / "reference" / "study.md").read_text()


def test_no_setting_is_documented_that_is_none() -> None:
    page = (CHECKOUT / "docs" / "reference" / "study.md").read_text()
    assert set(re.findall(r"^\| `([a-z0-9_.]+)` \|", page, re.M)) == set(keys(Study))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_commands_exist(page: Path) -> None:
    group = typer.main.get_command(app)
    commands = getattr(group, "commands", {})
    for line in re.findall(r"^(?:\.venv/bin/)?bioface ([a-z]+)((?: .*)?)$", page.read_text(), re.M):
        name, rest = line
        assert name in commands, f"bioface {name}"
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(re.findall(r"(?<= )--?[a-z]+", rest)) <= known, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_overrides_exist(page: Path) -> None:
    named = re.findall(r"-s '?([a-z0-9_.]+)=", page.read_text())
    assert set(named) <= {*keys(Study), "key"}, page
