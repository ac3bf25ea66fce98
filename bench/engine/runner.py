"""Executes a plan: ready stages go to free workers; a failure stops only what depends on it."""

import os
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from heapq import heappop, heappush
from itertools import count
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from bench.config import RunConfig
from bench.engine import company, stopping
from bench.engine.failures import began, failure_of, mark_failure
from bench.engine.origin import GO_ON, Terms
from bench.engine.packing import Worker, end_workers, start_worker
from bench.engine.plan import Plan, PlannedRun, Stage
from bench.engine.progress import done_and_stale, is_done
from bench.engine.records import Contradiction, record_failure, record_timing, start_record, sync_record
from bench.engine.stage import Emit, do_stage
from bench.engine.store import Store
from bench.engine.train import Diverged
from bench.errors import UserError
from bench.files import FULL, NoSpace, no_space, write_atomic
from bench.lease import Busy, LostLease
from bench.seal import Damaged

DOOM_SECONDS = 1.0
"""After the death of a worker: where all processes of a job are being killed, this one ends before it takes that for a
failure of the stage."""
RETRY_SECONDS = 1.0
REPAIRS = 3
"""How often a stage is made again because others find its model damaged: more often, the disk is broken."""


class Outcome(NamedTuple):
    """How an attempt at a stage went: done, cached, busy, damaged (the stage named by `text`), full or failed."""

    status: str
    text: str = ""


