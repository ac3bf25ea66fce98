"""The law of several processes: two of them train like one, and agree bit for bit."""

import os
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from bench.contract.trial import Trial, packed
from bench.engine.checkpoint import load_tensors, save_tensors
from bench.engine.packing import start_server

WORLD = 2
Pair = tuple[str, str]


def world_size_faults(pairs: list[Pair]) -> dict[Pair, str]:
    """What is wrong with each pair on two gloo processes; an empty text where nothing is."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # that no parameter is left out is no news
    start_server()
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_rank, (pairs, folder), nprocs=WORLD, start_method="forkserver")
        return {pair: _compare(pair, Path(folder)) for pair in pairs}


def _compare(pair: Pair, folder: Path) -> str:
    ranks = [load_tensors(folder / f"{'-'.join(pair)}-{rank}.safetensors")[0] for rank in range(WORLD)]
    alone = _train(pair)
    for name, value in alone.items():
        if not torch.equal(ranks[0][name], ranks[1][name]):
            return f"ranks differ in {name}"
        if not torch.allclose(value.float(), ranks[0][name].float(), rtol=1e-3, atol=1e-5):
            return f"{name} is {float((value - ranks[0][name]).abs().max()):.1e} off one process"
    return ""


def _rank(rank: int, pairs: list[Pair], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    for pair in pairs:
        save_tensors(Path(folder) / f"{'-'.join(pair)}-{rank}.safetensors", _train(pair))
    dist.destroy_process_group()


def _train(pair: Pair) -> dict[str, Tensor]:
    """The state after some steps of a second task, of a residual network with BatchNorm."""
    trial = Trial.of(*pair)
    learner = trial.learner(1)
    trial.train(learner, 1, start=1)  # three steps
    return packed(learner.carried_state())
