"""Does a sweep run what it says, once, and tell it as it was?"""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from typer.testing import CliRunner

from bioface_core.cli import app
from bioface_core.errors import ConfigError, RunError
from simulation.sweep import Sweep, find_sweep, read_sweep, run_sweep, shared, write_results
from simulation.sweep import pool as sweep_pool
from simulation.sweep.chart import draw
from simulation.sweep.judge import angle_ratio, class_means, gallery_top1
from simulation.sweep.plan import Job, jobs_of
from simulation.sweep.table import contrasts, csv_text, markdown, spread

SMALL = (
    "model.embedding=16",
    "pretrain.identities=8",
    "pretrain.photos_per_person=2",
    "pretrain.epochs=1",
    "federation.rounds=1",
    "train.epochs=1",
    "simulation.patients_per_syndrome=3",
)
JUDGING = {"patients": 2, "unseen": 3, "enrolled": 1}
SHIPPED = sorted(path.stem for path in (Path(__file__).resolve().parent.parent / "configs" / "sweeps").glob("*.yaml"))


def small(**changes: Any) -> Sweep:
    content: dict[str, Any] = {
        "name": "small",
        "study": "smoke",
        "settings": SMALL,
        "seeds": 2,
        "bases": 1,
        "arms": ["alone", "federated", "pooled"],
        "judging": JUDGING,
        "vary": {
            "method": {
                "identification only": ["arms=[identification]"],
                "ArcFace": ["loss.mode=arcface"],
                "crossed": ["loss.mode=cross-alternate"],
            }
        },
        "against": {"method": "ArcFace"},
    }
    return Sweep.model_validate(content | changes)


def made_up(values: dict[tuple[str, str], list[float]]) -> list[dict[str, Any]]:
    """Rows of one axis, ``method``, and an arm."""
    return [
        {
            "method": method,
            "seed": seed,
            "arm": arm,
            "top1": value,
            "top3": value,
            "unseen_top1": 0.5,
            "angle_ratio": 2.0,
        }
        for (method, arm), by_seed in values.items()
        for seed, value in enumerate(by_seed)
    ]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_sweeps_can_be_run(name: str) -> None:
    sweep = read_sweep(find_sweep(name))
    assert sweep.name == name
    assert len(jobs_of(sweep)) == sweep.seeds * math.prod(len(levels) for levels in sweep.vary.values())


def test_every_combination_meets_every_seed() -> None:
    sweep = small(
        vary={"one": {"a": [], "b": ["train.rate=1e-3"]}, "two": {"c": [], "d": ["train.batch=8"]}}, against={}
    )
    jobs = jobs_of(sweep)
    assert [job.name for job in jobs[:4]] == ["a--c--seed-0", "a--d--seed-0", "b--c--seed-0", "b--d--seed-0"]
    assert [job.seed for job in jobs] == [0] * 4 + [1] * 4
    assert {(job.study.train.rate, job.study.train.batch) for job in jobs} == {
        (2e-3, 16),
        (2e-3, 8),
        (1e-3, 16),
        (1e-3, 8),
    }
    assert len({job.key for job in jobs}) == len(jobs)


