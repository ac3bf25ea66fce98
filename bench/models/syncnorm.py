"""BatchNorm over the batch of all processes: the encoder's, as heads see the joined features anyway."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from bench.errors import UserError
from bench.models.gather import group_of, processes

KNOWN = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "BatchNormAct2d")
"""Layers whose forward pass is known: torch's, and timm's with a dropout and an activation behind it."""


class JointNorm(_BatchNorm):
    """What `join_` makes of a layer on a CPU. plain: the class that it had."""

    plain: Any

    def _check_input_dim(self, input: Tensor) -> None:
        """Of any number of dimensions."""

    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        """x: (n, C, ...) of this process -> the same shape."""
        return _activated(self, _normalised(self, x) if self.training else super().forward(x))


class JointNormOnGPU(nn.SyncBatchNorm):
    """The same on a GPU: torch's own, over the group of GPUs."""

    plain: Any

    @property
    def process_group(self) -> Any:  # type: ignore[override]
        """Not kept in the layer, which could not be copied then."""
        return group_of(torch.device("cuda"))

    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        """x: (n, C, ...) of this process -> the same shape."""
        return _activated(self, super().forward(x))


def join_(encoder: nn.Module, device: str) -> nn.Module:
    """Makes every BatchNorm of an encoder, in training mode, normalise by the statistics of all processes' batches,
    which have one size; names and shapes of the state stay as they are.

    device: that it will be on. Raises UserError for an unknown layer.
    """
    for module in encoder.modules():
        if isinstance(module, _BatchNorm):
            plain = type(module)
            if plain.__name__ not in KNOWN:
                name = plain.__name__
                raise UserError(f"{name} of this encoder cannot share its statistics: train it in one process")
            # The layer stays the same object, with its tensors, hooks and mode: only its arithmetic is another.
            module.__class__ = JointNormOnGPU if device == "cuda" else JointNorm
            module.plain = plain  # type: ignore[assignment]
    return encoder


def part_(encoder: nn.Module) -> nn.Module:
    """Takes `join_` back."""
    for module in encoder.modules():
        if isinstance(module, JointNorm | JointNormOnGPU):
            module.__class__ = module.plain
    return encoder


def _activated(layer: nn.Module, y: Tensor) -> Tensor:
    """Behind timm's layers, a dropout and an activation."""
    for name in ("drop", "act"):
        if hasattr(layer, name):
            y = getattr(layer, name)(y)
    return y


def _normalised(layer: Any, x: Tensor) -> Tensor:
    y: Tensor
    y, mean, var = _Normalise.apply(x, layer.weight, layer.bias, layer.eps)
    if layer.track_running_stats:
        layer.num_batches_tracked.add_(1)
        rate = 1 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
        count = x.numel() // x.shape[1] * processes()
        with torch.no_grad():
            layer.running_mean.lerp_(mean, rate)
            layer.running_var.lerp_(var * (count / (count - 1)), rate)
    return y


class _Normalise(torch.autograd.Function):
    """(x, weight, bias, eps) -> x normalised, mean (C,) and biased variance (C,) over the batch of all processes."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.axes = [0, *range(2, x.dim())]
        var, mean = (part.double() for part in torch.var_mean(x.float(), ctx.axes, correction=0))
        mean, square = _mean_over_processes(torch.stack([mean, var + mean.square()]))
        var = (square - mean.square()).clamp_min(0).float()
        mean = mean.float()
        ctx.eps = eps
        ctx.save_for_backward(x, weight, mean, var)
        ctx.mark_non_differentiable(mean, var)
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps), mean, var

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var = ctx.saved_tensors
        shape = [1, -1] + [1] * (x.dim() - 2)
        scale = (var + ctx.eps).rsqrt()
        standard = (x.float() - mean.view(shape)) * scale.view(shape)
        dy = grad.float()
        of_bias, of_weight = dy.sum(ctx.axes), (dy * standard).sum(ctx.axes)
        # Those of the parameters are of this process' rows: DistributedDataParallel joins them.
        count = x.numel() // x.shape[1]
        shift, slope = _mean_over_processes(torch.stack([of_bias, of_weight]).double()).float() / count
        dx = (dy - shift.view(shape) - standard * slope.view(shape)) * scale.view(shape)
        if weight is None:
            return dx.to(x.dtype), None, None, None
        return (dx * weight.view(shape)).to(x.dtype), of_weight, of_bias, None


def _mean_over_processes(values: Tensor) -> Tensor:
    """In place, float64: rounding must not depend on how the batch is divided."""
    dist.all_reduce(values, group=group_of(values.device))
    return values.div_(processes())
