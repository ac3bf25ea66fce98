"""Barlow Twins."""

from dataclasses import dataclass

from torch import Tensor

from methods.base import Embeddings, Objective
from methods.heads import mlp, per_view
from methods.losses import cross_correlation, negative_cosine


class BarlowTwins(Objective):
    """Barlow Twins: the views' cross-correlation towards the identity (arXiv:2103.03230 eq. 1).

    Pseudo-negatives repel by the cosine, not by a correlation, as released. Differs: statistics are those of the
    global batch; in the reference of each GPU's share (`train.device_groups`), whose correlations it averages outside
    autograd: on W GPUs its gradient, but not the cosine's, is 1 / W of the true one, as if `sycon.repel` were W times
    as high.
    """

    name = "barlow"
    repel_weight = 1.0

    @dataclass(frozen=True)
    class Hparams:
        """hidden, output: widths of the projector; off_diagonal, scale: weights >= 0. Released CIFAR values."""

        hidden: int = 2048
        output: int = 2048
        off_diagonal: float = 0.005
        scale: float = 0.1

    def build(self, features: int) -> None:
        """Three-layer projector with BatchNorm."""
        hp = self.hparams
        self.projector = mlp(features, hp.hidden, hp.hidden, hp.output)

    def embed(self, h: Tensor, target: Tensor | None = None) -> Embeddings:
        """h: (2, N, F) -> projections."""
        return Embeddings(z=per_view(self.projector, h))

    def loss(self, e: Embeddings, extra: Tensor | None = None) -> Tensor:
        """scale * (sum_i (C_ii - 1)^2 + off_diagonal * sum_{i != j} C_ij^2) between the two views."""
        return cross_correlation(e.z[0], e.z[1], self.hparams.off_diagonal, self.hparams.scale)

    def distill(
        self, student: Tensor, teacher: Tensor, own: Tensor | None = None, past: Tensor | None = None
    ) -> Tensor:
        """The same loss between g(z_v) and the frozen projection of the same view, averaged over views."""
        hp = self.hparams
        pairs = zip(student, teacher, strict=True)
        terms = [cross_correlation(s, t, hp.off_diagonal, hp.scale) for s, t in pairs]
        return (terms[0] + terms[1]) / 2

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean over views of -cos; range [-1, 1]."""
        return negative_cosine(student, teacher)
