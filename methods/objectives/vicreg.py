"""VICReg."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from methods.base import Embeddings, Objective
from methods.heads import mlp, per_view
from methods.losses import hinged_std, squared_covariance


class VICReg(Objective):
    """VICReg: invariance, variance and covariance (arXiv:2105.04906 eq. 6).

    Differs: the variance term is summed over the views, as in solo-learn, CaSSLe and PNR; the authors of VICReg
    average it (half of `variance`). Statistics are those of the global batch, in the reference of each GPU's share
    (`train.device_groups`). Sy-CON's repelling term needs a weight below the distillation's (25): from there on it has
    no lower bound.
    """

    name = "vicreg"
    distill_weight = 25.0
    repel_weight = 23.0

    @dataclass(frozen=True)
    class Hparams:
        """hidden, output: widths of the projector; invariance, variance, covariance: weights >= 0. Released values."""

        hidden: int = 2048
        output: int = 2048
        invariance: float = 25.0
        variance: float = 25.0
        covariance: float = 1.0

    def build(self, features: int) -> None:
        """Three-layer projector with BatchNorm."""
        hp = self.hparams
        self.projector = mlp(features, hp.hidden, hp.hidden, hp.output)

    def embed(self, h: Tensor, target: Tensor | None = None) -> Embeddings:
        """h: (2, N, F) -> projections."""
        return Embeddings(z=per_view(self.projector, h))

    def loss(self, e: Embeddings, extra: Tensor | None = None) -> Tensor:
        """Weighted sum of invariance (mean squared difference), variance and covariance (sums over views)."""
        hp = self.hparams
        a, b = e.z
        return (
            hp.invariance * F.mse_loss(a, b)
            + hp.variance * (hinged_std(a) + hinged_std(b))
            + hp.covariance * (squared_covariance(a) + squared_covariance(b))
        )

    def distill(
        self, student: Tensor, teacher: Tensor, own: Tensor | None = None, past: Tensor | None = None
    ) -> Tensor:
        """Mean squared difference over all entries."""
        return F.mse_loss(student, teacher)

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean squared difference over all entries."""
        return F.mse_loss(student, teacher)
