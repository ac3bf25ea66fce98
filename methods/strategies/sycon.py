"""Sy-CON, published as PNR."""

from dataclasses import dataclass

from torch import Tensor

from methods.base import Embeddings, Objective, Strategy
from methods.heads import Pool, mlp, per_view


class SyCON(Strategy):
    """Sy-CON (PNR): pseudo-negatives of both models in learning and distillation (ICML 2024, PMLR 235, cha24a).

    Contrastive objectives: outputs of the frozen model join the negatives of the SSL loss, and those of both models
    are the negatives of the distillation. Others: what the frozen model makes of the other view is the
    pseudo-negative and repels g(z). Pools are read before the batch enters them. Differs: the two terms of the
    contrastive form have equal weight as released; `weight` lets them differ. The frozen model is in eval mode, as
    PNR's on ImageNet-100 and DomainNet; on CIFAR-100 PNR's falls back to train mode after the first epoch of a task
    (`train.teacher_bn: reference`).
    """

    name = "sycon"
    aliases = ("pnr",)
    teacher = True
    pseudo_negatives = True

    @dataclass(frozen=True)
    class Hparams:
        """weight: of the distillation, >= 0; repel: of the repelling term, >= 0 (None: as released for the objective);
        hidden: width of g; pseudo_negatives: off leaves CaSSLe."""

        weight: float | None = None
        repel: float | None = None
        hidden: int = 2048
        pseudo_negatives: bool = True

    def build(self, objective: Objective, image: tuple[int, int, int]) -> None:
        """g: Linear - BatchNorm - ReLU - Linear, and a pool of frozen projections where the objective contrasts."""
        hp = self.hparams
        g = mlp(objective.dim, hp.hidden, objective.dim, track=False)
        self.predictor = g.extend(objective.student_head())
        self.weight = objective.distill_weight if hp.weight is None else hp.weight
        self.repel = objective.repel_weight if hp.repel is None else hp.repel
        self.past: Pool | None = objective.new_pool() if objective.contrastive else None

    def loss(self, objective: Objective, e: Embeddings, frozen: Tensor | None) -> Tensor:
        """SSL loss and distillation with pseudo-negatives in both, or minus `repel` times their distance."""
        assert frozen is not None
        g = per_view(self.predictor, e.z)
        if not self.hparams.pseudo_negatives:
            return objective.loss(e) + self.weight * objective.distill(g, frozen)
        if self.past is not None:
            plasticity, stability = objective.with_pseudo_negatives(e, g, frozen, self.past.read(frozen))
            return plasticity + self.weight * stability
        repelled = objective.distance(g, frozen.flip(0))
        return objective.loss(e) + self.weight * objective.distill(g, frozen) - self.repel * repelled

    def after_step(self, e: Embeddings, frozen: Tensor | None) -> None:
        """The frozen projections of the batch enter the pool."""
        if self.past is not None:
            assert frozen is not None
            self.past.push_(frozen)

    @classmethod
    def ignores(cls, objective: type[Objective]) -> frozenset[str]:
        """Contrastive objectives have no repelling term."""
        return super().ignores(objective) | ({"repel"} if objective.contrastive else set())
