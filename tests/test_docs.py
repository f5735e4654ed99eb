"""Do the pages speak of what exists? Settings, links and commands are held against the code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from bioface_core.cli import app
from bioface_core.config import parse_override
from bioface_core.messages import Code
from client.hospital import HospitalSettings, Ports
from client.policy import Policy
from server.journal import Entry
from server.lab import LabSettings
from tests.study_reference import keys, page

CHECKOUT = Path(__file__).resolve().parent.parent
PAGES = sorted({*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").rglob("*.md"), *(CHECKOUT / "benchmarks").glob("*.md")})
REFERENCE = CHECKOUT / "docs" / "reference"
CODE = re.compile(r"^```[a-z]*\n(.*?)^```|`([^`\n]+)`", re.M | re.S)
PLACEHOLDERS = {"key", "KEY"}  # in `-s key=value`
every_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(CHECKOUT)))


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Name and arguments of every ``bioface`` command in a page's code, in a block or within a line."""
    for block, inline in CODE.findall(text):
        for line in (block or inline).replace("\\\n", " ").splitlines():
            for rest in re.findall(r"(?:^|[ /`])bioface +([^;|>&]*)", line.partition("  #")[0]):
                name, *arguments = shlex.split(rest.translate(str.maketrans("[]", "  ") if " [-" in rest else {}))
                yield name, arguments


def leads_somewhere(path: Path, target: str, heading: str) -> bool:
    """Whether a relative link's file is there, and in it the heading that the link names, if any."""
    aim = path.parent / target if target else path
    return aim.exists() and (not heading or heading in anchors(aim.read_text()))


def anchors(text: str) -> set[str]:
    """The names that headings are given on a web page: lower case, dashes for spaces, no punctuation."""
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_lead_somewhere(path: Path) -> None:
    targets = [target for target in re.findall(r"\]\(([^)\s]+)", path.read_text()) if "://" not in target]
    missing = [target for target in targets if not leads_somewhere(path, *target.partition("#")[::2])]
    assert not missing


@every_page
def test_commands_exist(path: Path) -> None:
    for name, arguments in commands(path.read_text()):
        if name in ("--help", "--version"):
            continue
        command: Any = typer.main.get_command(app)
        for word in (name, *arguments):
            if not hasattr(command, "commands") or word == "--help":
                break
            assert word in command.commands, f"bioface {name} {arguments}"
            command = command.commands[word]
        options = {"--help"}.union(*(parameter.opts for parameter in command.params))
        assert {word.partition("=")[0] for word in arguments if re.match("--?[a-z]", word)} <= options, arguments


@every_page
def test_overrides_exist(path: Path) -> None:
    for override in re.findall(r"-s ('[^'`]*'|[^\s`]+=[^\s`]*)", path.read_text()):
        key = override.strip("'").partition("=")[0]
        assert key in {*keys(), *PLACEHOLDERS}, override
        parse_override(override.strip("'"))


@every_page
def test_targets_of_make_exist(path: Path) -> None:
    named = {
        target for code in CODE.findall(path.read_text()) for target in re.findall(r"\bmake ([a-z-]+)", "".join(code))
    }
    assert named <= set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.M))


def test_commands_are_found_wherever_they_stand() -> None:
    text = (
        "`bioface one --two`\n```sh\nfor n in 1; do .venv/bin/bioface three -s a=$n > f; done\n```\nbioface is a word"
    )
    assert list(commands(text)) == [("one", ["--two"]), ("three", ["-s", "a=$n"])]


def test_every_setting_is_documented() -> None:
    found = (REFERENCE / "study.md").read_text()
    missing = [key for key in keys() if f"| `{key}` |" not in found]
    assert not missing
    assert found == page(), "run: python -m tests.study_reference > docs/reference/study.md"


def test_every_setting_of_lab_and_hospital_is_documented() -> None:
    found = (REFERENCE / "lab-and-hospital.md").read_text()
    policy = [f"policy.{name}" for name in Policy.model_fields]
    ports = [f"ports.{name}" for name in Ports.model_fields]
    names = [*LabSettings.model_fields, *HospitalSettings.model_fields, *policy, *ports]
    assert [name for name in names if name not in ("policy", "ports") and f"| `{name}` |" not in found] == []


def test_every_event_and_code_is_documented() -> None:
    found = (REFERENCE / "run-folder.md").read_text()
    names = [event.__name__.lower() for event in Entry.__args__] + [code.value for code in Code]
    missing = [name for name in names if f"| `{name}` |" not in found]
    assert not missing
