"""How does a hospital come into a federation? It makes its keys, sends the public halves, approves what it gets."""

from __future__ import annotations

import json
import secrets
import shutil
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from bioface_core.app_path import app_root
from bioface_core.enrolment import JoinRequest
from bioface_core.errors import HospitalError
from bioface_core.files import replace_folder, write_text
from bioface_core.identity import make_identity, make_node_key, public_hex
from bioface_core.private import new_private_folder, refuse_occupied, write_secret
from bioface_core.start import read_start, write_start
from bioface_core.store import read_store
from bioface_core.validation import explain
from client.books import begin_books
from client.hospital import KIT_FILES, Hospital, HospitalSettings, Kit, read_kit
from client.policy import violations


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
    refuse_occupied(folder, HospitalError)
    try:
        settings = HospitalSettings(name=name, store=store.resolve())
    except ValidationError as error:
        raise HospitalError(explain(error, HospitalSettings)) from error
    read_store(store)
    with new_private_folder(folder, HospitalError) as fresh:
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
    start = read_start(kit.start, kit.study)
    with replace_folder(hospital.kit) as fresh:
        for name in KIT_FILES:
            shutil.copyfile(folder / name, fresh / name)
        write_start(fresh / "start", start)  # what was read and compared, and nothing else that may lie there
    hospital.approvals.mkdir(mode=0o700, exist_ok=True)
    write_text(hospital.approvals / f"{kit.study.study_id}.json", json.dumps(_approval(kit), indent=1))
    return hospital.approved()


def check_kit(hospital: Hospital, folder: Path) -> Kit:
    """A kit that is for this hospital and holds what it says.

    Raises:
        HospitalError: it is not.
    """
    kit, settings = read_kit(folder), hospital.settings
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
    write_secret(hospital.rounding_secret, secrets.token_bytes(32))
    begin_books(hospital, identity)
    made_at = datetime.now(UTC).isoformat(timespec="seconds")
    asked = JoinRequest(
        name=hospital.settings.name, identity_key=public_hex(identity), node_key=node_key, made_at=made_at
    )
    write_text(hospital.folder / "join-request.json", asked.signed(identity).model_dump_json(indent=1))
    _write_settings(hospital)


def _write_settings(hospital: Hospital) -> None:
    """``hospital.yaml`` with its comments."""
    template = (app_root() / "configs" / "hospital.yaml").read_text(encoding="utf-8")
    # Quoted, as JSON is: YAML takes a hospital called `no` for a truth value.
    for word, value in (("NAME", hospital.settings.name), ("STORE", str(hospital.settings.store))):
        template = template.replace(f"<{word}>", json.dumps(value, ensure_ascii=False))
    write_text(hospital.folder / "hospital.yaml", template)


def _approval(kit: Kit) -> dict[str, str]:
    return {
        "study_id": kit.study.study_id,
        "bundle_sha256": kit.bundle_sha256,
        "authority_sha256": kit.authority_sha256,
        "address": kit.address,
        "approved_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
