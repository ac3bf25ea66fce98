"""SwAV."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.base import Embeddings, Objective
from methods.heads import Prototypes, Unit, mlp, per_view
from methods.losses import hellinger, sinkhorn, soft_cross_entropy

unit = Unit()


class SwAV(Objective):
    """SwAV: predict the cluster assignment of one view from the other (arXiv:2006.09882 eq. 2), two views, no crops.

    Prototypes are weight-normalised (arXiv:1602.07868) with a learnt gain, as in CaSSLe's code; `unit_prototypes` gives
    the paper's unit vectors. Features of earlier batches of the task, one queue per view, join the assignment.
    Distillation is CaSSLe's for SwAV (arXiv:2112.04215): the assignments of the frozen model by the prototypes as they
    stood when the task began are predicted from g(z) by a new layer. Nobody has released Sy-CON for SwAV: `repel_weight`
    and `distance`, whose bound keeps the repelling term from running away, are this project's choice.
    Differs: thresholds are fractions of a task where the reference counts epochs (50 and 2 of 500).
    """

    name = "swav"
    repel_weight = 0.5
    progress = 1.0  # queue and prototypes are in use unless a step says that it is too early

    @dataclass(frozen=True)
    class Hparams:
        """hidden, output: widths of the projector; prototypes: their number; unit_prototypes: without gain;
        temperature, distill_temperature: > 0; epsilon, iterations: of Sinkhorn, > 0; queue: features per view;
        queue_start, freeze: fractions of each task, in [0, 1], from which on the queue is used (1: never) and until
        which the prototypes stay. Released CIFAR values of CaSSLe."""

        hidden: int = 2048
        output: int = 128
        prototypes: int = 3000
        unit_prototypes: bool = False
        temperature: float = 0.1
        epsilon: float = 0.05
        iterations: int = 3
        queue: int = 3840
        queue_start: float = 0.1
        freeze: float = 0.004
        distill_temperature: float = 0.1

    queue: Tensor
    frozen: Tensor

    def build(self, features: int) -> None:
        """Linear - BatchNorm - ReLU - Linear, prototypes, their frozen copy (K, D) and empty queues (2, Q, D)."""
        hp = self.hparams
        self.projector = mlp(features, hp.hidden, hp.output)
        self.prototypes = Prototypes(hp.output, hp.prototypes, gain=not hp.unit_prototypes)
        self.register_buffer("frozen", self.prototypes.weight().detach().clone())
        self.register_buffer("queue", torch.zeros(2, hp.queue, hp.output))

    def student_head(self) -> nn.Sequential:
        """Prototypes of the distilled branch, from scratch: (2, N, D) -> scores (2, N, K)."""
        hp = self.hparams
        return nn.Sequential(Unit(), Prototypes(hp.output, hp.prototypes, gain=not hp.unit_prototypes))

    @torch.no_grad()
    def on_task_start(self) -> None:
        """Freezes a copy of the prototypes and empties the queues."""
        self.frozen.copy_(self.prototypes.weight())
        self.queue.zero_()

    def before_step(self, progress: float) -> None:
        """Says how far the task is."""
        self.progress = progress

    def embed(self, h: Tensor, target: Tensor | None = None) -> Embeddings:
        """h: (2, N, F) -> projections, not normalised."""
        return Embeddings(z=per_view(self.projector, h))

    def loss(self, e: Embeddings, extra: Tensor | None = None) -> Tensor:
        """Mean over both views of CE(assignments of the other view; softmax(scores / temperature))."""
        hp, weight = self.hparams, self.prototypes.weight()
        if self.progress < hp.freeze:
            weight = weight.detach()
        scores = unit(e.z) @ weight.T
        with torch.no_grad():
            known = [scores, self.queue @ weight.T] if self.progress >= hp.queue_start else [scores]
            assigned = sinkhorn(torch.cat(known, 1), hp.epsilon, hp.iterations)[:, : scores.shape[1]]
        return soft_cross_entropy(scores / hp.temperature, assigned.flip(0))

    def distill(
        self, student: Tensor, teacher: Tensor, own: Tensor | None = None, past: Tensor | None = None
    ) -> Tensor:
        """Mean over views of CE(the frozen model's soft assignments; student); student: scores (2, N, K)."""
        temperature = self.hparams.distill_temperature
        return soft_cross_entropy(student / temperature, self._teacher_scores(teacher).softmax(-1))

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Squared Hellinger distance of the soft assignments; range [0, 1]; student: scores (2, N, K)."""
        return hellinger(student / self.hparams.distill_temperature, self._teacher_scores(teacher))

    def _teacher_scores(self, teacher: Tensor) -> Tensor:
        return unit(teacher) @ self.frozen.T / self.hparams.distill_temperature

    @torch.no_grad()
    def after_step(self, e: Embeddings, progress: float) -> None:
        """The batch enters the queues, newest first."""
        super().after_step(e, progress)
        self.queue.copy_(torch.cat([unit(e.z), self.queue], 1)[:, : self.queue.shape[1]])
