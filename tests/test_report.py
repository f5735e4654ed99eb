"""Does a report say what its raw files say, whatever is missing, and nothing of what a foreign file would slip in?"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import save_file

from bioface_core import report
from bioface_core.calibration import Reliability
from bioface_core.config import parse_study
from bioface_core.errors import RunError
from bioface_core.evaluate import Counts, Difference, count, macro_top
from bioface_core.report import embedding_map, svg
from bioface_core.report.sureness import coverage_rows
from bioface_core.report.words import headline
from bioface_core.web import STYLE

TEN = ("down", "williams", "noonan", "cdls", "kabuki", "angelman", "rts", "del22q11", "pws", "tcs")
FOUR = TEN[:4]


def tally(labels_P: torch.Tensor, classes: int, skill: float, randomness: torch.Generator) -> Counts:
    """Counts of a model that lifts the true class by ``skill``; some classes are harder than others."""
    scores_PK = torch.randn(len(labels_P), classes, generator=randomness)
    ease_P = 0.5 + (labels_P * 7 % classes) / classes
    scores_PK[torch.arange(len(labels_P)), labels_P] += skill * ease_P
    return count(scores_PK, labels_P)


def write_run(
    folder: Path, syndromes: tuple[str, ...] = FOUR, hospitals: int = 3, rounds: int = 4, heldout: int = 8
) -> Path:
    """A finished run whose figures are made up and plausible.

    Args:
        folder: made here.
        syndromes: K keys.
        hospitals: S; each lacks some syndromes.
        rounds: all of them done.
        heldout: held-out patients of each syndrome, over all hospitals.
    """
    folder.mkdir(parents=True)
    randomness, classes = torch.Generator().manual_seed(1), len(syndromes)
    names = [f"hospital-{number + 1}" for number in range(hospitals)]
    settings = {"hospitals": hospitals}
    content = {"name": "demo", "syndromes": list(syndromes), "federation": {"rounds": rounds}, "simulation": settings}
    (folder / "study.yaml").write_text(parse_study(content).to_yaml(), encoding="utf-8")
    labels_P = torch.arange(classes).repeat_interleave(heldout)
    sites_P = torch.randint(hospitals, labels_P.shape, generator=randomness)
    final = tally(labels_P, classes, 2.6, randomness)
    for number in range(rounds + 1):
        counts = final if number == rounds else tally(labels_P, classes, 2.6 * (1 - 0.6**number), randomness)
        write_json(folder / f"round-{number:04d}.json", round_record(number, names, counts))
    sites = [site(number, labels_P[sites_P == number], classes, randomness) for number in range(hospitals)]
    write_json(folder / "hospitals.json", sites)
    patients = [sum(one["train_patients_K"]) for one in sites]
    arms = [
        arm("alone", name, number, tally(labels_P, classes, 1.2, randomness))
        | {"own_counts": tally(labels_P[sites_P == index], classes, 2.0, randomness).to_json()}
        for index, (name, number) in enumerate(zip(names, patients, strict=True))
    ]
    arms.append(arm("federated", None, sum(patients), final))
    arms.append(arm("pooled", None, sum(patients), tally(labels_P, classes, 2.8, randomness)))
    write_json(folder / "arms.json", arms)
    write_embeddings(folder, labels_P.repeat_interleave(2), sites_P.repeat_interleave(2), randomness)
    write_json(folder / "software.json", {"bioface": "0.1.0", "torch": "2.15.0", "Python": "3.11"})
    return folder


def round_record(number: int, names: list[str], counts: Counts) -> dict[str, Any]:
    """A round's file; in round 3 the last hospital is refused."""
    refused = names[-1:] if number == 3 else []
    answered = [name for name in names if name not in refused] if number else []
    return {
        "round": number,
        "seconds": 6.0 + 0.3 * (number % 3) if number else 0.0,
        "loss": 3.4 * 0.82**number if number else None,
        "answered": answered,
        "refused": dict.fromkeys(refused, "not-finite"),
        "bytes_down": 2_900_000 * len(names) if number else 0,
        "bytes_up": 2_900_000 * len(answered),
        "counts": counts.to_json(),
        "hospital_bytes": {name: [2_900_000 * (number > 0), 2_900_000 * (name in answered)] for name in names},
    }


def arm(kind: str, hospital: str | None, patients: int, counts: Counts) -> dict[str, Any]:
    """One entry of arms.json."""
    return {
        "name": f"{hospital} alone" if hospital else kind,
        "kind": kind,
        "hospital": hospital,
        "patients": patients,
        "photos": 2 * patients,
        "seconds": 0.16 * patients,
        "counts": counts.to_json(),
        "own_counts": None,
    }


