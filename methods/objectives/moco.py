"""MoCo v2+."""

from dataclasses import dataclass

from torch import Tensor, nn

from methods.base import Embeddings, Objective
from methods.heads import Queue, Unit, cosine_tau, mlp, per_view
from methods.losses import info_nce, joint_info_nce, two_way_contrast


class MoCo(Objective):
    """MoCo v2+: InfoNCE of both views against queues of momentum keys (arXiv:1911.05722 eq. 1, head of
    arXiv:2003.04297).

    The loss is symmetric in the views and each view's keys have a queue of their own, as in the code of solo-learn,
    CaSSLe and PNR. Projections are unit vectors. Differs: the momentum network moves after every step, where the
    reference skips the first of a task and uses the rate of the step before (`train.ema_skip_first`).
    """

    name = "moco"
    contrastive = True
    momentum = True
    expected_failures = {"view_order": "each view has a queue of its own"}

    @dataclass(frozen=True)
    class Hparams:
        """hidden, output: widths of the projector; temperature, distill_temperature: > 0; queue: keys per view, at
        least a batch; tau_start, tau_end: momentum rate in [0, 1]. Released CIFAR values of PNR."""

        hidden: int = 2048
        output: int = 128
        temperature: float = 0.2
        queue: int = 65536
        tau_start: float = 0.99
        tau_end: float = 0.999
        distill_temperature: float = 0.2

    def build(self, features: int) -> None:
        """Linear - ReLU - Linear to unit vectors, without BatchNorm, and a queue of random keys."""
        hp = self.hparams
        self.projector = nn.Sequential(mlp(features, hp.hidden, hp.output, norm=False), Unit())
        self.pool = self.new_pool()

    def embed(self, h: Tensor, target: Tensor | None = None) -> Embeddings:
        """h, target: (2, N, F) -> unit projections and momentum keys."""
        assert target is not None
        return Embeddings(z=per_view(self.projector, h), k=per_view(self.target_projector, target))

    def loss(self, e: Embeddings, extra: Tensor | None = None) -> Tensor:
        """Mean over both views of InfoNCE(q_v; k of the other view | queue, extra); extra: (2, K, D)."""
        assert e.k is not None
        sets = [self.negatives(e)] if extra is None else [self.negatives(e), extra]
        return info_nce(e.z, e.k.flip(0), sets, self.hparams.temperature)

    def distill(
        self, student: Tensor, teacher: Tensor, own: Tensor | None = None, past: Tensor | None = None
    ) -> Tensor:
        """CaSSLe's two-way contrast, or with negatives InfoNCE towards the frozen projection of the same view."""
        student, temperature = Unit()(student), self.hparams.distill_temperature
        if own is None or past is None:
            return two_way_contrast(student, teacher, temperature)
        return info_nce(student, teacher, [own, past], temperature)

    def with_pseudo_negatives(
        self, e: Embeddings, student: Tensor, teacher: Tensor, past: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Both terms meet the same keys, and walk over them together."""
        assert e.k is not None
        anchors, positives = (e.z, Unit()(student)), (e.k.flip(0), teacher)
        temperatures = (self.hparams.temperature, self.hparams.distill_temperature)
        plasticity, stability = joint_info_nce(anchors, positives, [self.negatives(e), past], temperatures)
        return plasticity, stability

    def new_pool(self) -> Queue:
        """A queue of `queue` keys per view."""
        return Queue(self.hparams.queue, self.hparams.output)

    def negatives(self, e: Embeddings) -> Tensor:
        """Momentum keys of earlier batches, (2, K, D)."""
        assert e.k is not None
        return self.pool.read(e.k)

    def tau(self, progress: float) -> float:
        """Cosine from tau_start to tau_end over the task."""
        hp = self.hparams
        return cosine_tau(hp.tau_start, hp.tau_end, progress)

    def after_step(self, e: Embeddings, progress: float) -> None:
        """The batch's keys into the queue."""
        assert e.k is not None
        self.pool.push_(e.k)
