"""Is the network the one it claims to be? Layout, sizes, freezing, and what trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from bioface_core.errors import WeightsError
from bioface_core.layout import layout_of
from bioface_core.model import FrozenNorm, Recogniser, SEResNet, initialise, set_trainable
from bioface_core.sections import Model
from bioface_core.seeding import generator
from bioface_core.weights import IR_SE_50, Base, random_base, read_base, without_counters, write_ir_se_50

TINY = Model(depth=10, width=0.125, embedding=16, stem="strided", norm="batch", base="scratch")


def photos(count: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 112, 112), dtype=torch.uint8, generator=generator("photos"))


@pytest.mark.parametrize("norm", ["batch", "group", "frozen"])
@pytest.mark.parametrize("stem", ["face", "strided"])
@pytest.mark.parametrize("pool", ["flat", "global"])
def test_embeddings_have_unit_length(norm: str, stem: str, pool: str) -> None:
    config = Model.model_validate(TINY.model_dump() | {"norm": norm, "stem": stem, "pool": pool, "base": "pretrain"})
    trunk = SEResNet(config)
    initialise(trunk, generator(0))
    embeddings_ND = trunk.eval()(photos())
    assert embeddings_ND.shape == (3, 16)
    torch.testing.assert_close(embeddings_ND.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize(("depth", "pool", "millions"), [(18, "flat", 24.1), (50, "flat", 43.8), (34, "global", 21.7)])
def test_sizes_are_those_of_the_literature(depth: int, pool: str, millions: float) -> None:
    config = Model.model_validate({"depth": depth, "pool": pool, "norm": "batch"})
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in SEResNet(config).parameters())
    assert parameters / 1e6 == pytest.approx(millions, abs=0.2)


def test_ir_se_50_has_the_public_names() -> None:
    with torch.device("meta"):
        names = {name: tuple(value.shape) for name, value in SEResNet(IR_SE_50).state_dict().items()}
    assert names["input_layer.0.weight"] == (64, 3, 3, 3)
    assert names["input_layer.2.weight"] == (64,)
    assert names["body.3.shortcut_layer.0.weight"] == (128, 64, 1, 1)
    assert names["body.23.res_layer.1.weight"] == (512, 512, 3, 3)
    assert names["body.0.res_layer.5.fc1.weight"] == (4, 64, 1, 1)
    assert names["output_layer.3.weight"] == (512, 512 * 7 * 7)
    assert {int(name.split(".")[1]) for name in names if name.startswith("body.")} == set(range(24))
    indices = {int(name.split(".")[3]) for name in names if ".res_layer." in name}
    assert indices == {0, 1, 2, 3, 4, 5}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_round_trip_through_the_ir_se_50_layout(tmp_path: Path, suffix: str) -> None:
    base = random_base(IR_SE_50, seed=0)
    write_ir_se_50(base, tmp_path / f"model{suffix}")
    again = read_base(tmp_path / f"model{suffix}", IR_SE_50)
    public = torch.load(tmp_path / "model.pth", weights_only=True) if suffix == ".pth" else again.trunk
    before, after = SEResNet(IR_SE_50).eval(), SEResNet(IR_SE_50).eval()
    before.load_state_dict(base.trunk, strict=False)
    after.load_state_dict(public, strict=suffix == ".pth")  # public code loads .pth strictly, counters included
    assert again.sha256 == base.sha256
    with torch.inference_mode():
        torch.testing.assert_close(before(photos(2)), after(photos(2)), rtol=0, atol=1e-5)


def test_frozen_norm_is_batch_norm_in_evaluation() -> None:
    norm, frozen = torch.nn.BatchNorm2d(4), FrozenNorm(4)
    torch.nn.init.uniform_(norm.weight)
    for _ in range(3):
        norm(torch.randn(8, 4, 5, 5) * 3 + 1)
    frozen.load_state_dict(without_counters(norm.state_dict()))
    maps_NCHW = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(frozen.train()(maps_NCHW), norm.eval()(maps_NCHW))
    assert not list(frozen.parameters())


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 5, 5)])
def test_what_goes_back_through_a_frozen_norm_is_torchs(shape: tuple[int, ...]) -> None:
    frozen, values = FrozenNorm(6), torch.rand(4, 6, generator=generator("constants"))
    frozen.load_state_dict(dict(zip(frozen.state_dict(), values, strict=True)))
    weight, bias, mean, variance = values
    maps, returned = (torch.randn(*shape, generator=generator(key)) for key in ("maps", "returned"))
    found = []
    for norm in (frozen, lambda maps: F.batch_norm(maps, mean, variance, weight, bias)):
        entering = maps.clone().requires_grad_()
        found.append((norm(entering), *torch.autograd.grad(norm(entering), entering, returned)))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-5, atol=1e-6)


def test_frozen_norms_mix_nobody_and_never_move() -> None:
    model = Recogniser(TINY.model_copy(update={"norm": "frozen"}), 3).train()
    initialise(model.trunk, generator(1))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    together = model(photos(3))
    alone = torch.cat([model(photo) for photo in photos(3).split(1)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert before and all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


@pytest.mark.parametrize(
    ("part", "opened", "closed"),
    [
        ("all", "trunk.input_layer.0.weight", None),
        ("last-stage", "trunk.body.3.res_layer.1.weight", "trunk.body.2.res_layer.1.weight"),
        ("head", "trunk.output_layer.3.weight", "trunk.body.3.res_layer.1.weight"),
    ],
)
def test_only_what_trains_is_in_the_vector(part: str, opened: str, closed: str | None) -> None:
    model = Recogniser(TINY.model_copy(update={"norm": "frozen"}), 3)
    set_trainable(model, part)
    shapes = layout_of(model).shapes
    assert opened in shapes and closed not in shapes
    assert list(shapes)[-1] == "prototypes" and shapes["prototypes"] == (3, 16)


def test_flatten_and_load_are_inverse() -> None:
    model = Recogniser(TINY, 3)
    initialise(model.trunk, generator(2))
    layout = layout_of(model)
    vector = torch.randn(layout.size)
    layout.load(model, vector)
    assert torch.equal(layout.flatten(model), vector)
    assert any(name.endswith("running_var") for name in layout.shapes), "training BatchNorm keeps its statistics"


def test_schema_tells_layouts_apart() -> None:
    narrow, wide = Recogniser(TINY, 3), Recogniser(TINY, 4)
    assert layout_of(narrow).schema == layout_of(Recogniser(TINY, 3)).schema != layout_of(wide).schema


def test_base_names_itself_by_its_content(tmp_path: Path) -> None:
    base = random_base(TINY, seed=0)
    base.write(tmp_path / "base.safetensors")
    again = read_base(tmp_path / "base.safetensors", TINY)
    assert again.sha256 == base.sha256 == random_base(TINY, seed=0).sha256 != random_base(TINY, seed=1).sha256


def test_identities_travel_with_the_base(tmp_path: Path) -> None:
    base = Base(random_base(TINY, seed=0).trunk, torch.randn(7, 16))
    base.write(tmp_path / "base.safetensors")
    again = read_base(tmp_path / "base.safetensors", TINY)
    assert base.identities_ID is not None and again.identities_ID is not None
    assert torch.equal(again.identities_ID, base.identities_ID)


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("code ran",))


def test_wrong_weights_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random_base(TINY, seed=0).write(tmp_path / "tiny.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights")
    torch.save({"w": Malicious()}, tmp_path / "code.pth")
    wider = TINY.model_copy(update={"embedding": 32})
    deeper = TINY.model_copy(update={"depth": 18})
    cases = {
        "missing.pth": (TINY, "does not exist"),
        "text.safetensors": (TINY, "holds no plain tensors"),
        "code.pth": (TINY, "holds no plain tensors"),
        "tiny.safetensors": (wider, "output_layer.3.weight has shape"),
    }
    for name, (model, message) in cases.items():
        with pytest.raises(WeightsError, match=message) as error:
            read_base(tmp_path / name, model)
        assert "\n" not in str(error.value)
    with pytest.raises(WeightsError, match="lacks body"):
        read_base(tmp_path / "tiny.safetensors", deeper)
    assert "code ran" not in capsys.readouterr().out
