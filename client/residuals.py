"""What did rounding leave behind? A vector for each round, which stays at the hospital and goes into its next update.

An update of few bits is not what training gave, and small changes could be lost round after round. So a hospital adds
what was left behind to what it trains next (error feedback): what it has sent in all is then what it has trained in
all, but for one round's rounding. A residual follows from photos as an update does. It is written here before the
rounded update may leave, and never leaves itself.

A round that is asked again begins from the same residual as before, that of the last round before it: so a run that was
killed ends like one that was not. Two rounds are kept, the last one and the one before.

Legend: n values of the vector.

Source: Karimireddy et al. 2019, "Error feedback fixes SignSGD and other gradient compression schemes", algorithm 1.
"""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bioface_core.errors import WireError
from bioface_core.files import write_bytes
from bioface_core.messages import Code, Ticket

_KEPT = 2
_RESIDUAL = "residual"


class Residuals:
    """One hospital's residuals.

    Args:
        folder: they lie in it, as ``residual-0007.safetensors``; made when the first is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def before(self, ticket: Ticket) -> Tensor | None:
        """What the last round before this one left behind in this run, float32 (n,); None where there was none.

        Raises:
            WireError: the file is damaged.
        """
        known = [round_ for round_ in self._of_run(ticket) if round_ < ticket.round]
        if not known:
            return None
        path = self._path(max(known))
        try:
            with safe_open(path, "pt") as file:
                residual: Tensor = file.get_tensor(_RESIDUAL).clone()
                return residual
        except (SafetensorError, OSError) as error:
            raise _unreadable(path, error) from error

    def keep(self, ticket: Ticket, residual: Tensor) -> None:
        """Puts on the disk what a round left behind, in place of what it did when it was asked before.

        Raises:
            WireError: the disk does not take it.
        """
        named = {"study": ticket.study_id, "run": ticket.run_id}
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_bytes(self._path(ticket.round), save({_RESIDUAL: residual.contiguous()}, named))
            self._forget(ticket)
        except OSError as error:
            raise WireError(
                Code.FAILED, f"{self._folder} cannot be written ({error}): make room on the disk"
            ) from error

    def _forget(self, ticket: Ticket) -> None:
        """Removes those of other runs, and all but the last of the rounds up to this one."""
        here = self._of_run(ticket)
        stay = {*sorted(round_ for round_ in here if round_ <= ticket.round)[-_KEPT:]}
        stay |= {round_ for round_ in here if round_ > ticket.round}
        for path in self._folder.glob("residual-*.safetensors"):
            if _round_of(path) not in stay:
                path.unlink()

    def _of_run(self, ticket: Ticket) -> list[int]:
        """The rounds of the ticket's run of which there is one."""
        named = {"study": ticket.study_id, "run": ticket.run_id}
        return [_round_of(path) for path in self._folder.glob("residual-*.safetensors") if _names(path) == named]

    def _path(self, round_: int) -> Path:
        return self._folder / f"residual-{round_:04d}.safetensors"


def _names(path: Path) -> dict[str, str]:
    """Study and run of a residual."""
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def _round_of(path: Path) -> int:
    return int(path.stem.removeprefix("residual-"))


def _unreadable(path: Path, error: Exception) -> WireError:
    return WireError(Code.FAILED, f"{path} is damaged ({type(error).__name__}): remove it to go on without it")
