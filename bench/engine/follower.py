"""A process that helps another one train: every step of every task, and nothing else."""

from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load

from bench.engine.company import Parted, agree, await_first, check, hear, part, together
from bench.engine.plan import scenario_of
from bench.engine.runner import is_out_of_memory, what_to_lower
from bench.engine.stopping import Stopped, asked, in_steps
from bench.engine.task import Order, Training, build_learner
from bench.engine.train import Diverged, Progress, train_task
from bench.errors import UserError
from bench.torchrun import Gone


def follow(out: Path) -> None:
    """Trains along until the first process lets this one go; out: where datasets lie. Raises Gone."""
    with in_steps():
        while (order := hear()) is not None:
            try:
                with together():
                    _train_along(order, out)
            except (Diverged, Parted, Stopped):
                check()
            except (UserError, OSError, MemoryError, RuntimeError) as error:
                out_of_memory = is_out_of_memory(error)
                if isinstance(error, RuntimeError) and not out_of_memory:
                    raise
                text = what_to_lower(order.stage.run) if out_of_memory else str(error)
                raise Gone(f"process {dist.get_rank()} of this run fails: {text}") from None


def _train_along(order: Order, out: Path) -> None:
    run, task = order.stage.run, order.stage.task
    torch.set_num_threads(run.settings.numerics.threads)
    scenario = scenario_of(run, out)
    if scenario.dataset.digest != order.digest:
        raise UserError(f"{run.settings.data.dataset} is not the same here as where the first process runs")
    learner = build_learner(run, scenario, task)
    training = Training.of(order.stage, learner, scenario)
    training.restore(load(order.state))
    agree(0)  # see `stage`
    train_task(learner, training.optimizer, training.views, run.settings, order.start, _after_step, training.online)


def _after_step(progress: Progress) -> None:
    """Hears whether the first process saves, or any of them is asked to stop."""
    if progress.step == progress.steps:
        return
    signal, saves = agree(asked() or 0, 0)
    if signal or saves:
        await_first()
    if signal:
        part()
        raise Stopped(signal)