def site(number: int, heldout_P: torch.Tensor, classes: int, randomness: torch.Generator) -> dict[str, Any]:
    """One entry of hospitals.json; about half of the syndromes were never seen there."""
    has_K = torch.rand(classes, generator=randomness) < 0.55
    train_K = torch.randint(1, 20, (classes,), generator=randomness) * has_K
    heldout_K = heldout_P.bincount(minlength=classes)
    return {
        "name": f"hospital-{number + 1}",
        "train_patients_K": train_K.tolist(),
        "heldout_patients_K": heldout_K.tolist(),
    }


def write_embeddings(folder: Path, labels_N: torch.Tensor, sites_N: torch.Tensor, randomness: torch.Generator) -> None:
    directions_KD = torch.randn(int(labels_N.max()) + 1, 32, generator=randomness)
    noise_ND = torch.randn(len(labels_N), 32, generator=randomness)
    embeddings_ND = torch.nn.functional.normalize(directions_KD[labels_N] + 1.1 * noise_ND)
    columns = {"embeddings_ND": embeddings_ND, "labels_N": labels_N, "hospitals_N": sites_N}
    save_file(columns, folder / "embeddings.safetensors")


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "demo")


def change(path: Path, edit: Callable[[Any], Any]) -> None:
    """Rewrites a JSON file."""
    write_json(path, edit(json.loads(path.read_text(encoding="utf-8"))))


def without_embeddings(folder: Path) -> Path:
    """The same run without a map, which takes longest to draw."""
    (folder / "embeddings.safetensors").unlink()
    return folder


def page(folder: Path) -> str:
    """The page of a run."""
    report.write_report(folder)
    return (folder / "report.html").read_text(encoding="utf-8")


def test_figures_are_those_of_the_raw_files(run: Path) -> None:
    result = report.build(run)
    raw = {one["name"]: Counts.from_json(one["counts"]) for one in json.loads((run / "arms.json").read_text())}
    assert {arm.name: arm.top3 for arm in result.arms} == {name: macro_top(counts, 3) for name, counts in raw.items()}
    mean = sum(macro_top(raw[f"hospital-{number} alone"], 1).value for number in (1, 2, 3)) / 3
    federated, pooled = (macro_top(raw[name], 1).value for name in ("federated", "pooled"))
    assert result.gain is not None and result.gain.value == pytest.approx(federated - mean)
    assert result.distance is not None and result.distance.value == pytest.approx(pooled - federated)
    assert result.confusion == tuple(map(tuple, raw["federated"].confusion_KK.tolist()))
    assert [one.round for one in result.rounds] == [0, 1, 2, 3, 4]
    assert result.rounds[3].refused == {"hospital-3": "not-finite"}
    assert result.finished and result.notes == ()


def test_arms_come_alone_federated_pooled(run: Path) -> None:
    change(run / "arms.json", lambda arms: arms[::-1])
    assert [arm.kind for arm in report.build(run).arms] == ["alone"] * 3 + ["federated", "pooled"]


def test_mistakes_are_the_largest_cells_beside_the_diagonal(run: Path) -> None:
    result = report.build(run)
    cells = [
        count for true, row in enumerate(result.confusion) for said, count in enumerate(row) if count and true != said
    ]
    assert [one.patients for one in result.mistakes] == sorted(cells, reverse=True)[:10]
    assert all(one.of == 8 and result.confusion[one.true][one.predicted] == one.patients for one in result.mistakes)


def test_names_come_from_the_catalogue_or_the_caller_or_are_the_key(run: Path) -> None:
    assert [one.name for one in report.build(run).syndromes][:2] == ["Down syndrome", "Williams syndrome"]
    assert [one.name for one in report.build(run, {"down": "D"}).syndromes] == ["D", "williams", "noonan", "cdls"]


def test_both_files_are_written_and_the_same_each_time(run: Path) -> None:
    result = report.write_report(run)
    first = [(run / name).read_bytes() for name in ("report.json", "report.html")]
    report.write_report(run)
    assert [(run / name).read_bytes() for name in ("report.json", "report.html")] == first
    assert json.loads(first[0]) == result.to_json()


