"""How do network weights reach and leave the disk? As safetensors, or in the IR-SE-50 layout others publish.

A *base* is where a study starts from: a trunk, and the prototypes of the identities it was pretrained on, if any.
It is named by its content's hash, whatever file it came in.
"""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from bioface_core.errors import WeightsError
from bioface_core.files import write_bytes
from bioface_core.model import SEResNet, initialise
from bioface_core.sections import Model
from bioface_core.seeding import generator

_IDENTITIES = "identity.prototypes"
_COUNTER = "num_batches_tracked"
_PICKLED = (".pth", ".pt")
IR_SE_50 = Model(depth=50, width=1.0, embedding=512, stem="face", pool="flat", norm="batch")


@dataclass(frozen=True)
class Base:
    """Where training starts from.

    Attributes:
        trunk: named tensors of ``SEResNet``.
        identities_ID: prototypes of the identities of stage 1, or None.
    """

    trunk: dict[str, Tensor]
    identities_ID: Tensor | None = None

    @property
    def sha256(self) -> str:
        """Hash of the trunk's names, shapes and values: 64 hexadecimal digits."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.trunk.items()):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def write(self, path: Path) -> None:
        """Writes safetensors.

        Raises:
            WeightsError: the place cannot be written.
        """
        _write(path, self._tensors())

    def _tensors(self) -> dict[str, Tensor]:
        return self.trunk if self.identities_ID is None else {**self.trunk, _IDENTITIES: self.identities_ID}


def random_base(model: Model, seed: int) -> Base:
    """A trunk that knows nothing, a function of the model and the seed."""
    trunk = SEResNet(model)
    initialise(trunk, generator(seed, "initial weights"))
    return Base(without_counters(trunk.state_dict()))


def read_base(path: Path, model: Model) -> Base:
    """Reads weights that fit ``model``.

    Args:
        path: ``.safetensors`` of ours, or ``.pth`` / ``.safetensors`` in the IR-SE layout (tensors only: a pickle that
            would run code is refused).
        model: the network they must fit; any of ``frozen`` and ``batch`` reads the other's statistics.

    Raises:
        WeightsError: no such file, not weights, or another network's.
    """
    tensors = without_counters(_read(path))
    tensors = {name.removeprefix("module."): tensor.float() for name, tensor in tensors.items()}
    identities_ID = tensors.pop(_IDENTITIES, None)
    _check(path, tensors, SEResNet(model).state_dict())
    return Base(tensors, identities_ID)


def write_ir_se_50(base: Base, path: Path) -> None:
    """Writes a trunk in the layout that public IR-SE-50 code loads strictly.

    Args:
        base: of a network with depth 50, width 1, the face stem, the flat pool and batch or frozen norm.
        path: ``.pth`` for the container others use, ``.safetensors`` otherwise.

    Raises:
        WeightsError: another network, or the place cannot be written.
    """
    public = SEResNet(IR_SE_50).state_dict()
    _check(path, base.trunk, public)
    counters = {name: torch.zeros_like(value) for name, value in public.items() if name.endswith(_COUNTER)}
    _write(path, base.trunk | counters)


def without_counters(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` less BatchNorm's step counters, which mean nothing once training is over."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items() if not name.endswith(_COUNTER)}


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(f"{path} does not exist: expected a file of weights (.safetensors or .pth)")
    try:
        if path.suffix not in _PICKLED:
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise WeightsError(
            f"{path} holds no plain tensors ({type(error).__name__}): expected a file of weights"
        ) from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise WeightsError(f"{path} holds no named tensors: expected the state dictionary of a network")
    return tensors


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        if path.suffix in _PICKLED:
            torch.save(tensors, path)
        else:
            write_bytes(path, save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))
    except OSError as error:
        raise WeightsError(f"{path} cannot be written ({error.strerror}): choose a writable folder") from error


def _check(path: Path, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Refuses weights whose names or shapes are not those of the network."""
    expected = {name: tensor for name, tensor in expected.items() if not name.endswith(_COUNTER)}
    missing = [name for name in expected if name not in found]
    if missing:
        raise WeightsError(f"{path} lacks {missing[0]}: these weights are of another network than model: says")
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            shapes = f"{tuple(found[name].shape)}, expected {tuple(tensor.shape)}"
            raise WeightsError(f"{path}: {name} has shape {shapes}: check model.depth, width and embedding")
    foreign = sorted(set(found) - set(expected))
    if foreign:
        raise WeightsError(f"{path} holds {foreign[0]}, which this network has not: check model.depth and norm")
