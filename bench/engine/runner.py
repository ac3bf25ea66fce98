"""Executes a plan: ready stages go to free workers; a failure stops only what depends on it."""

import os
import signal
import time
import traceback
from collections.abc import Callable, Collection
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from bench.config import RunConfig
from bench.engine import company, stopping
from bench.engine.board import RETRY_SECONDS, Board
from bench.engine.origin import GO_ON, Terms
from bench.engine.packing import Worker, end_workers, start_worker
from bench.engine.plan import Plan, Stage
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
    board = Board(plan, Store(out), finished, shard, terms, done)
    if jobs == 1 and not isolated:
        _in_this_process(board, out, save_every, emit)
    else:
        _in_workers(board, out, jobs, save_every, emit)
    return board.failures


def _in_this_process(board: Board, out: Path, save_every: float, emit: Emit) -> None:
    while board.waiting or board.unseen:
        stopping.check()  # a signal that came while a stage failed
        stage = board.take()
        if stage is not None:
            _book(board, stage, attempt(stage, out, save_every, emit, board.wants(stage), board.terms))
        elif not board.review():
            time.sleep(RETRY_SECONDS / 4)
        company.check()


def _book(board: Board, stage: Stage, outcome: Outcome) -> None:
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


def _in_workers(board: Board, out: Path, jobs: int, save_every: float, emit: Emit) -> None:
    workers: list[Worker] = []
    at: dict[Worker, Stage] = {}
    try:
        while board.waiting or at or board.unseen:
            for worker in [worker for worker in workers if worker not in at and not worker.process.is_alive()]:
                workers.remove(worker)  # killed while it had nothing to do
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


def _listen(board: Board, worker: Worker, at: dict[Worker, Stage], emit: Emit) -> bool:
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
