"""Executes a plan: ready stages go to free workers; a failure stops only what depends on it."""

import os
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from heapq import heappop, heappush
from itertools import count
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from bench.engine.packing import Worker, start_worker
from bench.engine.plan import Plan, Stage, is_done
from bench.engine.records import record_failure, record_timing, start_record, sync_record
from bench.engine.stage import Emit, do_stage
from bench.engine.store import Busy, Store
from bench.engine.train import Diverged
from bench.errors import UserError

RETRY_SECONDS = 1.0


def attempt(stage: Stage, out: Path, save_every: float, emit: Emit) -> tuple[str, str]:
    """Does a stage and says how it went: ('done' | 'cached' | 'busy' | 'failed', reason)."""
    try:
        return ("done" if do_stage(stage, out, save_every, emit) else "cached"), ""
    except Busy:
        return "busy", ""
    except (Diverged, UserError) as error:
        return "failed", str(error)
    except Exception as error:
        log = out / "logs" / f"{stage.key}.txt"
        with suppress(OSError):  # a full disk may be what went wrong
            log.write_text(traceback.format_exc(), encoding="utf-8")
        text = " ".join(str(error).split())[:200]
        return "failed", f"{type(error).__name__}: {text} (traceback in {log})"


def execute(
    plan: Plan, out: Path, jobs: int, save_every: float, emit: Emit, finished: Callable[[Stage, str], None]
) -> dict[str, str]:
    """Makes all stages of a plan done, parents first, `jobs` at a time, and keeps the records of their runs.

    finished: called with each stage and 'done', 'cached' or the reason of its failure.
    """
    store = Store(out)
    for run in plan.runs:
        start_record(run, store)
    board = _Board(plan, store, finished)
    if jobs == 1:
        _in_this_process(board, out, save_every, emit)
    else:
        _in_workers(board, out, jobs, save_every, emit)
    return board.failures


class _Board:
    """Which stages wait, which are ready, what has come of the others; writes the records as stages end."""

    def __init__(self, plan: Plan, store: Store, finished: Callable[[Stage, str], None]) -> None:
        self.plan, self.store, self.finished = plan, store, finished
        self.users = plan.users()
        self.children: dict[str, list[Stage]] = {key: [] for key in plan.stages}
        self.failures: dict[str, str] = {}
        self.done: set[str] = set()
        self.waiting = set(plan.stages)
        self.turns = count()
        self.turn = {key: next(self.turns) for key in plan.stages}
        self.ready: list[tuple[float, int, str]] = []
        self.later: list[tuple[float, str]] = []
        for stage in plan.stages.values():
            if stage.parent is not None:
                self.children[stage.parent].append(stage)
            if is_done(stage, store):
                self._end(stage, "cached")
                finished(stage, "cached")
        for run in plan.runs:
            sync_record(run, store)
        for stage in plan.stages.values():
            if stage.key in self.waiting and (stage.parent is None or stage.parent in self.done):
                self._queue(stage)

    def take(self) -> Stage | None:
        """A stage that can start now; it is no longer waiting."""
        now = time.monotonic()
        while self.later and self.later[0][0] <= now:
            self._queue(self.plan.stages[heappop(self.later)[1]])
        if not self.ready:
            return None
        stage = self.plan.stages[heappop(self.ready)[2]]
        self.waiting.remove(stage.key)
        return stage

    def again(self, stage: Stage) -> None:
        """Another process is at this stage: look again later."""
        self.waiting.add(stage.key)
        self.turn[stage.key] = next(self.turns)
        heappush(self.later, (time.monotonic() + RETRY_SECONDS, stage.key))

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

    def _queue(self, stage: Stage) -> None:
        # First tasks, since all else waits for them; then baselines, so that records grow from the start.
        # All tasks at once take as long as a whole chain: begun early, lest they end long after it.
        urgency = {"task": stage.task, "joint": 0.25}.get(stage.kind, 0.5)
        heappush(self.ready, (urgency, self.turn[stage.key], stage.key))

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
            if stage.key in self.failures and stage.parent not in self.failures:
                record_failure(run, self.store, task, result)
            sync_record(run, self.store)


def _in_this_process(board: _Board, out: Path, save_every: float, emit: Emit) -> None:
    while board.waiting:
        stage = board.take()
        if stage is None:
            time.sleep(RETRY_SECONDS / 4)
            continue
        _book(board, stage, *attempt(stage, out, save_every, emit))


def _book(board: _Board, stage: Stage, status: str, reason: str) -> None:
    if status == "busy":
        board.again(stage)
    else:
        board.settle(stage, reason if status == "failed" else status)


def _in_workers(board: _Board, out: Path, jobs: int, save_every: float, emit: Emit) -> None:
    workers: list[Worker] = []
    at: dict[Worker, Stage] = {}
    try:
        while board.waiting or at:
            free = [worker for worker in workers if worker not in at]
            while (free or len(workers) < jobs) and (stage := board.take()) is not None:
                if not free:
                    free = [start_worker(_serve, out, save_every)]
                    workers += free
                worker = free.pop()
                at[worker] = stage
                with suppress(BrokenPipeError, ConnectionResetError):  # it has died: `_listen` finds out
                    worker.pipe.send(stage)
            for pipe in wait([worker.pipe for worker in at], timeout=RETRY_SECONDS / 4):
                worker = next(worker for worker in at if worker.pipe is pipe)
                if not _listen(board, worker, at, emit):
                    workers.remove(worker)
    finally:
        for worker in workers:
            worker.process.terminate()
            worker.process.join()


def _listen(board: _Board, worker: Worker, at: dict[Worker, Stage], emit: Emit) -> bool:
    """Takes one message of a worker; False where it has died."""
    try:
        message = worker.pipe.recv()
    except (EOFError, ConnectionResetError):
        worker.process.join()
        reason = f"its process ended with exit code {worker.process.exitcode} (out of memory?)"
        board.settle(at.pop(worker), reason)
        return False
    if isinstance(message, dict):
        emit(message)
    else:
        _book(board, at.pop(worker), *message)
    return True


def _serve(pipe: Connection, out: Path, save_every: float) -> None:
    """A worker: does the stages it is sent until the other end closes."""

    def emit(event: dict[str, Any]) -> None:
        try:
            pipe.send(event)
        except OSError:  # the runner was killed, which is no failure of this stage
            os._exit(1)

    with suppress(EOFError, OSError):
        while True:
            pipe.send(attempt(pipe.recv(), out, save_every, emit))
