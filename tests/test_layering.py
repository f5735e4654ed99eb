"""Who imports whom? ``bioface_core <- client, server <- simulation <- tests``, and nobody the other way.

The rules of the house are held by parsing every file, not by importing it: so they hold inside functions as well.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent

MAY_IMPORT = {
    "bioface_core": {"bioface_core"},
    "client": {"bioface_core", "client"},
    "server": {"bioface_core", "server"},
    "simulation": {"bioface_core", "client", "server", "simulation"},
}
# The command line starts whatever was asked for: it may import from above and open sockets, but only inside a command.
COMMAND_LINE = "bioface_core/cli/"

# Slow to import (seconds) or untyped: each stays in the modules named here.
HEAVY = {
    "facenet_pytorch": {"bioface_core/faces.py", "simulation/bench_intake.py", "simulation/bench_predict.py"},
    "opacus": {"bioface_core/accounting.py", "bioface_core/privacy.py", "simulation/bench_dp.py"},
    "ray": {"simulation/flower.py"},
    "sklearn": {"bioface_core/report/embedding_map.py", "client/personal/fit.py"},
    "torchvision": {"bioface_core/faces.py", "simulation/usual.py"},  # the rival's transforms, for a benchmark
}
# The centre computes; sockets are for the edges. `flwr` is not here: messages are made of its records.
SOCKETS = {"asyncio", "grpc", "http", "httpx", "requests", "socket", "socketserver", "ssl", "urllib", "uvicorn"}
ENVIRONMENT = {"os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv", "os.unsetenv"}
TYPED_VIEWS = {"array_records", "config_records", "metric_records"}
SAYS_NOTHING = {"util", "utils", "helper", "helpers", "common", "manager", "base"}

Check = Callable[[str, str], list[str]]


@dataclass(frozen=True)
class Import:
    """One imported name.

    Attributes:
        name: dotted and absolute, such as ``os.environ``.
        line: where.
        inside: whether it stands in a function.
        typing: whether only a type checker sees it.
    """

    name: str
    line: int
    inside: bool
    typing: bool

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]


def imports(tree: ast.AST, inside: bool = False, typing: bool = False) -> Iterator[Import]:
    """Every import below ``tree``, in order."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, inside, typing) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (Import(f"{node.module}.{alias.name}", node.lineno, inside, typing) for alias in node.names)
        else:
            within = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            checking = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
            yield from imports(node, inside or within, typing or checking)


def layering(path: str, code: str) -> list[str]:
    """What ``path`` imports and must not, one line each."""
    package = path.partition("/")[0]
    found = [one for one in imports(ast.parse(code)) if one.package in {*MAY_IMPORT, "tests"} - MAY_IMPORT[package]]
    return [
        f"{path}:{one.line} imports {one.name}" for one in found if not (path.startswith(COMMAND_LINE) and one.inside)
    ]


def heavy(path: str, code: str) -> list[str]:
    """The heavy libraries that ``path`` imports without being named for it."""
    found = [one for one in imports(ast.parse(code)) if path not in HEAVY.get(one.package, {path}) and not one.typing]
    return [f"{path}:{one.line} imports {one.package}, which belongs in {sorted(HEAVY[one.package])}" for one in found]


def reaches_out(path: str, code: str) -> list[str]:
    """Sockets and environment variables in ``path``."""
    tree = ast.parse(code)
    found = [one for one in imports(tree) if one.package in SOCKETS or one.name in ENVIRONMENT]
    found = [one for one in found if not (path.startswith(COMMAND_LINE) and one.inside)]
    reads = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node) in ENVIRONMENT]
    return [f"{path}:{one.line} imports {one.name}" for one in found] + [
        f"{path}:{node.lineno} reads {ast.unparse(node)}" for node in reads
    ]


def ties_messages(path: str, code: str) -> list[str]:
    """Flower's typed views of a message in ``path``: they tie it into a cycle, and it stays until somebody looks."""
    found = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Attribute) and node.attr in TYPED_VIEWS]
    return [f"{path}:{node.lineno} takes {node.attr} of a message" for node in found]


