"""How does a hospital add a syndrome that the model never learned? By a few photos' embeddings, kept beside the model.

A gallery holds unit embeddings, never photos, each with its syndrome. It belongs to one model, since embeddings of two
models cannot be compared. It says which of its entries are nearest to a patient, and gives each of its syndromes a
prototype of its own, so that the patient is ranked among the model's K syndromes and the gallery's G at once.

    prototype    the mean of the syndrome's unit embeddings, moved to where training would have put it. Training pushes
                 the prototypes away from healthy people, and with them from where all faces lie: along the mean of the
                 prototypes, on the demo, they lie at 0.4 and patients at -0.6. A mean that stayed among the faces would
                 be nearer to everybody than any prototype of the model. So its part along that direction is the one
                 that the model's prototypes have on average, and only the rest is the syndrome's own (``imprinted``).
    odds         all syndromes of a gallery together are taken to be a sixth as likely, before the photo is seen, as one
                 of the model: each loses ln(6 G) / scale of its score. They are ultra-rare, their prototypes are noisy,
                 and every one of them is a further chance to be wrong. The scale is that of the training's softmax.

What the order among the model's syndromes was, it stays. Figures: docs/how-to/gallery.md.

An embedding is no photo, but says much about a face: a gallery is personal data. Entries are ``local`` unless somebody
says otherwise; neither they nor what they are neighbours of may leave the hospital.

Legend: N entries, P patients, D embedding, K syndromes of the model, G of the gallery, S = K + G.

Source: Qi, Brown, Lowe 2018, "Low-shot learning with imprinted weights" (means as prototypes); Saerens, Latinne,
Decaestecker 2002, "Adjusting the outputs of a classifier to new a priori probabilities" (odds). Moving a mean is
ours, and so is the figure 1/6, chosen so that the model's syndromes lose less than one point of Top-1.
"""

from __future__ import annotations

import hashlib
import math
import re
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bioface_core.calibration import nearness as nearness_to
from bioface_core.errors import PhotoError
from bioface_core.expert import Expert
from bioface_core.loss import cosines
from bioface_core.model import Recogniser
from bioface_core.syndromes import catalogue

ODDS = 1 / 6  # of the whole gallery against one syndrome of the model, before the photo is seen
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LONGEST_NAME = 120
_ID_DIGITS = 12
_SAME_PHOTO = 1e-4  # between two embeddings of one photo: the rest of its batch changes the last bits
_fingerprints: weakref.WeakKeyDictionary[Recogniser, str] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Entry:
    """Whose embedding it is, as far as anybody may know.

    Attributes:
        id: names the entry and tells nothing of the photo's file; made of the embedding.
        key: of its syndrome, as studies name it, or the hospital's own.
        name: what people call the syndrome.
        local: whether it must stay in the hospital.
    """

    id: str
    key: str
    name: str
    local: bool = True


@dataclass(frozen=True)
class Gallery:
    """Entries by syndrome and id, whatever the order they came in.

    Attributes:
        model: fingerprint of the model whose embeddings these are.
        entries: N of them.
        embeddings_ND: float32, unit length, on the CPU.
    """

    model: str
    entries: tuple[Entry, ...]
    embeddings_ND: Tensor

    def __post_init__(self) -> None:
        assert len(self.entries) == len(self.embeddings_ND), "entries and embeddings differ in number"

    def __len__(self) -> int:
        return len(self.entries)

    @staticmethod
    def empty(expert: Expert) -> Gallery:
        """A gallery of nobody, for a model."""
        return Gallery(fingerprint(expert), (), torch.zeros(0, expert.study.model.embedding))

    @property
    def names(self) -> dict[str, str]:
        """Key -> name of each syndrome, by key."""
        return {entry.key: entry.name for entry in self.entries}

    def count(self, key: str) -> int:
        """How many entries a syndrome has."""
        return sum(entry.key == key for entry in self.entries)

    def add(self, key: str, name: str, embeddings_MD: Tensor, local: bool = True) -> Gallery:
        """The gallery with more photos of a syndrome.

        Args:
            key: of the syndrome: letters, digits, dots, dashes.
            name: what people call it; one line. A syndrome that is there already keeps its name.
            embeddings_MD: of the model, unit length.
            local: whether they must stay in the hospital.

        Raises:
            PhotoError: the key or the name is none, or a photo is there already.
        """
        name = self._checked(key, name)
        vectors_MD = embeddings_MD.detach().cpu().float()
        added = [Entry(_id(vector_D), key, name, local) for vector_D in vectors_MD]
        self._refuse_known(vectors_MD)
        return _ordered(self.model, [*self.entries, *added], torch.cat([self.embeddings_ND, vectors_MD]))

    def remove(self, what: str) -> Gallery:
        """The gallery without an entry, or without a syndrome.

        Args:
            what: the entry's id, or the syndrome's key.

        Raises:
            PhotoError: it has neither.
        """
        kept = [what not in (entry.id, entry.key) for entry in self.entries]
        if all(kept):
            known = ", ".join(self.names) or "nothing"
            raise PhotoError(f"the gallery has no syndrome or entry {what}; it has {known}: `bioface gallery list`")
        return self._take(kept)

    def shareable(self) -> Gallery:
        """The entries that may leave the hospital."""
        return self._take([not entry.local for entry in self.entries])

    def _take(self, kept: Sequence[bool]) -> Gallery:
        entries = tuple(entry for entry, stays in zip(self.entries, kept, strict=True) if stays)
        return Gallery(self.model, entries, self.embeddings_ND[torch.tensor(kept, dtype=torch.bool)])

    def _checked(self, key: str, name: str) -> str:
        """The syndrome's name, if key and name are fit."""
        if not _KEY.fullmatch(key):
            raise PhotoError(f"{key!r} is no key of a syndrome: expected up to 64 letters, digits, dots or dashes")
        if not name.strip() or not name.isprintable() or len(name) > _LONGEST_NAME:
            raise PhotoError(f"the name of {key} must be one line of 1 to {_LONGEST_NAME} characters")
        known = self.names.get(key, name)
        if known != name:
            raise PhotoError(f"the gallery has {key} already, as {known!r}: leave the name out, or choose another key")
        return name

    def _refuse_known(self, vectors_MD: Tensor) -> None:
        """Refuses a photo that is there already, or comes twice."""
        for number, vector_D in enumerate(vectors_MD):
            known_XD = torch.cat([self.embeddings_ND, vectors_MD[:number]])
            same = ((known_XD - vector_D).norm(dim=1) < _SAME_PHOTO).nonzero().flatten().tolist()
            if same:
                there = f"is in the gallery already, as {self.entries[same[0]].key}" if same[0] < len(self) else ""
                raise PhotoError(f"usable photo {number + 1} {there or 'comes twice'}: leave it out")


