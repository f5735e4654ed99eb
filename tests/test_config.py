"""Does a study file say exactly what it says, and does a wrong one fail in one helpful line?"""

from __future__ import annotations

from pathlib import Path

import pytest

from bioface_core.config import Study, parse_override, parse_study, read_study
from bioface_core.errors import ConfigError

CONFIGS = (Path(__file__).parent.parent / "configs").glob("*.yaml")
SHIPPED = sorted(path for path in CONFIGS if path.stem not in ("hospital", "syndromes"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"trian": {}}, "trian is no known key; nearest: train"),
        ({"train": {"rat": 1}}, "train.rat is no known key; nearest: train.rate"),
        ({"simulation": {"partition": {"knd": 1}}}, "no known key; nearest: simulation.partition.kind"),
        ({"train": {"rate": 0}}, "train.rate is 0: should be greater than 0"),
        ({"train": {"rate": "fast"}}, "train.rate is 'fast': should be a valid number"),
        ({"name": False}, "name is False: should be a valid string"),
        ({"name": "a/b"}, "name is 'a/b'"),
        ({"loss": {"mode": "cross"}}, "loss.mode is 'cross': should be 'ce', 'arcface'"),
        ({"model": {"norm": "frozen", "base": "scratch"}}, "model: norm: frozen keeps the statistics of a base"),
        ({"syndromes": ["down", "down"]}, "syndromes names down more than once"),
        ({"train": 3}, "train is 3"),
        ({"trian": 1, "seed": -1}, r"\(and 1 more\)"),
    ],
)  # fmt: skip
def test_a_wrong_study_fails_in_one_line(content: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        parse_study(content)
    assert "\n" not in str(error.value)


def test_scientific_notation_is_a_number() -> None:
    assert parse_study({"train": {"rate": "1e-4"}}).train.rate == 1e-4  # YAML 1.1 reads 1e-4 as text


def test_overrides_reach_nested_keys(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("name: mine\ntrain: {rate: 0.1, epochs: 7}\n")
    study = read_study(path, ("train.rate=1e-3", "syndromes=[down, noonan]", "simulation.partition.alpha=2"))
    assert (study.train.rate, study.train.epochs, study.syndromes) == (1e-3, 7, ("down", "noonan"))
    assert study.simulation.partition.alpha == 2


@pytest.mark.parametrize("override", ["train.rate", "=3", "train..rate=3", "a=[1"])
def test_a_wrong_override_is_named(override: str) -> None:
    with pytest.raises(ConfigError, match="-s"):
        parse_override(override)


@pytest.mark.parametrize("content", ["[1, 2]", "a: [", "just text", ""])
def test_a_file_that_is_no_study_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "study.yaml").write_text(content)
    with pytest.raises(ConfigError, match="study.yaml"):
        read_study(tmp_path / "study.yaml")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_study(tmp_path / "nothing.yaml")


def test_a_study_survives_its_file(tmp_path: Path) -> None:
    study = Study(name="mine", seed=3, syndromes=("down", "noonan"))
    (tmp_path / "study.yaml").write_text(study.to_yaml())
    assert read_study(tmp_path / "study.yaml") == study


def test_study_id_covers_what_defines_the_result_and_nothing_else() -> None:
    study = Study()
    same = study.replace({"simulation": {"hospitals": 9}, "speed": {"threads": 2}, "model": {"base": "/some/file"}})
    other = study.replace({"train": {"rate": 0.5}})
    assert study.study_id == same.study_id != other.study_id


def test_study_id_is_stable() -> None:
    """A change of this value makes every approved study a new one: say so in the changelog."""
    assert len(Study().study_id) == 64
    assert Study(name="a").study_id == parse_study({"name": "a"}).study_id


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_studies_are_valid(path: Path) -> None:
    assert read_study(path).study_id
