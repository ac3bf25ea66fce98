"""SwAV."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.base import Embeddings, Objective
from methods.heads import Prototypes, Unit, mlp, per_view
from methods.losses import hellinger, sinkhorn, soft_cross_entropy

unit = Unit()


class SwAV(Objective):
    """SwAV: predict the cluster assignment of one view from the other (arXiv:2006.09882 eq. 1 and 2), without crops.

    Prototypes are weight-normalised (arXiv:1602.07868) with a learnt gain, as in CaSSLe's code; `unit_prototypes` gives
    the paper's unit vectors. Features of earlier batches of the task join the assignment, in a queue for each view.
    Distillation is CaSSLe's for SwAV (arXiv:2112.04215): a new layer on g(z) predicts the assignments of the frozen
    model, by the prototypes as they stood when the task began. Sy-CON was not released for SwAV: `distance`, bounded so
    that repelling cannot run away, and its weight are this project's choice. Differs: `queue_start` and `freeze` are
    fractions of a task where the reference counts epochs (50 and 2 of 500).
    """

    name = "swav"
    repel_weight = 0.5

    @dataclass(frozen=True)
    class Hparams:
        """hidden, output: widths of the projector; prototypes: their number; unit_prototypes: without gain;
        temperature, distill_temperature, epsilon: > 0; iterations: of Sinkhorn; queue: features per view; queue_start,
        freeze: fractions of each task, in [0, 1], from which on the queue is used (1: never) and before which the
        prototypes stay as they are. Released CIFAR values of CaSSLe."""

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
        self.queue.copy_(torch.cat([unit(e.z), self.queue], 1)[:, : self.queue.shape[1]])