@dataclass(frozen=True)
class Neighbour:
    """An entry near a patient.

    Attributes:
        entry: which one; where it is ``local``, nothing of this may leave the hospital.
        cosine: how near, -1 to 1.
    """

    entry: Entry
    cosine: float


@dataclass(frozen=True)
class Ranked:
    """A syndrome in a ranking.

    Attributes:
        key: as the study or the gallery names it.
        name: what people call it.
        omim: number in OMIM, where one entry stands for the syndrome.
        orpha: number in Orphanet; None for a syndrome that our catalogue does not have.
        probability: that it is this one, if it is one of the ranked; None where nobody has calibrated the model.
        cosine: of the face to the syndrome's prototype.
        entries: of the gallery that it rests on; 0 for a syndrome of the model.
    """

    key: str
    name: str
    omim: int | None
    orpha: int | None
    probability: float | None
    cosine: float
    entries: int = 0


def fingerprint(expert: Expert) -> str:
    """Names a model: SHA-256 of its tensors, whatever the device; 64 hexadecimal digits. Found once: it is at rest."""
    if expert.network not in _fingerprints:
        _fingerprints[expert.network] = _digest(expert.network)
    return _fingerprints[expert.network]


def neighbours(gallery: Gallery, embeddings_PD: Tensor, top: int = 5) -> tuple[tuple[Neighbour, ...], ...]:
    """The entries nearest to each patient, nearest first; of equals, the first of the gallery.

    Args:
        gallery: of the model that made the embeddings.
        embeddings_PD: unit length, on any device.
        top: how many, at most.
    """
    cosines_PN = embeddings_PD.cpu().float() @ gallery.embeddings_ND.T
    order_PN = cosines_PN.argsort(dim=1, descending=True, stable=True)[:, :top]
    rows = zip(cosines_PN.gather(1, order_PN).tolist(), order_PN.tolist(), strict=True)
    return tuple(tuple(Neighbour(gallery.entries[n], cosine) for cosine, n in zip(*row, strict=True)) for row in rows)


def new_syndromes(expert: Expert, gallery: Gallery) -> tuple[str, ...]:
    """Keys of the G syndromes that the gallery adds: those the model has learned keep the model's prototype."""
    return tuple(key for key in gallery.names if key not in expert.syndromes)


def scores(expert: Expert, gallery: Gallery, embeddings_PD: Tensor) -> Tensor:
    """What the merged ranking goes by, (P, S): the model's syndromes first, then the gallery's new ones.

    Args:
        expert: the model.
        gallery: its gallery.
        embeddings_PD: unit length.
    """
    keys = new_syndromes(expert, gallery)
    scores_PK = expert.scores(embeddings_PD).cpu()
    if not keys:
        return scores_PK
    scores_PG = embeddings_PD.cpu().float() @ _prototypes(expert, gallery, keys).T
    return torch.cat([scores_PK, scores_PG - handicap(expert, len(keys))], 1)


def handicap(expert: Expert, syndromes: int) -> float:
    """What each of G gallery syndromes loses of its score, so that all together have the odds ``ODDS``."""
    loss = expert.study.loss
    return math.log(syndromes / ODDS) / (1.0 if loss.mode == "ce" else loss.scale)


