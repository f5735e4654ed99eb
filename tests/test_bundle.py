"""Does the bundle's hash say which code is installed: all of it, the same wherever and whenever it is asked?"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from flwr.common.config import get_fab_config
from flwr.common.constant import FAB_MAX_SIZE

from bioface_core.bundle import build_bundle, bundle_sha256

CHECKOUT = Path(__file__).resolve().parent.parent
CARRIED, LEFT_OUT = ("bioface_core", "client", "server"), ("simulation", "tests")
TELL = "from bioface_core.bundle import *; print(bundle_sha256(build_bundle()))"


@pytest.fixture(scope="module")
def packed() -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(build_bundle()))


def told(folder: Path, seed: str = "0") -> str:
    """The hash that an installation in ``folder`` names, in a process of its own."""
    environment = {"PYTHONPATH": str(folder), "PYTHONHASHSEED": seed, "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", TELL]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def install(folder: Path) -> Path:
    """Our code as a wheel lays it out."""
    ignored = shutil.ignore_patterns("__pycache__", "app")
    shutil.copytree(CHECKOUT / "bioface_core", folder / "bioface_core", ignore=ignored)
    for name in ("client", "server", "simulation", "configs"):
        shutil.copytree(CHECKOUT / name, folder / "bioface_core" / "app" / name, ignore=ignored)
    return folder


def test_every_file_of_ours_is_in_it(packed: zipfile.ZipFile) -> None:
    ours = {
        path.relative_to(CHECKOUT).as_posix(): path.read_bytes()
        for package in CARRIED
        for path in (CHECKOUT / package).rglob("*.py")
    }
    found = {name: packed.read(name) for name in packed.namelist() if name.endswith(".py")}
    assert found == ours


def test_nothing_else_is_in_it(packed: zipfile.ZipFile) -> None:
    others = [name for name in packed.namelist() if not name.endswith(".py")]
    assert sorted(others) == [".info/CONTENT", "pyproject.toml"]
    assert not any(name.startswith(f"{package}/") for name in packed.namelist() for package in LEFT_OUT)


def test_no_compressor_s_version_is_part_of_the_hash(packed: zipfile.ZipFile) -> None:
    assert {one.compress_type for one in packed.infolist()} == {zipfile.ZIP_STORED}
    assert len({one.date_time for one in packed.infolist()}) == 1


def test_flower_takes_it(packed: zipfile.ZipFile) -> None:
    content = build_bundle()
    assert len(content) < FAB_MAX_SIZE
    assert get_fab_config(content) == tomllib.loads(packed.read("pyproject.toml").decode())


def test_its_apps_are_there_and_do_nothing(packed: zipfile.ZipFile) -> None:
    project = tomllib.loads(packed.read("pyproject.toml").decode())
    for reference in project["tool"]["flwr"]["app"]["components"].values():
        module, _, name = reference.partition(":")
        source = packed.read(f"{module.replace('.', '/')}.py").decode()
        assert f"\n{name} = " in source and "raise RuntimeError" in source


def test_the_hash_is_that_of_the_bytes() -> None:
    assert bundle_sha256(b"bundle") == hashlib.sha256(b"bundle").hexdigest()


@pytest.mark.slow
def test_checkout_and_wheel_agree(tmp_path: Path) -> None:
    here = bundle_sha256(build_bundle())
    assert here == bundle_sha256(build_bundle())
    assert told(CHECKOUT, "1") == told(install(tmp_path), "2") == here


@pytest.mark.slow
def test_one_character_makes_another_bundle(tmp_path: Path) -> None:
    installed = install(tmp_path)
    path = installed / "bioface_core" / "app" / "client" / "site.py"
    path.write_text(path.read_text(encoding="utf-8") + "#", encoding="utf-8")
    assert told(installed) != bundle_sha256(build_bundle())
