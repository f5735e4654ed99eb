"""How do photos get into a gallery, and how well does a gallery do? Files and stores in, embeddings compared.

A photo for the gallery is looked at like any other: one clear face, large, sharp and frontal enough. It is not kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bioface_core.errors import PhotoError
from bioface_core.examine import examine
from bioface_core.expert import Expert
from bioface_core.faces import Detector
from bioface_core.gallery import Gallery
from bioface_core.gallery_file import changing, write_gallery
from bioface_core.matching import Matched, Portraits, Split, protocol
from bioface_core.pictures import PictureError, read_picture
from bioface_core.quality import Gate, judge
from bioface_core.store import Store, read_store
from bioface_core.syndromes import catalogue
from client.prepare.gmdb import read_protocol

MOST_AT_ONCE = 50  # photos of one syndrome: whoever has more should train


@dataclass(frozen=True)
class Added:
    """What came of photos for a gallery.

    Attributes:
        gallery: with them.
        key: the syndrome.
        name: what people call it.
        added: how many are in.
        refused: reason -> how many are not.
    """

    gallery: Gallery
    key: str
    name: str
    added: int
    refused: dict[str, int]


def add_photos(
    expert: Expert,
    path: Path,
    key: str,
    photos: Sequence[Path],
    name: str | None = None,
    local: bool = True,
    gate: Gate | None = None,
) -> Added:
    """Adds photos of one syndrome to the gallery in a file.

    Args:
        expert: the model.
        path: the file; made if it is new.
        key: of the syndrome.
        photos: one to ``MOST_AT_ONCE`` files.
        name: of a syndrome that is in neither our catalogue nor the gallery.
        local: whether the entries must stay in the hospital.
        gate: what is asked of a photo.

    Raises:
        PhotoError: no photo is usable, one is there already, or the gallery cannot be used.
    """
    if not 1 <= len(photos) <= MOST_AT_ONCE:
        raise PhotoError(f"{len(photos)} photos; expected 1 to {MOST_AT_ONCE} of one syndrome at once")
    faces_NCHW, refused = _usable(photos, gate or Gate(), str(expert.device))
    if not len(faces_NCHW):
        why = ", ".join(f"{n} {reason}" for reason, n in refused.items())
        raise PhotoError(f"none of {len(photos)} photos can be used: {why}; nothing was added")
    embeddings_ND = expert.embed(faces_NCHW)
    with changing(path, expert) as gallery:
        called = name or gallery.names.get(key) or _catalogued(key)
        changed = gallery.add(key, called, embeddings_ND, local)
        write_gallery(path, changed)
    return Added(changed, key, called, len(faces_NCHW), refused)


def remove_entries(expert: Expert, path: Path, what: str) -> Gallery:
    """Takes an entry, or all of a syndrome, out of the gallery in a file.

    Raises:
        PhotoError: the gallery has no such thing, or cannot be used.
    """
    with changing(path, expert) as gallery:
        changed = gallery.remove(what)
        write_gallery(path, changed)
    return changed


def match_store(expert: Expert, folder: Path, database: Path | None = None) -> tuple[Matched, ...]:
    """GestaltMatcher's protocol on a store.

    Args:
        expert: the model.
        folder: the store.
        database: the GestaltMatcher Database that the store was made of, for its own lists; without, syndromes that the
            model knows are the frequent ones, and what is not held out is the gallery.

    Raises:
        PhotoError: no store, or no photos to match.
    """
    store = read_store(folder)
    frequent, rare = read_protocol(folder, database) if database else _own_splits(expert, store)
    if not len(frequent.test_N) or not len(frequent.gallery_M):
        raise PhotoError(f"{folder} has no {_short(frequent)} photos of the model's syndromes: nothing can be matched")
    embeddings_ND = expert.embed(store.photos.photos_NCHW).cpu()
    return protocol(Portraits(embeddings_ND, store.photos.labels_N, store.photos.patients_N), frequent, rare)


def _own_splits(expert: Expert, store: Store) -> tuple[Split, tuple[Split, ...]]:
    """Who is gallery and who is tested, by who is held out."""
    known_K = torch.tensor([name in expert.syndromes for name in store.classes])
    known_N = known_K[store.photos.labels_N]

    def split(these_N: Tensor) -> Split:
        return Split((these_N & ~store.heldout_N).nonzero()[:, 0], (these_N & store.heldout_N).nonzero()[:, 0])

    rare = split(~known_N)
    return split(known_N), (rare,) if len(rare.gallery_M) and len(rare.test_N) else ()


def _short(split: Split) -> str:
    return "training" if not len(split.gallery_M) else "held-out"


def _usable(paths: Sequence[Path], gate: Gate, device: str) -> tuple[Tensor, dict[str, int]]:
    """The aligned faces of the photos that are good enough, and why the others are not."""
    pictures, refused = [], Counter[str]()
    for path in paths:
        try:
            pictures.append(read_picture(path))
        except PictureError as error:
            refused[str(error.reason)] += 1
    if not pictures:
        return torch.zeros(0), dict(refused)
    findings = examine(pictures, Detector(device), gate)
    reasons = judge(findings, gate)
    refused.update(str(reason) for reason in reasons if reason)
    return findings.faces_NCHW[[n for n, reason in enumerate(reasons) if reason is None]], dict(refused)


def _catalogued(key: str) -> str:
    """What the catalogue calls a syndrome."""
    known = catalogue().syndromes.get(key)
    if known is None:
        raise PhotoError(f"{key} is no syndrome that we or the gallery know: give its name with --name")
    return known.name
