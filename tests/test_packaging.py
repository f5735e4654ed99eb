"""Does what we hand out hold together? Versions, licence, locks, and one name in site-packages."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import bioface_core
from bioface_core import app_path

CHECKOUT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements.lock", "requirements-dev.lock")
PUBLIC = ("README.md", "LICENSE", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "docs", ".ci/run")
CARRIED = {"client", "server", "simulation", "configs"}


def project() -> dict[str, Any]:
    """The ``[project]`` table of pyproject.toml."""
    content: dict[str, Any] = tomllib.loads(text("pyproject.toml"))["project"]
    return content


def text(name: str) -> str:
    """The text of a file of the checkout."""
    return (CHECKOUT / name).read_text(encoding="utf-8")


def locked(name: str) -> dict[str, str]:
    """Version by canonical name in a lock."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text(name), flags=re.MULTILINE))


def outside_the_lock(requirements: list[str], pins: dict[str, str]) -> list[str]:
    """Those of ``requirements`` that ``pins`` lacks or holds in a version out of range."""
    wanted = {canonicalize_name(Requirement(line).name): Requirement(line) for line in requirements}
    return [str(one) for name, one in wanted.items() if name not in pins or pins[name] not in one.specifier]


def test_versions_agree() -> None:
    newest = re.search(r"^## \[(\d[^\]]*)\]", text("CHANGELOG.md"), flags=re.MULTILINE)
    assert newest is not None
    assert project()["version"] == bioface_core.__version__ == newest.group(1)


def test_name_suits_a_flower_bundle() -> None:
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,31}", project()["name"])
    assert project()["license"] == {"file": "LICENSE"}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_files_exist(name: str) -> None:
    assert (CHECKOUT / name).exists()


def test_the_licence_is_apache() -> None:
    assert text("LICENSE").split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in text("LICENSE")


def test_every_dependency_says_why() -> None:
    lists = re.findall(r"^(?:dependencies|dev) = \[\n(.*?)^\]", text("pyproject.toml"), flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in lists for line in block.splitlines()]
    assert len(lines) == len(project()["dependencies"]) + len(project()["optional-dependencies"]["dev"])
    assert [line for line in lines if not re.search(r'", # .{10}', line)] == []


def test_the_locks_cover_every_dependency_within_its_range() -> None:
    runs, tools = (locked(name) for name in LOCKS)
    assert outside_the_lock(project()["dependencies"], runs) == []
    assert outside_the_lock(project()["optional-dependencies"]["dev"], tools) == []


def test_the_locks_agree_with_each_other() -> None:
    runs, tools = (locked(name) for name in LOCKS)
    assert {name: tools[name] for name in runs.keys() & tools.keys()}.items() <= runs.items()


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_is_names_versions_and_hashes(name: str) -> None:
    """No address, no option of an installer, no file of somebody's machine; and the platform is named."""
    header, *lines = text(name).splitlines()
    allowed = re.compile(r"[a-z0-9-]+==[a-z0-9.+!]+ \\|    --hash=sha256:[0-9a-f]{64}( \\)?")
    assert "CPython 3.11 on Linux x86-64" in header
    assert [line for line in lines if not allowed.fullmatch(line)] == []


def test_a_requirement_out_of_range_is_found() -> None:
    assert outside_the_lock(["numpy>=2,<3", "rich>=14"], {"numpy": "1.26", "rich": "14.1"}) == ["numpy<3,>=2"]
    assert outside_the_lock(["torch>=2"], {}) == ["torch>=2"]


def test_a_checkout_is_its_own_app() -> None:
    assert app_path.app_root() == CHECKOUT


def test_a_wheel_carries_the_app_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where another distribution has left a ``client`` beside ours."""
    for folder in ("bioface_core/app/client", "client"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(app_path, "__file__", str(tmp_path / "bioface_core" / "app_path.py"))
    assert app_path.app_root() == tmp_path / "bioface_core" / "app"


def test_the_app_comes_first_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["elsewhere", str(CHECKOUT)])
    assert app_path.add_app_to_path() == app_path.add_app_to_path() == CHECKOUT
    assert sys.path == [str(CHECKOUT), "elsewhere"]


@pytest.mark.slow
def test_the_wheel_has_one_name(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(CHECKOUT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = [Path(name).parts for name in zipfile.ZipFile(wheel).namelist()]
    assert {parts[0].partition("-")[0] for parts in names} == {"bioface_core", "bioface_federated"}
    assert {parts[2] for parts in names if parts[:2] == ("bioface_core", "app")} == CARRIED
