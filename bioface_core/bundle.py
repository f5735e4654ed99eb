"""Which code does the lab run? The bundle says it by its hash: our own packages, packed as a Flower app.

Flower wants a bundle with every run. Neither side of a federation of ours ever unpacks it: lab and hospital run what is
installed. Its hash names the lab's code; a hospital approves the hash, and can compare it with that of its own
installation.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from bioface_core import __version__
from bioface_core.app_path import app_root

_PACKAGES = ("bioface_core", "client", "server")
_PROJECT = """\
[project]
name = "bioface-federated"
version = "{version}"
license = {{ text = "Apache-2.0" }}

[tool.flwr.app]
publisher = "bioface"

[tool.flwr.app.components]
serverapp = "server.bundled:app"
clientapp = "client.bundled:app"
"""


def build_bundle() -> bytes:
    """The bundle of the installed code: the same bytes wherever the same version is installed."""
    from flwr.cli.build import build_fab_from_files

    files: dict[str, bytes | Path] = {"pyproject.toml": _PROJECT.format(version=__version__).encode()}
    files |= {name: path for package in _PACKAGES for name, path in _sources(package).items()}
    return build_fab_from_files(files)[0]


def bundle_sha256(content: bytes) -> str:
    """64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def _sources(package: str) -> dict[str, Path]:
    """The Python files of a package by their place in the bundle, which is that of the checkout."""
    folder = Path(__file__).resolve().parent if package == "bioface_core" else app_root() / package
    files = sorted(path for path in folder.rglob("*.py") if "app" not in path.relative_to(folder).parts[:1])
    return {f"{package}/{path.relative_to(folder).as_posix()}": path for path in files}
