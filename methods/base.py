"""The two interfaces of a method: an SSL objective (what to learn) and a continual strategy (what to do about the
past).

Shapes: the first axis is the view (2), the second the image (N), in the order of the batch; both objects see the
global batch.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from methods.heads import Pool, ema_


class Embeddings(NamedTuple):
    """Both views of N images in the objective's embedding space, (2, N, D) float32."""

    z: Tensor
    """Projections of the online network, with gradient."""
    p: Tensor | None = None
    """Predictions of the online network, with gradient (byol, simsiam)."""
    k: Tensor | None = None
    """Projections of the momentum network, without gradient (moco, byol)."""


class Images(Protocol):
    """uint8 images of one task."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, index: Tensor) -> Tensor:
        """index: (m,) int64 on the CPU -> (m, C, H, W) uint8."""


class TaskContext(NamedTuple):
    """What a strategy may see when a task begins: nothing of the task itself, no label, no later image."""

    task: int
    """Index of the task that begins, >= 1."""
    previous: Images
    """Images of the task before it."""
    generator: torch.Generator
    """CPU generator of this moment."""


class StepContext(NamedTuple):
    """What a strategy may use to change the inputs of one training step."""

    augment: Callable[[Tensor, torch.Generator], Tensor]
    """Two augmented views (2, n, C, H, W) of uint8 images (n, C, h, w)."""
    generator: torch.Generator
    """CPU generator of this step."""


class Objective(nn.Module):
    """An SSL loss with its heads, on encoder features; it knows no tasks, encoder, precision or process group.

    A subclass sets the class attributes, builds `self.projector` (and `self.predictor` where it has one), and
    implements `loss`, `distill` and, unless contrastive, `distance`. Hyperparameters named `distill_*` are read by
    `distill` alone and `pseudo_*` only where pseudo-negatives are given: strategies without a teacher, or without
    pseudo-negatives, ignore them.
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    contrastive: ClassVar[bool] = False
    """Whether the loss has negatives, so that pseudo-negatives can join them."""
    momentum: ClassVar[bool] = False
    """Whether a momentum (EMA) copy of encoder and projector gives the targets."""
    distill_weight: ClassVar[float] = 1.0
    """Released weight of this objective's distillation term."""
    repel_weight: ClassVar[float] = 0.0
    """Released weight of the term in which pseudo-negatives repel (non-contrastive objectives)."""
    constant_lr: ClassVar[tuple[str, ...]] = ()
    """Names of submodules whose learning rate does not follow the schedule."""
    expected_failures: ClassVar[dict[str, str]] = {}
    """Contract check -> reason why this method does not keep it."""

    @dataclass(frozen=True)
    class Hparams:
        """Hyperparameters with the released CIFAR values as defaults."""

    projector: nn.Module
    progress: float = 1.0
    """Fraction of the task done as a training step begins; 1 outside of training."""

    def __init__(self, features: int, hparams: Any = None) -> None:
        """features: width F of the encoder's output; hparams: an instance of `Hparams`, or None for the defaults."""
        super().__init__()
        self.hparams: Any = self.Hparams() if hparams is None else hparams
        self.features = features
        self.build(features)
        if self.momentum:
            self.target_projector = deepcopy(self.projector).requires_grad_(False)

    def build(self, features: int) -> None:
        """Creates the heads on features of the given width."""
        raise NotImplementedError

    @property
    def dim(self) -> int:
        """Width D of the projections."""
        return int(self.hparams.output)

    def embed(self, h: Tensor, target: Tensor | None = None) -> Embeddings:
        """Embeddings of features h (2, N, F); target: features of the momentum encoder, same shape, where
        `momentum`."""
        raise NotImplementedError

    def loss(self, e: Embeddings, extra: Tensor | None = None) -> Tensor:
        """The SSL loss, a scalar; extra: pseudo-negatives as a pool of this objective reads them (contrastive only)."""
        raise NotImplementedError

    def distill(
        self, student: Tensor, teacher: Tensor, own: Tensor | None = None, past: Tensor | None = None
    ) -> Tensor:
        """The same family of loss between g(z) and the frozen model's projections, both (2, N, D); a scalar.

        Where there is a `student_head`, student is what that makes of g(z), here and in `distance`.
        own, past: negatives of the current and of the frozen model (contrastive only; both or neither).
        """
        raise NotImplementedError

    def with_pseudo_negatives(
        self, e: Embeddings, student: Tensor, teacher: Tensor, past: Tensor
    ) -> tuple[Tensor, Tensor]:
        """SSL loss and distillation, both with the negatives of both models (contrastive only).

        For objectives that can do both in one pass over the negatives; the meaning is that of `loss` and `distill`.
        """
        return self.loss(e, past), self.distill(student, teacher, self.negatives(e), past)

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean distance of pairs (2, N, D) that pseudo-negatives push up; a scalar (non-contrastive only)."""
        raise NotImplementedError

    def student_head(self) -> nn.Sequential:
        """Layers, new each time, that end the student's branch of a distillation and learn with it; none by default."""
        return nn.Sequential()

    def new_pool(self) -> Pool:
        """A fresh store of pseudo-negatives (`Queue` or `InBatch`; contrastive only)."""
        raise NotImplementedError

    def negatives(self, e: Embeddings) -> Tensor:
        """This objective's own negatives for the batch at hand, as its pool reads them (contrastive only)."""
        raise NotImplementedError

    def tau(self, progress: float) -> float:
        """Rate at which the momentum network keeps its old value; progress: fraction of the task done, in [0, 1]."""
        raise NotImplementedError

    def follow(self, progress: float) -> None:
        """Moves the momentum projector, where there is one, towards the online one."""
        ema_(self.target_projector, self.projector, self.tau(progress))

    def on_task_start(self) -> None:
        """Called once when a task >= 1 begins; values of the state may change, shapes may not."""

    def after_step(self, e: Embeddings, progress: float) -> None:
        """Moves what else gradients do not: queues."""


