"""Does a gallery add a syndrome without disturbing the others, and does the protocol count as its authors do?"""

from __future__ import annotations

import copy
import json
import math
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import typer
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from bioface_core.calibration import Reliability, fit
from bioface_core.checkpoint import RoundSummary, RunFolder, pack
from bioface_core.cli import gallery as commands
from bioface_core.config import find_study, read_study
from bioface_core.errors import PhotoError
from bioface_core.evaluate import Counts
from bioface_core.expert import Expert, read_expert
from bioface_core.gallery import ODDS, Gallery, fingerprint, handicap, imprinted, nearness, neighbours, rank, scores
from bioface_core.gallery_file import changing, load_gallery, read_gallery, write_gallery
from bioface_core.learner import Learner
from bioface_core.matching import TOPS, Portraits, Split, match, nearest, protocol
from bioface_core.photos import Demographics, PhotoSet
from bioface_core.store import Store, write_store
from bioface_core.syndromes import catalogue
from bioface_core.weights import random_base
from client.gallery import add_photos, match_store, remove_entries
from simulation import phantom

D = 16
SMALL = ("model.width=0.125", "model.embedding=16", "model.pool=global", "loss.identification=false", "loss.scale=16")


def calibrated(expert: Expert) -> Expert:
    """As if 40 patients had been counted."""
    reliability = Reliability.zeros()
    reliability.confidence_TB2[:, 7, 1] = 40
    reliability.nearness_B2[60, 1] = 40
    return replace(expert, calibration=fit(reliability, expert.study.loss))


def make_expert(seed: int = 0, mode: str = "joint") -> Expert:
    study = read_study(find_study("smoke"), (*SMALL, f"loss.mode={mode}", "syndromes=[down,williams,noonan]"))
    learner = Learner(study, random_base(study.model, seed))
    return Expert.of(study, learner.weights(learner.start()))


@pytest.fixture(scope="module")
def expert() -> Expert:
    return calibrated(make_expert())


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.fixture
def gallery(expert: Expert) -> Gallery:
    """Two photos of a catalogued syndrome, three of the hospital's own, one of a syndrome that the model knows."""
    empty = Gallery.empty(expert)
    both = empty.add("kbg", "KBG syndrome", unit(2, D, seed=1)).add("own-01", "Ours", unit(3, D, seed=2), local=False)
    return both.add("down", "Down syndrome", unit(1, D, seed=3))


# What a gallery holds.


def test_the_order_in_which_photos_came_does_not_matter(expert: Expert, gallery: Gallery) -> None:
    other = Gallery.empty(expert).add("down", "Down syndrome", unit(1, D, seed=3))
    other = other.add("own-01", "Ours", unit(3, D, seed=2).flip(0), local=False)
    other = other.add("kbg", "KBG syndrome", unit(2, D, seed=1))
    assert other.entries == gallery.entries and torch.equal(other.embeddings_ND, gallery.embeddings_ND)
    assert gallery.names == {"down": "Down syndrome", "kbg": "KBG syndrome", "own-01": "Ours"}
    assert [gallery.count(key) for key in ("down", "kbg", "own-01", "rts")] == [1, 2, 3, 0]


def test_what_was_added_can_be_removed(gallery: Gallery) -> None:
    assert set(gallery.remove("kbg").names) == {"down", "own-01"}
    one = gallery.entries[-1]
    assert len(gallery.remove(one.id)) == 5 and one not in gallery.remove(one.id).entries
    with pytest.raises(PhotoError, match="no syndrome or entry apert; it has down, kbg, own-01"):
        gallery.remove("apert")


def test_entries_are_local_unless_somebody_says_otherwise(gallery: Gallery) -> None:
    assert {entry.key for entry in gallery.shareable().entries} == {"own-01"}
    assert len(gallery.shareable().embeddings_ND) == 3


