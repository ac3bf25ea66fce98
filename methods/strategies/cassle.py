"""CaSSLe."""

from dataclasses import dataclass

from torch import Tensor

from methods.base import Embeddings, Objective, Strategy
from methods.heads import mlp, per_view


class CaSSLe(Strategy):
    """CaSSLe: a predictor g maps the new projections onto the frozen model's, by the SSL loss itself
    (arXiv:2112.04215).

    g is new at the first distilled task and carried on. Differs: the frozen model runs with its running BatchNorm
    statistics (`train.teacher_bn: eval`), the released code with those of the batch (`train`). g learns at the rate of
    all else for any `weight`; the released predictive distillation divides it by a weight below 1.
    """

    name = "cassle"
    teacher = True

    @dataclass(frozen=True)
    class Hparams:
        """weight: of the distillation, >= 0 (None: as released for the objective); hidden: width of g."""

        weight: float | None = None
        hidden: int = 2048

    def build(self, objective: Objective, image: tuple[int, int, int]) -> None:
        """g: Linear - BatchNorm - ReLU - Linear, in and out as wide as the projections."""
        hp = self.hparams
        g = mlp(objective.dim, hp.hidden, objective.dim, track=False)
        self.predictor = g.extend(objective.student_head())
        self.weight = objective.distill_weight if hp.weight is None else hp.weight

    def loss(self, objective: Objective, e: Embeddings, frozen: Tensor | None) -> Tensor:
        """SSL loss + weight * distillation(g(z), frozen)."""
        assert frozen is not None
        return objective.loss(e) + self.weight * objective.distill(per_view(self.predictor, e.z), frozen)