def rank(expert: Expert, gallery: Gallery, embeddings_PD: Tensor) -> tuple[tuple[Ranked, ...], ...]:
    """Ranks the model's and the gallery's syndromes for each patient, likeliest first.

    Args:
        expert: the model.
        gallery: its gallery; an empty one leaves the model's ranking.
        embeddings_PD: unit length, a patient's photos averaged.

    Returns:
        S of them for each patient; of equals, the model's first. Where the model is calibrated, probabilities that
        sum to 1: that it is this syndrome, if it is one of the S. Cosines are without the handicap.
    """
    if not len(embeddings_PD):
        return ()
    gallery_of(expert, gallery)
    keys = (*expert.syndromes, *new_syndromes(expert, gallery))
    scores_PS = scores(expert, gallery, embeddings_PD)
    probability_PS = expert.calibration.probabilities(scores_PS)
    cosine_PS = cosines(embeddings_PD.cpu().float(), _all_prototypes(expert, gallery))
    order_PS = scores_PS.argsort(dim=1, descending=True, stable=True)
    rows = zip(order_PS.tolist(), probability_PS.tolist(), cosine_PS.tolist(), strict=True)
    calibrated = expert.calibration.patients > 0
    return tuple(
        tuple(_ranked(expert, gallery, keys[n], probability_S[n] if calibrated else None, cosine_S[n]) for n in order_S)
        for order_S, probability_S, cosine_S in rows
    )


def nearness(expert: Expert, gallery: Gallery, embeddings_PD: Tensor) -> Tensor:
    """As ``Expert.nearness``, (P,), with the gallery's syndromes among those that a face may be near to."""
    prototypes_SD = _all_prototypes(expert, gallery).to(embeddings_PD.device)
    return nearness_to(embeddings_PD, prototypes_SD)


def imprinted(means_GD: Tensor, prototypes_KD: Tensor) -> Tensor:
    """Unit prototypes of syndromes that took no part in training, (G, D).

    Args:
        means_GD: mean embeddings of their photos.
        prototypes_KD: the model's, of any length but zero.

    Returns:
        The part along the mean of the model's prototypes is as long as theirs on average; the rest is the means' own.
    """
    unit_KD = F.normalize(prototypes_KD)
    shared_D = F.normalize(unit_KD.mean(0), dim=0)
    share = (unit_KD @ shared_D).mean()
    own_GD = F.normalize(means_GD - (means_GD @ shared_D)[:, None] * shared_D)
    return (1 - share * share).clamp(min=0).sqrt() * own_GD + share * shared_D


def gallery_of(expert: Expert, gallery: Gallery) -> Gallery:
    """The gallery, if it is this model's.

    Raises:
        PhotoError: it is another's.
    """
    if gallery.model != fingerprint(expert):
        models = f"of model {gallery.model[:12]}, not of {fingerprint(expert)[:12]}"
        raise PhotoError(f"the gallery is {models}: embeddings of two models cannot be compared, add the photos anew")
    return gallery


def _prototypes(expert: Expert, gallery: Gallery, keys: Iterable[str]) -> Tensor:
    """Of syndromes (G, D), as long as the model's prototypes where scores depend on that."""
    means_GD = torch.stack([gallery.embeddings_ND[_rows(gallery, key)].mean(0) for key in keys])
    unit_GD = imprinted(means_GD, expert.network.prototypes.detach().cpu().float())
    return unit_GD * (expert.network.prototypes.norm(dim=1).mean().cpu() if expert.study.loss.mode == "ce" else 1)


def _all_prototypes(expert: Expert, gallery: Gallery) -> Tensor:
    """The model's and the gallery's, (S, D), on the CPU."""
    keys, own_KD = new_syndromes(expert, gallery), expert.network.prototypes.detach().cpu().float()
    return torch.cat([own_KD, _prototypes(expert, gallery, keys)]) if keys else own_KD


def _rows(gallery: Gallery, key: str) -> list[int]:
    return [n for n, entry in enumerate(gallery.entries) if entry.key == key]


def _ranked(expert: Expert, gallery: Gallery, key: str, probability: float | None, cosine: float) -> Ranked:
    known = catalogue().syndromes.get(key)
    name, omim, orpha = (known.name, known.omim, known.orpha) if known else (gallery.names.get(key, key), None, None)
    entries = 0 if key in expert.syndromes else gallery.count(key)
    return Ranked(key, name, omim, orpha, probability, cosine, entries)


def _ordered(model: str, entries: list[Entry], embeddings_ND: Tensor) -> Gallery:
    """A gallery in the order of keys and ids."""
    order = sorted(range(len(entries)), key=lambda n: (entries[n].key, entries[n].id))
    return Gallery(model, tuple(entries[n] for n in order), embeddings_ND[order])


def _id(embedding_D: Tensor) -> str:
    return hashlib.sha256(embedding_D.contiguous().numpy().tobytes()).hexdigest()[:_ID_DIGITS]


def _digest(network: Recogniser) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
