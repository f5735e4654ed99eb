"""Who has spent how much? CPU seconds of hospitals and server, which take turns in one process."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

SERVER = ""


@dataclass
class Spent:
    """CPU seconds.

    Attributes:
        seconds: by hospital, and of the ``SERVER``.
    """

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def by(self, who: str) -> Iterator[None]:
        """Whatever happens within is done by ``who``."""
        start = time.process_time()
        yield
        self.seconds[who] += time.process_time() - start

    @property
    def whole(self) -> float:
        """Of all together."""
        return sum(self.seconds.values())

    @property
    def slowest(self) -> float:
        """Of the hospital that needed most."""
        return max(seconds for who, seconds in self.seconds.items() if who != SERVER)
