"""What keeps a hospital from taking part? Its folder, photos and machine, and the way to the lab, looked at in turn.

The order is that in which things fail: what comes later needs what comes first. Nothing is changed, neither here nor at
the lab, and nothing of the hospital is sent: a TLS handshake, ``GET /health``, and one signed question about the key.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Sequence
from contextlib import closing

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)
from filelock import FileLock, Timeout
from rich.table import Table
from rich.text import Text

from bioface_core.address import host_and_port
from bioface_core.errors import HospitalError, UserError
from bioface_core.report.words import plural
from bioface_core.store import as_studied, read_store
from client import connection
from client.audit import verify
from client.books import open_ledger
from client.connection import LabAddress
from client.finding import Check, Finding, Verdict, examine, fault, fine, notable
from client.fleet import Standing, ask_standing
from client.health import LOOPBACK, probe
from client.hospital import Hospital
from client.policy import is_private, too_few_patients, violations
from client.review import held

_LOST_KEY = "restore it from a backup; keys made anew need a new invitation"
_LEAST_FREE_BYTES = 2 * 10**9
_MARKS = {True: ("ok", "green"), False: ("FAULT", "bold red"), None: ("note", "yellow")}


def diagnose(hospital: Hospital) -> list[Finding]:
    """Looks at everything, in the order in which things fail.

    Returns:
        One finding per check; ``ok`` is False where it keeps the hospital from taking part, None where it is worth
        knowing or could not be checked.
    """
    return examine(_CHECKS, hospital)


def describe(findings: Sequence[Finding]) -> Table:
    """For people."""
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        word, style = _MARKS[finding.ok]
        table.add_row(Text(word, style), finding.name, Text(finding.found))
        if finding.advice:
            table.add_row("", "", Text(f"-> {finding.advice}", "italic"))
    return table


def check_keys(hospital: Hospital) -> Verdict:
    """Are the keys there, readable by their owner alone, and whole?"""
    for path in hospital.secrets:
        if not path.is_file():
            return fault(f"{path} is missing", _LOST_KEY)
    for path in (hospital.keys, *hospital.secrets):
        if path.stat().st_mode & 0o077:
            return fault(f"{path} can be read by others", f"chmod go= {path}")
    try:
        _public_halves(hospital)
    except (ValueError, TypeError) as error:
        return fault(f"a key cannot be read ({error})", _LOST_KEY)
    return fine("identity key, node key and secrets are there, for their owner alone")


def check_books(hospital: Hospital) -> Verdict:
    """Are ledger and audit log there, whole, and of the same time?"""
    try:
        with closing(open_ledger(hospital)) as ledger:
            charges = ledger.last_number()
    except HospitalError as error:
        found, _, advice = str(error).partition(": ")
        return fault(found, advice)
    verdict = verify(hospital.audit, hospital.identity)
    if verdict.fault:
        return fault(verdict.fault, "`bioface hospital audit` says more; restore the log and its .head from a backup")
    return fine(
        f"{plural(charges, 'charge')} in the ledger, {plural(verdict.lines, 'line')} in the audit log, in order"
    )


def check_join_request(hospital: Hospital) -> Verdict:
    """Is what the lab was sent the public half of the keys that are here?"""
    path = hospital.folder / "join-request.json"
    advice = "restore the keys or the request from a backup; keys made anew need a new invitation"
    if not path.is_file():
        return fault(f"{path} is missing", advice)
    try:
        request = json.loads(path.read_text(encoding="utf-8"))
        sent = request["identity_key"], " ".join(request["node_key"].split()[:2])
    except (ValueError, KeyError, TypeError, AttributeError):
        return fault(f"{path} cannot be read as a join request", advice)
    for name, ours, theirs in zip(("identity", "node"), _public_halves(hospital), sent, strict=True):
        if ours != theirs:
            return fault(f"the {name} key is not the one of the join request", advice)
    return fine("the join request holds the public halves of these keys")


def check_disk(hospital: Hospital) -> Verdict:
    """Is there room for answers, logs and the next kit?"""
    start = sum(path.stat().st_size for path in (hospital.folder / "kit" / "start").rglob("*") if path.is_file())
    needed, free = max(_LEAST_FREE_BYTES, 3 * start), shutil.disk_usage(hospital.folder).free
    found = f"{free / 1e9:.1f} GB free where {hospital.folder} lies"
    return fine(found) if free >= needed else fault(f"{found}, needed {needed / 1e9:.1f} GB", "make room")


def check_device(hospital: Hospital) -> Verdict:
    """Does the device exist that the settings name?"""
    import torch

    name = hospital.settings.device
    if name == "auto":
        return fine(f"device auto: {'the first GPU' if torch.cuda.is_available() else 'the CPU, there is no GPU'}")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        advice = "mend the driver, or set device: cpu in hospital.yaml"
        return fault(f"device {name} cannot be used ({reason})", advice)
    return fine(f"device {name} works")


def check_approval(hospital: Hospital) -> Verdict:
    """Is a study approved, is this hospital in it, and would its own policy let it answer?"""
    try:
        study = hospital.approved().study
    except UserError as error:
        return fault(str(error), "`bioface hospital review KIT`, then `bioface hospital approve KIT`")
    ours = _public_halves(hospital)[0]
    if not any((one.name, one.identity_key) == (hospital.settings.name, ours) for one in study.roster):
        advice = "send the lab join-request.json anew, and ask for a new start kit"
        return fault(f"the study's roster does not hold {hospital.settings.name} with the key that is here", advice)
    broken = violations(hospital.settings.policy, study)
    if broken:
        return fault(f"the policy forbids the approved study. {broken[0]}", "change hospital.yaml, or ask the lab")
    return fine(f"study {study.study_id[:12]} ({study.name}) is approved")


def check_start(hospital: Hospital) -> Verdict:
    """Are the kit's files whole, and those that the study names?"""
    from bioface_core.start import read_start

    kit = hospital.approved()
    read_start(kit.start, kit.study)
    return fine("the kit's files are those that the study names")


