"""What does a hospital compute? It trains a received vector on its photos for one round, or evaluates it.

The network stays on its device; nothing that matters stays in it. Every result is a function of the arguments:
vector, photos, round and the name of the random stream.

Legend: N photos, B photos of a step, K syndromes, D embedding, I identities, n values of the vector.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bioface_core import loss, optimise
from bioface_core.accounting import Plan
from bioface_core.calibration import Reliability, count_reliability, nearness
from bioface_core.config import Study
from bioface_core.cross_loss import CrossLoss
from bioface_core.embed import embed_pairs
from bioface_core.errors import ConfigError
from bioface_core.evaluate import Counts, count, per_patient
from bioface_core.front import Batch, Shown
from bioface_core.layout import layout_of
from bioface_core.model import Recogniser, memory_format, random_directions, set_trainable
from bioface_core.photos import PhotoSet, first_photos, shuffled
from bioface_core.privacy import Patients, check_private, noisy_gradients
from bioface_core.resident import ahead
from bioface_core.secret import SecretRandom
from bioface_core.sections import Speed
from bioface_core.seeding import generator
from bioface_core.sight import Sight
from bioface_core.speed import keep_memory, set_threads
from bioface_core.views import Pick, Randomness
from bioface_core.weights import Base, without_counters


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
        layout = memory_format(study.model, study.speed.channels_last)
        self._model = self._model.to(device, memory_format=layout)  # type: ignore[call-overload]
        self._layout = layout_of(self._model)
        self._start = self._layout.flatten(self._model).cpu()
        self._device = torch.device(device)
        self._sight = Sight(self._model.trunk, study, self._device)
        self._identities = identities if study.loss.identifies else None
        people_ID = None if base.identities_ID is None else base.identities_ID.to(device)
        assert self._identities is None or people_ID is not None, "identities without their prototypes"
        self._cross_loss = CrossLoss(study, self._model.prototypes, people_ID)

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
            photos: this hospital's training photos, wherever they lie.
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
            shown = self._sight.show(photos, stream, generator(self.study.seed, "views", stream))
            loss_ = self._passes(shown, optimiser, progress, randomness)
        else:
            secret = secret or SecretRandom()
            shown = self._sight.show(photos, f"{stream}, secret", secret)
            self._private_steps(shown, optimiser, progress, randomness, plan, secret)
            loss_ = 0.0
        return LocalResult(self._layout.flatten(self._model).cpu() - vector.cpu(), loss_)

    def evaluate(self, vector: Tensor, photos: PhotoSet) -> Counts:
        """Ranks the syndromes for every patient.

        Args:
            vector: float32 (n,).
            photos: held-out photos, wherever they lie.

        Returns:
            Counts over patients; a patient's photos and their mirror images are averaged. How sure the model is, is
            counted of each patient's first photo, for often there is but one.
        """
        embeddings_ND = self.embed(vector, photos)
        patients_PD, labels_P = self._per_patient(embeddings_ND, photos)
        counts = count(self._scores(patients_PD).cpu(), labels_P.cpu())
        return replace(counts, reliability=self._reliability(vector, embeddings_ND, photos))

    def scores(self, vector: Tensor, embeddings_ND: Tensor) -> Tensor:
        """How near embeddings are to each syndrome, (N, K), as predictions rank by."""
        self._layout.load(self._model, vector)
        return self._scores(embeddings_ND)

    def recognised(self, vector: Tensor, photos: PhotoSet) -> Tensor:
        """Whether each patient's syndrome comes first, bool (P,), in the order of the patients' numbers."""
        patients_PD, labels_P = self._per_patient(self.embed(vector, photos), photos)
        return self._scores(patients_PD).argmax(1) == labels_P

    def _per_patient(self, embeddings_ND: Tensor, photos: PhotoSet) -> tuple[Tensor, Tensor]:
        return per_patient(embeddings_ND, photos.labels_N.to(self._device), photos.patients_N.to(self._device))

    def _reliability(self, vector: Tensor, embeddings_ND: Tensor, photos: PhotoSet) -> Reliability:
        first_P = first_photos(photos.patients_N).to(self._device)
        embeddings_PD, labels_P = embeddings_ND[first_P], photos.labels_N.to(self._device)[first_P]
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
        return embed_pairs(*self._sight.both_sides(photos))

    def weights(self, vector: Tensor) -> dict[str, Tensor]:
        """The whole model with ``vector`` in it: named CPU tensors, frozen ones included."""
        self._layout.load(self._model, vector)
        named = without_counters(self._model.state_dict())
        return {name: tensor.cpu() for name, tensor in named.items()}

    def _passes(
        self, photos: Shown, optimiser: optimise.Optimiser, progress: float, randomness: torch.Generator
    ) -> float:
        """Passes over the photos; gives the mean loss on patients."""
        total, steps = torch.zeros((), device=self._device), 0
        present_K = torch.bincount(photos.photos.labels_N, minlength=self.classes) > 0
        positions = self._positions(len(photos.photos), randomness)
        for batch, beside, after in self._begun(photos, positions, randomness, randomness):
            embeddings_BD = self._sight.embeddings(batch)
            patient_loss = self._cross_loss.of_patients(embeddings_BD, batch.labels_B, present_K, progress)
            optimiser.step(patient_loss + self._of_people(beside) if beside else patient_loss)
            total, steps = total + patient_loss.detach(), steps + 1
            if after:
                optimiser.step(self._of_people(after))
        return float(total) / max(1, steps)

    def _private_steps(
        self,
        photos: Shown,
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
        patients, loss_of = Patients.of(photos.photos.patients_N), self._cross_loss.of_one_patient(progress)
        heads = {"prototypes": self._model.prototypes}
        positions = (patients.draw(plan.sampling_rate, secret) for _ in range(plan.steps))
        for batch, beside, after in self._begun(photos, positions, secret, randomness):
            inputs_B = batch.inputs()
            gradients = noisy_gradients(batch.network, heads, inputs_B, batch.labels_B, loss_of, plan, secret)
            optimiser.step_along(gradients, self._of_people(beside) if beside else None)
            if after:
                optimiser.step(self._of_people(after))

    def _begun(
        self, photos: Shown, positions: Iterable[Tensor], chance: Randomness, public: torch.Generator
    ) -> Iterator[tuple[Batch, Batch | None, Batch | None]]:
        """Each step's patients, and public people beside or after them, on their way while the step before computes.

        Args:
            photos: of the patients.
            positions: of each step's photos.
            chance: how they are shown.
            public: who the public people are, and how they are shown.
        """
        identities = self._shown_identities()

        def drawn() -> Iterator[tuple[Pick, Pick | None]]:
            for step, positions_B in enumerate(positions, start=1):
                patients = photos.pick(positions_B, chance)
                yield patients, self._public_pick(identities, step, public) if identities else None

        def start(picks: tuple[Pick, Pick | None]) -> tuple[Batch, Batch | None, Batch | None]:
            picked, public_pick = picks
            patients = photos.start(picked)
            people = identities.start(public_pick) if identities and public_pick else None
            return (patients, people, None) if self._cross_loss.sums else (patients, None, people)

        return ahead(drawn(), start)

    def _positions(self, photos: int, randomness: torch.Generator) -> Iterator[Tensor]:
        """Positions of each step's photos, epoch after epoch."""
        for _ in range(self.study.train.epochs):
            yield from shuffled(photos, self.study.train.batch, randomness)

    def _draw_prototypes(self) -> None:
        directions_KD = random_directions(self.classes, self.embedding, generator(self.study.seed, "prototypes"))
        self._model.prototypes.data.copy_(directions_KD)

    def _public_pick(self, identities: Shown, step: int, randomness: torch.Generator) -> Pick | None:
        """The public people of a step, or none if it is not their turn."""
        if not self._cross_loss.is_peoples_turn(step):
            return None
        indices_B = torch.randint(len(identities.photos), (self.study.train.batch,), generator=randomness)
        return identities.pick(indices_B, randomness)

    def _of_people(self, people: Batch) -> Tensor:
        return self._cross_loss.of_people(self._sight.embeddings(people), people.labels_B)

    def _shown_identities(self) -> Shown | None:
        if self._identities is None:
            return None
        return self._sight.show(self._identities, "identities", generator(self.study.seed, "views", "identities"))
