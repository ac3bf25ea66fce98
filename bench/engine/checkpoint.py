"""Tensors and plain facts on disk: sealed safetensors with one JSON note, written whole or not at all; no pickle."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from bench.files import write_atomic
from bench.seal import OPEN, OWNER, Damaged, check_tensors, place_of, sealed_tensors


def save_tensors(
    path: Path,
    tensors: dict[str, Tensor],
    note: dict[str, Any] | None = None,
    write: Callable[[Path, bytearray], None] = write_atomic,
) -> None:
    """Writes tensors and a JSON note, sealed; equal content gives equal bytes. write: puts the bytes into the file."""
    text = json.dumps({**(note or {}), OWNER: place_of(path), "seal": OPEN}, sort_keys=True)
    write(path, sealed_tensors(save(on_cpu(tensors), {"note": text})))


def on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As safetensors takes them."""
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors on the CPU and the note of a file written by `save_tensors`; raises Damaged where it is not whole, not
    there, or of another place."""
    try:
        note = check_tensors(path)
    except FileNotFoundError:
        raise Damaged(path, "is gone") from None
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, note  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise Damaged(path, f"holds no tensors ({error})") from None


def training_state(learner: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Everything that a step changes: the learner with its teacher, and the optimizer's tensors."""
    state = {f"learner.{name}": value for name, value in learner.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{index}.{name}": value for name, value in values.items() if value is not None}
    return state


def restore_training_state(learner: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Tensor]) -> None:
    """Puts a `training_state` back, strictly: raises RuntimeError or KeyError for what does not fit."""
    mine = {n.removeprefix("learner."): v for n, v in state.items() if n.startswith("learner.")}
    learner.load_state_dict(mine, strict=True)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, value in state.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            index, _, field = rest.partition(".")
            parameter = parameters[int(index)]
            # A buffer laid out like its parameter keeps the order of sums, and with it the last bit.
            place = torch.empty_like(parameter) if value.shape == parameter.shape else torch.empty_like(value)
            optimizer.state[parameter][field] = place.copy_(value)