@pytest.mark.parametrize(
    ("missing", "note"),
    [
        (["arms.json"], "No hospital was trained alone"),
        (["hospitals.json", "software.json"], "Nobody may know"),
        (["round-0004.json", "round-0003.json", "arms.json"], "2 of 4 rounds"),
        ([f"round-{number:04d}.json" for number in range(5)] + ["arms.json"], "0 of 4 rounds"),
        ([f"round-{number:04d}.json" for number in range(5)], "0 of 4 rounds"),
    ],
)
def test_a_run_that_is_not_complete_gets_a_report_that_says_so(run: Path, missing: list[str], note: str) -> None:
    for name in [*missing, "embeddings.safetensors"]:
        (run / name).unlink()
    assert note in page(run)
    assert any(note in line for line in report.build(run).notes)
    assert printed(report.build(run))


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(parse_study({}).to_yaml(), encoding="utf-8")
    assert "No round has finished yet" in page(tmp_path)


def test_some_arms_are_a_beginning(run: Path) -> None:
    change(run / "arms.json", lambda arms: [arms[0], arms[3]])
    assert "Only 1 of 3 hospitals were trained alone so far." in report.build(run).notes


def test_a_loss_that_is_no_number_is_not_known(run: Path) -> None:
    change(run / "round-0002.json", lambda record: record | {"loss": float("nan")})
    assert report.build(run).rounds[2].loss is None
    assert "nan" not in page(without_embeddings(run)).casefold().split(">")


def test_embeddings_that_are_no_numbers_are_not_drawn(run: Path) -> None:
    broken = {"embeddings_ND": torch.full((3, 4), float("nan"))} | dict.fromkeys(
        ("labels_N", "hospitals_N"), torch.ones(3)
    )
    save_file({name: column.clone() for name, column in broken.items()}, run / "embeddings.safetensors")
    assert "Embedding map" not in page(run)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("study.yaml", "name: [", "not YAML"),
        ("study.yaml", "nam: demo", "nearest: name"),
        ("study.yaml", "syndromes: [down, williams]", "not one study's"),
        ("arms.json", "[{", "arms.json is damaged"),
        ("arms.json", '[{"name": "a"}]', "0.kind"),
        (
            "hospitals.json",
            '[{"name": "a", "train_patients_K": [1], "heldout_patients_K": [-1]}]',
            "heldout_patients_K",
        ),
        ("hospitals.json", '[{"name": "a", "train_patients_K": [1], "heldout_patients_K": [1]}]', "not one study's"),
        ("round-0002.json", "", "round-0002.json is damaged"),
        ("round-0002.json", "{}", "round: Field required"),
        ("round-0002.json", None, "lacks round 2"),
        ("embeddings.safetensors", "not tensors", "embeddings.safetensors is damaged"),
    ],
)
def test_a_damaged_run_is_refused_in_one_line(run: Path, name: str, content: str | None, problem: str) -> None:
    (run / name).unlink()
    if content is not None:
        (run / name).write_text(content, encoding="utf-8")
    with pytest.raises(RunError, match=re.escape(problem)) as caught:
        report.write_report(run)
    assert "\n" not in str(caught.value)


def test_damaged_counts_are_refused(run: Path) -> None:
    change(run / "round-0001.json", lambda record: record | {"counts": {"confusion": [[1]], "ranks": [[2]]}})
    with pytest.raises(RunError, match=r"round-0001.json is damaged \(counts: confusion and ranks count different"):
        report.build(run)


@pytest.mark.parametrize("column", ["labels_N", "hospitals_N", "embeddings_ND"])
def test_embeddings_must_fit_the_study(run: Path, column: str) -> None:
    columns = {"embeddings_ND": torch.ones(2, 3), "labels_N": torch.tensor([0, 1]), "hospitals_N": torch.tensor([0, 1])}
    save_file(
        columns | {column: columns[column][:1] - 9 if column != "embeddings_ND" else torch.ones(2)},
        run / "embeddings.safetensors",
    )
    with pytest.raises(RunError, match="does not fit the study"):
        report.build(run)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    for folder, problem in ((tmp_path / "missing", "is no folder"), (tmp_path, "is no run folder")):
        with pytest.raises(RunError, match=problem):
            report.build(folder)


def test_a_folder_that_cannot_be_written_is_refused(run: Path) -> None:
    (without_embeddings(run) / "report.html").mkdir()
    with pytest.raises(RunError, match="cannot be written"):
        report.write_report(run)


