"""What can go wrong, and whose mistake is it?

    BioFaceError
    ├── UserError        the person at the keyboard can mend it: one line, exit status 2
    │   ├── ConfigError      a study file or an override
    │   ├── PhotoError       photos, manifests, stores
    │   ├── WeightsError     files of model weights
    │   ├── RunError         run folders
    │   ├── HospitalError    a hospital's folder, keys, approvals or memory
    │   ├── LabError         a lab's folder, keys, roster or orders
    │   └── PassportError    an exported model, its seal or what it takes to make one
    ├── WireError        a message that breaks the contract: its sender is left out of the round
    │   └── SecureError      a step of secure aggregation that was not played by its rules
    └── RoundError       a round that cannot be completed: no valid reply, or too few

Mistakes of ours are ``assert``; nothing here carries a photo path, a patient id or a label across the network:
whatever leaves a hospital is a code of ``WireError.code``.
"""


class BioFaceError(Exception):
    """The root of every error this project raises on purpose."""


class UserError(BioFaceError):
    """One line: what was found, what was expected, what to do."""


class ConfigError(UserError):
    """A study file or an override does not say what it should."""


class PhotoError(UserError):
    """A photo, a manifest or a store cannot be used."""


class WeightsError(UserError):
    """A file of model weights does not fit."""


class RunError(UserError):
    """A run folder cannot be used: another study's, locked, or damaged."""


class HospitalError(UserError):
    """A hospital's folder cannot be used, or something in it: keys, approvals, the memory of its answers."""


class LabError(UserError):
    """A lab's folder cannot be used, or something in it: keys, roster, orders."""


class PassportError(UserError):
    """An exported model cannot be made, or is not what its passport says."""


class WireError(BioFaceError):
    """A message that breaks the contract.

    Args:
        code: one word of a fixed list, safe to send and to journal.
        detail: for the log of whoever found it; never sent.
    """

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code


class SecureError(WireError):
    """A step of secure aggregation that was not played by its rules: whoever sees it goes no further in the session.

    Args:
        reason: for the log of whoever found it; only the code is ever sent.
    """

    def __init__(self, reason: str) -> None:
        super().__init__("secure", reason)


class RoundError(BioFaceError):
    """A round ended without enough valid replies."""
