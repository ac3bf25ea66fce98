"""SimCLR."""

from dataclasses import dataclass

from torch import Tensor

from methods.base import Embeddings, Objective
from methods.heads import InBatch, Unit, mlp, per_view
from methods.losses import nt_xent, pseudo_nt_xent, two_way_contrast

unit = Unit()


class SimCLR(Objective):
    """SimCLR: NT-Xent within the batch (arXiv:2002.05709 eq. 1).

    Differs: negatives are the global batch, in the reference each GPU's share (`train.device_groups`). With
    pseudo-negatives the released code takes the distillation temperature in both terms and leaves the positive of the
    distillation out of its own denominator; here the first term keeps `temperature` (equal in all released scripts) and
    `pseudo_decoupled` says which form the second has.
    """

    name = "simclr"
    contrastive = True

    @dataclass(frozen=True)
    class Hparams:
        """hidden, output: widths of the projector; temperature, distill_temperature: > 0; pseudo_decoupled: positive
        out of the denominator of Sy-CON's distillation. Released CIFAR values of PNR."""

        hidden: int = 2048
        output: int = 128
        temperature: float = 0.2
        distill_temperature: float = 0.2
        pseudo_decoupled: bool = True

    def build(self, features: int) -> None:
        """Linear - ReLU - Linear, without BatchNorm."""
        self.projector = mlp(features, self.hparams.hidden, self.hparams.output, norm=False)

    def embed(self, h: Tensor, target: Tensor | None = None) -> Embeddings:
        """h: (2, N, F) -> projections, not normalised."""
        return Embeddings(z=per_view(self.projector, h))

    def loss(self, e: Embeddings, extra: Tensor | None = None) -> Tensor:
        """NT-Xent over both views; extra: (2, N, D), row by row the frozen projections of the same images."""
        return nt_xent(unit(e.z), self.hparams.temperature, None if extra is None else unit(extra))

    def distill(
        self, student: Tensor, teacher: Tensor, own: Tensor | None = None, past: Tensor | None = None
    ) -> Tensor:
        """CaSSLe's two-way contrast, or with negatives Sy-CON's form of it."""
        hp = self.hparams
        if own is None or past is None:
            return two_way_contrast(unit(student), unit(teacher), hp.distill_temperature)
        p, frozen, own, past = (unit(x) for x in (student, teacher, own, past))
        return pseudo_nt_xent(p, frozen, own, past, hp.distill_temperature, hp.pseudo_decoupled)

    def new_pool(self) -> InBatch:
        """The batch is the pool."""
        return InBatch()

    def negatives(self, e: Embeddings) -> Tensor:
        """The batch's own projections, with gradient."""
        return e.z
