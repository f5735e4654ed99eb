"""How is stock Flower deployed? With Flower's own commands, TLS, registered node keys, and defaults for all the rest.

After the guides "Run Flower with the Deployment Runtime", "Enable TLS connections" and "Authenticate SuperNodes". On
loopback nothing travels far, so what is measured is what Flower itself costs.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from simulation.stock.credentials import make_certificates, make_node_key

LOOPBACK = "127.0.0.1"
_CONNECTION = "stock"
_START_S, _COMMAND_S, _GRACE_S = 60.0, 60.0, 10.0
_SCRIPTS = Path(sysconfig.get_path("scripts"))
_APP = Path(__file__).with_name("stock-app")


@dataclass(frozen=True)
class Deployment:
    """A SuperLink and its nodes, running.

    Attributes:
        folder: credentials, database, logs and the app.
        address: host and port of the SuperLink.
    """

    folder: Path
    address: str

    def flwr(self, *arguments: str, limit_s: float = _COMMAND_S) -> None:
        """A command of the administrator, waited for.

        Raises:
            subprocess.CalledProcessError: it failed.
            subprocess.TimeoutExpired: it took longer than ``limit_s``.
        """
        with (self.folder / "flwr.log").open("ab") as log:
            subprocess.run(
                [_SCRIPTS / "flwr", *arguments],
                cwd=self.folder,
                env=_environment(self.folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=limit_s,
                check=True,
            )

    def run(self, config: Mapping[str, object], limit_s: float) -> None:
        """Runs the app and waits for its end; ``--stream`` is what makes ``flwr run`` wait.

        Args:
            config: overrides of the app's own.
            limit_s: for the whole run.
        """
        overrides = self.folder / "run.toml"
        lines = [f"{key} = {_toml(value)}\n" for key, value in config.items()]
        overrides.write_text("".join(lines), encoding="utf-8")
        app = str(self.folder / _APP.name)
        self.flwr("run", app, _CONNECTION, "--run-config", str(overrides), "--stream", limit_s=limit_s)


@contextmanager
def deployed(folder: Path, hospitals: int) -> Iterator[Deployment]:
    """A SuperLink and registered nodes, until the block is left; then no process of theirs is.

    Args:
        folder: empty, or not there yet.
        hospitals: nodes.

    Raises:
        RuntimeError: the SuperLink does not listen.
    """
    _lay_out(folder, hospitals)
    port = free_port()
    one = Deployment(folder, f"{LOOPBACK}:{port}")
    (folder / "home" / "config.toml").write_text(
        f'[superlink]\ndefault = "{_CONNECTION}"\n'
        f'[superlink.{_CONNECTION}]\naddress = "{one.address}"\nroot-certificates = "{folder / "ca.crt"}"\n',
        encoding="utf-8",
    )
    with ExitStack() as processes:
        processes.enter_context(_running(folder, "superlink", _superlink(folder, port)))
        _await_port(port)
        for number in range(hospitals):
            one.flwr("supernode", "register", str(folder / f"node-{number}.pub"), _CONNECTION)
        for number in range(hospitals):
            command = _supernode(folder, one.address, number, hospitals)
            processes.enter_context(_running(folder, f"supernode-{number}", command))
        yield one


def _superlink(folder: Path, port: int) -> list[str]:
    """The lab's command.

    A database, since a lab that keeps nothing over a restart is no deployment; the default, memory, is a test's choice.
    No installation of dependencies, since all are there: the default would run ``uv sync`` before the run.
    """
    return [
        "flower-superlink",
        *("--host", LOOPBACK, "--port", str(port)),
        *("--ssl-ca-certfile", str(folder / "ca.crt")),
        *("--ssl-certfile", str(folder / "server.crt")),
        *("--ssl-keyfile", str(folder / "server.key")),
        "--enable-supernode-auth",
        *("--database", str(folder / "state.db")),
        "--disable-runtime-dependency-installation",
    ]


def _supernode(folder: Path, address: str, number: int, hospitals: int) -> list[str]:
    """A hospital's command; the isolation is the default: a new process for every message."""
    return [
        "flower-supernode",
        *("--superlink", address),
        *("--root-certificates", str(folder / "ca.crt")),
        *("--auth-supernode-private-key", str(folder / f"node-{number}")),
        *("--host", LOOPBACK, "--port", str(free_port())),  # of its own processes: the default suits one node only
        *("--node-config", f"partition-id={number} num-partitions={hospitals}"),
    ]


def _lay_out(folder: Path, hospitals: int) -> None:
    (folder / "home").mkdir(parents=True)
    shutil.copytree(_APP, folder / _APP.name, ignore=shutil.ignore_patterns("__pycache__"))
    make_certificates(folder)
    for number in range(hospitals):
        make_node_key(folder / f"node-{number}")


def _environment(folder: Path) -> dict[str, str]:
    """This process's, with Flower's files in ``folder`` and no word to anybody else.

    Flower's commands start one another by name, so they must be on the path.
    """
    return os.environ | {
        "FLWR_HOME": str(folder / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "NO_PROXY": LOOPBACK,
        "PATH": f"{_SCRIPTS}{os.pathsep}{os.environ.get('PATH', '')}",
    }


@contextmanager
def _running(folder: Path, name: str, command: list[str]) -> Iterator[None]:
    """A process in a group of its own, so that what it starts ends with it."""
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [_SCRIPTS / command[0], *command[1:]],
            cwd=folder,
            env=_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Politely, then by force, the whole group."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        return int(listener.getsockname()[1])


def _await_port(port: int) -> None:
    """Until somebody listens."""
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        with suppress(OSError), socket.create_connection((LOOPBACK, port), 1.0):
            return
        time.sleep(0.2)
    raise RuntimeError(f"the SuperLink does not listen on port {port} after {_START_S:.0f} s")


def _toml(value: object) -> str:
    return f'"{value}"' if isinstance(value, str | Path) else str(value)