def attempt(
    stage: Stage, out: Path, save_every: float, emit: Emit, wanted: bool = False, terms: Terms = GO_ON
) -> Outcome:
    """Does a stage and says how it went; wanted, terms: see `do_stage`."""
    try:
        return Outcome("done" if do_stage(stage, out, save_every, emit, wanted, terms) else "cached")
    except (Busy, LostLease):
        return Outcome("busy")
    except Damaged as error:
        return Outcome("damaged", error.path.parent.name)
    except NoSpace as error:
        return Outcome("full", str(error))
    except (Diverged, UserError) as error:
        return Outcome("failed", str(error))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            return Outcome("full", str(no_space(Path(error.filename or out), 0, error)))
        if is_out_of_memory(error):
            return Outcome("failed", what_to_lower(stage.run))
        log = Store(out).log(stage.key)
        with suppress(OSError):  # a full disk may be what went wrong
            write_atomic(log, traceback.format_exc().encode())
        text = " ".join(str(error).split())[:200]
        return Outcome("failed", f"{type(error).__name__}: {text} (traceback in {log})")


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory of the machine or of the device has run out."""
    wants = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory", "alloc_failed")
    return isinstance(error, MemoryError) or any(text in str(error).lower() for text in wants)


def what_to_lower(run: RunConfig) -> str:
    """One line for a run that does not fit into memory."""
    where = "the GPU" if run.settings.numerics.device == "cuda" else "this machine"
    batch, width = run.settings.train.batch, run.settings.encoder.width
    return f"out of memory on {where}: lower --batch ({batch}), encoder.width ({width}), --image-size or --jobs"


def execute(
    plan: Plan,
    out: Path,
    jobs: int,
    save_every: float,
    emit: Emit,
    finished: Callable[[Stage, str], None],
    shard: tuple[int, int] = (0, 1),
    isolated: bool = False,
    terms: Terms = GO_ON,
    done: Collection[str] | None = None,
) -> dict[str, str]:
    """Makes all stages of a plan done, those with the longest chains behind them first, `jobs` at a time, and keeps the
    records of their runs.

    finished: called with each stage and 'done', 'cached' or the reason of its failure. shard: (i, n), of n processes
    on this folder the i-th, which begins with its own part and then helps the others. isolated: whether stages run in
    processes of their own even one at a time. terms: see `do_stage`. done: keys of the stages that need nothing, where
    they are known. Returns the reasons of failed stages; raises NoSpace, and Stopped.
    """
    board = _Board(plan, Store(out), finished, shard, terms, done)
    if jobs == 1 and not isolated:
        _in_this_process(board, out, save_every, emit)
    else:
        _in_workers(board, out, jobs, save_every, emit)
    return board.failures


def _done(plan: Plan, store: Store, terms: Terms) -> set[str]:
    done, stale = done_and_stale(plan, store)
    return done - stale if terms.retrain else done


class _Board:
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
        self._see(self.unseen.pop())
        return True

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
            key = run.stages[-1]
            if key not in self.failures:
                self.failures[key] = str(error)
                self.finished(self.plan.stages[key], str(error))
            return
        if stages < len(run.stages) and run.stages[stages] in self.done:
            self._open_again(run.stages[stages])


def _in_this_process(board: _Board, out: Path, save_every: float, emit: Emit) -> None:
    while board.waiting or board.unseen:
        stopping.check()  # a signal that came while a stage failed
        stage = board.take()
        if stage is not None:
            _book(board, stage, attempt(stage, out, save_every, emit, board.wants(stage), board.terms))
        elif not board.review():
            time.sleep(RETRY_SECONDS / 4)
        company.check()


def _book(board: _Board, stage: Stage, outcome: Outcome) -> None:
    if outcome.status == "busy":
        board.again(stage)
    elif outcome.status == "damaged":
        board.mend(stage, outcome.text)
    elif outcome.status == "full":
        raise NoSpace(outcome.text)
    elif outcome.status == "failed":
        board.fail(stage, outcome.text)
    else:
        board.settle(stage, outcome.status)


def _in_workers(board: _Board, out: Path, jobs: int, save_every: float, emit: Emit) -> None:
    workers: list[Worker] = []
    at: dict[Worker, Stage] = {}
    try:
        while board.waiting or at or board.unseen:
            free = [worker for worker in workers if worker not in at]
            while (free or len(workers) < jobs) and (stage := board.take()) is not None:
                if not free:
                    free = [start_worker(_serve, out, save_every, board.terms)]
                    workers += free
                worker = free.pop()
                at[worker] = stage
                with suppress(BrokenPipeError, ConnectionResetError):  # it has died: `_listen` finds out
                    worker.pipe.send((stage, board.wants(stage)))
            patience = 0.0 if board.review() else RETRY_SECONDS / 4
            for pipe in wait([worker.pipe for worker in at], timeout=patience):
                worker = next(worker for worker in at if worker.pipe is pipe)
                if not _listen(board, worker, at, emit):
                    workers.remove(worker)
    finally:
        end_workers(workers)


def _listen(board: _Board, worker: Worker, at: dict[Worker, Stage], emit: Emit) -> bool:
    """Takes one message of a worker; False where it has died."""
    try:
        message = worker.pipe.recv()
    except (EOFError, ConnectionResetError):
        worker.process.join()
        stage, code = at.pop(worker), worker.process.exitcode
        if code in (130, 143):
            board.again(stage)  # asked to end by somebody else than this process, and saved
        else:
            if code == -signal.SIGKILL:
                time.sleep(DOOM_SECONDS)
            text = f"its process ended with exit code {code}"
            board.fail(stage, f"{text}: killed, or {what_to_lower(stage.run)}" if code == -signal.SIGKILL else text)
        return False
    if isinstance(message, dict):
        emit(message)
    else:
        _book(board, at.pop(worker), Outcome(*message))
    return True


def _serve(pipe: Connection, out: Path, save_every: float, terms: Terms = GO_ON) -> None:
    """A worker: does the stages it is sent until the other end closes."""

    def emit(event: dict[str, Any]) -> None:
        try:
            pipe.send(event)
        except OSError:  # the runner was killed, which is no failure of this stage
            os._exit(1)

    with suppress(EOFError, OSError):
        while True:
            stage, wanted = pipe.recv()
            pipe.send(tuple(attempt(stage, out, save_every, emit, wanted, terms)))
            stopping.check()
