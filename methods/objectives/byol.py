"""BYOL."""

from dataclasses import dataclass

from torch import Tensor

from methods.base import Embeddings, Objective
from methods.heads import cosine_tau, mlp, per_view
from methods.losses import cosine_distance


class BYOL(Objective):
    """BYOL: predict the momentum network's projection of the other view (arXiv:2006.07733 eq. 2).

    The two views' losses are summed, distillation and distance are averaged, as released. Differs: the momentum
    network moves after every step, where the reference skips the first of a task and uses the rate of the step before
    (`train.ema_skip_first`).
    """

    name = "byol"
    momentum = True
    repel_weight = 0.5

    @dataclass(frozen=True)
    class Hparams:
        """hidden, output, predictor_hidden: widths; tau_start, tau_end: momentum rate in [0, 1]. Released values."""

        hidden: int = 4096
        output: int = 256
        predictor_hidden: int = 4096
        tau_start: float = 0.99
        tau_end: float = 1.0

    def build(self, features: int) -> None:
        """Projector and predictor, each Linear - BatchNorm - ReLU - Linear."""
        hp = self.hparams
        self.projector = mlp(features, hp.hidden, hp.output)
        self.predictor = mlp(hp.output, hp.predictor_hidden, hp.output, track=False)

    def embed(self, h: Tensor, target: Tensor | None = None) -> Embeddings:
        """h, target: (2, N, F) -> projections, predictions, momentum projections."""
        assert target is not None
        z = per_view(self.projector, h)
        return Embeddings(z, per_view(self.predictor, z), per_view(self.target_projector, target))

    def loss(self, e: Embeddings, extra: Tensor | None = None) -> Tensor:
        """Sum over views of 2 - 2 cos(p_v, k of the other view); range [0, 8]."""
        assert e.p is not None
        assert e.k is not None
        return 2 * cosine_distance(e.p, e.k.flip(0))

    def distill(
        self, student: Tensor, teacher: Tensor, own: Tensor | None = None, past: Tensor | None = None
    ) -> Tensor:
        """Mean over views of 2 - 2 cos; range [0, 4]."""
        return cosine_distance(student, teacher)

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean over views of 2 - 2 cos; range [0, 4]."""
        return cosine_distance(student, teacher)

    def tau(self, progress: float) -> float:
        """Cosine from tau_start to tau_end over the task."""
        hp = self.hparams
        return cosine_tau(hp.tau_start, hp.tau_end, progress)
