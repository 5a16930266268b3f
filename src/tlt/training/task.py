"""What a network learns: its samples, the terms of its loss, and how it is judged.

`tlt.train` knows nothing else of a network, so that all systems are trained by one loop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from tlt.data.pairs import TrainingPair
from tlt.model import losses

if TYPE_CHECKING:
    from tlt.training.config import TrainConfig

Terms = dict[str, Tensor]


class Sample(Protocol):
    """One example, as a worker process makes it."""

    def to(self, device: torch.device) -> Any:
        """The sample on a device."""
        ...


S = TypeVar("S", bound=Sample)


class Task(ABC, Generic[S]):
    """What a family of networks learns.

    Attributes:
        weights: how much each term of the loss counts; ``loss`` in a configuration changes them.
        watched: terms that are logged and do not count.
        scores: what `judge` returns; the best weights are those of least ``criterion``.
    """

    weights: ClassVar[Mapping[str, float]]
    watched: ClassVar[Sequence[str]] = ()
    scores: ClassVar[Sequence[str]]
    criterion: ClassVar[str]

    @abstractmethod
    def samples(self, config: TrainConfig, processes: int) -> Dataset:
        """All samples of a run, in order: number i is made from the seed and i alone."""

    @abstractmethod
    def checks(self, config: TrainConfig) -> list[S]:
        """Fixed samples of other patients; none where the configuration names no validation."""

    @abstractmethod
    def terms(self, network: Any, sample: S, bf16: bool) -> Terms:
        """Every term for one sample, not yet weighted; one that is lacking counts nothing."""

    @abstractmethod
    def judge(self, network: Any, checks: Sequence[S], bf16: bool) -> dict[str, float]:
        """The scores of a network, in evaluation mode, without gradients."""


class PairTask(Task[TrainingPair]):
    """A task whose samples are pairs of crops: a seed and a number make one, for all the same."""

    def samples(self, config: TrainConfig, processes: int) -> Dataset:
        from tlt.training.samples import TrainingPairs

        return TrainingPairs(config, processes)

    def checks(self, config: TrainConfig) -> list[TrainingPair]:
        from tlt.training.samples import validation_set

        return validation_set(config)


class TrackingTask(PairTask):
    """The task of a tracker, which has many lesions to find in a pair."""

    watched = ("prior",)
    scores = ("val_prior_mm", "val_mm", "val_median_mm", "val_p95_mm", "val_within_10mm")
    criterion = "val_mm"

    @abstractmethod
    def centers(self, network: Any, pair: TrainingPair, bf16: bool) -> Tensor:
        """Where the network puts the pair's queries (Q, 3), in mm."""

    @abstractmethod
    def loss_terms(self, network: Any, pair: TrainingPair, bf16: bool) -> Terms:
        """Every term of the loss, not yet weighted."""

    def terms(self, network: Any, sample: TrainingPair, bf16: bool) -> Terms:
        """The terms of the loss, and the prior's error beside them."""
        prior = losses.center_loss(sample.centers_mm, sample.truth_mm)
        return {**self.loss_terms(network, sample, bf16), "prior": prior}

    def judge(self, network: Any, checks: Sequence[TrainingPair], bf16: bool) -> dict[str, float]:
        """Errors in mm of the prior and of the network, and the share within 10 mm."""
        prior, found = [], []
        for pair in checks:
            prior.append((pair.centers_mm - pair.truth_mm).norm(dim=1))
            found.append((self.centers(network, pair, bf16) - pair.truth_mm).norm(dim=1))
        error = torch.cat(found)
        values = (
            torch.cat(prior).mean(),
            error.mean(),
            error.median(),
            error.quantile(0.95),
            (error <= 10).float().mean(),
        )
        return {name: float(value) for name, value in zip(self.scores, values, strict=True)}


class Objective(nn.Module):
    """A network under its loss: one module, so that gradients of several processes meet."""

    def __init__(
        self, network: nn.Module, task: Task, weights: Mapping[str, float], bf16: bool
    ) -> None:
        super().__init__()
        self.network, self.task, self.weights, self.bf16 = network, task, weights, bf16

    def forward(self, sample: Sample) -> tuple[Tensor, Terms]:
        """The weighted loss, and its terms before weighting."""
        terms = self.task.terms(self.network, sample, self.bf16)
        counted = [name for name in terms if name in self.weights]
        loss = sum(self.weights[name] * terms[name] for name in counted)
        return loss, terms  # type: ignore[return-value]
