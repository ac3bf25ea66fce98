"""What is trained in one run: encoder, momentum encoder, objective, strategy and frozen teacher as one module."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench.models.fold import folded
from methods.base import Embeddings, Objective, Strategy
from methods.contrast import Mode, using
from methods.heads import ema_, per_view
from methods.losses import device_groups


class Output(NamedTuple):
    """One forward pass: the scalar loss and what `after_step` needs."""

    loss: Tensor
    embeddings: Embeddings
    frozen: Tensor | None


class Teacher(nn.Module):
    """The frozen model: a copy of the *online* encoder and projector as they stood when the task began.

    In eval mode a copy of the encoder folded for `precision` does the work (none for None); it is no part of the state,
    and made anew when that changes.
    """

    def __init__(self, encoder: nn.Module, projector: nn.Module, precision: str | None) -> None:
        super().__init__()
        self.encoder = deepcopy(encoder)
        self.projector = deepcopy(projector)
        self.requires_grad_(False)
        self.precision = precision
        self.compile_options: dict[str, Any] | None = None
        self._folded: list[nn.Module] = []  # a list hides the module from the state
        self.register_load_state_dict_post_hook(lambda teacher, _: teacher._folded.clear())

    def train(self, mode: bool = True) -> "Teacher":
        """A folded copy would not know of statistics that move in training mode."""
        super().train(mode)
        if mode:
            self._folded.clear()
        return self

    @torch.no_grad()
    def copy_(self, encoder: nn.Module, projector: nn.Module) -> None:
        """Takes over parameters and buffers."""
        self.encoder.load_state_dict(encoder.state_dict())
        self.projector.load_state_dict(projector.state_dict())
        self._folded.clear()

    def compile_encoder(self, **options: Any) -> None:
        """Compiles what does the work; options: of `torch.compile`."""
        self.encoder.compile(**options)
        self.compile_options = options
        self._folded.clear()

    def features(self, views: Tensor) -> Tensor:
        """views: (2, n, C, H, W) -> (2, n, F)."""
        if self.training or self.precision is None:
            return per_view(self.encoder, views)
        if not self._folded:
            self._folded.append(folded(self.encoder, self.precision))
            if self.compile_options is not None:
                self._folded[0].compile(**self.compile_options)
        # Nothing in an image's features depends on the batch here: both views in one pass.
        features: Tensor = self._folded[0](views.flatten(0, 1))
        return features.unflatten(0, views.shape[:2])


class Learner(nn.Module):
    """Encodes both views once and hands embeddings to the method; precision, layout and processes end here.

    precision: `bf16` runs encoders under autocast and meets queues in bfloat16; heads and losses are float32 always.
    teacher_bn: `eval` (running statistics), `train` (those of the batch, which then move the running ones) or
    `reference` (eval in the first epoch of a task, then train). device_groups: parts of the batch that losses look at
    by themselves. gather: joins the features (2, n, F) of all processes, with gradient. plain: contiguous layout,
    unfolded teacher and stored logits, as released code has them: the same numbers up to rounding, to compare the speed
    with.
    """

    def __init__(
        self,
        encoder: nn.Module,
        objective: Objective,
        strategy: Strategy | None = None,
        *,
        precision: str = "fp32",
        teacher_bn: str = "eval",
        device_groups: int = 1,
        gather: Callable[[Tensor], Tensor] | None = None,
        plain: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.target = deepcopy(encoder).requires_grad_(False) if objective.momentum else None
        self.objective = objective
        self.strategy = strategy
        needs_teacher = strategy is not None and strategy.teacher
        self.teacher = Teacher(encoder, objective.projector, None if plain else precision) if needs_teacher else None
        self.precision, self.teacher_bn, self.gather = precision, teacher_bn, gather
        self.device_groups, self.epoch = device_groups, 0
        self.layout = torch.contiguous_format if plain else torch.channels_last
        self.contrast: Mode = "stored" if plain else "bf16" if precision == "bf16" else "exact"
        self.train()

    def train(self, mode: bool = True) -> "Learner":
        """Training mode of everything but the teacher, which `teacher_bn` decides; in eval mode it stays folded."""
        in_batch = self.teacher_bn == "train" or (self.teacher_bn == "reference" and self.epoch > 0)
        self.training = mode
        for child in self.children():
            child.train(mode and (in_batch or child is not self.teacher))
        return self

    def begin_epoch(self, epoch: int) -> None:
        """Tells which epoch of the task it is, from 0 on: the teacher's mode may follow it."""
        self.epoch = epoch
        self.train(self.training)

    @property
    def constant_lr(self) -> list[str]:
        """Prefixes of the parameters whose learning rate does not follow the schedule."""
        return [f"objective.{name}" for name in self.objective.constant_lr]

    def encode(self, encoder: nn.Module, views: Tensor) -> Tensor:
        """views: (V, n, C, H, W) -> float32 features (V, n, F)."""
        return self._encoded(partial(per_view, encoder), self.prepare(views))

    def encode_jointly(self, encoder: nn.Module, views: Tensor) -> Tensor:
        """views: (V, n, C, H, W) -> float32 features (V, N, F) of all processes, with gradient."""
        return self._features(partial(per_view, encoder), self.prepare(views))

    def prepare(self, views: Tensor) -> Tensor:
        """In the layout and precision that convolutions want, once for all networks."""
        dtype = torch.bfloat16 if self.precision == "bf16" else views.dtype
        flat = views.flatten(0, 1).to(dtype, memory_format=self.layout)
        return flat.unflatten(0, views.shape[:2])

    def _encoded(self, network: Callable[[Tensor], Tensor], prepared: Tensor) -> Tensor:
        with torch.autocast(prepared.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            h = network(prepared)
        return h.float()

    def _features(self, network: Callable[[Tensor], Tensor], prepared: Tensor) -> Tensor:
        h = self._encoded(network, prepared)
        return h if self.gather is None else self.gather(h)

    def features(self, prepared: Tensor) -> Tensor:
        """Features (2, N, F) of the online encoder, with gradient."""
        return self._features(partial(per_view, self.encoder), prepared)

    def targets(self, prepared: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Features of the momentum encoder and of the teacher (2, N, F), where there are any; without gradient."""
        with torch.no_grad():
            target = None if self.target is None else self._features(partial(per_view, self.target), prepared)
            teacher = None if self.teacher is None else self._features(self.teacher.features, prepared)
        return target, teacher

    def heads(self, h: Tensor, target: Tensor | None, teacher: Tensor | None) -> Output:
        """From the features (2, N, F) of the three encoders to the loss."""
        with using(self.contrast), device_groups(self.device_groups):
            e = self.objective.embed(h, target)
            if self.strategy is None:
                return Output(self.objective.loss(e), e, None)
            frozen = None
            if self.teacher is not None and teacher is not None:
                with torch.no_grad():
                    frozen = per_view(self.teacher.projector, teacher)
            return Output(self.strategy.loss(self.objective, e, frozen), e, frozen)

    def forward(self, views: Tensor) -> Output:
        """views: (2, n, C, H, W), normalised float32 images of one step."""
        prepared = self.prepare(views)
        target, teacher = self.targets(prepared)
        return self.heads(self.features(prepared), target, teacher)

    def before_step(self, progress: float) -> None:
        """Tells the objective how much of the task is done, in [0, 1)."""
        self.objective.progress = progress

    def after_step(self, output: Output, progress: float, follow: bool = True) -> None:
        """Moves momentum networks, queues and memories; progress: fraction of the task done, in [0, 1]; follow: whether
        momentum networks move."""
        if self.target is not None and follow:
            ema_(self.target, self.encoder, self.objective.tau(progress))
            self.objective.follow(progress)
        self.objective.after_step(output.embeddings, progress)
        if self.strategy is not None:
            self.strategy.after_step(output.embeddings, output.frozen)

    def compile_encoders(self, **options: Any) -> None:
        """Compiles every encoder in place; states and names stay as they are. options: of `torch.compile`."""
        for encoder in (self.encoder, self.target):
            if encoder is not None:
                encoder.compile(**options)
        if self.teacher is not None:
            self.teacher.compile_encoder(**options)

    def start_task(self) -> None:
        """The online network as it stands becomes the teacher, and the objective hears of the new task."""
        if self.teacher is not None:
            self.teacher.copy_(self.encoder, self.objective.projector)
        self.objective.on_task_start()

    def carried_state(self) -> dict[str, Tensor]:
        """What passes from task to task: everything but the teacher, which the next task copies anew."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("teacher.")}

    def load_carried_state(self, state: dict[str, Tensor]) -> None:
        """Takes over the state of the task before; a fresh strategy stays fresh where that task had none.

        Raises RuntimeError for any key or shape that does not fit.
        """
        fresh = {} if any(name.startswith("strategy.") for name in state) else self.state_dict()
        kept = {name: value for name, value in fresh.items() if name.startswith("strategy.")}
        teacher = {n: v for n, v in self.state_dict().items() if n.startswith("teacher.")}
        self.load_state_dict({**kept, **teacher, **state}, strict=True)
