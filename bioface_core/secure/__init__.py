"""How does the server learn the sum of the hospitals' vectors, and no hospital's own? By masks that cancel in the sum.

Every pair of hospitals agrees on a mask; one adds it and the other subtracts it. On top each puts one of its own, in
case that its vector arrives after the others gave it up. Each cuts the secrets behind its masks into pieces for the
others, and at the end the survivors open exactly what stands between the server and the sum: of a survivor the mask of
its own, of a hospital that dropped out those of its pairs, of nobody both.

Read ``session`` (who says what), ``party`` (a hospital's side), ``pieces``, ``keys`` and ``masks``; the server's side
is ``unmask`` in ``server/secure.py``. Nothing here reads a clock, a disk or a network.

Source: Bonawitz et al. 2017, "Practical secure aggregation for privacy-preserving machine learning" (with its round of
consistency checks against a server that lies).
"""

from bioface_core.errors import SecureError
from bioface_core.secure.masks import Words
from bioface_core.secure.party import Party
from bioface_core.secure.session import (
    Advert,
    Revealed,
    Sealed,
    Session,
    check_advert,
    check_confirmation,
    threshold_of,
)

__all__ = [
    "Advert",
    "Party",
    "Revealed",
    "Sealed",
    "SecureError",
    "Session",
    "Words",
    "check_advert",
    "check_confirmation",
    "threshold_of",
]
