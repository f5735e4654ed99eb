"""Who keeps a hospital's side running? `bioface hospital join`: Flower's SuperNode and the site process.

A SuperNode that dies is started again alone: what the site was computing is in its memory by then. When the site
process dies, the SuperNode is started again as well: it would wait a minute for an answer that nobody is working on.
The lab sees a node that was started anew, and asks it again.
"""

from __future__ import annotations

import logging
import os

from filelock import FileLock, Timeout

from bioface_core.errors import HospitalError
from bioface_core.logs import say
from bioface_core.supervise import Child, command, import_path, last_line, stop_all, until_stopped
from client.hospital import Hospital

_log = logging.getLogger("bioface.join")
_LOOK_S = 0.1
_USERS_MISTAKE = 2  # the exit status of a command that trying again does not mend


def join(hospital: Hospital) -> None:
    """Takes part in the approved study until SIGTERM or SIGINT.

    Raises:
        HospitalError: nothing is approved, the hospital has joined already, or its site process cannot work.
    """
    hospital.approved()
    try:
        with FileLock(hospital.state / ".join.lock", timeout=1):
            _until_stopped(hospital)
    except Timeout:
        raise HospitalError(
            f"{hospital.folder} has joined already: stop the other `bioface hospital join` first"
        ) from None


def _until_stopped(hospital: Hospital) -> None:
    environment = os.environ | {"PYTHONPATH": import_path(), "FLWR_HOME": str(hospital.state / "flower")}
    said = hospital.logs / "site.out"
    site = Child("site", command("site", str(hospital.folder)), environment, said)
    node = Child("node", command("node", str(hospital.folder)), environment, hospital.logs / "node.out")

    def look() -> None:
        if site.keep():
            node.stop()
        if site.ended_with == _USERS_MISTAKE:
            raise HospitalError(f"the site process cannot work: {last_line(said).removeprefix('bioface: ')}")
        node.keep()

    say(_log, "joining", hospital=hospital.settings.name)
    try:
        until_stopped(look, _LOOK_S)
    finally:
        stop_all([site, node])
