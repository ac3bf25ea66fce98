"""The law of several processes: two of them train like one, and agree bit for bit."""

import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from bench.contract.trial import Trial, packed
from bench.engine.checkpoint import load_tensors, save_tensors
from bench.models.gather import gather, sum_gradients_
from bench.models.learner import Learner
from bench.models.optim import build_optimizer, set_learning_rate
from methods import registry

WORLD, STEPS, WIDTH = 2, 3, 6
Pair = tuple[str, str]


def world_size_faults(pairs: list[Pair]) -> dict[Pair, str]:
    """What is wrong with each pair on two gloo processes; an empty text where nothing is."""
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_rank, (pairs, folder), nprocs=WORLD, start_method="spawn")
        return {pair: _compare(pair, Path(folder)) for pair in pairs}


def _compare(pair: Pair, folder: Path) -> str:
    ranks = [load_tensors(folder / f"{'-'.join(pair)}-{rank}.safetensors")[0] for rank in range(WORLD)]
    alone = _train(pair, 0, 1)
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
        save_tensors(Path(folder) / f"{'-'.join(pair)}-{rank}.safetensors", _train(pair, rank, WORLD))
    dist.destroy_process_group()


def _train(pair: Pair, rank: int, world: int) -> dict[str, Tensor]:
    trial = Trial.of(*pair)
    strategy, objective = (registry.get(kind, name) for kind, name in zip(("strategy", "objective"), pair, strict=True))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # Without BatchNorm in the encoder, whose statistics are those of a process.
        encoder = nn.Sequential(nn.Conv2d(1, WIDTH, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        o = objective(WIDTH, objective.Hparams(**trial.run.objective_hparams))
        s = strategy(o, (1, 8, 8), strategy.Hparams(**trial.run.strategy_hparams))
    learner = Learner(encoder, o, s, gather=gather if world > 1 else None)
    learner.start_task()
    optimizer = build_optimizer(learner, trial.run.settings.optim, learner.constant_lr)
    views = trial.views(0)
    for step in range(STEPS):
        set_learning_rate(optimizer, 0.05, 0.05)
        batch = views(step // 2, step % 2)
        learner.before_step(step / STEPS)
        output = learner(batch.chunk(world, 1)[rank])
        optimizer.zero_grad()
        output.loss.backward()
        if world > 1:
            sum_gradients_(learner.encoder)
        optimizer.step()
        learner.after_step(output, step / STEPS)
    return packed(learner.carried_state())
