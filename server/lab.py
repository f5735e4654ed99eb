"""What is a lab? A folder: its settings, its study, its roster, its keys, and whatever came of its runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from filelock import FileLock
from pydantic import Field, TypeAdapter, ValidationError

from bioface_core.address import Address, host_and_port
from bioface_core.bundle import bundle_sha256
from bioface_core.config import Study, check_federable, load_yaml, read_study
from bioface_core.enrolment import NodeKey
from bioface_core.errors import ConfigError, LabError
from bioface_core.files import write_text
from bioface_core.identity import node_public_bytes
from bioface_core.sections import Hash, Name, Section
from bioface_core.validation import explain

if TYPE_CHECKING:
    from server.grid import AdminAddress
    from server.link import LinkSettings

LOOPBACK = "127.0.0.1"
Port = Annotated[int, Field(ge=1, le=65535)]
_SETTINGS, _TEMPLATE, _ROSTER, _BUNDLE = "lab.yaml", "study.yaml", "roster.json", "bundle.fab"


class LabSettings(Section):
    """``lab.yaml``.

    Attributes:
        address: host and port at which hospitals reach the lab.
        listen: host and port to listen on; another than ``address`` behind a firewall that forwards.
        admin_port: of the administration listener, on loopback.
        health_port: of the gRPC health protocol, on loopback.
        metrics_port: of Prometheus metrics, on loopback.
    """

    address: Address
    listen: Address
    admin_port: Port = 8470
    health_port: Port = 8471
    metrics_port: Port = 8472


class Enrolled(Section):
    """A hospital on the roster.

    Attributes:
        name: unique.
        identity_key: Ed25519 public half, 64 hexadecimal digits.
        node_key: public half of its node's key, OpenSSH text.
        invited_at: ISO 8601, UTC.
        revoked_at: the same; None as long as it may connect.
    """

    name: Name
    identity_key: Hash
    node_key: NodeKey
    invited_at: str
    revoked_at: str | None = None

    @property
    def node_public_bytes(self) -> bytes:
        """The node's key as Flower's SuperLink knows it."""
        return node_public_bytes(self.node_key)


_ROSTER_OF = TypeAdapter(tuple[Enrolled, ...])


class Lab:
    """A lab's folder, opened.

    Args:
        folder: absolute.
        settings: from its ``lab.yaml``.
    """

    def __init__(self, folder: Path, settings: LabSettings) -> None:
        self.folder, self.settings = folder, settings
        self.template_file, self.roster_file, self.bundle = folder / _TEMPLATE, folder / _ROSTER, folder / _BUNDLE
        self.keys, self.start, self.kits = folder / "keys", folder / "start", folder / "kits"
        self.state, self.runs, self.logs = folder / "state", folder / "runs", folder / "logs"
        self.authority, self.certificate = self.keys / "ca.crt", self.keys / "server.crt"
        self.secret = self.keys / "superexec.secret"
        self.ordered_study_file, self.outcome_file = self.state / "study.yaml", self.state / "outcome.json"

    @staticmethod
    def open(folder: Path) -> Lab:
        """The lab in a folder.

        Raises:
            LabError: there is none, or its settings are wrong.
        """
        path = folder / _SETTINGS
        if not path.is_file():
            raise LabError(f"{folder} is no lab (no {_SETTINGS}): make one with `bioface lab init`, or name it: --lab")
        try:
            return Lab(folder.resolve(), LabSettings.model_validate(load_yaml(path)))
        except ValidationError as error:
            raise LabError(f"{path}: {explain(error, LabSettings)}") from error
        except ConfigError as error:
            raise LabError(str(error)) from error

    @property
    def host(self) -> str:
        """Name or address at which hospitals reach the lab."""
        return host_and_port(self.settings.address)[0]

    def roster(self) -> tuple[Enrolled, ...]:
        """Every hospital that was ever invited, in that order.

        Raises:
            LabError: the file is damaged.
        """
        try:
            return _ROSTER_OF.validate_json(self.roster_file.read_bytes())
        except FileNotFoundError:
            return ()
        except (OSError, ValueError) as error:
            raise LabError(
                f"{self.roster_file} is damaged ({type(error).__name__}): restore it from a backup"
            ) from error

    def write_roster(self, roster: tuple[Enrolled, ...]) -> None:
        """Replaces the roster."""
        write_text(self.roster_file, json.dumps([one.model_dump() for one in roster], indent=1))

    @contextmanager
    def changing_roster(self) -> Iterator[tuple[Enrolled, ...]]:
        """Yields the roster; nobody else changes it until the block ends, so that no revocation is lost."""
        with FileLock(self.folder / ".roster.lock"):
            yield self.roster()

    @cached_property
    def bundle_sha256(self) -> str:
        """Of the bundle that the lab runs."""
        return bundle_sha256(self.bundle.read_bytes())

    def issued(self, study: Study | None = None) -> Study:
        """The study as hospitals get it: with the roster, the bundle, and the hashes of what all start from.

        Args:
            study: the lab's own template if None.

        Raises:
            LabError: nobody was invited.
            ConfigError: it is no valid study.
        """
        from bioface_core.start import read_start  # loads torch, which `bioface lab serve` does not need

        study = study or read_study(self.template_file)
        check_federable(study)
        roster = [{"name": one.name, "identity_key": one.identity_key} for one in self.roster()]
        if not roster:
            raise LabError(f"{self.folder} has no hospital on its roster: `bioface lab invite` some first")
        start = read_start(self.start, study)
        named: dict[str, Any] = {"roster": roster, "bundle_sha256": self.bundle_sha256}
        named |= {"identities_sha256": start.identities_sha256, "model": {"base_sha256": start.base.sha256}}
        return study.replace(named)

    def ordered_study(self) -> Study:
        """The study of the last order."""
        return read_study(self.ordered_study_file)

    @property
    def admin(self) -> AdminAddress:
        """Where the lab's own processes reach its SuperLink."""
        from server.grid import AdminAddress

        return AdminAddress(f"{LOOPBACK}:{self.settings.admin_port}", self.authority, self.secret)

    @property
    def link(self) -> LinkSettings:
        """What the SuperLink process needs."""
        from server.link import LinkSettings

        return LinkSettings(
            public=host_and_port(self.settings.listen),
            admin_port=self.settings.admin_port,
            health_port=self.settings.health_port,
            certificate=self.certificate,
            key=self.keys / "server.key",
            authority=self.authority,
            secret=self.secret,
            database=self.state / "link.db",
        )
