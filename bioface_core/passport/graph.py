"""How is a model asked without torch? As an ONNX graph: faces of one patient in, the calibrated answer out.

All that ``predict`` does between aligned faces and a ranking is inside: both views, their mean over a patient's photos,
scores, temperature and nearness. So whoever runs the file cannot do it otherwise.

Legend: N photos of one patient, C channels, H W pixels, D embedding, K syndromes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bioface_core import loss
from bioface_core.augment import mirror
from bioface_core.calibration import nearness
from bioface_core.errors import PassportError
from bioface_core.expert import Expert
from bioface_core.files import write_bytes
from bioface_core.model import to_float
from bioface_core.photos import FACE_SIZE_PX

INPUT, OUTPUTS = "faces", ("probability", "score", "nearness", "embedding")
TOLERANCE = 1e-4  # of every output, against the model it was made from
_OPSET = 18
_TRIALS = (1, 2, 5)  # photos of the patients it is checked with


class Answer(nn.Module):
    """An expert as one function of a patient's faces.

    Args:
        expert: on the CPU.
    """

    def __init__(self, expert: Expert) -> None:
        super().__init__()
        self.network, self._loss = expert.network, expert.study.loss
        self._temperature = expert.calibration.temperature

    def forward(self, faces_NCHW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Answers for one patient.

        Args:
            faces_NCHW: uint8, 3 x 112 x 112, at least one.

        Returns:
            Probability (K,), score (K,), nearness (), unit embedding (D,).
        """
        upright_ND, mirrored_ND = (self.network(to_float(view)) for view in (faces_NCHW, mirror(faces_NCHW)))
        patient_1D = F.normalize(F.normalize(upright_ND + mirrored_ND).sum(0, keepdim=True))
        scores_1K = loss.scores(patient_1D, self.network.prototypes, self._loss)
        near_1 = nearness(patient_1D, self.network.prototypes)
        return (scores_1K / self._temperature).softmax(1)[0], scores_1K[0], near_1[0], patient_1D[0]


def write_graph(expert: Expert, path: Path) -> float:
    """Writes the graph, and asks it about faces at random to see that it answers as the model does.

    Args:
        expert: on the CPU.
        path: of the file, ``.onnx``.

    Returns:
        The largest difference that was seen in any output, at most ``TOLERANCE``.

    Raises:
        PassportError: what writes or runs such files is not installed, or the graph answers otherwise.
    """
    answer = Answer(expert).eval()
    try:
        torch.onnx.export(
            answer,
            (_faces(_TRIALS[1]),),
            str(path),
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes=({0: torch.export.Dim("photos", min=1, max=1024)},),
            opset_version=_OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        _forget(path)
        apart = max(_apart(answer, path, _faces(photos)) for photos in _TRIALS)
    except ImportError as error:
        raise PassportError(f"{error.name} is not installed: pip install 'bioface-federated[export]'") from error
    if apart > TOLERANCE:
        raise PassportError(f"the exported graph is off by {apart:.1e}, expected at most {TOLERANCE:g}: report this")
    return apart


def _forget(path: Path) -> None:
    """Takes out how the file was made: the exporter notes lines and paths of this machine's programs."""
    import onnx

    model = onnx.load(path)
    graph = model.graph
    for one in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        one.ClearField("metadata_props")
        one.ClearField("doc_string")
    onnx.checker.check_model(model, full_check=True)
    write_bytes(path, model.SerializeToString(deterministic=True))


def _faces(photos: int) -> Tensor:
    draw = torch.Generator().manual_seed(photos)
    size = (photos, 3, FACE_SIZE_PX, FACE_SIZE_PX)
    return torch.randint(256, size, dtype=torch.uint8, generator=draw)


def _apart(answer: Answer, path: Path, faces_NCHW: Tensor) -> float:
    """The largest difference between the model's outputs and the file's."""
    from onnxruntime import InferenceSession

    session = InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = answer(faces_NCHW)
    found = session.run(list(OUTPUTS), {INPUT: faces_NCHW.numpy()})
    return max(float(np.abs(one.numpy() - other).max()) for one, other in zip(expected, found, strict=True))