@pytest.mark.parametrize(
    ("key", "name", "told"),
    [
        ("../up", "Up", "no key of a syndrome"),
        ("", "Nothing", "no key of a syndrome"),
        ("new", " ", "one line"),
        ("new", "two\nlines", "one line"),
        ("new", "x" * 121, "one line"),
        ("own-01", "Theirs", "has own-01 already, as 'Ours'"),
    ],
)
def test_a_syndrome_without_a_proper_name_is_refused(gallery: Gallery, key: str, name: str, told: str) -> None:
    with pytest.raises(PhotoError, match=told):
        gallery.add(key, name, unit(1, D, seed=9))


def test_the_same_photo_is_not_counted_twice(gallery: Gallery) -> None:
    with pytest.raises(PhotoError, match="photo 2 is in the gallery already, as kbg: leave it out"):
        gallery.add("own-01", "Ours", torch.cat([unit(1, D, seed=9), unit(2, D, seed=1)[:1]]))
    with pytest.raises(PhotoError, match="photo 2 comes twice"):
        gallery.add("own-01", "Ours", unit(1, D, seed=9).expand(2, D))


# Where it lies.


def test_a_gallery_comes_back_as_it_was_and_is_private(tmp_path: Path, expert: Expert, gallery: Gallery) -> None:
    path = tmp_path / "made" / "gallery.safetensors"
    write_gallery(path, gallery)
    first = path.read_bytes()
    back = read_gallery(path, expert)
    assert back.entries == gallery.entries and torch.equal(back.embeddings_ND, gallery.embeddings_ND)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o644)
    write_gallery(path, gallery)
    assert path.read_bytes() == first and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_no_file_is_an_empty_gallery(tmp_path: Path, expert: Expert) -> None:
    assert len(read_gallery(tmp_path / "gallery.safetensors", expert)) == 0


def test_a_gallery_of_another_model_is_refused(tmp_path: Path, expert: Expert, gallery: Gallery) -> None:
    path, other = tmp_path / "gallery.safetensors", make_expert(seed=1)
    write_gallery(path, gallery)
    for refused in (lambda: read_gallery(path, other), lambda: rank(other, gallery, unit(1, D))):
        with pytest.raises(PhotoError, match=f"of model {gallery.model[:12]}, not of {fingerprint(other)[:12]}"):
            refused()
    assert fingerprint(make_expert()) == fingerprint(expert) != fingerprint(other)


def test_a_failed_write_leaves_the_old_one(
    tmp_path: Path, expert: Expert, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "gallery.safetensors"
    write_gallery(path, gallery)
    with monkeypatch.context() as patched, pytest.raises(PhotoError, match="No space left"):
        patched.setattr("bioface_core.gallery_file.write_secret", full)
        write_gallery(path, gallery.remove("kbg"))
    assert len(read_gallery(path, expert)) == 6 and len(list(tmp_path.iterdir())) == 1


def test_one_writer_at_a_time(tmp_path: Path, expert: Expert, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bioface_core.gallery_file._PATIENCE", 0.05)
    path = tmp_path / "gallery.safetensors"
    with changing(path, expert), pytest.raises(PhotoError, match="by another process"), changing(path, expert):
        pass


def broken(path: Path, embeddings_ND: Tensor, header: object) -> None:
    save_file({"embeddings_ND": embeddings_ND}, path, {"gallery": json.dumps(header)})


@pytest.mark.parametrize("damage", ["text", "cut", "length", "rows", "header", "type", "nan"])
def test_what_is_no_gallery_is_one_clear_line(tmp_path: Path, gallery: Gallery, damage: str) -> None:
    path, entry = tmp_path / "gallery.safetensors", {"id": "a", "key": "kbg", "name": "KBG", "local": True}
    write_gallery(path, gallery)
    head = {"version": 1, "model": "m", "entries": [entry]}
    if damage == "text":
        path.write_text("Dear colleague")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-4])
    else:
        vectors = {"length": 2 * unit(1, D), "rows": unit(2, D), "type": unit(1, D).double(), "nan": unit(1, D) / 0}
        broken(path, vectors.get(damage, unit(1, D)), head | ({"entries": [{"id": 1}]} if damage == "header" else {}))
    with pytest.raises(PhotoError, match="no gallery, or damaged"):
        load_gallery(path)


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    broken(tmp_path / "later", unit(1, D), {"version": 2, "model": "m", "entries": []})
    with pytest.raises(PhotoError, match="version 2, expected 1"):
        load_gallery(tmp_path / "later")


