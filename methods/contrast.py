"""The denominator of contrastive losses, without storing the matrix of logits.

A step against queues has N x K logits, by far the largest tensor of MoCo and Sy-CON. They are made in chunks of keys
small enough for the cache: one pass gives the sum of their exponentials and the keys weighted by them, which is the
gradient. (Attention is computed so in arXiv:2205.14135.)
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

Mode = Literal["exact", "bf16", "stored"]
_mode: ContextVar[Mode] = ContextVar("mode", default="exact")
_CACHED = 1 << 18  # logits of a chunk on a CPU
_ON_DEVICE = 1 << 24
_STEEP = 40.0  # 1 / temperature from where exp(cos / temperature) may leave float32's range
_ONES = 32  # columns, a whole tile of the processor's matrix unit


@contextmanager
def using(mode: Mode) -> Iterator[None]:
    """How `log_partition` works inside: `exact`, in the precision of its input (the default); `bf16`, products with
    queues in bfloat16, sums in float32; `stored`, all logits in memory as in released code."""
    token = _mode.set(mode)
    try:
        yield
    finally:
        _mode.reset(token)


def log_partition(rows: Tensor, keys: Sequence[Tensor], temperature: float, *, but_self: bool = False) -> Tensor:
    """log sum_j exp(rows_i . k_j / temperature) over all keys, (n,), with gradient to rows and keys.

    rows: (n, D), keys: sets (K, D), no row longer than 1; temperature > 0. but_self: entry i of every set is no
    candidate of row i. Mode `bf16` holds for keys without gradient (queues): from 1,000 keys on, the value is then
    within 5e-4 of the exact one and the gradient within 5e-3, relatively; bf16 encoders round more than that.
    """
    mode = _mode.get()
    in_batch = but_self or any(k.requires_grad for k in keys)
    one_chunk = sum(map(len, keys)) <= _chunk_size(rows)
    if mode == "stored" or (in_batch and one_chunk):  # what the cache holds is best kept for the backward pass
        return _stored(rows, keys, temperature, but_self)
    rounded = mode == "bf16" and not in_batch and temperature * _STEEP >= 1
    result: Tensor = _LogPartition.apply(rows, temperature, but_self, rounded, *keys)
    return result


def _stored(rows: Tensor, keys: Sequence[Tensor], temperature: float, but_self: bool) -> Tensor:
    logits = torch.cat([rows @ k.T for k in keys], -1) / temperature
    if but_self:
        same = torch.eye(len(rows), dtype=torch.bool, device=rows.device).repeat(1, len(keys))
        logits = logits.masked_fill(same, float("-inf"))
    return logits.logsumexp(-1)


class _LogPartition(torch.autograd.Function):
    """Keeps the weighted keys for the backward pass, and walks again over those keys only that take a gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, temperature: float, but_self: bool, rounded: bool, *keys: Tensor) -> Tensor:
        scaled = rows / temperature
        if rounded:
            result, mean_key = _rounded_sums(scaled, keys)
        else:
            result, mean_key = _sums(scaled, keys, but_self, steep=temperature * _STEEP < 1)
        walked = keys if any(ctx.needs_input_grad[4:]) else ()
        ctx.save_for_backward(mean_key, result, scaled, *walked)
        ctx.temperature, ctx.but_self = temperature, but_self
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        mean_key, result, scaled, *keys = ctx.saved_tensors
        grad = grad.unsqueeze(1)
        of_rows = grad * mean_key / ctx.temperature if ctx.needs_input_grad[0] else None
        wanted = ctx.needs_input_grad[4:]
        of_keys: list[Tensor | None] = [None] * len(wanted)
        for index in [i for i, needed in enumerate(wanted) if needed]:
            of_keys[index] = _key_gradient(scaled, keys[index], result.unsqueeze(1), grad, ctx.but_self)
        return of_rows, None, None, None, *of_keys


def _sums(scaled: Tensor, keys: Sequence[Tensor], but_self: bool, steep: bool) -> tuple[Tensor, Tensor]:
    """Logarithm of the total (n,) and mean key (n, D) under the softmax."""
    total, weighted = scaled.new_zeros(len(scaled), 1), torch.zeros_like(scaled)
    level = scaled.new_full((len(scaled), 1), float("-inf")) if steep else torch.zeros_like(total)
    for k in keys:
        for start, chunk in _chunks(k, scaled):
            logits = _logits(scaled, chunk, start, but_self)
            if steep:  # the largest logit so far is moved to zero
                higher = torch.maximum(level, logits.amax(1, keepdim=True))
                fade = (level - higher).exp_()
                total.mul_(fade)
                weighted.mul_(fade)
                level = higher
                logits.sub_(level)
            logits.exp_()
            total.add_(logits.sum(1, keepdim=True))
            weighted.addmm_(logits, chunk)
    return total.log().add_(level).squeeze(1), weighted.div_(total)


def _rounded_sums(scaled: Tensor, keys: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """`_sums` with products of bfloat16; columns of ones behind the keys make the total one of the weighted sums."""
    rows, dim = scaled.bfloat16(), scaled.shape[1]
    sums = scaled.new_zeros(len(rows), dim + _ONES)
    padded = _padded(min(_chunk_size(scaled), max(map(len, keys))), dim, rows.device)
    for k in keys:
        for _, chunk in _chunks(k, scaled):
            behind = padded[: len(chunk)]
            behind[:, :dim].copy_(chunk)
            sums.add_((rows @ behind[:, :dim].T).exp_() @ behind)
    total = sums[:, dim]
    return total.log(), sums[:, :dim] / total.unsqueeze(1)


@lru_cache(maxsize=4)
def _padded(size: int, dim: int, device: torch.device) -> Tensor:
    """Room for keys with ones behind them; what is in the first `dim` columns is nobody's."""
    return torch.ones(size, dim + _ONES, dtype=torch.bfloat16, device=device)


def _key_gradient(scaled: Tensor, k: Tensor, result: Tensor, grad: Tensor, but_self: bool) -> Tensor:
    gradient = torch.empty_like(k)
    for start, chunk in _chunks(k, scaled):
        probabilities = _logits(scaled, chunk, start, but_self).sub_(result).exp_()
        torch.mm(probabilities.mul_(grad).T, scaled, out=gradient[start : start + len(chunk)])
    return gradient


def _logits(scaled: Tensor, chunk: Tensor, start: int, but_self: bool) -> Tensor:
    logits = scaled @ chunk.T
    if but_self:
        logits.diagonal(-start).fill_(float("-inf"))
    return logits


def _chunks(k: Tensor, rows: Tensor) -> Iterator[tuple[int, Tensor]]:
    size = _chunk_size(rows)
    for start in range(0, len(k), size):
        yield start, k[start : start + size]


def _chunk_size(rows: Tensor) -> int:
    logits = _CACHED if rows.device.type == "cpu" else _ON_DEVICE
    return max(_ONES, logits // len(rows) // _ONES * _ONES)