def test_a_level_may_have_arms_of_its_own() -> None:
    arms = {job.levels["method"]: job.arms for job in jobs_of(small())}
    assert arms["identification only"] == ("identification",)
    assert arms["crossed"] == ("alone", "federated", "pooled")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"against": {"method": "CE"}}, "against: method: CE is not in this sweep; method has identification only"),
        ({"against": {"methods": "CE"}}, "axes: method, arm"),
        ({"vary": {"arm": {"a": []}}, "against": {}}, "vary: arm is taken"),
        ({"judging": {"unseen": 5, "enrolled": 5}}, "enrolled is 5, expected fewer than unseen, 5"),
        ({"sedes": 3}, "sedes"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        small(**changes)


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        ({"m": {"a b": [], "a-b": []}}, "two levels are both called a-b--seed-0"),
        ({"m": {"a": ["train.rat=1"]}}, "nearest: train.rate"),
        ({"m": {"a": ["model.norm=batch"]}}, "model.norm is batch"),
        ({"m": {"a": ["syndromes=[]"]}}, "expected at least two|name syndromes"),
    ],
)
def test_what_cannot_be_run_is_found_out_before_anything_runs(vary: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        run_sweep(small(vary=vary, against={}), tmp_path, 1, lambda done, total: None)
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_is_one_line() -> None:
    result = CliRunner().invoke(app, ["sweep", "ablatoin"])
    assert isinstance(result.exception, ConfigError)
    assert "ablatoin is no sweep file and no shipped sweep; shipped: ablation" in str(result.exception)


@pytest.mark.slow
def test_a_sweep_is_run_once_and_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = small()
    folder, rows = run_sweep(sweep, tmp_path, 2, lambda done, total: None)
    arms = [(row["method"], row["arm"]) for row in rows if row["seed"] == 0]
    assert arms == [("identification only", "identification")] + [
        (method, arm) for method in ("ArcFace", "crossed") for arm in ("alone", "federated", "pooled")
    ]
    assert all(0 <= row["top1"] <= row["top3"] <= row["top5"] <= 1 and row["angle_ratio"] > 0 for row in rows)
    assert all((row.get("bytes_per_round_and_hospital", 0) > 0) == (row["arm"] == "federated") for row in rows)
    assert list((folder / "runs").iterdir()) == []  # the heavy part is gone

    (folder / "rows" / "crossed--seed-1.json").unlink()
    ran: list[str] = []

    def run_and_tell(folder: Path, jobs: list[Job], *more: Any) -> None:
        ran.extend(job.name for job in jobs)
        run(folder, jobs, *more)

    run = sweep_pool._run
    monkeypatch.setattr(sweep_pool, "_run", run_and_tell)
    _, again = run_sweep(sweep, tmp_path, 1, lambda done, total: None)
    assert ran == ["crossed--seed-1"]
    assert without_seconds(again) == without_seconds(rows)

    with pytest.raises(RunError, match="of another sweep of this name"):
        run_sweep(small(settings=[*SMALL, "train.rate=1e-3"]), tmp_path, 1, lambda done, total: None)

    write_results(folder, sweep, rows)
    assert len(list(csv.DictReader(io.StringIO((folder / "table.csv").read_text())))) == len(rows)
    assert {path.name for path in folder.glob("*.svg")} == {"top1.svg", "top3.svg", "unseen_top1.svg"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ablation", "partitions"])
def test_sweeps_behind_the_results_run_on_a_reduced_grid(name: str, tmp_path: Path) -> None:
    """What docs/results.md rests on, from the file that is shipped, with everything small."""
    sweep = read_sweep(find_sweep(name), SMALL, seeds=1).model_copy(update={"judging": small().judging})
    _, rows = run_sweep(sweep, tmp_path, 2, lambda done, total: None)
    assert len(rows) == sum(len(job.arms) for job in jobs_of(sweep))
    assert "±" not in markdown(sweep, rows)  # one seed has no interval, and none is claimed


def without_seconds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "cpu_seconds"} for row in rows]


def test_another_base_is_another_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(shared, "made_once", lambda root, what, follows_from, make: asked.append(follows_from))
    study = jobs_of(small())[0].study
    for base in ("pretrain", "one.safetensors", "other.safetensors"):
        shared.shared_start(tmp_path, study.replace({"model": {"base": base}}), 0)
    shared.shared_start(tmp_path, study.replace({"model": {"trainable": "head"}}), 0)
    assert asked[0] not in asked[1:3] and asked[1] != asked[2]
    assert asked[3] == asked[0], "what trains changes no start"