# Neighbours and ranking.


def test_neighbours_are_the_nearest_entries(gallery: Gallery) -> None:
    patients_PD = unit(4, D, seed=5)
    for row, found in zip(patients_PD, neighbours(gallery, patients_PD, 3), strict=True):
        plain = sorted(
            (
                -sum(a * b for a, b in zip(row.tolist(), vector, strict=True)),
                entry.id,
            )
            for vector, entry in zip(gallery.embeddings_ND.tolist(), gallery.entries, strict=True)
        )[:3]
        assert [one.entry.id for one in found] == [id_ for _, id_ in plain]
        assert [one.cosine for one in found] == pytest.approx([-c for c, _ in plain], abs=1e-6)
    assert len(neighbours(gallery, patients_PD, 50)[0]) == 6


def test_an_empty_gallery_leaves_the_model_s_ranking(expert: Expert) -> None:
    patients_PD = unit(5, D, seed=6)
    scores_PK = expert.scores(patients_PD)
    for row, scores_K, likely_K in zip(
        rank(expert, Gallery.empty(expert), patients_PD),
        scores_PK,
        expert.calibration.probabilities(scores_PK),
        strict=True,
    ):
        order = sorted(range(len(expert.syndromes)), key=lambda n: -float(likely_K[n]))
        plain = [(expert.syndromes[n], catalogue().syndromes[expert.syndromes[n]]) for n in order]
        assert [(one.key, one.name, one.omim, one.orpha, one.entries) for one in row] == [
            (key, known.name, known.omim, known.orpha, 0) for key, known in plain
        ]
        assert [one.probability for one in row] == pytest.approx([float(likely_K[n]) for n in order])
        assert [one.cosine for one in row] == pytest.approx([float(scores_K[n]) for n in order], abs=1e-6)
    assert rank(expert, Gallery.empty(expert), torch.zeros(0, D)) == ()


def plain_imprint(mean: list[float], prototypes: list[list[float]]) -> list[float]:
    """A syndrome's prototype from its mean embedding, in Python floats."""

    def dot(one: Sequence[float], other: Sequence[float]) -> float:
        return sum(a * b for a, b in zip(one, other, strict=True))

    units = [[value / math.hypot(*one) for value in one] for one in prototypes]
    middle = [sum(column) / len(units) for column in zip(*units, strict=True)]
    shared = [value / math.hypot(*middle) for value in middle]
    share = sum(dot(one, shared) for one in units) / len(units)
    rest = [value - dot(mean, shared) * along for value, along in zip(mean, shared, strict=True)]
    scale = math.sqrt(1 - share**2) / math.hypot(*rest)
    return [scale * value + share * along for value, along in zip(rest, shared, strict=True)]


def plain_ranking(expert: Expert, gallery: Gallery, patient: list[float]) -> list[tuple[str, float, float]]:
    """(key, probability, cosine), likeliest first, in Python floats."""

    def cosine(one: Sequence[float], other: Sequence[float]) -> float:
        return sum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)

    model = dict(zip(expert.syndromes, expert.network.prototypes.tolist(), strict=True))
    new = [key for key in gallery.names if key not in model]
    found = [(key, cosine(patient, prototype), cosine(patient, prototype)) for key, prototype in model.items()]
    for key in new:
        own = [v for v, e in zip(gallery.embeddings_ND.tolist(), gallery.entries, strict=True) if e.key == key]
        mean = [sum(column) / len(own) for column in zip(*own, strict=True)]
        near = cosine(patient, plain_imprint(mean, list(model.values())))
        found.append((key, near - math.log(len(new) / ODDS) / 16, near))
    weights = [math.exp(score / expert.calibration.temperature) for _, score, _ in found]
    rows = [(key, weight / sum(weights), near) for (key, _, near), weight in zip(found, weights, strict=True)]
    return sorted(rows, key=lambda row: -row[1])