def check_store(hospital: Hospital) -> Verdict:
    """Can the photos be read?"""
    try:
        store = read_store(hospital.settings.store)
    except UserError as error:
        return fault(str(error), "`bioface prepare`, and `store` in hospital.yaml")
    return fine(f"{len(store.photos)} photos in {hospital.settings.store}")


def check_syndromes(hospital: Hospital) -> Verdict:
    """Are there enough patients of what the study is about?"""
    study, policy = hospital.approved().study, hospital.settings.policy
    rows = held(as_studied(read_store(hospital.settings.store), study.syndromes), policy, is_private(study))
    used = [row for row in rows if row.takes_part and row.train_patients]
    if not used:
        found = "the store has none of the study's syndromes, or too few patients of each for the policy"
        return fault(found, "prepare more photos; syndromes must be called as in the study")
    patients = sum(row.train_patients for row in used)
    for sentence in too_few_patients(policy, study, patients):
        return fault(sentence, "prepare more photos, or change the policy")
    left_out = [row.syndrome for row in rows if row not in used]
    found = f"{len(used)} of the study's {len(rows)} syndromes are trained on here"
    return notable(f"{found}; not {', '.join(left_out)}") if left_out else fine(found)


def check_ports(hospital: Hospital) -> Verdict:
    """Are the ports free for our processes, or in their hands?"""
    ports = hospital.settings.ports.model_dump()
    advice = "stop what listens there, or choose another in hospital.yaml"
    if len(set(ports.values())) < len(ports):
        return fault(f"two of the ports are the same: {ports}", "choose different ones in hospital.yaml")
    if _joined(hospital):
        return fine("in the hands of `bioface hospital join`, which runs")
    for name, port in ports.items():
        if _taken(port):
            return fault(f"port {port} ({name}) is taken by another program", advice)
    return fine(f"free: {', '.join(str(port) for port in ports.values())}")


def check_site(hospital: Hospital) -> Verdict:
    """Is the site process well?"""
    if not _joined(hospital):
        return notable("not running", "`bioface hospital join` when everything else is in order")
    if probe(hospital.settings.ports.health):
        return fine("serving")
    return notable("started, and not serving yet", f"wait for a minute; then see {hospital.logs / 'site.jsonl'}")


def check_registration(hospital: Hospital) -> Verdict:
    """Does the lab know the node key?"""
    try:
        standing = ask_standing(str(_lab(hospital)), _lab(hospital).authority, hospital.node_key)
    except httpx.HTTPError as error:
        return fault(f"the lab does not answer a node ({type(error).__name__})", "ask the lab: its log says more")
    if standing is Standing.KNOWN:
        return fine("the lab knows this hospital's node key")
    if standing is Standing.UNKNOWN:
        advice = "ask the lab: it may have revoked the key, or have invited another request than this folder's"
        return fault("the lab does not know this hospital's node key: revoked, or never registered", advice)
    if standing is Standing.REFUSED:
        return fault("the lab refuses the node key's signature (401)", "see clock above; otherwise ask the lab")
    return notable("the lab's answer does not say whether it knows the key", "compare the versions of Flower")


def _of_lab(check: Check[LabAddress]) -> Check[Hospital]:
    """A check of the way to the lab, for a hospital with a start kit."""
    return Check(check.name, lambda hospital: check.look(_lab(hospital)), check.needs or ("approval",))


_CHECKS: tuple[Check[Hospital], ...] = (
    Check("keys", check_keys),
    Check("join-request", check_join_request, ("keys",)),
    Check("books", check_books, ("keys",)),
    Check("disk", check_disk),
    Check("device", check_device),
    Check("store", check_store),
    Check("ports", check_ports),
    Check("approval", check_approval, ("keys",)),
    Check("start", check_start, ("approval",)),
    Check("syndromes", check_syndromes, ("store", "approval")),
    *(_of_lab(check) for check in connection.CHECKS),
    Check("registration", check_registration, ("keys", "certified-name", "expiry", "clock")),
    Check("site", check_site),
)


def _public_halves(hospital: Hospital) -> tuple[str, str]:
    """Identity key as 64 hexadecimal digits, node key as OpenSSH text without a comment."""
    identity = load_pem_private_key(hospital.identity_key.read_bytes(), password=None)
    node = load_ssh_private_key(hospital.node_key.read_bytes(), password=None)
    assert isinstance(identity, Ed25519PrivateKey)
    public = node.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return identity.public_key().public_bytes_raw().hex(), public.decode("ascii")


def _lab(hospital: Hospital) -> LabAddress:
    return LabAddress(*host_and_port(hospital.node.superlink), hospital.node.authority)


def _joined(hospital: Hospital) -> bool:
    """Whether `bioface hospital join` runs: it holds the lock."""
    lock = hospital.state / ".join.lock"
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def _taken(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
        except OSError:
            return True
    return False
