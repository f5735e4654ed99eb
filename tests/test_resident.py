"""Do photos that do not fit on a device train the same model, and are they asked for before they are needed?"""

from __future__ import annotations

import gc
import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from bioface_core import optimise, resident
from bioface_core.config import Study
from bioface_core.learner import Learner
from bioface_core.photos import PhotoSet
from bioface_core.resident import Arriving, Copier, DeviceMemory, ahead, limit_bytes
from bioface_core.secret import SecretRandom
from bioface_core.seeding import generator
from tests.test_learner import learner, stripes, study
from tests.test_privacy import KEY, PLAN, faces, learner_of, private_study

CPU = torch.device("cpu")
ONE_MB = 26  # photos of 37,632 bytes each


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: photos must be copied to be on the device."""
    monkeypatch.setattr(resident, "is_apart", lambda device: True)


def spilling(study_: Study) -> Study:
    """The same with no room on the device."""
    return study_.replace({"speed": {"device_memory_mb": 0}})


def is_spilled(student: Learner, photos: PhotoSet) -> bool:
    return student._sight.memory.hold(photos).spilled


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("mode", ["arcface", "cross-sum", "cross-alternate"])
@pytest.mark.parametrize("views", [0, 2])
def test_spilled_photos_train_the_same_model_bit_for_bit(mode: str, views: int) -> None:
    settings = study(loss={"mode": mode}, train={"epochs": 2, "views": views})
    photos, roomy, narrow = stripes(21, 3), learner(settings), learner(spilling(settings))
    assert is_spilled(narrow, photos) and not is_spilled(roomy, photos)
    one, other = (student.train(student.start(), photos, 1, "h") for student in (roomy, narrow))
    assert torch.equal(one.delta, other.delta) and one.loss == other.loss
    vector = roomy.start() + one.delta
    assert torch.equal(roomy.embed(vector, photos), narrow.embed(vector, photos))


@pytest.mark.usefixtures("apart")
def test_spilled_photos_train_privately_as_well() -> None:
    roomy, narrow = learner_of(private_study()), learner_of(spilling(private_study()))
    deltas = [s.train(s.start(), faces(8), 1, "h", PLAN, SecretRandom(KEY)).delta for s in (roomy, narrow)]
    assert torch.equal(*deltas)


@pytest.mark.usefixtures("apart")
def test_the_next_photos_are_asked_for_before_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patients and public people of step k + 1 are on their way when step k changes the network, over epochs too."""
    settings = spilling(study(loss={"mode": "cross-sum"}, train={"epochs": 2}))
    student, photos, events = learner(settings), stripes(20, 3), list[str]()
    start, step = Copier.start, optimise.Optimiser.step

    def noted_start(copier: Copier, rows_N: Tensor, positions_B: Tensor) -> Arriving:
        events.append("start")
        return start(copier, rows_N, positions_B)

    def noted_step(optimiser: optimise.Optimiser, loss: Tensor) -> None:
        events.append("step")
        step(optimiser, loss)

    monkeypatch.setattr(Copier, "start", noted_start)
    monkeypatch.setattr(optimise.Optimiser, "step", noted_step)
    student.train(student.start(), photos, 1, "h")
    steps = 2 * 3
    expected = ["start"] * 2 + ["start", "start", "step"] * (steps - 1) + ["step"]
    assert events == expected


def test_ahead_is_one_ahead() -> None:
    events: list[str] = []

    def begin(item: int) -> int:
        events.append(f"start {item}")
        return item

    for item in ahead(range(3), begin):
        events.append(f"use {item}")
    assert events == ["start 0", "start 1", "use 0", "start 2", "use 1", "use 2"]
    assert list(ahead([7], begin)) == [7] and list(ahead([], begin)) == []


@pytest.mark.usefixtures("apart")
def test_who_comes_first_gets_the_room_and_leaves_it(caplog: pytest.LogCaptureFixture) -> None:
    memory = DeviceMemory(CPU, limit_mb=1)
    first, second = stripes(ONE_MB, 3), stripes(ONE_MB, 3, "second")
    with caplog.at_level(logging.WARNING, "bioface.memory"):
        assert [memory.hold(photos).spilled for photos in (first, second, first, second)] == [False, True] * 2
    assert len(caplog.messages) == 1 and "1 MB of photos do not fit into the 0 MB left on cpu" in caplog.text
    del first
    gc.collect()
    assert memory.free == 10**6 and not memory.hold(stripes(ONE_MB, 3, "third")).spilled


@pytest.mark.usefixtures("apart")
def test_a_set_is_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, photos = DeviceMemory(CPU, limit_mb=1), stripes(10, 3)
    fetched = [memory.hold(photos).fetch(torch.tensor([3, 3, 0]))() for _ in range(2)]
    assert memory.free == 10**6 - 10 * 3 * 112 * 112
    for batch_BCHW in fetched:
        assert torch.equal(batch_BCHW, photos.photos_NCHW[[3, 3, 0]])


def test_on_a_cpu_nothing_is_copied() -> None:
    memory, photos = DeviceMemory(CPU, limit_mb=0), stripes(10, 3)
    assert not memory.hold(photos).spilled and memory.free == 0


@pytest.mark.parametrize("positions", [[], [5], [0, 9, 9, 4]])
def test_a_copier_brings_the_rows_asked_for(positions: list[int]) -> None:
    rows_N = torch.randint(0, 256, (10, 3, 4, 4), dtype=torch.uint8, generator=generator("rows"))
    indices_B = torch.tensor(positions, dtype=torch.int64)
    assert torch.equal(Copier(CPU).start(rows_N, indices_B)(), rows_N[indices_B])


def test_the_limit_is_what_was_set_or_half_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    def free(device: torch.device) -> tuple[int, Any]:
        return 8_000, None

    monkeypatch.setattr(torch.cuda, "mem_get_info", free)
    cuda = torch.device("cuda")
    assert [limit_bytes(cuda, None), limit_bytes(cuda, 3), limit_bytes(CPU, None)] == [4_000, 3 * 10**6, 2048 * 10**6]