class Elements(HTMLParser):
    """Collects start tags, and holds that each is closed in turn."""

    VOID = frozenset({"meta", "br", "input", "link", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else at {self.getpos()}"


def elements(html: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Elements()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser.found


def test_the_page_asks_the_network_for_nothing(run: Path) -> None:
    html = page(run)
    addresses = [
        value for _, attributes in elements(html) for key, value in attributes.items() if key in ("src", "href")
    ]
    assert addresses and all(str(address).startswith("#") for address in addresses)
    assert re.findall(r"url\(|@import|<script|<link|https?:", html) == []
    assert "default-src 'none'" in html


def test_the_page_can_be_read_without_eyes_and_mouse(run: Path) -> None:
    found = elements(page(run))
    ids = [attributes["id"] for _, attributes in found if "id" in attributes]
    targets = [str(attributes["href"])[1:] for tag, attributes in found if tag == "a"]
    assert len(ids) == len(set(ids)) and set(targets) <= set(ids)
    pictures = [attributes for tag, attributes in found if tag == "svg"]
    assert all(picture.get("role") == "img" or picture.get("aria-hidden") for picture in pictures)
    assert sum(tag == "desc" for tag, _ in found) == sum("role" in picture for picture in pictures) == 5
    assert all("scope" in attributes for tag, attributes in found if tag == "th")
    scrolling = [attributes for _, attributes in found if attributes.get("class") == "scroll"]
    assert scrolling and all(one["tabindex"] == "0" and one["role"] == "region" for one in scrolling)
    assert sum(tag == "h1" for tag, _ in found) == 1


def test_foreign_text_stays_text(tmp_path: Path) -> None:
    script = "<script>alert()</script>[bold]"
    folder = without_embeddings(write_run(tmp_path / "demo", (script, "b", "c")))
    change(folder / "round-0003.json", lambda record: record | {"refused": {script: script}})
    change(folder / "arms.json", lambda arms: [arms[0] | {"name": script}, *arms[1:]])
    change(folder / "hospitals.json", lambda sites: [sites[0] | {"name": script}, *sites[1:]])
    write_json(folder / "software.json", {script: script})
    html = page(folder)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") > 8
    assert "[bold]" in printed(report.build(folder))


def test_many_classes_are_drawn_and_not_tabled(tmp_path: Path) -> None:
    html = page(write_run(tmp_path / "demo", tuple(f"person-{number}" for number in range(40)), heldout=1))
    found = elements(html)
    assert not any(str(attributes.get("title", "")).startswith("person") for tag, attributes in found if tag == "abbr")
    assert "Confusion matrix" in html and "The 12 hardest of 40" in html and "too many to colour" in html
    assert len(html) < 200_000


def printed(result: report.Report) -> str:
    """The table as a terminal of 80 columns shows it."""
    written = io.StringIO()
    Console(file=written, width=80, color_system=None).print(report.table(result))
    return written.getvalue()


def test_the_table_fits_a_terminal(run: Path) -> None:
    result = report.build(run)
    text = printed(result)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for arm in result.arms:
        (row,) = [line for line in text.splitlines() if line.strip().startswith(arm.name)]
        assert f"{100 * arm.top1.value:.1f}" in row and f"{math.ceil(100 * arm.top3.high)}" in row
    assert "Together the hospitals recognise" in text


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        ((0.3, 0.2, 0.4), ["Together the hospitals recognise", "Federating gains 30.0 points", "20.0 to 40.0"]),
        (
            (0.1, -0.1, 0.3),
            ["No clear gain: together the hospitals", "gains 10.0 points", "\N{MINUS SIGN}10.0 to 30.0"],
        ),
        ((-0.3, -0.4, -0.2), ["Federating did harm: together the hospitals", "Federating loses 30.0 points"]),
    ],
)
def test_the_headline_says_what_was_found(run: Path, gain: tuple[float, float, float], words: list[str]) -> None:
    sentences = " ".join(headline(replace(report.build(run), gain=Difference(*gain))))
    assert all(word in sentences for word in words)


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels]
    return sum(weight * one for weight, one in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_colours_keep_their_contrast(theme: int) -> None:
    """WCAG AA: 4.5 for text, 3 for marks; in light and in dark."""
    style = STYLE.read_text(encoding="utf-8")
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", style.split(":root {")[theme + 1]))
    texts = [
        (name, ground) for name in ("ink", "soft", "federated", "alone", "pooled") for ground in ("paper", "raised")
    ]
    texts += [("on-light", f"shade{step}") for step in (1, 2, 3)] + [("on-dark", f"shade{step}") for step in (4, 5)]
    assert [pair for pair in texts if contrast(colours[pair[0]], colours[pair[1]]) < 4.5] == []
    assert [mark for mark in range(6) if contrast(colours[f"c{mark}"], colours["paper"]) < 3] == []


@given(st.floats(0.001, 1e6), st.integers(1, 10))
def test_ticks_are_round_and_within_the_axis(top: float, about: int) -> None:
    found = svg.ticks(0, top, about)
    assert found[0] == 0 and found[-1] <= top * (1 + 1e-6) and len(found) <= about + 1
    steps = {f"{after - before:.0e}"[0] for before, after in pairwise(found)}
    assert steps <= {"1", "2", "5"} and len(steps) <= 1


def test_svg_escapes() -> None:
    assert svg.element("text", "a<b", x=1.234, class_='"') == '<text x="1.23" class="&#34;">a&lt;b</text>'


@pytest.mark.parametrize("photos", [1, 2, 11, 30])
def test_a_map_of_any_size_is_finite_and_the_same_each_time(photos: int) -> None:
    embeddings_MD = torch.nn.functional.normalize(torch.randn(photos, 8, generator=torch.Generator().manual_seed(0)))
    places_M2 = embedding_map.project(embeddings_MD)
    assert places_M2.shape == (photos, 2) and bool(places_M2.isfinite().all())
    assert torch.equal(places_M2, embedding_map.project(embeddings_MD))


def test_a_map_of_equal_photos_is_a_point() -> None:
    assert embedding_map.project(torch.ones(20, 4)).abs().max() < 1e-4


def test_marks_differ_in_colour_or_shape() -> None:
    groups = [embedding_map.Group("", number, torch.zeros(1, 2)) for number in range(1, 25)]
    assert len({embedding_map.key(group) for group in groups}) == 24


def test_only_so_many_photos_are_drawn() -> None:
    chosen_M = embedding_map.drawn(5000)
    assert len(chosen_M) == len(chosen_M.unique()) == embedding_map.MOST_DRAWN and chosen_M[-1] == 4999
    assert embedding_map.drawn(3).tolist() == [0, 1, 2]


def test_what_went_over_each_line_is_told(run: Path) -> None:
    """Everywhere: as facts, on the page, in the terminal; hospital-5 sent nothing in round 3."""
    found = report.build(run)
    rounds = found.rounds_planned
    last = found.traffic[-1]
    assert [line.hospital for line in found.traffic] == [hospital.name for hospital in found.hospitals]
    assert (last.down, last.up) == (rounds * 2_900_000, (rounds - 1) * 2_900_000)
    assert last.down_per_round == 2_900_000
    assert last.up_per_round == pytest.approx(2_900_000 * (rounds - 1) / rounds)
    assert sum(line.down for line in found.traffic) == sum(one.bytes_down for one in found.rounds)
    report.write_report(run)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "What went over each line?" in page and json.loads((run / "report.json").read_text())["traffic"]
    assert "2.9\N{NO-BREAK SPACE}MB down and 2.9\N{NO-BREAK SPACE}MB up a round" in str(report.table(found).caption)


def test_an_older_run_says_nothing_of_lines(run: Path) -> None:
    for path in run.glob("round-*.json"):
        content = json.loads(path.read_text())
        del content["hospital_bytes"]
        path.write_text(json.dumps(content))
    assert report.write_report(run).traffic == ()
    assert "What went over each line?" not in (run / "report.html").read_text()


def test_how_sure_the_model_may_be_is_told(run: Path) -> None:
    made = report.write_report(run)
    assert made.calibration is None and "How sure may it be?" not in (run / "report.html").read_text()
    path = max(run.glob("round-*.json"))
    content = json.loads(path.read_text())
    reliability = Reliability.zeros()
    reliability.confidence_TB2[:, 3] += torch.tensor([30, 10])
    reliability.confidence_TB2[:, 15] += torch.tensor([10, 50])
    reliability.nearness_B2[50] += torch.tensor([40, 60])
    content["counts"]["reliability"] = reliability.cells.tolist()
    path.write_text(json.dumps(content))
    made = report.write_report(run)
    assert made.calibration is not None and made.calibration.patients == 100
    page = (run / "report.html").read_text()
    assert "How sure may it be?" in page and "Counted on 100 held-out patients" in page
    rows = [[figure.replace("\xa0", " ") for figure in row] for row in coverage_rows(made.calibration)]
    assert [row[0] for row in rows] == ["100.0 %", "90.0 %", "80.0 %", "60.0 %", "40.0 %"]
    assert rows[0][1] == "40.0 %" and rows[3][1] == "16.7 %"
