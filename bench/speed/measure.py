"""Measures methods against one another: interleaved rounds, so that what else the machine does meets all alike."""

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import torch

from bench.config import RunConfig
from bench.engine.packing import failure, hear, start_worker
from bench.engine.plan import PlannedRun, scenario_of
from bench.speed.evaluation import evaluation_seconds
from bench.speed.reference import Reference
from bench.speed.step import PARTS, Trial, mean_seconds


@dataclass(frozen=True)
class Speed:
    """A method's step: medians over rounds, in seconds; `parts` sum to `step`.

    first_task_step: the same in a first task, which has no strategy. limit: the step's passes through encoders alone;
    of_limit: what of the step they are. reference: the step in the reference feed, None where not asked for;
    over_reference: how many times longer that takes, and per_core in processor time. Ratios are medians over rounds of
    ratios within a round. memory: bytes at the peak of a process that does only this (of the GPU on CUDA). evaluation:
    seconds to evaluate a stage.
    """

    method: str
    batch: int
    step: float
    first_task_step: float
    parts: dict[str, float]
    limit: float
    of_limit: float
    reference: float | None
    over_reference: float | None
    per_core: float | None
    memory: int
    evaluation: float

    @property
    def rate(self) -> float:
        """Images per second; each gives two views."""
        return self.batch / self.step


class _Subject:
    """A run with all that is timed of it."""

    def __init__(
        self, planned: PlannedRun, out: Path, first_task_step: float, evaluation: float, compare: bool
    ) -> None:
        run = planned.config
        scenario = scenario_of(run, out)
        self.name = f"{run.strategy}-{run.objective}"
        self.first_task_step, self.evaluation = first_task_step, evaluation
        self.memory = peak_memory(run, out)
        self.trial = Trial(run, scenario)
        self.reference = Reference(run, scenario) if compare else None
        self.rounds: list[dict[str, float]] = []

    def round(self) -> dict[str, float]:
        """One measurement of everything."""
        trial, shares = self.trial, list[dict[str, float]]()
        works = (trial.whole, trial.limit, lambda: shares.append(trial.parts()))
        began, cpu = time.perf_counter(), time.process_time()
        row = dict(zip(("step", "limit", "in parts"), mean_seconds(works, trial.device), strict=True))
        cores = (time.process_time() - cpu) / (time.perf_counter() - began)
        row |= {part: sum(share[part] for share in shares) / len(shares) for part in PARTS}
        row["of limit"] = row["limit"] / row["step"]
        if self.reference is not None:
            began, cpu = time.perf_counter(), self.reference.processor_seconds()
            (row["reference"],) = mean_seconds([self.reference.whole], trial.device)
            theirs = (self.reference.processor_seconds() - cpu) / (time.perf_counter() - began)
            row["over reference"] = row["reference"] / row["step"]
            row["per core"] = row["over reference"] * theirs / cores
        return row

    def speed(self) -> Speed:
        """The medians."""
        middle = {key: median(row[key] for row in self.rounds) for key in self.rounds[0]}
        # The parts were timed in steps of their own: they say how the time of a whole step is shared.
        parts = {part: middle[part] for part in PARTS}
        parts["rest"] = max(0.0, middle["step"] - sum(parts.values()))
        scale = middle["step"] / sum(parts.values())
        return Speed(
            method=self.name,
            batch=self.trial.views.batch,
            step=middle["step"],
            first_task_step=self.first_task_step,
            parts={part: seconds * scale for part, seconds in parts.items()},
            limit=middle["limit"],
            of_limit=middle["of limit"],
            reference=middle.get("reference"),
            over_reference=middle.get("over reference"),
            per_core=middle.get("per core"),
            memory=self.memory,
            evaluation=self.evaluation,
        )


def measure(
    runs: Sequence[PlannedRun], out: Path, rounds: int, with_reference: bool, say: Callable[[str], None]
) -> list[Speed]:
    """The speed of every run; takes some seconds, and some steps of a slow network, per run and round."""
    subjects: list[_Subject] = []
    alike: dict[tuple[str, str], tuple[float, float]] = {}
    try:
        for planned in runs:
            say(f"speed: memory and evaluation of {planned.config.strategy}-{planned.config.objective}")
            kind = (planned.setting, planned.config.objective)
            if kind not in alike:
                alike[kind] = _first_task(planned, out)
            subjects.append(_Subject(planned, out, *alike[kind], with_reference))
        for number in range(rounds + 1):
            say(f"speed: round {number} of {rounds}" if number else "speed: warm-up")
            for subject in subjects:
                row = subject.round()
                if number:
                    subject.rounds.append(row)
    finally:
        for subject in subjects:
            if subject.reference is not None:
                subject.reference.close()
    return [subject.speed() for subject in subjects]


def _first_task(planned: PlannedRun, out: Path) -> tuple[float, float]:
    """Seconds of a step without strategy, and of evaluating a stage."""
    scenario = scenario_of(planned.config, out)
    trial = Trial(planned.config, scenario, task=0)
    evaluation = evaluation_seconds(scenario, trial, planned.probes)
    (step,) = mean_seconds([trial.whole], trial.device)
    return step, evaluation


def peak_memory(run: RunConfig, out: Path) -> int:
    """Bytes at the peak of a worker process that takes three steps: resident memory, or the GPU's on CUDA.

    Raises WorkerFailed where it does not get so far.
    """
    worker = start_worker(_report_memory, run, out)
    try:
        return int(hear(worker))
    finally:
        worker.process.terminate()
        worker.process.join()


def _report_memory(pipe: Connection, run: RunConfig, out: Path) -> None:
    try:
        torch.set_num_threads(run.settings.numerics.threads)
        trial = Trial(run, scenario_of(run, out))
        for _ in range(3):
            trial.whole()
    except Exception as error:
        pipe.send(failure(error))
    else:
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        pipe.send(torch.cuda.max_memory_allocated() if trial.device == "cuda" else resident)
