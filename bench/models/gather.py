"""One batch over several processes: each encodes its part of the images, features are joined behind the encoder, and
all maths from there on is the same everywhere."""

from datetime import timedelta
from functools import lru_cache
from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench.errors import UserError

# Buffers are computed alike everywhere; the option has had another name since torch 2.13.
_OPTIONS = signature(DistributedDataParallel).parameters
BUFFERS_STAY: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in _OPTIONS else "broadcast_buffers": False
}
SILENCE = timedelta(seconds=45)
"""How long a collective of NCCL, which does not notice a process that has gone, may take."""


def processes() -> int:
    """How many train one run together; 1 outside of a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def share(count: int) -> slice:
    """This process's part of so many images; raises UserError where they do not divide among the processes."""
    world = processes()
    if world == 1:
        return slice(0, count)
    if count % world:
        raise UserError(f"a batch of {count} does not divide among {world} processes")
    part = count // world
    return slice(dist.get_rank() * part, (dist.get_rank() + 1) * part)


def group_of(device: torch.device) -> dist.ProcessGroup:
    """Who works together on tensors of a device: over gloo on a CPU, over NCCL on a GPU.

    All processes call it first at the same moment, for the same device.
    """
    world = dist.group.WORLD
    assert world is not None
    return _on_gpus(world) if device.type == "cuda" else world


@lru_cache(maxsize=1)
def _on_gpus(world: dist.ProcessGroup) -> dist.ProcessGroup:
    """NCCL's group beside the one of all processes, which is gloo's."""
    group: Any = dist.new_group(backend="nccl", timeout=SILENCE)
    return group


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        ctx.count = h.shape[1]
        parts = [torch.empty_like(h) for _ in range(processes())]
        dist.all_gather(parts, h.contiguous(), group_of(h.device))
        return torch.cat(parts, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # Every process holds the whole loss, so the gradient of its own rows is complete as it stands. The encoder's is
        # the sum over the processes, where DistributedDataParallel takes the mean: that of the heads, equal everywhere.
        return grad.narrow(1, dist.get_rank() * ctx.count, ctx.count) * processes()


def gather(h: Tensor) -> Tensor:
    """Features (2, n, F) of this process -> (2, N, F) of all, in the order of ranks, with gradient to the own rows."""
    joined: Tensor = _Gather.apply(h)
    return joined


def in_parallel(learner: nn.Module) -> nn.Module:
    """What to call in place of the learner, so that all processes get the gradients of the whole batch: the learner
    itself where there is one process. Names and states of the learner stay as they are."""
    if processes() == 1:
        return learner
    device = next(learner.parameters()).device
    # Heads may leave a parameter out in some steps; and where that is looked for, gradients are never arranged anew,
    # which keeps the order of sums, and with it the last bits of a run that goes on.
    return DistributedDataParallel(learner, process_group=group_of(device), find_unused_parameters=True, **BUFFERS_STAY)
