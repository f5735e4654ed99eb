"""Does an expert say what the trained model said? The same embeddings and ranks as in the run it came from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bioface_core.calibration import count_reliability
from bioface_core.config import find_study, read_study
from bioface_core.errors import RunError
from bioface_core.evaluate import count, per_patient
from bioface_core.expert import Expert, read_expert
from bioface_core.learner import Learner
from bioface_core.photos import PhotoSet
from bioface_core.weights import random_base

SMALL = ("model.width=0.125", "model.embedding=16", "model.pool=global", "syndromes=[down,williams,noonan]")


@pytest.fixture(scope="module")
def learner() -> Learner:
    study = read_study(find_study("smoke"), (*SMALL, "loss.identification=false"))
    return Learner(study, random_base(study.model, 0))


def photos(patients: int) -> PhotoSet:
    randomness = torch.Generator().manual_seed(1)
    pixels_NCHW = torch.randint(256, (2 * patients, 3, 112, 112), dtype=torch.uint8, generator=randomness)
    return PhotoSet(pixels_NCHW, torch.arange(2 * patients) // 2 % 3, torch.arange(2 * patients) // 2)


def test_an_expert_embeds_and_ranks_as_its_learner_did(learner: Learner) -> None:
    vector, people = learner.start() + 0.01, photos(6)
    expert = Expert.of(learner.study, learner.weights(vector))
    assert torch.equal(expert.embed(people.photos_NCHW), learner.embed(vector, people))
    patients_PD, labels_P = per_patient(expert.embed(people.photos_NCHW), people.labels_N, people.patients_N)
    found = count(expert.scores(patients_PD), labels_P)
    told = learner.evaluate(vector, people)
    assert torch.equal(found.confusion_KK, told.confusion_KK) and torch.equal(found.ranks_KK, told.ranks_KK)


def test_batched_equals_single_and_the_mirror_image_is_the_same(learner: Learner) -> None:
    expert, people = Expert.of(learner.study, learner.weights(learner.start())), photos(4)
    together_ND = expert.embed(people.photos_NCHW)
    one_by_one = [expert.embed(photo[None])[0] for photo in people.photos_NCHW]
    assert torch.allclose(together_ND, torch.stack(one_by_one), atol=1e-6)
    assert torch.allclose(together_ND, expert.embed(people.photos_NCHW.flip(-1)), atol=1e-6)
    assert torch.allclose(together_ND.norm(dim=1), torch.ones(8))


def test_a_folder_without_a_run_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run folder"):
        read_expert(tmp_path)


def test_a_run_without_a_round_is_one_clear_line(tmp_path: Path, learner: Learner) -> None:
    (tmp_path / "study.yaml").write_text(learner.study.to_yaml())
    with pytest.raises(RunError, match="no complete round yet"):
        read_expert(tmp_path)


def test_it_is_as_near_as_its_learner_counted(learner: Learner) -> None:
    people, vector = photos(5), learner.start()
    told = learner.evaluate(vector, people).reliability
    expert = Expert.of(learner.study, learner.weights(vector), told)
    first_ND = expert.embed(people.photos_NCHW[::2])
    scores_PK, nearness_P = expert.scores(first_ND), expert.nearness(first_ND)
    counted = count_reliability(scores_PK, people.labels_N[::2], nearness_P, learner.study.loss)
    assert torch.equal(counted.cells, told.cells) and expert.calibration.patients == 5
