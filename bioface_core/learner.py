"""What does a hospital compute? It trains a received vector on its photos for one round, or evaluates it.

The network stays on its device; nothing that matters stays in it. Every result is a function of the arguments:
vector, photos, round and the name of the random stream.

Legend: N photos, B photos of a step, K syndromes, D embedding, I identities, n values of the vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bioface_core import augment, loss, optimise
from bioface_core.accounting import Plan
from bioface_core.calibration import Reliability, count_reliability, nearness
from bioface_core.clipping import LossOf
from bioface_core.config import Study
from bioface_core.embed import embed
from bioface_core.errors import ConfigError
from bioface_core.evaluate import Counts, count, per_patient
from bioface_core.layout import layout_of
from bioface_core.model import Recogniser, memory_format, random_directions, set_trainable, to_float
from bioface_core.photos import PhotoSet, first_photos, shuffled
from bioface_core.privacy import Patients, check_private, noisy_gradients
from bioface_core.secret import SecretRandom
from bioface_core.sections import Speed
from bioface_core.seeding import generator
from bioface_core.speed import TrainingPass, hand_over, keep_memory, set_threads
from bioface_core.weights import Base, without_counters

_TRUNK = "trunk."  # before the names of the trunk's parameters


@dataclass(frozen=True)
class LocalResult:
    """What a round of local training gave.

    Attributes:
        delta: trained minus received, float32 (n,), on the CPU.
        loss: mean over the steps on patients; 0 where the training was private, for it would betray them.
    """

    delta: Tensor
    loss: float


def use(speed: Speed) -> torch.device:
    """Prepares this process: CPU threads, memory, and the device the settings name (see ``device_named``)."""
    set_threads(speed)
    keep_memory()
    return device_named(speed.device)


def device_named(name: str) -> torch.device:
    """A device of this machine; ``auto`` is the first GPU, or the CPU where there is none.

    Raises:
        ConfigError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name} is not on this machine: expected auto, cpu, or cuda with a GPU") from error


