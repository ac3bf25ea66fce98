"""Follows a launch: what its workers make shows on the display, and those that vanish are submitted again."""

import os
import time
from collections import Counter
from collections.abc import Collection
from types import NoneType
from typing import Any

from bench.engine.display import Display
from bench.engine.failures import failure_of
from bench.engine.plan import Plan, Stage
from bench.engine.progress import is_done
from bench.engine.records import Contradiction, sync_record
from bench.engine.store import Store
from bench.errors import UserError
from bench.launch.jobs import AT_WORK, Job, jobs_of
from bench.launch.launches import BATCHES, Launch, claim, is_claimed
from bench.launch.submit import submit
from bench.lease import holder_of, is_held

LOOK_SECONDS = 2.0
ASK_SECONDS = 10.0
"""Between questions to the cluster, which has other users to answer."""


class Deserted(Exception):
    """No worker is left, and not all is done; the message says why, in a line."""


class Follower:
    """Looks at a results folder until every stage of a plan is done or has failed.

    done: keys of those that are; retrain: whether others count as done only where the present code has made them.
    """

    def __init__(
        self, made: Plan, store: Store, launch: Launch, display: Display, done: Collection[str], retrain: bool = False
    ) -> None:
        self.made, self.store, self.launch, self.display = made, store, launch, display
        self.since, self.retrain = launch.began(), retrain
        self.waiting = {key: stage for key, stage in made.stages.items() if key not in done}
        self.failures: dict[str, str] = {}
        self.asked = float("-inf")
        self.missing: set[str] = set()
        self.is_deserted = False
        self.told: dict[str, str] = {}

    def follow(self) -> dict[str, str]:
        """The reasons of failed stages, when there is nothing left to do; raises Deserted."""
        self._look()
        self.display.begin()  # what is there already was made before
        while True:
            self._look()
            if not self.waiting and not self._unwritten():
                return self.failures
            if self.waiting and time.monotonic() - self.asked >= ASK_SECONDS:
                self._ask()
                self.asked = time.monotonic()
            time.sleep(LOOK_SECONDS)

    def _look(self) -> None:
        """Takes down what is done, what has failed, and how far the rest is."""
        begun = {entry.name for entry in os.scandir(self.store.out / "stages")}
        for key in [key for key in self.waiting if key in begun]:
            stage = self.waiting[key]
            if is_done(stage, self.store) and not self._is_to_be_retrained(stage):
                self._end(stage, "done")
            elif (failure := failure_of(self.store, key, self.since)) is not None:
                self._end(stage, failure["reason"])
            else:
                self._show(key)
        for stage in list(self.waiting.values()):
            if stage.parent in self.failures:
                self._end(stage, f"task {stage.task} before it failed")

    def _show(self, key: str) -> None:
        """Shows how far whoever is at a stage has come, if it lives."""
        folder = self.store.stage(key)
        held = holder_of(folder) if is_held(folder) else None
        if held is not None and _is_event(held[1], key):
            self.display.emit(held[1])

    def _is_to_be_retrained(self, stage: Stage) -> bool:
        return self.retrain and (self.store.facts(stage.key) or {}).get("code") != stage.code

    def _end(self, stage: Stage, result: str) -> None:
        del self.waiting[stage.key]
        if result != "done":
            self.failures[stage.key] = result
        self.display.finished(stage, result)

    def _unwritten(self) -> bool:
        """Brings the records up to date; whether a stage that was done has been opened again, as it is damaged."""
        for run in self.made.runs:
            try:
                stages = sync_record(run, self.store)
            except Contradiction as error:
                self.failures[run.stages[-1]] = str(error)
                continue
            if stages < len(run.stages) and run.stages[stages] not in self.failures:
                self.waiting[run.stages[stages]] = self.made.stages[run.stages[stages]]
        return bool(self.waiting)

    def _ask(self) -> None:
        """Looks at the jobs: says what has changed, and acts where workers have vanished. Raises Deserted."""
        jobs = jobs_of(self.launch)
        if jobs is None:
            self._say("cluster", "the cluster does not answer; its jobs go on meanwhile")
            return
        self._say("cluster", "")
        self._say_counts(jobs)
        gone = {job.id: job for job in jobs if job.state == "vanished"}
        # Twice in a row, as a file system of the network may be late in telling what a worker has left.
        lost = [job for id, job in gone.items() if id in self.missing]
        self.missing = set(gone)
        for job in lost:
            why = f" ({job.reason})" if job.reason else ""
            self._say(job.id, f"the worker {job.id} has vanished{why}; its log: {self.launch.log(job.id)}")
        if lost and (batch := claim(self.launch)) is not None:
            self._submit_again(batch, [job.worker for job in lost])
            return
        was_deserted = self.is_deserted
        self.is_deserted = not any(job.state in AT_WORK for job in jobs) and not is_claimed(self.launch)
        if self.is_deserted and was_deserted:
            raise Deserted(self._without(jobs))

    def _submit_again(self, batch: int, workers: list[int]) -> None:
        self._say(f"batch {batch}", f"submits {len(workers)} in place of the vanished ({batch} of {BATCHES - 1} times)")
        try:
            submit(self.launch, batch, workers)
        except UserError as error:
            self._say(f"batch {batch} fails", str(error))

    def _say_counts(self, jobs: list[Job]) -> None:
        states = Counter(job.state for job in jobs)
        reasons = sorted({job.reason for job in jobs if job.state == "waiting"} - {"", "None"})
        counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        self._say("counts", f"workers: {counts}" + (f"; waiting for: {', '.join(reasons)}" if reasons else ""))

    def _without(self, jobs: list[Job]) -> str:
        states = Counter(job.state for job in jobs)
        counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none was submitted"
        left = "1 stage is" if len(self.waiting) == 1 else f"{len(self.waiting)} stages are"
        return f"no worker is left ({counts}) and {left} not done: logs in {self.launch.folder}; the same line goes on"

    def _say(self, what: str, text: str) -> None:
        """Prints a line where it says something new."""
        if text and self.told.get(what) != text:
            self.display.say(text)
        self.told[what] = text


def _is_event(told: dict[str, Any], key: str) -> bool:
    """Whether what an owner tells with its heartbeat is progress of this stage."""
    if told.get("stage") != key:
        return False
    if "step" not in told:
        return isinstance(told.get("phase"), str)
    whole = [told.get(name) for name in ("step", "steps", "epoch", "epochs")]
    parts = [told.get(name) for name in ("loss", "rate")]
    return all(type(n) is int for n in whole) and told["steps"] > 0 and all(type(n) in (float, NoneType) for n in parts)