class Strategy(nn.Module):
    """What to do about earlier tasks; its whole memory is its state_dict, with shapes fixed at construction.

    Task 0 is trained without a strategy, by the objective alone, and shared by all strategies of a comparison.
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    trains: ClassVar[Literal["task by task", "jointly", "never"]] = "task by task"
    """`jointly` (on all tasks at once, by the objective alone) and `never` are bounds: nothing of them is built."""
    teacher: ClassVar[bool] = False
    """Whether the previous model's projections (`frozen`) are needed."""
    pseudo_negatives: ClassVar[bool] = False
    """Whether the previous model's outputs serve as negatives."""
    expected_failures: ClassVar[dict[str, str]] = {}
    """Contract check -> reason why this method does not keep it."""

    @dataclass(frozen=True)
    class Hparams:
        """Hyperparameters; `None` stands for the objective's released value."""

    def __init__(self, objective: Objective, image: tuple[int, int, int], hparams: Any = None) -> None:
        """objective: only sizes and released weights are read; image: (C, H, W) of the uint8 images."""
        super().__init__()
        self.hparams: Any = self.Hparams() if hparams is None else hparams
        self.build(objective, image)

    def build(self, objective: Objective, image: tuple[int, int, int]) -> None:
        """Creates modules and buffers, if there are any."""

    def on_task_start(self, context: TaskContext) -> None:
        """Called once when a task >= 1 begins; values of the state may change, shapes may not."""

    def inputs(self, views: Tensor, context: StepContext) -> Tensor:
        """The views (2, N, C, H, W) to train on: replay and input mixing come in here."""
        return views

    def loss(self, objective: Objective, e: Embeddings, frozen: Tensor | None) -> Tensor:
        """The whole loss of a step, a scalar; frozen: projections of the previous model (2, N, D), where `teacher`."""
        raise NotImplementedError

    def after_step(self, e: Embeddings, frozen: Tensor | None) -> None:
        """Moves what gradients do not, after the optimizer's step."""

    @classmethod
    def ignores(cls, objective: type[Objective]) -> frozenset[str]:
        """Names of hyperparameters, own or the objective's, that change nothing for this pair."""
        unread = [] if cls.teacher else ["distill_"]
        unread += [] if cls.pseudo_negatives else ["pseudo_"]
        return frozenset(f.name for f in fields(objective.Hparams) if f.name.startswith(tuple(unread)))
