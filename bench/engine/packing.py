"""Stages side by side: the server that their workers are forked from, and how many of them are worth it.

Torch is imported inside functions, by who needs it: the server can start while the process that asks for it still
imports torch itself.
"""

import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from bench.engine.stopping import SIGNALS, Stopped, listening
from bench.output import make_output_last

if TYPE_CHECKING:
    from bench.engine.plan import Plan, Stage

PRELOAD = ("bench.engine.stage", "torch._dynamo")
"""All that a stage needs; the second is what building any optimizer imports."""
WARM_UP = 2
"""Training steps before a measurement."""
SECONDS = 3.0
"""Of a measurement, after its warm-up."""
NEAR = 0.95
"""Fraction of the best throughput that is as good as the best."""
GPU_JOBS = 8
"""At most so many share a GPU."""
GRACE_SECONDS = 60.0
"""For workers to finish a step and save it: as long as the step of a large network may take."""
HEADROOM = 1.5
"""Device memory of a worker in units of the measured: later tasks hold a teacher beside the first."""


@dataclass(frozen=True)
class Worker:
    """A process and this end of its pipe."""

    process: ForkServerProcess
    pipe: Connection


def start_server() -> ForkServerContext:
    """Context of processes that are forked from one server, which starts here if it has not and imports `PRELOAD`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    resource_tracker.ensure_running()  # before interrupts are held back: it lets them through again
    with _search_path_for_children(), _without_interrupts():
        forkserver.ensure_running()
    return context


@contextmanager
def _search_path_for_children() -> Iterator[None]:
    """Children import what this process would: else the server prefers its working directory and knows no other."""
    ours = {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)), "PYTHONSAFEPATH": "1"}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Server and workers inherit that signals are blocked: this process hears them, and asks workers to end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker(target: Callable[..., None], *args: Any) -> Worker:
    """Calls `target(pipe, *args)` in a process of its own, with the other end of the worker's pipe."""
    context = start_server()
    mine, theirs = context.Pipe()
    process = context.Process(target=_follow, args=(target, theirs, *args), daemon=True)
    process.start()
    theirs.close()
    return Worker(process, mine)


def _follow(target: Callable[..., None], *args: Any) -> None:
    """In a worker: its work, which ends at once when the process that started it is gone, however it was killed, and in
    good order when that process or a cluster asks for it."""
    make_output_last()
    Thread(target=_end_with_the_runner, daemon=True).start()
    try:
        with listening():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, set(SIGNALS) - {signal.SIGINT})
            target(*args)
    except Stopped as stopped:
        raise SystemExit(stopped.status) from None


def end_workers(workers: Collection[Worker]) -> None:
    """Asks workers to end, gives them `GRACE_SECONDS` to finish a step and save it, and ends those that have not."""
    try:
        for worker in workers:
            worker.process.terminate()
        end = time.monotonic() + GRACE_SECONDS
        for worker in workers:
            worker.process.join(max(0.0, end - time.monotonic()))
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()


def _end_with_the_runner() -> None:
    runner = multiprocessing.parent_process()
    assert runner is not None
    runner.join()
    os._exit(1)  # a successor sees that the process is gone, and takes the stage over


class WorkerFailed(Exception):
    """A worker did not get through its steps; the message says why."""


@dataclass(frozen=True)
class Throughput:
    """What workers reached side by side: their images per second together, and how many of them memory has room for."""

    rate: float
    room: float = math.inf


def measure_together(stage: "Stage", out: Path, jobs: int, seconds: float = SECONDS) -> Throughput:
    """Trains a stage in that many workers for some seconds; raises WorkerFailed where one of them does not make it."""
    cuda = stage.run.settings.numerics.device == "cuda"
    free = _free_device_memory() if cuda else 0
    workers: list[Worker] = []
    try:
        for _ in range(jobs):
            workers.append(start_worker(_rehearse, stage, out, seconds))
        for worker in workers:
            hear(worker)
        for worker in workers:
            with suppress(OSError):  # it has died: `hear` finds out
                worker.pipe.send("go")
        told = [hear(worker) for worker in workers]
    finally:
        end_workers(workers)
    rate = sum(rate for rate, _ in told)
    if not cuda:
        return Throughput(rate)
    taken = max(1, free - min(left for _, left in told))
    return Throughput(rate, free * jobs / (HEADROOM * taken))


