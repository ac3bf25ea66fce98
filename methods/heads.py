"""Parts that objectives and strategies share: projection heads, the momentum update, pools of negatives."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


class Unit(nn.Module):
    """Scales rows to unit length."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, D) -> (N, D)."""
        return F.normalize(x, dim=-1)


def mlp(*widths: int, norm: bool = True, track: bool = True) -> nn.Sequential:
    """Linear - BatchNorm - ReLU blocks over the given widths, ending in a Linear.

    norm: with BatchNorm; track: whether it keeps running statistics (heads never used in eval mode need none).
    """
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths[:-1]):
        layers.append(nn.Linear(n_in, n_out))
        if norm:
            layers.append(nn.BatchNorm1d(n_out, track_running_stats=track))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def per_view(head: nn.Module, x: Tensor) -> Tensor:
    """The head on each view by itself, so that BatchNorm never mixes views; x: (2, N, F) -> (2, N, D).

    Layers without BatchNorm take both views at once: a layer of another kind that couples rows needs a loop of its own.
    """
    if type(head) is nn.Sequential:
        for layer in head:
            x = per_view(layer, x)
        return x
    if any(isinstance(module, _BatchNorm) for module in head.modules()):
        return torch.stack([head(view) for view in x])
    rows: Tensor = head(x.flatten(0, 1))
    return rows.unflatten(0, x.shape[:2])


class Prototypes(nn.Module):
    """Scores against K weight-normalised prototypes without bias: gain_k * v_k / |v_k| (arXiv:1602.07868)."""

    def __init__(self, dim: int, count: int, gain: bool = True) -> None:
        """gain: learnt, at first the length of v as a Linear starts; without it prototypes are unit vectors."""
        super().__init__()
        self.direction = nn.Linear(dim, count, bias=False).weight
        self.gain = nn.Parameter(self.direction.detach().norm(dim=1, keepdim=True)) if gain else None

    def weight(self) -> Tensor:
        """(K, D), with gradient."""
        rows = F.normalize(self.direction, dim=1)
        return rows if self.gain is None else self.gain * rows

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, D) -> (N, K)."""
        return x @ self.weight().T


@torch.no_grad()
def ema_(target: nn.Module, source: nn.Module, tau: float) -> None:
    """target <- tau * target + (1 - tau) * source, parameters only: BatchNorm buffers keep their own statistics."""
    torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), 1.0 - tau)


def cosine_tau(start: float, end: float, progress: float) -> float:
    """Momentum rate from start to end along a half cosine (BYOL, arXiv:2006.07733); progress in [0, 1]."""
    return end - (end - start) * (1 + math.cos(math.pi * progress)) / 2


class Pool(nn.Module):
    """A store of negatives."""

    def read(self, current: Tensor) -> Tensor:
        """Negatives by anchor view, (2, K, D); current: the batch (2, N, D)."""
        raise NotImplementedError

    def push_(self, current: Tensor) -> None:
        """Takes in the batch (2, N, D)."""
        raise NotImplementedError


class Queue(Pool):
    """First-in-first-out keys of past batches, one ring per view (MoCo, arXiv:1911.05722, symmetric form).

    `keys[v]` (K, D) is what anchors of view v meet: keys of the other view, as their positive is. Starts as random
    unit rows.
    """

    keys: Tensor
    pointer: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(2, size, dim), dim=-1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    def read(self, current: Tensor) -> Tensor:
        """Negatives (2, K, D) by anchor view; the current batch (2, N, D) is not among them."""
        return self.keys

    @torch.no_grad()
    def push_(self, current: Tensor) -> None:
        """Writes the batch (2, N, D) over the oldest keys; raises ValueError where N > K."""
        size, count = self.keys.shape[1], current.shape[1]
        if count > size:
            raise ValueError(f"a batch of {count} does not fit into a queue of {size} keys")
        slots = (self.pointer + torch.arange(count, device=current.device)) % size
        self.keys[:, slots] = current.flip(0)
        self.pointer.copy_((self.pointer + count) % size)


class InBatch(Pool):
    """Negatives are the current batch itself (SimCLR); nothing is stored."""

    def read(self, current: Tensor) -> Tensor:
        """The current batch (2, N, D); which of it is no negative of an anchor is the loss's to say."""
        return current

    def push_(self, current: Tensor) -> None:
        """Nothing to store."""