def test_the_merged_ranking_is_what_a_plain_loop_gives(expert: Expert, gallery: Gallery) -> None:
    patients_PD = torch.cat([unit(6, D, seed=7), gallery.embeddings_ND])
    for row, patient in zip(rank(expert, gallery, patients_PD), patients_PD.tolist(), strict=True):
        plain = plain_ranking(expert, gallery, patient)
        assert [one.key for one in row] == [key for key, _, _ in plain]
        assert [one.probability for one in row] == pytest.approx([p for _, p, _ in plain], rel=1e-3)
        assert [one.cosine for one in row] == pytest.approx([c for _, _, c in plain], abs=1e-5)
        assert {one.key: one.entries for one in row} == {"down": 0, "williams": 0, "noonan": 0, "kbg": 2, "own-01": 3}


def test_the_model_s_syndromes_keep_their_order_and_batched_equals_single(expert: Expert, gallery: Gallery) -> None:
    patients_PD = unit(8, D, seed=8)
    merged = rank(expert, gallery, patients_PD)
    for number, row in enumerate(merged):
        kept = [one.key for one in row if one.key in expert.syndromes]
        order = expert.scores(patients_PD[number : number + 1])[0].argsort(descending=True, stable=True)
        assert kept == [expert.syndromes[n] for n in order]
        (single,) = rank(expert, gallery, patients_PD[number : number + 1])
        assert [one.key for one in single] == [one.key for one in row]
        assert [one.probability for one in single] == pytest.approx([one.probability for one in row], abs=1e-6)
    assert merged == rank(expert, gallery, patients_PD)


def test_the_whole_gallery_has_the_same_odds_however_many_syndromes(expert: Expert) -> None:
    """Before anything speaks for one of them: all scores alike."""
    for syndromes in (1, 2, 7):
        shares = torch.zeros(1 + syndromes)
        shares[1:] -= handicap(expert, syndromes)
        model, *others = (16 * shares).softmax(0).tolist()
        assert sum(others) == pytest.approx(ODDS * model, rel=1e-5)


def test_names_and_numbers_are_the_catalogue_s_or_the_hospital_s(expert: Expert, gallery: Gallery) -> None:
    found = {one.key: one for one in rank(expert, gallery, unit(1, D))[0]}
    assert (found["kbg"].name, found["kbg"].omim) == ("KBG syndrome", 148050)
    assert (found["own-01"].name, found["own-01"].omim, found["own-01"].orpha) == ("Ours", None, None)


def test_without_calibration_no_probability_is_claimed(gallery: Gallery) -> None:
    assert {one.probability for one in rank(make_expert(), gallery, unit(1, D))[0]} == {None}


def test_linear_scores_meet_means_of_their_own_length() -> None:
    """In mode ce a longer prototype scores more; a gallery's is as long as they are on average."""
    linear = make_expert(mode="ce")
    own = Gallery.empty(linear).add("kbg", "KBG syndrome", unit(1, D, seed=1))
    length = float(linear.network.prototypes.norm(dim=1).mean())
    found = scores(linear, own, imprinted(own.embeddings_ND, linear.network.prototypes))
    assert float(found[0, -1]) == pytest.approx(length - handicap(linear, 1), rel=1e-5)


def test_a_face_near_the_gallery_is_near_something(expert: Expert, gallery: Gallery) -> None:
    own_D = F.normalize(gallery.embeddings_ND[1:3].mean(0), dim=0)[None]
    assert gallery.entries[1].key == gallery.entries[2].key == "kbg"
    prototype_1D = imprinted(own_D, expert.network.prototypes)
    assert float(nearness(expert, gallery, prototype_1D)) == pytest.approx(1.0, abs=1e-5)
    assert float(expert.nearness(prototype_1D)) < 0.9
    assert float(nearness(expert, gallery, own_D)) > float(expert.nearness(own_D))
    assert torch.allclose(nearness(expert, Gallery.empty(expert), own_D), expert.nearness(own_D))


