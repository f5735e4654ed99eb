"""Do the settings of ``speed`` change seconds and nothing else, up to the rounding that is stated for each?"""

from __future__ import annotations

import ast
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bioface_core import speed as speed_module
from bioface_core.config import Study
from bioface_core.errors import ConfigError
from bioface_core.learner import use
from bioface_core.sections import Speed
from bioface_core.speed import cores, has_bf16
from bioface_core.start import Start
from simulation.plain import plain_model, plain_vector, train_plain
from tests.test_learner import base_of, learner, stripes, study

CHECKOUT = Path(__file__).resolve().parent.parent
HAS_BF16 = has_bf16(torch.device("cpu"))
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this CPU has no bfloat16")
# Largest length of the change against that of the update; each is sure to be more than 0.
ROUNDING = {
    "threads": ({"threads": 2}, 1e-3),
    "channels_last": ({"channels_last": False}, 1e-3),
    "precision": ({"precision": "bf16"}, 0.2),
    "compile": ({"compile": True}, 1e-3),
    "device": ({"device": "cpu"}, 0.0),
    "cache_trunk": ({"cache_trunk": False}, 0.0),  # tests/test_front.py, where there is something to keep
    "device_memory_mb": ({"device_memory_mb": 0}, 0.0),  # tests/test_resident.py, where something spills
}
MODES: list[dict[str, Any]] = [
    *({"mode": mode} for mode in ("ce", "arcface", "joint", "cross-sum", "cross-alternate")),
    {"mode": "joint", "metric": "triplet"},
    {"mode": "cross-alternate", "absent": "mask", "healthy": "ignore"},
]


def update(study_: Study, rounds: int = 1) -> Tensor:
    """What a round of plain gradient descent changes: Adam would make large what is small."""
    use(study_.speed)
    try:
        student = learner(study_)
        vector = start = student.start()
        for round_ in range(1, rounds + 1):
            vector = vector + student.train(vector, stripes(6, 3), round_, "hospital-1").delta
        return vector - start
    finally:
        torch.set_num_threads(1)


def descent(**changes: object) -> Study:
    return study(train={"optimiser": "sgd", "rate": 0.02, "batch": 6}, **changes)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("threads", marks=pytest.mark.slow),  # on a busy machine one waits for the other
        "channels_last",
        pytest.param("precision", marks=needs_bf16),
        pytest.param("compile", marks=pytest.mark.slow),
        "device",
        "cache_trunk",
        "device_memory_mb",
    ],
)
def test_a_setting_changes_rounding_only(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not torch's own folder: a compilation that was killed there leaves half a library, and breaks the next.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    changes, most = ROUNDING[name]
    default, changed = update(descent()), update(descent(speed=changes))
    assert float((changed - default).norm()) <= most * float(default.norm())


def test_every_setting_is_tried() -> None:
    assert set(ROUNDING) == set(Speed.model_fields)


@needs_bf16
@pytest.mark.parametrize("part", ["all", "last-stage"])
def test_bf16_is_taken_and_leaves_evaluation_alone(part: str) -> None:
    """Also where the front is frozen and what it makes is kept, for training and for evaluation apart."""
    settings: dict[str, Any] = {"model": {"trainable": part}, "train": {"views": 2}}
    plain, half = (learner(descent(speed={"precision": one}).replace(settings)) for one in ("float32", "bf16"))
    photos = stripes(9, 3)
    assert torch.equal(plain.embed(plain.start(), photos), half.embed(half.start(), photos))
    deltas = [one.train(one.start(), photos, 1, "hospital-1").delta for one in (plain, half)]
    assert not torch.equal(*deltas) and deltas[1].dtype == torch.float32


@needs_bf16
def test_embeddings_in_bf16_have_unit_length() -> None:
    forward = speed_module.TrainingPass(learner(study())._model.trunk, Speed(precision="bf16"), torch.device("cpu"))
    embeddings_ND = forward(stripes(9, 3).photos_NCHW)
    assert embeddings_ND.dtype == torch.float32
    torch.testing.assert_close(embeddings_ND.norm(dim=1), torch.ones(9), rtol=0, atol=1e-6)


def test_a_device_without_bf16_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    with pytest.raises(ConfigError, match="bf16, which this cpu does not have: set float32"):
        learner(study(speed={"precision": "bf16"}))
    assert not has_bf16(torch.device("meta"))


def test_what_cannot_be_compiled_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no C++ compiler\nand more")

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda trunk, **options: compile_(trunk, backend=broken, **options))
    student = learner(study(speed={"compile": True}))
    with pytest.raises(ConfigError, match=r"torch cannot compile here \(.*no C\+\+ compiler\): set false"):
        student.train(student.start(), stripes(6, 3), 1, "hospital-1")


