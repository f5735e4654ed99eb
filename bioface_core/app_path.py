"""Where do ``client``, ``server``, ``simulation`` and ``configs`` lie? In the wheel, or beside it in a checkout.

Site-packages gets the single name ``bioface_core``: ``client`` and ``server`` as top-level names would last only until
another distribution overwrites them. The wheel carries them in ``bioface_core/app``, and the command line puts that
folder first on ``sys.path``, as Flower does with an app bundle. So each file has one import name, wherever it lies.
"""

from __future__ import annotations

import sys
from pathlib import Path


def app_root() -> Path:
    """The folder that holds ``client``, ``server``, ``simulation`` and ``configs``.

    A checkout has no ``bioface_core/app``; an editable installation imports the checkout's files and so ends there too.

    Returns:
        ``bioface_core/app`` of an installed wheel, else the root of the checkout; absolute.
    """
    package = Path(__file__).resolve().parent
    packed = package / "app"
    return packed if packed.is_dir() else package.parent


def add_app_to_path() -> Path:
    """Makes ``import client`` find ours: puts ``app_root()`` first on ``sys.path``, once.

    Returns:
        ``app_root()``.
    """
    root = app_root()
    sys.path[:] = [str(root), *(entry for entry in sys.path if entry != str(root))]
    return root