def empty_names(path: str, code: str) -> list[str]:
    """Files, folders and classes in ``path`` whose name says nothing."""
    parts = [part for part in path.removesuffix(".py").split("/") if words(part) & SAYS_NOTHING]
    classes = [node.name for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ClassDef)]
    # A class may be called Base: in this field that is the network a study starts from.
    return [f"{path}: {name}" for name in parts + [name for name in classes if words(name) & SAYS_NOTHING - {"base"}]]


def words(name: str) -> set[str]:
    """The words of ``snake_case`` or ``CamelCase``, in lower case."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def sources(*packages: str) -> list[tuple[str, str]]:
    """Path from the checkout and text of each Python file."""
    files = [file for package in packages for file in sorted((CHECKOUT / package).rglob("*.py"))]
    return [(file.relative_to(CHECKOUT).as_posix(), file.read_text(encoding="utf-8")) for file in files]


def test_imports_go_one_way() -> None:
    assert [line for path, code in sources(*MAY_IMPORT) for line in layering(path, code)] == []


def test_heavy_libraries_stay_in_their_modules() -> None:
    assert [line for path, code in sources(*MAY_IMPORT) for line in heavy(path, code)] == []


def test_the_centre_opens_no_socket_and_reads_no_environment() -> None:
    assert [line for path, code in sources("bioface_core") for line in reaches_out(path, code)] == []


def test_no_message_is_tied_into_a_cycle() -> None:
    of_the_product = sources("bioface_core", "client", "server")
    assert [line for path, code in of_the_product for line in ties_messages(path, code)] == []


def test_names_say_something() -> None:
    assert [line for path, code in sources(*MAY_IMPORT, "tests") for line in empty_names(path, code)] == []


@pytest.mark.parametrize("package", [*MAY_IMPORT, "tests"])
def test_packages_cannot_be_shadowed(package: str) -> None:
    """Without ``__init__.py`` a folder loses to any package of its name, wherever on the path that lies."""
    assert (CHECKOUT / package / "__init__.py").is_file()


@pytest.mark.parametrize(
    ("check", "path", "code"),
    [
        (layering, "client/app.py", "import server.app"),
        (layering, "server/app.py", "def late():\n    from client import site"),
        (layering, "bioface_core/model.py", "from client.site import Site"),
        (layering, "bioface_core/cli/lab.py", "import simulation"),
        (layering, "simulation/run.py", "from tests import conftest"),
        (heavy, "bioface_core/model.py", "def late():\n    import torchvision.ops"),
        (reaches_out, "bioface_core/config.py", "import os\nHOME = os.environ['HOME']"),
        (reaches_out, "bioface_core/config.py", "from os import getenv"),
        (reaches_out, "bioface_core/config.py", "from http.server import HTTPServer"),
        (ties_messages, "server/collect.py", "size = len(message.content.array_records)"),
        (empty_names, "client/mask_utils.py", ""),
        (empty_names, "client/base.py", ""),
        (empty_names, "client/site.py", "class RunManager: ..."),
    ],
)
def test_each_check_finds_what_it_is_for(check: Check, path: str, code: str) -> None:
    assert len(check(path, code)) == 1


@pytest.mark.parametrize(
    ("check", "path", "code"),
    [
        (layering, "bioface_core/cli/lab.py", "def simulate():\n    import simulation.run"),
        (layering, "simulation/run.py", "import client.app, server.app, bioface_core.model"),
        (reaches_out, "bioface_core/cli/web.py", "def serve():\n    import uvicorn"),
        (heavy, "bioface_core/faces.py", "import torchvision"),
        (reaches_out, "bioface_core/files.py", "import os\nos.fsync(0)"),
        (ties_messages, "server/collect.py", "size = len(array_records(message.content))"),
        (empty_names, "bioface_core/weights.py", "class Base: ..."),
    ],
)
def test_each_check_lets_the_rest_pass(check: Check, path: str, code: str) -> None:
    assert check(path, code) == []


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["simulate", "--help"]])
def test_help_is_instant(arguments: list[str]) -> None:
    """In a fresh interpreter, since this one has imported everything."""
    program = (
        "import json, sys\n"
        f"sys.argv = ['bioface', *{arguments!r}]\n"
        "from bioface_core.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "json.dump(sorted({name.partition('.')[0] for name in sys.modules}), sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert set(json.loads(done.stderr)) & {"torch", "flwr", "numpy", "ray", *HEAVY} == set()