def test_a_gallery_does_not_swallow_patients_whom_training_pushed_away(expert: Expert) -> None:
    """Training against healthy people leaves prototypes far from all faces, and a gallery's mean among them."""
    faces, own = torch.linalg.qr(unit(D, 5, seed=21))[0].T.split([1, 4])
    pushed = replace(expert, network=copy.deepcopy(expert.network))
    pushed.network.prototypes.data.copy_(0.5 * own[:3] - 0.85 * faces)
    noise = torch.randn(4, 23, D, generator=torch.Generator().manual_seed(3)) * 0.03
    photos = F.normalize(0.6 * own[:, None] + 0.8 * faces + noise, dim=-1)
    gallery = Gallery.empty(pushed).add("kbg", "KBG syndrome", photos[3, :3])
    patients = photos[:, 3:]
    as_it_is_3P = patients[:3] @ F.normalize(gallery.embeddings_ND.mean(0), dim=0)
    assert bool((as_it_is_3P > pushed.scores(patients[:3].flatten(0, 1)).amax(1).view(3, -1)).all())
    for key, people in zip((*expert.syndromes, "kbg"), patients, strict=True):
        assert [row[0].key for row in rank(pushed, gallery, people)] == [key] * len(people)


def test_a_separable_syndrome_is_found_from_three_photos(expert: Expert) -> None:
    """Top-1 from 0 to nearly 1, and nobody of the model's syndromes is lost."""
    centres = torch.cat([F.normalize(expert.network.prototypes), unit(1, D, seed=11)])
    noise = torch.randn(4, 23, D, generator=torch.Generator().manual_seed(1)) * 0.12
    photos = F.normalize(centres[:, None] + noise, dim=-1)
    gallery = Gallery.empty(expert).add("kbg", "KBG syndrome", photos[3, :3])
    first = [[row[0].key for row in rank(expert, gallery, own)] for own in photos[:, 3:]]
    assert sum(key == "kbg" for key in first[3]) >= 18
    for key, found in zip(expert.syndromes, first[:3], strict=True):
        alone = [row[0].key for row in rank(expert, Gallery.empty(expert), photos[expert.syndromes.index(key), 3:])]
        assert sum(one == key for one in found) >= sum(one == key for one in alone)


# The protocol.


