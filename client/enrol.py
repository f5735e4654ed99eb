"""How does a hospital come into a federation? It makes its keys, sends the public halves, approves what it gets."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bioface_core.app_path import app_root
from bioface_core.errors import HospitalError
from bioface_core.files import replace_folder, write_text
from bioface_core.identity import make_identity, make_node_key, public_hex, sign, write_secret
from bioface_core.start import read_start
from bioface_core.store import read_store
from bioface_core.validation import explain
from client.hospital import Hospital, HospitalSettings, Kit, read_kit
from client.policy import violations

REQUEST_VERSION = 1


def init_hospital(folder: Path, name: str, store: Path) -> Path:
    """Makes a hospital's folder, its keys and its join request.

    Args:
        folder: new, or empty.
        name: in the federation.
        store: prepared photos; read once, to find a mistake early.

    Returns:
        The join request.

    Raises:
        HospitalError: the folder holds something, or the name is none.
        PhotoError: the store cannot be read.
    """
    if folder.exists() and any(folder.iterdir()):
        raise HospitalError(f"{folder} is not empty: choose a new folder")
    try:
        settings = HospitalSettings(name=name, store=store.resolve())
    except ValidationError as error:
        raise HospitalError(explain(error, HospitalSettings)) from error
    read_store(store)
    with replace_folder(folder) as fresh:
        fresh.chmod(0o700)
        _fill(Hospital(fresh, settings))
    return folder / "join-request.json"


def approve(hospital: Hospital, folder: Path) -> Kit:
    """Approves the study of a kit: what it says is what this hospital computes from now on, and nothing else.

    Raises:
        HospitalError: the kit is for somebody else, was altered, or the policy forbids the study.
        WeightsError, PhotoError: the start folder is not what the study names.
    """
    kit = check_kit(hospital, folder)
    broken = violations(hospital.settings.policy, kit.study)
    if broken:
        raise HospitalError(f"{broken[0]}. Nothing was approved; `bioface hospital review {folder}` says more")
    read_start(kit.start, kit.study)
    with replace_folder(hospital.kit) as fresh:
        shutil.copytree(folder, fresh, dirs_exist_ok=True)
    hospital.approvals.mkdir(mode=0o700, exist_ok=True)
    write_text(hospital.approvals / f"{kit.study.study_id}.json", json.dumps(_approval(kit), indent=1))
    return hospital.approved()


def check_kit(hospital: Hospital, folder: Path) -> Kit:
    """A kit that is for this hospital and holds what it says.

    Raises:
        HospitalError: it is not.
    """
    kit, settings = read_kit(folder), hospital.settings
    found = hashlib.sha256(kit.authority.read_bytes()).hexdigest()
    if found != kit.authority_sha256:
        raise HospitalError(f"{kit.authority} is not the certificate that the kit names: ask the lab for a new kit")
    if kit.hospital != settings.name:
        raise HospitalError(f"{folder} is {kit.hospital}'s kit, and this is {settings.name}: ask the lab for yours")
    if not any((one.name, one.identity_key) == (settings.name, hospital.identity) for one in kit.study.roster):
        raise HospitalError(f"the study's roster has no {settings.name} with this hospital's key: ask the lab why")
    return kit


def _fill(hospital: Hospital) -> None:
    """Everything a hospital's folder holds at its start."""
    for folder in (hospital.state, hospital.logs, hospital.approvals):
        folder.mkdir(mode=0o700)
    identity = make_identity(hospital.identity_key)
    node_key = make_node_key(hospital.node_key)
    write_secret(hospital.secret, secrets.token_hex(32).encode("ascii"))
    write_secret(hospital.keys / "rounding.secret", secrets.token_bytes(32))
    content: dict[str, Any] = {
        "version": REQUEST_VERSION,
        "name": hospital.settings.name,
        "identity_key": public_hex(identity),
        "node_key": node_key,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    content["signature"] = sign(identity, content)
    write_text(hospital.folder / "join-request.json", json.dumps(content, indent=1))
    template = (app_root() / "configs" / "hospital.yaml").read_text(encoding="utf-8")
    named = {"NAME": hospital.settings.name, "STORE": json.dumps(str(hospital.settings.store))}
    for word, value in named.items():
        template = template.replace(f"<{word}>", value)
    write_text(hospital.folder / "hospital.yaml", template)


def _approval(kit: Kit) -> dict[str, str]:
    return {
        "study_id": kit.study.study_id,
        "bundle_sha256": kit.bundle_sha256,
        "authority_sha256": kit.authority_sha256,
        "address": kit.address,
        "approved_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