@pytest.mark.parametrize(("speed", "line"), [({"precision": "bf16"}, "0.4 %"), ({"compile": True}, "every layer")])
def test_private_steps_refuse_what_they_cannot_take(speed: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        study(privacy={"unit": "patient"}, speed=speed)


def test_zero_threads_are_the_cores_of_this_machine() -> None:
    try:
        use(Speed(threads=0))
        assert torch.get_num_threads() == cores() <= len(os.sched_getaffinity(0))
    finally:
        use(Speed())
    assert torch.get_num_threads() == 1


def test_hardware_threads_of_a_core_count_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for processor, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        listed = tmp_path / f"cpu{processor}" / "topology" / "thread_siblings_list"
        listed.parent.mkdir(parents=True)
        listed.write_text(f"{siblings}\n")
    monkeypatch.setattr(speed_module, "_TOPOLOGY", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 7})
    assert cores() == 3  # of the last nothing is listed


class Waits(TorchDispatchMode):
    """Counts what makes the CPU wait for a device: a value, or a size that depends on values, is asked for."""

    ASKED = ("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_dim")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        name = function.overloadpacket.__name__
        indexes_by_mask = name == "index" and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in arguments[1]
        )
        if name in self.ASKED or indexes_by_mask:
            self.found[name] += 1
        return function(*arguments, **(options or {}))


def waits(study_: Study) -> Counter[str]:
    student, photos = learner(study_), stripes(18, 3)
    seen = Waits()
    with seen:
        student.train(student.start(), photos, 3, "hospital-1")
    return seen.found


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize("loss", MODES, ids=str)
def test_no_step_waits_for_the_device(loss: dict[str, Any], optimiser: str) -> None:
    """A round asks for one value, its loss, however many steps it has."""
    for epochs in (1, 3):
        train = {"epochs": epochs, "optimiser": optimiser, "proximal": 0.1, "batch": 6}
        assert waits(study(loss=loss, train=train)) == {"_local_scalar_dense": 1}


def test_a_wait_is_noticed() -> None:
    with Waits() as seen:
        values_N = torch.arange(3.0)
        assert values_N.sum().item() == 3 and values_N[values_N > 0].numel() == 2 and bool(values_N[1] > 0)
    assert seen.found["_local_scalar_dense"] == 2 and seen.found["index"] == 1


@pytest.mark.parametrize("module", ["augment", "loss", "model", "optimise", "prelu"])
def test_the_step_copies_nothing_back(module: str) -> None:
    """Copies to the CPU show on no CPU: so they are looked for in the code."""
    tree = ast.parse((CHECKOUT / "bioface_core" / f"{module}.py").read_text())
    called = [node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and hasattr(node.func, "attr")]
    assert called and not {"item", "tolist", "cpu", "numpy", "synchronize"} & set(called)


@pytest.mark.parametrize("healthy", ["repel", "ignore"])
def test_a_round_is_the_plain_loop(healthy: str) -> None:
    """The slow, obvious twin: a loop by hand ends with the same vector."""
    study_ = study(loss={"healthy": healthy}, train={"epochs": 2, "batch": 6})
    start = Start(base_of(study_, 4), stripes(12, 4, "people"))
    student, model, photos = learner(study_), plain_model(study_, start.base), stripes(18, 3)
    train_plain(model, study_, photos, start, 2, "hospital-1")
    trained = student.start() + student.train(student.start(), photos, 2, "hospital-1").delta
    torch.testing.assert_close(trained, plain_vector(model), rtol=0, atol=1e-6)


def test_the_benchmark_measures_what_it_says() -> None:
    from simulation.bench_step import step_ratios

    ratios = step_ratios(patients=2, pairs=1, compiled=False)
    bf16 = int(HAS_BF16)
    assert [ratio.target for ratio in ratios] == [1.03, *[0.6] * (1 + bf16), 0.2, 0.222, *[1.0] * bf16]
    assert all(ratio.ours > 0 and ratio.other > 0 for ratio in ratios)
    usual = ratios[3 + bf16]
    assert usual.ours < usual.other, "our augmentation is faster than decoding and changing one by one"
