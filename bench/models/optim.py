"""Optimizers and learning rates as functions of the step."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from bench.config import OptimConfig


class LARS(torch.optim.Optimizer):
    """SGD with momentum on layer-wise scaled gradients (arXiv:1708.03888), with LARC clipping as CaSSLe and PNR use it.

    Per parameter r = eta |w| / (|g| + weight_decay |w| + 1e-8), clipped to r / lr <= 1; then g <- r (g + weight_decay
    w). No scaling and no decay where |w| or |g| is zero, nor for excluded groups. Gradients are read when they exist,
    so it is the same in every precision. Differs: the released wrapper is silently off outside fp16.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 0.02,
        clip: bool = True,
    ) -> None:
        """A group with `exclude=True` takes plain gradients."""
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eta": eta, "clip": clip}
        super().__init__(params, {**defaults, "exclude": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads = [p.grad for p in params]
            if not group["exclude"]:
                grads = self._scaled(params, grads, group)
            buffers = []
            for p in params:
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                buffers.append(self.state[p]["momentum_buffer"])
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, grads)
            torch._foreach_add_(params, buffers, alpha=-group["lr"])

    @staticmethod
    def _scaled(params: list[Tensor], grads: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        decay = group["weight_decay"]
        w = torch.stack(torch._foreach_norm(params))
        g = torch.stack(torch._foreach_norm(grads))
        rate = group["eta"] * w / (g + decay * w + 1e-8)
        if group["clip"]:
            rate = (rate / max(group["lr"], 1e-30)).clamp(max=1.0)
        active = (w > 0) & (g > 0)
        rates = list(torch.where(active, rate, 1.0).unbind())
        decays = list((decay * active.to(w.dtype)).unbind())
        decayed = torch._foreach_add(grads, torch._foreach_mul(params, decays))
        torch._foreach_mul_(decayed, rates)
        return list(decayed)


def build_optimizer(module: nn.Module, config: OptimConfig, constant: Iterable[str]) -> torch.optim.Optimizer:
    """The optimizer over the trainable parameters of a module, in the order of their names.

    constant: prefixes of parameter names whose learning rate does not follow the schedule. One-dimensional parameters
    (biases, norms) take no decay and no scaling where `exclude_bias_and_norm`.
    """
    _leave_the_compiler_out()
    prefixes = tuple(constant)
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            exclude = config.exclude_bias_and_norm and parameter.ndim <= 1
            groups.setdefault((exclude, name.startswith(prefixes) if prefixes else False), []).append(parameter)
    options: list[dict[str, Any]] = [
        {"params": params, "exclude": exclude, "constant": constant_lr}
        for (exclude, constant_lr), params in groups.items()
    ]
    if config.name == "lars":
        return LARS(options, config.lr, config.momentum, config.weight_decay, config.eta, config.clip)
    for option in options:
        option["weight_decay"] = 0.0 if option["exclude"] else config.weight_decay
    if config.name == "sgd":
        return torch.optim.SGD(options, config.lr, config.momentum)
    return torch.optim.AdamW(options, config.lr)


def _leave_the_compiler_out() -> None:
    """Building any optimizer would import torch's compiler, which takes seconds, only to tell it that these functions
    are not to be compiled; nothing that we compile calls them."""
    for name in ("add_param_group", "zero_grad"):
        plain = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if plain is not None:
            vars(plain).setdefault("__dynamo_disable", plain)


def learning_rate(config: OptimConfig, step: int, steps: int, steps_per_epoch: int) -> float:
    """Linear warm-up, then a cosine to `min_lr`, by step or by epoch; both restart with each task.

    By epoch as released: the warm-up reaches the peak in its last epoch, and the cosine begins with the next, so that
    two epochs (9 and 10 of a warm-up of 10) have the peak.
    """
    if config.schedule == "epoch":
        return _rate_of_epoch(config, step // steps_per_epoch, steps // steps_per_epoch)
    warmup = min(round(config.warmup_epochs * steps_per_epoch), steps)
    if step < warmup:
        start = min(config.warmup_start_lr, config.lr)
        return start + (config.lr - start) * step / warmup
    return _cosine(config, (step - warmup) / max(1, steps - warmup))


def _rate_of_epoch(config: OptimConfig, epoch: int, epochs: int) -> float:
    warmup = int(config.warmup_epochs)
    if epoch < warmup:
        start = min(config.warmup_start_lr, config.lr)
        return start + (config.lr - start) * epoch / max(1, warmup - 1)
    return _cosine(config, (epoch - warmup) / max(1, epochs - warmup))


def _cosine(config: OptimConfig, progress: float) -> float:
    return config.min_lr + (config.lr - config.min_lr) * (1 + math.cos(math.pi * progress)) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float, base: float) -> None:
    """Gives every group the rate of the schedule, and constant groups the base rate."""
    for group in optimizer.param_groups:
        group["lr"] = base if group["constant"] else lr
