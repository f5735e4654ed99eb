"""How does a lab come to be, and who belongs to it? Keys and certificates, join requests, start kits, revocation.

A hospital's private keys are made at the hospital and never come here. The roster is part of the study, so that whoever
is invited changes the study's id, and every hospital gets a new kit to approve.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from bioface_core.bundle import build_bundle
from bioface_core.config import Study
from bioface_core.enrolment import JoinRequest, KitLabel, read_form
from bioface_core.errors import LabError
from bioface_core.files import replace_folder, write_bytes, write_text
from bioface_core.identity import certificate_sha256
from bioface_core.private import new_private_folder, refuse_occupied, write_secret
from bioface_core.validation import explain
from server.certificates import expires_in, make_authority, make_server_certificate
from server.lab import Enrolled, Lab, LabSettings

if TYPE_CHECKING:
    from bioface_core.start import Start

_WARN_DAYS = 30


def init_lab(folder: Path, address: str, study: Study, start: Start, **settings: Any) -> Lab:
    """Makes a lab.

    Args:
        folder: new, or empty.
        address: HOST:PORT at which hospitals reach it.
        study: the template, without a roster.
        start: what all hospitals start from.
        settings: other than the defaults of ``LabSettings``.

    Raises:
        LabError: as ``plan_lab``.
    """
    chosen = plan_lab(folder, address, **settings)
    with new_private_folder(folder, LabError) as fresh:
        _fill(Lab(fresh, chosen), study, start)
    return Lab.open(folder)


def plan_lab(folder: Path, address: str, **settings: Any) -> LabSettings:
    """The settings of a lab that is to be made; writes nothing, so that a mistake is found before long work.

    Args:
        folder, address, settings: as for ``init_lab``.

    Raises:
        LabError: the folder holds something, or the settings are wrong.
    """
    refuse_occupied(folder, LabError)
    host, _, port = address.rpartition(":")
    everywhere = "[::]" if host.startswith("[") else "0.0.0.0"
    try:
        return LabSettings(**{"address": address, "listen": f"{everywhere}:{port}"} | settings)
    except ValidationError as error:
        raise LabError(explain(error, LabSettings)) from error


def renew(lab: Lab) -> None:
    """Makes a new server certificate under the same authority.

    Raises:
        LabError: the authority's key or certificate cannot be used.
    """
    make_server_certificate(lab.keys, lab.host)


def invite(lab: Lab, requests: Sequence[Path]) -> None:
    """Adds hospitals to the roster, all or none.

    Args:
        lab: the lab.
        requests: files that `bioface hospital init` made.

    Raises:
        LabError: a request is no request, was altered, or its name or a key of it is on the roster already.
    """
    with lab.changing_roster() as roster:
        for path in requests:
            asked = _read_request(path)
            for one in roster:
                _refuse_twin(path, asked, one)
            roster = (*roster, asked)
        lab.write_roster(roster)


def revoke(lab: Lab, name: str) -> None:
    """Shuts a hospital out, from its next message on; the study and its id stay as they are.

    Raises:
        LabError: no such hospital, or revoked already.
    """
    with lab.changing_roster() as roster:
        known = {one.name: one for one in roster}
        if name not in known:
            raise LabError(f"{name} is not on the roster, which holds {', '.join(known) or 'nobody'}")
        if known[name].revoked_at is not None:
            raise LabError(f"{name} was revoked at {known[name].revoked_at} already")
        known[name] = known[name].model_copy(update={"revoked_at": _now()})
        lab.write_roster(tuple(known.values()))


def issue_kits(lab: Lab, study: Study | None = None) -> list[Path]:
    """Writes a start kit for every hospital that is not revoked: what it needs to review, approve and join.

    Args:
        lab: the lab.
        study: the lab's own template if None.

    Returns:
        The kits' folders.
    """
    issued = lab.issued(study)
    invited = [one for one in lab.roster() if one.revoked_at is None]
    for one in invited:
        with replace_folder(lab.kits / one.name) as fresh:
            shutil.copytree(lab.start, fresh / "start")
            write_bytes(fresh / "ca.crt", lab.authority.read_bytes())
            write_text(fresh / "study.yaml", issued.to_yaml())
            write_text(fresh / "kit.json", _label(lab, one, issued).model_dump_json(indent=1))
    return [lab.kits / one.name for one in invited]


def warnings(lab: Lab) -> list[str]:
    """What an administrator should see to soon."""
    lines = []
    for path, mend in ((lab.certificate, "`bioface lab renew`"), (lab.authority, "make a new lab: its authority ends")):
        days = expires_in(path).days
        if days < _WARN_DAYS:
            ends = f"expires in {days} days" if days >= 0 else "has expired"
            lines.append(f"{path.name} {ends}: {mend}")
    return lines


def fingerprint(certificate: Path) -> str:
    """The SHA-256 of a certificate, to be compared on the telephone."""
    return certificate_sha256(certificate, LabError)


def _fill(lab: Lab, study: Study, start: Start) -> None:
    """Everything a lab holds at its start."""
    from bioface_core.start import write_start  # loads torch, which nobody else here needs

    for folder in (lab.state, lab.runs, lab.logs, lab.kits):
        folder.mkdir(mode=0o700)
    write_text(lab.folder / "lab.yaml", yaml.safe_dump(lab.settings.model_dump(), sort_keys=False))
    write_text(lab.template_file, study.to_yaml())
    make_authority(lab.keys)
    make_server_certificate(lab.keys, lab.host)
    write_secret(lab.secret, secrets.token_hex(32).encode("ascii"))
    write_start(lab.start, start)
    write_bytes(lab.bundle, build_bundle())
    lab.write_roster(())


def _label(lab: Lab, one: Enrolled, issued: Study) -> KitLabel:
    return KitLabel(
        hospital=one.name,
        address=lab.settings.address,
        study_id=issued.study_id,
        bundle_sha256=lab.bundle_sha256,
        authority_sha256=fingerprint(lab.authority),
    )


def _read_request(path: Path) -> Enrolled:
    """The entry of a join request whose signature fits."""
    asked = read_form(path, JoinRequest, LabError, "ask the hospital for the join-request.json it made")
    if not asked.is_genuine:
        raise LabError(f"{path} was altered (its signature does not fit): ask the hospital for a new one")
    return Enrolled(name=asked.name, identity_key=asked.identity_key, node_key=asked.node_key, invited_at=_now())


def _refuse_twin(path: Path, asked: Enrolled, one: Enrolled) -> None:
    """Names and keys are one hospital's each, for ever."""
    if asked.name == one.name:
        again = asked.identity_key == one.identity_key and one.revoked_at is None
        hint = "`bioface lab invite` issues its kit anew" if again else "the hospital must choose another name"
        raise LabError(f"{path}: {asked.name} is on the roster already: {hint}")
    if asked.identity_key == one.identity_key or asked.node_public_bytes == one.node_public_bytes:
        raise LabError(f"{path}: a key of {asked.name} is {one.name}'s: each hospital makes its own")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