class Learner:
    """The shared network, resident on a device.

    Args:
        study: every parameter.
        base: where the trunk starts from.
        identities: public or phantom people, labels counting ``base.identities_ID``; needed where the loss identifies.
        device: where it lives.

    Raises:
        ConfigError: the study is private for each patient, and the network mixes them; or the device has no bfloat16.
    """

    def __init__(
        self, study: Study, base: Base, identities: PhotoSet | None = None, device: torch.device | str = "cpu"
    ) -> None:
        self.study = study
        self.classes, self.embedding = len(study.syndromes), study.model.embedding
        self._model = Recogniser(study.model, self.classes)
        self._model.trunk.load_state_dict(base.trunk, strict=False)
        self._draw_prototypes()
        set_trainable(self._model, study.model.trainable)
        if study.privacy.unit == "patient":
            check_private(self._model)
        self._format = memory_format(study.model, study.speed.channels_last)
        self._model = self._model.to(device, memory_format=self._format)  # type: ignore[call-overload]
        self._layout = layout_of(self._model)
        self._start = self._layout.flatten(self._model).cpu()
        self._device = torch.device(device)
        self._training_pass = TrainingPass(self._model.trunk, study.speed, self._device)
        self._identities = identities.to(device) if identities is not None and study.loss.identifies else None
        self._identities_ID = None if base.identities_ID is None else base.identities_ID.to(device)
        assert self._identities is None or self._identities_ID is not None, "identities without their prototypes"

    @property
    def size(self) -> int:
        """n, the length of the vector."""
        return self._layout.size

    @property
    def schema(self) -> str:
        """Hash of the vector's layout."""
        return self._layout.schema

    def start(self) -> Tensor:
        """The vector before training, float32 CPU (n,): a function of the base and ``study.seed``."""
        return self._start.clone()

    def vector_of(self, weights: Mapping[str, Tensor]) -> Tensor:
        """The vector of a trained model, float32 CPU (n,); what of it does not train here stays as it is there.

        Args:
            weights: as ``weights`` gives them, of the same network.
        """
        self._model.load_state_dict(dict(weights), strict=False)
        return self._layout.flatten(self._model).cpu()

    def train(
        self,
        vector: Tensor,
        photos: PhotoSet,
        round_: int,
        stream: str,
        plan: Plan | None = None,
        secret: SecretRandom | None = None,
    ) -> LocalResult:
        """Trains for one round.

        Args:
            vector: float32 (n,), the shared model.
            photos: this hospital's training photos, on this device.
            round_: 1 for the first.
            stream: names the random stream, the hospital's name.
            plan: makes it private for each patient; None trains plainly.
            secret: who is drawn, how their photos are augmented, and the noise, where there is a plan; None takes it
                from the operating system.

        Returns:
            The change and the mean loss.
        """
        randomness = generator(self.study.seed, "train", stream, round_)
        progress = (round_ - 1) / self.study.federation.rounds
        self._layout.load(self._model, vector)
        self._model.train()
        optimiser = optimise.Optimiser(self._model, self.study.train, progress)
        if plan is None:
            loss_ = self._passes(photos, optimiser, progress, randomness)
        else:
            self._private_steps(photos, optimiser, progress, randomness, plan, secret or SecretRandom())
            loss_ = 0.0
        return LocalResult(self._layout.flatten(self._model).cpu() - vector.cpu(), loss_)

    def evaluate(self, vector: Tensor, photos: PhotoSet) -> Counts:
        """Ranks the syndromes for every patient.

        Args:
            vector: float32 (n,).
            photos: held-out photos, on this device.

        Returns:
            Counts over patients; a patient's photos and their mirror images are averaged. How sure the model is, is
            counted of each patient's first photo, for often there is but one.
        """
        embeddings_ND = self.embed(vector, photos)
        patients_PD, labels_P = per_patient(embeddings_ND, photos.labels_N, photos.patients_N)
        counts = count(self._scores(patients_PD).cpu(), labels_P.cpu())
        return replace(counts, reliability=self._reliability(vector, embeddings_ND, photos))

    def scores(self, vector: Tensor, embeddings_ND: Tensor) -> Tensor:
        """How near embeddings are to each syndrome, (N, K), as predictions rank by."""
        self._layout.load(self._model, vector)
        return self._scores(embeddings_ND)

    def recognised(self, vector: Tensor, photos: PhotoSet) -> Tensor:
        """Whether each patient's syndrome comes first, bool (P,), in the order of the patients' numbers."""
        patients_PD, labels_P = per_patient(self.embed(vector, photos), photos.labels_N, photos.patients_N)
        return self._scores(patients_PD).argmax(1) == labels_P

    def _reliability(self, vector: Tensor, embeddings_ND: Tensor, photos: PhotoSet) -> Reliability:
        first_P = first_photos(photos.patients_N)
        embeddings_PD, labels_P = embeddings_ND[first_P], photos.labels_N[first_P]
        nearness_P = nearness(embeddings_PD, self._model.prototypes.detach())
        return count_reliability(self._scores(embeddings_PD), labels_P, nearness_P, self.study.loss)

    def _scores(self, embeddings_ND: Tensor) -> Tensor:
        return loss.scores(embeddings_ND, self._model.prototypes.detach(), self.study.loss)

    def embed(self, vector: Tensor, photos: PhotoSet) -> Tensor:
        """Unit embeddings (N, D), the mirrored view averaged."""
        self._layout.load(self._model, vector)
        self._model.eval()
        if not len(photos):
            return torch.zeros(0, self.embedding, device=self._device)
        return embed(self._model, photos.photos_NCHW, self._format)

    def weights(self, vector: Tensor) -> dict[str, Tensor]:
        """The whole model with ``vector`` in it: named CPU tensors, frozen ones included."""
        self._layout.load(self._model, vector)
        named = without_counters(self._model.state_dict())
        return {name: tensor.cpu() for name, tensor in named.items()}

    def _passes(
        self, photos: PhotoSet, optimiser: optimise.Optimiser, progress: float, randomness: torch.Generator
    ) -> float:
        """Passes over the photos; gives the mean loss on patients."""
        total, steps = torch.zeros((), device=self._device), 0
        present_K = torch.bincount(photos.labels_N, minlength=self.classes) > 0
        for steps, indices_B in enumerate(self._positions(photos, randomness), start=1):
            patient_loss = self._patient_loss(
                photos.take(hand_over(indices_B, self._device)), present_K, progress, randomness
            )
            public_loss = self._summed_identification(randomness)
            optimiser.step(patient_loss if public_loss is None else patient_loss + public_loss)
            total += patient_loss.detach()
            if self._alternates(steps):
                optimiser.step(self._identification_loss(randomness))
        return float(total) / max(1, steps)

    def _private_steps(
        self,
        photos: PhotoSet,
        optimiser: optimise.Optimiser,
        progress: float,
        randomness: torch.Generator,
        plan: Plan,
        secret: SecretRandom,
    ) -> None:
        """Steps of DP-SGD, and what identification adds to them, which sees no patient.

        Public randomness is for identification alone: were photos of patients to use it up, whoever knows the seed
        would see how many were drawn, and one patient more would change how all the others are augmented.
        """
        patients, loss_of = Patients.of(photos.patients_N), self._loss_of_one(progress)
        heads = {"prototypes": self._model.prototypes}
        for step in range(1, plan.steps + 1):
            batch = photos.take(patients.draw(plan.sampling_rate, secret).to(self._device))
            views_NCHW = self._augmented(batch.photos_NCHW, secret)
            trunk = self._model.trunk
            gradients = noisy_gradients(trunk, heads, views_NCHW, batch.labels_N, loss_of, plan, secret)
            named = {name if name in heads else _TRUNK + name: gradient for name, gradient in gradients.items()}
            optimiser.step_along(named, self._summed_identification(randomness))
            if self._alternates(step):
                optimiser.step(self._identification_loss(randomness))

    def _loss_of_one(self, progress: float) -> LossOf:
        """The cross-loss of one patient. No syndrome counts as absent: which ones are is what a patient may betray."""
        settings, margin = self.study.loss, loss.margin_at(self.study.loss, progress)
        every_K = torch.ones(self.classes, dtype=torch.bool, device=self._device)

        def loss_of(embedding_1D: Tensor, label_1: Tensor, heads: Mapping[str, Tensor]) -> Tensor:
            return loss.syndrome_loss(embedding_1D, label_1, heads["prototypes"], every_K, settings, margin)

        return loss_of

    def _positions(self, photos: PhotoSet, randomness: torch.Generator) -> Iterator[Tensor]:
        """Positions of each step's photos, epoch after epoch."""
        for _ in range(self.study.train.epochs):
            yield from shuffled(len(photos), self.study.train.batch, randomness)

    def _draw_prototypes(self) -> None:
        directions_KD = random_directions(self.classes, self.embedding, generator(self.study.seed, "prototypes"))
        self._model.prototypes.data.copy_(directions_KD)

    def _patient_loss(self, batch: PhotoSet, present_K: Tensor, progress: float, randomness: torch.Generator) -> Tensor:
        embeddings_BD = self._training_pass(self._augmented(batch.photos_NCHW, randomness))
        margin = loss.margin_at(self.study.loss, progress)
        prototypes_KD = self._model.prototypes
        return loss.syndrome_loss(embeddings_BD, batch.labels_N, prototypes_KD, present_K, self.study.loss, margin)

    def _summed_identification(self, randomness: torch.Generator) -> Tensor | None:
        """The identification term where the mode sums the two."""
        if self._identities is None or self.study.loss.mode != "cross-sum":
            return None
        return self.study.loss.identification_weight * self._identification_loss(randomness)

    def _alternates(self, step: int) -> bool:
        """Whether an identification step follows this one."""
        crosses = self._identities is not None and self.study.loss.mode == "cross-alternate"
        return crosses and step % self.study.loss.identification_every == 0

    def _identification_loss(self, randomness: torch.Generator) -> Tensor:
        """Tells public people apart, by prototypes that stay where stage 1 left them, and from every syndrome."""
        assert self._identities is not None and self._identities_ID is not None
        indices_B = torch.randint(len(self._identities), (self.study.train.batch,), generator=randomness)
        people = self._identities.take(hand_over(indices_B, self._device))
        embeddings_BD = self._training_pass(self._augmented(people.photos_NCHW, randomness))
        settings, cosines_BI = self.study.loss, loss.cosines(embeddings_BD, self._identities_ID)
        identified = loss.arcface(cosines_BI, people.labels_N, settings.scale, self.study.pretrain.margin)
        if settings.healthy == "ignore":
            return identified
        cosines_BK = loss.cosines(embeddings_BD, self._model.prototypes)
        return identified + settings.healthy_weight * loss.repel(cosines_BK, settings.scale)

    def _augmented(self, photos_NCHW: Tensor, randomness: torch.Generator | SecretRandom) -> Tensor:
        if not len(photos_NCHW):
            return to_float(photos_NCHW)
        draws = augment.draw(len(photos_NCHW), self.study.train.augment, randomness)
        return self._laid_out(augment.apply(photos_NCHW, draws.to(self._device)))

    def _laid_out(self, photos_NCHW: Tensor) -> Tensor:
        """The batch in the memory layout the convolutions want."""
        return photos_NCHW.contiguous(memory_format=self._format)
