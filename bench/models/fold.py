"""Networks that are only run, not trained: BatchNorm folded into the convolutions, weights in the precision they run
in."""

from copy import deepcopy

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse
from torch.fx.proxy import TraceError

from bench.models.syncnorm import part_


@torch.no_grad()
def folded(encoder: nn.Module, precision: str) -> nn.Module:
    """A copy of an encoder for eval mode, in which every BatchNorm directly behind a convolution is part of it.

    precision: with `bf16` the convolutions' weights are rounded once and not in every pass; run it under autocast. A
    network that torch.fx cannot trace is returned as it is.
    """
    plain = part_(deepcopy(encoder)).eval()
    if not any(type(module) is nn.BatchNorm2d for module in plain.modules()):
        return encoder
    try:
        copy: nn.Module = fuse(plain, inplace=True)
    except (TraceError, RuntimeError, TypeError, ValueError):
        return encoder
    for module in copy.to(memory_format=torch.channels_last).modules():
        if isinstance(module, nn.Conv2d) and precision == "bf16":
            module.to(torch.bfloat16)
    return copy.requires_grad_(False)
