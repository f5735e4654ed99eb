"""Who keeps the lab's side running? `bioface lab serve`: the SuperLink, the nodes it lets in, and the wanted run.

What is wanted stands in a file, the order; what is, in another, the status. Both survive this process: started again,
it goes on with the run that was on its way. A SuperLink or a ServerApp that dies is started again, and the run resumes.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import httpx
from filelock import FileLock, Timeout
from prometheus_client import CollectorRegistry

from bioface_core.address import host_and_port
from bioface_core.config import Study
from bioface_core.errors import LabError
from bioface_core.files import write_text
from bioface_core.logs import say
from bioface_core.supervise import Child, command, import_path, stop_all, until_stopped
from server.grid import Admin
from server.lab import LOOPBACK, Lab
from server.metrics import LabMetrics, RunWatch, serve_metrics

_log = logging.getLogger("bioface.serve")

_LOOK_S = 0.1
_PORT_PATIENCE_S = 15.0  # for what a killed supervisor left behind
_FAILURES = 5  # attempts at one round before the run is given up
_PAUSE_S = 5.0  # after a failed round

State = Literal["idle", "running", "finished", "failed", "stopped"]


@dataclass(frozen=True)
class Order:
    """What the lab wants.

    Attributes:
        number: counts the orders.
        action: run a study, or stop the one that runs.
        study: YAML of the issued study; empty for a stop.
    """

    number: int
    action: Literal["run", "stop"]
    study: str = ""


@dataclass(frozen=True)
class Status:
    """What is.

    Attributes:
        number: of the order it answers, 0 before the first.
        state: of the run.
        study: the study's name.
        study_id: its id.
        restarts: how often the ServerApp was started again in this run.
        failures: how often the next round has failed.
        round: the last complete one when that was counted, -1 for none.
        reason: why it failed.
    """

    number: int = 0
    state: State = "idle"
    study: str = ""
    study_id: str = ""
    restarts: int = 0
    failures: int = 0
    round: int = -1
    reason: str = ""


def give_order(lab: Lab, action: Literal["run", "stop"], study: Study | None = None) -> int:
    """Leaves an order for `bioface lab serve`.

    Returns:
        The order's number, which the status repeats once it is carried out.

    Raises:
        LabError: nobody serves this lab, or another run is on.
    """
    if not is_served(lab):
        raise LabError(f"{lab.folder} is not served: start `bioface lab serve --lab {lab.folder}` first")
    status, before = read_status(lab), _read_order(lab)
    if action == "run" and status.state == "running":
        raise LabError(f"{status.study} is running: wait for its end, or `bioface lab stop` it")
    if action == "stop" and status.state != "running":
        raise LabError(f"nothing is running ({status.state}): there is nothing to stop")
    number = (before.number if before else 0) + 1
    text = "" if study is None else study.to_yaml()
    write_text(_order_file(lab), json.dumps(asdict(Order(number, action, text))))
    return number


def read_status(lab: Lab) -> Status:
    """What `bioface lab serve` last wrote."""
    content = _read_json(lab.state / "status.json")
    return Status() if content is None else Status(**content)


def rounds_done(lab: Lab, study: str) -> int:
    """The last complete round of a study's run, -1 if there is none."""
    files = (lab.runs / study).glob("round-[0-9]*.json") if study else ()
    return max((int(file.stem.removeprefix("round-")) for file in files), default=-1)


def is_served(lab: Lab) -> bool:
    """Whether `bioface lab serve` runs for this lab."""
    try:
        with _lock(lab):
            return False
    except Timeout:
        return True


