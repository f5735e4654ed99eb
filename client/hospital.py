"""What is a hospital's node? A folder: settings, keys, the approved kit, its books, and its logs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, ValidationError

from bioface_core.address import Address
from bioface_core.config import Study, load_yaml, read_study
from bioface_core.enrolment import KitLabel, read_form
from bioface_core.errors import ConfigError, HospitalError
from bioface_core.identity import certificate_sha256, public_hex, read_identity
from bioface_core.private import read_secret
from bioface_core.sections import Name, Section
from bioface_core.validation import explain
from client.policy import Policy

if TYPE_CHECKING:
    from client.executor import NodeSettings

_SETTINGS = "hospital.yaml"
KIT_FILES = ("kit.json", "study.yaml", "ca.crt")  # beside the folder `start`
Port = Annotated[int, Field(ge=1, le=65535)]


class Ports(Section):
    """Ports on loopback, each for one purpose.

    Attributes:
        runtime: where the site process takes the SuperNode's tasks.
        node_health: gRPC health protocol of the SuperNode.
        health: gRPC health protocol of the site process.
        metrics: Prometheus metrics of the site process.
    """

    runtime: Port = 8480
    node_health: Port = 8481
    health: Port = 8482
    metrics: Port = 8483


class HospitalSettings(Section):
    """``hospital.yaml``, the hospital's own.

    Attributes:
        name: in the roster.
        store: prepared photos.
        device: ``auto`` takes a GPU where there is one.
        address: HOST:PORT at which this machine reaches the lab, if not as the kit says: through a tunnel or a proxy.
        ports: on loopback.
        policy: what may leave.
    """

    name: Name
    store: Path
    device: str = "auto"
    address: Address | None = None
    ports: Ports = Ports()
    policy: Policy = Policy()


@dataclass(frozen=True)
class Kit:
    """A start kit: a study, and how to reach the lab that runs it. Make one with ``read_kit``.

    Attributes:
        folder: where it lies.
        hospital: whom it is for.
        address: HOST:PORT of the lab.
        study: the study, whose id is the one the kit names.
        bundle_sha256: of the code the lab runs.
        authority_sha256: fingerprint of the certificate of the lab's authority.
    """

    folder: Path
    hospital: str
    address: str
    study: Study
    bundle_sha256: str
    authority_sha256: str

    @property
    def authority(self) -> Path:
        """The certificate of the lab's authority."""
        return self.folder / "ca.crt"

    @property
    def start(self) -> Path:
        """What all hospitals start from."""
        return self.folder / "start"


class Hospital:
    """A hospital's folder, opened.

    Args:
        folder: absolute.
        settings: from its ``hospital.yaml``.
    """

    def __init__(self, folder: Path, settings: HospitalSettings) -> None:
        self.folder, self.settings = folder, settings
        self.keys, self.kit, self.approvals = folder / "keys", folder / "kit", folder / "approvals"
        self.state, self.logs = folder / "state", folder / "logs"
        self.identity_key, self.node_key = self.keys / "identity.key", self.keys / "node.key"
        self.secret, self.memory = self.keys / "superexec.secret", self.state / "memory.sqlite"
        self.ledger, self.audit = self.state / "ledger.sqlite", self.state / "audit.jsonl"
        self.residuals = self.state / "residuals"
        self.rounding_secret = self.keys / "rounding.secret"

    @staticmethod
    def open(folder: Path) -> Hospital:
        """The hospital in a folder.

        Raises:
            HospitalError: there is none, or its settings are wrong.
        """
        path = folder / _SETTINGS
        if not path.is_file():
            hint = "make it with `bioface hospital init`, or name it: --at"
            raise HospitalError(f"{folder} is no hospital's folder (no {_SETTINGS}): {hint}")
        try:
            return Hospital(folder.resolve(), HospitalSettings.model_validate(load_yaml(path)))
        except ValidationError as error:
            raise HospitalError(f"{path}: {explain(error, HospitalSettings)}") from error
        except ConfigError as error:
            raise HospitalError(str(error)) from error

    @cached_property
    def identity(self) -> str:
        """The public half of the hospital's identity, 64 hexadecimal digits."""
        return public_hex(read_identity(self.identity_key, HospitalError))

    @property
    def secrets(self) -> tuple[Path, ...]:
        """Every file that nobody but this account may read."""
        return self.identity_key, self.node_key, self.secret, self.rounding_secret

    @property
    def rounding_key(self) -> bytes:
        """A secret that is the same as long as the hospital is."""
        return read_secret(self.rounding_secret, HospitalError)

    def approved(self) -> Kit:
        """The kit of the approved study.

        Raises:
            HospitalError: nothing was approved, or what lies there is not what was.
        """
        if not self.kit.is_dir():
            raise HospitalError(f"{self.folder} has approved no study: `bioface hospital approve KIT`")
        kit = read_kit(self.kit)
        record = self.approvals / f"{kit.study.study_id}.json"
        try:
            approved = dict(json.loads(record.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            hint = "review and approve it"
            raise HospitalError(f"study {kit.study.study_id[:12]} in {self.kit} is not approved: {hint}") from error
        for name in ("bundle_sha256", "authority_sha256", "address"):
            if approved.get(name) != getattr(kit, name):
                raise HospitalError(f"{self.kit}: {name} is not what was approved: review the kit and approve it anew")
        return kit

    @property
    def node(self) -> NodeSettings:
        """What the SuperNode process needs."""
        from client.executor import NodeSettings

        kit, ports = self.approved(), self.settings.ports
        return NodeSettings(
            superlink=self.settings.address or kit.address,
            authority=kit.authority,
            key=self.node_key,
            secret=self.secret,
            runtime_port=ports.runtime,
            health_port=ports.node_health,
        )


def read_kit(folder: Path) -> Kit:
    """A start kit, held against itself.

    Raises:
        HospitalError: no kit, a part is missing, or study or certificate are not those that the kit names.
    """
    label = _read_label(folder)
    missing = [name for name in (*KIT_FILES, "start") if not (folder / name).exists()]
    if missing:
        raise HospitalError(f"{folder} lacks {missing[0]}: ask the lab for the whole kit")
    try:
        study = read_study(folder / "study.yaml")
    except ConfigError as error:
        raise HospitalError(f"{error}: ask the lab for a new kit") from error
    if study.study_id != label.study_id:
        ids = f"{study.study_id[:12]}, and the kit names {label.study_id[:12]}"
        raise HospitalError(f"{folder / 'study.yaml'} is study {ids}: it was altered; ask the lab for a new kit")
    if study.bundle_sha256 != label.bundle_sha256:
        raise HospitalError(f"{folder}: kit and study name different bundles: ask the lab for a new kit")
    if certificate_sha256(folder / "ca.crt", HospitalError) != label.authority_sha256:
        raise HospitalError(f"{folder / 'ca.crt'} is not the certificate that the kit names: ask the lab for a new kit")
    return Kit(folder, label.hospital, label.address, study, label.bundle_sha256, label.authority_sha256)


def _read_label(folder: Path) -> KitLabel:
    if not (folder / "kit.json").is_file():
        raise HospitalError(f"{folder} is no start kit (no kit.json): name the folder the lab sent")
    return read_form(folder / "kit.json", KitLabel, HospitalError, "ask the lab for a new kit")