def test_intervals_are_students() -> None:
    values = [0.5, 0.6, 0.55, 0.7]
    low, high = stats.t.interval(0.95, 3, loc=sum(values) / 4, scale=stats.sem(values))
    found = spread(values)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert not spread([0.5]).is_clear


def test_differences_are_taken_seed_by_seed() -> None:
    rows = made_up({("ArcFace", "pooled"): [0.2, 0.8, 0.5], ("crossed", "pooled"): [0.3, 0.9, 0.61]})
    (one,) = contrasts(small(), rows)
    assert one.cell == ("crossed", "pooled")
    assert one.reference == "ArcFace"
    assert one.difference.value == pytest.approx(0.31 / 3)
    assert one.difference.is_clear  # though the two overlap by far
    assert "| crossed | pooled | ArcFace | +10.3 ± 1.4 | yes |" in markdown(small(), rows)


def test_an_arm_of_its_own_is_compared_with_the_only_other() -> None:
    rows = made_up({("identification only", "identification"): [0.2, 0.3], ("ArcFace", "pooled"): [0.4, 0.5]})
    (one,) = contrasts(small(), rows)
    assert one.difference.value == pytest.approx(-0.2)


def test_a_missing_seed_takes_no_part_in_a_difference() -> None:
    rows = made_up({("ArcFace", "pooled"): [0.2, 0.8], ("crossed", "pooled"): [0.3, 0.9, 0.1]})
    (one,) = contrasts(small(), rows)
    assert one.seeds == 2
    assert one.difference.value == pytest.approx(0.1)


def test_the_table_leaves_out_what_an_arm_has_not() -> None:
    rows: list[dict[str, Any]] = [
        {"method": "ArcFace", "seed": 0, "arm": "federated", "top1": 0.5, "bytes": 7},
        {"method": "ArcFace", "seed": 0, "arm": "pooled", "top1": 0.6},
    ]
    assert csv_text(small(), rows).splitlines() == [
        "method,seed,arm,top1,bytes",
        "ArcFace,0,federated,0.5,7",
        "ArcFace,0,pooled,0.6,",
    ]


@pytest.mark.parametrize("levels", [["scratch", "crossed", "<&>"], ["1", "5", "50"]])
def test_figures_are_well_formed_and_show_every_cell(levels: list[str]) -> None:
    sweep = small(vary={"method": {level: [] for level in levels}}, arms=["pooled"], against={})
    arms = [*["pooled"] * (len(levels) - 1), "identification"]  # a level may have one of its own
    rows = made_up({(level, arm): [0.2, 0.4, 0.3] for level, arm in zip(levels, arms, strict=True)})
    root = ElementTree.fromstring(draw(sweep, rows))
    bands = [one for one in root.iter() if one.get("class") == "band"]
    texts = [one.text for one in root.iter() if one.tag.endswith("text")]
    assert len(bands) == len(levels)
    assert set(levels) <= set(texts)


def test_angles_between_over_within() -> None:
    corners = torch.eye(3).repeat_interleave(2, 0)
    tilt = 0.1 * torch.tensor([[0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1], [1, 0, 0], [-1, 0, 0]])
    ratio = angle_ratio(F.normalize(corners + tilt), torch.arange(3).repeat_interleave(2))
    assert ratio == pytest.approx((math.pi / 2) / math.atan(0.1), rel=1e-4)


def test_the_first_of_each_stand_for_their_syndrome() -> None:
    right, wrong = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    embeddings_ND = torch.stack([right, wrong, right, wrong, wrong, right])
    labels_N = torch.tensor([0, 1, 0, 1, 0, 1])  # class by class: right, right, wrong; wrong, wrong, right
    assert gallery_top1(embeddings_ND, labels_N, 1) == pytest.approx(0.5)


def test_a_class_without_photos_has_no_direction() -> None:
    means_KD = class_means(F.normalize(torch.ones(2, 4)), torch.tensor([0, 0]), classes=2)
    assert means_KD.norm(dim=1).tolist() == pytest.approx([1, 0])
