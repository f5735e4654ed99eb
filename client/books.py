"""Which books does a hospital keep? The ledger of what its patients have spent, and the audit log of what has left.

Both begin when the hospital's folder is made, and never again: a book that is missing was lost, and is not begun anew.
The log knows the number of the newest charge it tells of, so that a ledger that was put back to an older state shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bioface_core.errors import HospitalError
from bioface_core.identity import read_identity
from client.audit import AuditLog, read_head
from client.ledger import Ledger

if TYPE_CHECKING:
    from client.hospital import Hospital


@dataclass(frozen=True)
class Books:
    """Both, opened by the process that writes them."""

    ledger: Ledger
    log: AuditLog

    def close(self) -> None:
        """Lets another process write."""
        self.ledger.close()
        self.log.close()


def begin_books(hospital: Hospital, identity: Ed25519PrivateKey) -> None:
    """Makes empty books for a new hospital, whose folder ``state`` is there."""
    Ledger.begin(hospital.ledger)
    AuditLog.begin(hospital.audit, identity)


def open_books(hospital: Hospital) -> Books:
    """The books, for the site process.

    Raises:
        HospitalError: missing, damaged, in use, or not of the same time.
    """
    ledger = open_ledger(hospital, copy=False)
    log = AuditLog(hospital.audit, read_identity(hospital.identity_key, HospitalError))
    return Books(ledger, log)


def open_ledger(hospital: Hospital, copy: bool = True) -> Ledger:
    """The ledger, held against the audit log.

    Args:
        hospital: whose.
        copy: whether it is a copy in memory, to read while the site process writes, or to try out what would be.

    Raises:
        HospitalError: missing, damaged, or older than the log.
    """
    policy = hospital.settings.policy
    ledger = Ledger(hospital.ledger, policy.epsilon, policy.delta, copy=copy)
    told, known = read_head(hospital.audit, hospital.identity).charge, ledger.last_number()
    if known < told:
        ledger.close()
        raise HospitalError(
            f"{hospital.ledger} holds {known} charges, and the audit log tells of {told}, so it was put back to an "
            "older state: restore its newest backup"
        )
    return ledger
