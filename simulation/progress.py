"""How does someone at the terminal see that work goes on? By bars on standard error."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars


class Progress:
    """Bars while a block runs.

    Args:
        quiet: show nothing at all.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = Bars(*columns, TextColumn("{task.fields[note]}"), console=self._console, disable=quiet)

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def say(self, line: str) -> None:
        """Prints a line above the bars."""
        self._bars.console.print(line, highlight=False)

    def bar(self, what: str) -> Callable[..., None]:
        """A new bar.

        Args:
            what: what it counts.

        Returns:
            Call it with (done, total), and ``note=`` for a word behind the bar.
        """
        task: list[TaskID] = []

        def advance(done: int, total: int, note: str = "") -> None:
            if not task:
                task.append(self._bars.add_task(what, note=""))
            self._bars.update(task[0], completed=done, total=total, note=note)

        return advance
