"""How does a photo get into the store? Read, detect, measure, judge, split, write; a few photos in memory at a time.

Legend: N photos, K classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from bioface_core.duplicates import near_duplicates
from bioface_core.errors import PhotoError
from bioface_core.examine import examine
from bioface_core.faces import Detector
from bioface_core.files import write_text
from bioface_core.photos import Demographics, PhotoSet
from bioface_core.pictures import PictureError, read_picture
from bioface_core.quality import Findings, Gate, Reason, concatenate, judge
from bioface_core.store import Store, check_free, write_store
from client.prepare.gmdb import is_gmdb, read_gmdb
from client.prepare.manifest import read_manifest
from client.prepare.options import PrepareOptions
from client.prepare.report import SUMMARY, TABLE, Outcome, Verdict, count, refused, summary, table
from client.prepare.sheet import draw_sheet
from client.prepare.sources import Entry, read_folders
from client.prepare.split import heldout_patients
from client.prepare.work import Examined, batch_file, digest_file, load_batch, save_batch, working_on

Progress = Callable[[int, int], None]
_NOTHING = torch.zeros(3, 1, 1, dtype=torch.uint8)  # stands in for a file that cannot be read


def prepare(
    source: Path,
    out: Path,
    options: PrepareOptions | None = None,
    progress: Progress = lambda done, total: None,
) -> Outcome:
    """Turns photos into a store. Interrupted at any moment, the same call goes on and ends with the same store.

    Args:
        source: a folder with one folder per class, a CSV manifest, or what ``options.layout`` says.
        out: the store's folder; an older store there is replaced when the new one is complete.
        options: what can be chosen.
        progress: called with (photos done, photos in all).

    Returns:
        What came of the photos; photo by photo it stands in ``report.csv`` in the store.

    Raises:
        PhotoError: the source cannot be used, too little is left of a class, or the output cannot be written.
    """
    options = options or PrepareOptions()
    options.check()
    _check_places(source, out)
    entries = _entries(source, options.layout)
    _check_classes(entries, options)
    with working_on(out) as folder:
        examined = _examined(entries, folder, options, progress)
        verdicts = _judged(entries, examined, options.gate)
        heldout = _held_out(entries, verdicts, options)
        outcome = count(entries, verdicts, heldout, out)
        photo_by_photo = table(entries, verdicts, examined.findings, heldout)
        if options.sheet:
            draw_sheet(options.sheet, examined.findings, verdicts)
        to_be_split = {entry.label for entry in entries if entry.heldout is None}
        _check_what_is_left(outcome, verdicts, to_be_split, options, folder / TABLE, photo_by_photo)
        store = _assemble(entries, verdicts, examined.findings, heldout)
        write_store(out, store, {TABLE: photo_by_photo, SUMMARY: summary(outcome)})
    return outcome


def _entries(source: Path, layout: str) -> list[Entry]:
    """The photos of a source."""
    if layout == "gmdb":
        return read_gmdb(source)
    if is_gmdb(source):
        raise PhotoError(f"{source} looks like the GestaltMatcher Database: add --layout gmdb")
    return read_manifest(source) if source.is_file() else read_folders(source)


def _check_places(source: Path, out: Path) -> None:
    """Refuses a source that is not there and an output that would be read as a class or overwrite something."""
    if not source.exists():
        raise PhotoError(f"{source} does not exist; expected a folder with one folder per class, or a CSV manifest")
    if out.resolve().is_relative_to(source.resolve()) or source.resolve().is_relative_to(out.resolve()):
        raise PhotoError(f"--out {out} and the photos {source} lie in each other: choose an --out apart from them")
    check_free(out)


def _check_classes(entries: list[Entry], options: PrepareOptions) -> None:
    """Refuses classes of one patient before hours are spent on the others."""
    to_be_split = {(entry.label, entry.patient) for entry in entries if entry.heldout is None}
    patients = Counter(label for label, _ in to_be_split)
    alone = sorted(label for label, n in patients.items() if n < 2)
    if alone and options.heldout:
        raise PhotoError(
            f"{_and_more(alone)} has one patient, and training and held-out need one each:"
            " add patients, remove the class, or hold nobody out with --heldout 0"
        )


def _check_what_is_left(
    outcome: Outcome,
    verdicts: list[Verdict],
    to_be_split: set[str],
    options: PrepareOptions,
    path: Path,
    photo_by_photo: str,
) -> None:
    """Refuses to go on with a class that lost too many patients; the report is left for whoever mends it."""
    needed = 2 if options.heldout else 1
    short = [name for name in sorted(to_be_split) if outcome.classes[name].patients < needed]
    if outcome.kept and not short:
        return
    write_text(path, photo_by_photo)
    why = ", ".join(f"{n} {reason}" for reason, n in refused(verdicts).items())
    if not outcome.kept:
        raise PhotoError(f"none of {outcome.found} photos can be used: {why}; see {path}")
    left = outcome.classes[short[0]].patients
    raise PhotoError(
        f"{_and_more(short)} has too few patients left ({left}, expected {needed}), since photos were refused ({why});"
        f" see {path}, and add usable photos or remove the class"
    )


def _and_more(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (as {len(names) - 1} more classes)"


def _examined(entries: list[Entry], folder: Path, options: PrepareOptions, progress: Progress) -> Examined:
    """Findings on every file, from the work folder where they are there already."""
    parts: list[Examined] = []
    detector: Detector | None = None
    progress(0, len(entries))
    for start in range(0, len(entries), options.batch):
        paths = [entry.path for entry in entries[start : start + options.batch]]
        digests = [digest_file(path) for path in paths]
        kept_in = batch_file(folder, digests, options.gate, options.device)
        part = load_batch(kept_in)
        if part is None:
            detector = detector or Detector(options.device)
            part = _examine_files(paths, digests, detector, options.gate)
            save_batch(kept_in, part)
        parts.append(part)
        progress(start + len(paths), len(entries))
    return Examined(
        concatenate([part.findings for part in parts]),
        tuple(failure for part in parts for failure in part.failures),
        tuple(digest for part in parts for digest in part.digests),
    )


def _examine_files(paths: list[Path], digests: list[str], detector: Detector, gate: Gate) -> Examined:
    """Reads and examines one batch."""
    photos: list[Tensor] = []
    failures: list[tuple[Reason, str] | None] = []
    for path in paths:
        try:
            photos.append(read_picture(path))
            failures.append(None)
        except PictureError as error:
            photos.append(_NOTHING)
            failures.append((error.reason, error.detail))
    return Examined(examine(photos, detector, gate), tuple(failures), tuple(digests))


def _judged(entries: list[Entry], examined: Examined, gate: Gate) -> list[Verdict]:
    """One verdict per file; of copies the first usable one is kept."""
    verdicts = [
        Verdict(*failure) if failure else Verdict(reason)
        for failure, reason in zip(examined.failures, judge(examined.findings, gate), strict=True)
    ]
    usable = [n for n, verdict in enumerate(verdicts) if verdict.reason is None]
    for earlier, later in sorted([*_same_content(examined, usable), *_same_face(examined, usable)]):
        if verdicts[earlier].reason is None:
            verdicts[later] = Verdict(Reason.DUPLICATE, f"of {entries[earlier].name}")
    return verdicts


def _same_content(examined: Examined, usable: list[int]) -> Iterator[tuple[int, int]]:
    """(first, other) files of equal content."""
    first: dict[str, int] = {}
    for n in usable:
        if first.setdefault(examined.digests[n], n) != n:
            yield first[examined.digests[n]], n


def _same_face(examined: Examined, usable: list[int]) -> Iterator[tuple[int, int]]:
    """(earlier, later) photos of which one is a copy of the other."""
    for earlier, later in near_duplicates(examined.findings.faces_NCHW[usable]):
        yield usable[earlier], usable[later]


def _held_out(entries: list[Entry], verdicts: list[Verdict], options: PrepareOptions) -> set[str]:
    """The patients of all classes who are held out, among those with a usable photo."""
    of_class: dict[str, set[str]] = {}
    told: set[str] = set()
    for entry, verdict in zip(entries, verdicts, strict=True):
        if verdict.reason is None and entry.heldout is None:
            of_class.setdefault(entry.label, set()).add(entry.patient)
        elif verdict.reason is None and entry.heldout:
            told.add(entry.patient)
    chosen = (heldout_patients(members, options.heldout, options.seed) for members in of_class.values())
    return told.union(*chosen)


def _assemble(entries: list[Entry], verdicts: list[Verdict], findings: Findings, heldout: set[str]) -> Store:
    """The store of the photos that are kept."""
    rows = [n for n, verdict in enumerate(verdicts) if verdict.reason is None]
    kept = [entries[n] for n in rows]
    classes = sorted({entry.label for entry in kept})
    patients = {patient: n for n, patient in enumerate(sorted({entry.patient for entry in kept}))}
    ancestries = sorted({entry.ancestry for entry in kept} - {""})
    return Store(
        tuple(classes),
        PhotoSet(
            findings.faces_NCHW[rows],
            torch.tensor([classes.index(entry.label) for entry in kept]),
            torch.tensor([patients[entry.patient] for entry in kept]),
        ),
        torch.tensor([entry.patient in heldout for entry in kept]),
        Demographics(
            torch.tensor([entry.age_months for entry in kept]),
            torch.tensor([entry.sex for entry in kept], dtype=torch.int8),
            torch.tensor([_position(ancestries, entry.ancestry) for entry in kept], dtype=torch.int16),
        ),
        tuple(ancestries),
    )


def _position(names: list[str], name: str) -> int:
    """Where ``name`` stands, -1 if it is empty."""
    return names.index(name) if name else -1