def portraits(photos: int, syndromes: int, seed: int) -> Portraits:
    randomness = torch.Generator().manual_seed(seed)
    labels_N = torch.randint(syndromes, (photos,), generator=randomness) * 7  # numbers with gaps
    return Portraits(unit(photos, D, seed=seed), labels_N, torch.arange(photos) // 2)


def plain_rank(embedding: list[float], label: int, gallery: Portraits) -> int | None:
    """Where a photo's own syndrome comes when gallery photos are taken from the nearest on; None if nowhere."""
    order = sorted(
        (-sum(a * b for a, b in zip(embedding, other, strict=True)), int(syndrome))
        for other, syndrome in zip(gallery.embeddings_ND.tolist(), gallery.labels_N, strict=True)
    )
    seen: list[int] = []
    for _, syndrome in order:
        if syndrome not in seen:
            seen.append(syndrome)
    return seen.index(label) if label in seen else None


def plain_top(test: Portraits, gallery: Portraits, k: int) -> float:
    """Macro Top-k by a plain loop."""
    hits: dict[int, list[bool]] = {}
    for embedding, label in zip(test.embeddings_ND.tolist(), test.labels_N.tolist(), strict=True):
        place = plain_rank(embedding, label, gallery)
        hits.setdefault(label, []).append(place is not None and place < k)
    return sum(sum(found) / len(found) for found in hits.values()) / len(hits)


@pytest.mark.parametrize(("tested", "shown", "syndromes"), [(40, 60, 8), (30, 12, 20), (300, 200, 50), (5, 3, 40)])
def test_the_protocol_is_what_a_plain_loop_gives(tested: int, shown: int, syndromes: int) -> None:
    test, gallery = portraits(tested, syndromes, 1), portraits(shown, syndromes, 2)
    found = match(test, gallery)
    for k in TOPS:
        assert found[k].value == pytest.approx(plain_top(test, gallery, k)), k
        assert 0 <= found[k].low <= found[k].value <= found[k].high <= 1 and found[k].patients == tested


def test_a_syndrome_counts_once_at_its_nearest_photo() -> None:
    gallery = Portraits(torch.eye(3, D)[[0, 0, 1, 2]], torch.tensor([0, 0, 0, 1]), torch.arange(4))
    one = F.normalize(torch.tensor([[0.6, 0.5, 0.4] + [0.0] * (D - 3)]))
    found = nearest(Portraits(one, torch.tensor([1]), torch.tensor([9])), gallery, 3)
    assert found[0].tolist() == pytest.approx([float(one[0, 0]), float(one[0, 2]), -math.inf])
    assert match(Portraits(one, torch.tensor([1]), torch.tensor([9])), gallery)[5].value == 1.0


def test_a_syndrome_that_the_gallery_lacks_is_always_missed() -> None:
    test = Portraits(unit(2, D), torch.tensor([0, 5]), torch.arange(2))
    gallery = Portraits(unit(2, D, seed=4), torch.tensor([0, 1]), torch.arange(2))
    assert match(test, gallery)[30].value == 0.5


def test_photos_of_one_patient_are_no_independent_witnesses() -> None:
    test, gallery = portraits(200, 8, 1), portraits(60, 8, 2)
    paired, single = match(test, gallery), match(replace(test, patients_N=torch.arange(200)), gallery)
    for k in (1, 5):
        assert paired[k].value == single[k].value
        assert paired[k].high - paired[k].value == pytest.approx(2**0.5 * (single[k].high - single[k].value))


def test_four_tables_with_rates_averaged_over_splits() -> None:
    photos = portraits(120, 12, 3)
    rows = torch.randperm(120, generator=torch.Generator().manual_seed(0)).split(20)
    frequent = Split(rows[0], rows[1])
    rare = (Split(rows[2], rows[3]), Split(rows[4], rows[5]))
    tables = protocol(photos, frequent, rare)
    assert [(one.test, one.gallery) for one in tables] == [
        ("frequent", "frequent"),
        ("rare", "rare"),
        ("frequent", "frequent + rare"),
        ("rare", "frequent + rare"),
    ]
    plain = [
        plain_top(photos.take(one.test_N), photos.take(torch.cat([frequent.gallery_M, one.gallery_M])), 5)
        for one in rare
    ]
    assert tables[3].top[5].value == pytest.approx(sum(plain) / 2)
    assert (tables[3].gallery_photos, tables[3].test_photos) == (40, 20)
    assert [one.test for one in protocol(photos, frequent, ())] == ["frequent"]


# From files to galleries, and the commands.


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of an untrained network."""
    path = tmp_path_factory.mktemp("run")
    study = read_study(find_study("smoke"), (*SMALL, "syndromes=[down,williams,noonan]"))
    learner = Learner(study, random_base(study.model, 0))
    (path / "study.yaml").write_text(study.to_yaml())
    summary = RoundSummary(0, 1.0, None, (), {}, 0, 0, Counts.zeros(3))
    RunFolder(path).write_round(summary, pack({}, learner.weights(learner.start())))
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three photos of three people, and a grey wall."""
    folder = tmp_path_factory.mktemp("photos")
    numbers = torch.arange(3)
    for number, picture in enumerate(phantom.render(5, numbers, torch.zeros_like(numbers)).photos_NCHW):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    Image.new("RGB", (200, 200), "grey").save(folder / "wall.png")
    return [*(folder / f"{number}.png" for number in range(3)), folder / "wall.png"]


def test_photos_are_looked_at_like_any_other(tmp_path: Path, run: Path, photos: list[Path]) -> None:
    path, model = tmp_path / "gallery.safetensors", read_expert(run)
    done = add_photos(model, path, "kbg", [*photos, tmp_path / "gone.png"])
    assert (done.added, done.name) == (3, "KBG syndrome") and sum(done.refused.values()) == 2
    assert read_gallery(path, model).count("kbg") == 3
    with pytest.raises(PhotoError, match="none of 1 photos can be used: 1 no face; nothing was added"):
        add_photos(model, path, "sotos", photos[3:])
    with pytest.raises(PhotoError, match="in the gallery already, as kbg"):
        add_photos(model, path, "sotos", photos[:1])
    with pytest.raises(PhotoError, match="give its name with --name"):
        add_photos(model, tmp_path / "other", "own-01", photos[:1])
    with pytest.raises(PhotoError, match="0 photos; expected 1 to"):
        add_photos(model, path, "kbg", [])
    assert set(remove_entries(model, path, "kbg").names) == set()


def command(*arguments: object) -> tuple[int, str]:
    app = typer.Typer()
    for one in commands.COMMANDS:
        app.command()(one)
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(done.exception, PhotoError):
        return 2, str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout


def test_commands_add_list_and_remove(tmp_path: Path, run: Path, photos: list[Path]) -> None:
    at = ("--gallery", tmp_path / "gallery.safetensors")
    assert "empty" in command("list", run, *at)[1]
    code, told = command("add", run, "own-01", *photos, "--name", "Our syndrome", *at, "--json")
    told_json = json.loads(told)
    assert (code, told_json["added"], told_json["entries"], told_json["refused"]) == (0, 3, 3, {"no face": 1})
    assert "Our syndrome" in command("list", run, *at)[1]
    entries = json.loads(command("list", run, *at, "--json")[1])["entries"]
    assert len(entries) == 3 and {entry["local"] for entry in entries} == {True}
    assert "2 entries are left" in command("remove", run, entries[0]["id"], *at)[1]
    assert "0 entries are left" in command("remove", run, "own-01", *at)[1]
    assert command("remove", run, "own-01", *at)[0] == 2


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two syndromes that the model knows and two that it does not, six photos of three patients each."""
    path, photos = tmp_path_factory.mktemp("stores") / "site", 24
    pixels_NCHW = torch.randint(256, (photos, 3, 112, 112), generator=torch.Generator().manual_seed(0))
    index_N = torch.arange(photos)
    heldout_N = index_N // 2 % 3 == 0
    columns = PhotoSet(pixels_NCHW.to(torch.uint8), index_N // 6, index_N // 2)
    write_store(path, Store(("down", "kbg", "noonan", "own-01"), columns, heldout_N, Demographics.unknown(photos), ()))
    return path


def test_a_store_is_matched_by_who_is_held_out(run: Path, store: Path) -> None:
    tables = match_store(read_expert(run), store)
    assert [(one.gallery_photos, one.test_photos, one.syndromes) for one in tables] == [
        (8, 4, 2),
        (8, 4, 2),
        (16, 4, 4),
        (16, 4, 4),
    ]
    code, told = command("protocol", run, store, "--json")
    rows = json.loads(told)
    assert code == 0 and rows[3]["top"]["1"]["value"] == pytest.approx(tables[3].top[1].value)
    assert "Top-30" in command("protocol", run, store)[1]


def test_a_store_with_nobody_to_match_is_one_clear_line(tmp_path: Path, run: Path, store: Path) -> None:
    nobody = torch.zeros(2, dtype=torch.bool)
    columns = PhotoSet(torch.zeros(2, 3, 112, 112, dtype=torch.uint8), torch.zeros(2).long(), torch.arange(2))
    write_store(tmp_path / "site", Store(("down",), columns, nobody, Demographics.unknown(2), ()))
    with pytest.raises(PhotoError, match="no held-out photos of the model's syndromes"):
        match_store(read_expert(run), tmp_path / "site")
    assert command("protocol", run, store, "--database", tmp_path)[0] == 2