def serve(lab: Lab) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        LabError: the lab is served already, or something else has a port.
    """
    try:
        with _lock(lab):
            _wait_for_ports(lab)
            _Serve(lab).until_stopped()
    except Timeout:
        raise LabError(f"{lab.folder} is served already: stop the other `bioface lab serve` first") from None


class _Serve:
    """The two children, and what is known of the run."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        environment = _environment(lab)
        self._link = Child("superlink", command("link", str(lab.folder)), environment, lab.logs / "superlink.out")
        self._app = Child("serverapp", command("serverapp", str(lab.folder)), environment, lab.logs / "serverapp.out")
        self._admin = Admin(lab.admin)
        self._status = read_status(lab)
        self._metrics = LabMetrics(CollectorRegistry())
        self._watch = self._watched()
        self._registered: float | None = None  # when the roster was last changed, as far as the SuperLink knows
        self._not_before = 0.0

    def until_stopped(self) -> None:
        """Looks after everything."""
        self._metrics.certificate("server", self._lab.certificate)
        self._metrics.certificate("authority", self._lab.authority)
        serve_metrics(self._lab.settings.metrics_port, self._metrics.registry)
        say(_log, "serving", address=self._lab.settings.address)
        try:
            until_stopped(self._look, _LOOK_S)
        finally:
            self._admin.close()
            stop_all([self._app, self._link])

    def _look(self) -> None:
        """What has to be done now?"""
        if self._link.keep():
            self._app.stop()
            self._registered = None
        self._obey()
        self._watch.look()
        if self._let_in() and self._status.state == "running":
            self._keep_running()

    def _let_in(self) -> bool:
        """Makes the SuperLink know the roster's nodes and no others; whether it does."""
        changed = self._lab.roster_file.stat().st_mtime if self._lab.roster_file.exists() else 0.0
        if changed == self._registered:
            return True
        try:
            self._register()
        except httpx.HTTPError:
            return False  # it is not up yet, or down again: at the next look
        self._registered = changed
        return True

    def _register(self) -> None:
        nodes = self._admin.nodes()
        wanted = {one.node_public_bytes: one.name for one in self._lab.roster() if one.revoked_at is None}
        for key in wanted.keys() - nodes.keys():
            self._admin.register(key, wanted[key])
            say(_log, "let-in", hospital=wanted[key])
        for key in nodes.keys() - wanted.keys():
            self._admin.unregister(nodes[key].node_id)
            say(_log, "shut-out", node=nodes[key].name)

    def _obey(self) -> None:
        """Carries out an order that is new."""
        order = _read_order(self._lab)
        if order is None or order.number == self._status.number:
            return
        self._app.stop()
        if order.action == "stop":
            return self._note(replace(self._status, number=order.number, state="stopped"))
        write_text(self._lab.ordered_study_file, order.study)
        study = self._lab.ordered_study()
        self._not_before = 0.0
        self._note(Status(order.number, "running", study.name, study.study_id))
        self._watch = self._watched()

    def _keep_running(self) -> None:
        """Starts the ServerApp, again if need be, until the run has come to an end."""
        if self._app.running or time.monotonic() < self._not_before:
            return
        ended = self._app.status
        if ended == 0:
            return self._note(replace(self._status, state="finished", reason=""))
        if ended is not None:
            self._after(ended)
        if self._status.state == "running" and time.monotonic() >= self._not_before:
            self._app.start()

    def _after(self, ended: int) -> None:
        """What follows when the ServerApp ended with another status than 0."""
        self._app.forget()
        failed, done = ended in (1, 2), rounds_done(self._lab, self._status.study)
        before = self._status.failures if done == self._status.round else 0
        reason = str((_read_json(self._lab.outcome_file) or {}).get("reason", "")) if failed else "it was killed"
        status = replace(self._status, failures=before + failed, round=done, reason=reason)
        if ended == 2 or status.failures >= _FAILURES:
            return self._note(replace(status, state="failed"))
        say(_log, "resuming", logging.WARNING, status=ended, reason=reason)
        self._not_before = time.monotonic() + (_PAUSE_S if failed else 0.0)
        self._note(replace(status, restarts=status.restarts + 1))

    def _watched(self) -> RunWatch:
        """Counts what the run that the status names writes from now on."""
        return RunWatch(self._lab.runs / self._status.study, self._metrics)

    def _note(self, status: Status) -> None:
        self._status = status
        try:
            write_text(self._lab.state / "status.json", json.dumps(asdict(status)))
        except OSError as error:
            say(_log, "status-not-written", logging.ERROR, why=str(error.strerror))
        say(_log, status.state, study=status.study, restarts=status.restarts, reason=status.reason)


def _wait_for_ports(lab: Lab) -> None:
    """Waits for the ports; the children of a supervisor that was killed may have them for a moment.

    Raises:
        LabError: somebody keeps one.
    """
    settings, until = lab.settings, time.monotonic() + _PORT_PATIENCE_S
    wanted = {name: (LOOPBACK, getattr(settings, name)) for name in ("admin_port", "health_port", "metrics_port")}
    for name, place in {"listen": host_and_port(settings.listen), **wanted}.items():
        while not _is_free(place):
            if time.monotonic() > until:
                hint = "stop what listens there, or choose another in lab.yaml"
                raise LabError(f"{name}: {place[0]}:{place[1]} cannot be listened on: {hint}")
            time.sleep(_LOOK_S)


def _is_free(place: tuple[str, int]) -> bool:
    try:
        family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
        with socket.create_server(place, family=family):
            return True
    except OSError:
        return False


def _environment(lab: Lab) -> Mapping[str, str]:
    """What the children inherit: nothing that makes Flower speak to anybody else."""
    return os.environ | {
        "PYTHONPATH": import_path(),
        "FLWR_HOME": str(lab.state / "flower"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }


def _lock(lab: Lab) -> FileLock:
    return FileLock(lab.state / ".serve.lock", timeout=0)


def _order_file(lab: Lab) -> Path:
    return lab.state / "order.json"


def _read_order(lab: Lab) -> Order | None:
    content = _read_json(_order_file(lab))
    return None if content is None else Order(**content)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
