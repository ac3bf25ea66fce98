"""What a user sees while a grid runs: live bars on a terminal, a line now and then elsewhere, or nothing."""

import sys
import time
from collections.abc import Collection
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from bench.engine.plan import Plan, Stage

LINE_SECONDS = 15.0
BASELINE_COST = 0.02
"""Work of a stage without training, in units of a training stage."""


class Tally:
    """How far the stages of a plan are; what it counts is kept up with every change, not counted anew: a grid may have
    tens of thousands of stages.

    cost: work of each stage; cached: stages that are done already and count as no work. left: work to do; stages, runs:
    how many have ended.
    """

    def __init__(self, plan: Plan, cost: dict[str, float], cached: Collection[str]) -> None:
        self.cost = cost
        self.fraction = dict.fromkeys(plan.stages, 0.0)
        self.users: dict[str, list[int]] = {key: [] for key in plan.stages}
        self.open = [len(run.stages) for run in plan.runs]
        for number, run in enumerate(plan.runs):
            for key in run.stages:
                self.users[key].append(number)
        self.left, self.stages, self.runs = sum(cost.values()), 0, 0
        for key in cached:
            self.set(key, 1.0)
        self.todo = self.left or 1.0

    def set(self, key: str, fraction: float) -> bool:
        """How far a stage is, 1 at its end; False where it was as far before."""
        before, self.fraction[key] = self.fraction[key], fraction
        self.left = max(0.0, self.left - self.cost[key] * (fraction - before))
        ended = (fraction == 1.0) - (before == 1.0)
        if ended:
            self.stages += ended
            for number in self.users[key]:
                self.runs -= self.open[number] == 0
                self.open[number] -= ended
                self.runs += self.open[number] == 0
        return fraction != before


class Display:
    """Follows the stages of a plan; use as a context manager around its execution."""

    def __init__(self, plan: Plan, cached: set[str], quiet: bool) -> None:
        """cached: stages that are done already and count as no work."""
        self.plan, self.quiet = plan, quiet
        self.users = plan.users()
        self.console = Console(emoji=False, stderr=True)
        self.live = not quiet and self.console.is_terminal
        self.began = time.monotonic()
        self.tally = Tally(plan, {key: self._cost(stage) for key, stage in plan.stages.items()}, cached)
        self.said: dict[str, float] = {}
        self.bars: dict[str, TaskID] = {}
        columns: list[str | ProgressColumn] = [
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            _Facts(),
        ]
        self.progress = Progress(*columns, console=self.console, refresh_per_second=4, disable=not self.live)
        self.total = self.progress.add_task("", total=1.0, facts="")

    def __enter__(self) -> "Display":
        self.progress.start()
        self._show_total()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def emit(self, event: dict[str, Any]) -> None:
        """Takes a progress event of a stage."""
        key = event["stage"]
        stage = self.plan.stages[key]
        if "step" in event:
            self.tally.set(key, 0.97 * event["step"] / event["steps"])
            loss = "" if event["loss"] is None else f"loss {event['loss']:.3f}"
            rate = "" if event["rate"] is None else f"{event['rate']:.0f} images/s"
            facts = [f"epoch {event['epoch'] + 1}/{event['epochs']}", loss, rate]
        else:
            facts = [event["phase"]]
        text = " · ".join(fact for fact in facts if fact)
        if self.live:
            if key not in self.bars:
                self.bars[key] = self.progress.add_task(self._name(stage), total=1.0, facts="")
            self.progress.update(self.bars[key], completed=self.tally.fraction[key], facts=text)
            self._show_total()
        elif not self.quiet and time.monotonic() - self.said.get(key, 0.0) >= LINE_SECONDS and "step" in event:
            self.said[key] = time.monotonic()
            self._line(f"{self._name(stage)} · {text} · {self._counts()}")

    def finished(self, stage: Stage, result: str) -> None:
        """Takes the end of a stage: 'done', 'cached' or why it failed."""
        if stage.key in self.bars:
            self.progress.remove_task(self.bars.pop(stage.key))
        if not self.tally.set(stage.key, 1.0) and result == "cached":
            return
        if result not in ("done", "cached"):
            text = f"failed: {self._name(stage)}: {result}"
            self.console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
        elif result == "done" and not self.live and not self.quiet:
            self._line(f"{self._name(stage)} · done · {self._counts()}")
        self._show_total()

    def begin(self) -> None:
        """Time counts from now: what is done already was not done in it."""
        self.began, self.tally.todo = time.monotonic(), self.tally.left or 1.0

    def say(self, text: str) -> None:
        """Prints a line above the bars, unless quiet."""
        if self.live:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)
        elif not self.quiet:
            self._line(text)

    def _line(self, text: str) -> None:
        print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)

    def _name(self, stage: Stage) -> str:
        run = stage.run
        where = f"{run.scenario} · seed {run.seed}"
        if not stage.trains:
            return f"{'raw pixels' if stage.kind == 'pixels' else 'random network'} · {where}"
        users = self.users[stage.key]
        number = self.tally.users[stage.key][0] + 1
        method = run.objective if stage.kind == "task" and stage.task == 0 else f"{run.strategy}-{run.objective}"
        shared = f" (shared by {len(users)})" if len(users) > 1 else ""
        count, tasks = f"run {number} of {len(self.plan.runs)}", len(users[0].task_names)
        which = f"all {tasks} tasks" if stage.kind == "joint" else f"task {stage.task + 1}/{tasks}"
        return f"{count} · {method} · {where} · {which}{shared}"

    def _cost(self, stage: Stage) -> float:
        """Its work, in units of a task's training."""
        if stage.kind == "joint":
            return float(len(self.users[stage.key][0].task_names))
        return 1.0 if stage.trains else BASELINE_COST

    def _counts(self) -> str:
        tally, runs, stages = self.tally, len(self.plan.runs), len(self.plan.stages)
        return f"runs {tally.runs}/{runs} · stages {tally.stages}/{stages} · {self._time_left()}"

    def _time_left(self) -> str:
        done = self.tally.todo - self.tally.left
        if done < 0.02 * self.tally.todo:
            return "time left unknown yet"
        return f"{duration((time.monotonic() - self.began) * self.tally.left / done)} left"

    def _show_total(self) -> None:
        if self.live:
            completed = 1 - self.tally.left / self.tally.todo
            self.progress.update(self.total, completed=completed, description="all", facts=self._counts())


class _Facts(ProgressColumn):
    """The text that stands behind a bar."""

    def render(self, task: Task) -> Text:
        return Text(str(task.fields["facts"]))


def duration(seconds: float) -> str:
    """`40 s`, `5 min`, `3.2 h` or `4.1 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
