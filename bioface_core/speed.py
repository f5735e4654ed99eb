"""How does this machine hurry? What the settings of ``speed`` mean here: threads, precision, compiling, hand-over.

None of it may change more than rounding (tests/test_speed.py says by how much), and what this machine cannot do is
refused, never left out.

Legend: N photos, D embedding.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bioface_core.errors import ConfigError
from bioface_core.sections import Speed

_TOPOLOGY = Path("/sys/devices/system/cpu")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_FIRST_CUDA_WITH_BF16 = (8, 0)  # compute capability


def set_threads(speed: Speed) -> None:
    """Sets how many CPU threads a kernel may take in this process."""
    torch.set_num_threads(speed.threads or cores())


def keep_memory() -> None:
    """Lets the C library keep up to 256 MiB that tensors give back.

    Otherwise it returns them to the system after every few kernels, and has them cleared again for the next: a tenth of
    a round of the demo's network. It keeps nothing where it has no such setting (it is glibc's).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    for option, value in ((_TRIM_THRESHOLD, 256 << 20), (_MMAP_THRESHOLD, 32 << 20)):
        if mallopt is not None:
            mallopt(option, value)


def cores() -> int:
    """Cores that this process may run on; hardware threads that share one count once."""
    return len({_siblings(number) for number in os.sched_getaffinity(0)})


def _siblings(processor: int) -> str:
    """The hardware threads of a processor's core; where the kernel does not say, it has its core for itself."""
    listed = _TOPOLOGY / f"cpu{processor}" / "topology" / "thread_siblings_list"
    return listed.read_text(encoding="ascii").strip() if listed.exists() else str(processor)


def has_bf16(device: torch.device) -> bool:
    """Whether a device multiplies in bfloat16 itself; to imitate it in float32 is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _FIRST_CUDA_WITH_BF16
    able = torch.cpu.get_capabilities()
    return device.type == "cpu" and bool(able.get("avx512_bf16") or able.get("amx_bf16"))


class TrainingPass:
    """The trunk's way forward in training, as fast as the settings allow; parameters and embeddings are float32.

    Args:
        trunk: photos to unit embeddings, or what of it trains.
        speed: precision, and whether it is compiled.
        device: where the trunk lives.

    Raises:
        ConfigError: the device has no bfloat16.
    """

    def __init__(self, trunk: nn.Module, speed: Speed, device: torch.device) -> None:
        self._bf16 = speed.precision == "bf16"
        if self._bf16 and not has_bf16(device):
            raise ConfigError(f"speed.precision is bf16, which this {device.type} does not have: set float32")
        self._compiled, self._device = speed.compile, device
        # The whole graph or an error: torch would leave the rest uncompiled, and say so to nobody.
        self._forward = torch.compile(trunk, fullgraph=True) if speed.compile else trunk

    def __call__(self, photos_NCHW: Tensor) -> Tensor:
        """Unit embeddings (N, D), float32.

        Raises:
            ConfigError: the network cannot be compiled here.
        """
        with self.precision():
            embeddings_ND: Tensor = self._compiling(photos_NCHW) if self._compiled else self._forward(photos_NCHW)
        # A unit vector in bfloat16 is up to 0.4 % too long or too short, and the loss takes arc cosines.
        return F.normalize(embeddings_ND.float()) if self._bf16 else embeddings_ND

    def precision(self) -> torch.autocast:
        """The precision of training, for whoever computes a part of the way forward."""
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16)

    def _compiling(self, photos_NCHW: Tensor) -> Tensor:
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

        try:
            embeddings_ND: Tensor = self._forward(photos_NCHW)
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            reason = getattr(error, "inner_exception", error)  # behind "backend='inductor' raised:"
            [line, *_] = str(reason).strip().splitlines() or [type(reason).__name__]
            raise ConfigError(f"speed.compile is true, and torch cannot compile here ({line}): set false") from error
        return embeddings_ND


def hand_over(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on a device; to a GPU by way of pinned memory, so that the CPU does not wait for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
