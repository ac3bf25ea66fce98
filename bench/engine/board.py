"""Which stage of a plan is next: those that are ready, those that wait, and what has come of the others."""

import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from heapq import heappop, heappush
from itertools import count

from bench.engine.failures import began, failure_of, mark_failure
from bench.engine.origin import GO_ON, Terms
from bench.engine.plan import Plan, PlannedRun, Stage
from bench.engine.progress import done_and_stale, is_done
from bench.engine.records import Contradiction, record_failure, record_timing, start_record, sync_record
from bench.engine.store import Store

RETRY_SECONDS = 1.0
"""Between looks at a stage that another process is at."""
REPAIRS = 3
"""How often a stage is made again because others find its model damaged: more often, the disk is broken."""


def _done(plan: Plan, store: Store, terms: Terms) -> set[str]:
    done, stale = done_and_stale(plan, store)
    return done - stale if terms.retrain else done


class Board:
    """Which stages wait, which are ready, what has come of the others; writes the records as stages end."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        finished: Callable[[Stage, str], None],
        shard: tuple[int, int] = (0, 1),
        terms: Terms = GO_ON,
        done: Collection[str] | None = None,
    ) -> None:
        self.plan, self.store, self.finished, self.shard, self.terms = plan, store, finished, shard, terms
        self.users = plan.users()
        self.place = {key: number for number, run in reversed([*enumerate(plan.runs)]) for key in run.stages}
        self.children: dict[str, list[Stage]] = {key: [] for key in plan.stages}
        self.failures: dict[str, str] = {}
        self.waiting = set(plan.stages)
        self.repairs: Counter[str] = Counter()
        self.began = began(store)
        self.turns = count()
        self.turn = {key: next(self.turns) for key in plan.stages}
        self.ready: list[tuple[bool, float, int, str]] = []
        self.later: list[tuple[float, str]] = []
        for stage in plan.stages.values():
            if stage.parent is not None:
                self.children[stage.parent].append(stage)
        self.behind = self._chains()
        self.done = set(_done(plan, store, terms) if done is None else done)
        # Thousands of finished runs would keep the others waiting: their records are looked at when nothing can start.
        self.unseen = [
            run for run in plan.runs if self.done.issuperset(run.stages) and store.record(run.run_id).exists()
        ]
        later = {run.run_id for run in self.unseen}
        for run in plan.runs:
            if run.run_id not in later:
                self._see(run)
        self.waiting -= self.done
        for stage in plan.stages.values():
            if stage.key in self.done:
                finished(stage, "cached")
            elif self._can_start(stage):
                self._queue(stage)

    def take(self) -> Stage | None:
        """A stage that can start now; it is no longer waiting."""
        now = time.monotonic()
        while self.later and self.later[0][0] <= now:
            self._queue(self.plan.stages[heappop(self.later)[1]])
        while self.ready:
            stage = self.plan.stages[heappop(self.ready)[-1]]
            if self._can_start(stage):  # not where it was queued twice, or its parent has been opened again
                failure = failure_of(self.store, stage.key, self.began)
                if failure is not None and not is_done(stage, self.store):
                    self.settle(stage, failure["reason"])
                    continue
                self.waiting.remove(stage.key)
                return stage
        return None

    def review(self) -> bool:
        """Looks at the record of a finished run that has not been looked at; False where there is none."""
        if not self.unseen:
            return False
        run = self.unseen.pop()
        try:
            self._see(run)
        except Contradiction as error:  # others are at work: this run alone fails
            self._refuse(run, error)
        return True

    def _refuse(self, run: PlannedRun, error: Contradiction) -> None:
        key = run.stages[-1]
        if key not in self.failures:
            self.failures[key] = str(error)
            self.finished(self.plan.stages[key], str(error))

    def wants(self, stage: Stage) -> bool:
        """Whether this stage was found to lack its model."""
        return self.repairs[stage.key] > 0

    def again(self, stage: Stage) -> None:
        """Another process is at this stage: look again later."""
        self.waiting.add(stage.key)
        self.turn[stage.key] = next(self.turns)
        heappush(self.later, (time.monotonic() + RETRY_SECONDS, stage.key))

    def mend(self, stage: Stage, key: str) -> None:
        """A stage found its own model damaged or gone, or that of its parent, which is made first then."""
        self.repairs[key] += key == stage.key or key in self.done  # else another has found it out before
        if key not in self.plan.stages or key in self.failures or self.repairs[key] > REPAIRS:
            self.fail(stage, f"the stage {key} is damaged, and making it again does not help")
        elif key == stage.key:
            self.again(stage)
        else:
            self.waiting.add(stage.key)
            self._open_again(key)

    def _open_again(self, key: str) -> None:
        """A stage that was taken for done is not."""
        if key in self.done:
            self.done.remove(key)
            self.waiting.add(key)
            if self._can_start(self.plan.stages[key]):
                self._queue(self.plan.stages[key])

    def fail(self, stage: Stage, reason: str) -> None:
        """Books a failure of this process, which the others need not repeat."""
        with suppress(OSError):  # a full disk may be what went wrong
            mark_failure(self.store, stage.key, reason)
        self.settle(stage, reason)

    def settle(self, stage: Stage, result: str) -> None:
        """Books the end of a stage: 'done', 'cached' or a reason of failure, with which all that needs it fails too."""
        ended = [(stage, result)]
        while ended:
            stage, result = ended.pop()
            self._end(stage, result)
            self._record(stage, result)
            self.finished(stage, result)
            children = [child for child in self.children[stage.key] if child.key in self.waiting]
            if stage.key in self.done:
                for child in children:
                    self._queue(child)
            else:
                ended += [(child, f"task {stage.task + 1} before it failed") for child in reversed(children)]

    def _can_start(self, stage: Stage) -> bool:
        return stage.key in self.waiting and (stage.parent is None or stage.parent in self.done)

    def _chains(self) -> dict[str, float]:
        """Work from a stage to the end of the longest chain that waits for it, in tasks."""
        behind: dict[str, float] = {}
        for key, stage in reversed(self.plan.stages.items()):
            if stage.kind == "task":
                behind[key] = 1 + max((behind[child.key] for child in self.children[key]), default=0)
            elif stage.kind == "joint":  # takes as long as a whole chain
                behind[key] = len(self.users[key][0].task_names)
        longest = max(behind.values(), default=0)
        # The others are short, but records grow from them on: right after the first tasks.
        return {key: behind.get(key, longest - 0.5) for key in self.plan.stages}

    def _queue(self, stage: Stage) -> None:
        index, count = self.shard
        foreign = self.place.get(stage.key, 0) % count != index
        heappush(self.ready, (foreign, -self.behind[stage.key], self.turn[stage.key], stage.key))

    def _end(self, stage: Stage, result: str) -> None:
        self.waiting.discard(stage.key)
        if result in ("done", "cached"):
            self.done.add(stage.key)
        else:
            self.failures[stage.key] = result

    def _record(self, stage: Stage, result: str) -> None:
        for run in self.users[stage.key]:
            task = run.after[run.stages.index(stage.key)]
            if result == "done":
                record_timing(run, self.store, stage.key, task)
            # Only what failed first goes into the record: a report shows the last reason.
            if stage.key not in self.done and stage.parent not in self.failures:
                record_failure(run, self.store, task, result)
            self._sync(run, run.stages.index(stage.key))

    def _see(self, run: PlannedRun) -> None:
        start_record(run, self.store)
        self._sync(run, since=0)

    def _sync(self, run: PlannedRun, since: int | None = None) -> None:
        """Brings a record up to date; a stage whose results are damaged is made again, a result that contradicts the
        record fails its run. since: number of the first of its stages that may have changed, if any may."""
        try:
            stages = sync_record(run, self.store, since)
        except Contradiction as error:
            self._refuse(run, error)
            return
        if stages < len(run.stages) and run.stages[stages] in self.done:
            self._open_again(run.stages[stages])
