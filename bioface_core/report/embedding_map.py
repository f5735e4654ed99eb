"""Where do held-out photos lie? Their embeddings laid out on a plane, coloured by syndrome or by hospital.

Six colours and four shapes are told apart with any kind of colour vision; groups are numbered in the picture as well.

Legend: N photos, M photos drawn, D embedding, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from markupsafe import Markup
from torch import Tensor

from bioface_core.report.svg import Scale, element, path, picture

MOST_DRAWN = 1000
MOST_GROUPS_APART = 16
_SIZE, _EDGE, _RADIUS = 420.0, 16.0, 4.2
_COLOURS = 6
_FEWEST_FOR_NEIGHBOURS = 12


@dataclass(frozen=True)
class Group:
    """What belongs together on a map.

    Attributes:
        name: in the legend.
        number: in the picture, from 1.
        places_M2: where its photos lie.
    """

    name: str
    number: int
    places_M2: Tensor


def drawn(photos: int) -> Tensor:
    """Which of so many photos are drawn: all, or ``MOST_DRAWN`` at equal steps; int64 positions (M,)."""
    return torch.linspace(0, photos - 1, min(photos, MOST_DRAWN)).round().long() if photos else torch.zeros(0).long()


def project(embeddings_MD: Tensor) -> Tensor:
    """Places on a plane where close embeddings stay close: t-SNE by cosine, or principal components of a handful.

    Args:
        embeddings_MD: unit length.

    Returns:
        float32 (M, 2), the same for the same input on the same machine.

    Source:
        van der Maaten, Hinton 2008, "Visualizing Data using t-SNE".
    """
    photos = len(embeddings_MD)
    centred_MD = embeddings_MD - embeddings_MD.mean(dim=0)
    if photos < _FEWEST_FOR_NEIGHBOURS or bool((centred_MD.abs() < 1e-6).all()):
        return _principal(centred_MD)
    # Here and not above: scikit-learn takes a second to import, and only a page needs it.
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (photos - 1) / 3)
    start_M2 = 1e-4 * torch.nn.functional.normalize(_principal(centred_MD), dim=0)
    mapper = TSNE(perplexity=perplexity, metric="cosine", init=start_M2.numpy(), random_state=0, learning_rate="auto")
    return torch.from_numpy(mapper.fit_transform(embeddings_MD.numpy())).float()


def groups_of(places_M2: Tensor, indices_M: Tensor, names: Sequence[str]) -> list[Group]:
    """The photos by group; groups without photos are left out, and keep their number."""
    present = sorted(set(indices_M.tolist()))
    return [Group(names[index], index + 1, places_M2[indices_M == index]) for index in present]


def draw(title: str, groups: Sequence[Group], numbered: bool) -> Markup:
    """The map: one mark per photo; many groups are drawn as stars without colours.

    Args:
        title: for a screen reader.
        groups: at least one.
        numbered: writes each group's number where most of it lies.
    """
    everything = torch.cat([group.places_M2 for group in groups])
    low_2, high_2 = everything.min(dim=0).values, everything.max(dim=0).values
    reach = max(1e-6, float((high_2 - low_2).max()))
    middle = (low_2 + high_2) / 2
    across = Scale(float(middle[0]) - reach / 2, float(middle[0]) + reach / 2, _EDGE, _SIZE - _EDGE)
    up = Scale(float(middle[1]) - reach / 2, float(middle[1]) + reach / 2, _SIZE - _EDGE, _EDGE)
    apart = len(groups) <= MOST_GROUPS_APART
    parts = _marks(groups, across, up) if apart else [_star(group, across, up) for group in groups]
    numbers = [_number(group, across, up) for group in groups] if apart and numbered else []
    named = f": {', '.join(group.name for group in groups)}" if apart else ""
    description = f"{len(everything)} photos in {len(groups)} groups{named}."
    return picture(title, description, _SIZE, _SIZE, *parts, *numbers)


def key(group: Group) -> Markup:
    """The group's mark alone, for a legend."""
    mark = element("path", d=_shape(group.number, 8, 8, 5.0), class_=_colour(group.number))
    return Markup(f'<svg class="key" viewBox="0 0 16 16" aria-hidden="true">{mark}</svg>')


def _principal(centred_MD: Tensor) -> Tensor:
    """The first two principal components (M, 2), zero where there are fewer; signs fixed."""
    left_MM, sizes, _ = torch.linalg.svd(centred_MD, full_matrices=False)
    places = left_MM[:, :2] * sizes[:2]
    places = torch.nn.functional.pad(places, (0, 2 - places.shape[1]))
    return places * torch.where(places.sum(dim=0) < 0, -1.0, 1.0)


def _marks(groups: Sequence[Group], across: Scale, up: Scale) -> list[Markup]:
    """All marks in a shuffled order, or the last group would cover the others."""
    places = [(group.number, x, y) for group in groups for x, y in group.places_M2.tolist()]
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = [places[position] for position in order]
    marks = [element("path", d=_shape(n, across(x), up(y), _RADIUS), class_=_colour(n)) for n, x, y in shuffled]
    return [element("g", *marks, class_="mark")]


def _star(group: Group, across: Scale, up: Scale) -> Markup:
    """A dot per photo, joined to the group's middle: a tight group is a small star."""
    middle = (across(float(group.places_M2[:, 0].mean())), up(float(group.places_M2[:, 1].mean())))
    places = [(across(x), up(y)) for x, y in group.places_M2.tolist()]
    rays = [element("path", d=path([middle, place]), class_="ray") for place in places]
    dots = [element("circle", cx=x, cy=y, r=2.6) for x, y in places]
    return element("g", element("title", group.name), *rays, *dots, class_="star")


def _number(group: Group, across: Scale, up: Scale) -> Markup:
    """The group's number where most of it lies."""
    middle_2 = group.places_M2.median(dim=0).values
    x, y = across(float(middle_2[0])), up(float(middle_2[1])) + 5
    return element("text", str(group.number), x=x, y=y, class_="number middle")


def _colour(number: int) -> str:
    return f"c{(number - 1) % _COLOURS}"


def _shape(number: int, x: float, y: float, r: float) -> str:
    """Circle, square, triangle or diamond; colour and shape repeat together only after 24 groups."""
    index = number - 1
    kind = (index + index // _COLOURS) % 4
    if kind == 0:
        return f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0Z"
    corners = {1: 4, 2: 3, 3: 4}[kind]
    turn = math.pi / 4 if kind == 1 else math.pi / 2
    angles = [turn + 2 * math.pi * corner / corners for corner in range(corners)]
    size = r * 1.2
    return path([(x + size * math.cos(angle), y - size * math.sin(angle)) for angle in angles], closed=True)
