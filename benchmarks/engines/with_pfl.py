"""What does Apple's pfl-research cost? Its simulated backend and FedAvg, as in its benchmarks, around our network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.central_evaluation import CentralEvaluationCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Weighted
from pfl.model.pytorch import PyTorchModel
from plain_loop import Order, batch_loss, hospital, make_model, numbers, read_order, recognised, study_of, write_result
from torch import Tensor, nn

from bioface_core.optimise import make_optimiser
from bioface_core.photos import PhotoSet, concatenate
from bioface_core.seeding import generator

_NEVER: Any = float("nan")  # no round is a multiple of it: training photos are not evaluated, as they are nowhere else


class Network(nn.Module):
    """Our network with the two methods pfl asks for."""

    def __init__(self, order: Order) -> None:
        super().__init__()
        self.model, self.study = make_model(order.laid), study_of(order.laid)
        self.randomness = generator(self.study.seed, "pfl")

    def loss(self, photos_NCHW: Tensor, labels_N: Tensor, patients_N: Tensor) -> Tensor:
        """Of a batch, augmented."""
        self.model.train()
        batch = PhotoSet(photos_NCHW, labels_N, patients_N)
        return batch_loss(self.model, self.study, batch, self.randomness)

    def metrics(self, photos_NCHW: Tensor, labels_N: Tensor, patients_N: Tensor) -> dict[str, Any]:
        """Of held-out patients."""
        photos = PhotoSet(photos_NCHW, labels_N, patients_N)
        right, patients = recognised(self.model, self.study, photos)
        return {"accuracy": Weighted(right, patients)}


def main() -> None:
    """All hospitals in every round, one after another in this process, as pfl does without a cluster."""
    order = read_order()
    study, network = study_of(order.laid), Network(order)

    def optimiser_of(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        return make_optimiser(network.model.named_parameters(), study.train, lr)

    def dataset_of(number: int) -> Dataset:
        photos, _ = hospital(order.laid, number)
        mixed = photos.take(torch.randperm(len(photos), generator=network.randomness))
        return Dataset(_columns(mixed), user_id=str(number))

    model = PyTorchModel(network, optimiser_of, torch.optim.SGD(network.parameters(), lr=1.0))
    cohort = FederatedDataset(dataset_of, get_user_sampler("minimize_reuse", list(numbers(study))))
    heldout = concatenate([hospital(order.laid, number)[1] for number in numbers(study)])
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=order.rounds,
            evaluation_frequency=_NEVER,
            train_cohort_size=study.simulation.hospitals,
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(training_data=cohort, val_data=None),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1,
            local_learning_rate=study.train.rate,
            local_batch_size=study.train.batch,
            local_max_grad_norm=study.train.clip,
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=len(heldout)),
        callbacks=[CentralEvaluationCallback(Dataset(_columns(heldout)), NNEvalHyperParams(len(heldout)))],
    )
    write_result(order, network.model)


def _columns(photos: PhotoSet) -> tuple[Tensor, ...]:
    return photos.photos_NCHW, photos.labels_N, photos.patients_N


if __name__ == "__main__":
    main()