def hear(worker: Worker) -> Any:
    """The next message of a worker; raises WorkerFailed with the text that it sends, or what it ended with."""
    try:
        message = worker.pipe.recv()
    except (EOFError, ConnectionResetError):
        worker.process.join()
        raise WorkerFailed(f"a process ended with exit code {worker.process.exitcode}") from None
    if isinstance(message, str):
        raise WorkerFailed(message)
    return message


def failure(error: Exception) -> str:
    """What a worker sends for `hear` to raise."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"


def _rehearse(pipe: Connection, stage: "Stage", out: Path, seconds: float) -> None:
    """In a worker: sends None when warm, awaits a message, trains, and sends (images per second, free device bytes)."""
    try:
        rate = _images_per_second(pipe, stage, out, seconds)
    except Exception as error:  # out of memory, a network that does not take these images
        pipe.send(failure(error))
        return
    cuda = stage.run.settings.numerics.device == "cuda"
    pipe.send((rate, _free_device_memory() if cuda else 0))
    pipe.recv()  # memory stays taken until all are done


def _images_per_second(pipe: Connection, stage: "Stage", out: Path, seconds: float) -> float:
    import torch

    from bench.engine.plan import scenario_of
    from bench.speed.step import Trial, now

    torch.set_num_threads(stage.run.settings.numerics.threads)
    trial = Trial(stage.run, scenario_of(stage.run, out), task=stage.task)
    for _ in range(WARM_UP):
        trial.whole()
    now(trial.device)
    pipe.send(None)
    pipe.recv()
    began, steps = now(trial.device), 0
    while steps < WARM_UP or time.perf_counter() - began < seconds:
        trial.whole()
        steps += 1
    return steps * trial.views.batch / (now(trial.device) - began)


def _free_device_memory() -> int:
    import torch

    return int(torch.cuda.mem_get_info()[0])


def choose_jobs(
    plan: "Plan",
    done: Collection[str],
    out: Path,
    say: Callable[[str], None],
    measure: Callable[["Stage", Path, int], Throughput] = measure_together,
) -> int:
    """The smallest number of jobs whose throughput, measured on the first stage to train, is near the best.

    done: keys of the stages that are left out. say: gets one line with what was measured. measure: what a
    number of workers reaches on a stage, or WorkerFailed. Writes nothing into `out`.
    """
    todo = [stage for stage in plan.stages.values() if stage.trains and stage.key not in done]
    choices = candidates(todo)
    if len(choices) == 1:
        say("jobs auto: takes 1 without measuring")
        return 1
    first = min(todo, key=lambda stage: stage.task)
    rates: dict[int, float] = {}
    left_out: list[str] = []
    room = math.inf
    for jobs in choices:
        if jobs > room:
            left_out.append(f"no room in memory for {jobs}")
            break
        try:
            found = measure(first, out, jobs)
        except WorkerFailed as error:
            left_out.append(f"{jobs} {'fails' if jobs == 1 else 'fail'} ({error})")
            break
        rates[jobs], room = found.rate, found.room
    chosen = _smallest_near_best(rates)
    given = ", ".join(f"{jobs} {'gives' if jobs == 1 else 'give'} {rate:,.0f}" for jobs, rate in rates.items())
    say(f"jobs auto: {', '.join([*([f'{given} images/s'] if given else []), *left_out])}: takes {chosen}")
    return chosen


def _smallest_near_best(rates: dict[int, float]) -> int:
    """1 where nothing was measured."""
    return min((jobs for jobs, rate in rates.items() if rate >= NEAR * max(rates.values())), default=1)


def candidates(todo: "Collection[Stage]") -> list[int]:
    """1, 2, 4 ... and the most that can be of use: as the machine has cores or a GPU room, and stages can run at once.

    todo: the stages to train.
    """
    if not todo:
        return [1]
    numerics = next(iter(todo)).run.settings.numerics
    most = GPU_JOBS if numerics.device == "cuda" else _cores() // numerics.threads
    most = max(1, min(most, most_at_once(todo)))
    return [*(2**n for n in range(most.bit_length()) if 2**n < most), most]


def most_at_once(todo: "Collection[Stage]") -> int:
    """How many of the stages to train can be at work together, at least 1: any two of different branches can, so that
    the leaves count."""
    parents = {stage.parent for stage in todo}
    return max(1, sum(stage.trains and stage.key not in parents for stage in todo))


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
