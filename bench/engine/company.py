"""One run on several processes: the first drives, the others follow it from task to task, and all stop at one step.

Only the first reads and writes the results folder. Between tasks the others wait for its word, which may take hours;
within one, all take every step together. Whoever loses the others ends.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from bench.config import RunConfig
from bench.engine.train import Diverged
from bench.errors import UserError
from bench.models.gather import processes
from bench.torchrun import Gone, Place

PATIENCE = timedelta(days=30)
"""How long the others wait for the first one's word. A process that dies is noticed at once."""


class Parted(Exception):
    """The first process has left the task, for a reason of its own; all are still in step."""


_waiting: dist.ProcessGroup | None = None
_in_step = True


@contextmanager
def gathered(place: Place) -> Iterator[None]:
    """Joins the processes of a run while the block lasts; the end of the first one's block lets the others go."""
    global _waiting, _in_step
    if torch.cuda.is_available():
        torch.cuda.set_device(place.local % torch.cuda.device_count())
    with _losing_others(), _meeting():
        dist.init_process_group("gloo", init_method=place.meeting, rank=place.rank, world_size=place.world)
        waiting: Any = dist.new_group(backend="gloo", timeout=PATIENCE)
    _waiting, _in_step = waiting, True
    try:
        yield
    finally:
        if place.rank == 0 and _in_step:
            with suppress(Gone):
                _tell(None)
        _waiting = None
        if _in_step:
            dist.destroy_process_group()  # else the others may be gone, and a GPU's group would wait for them


@contextmanager
def _meeting() -> Iterator[None]:
    """Raises UserError where the environment does not say how the processes find each other."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise UserError(f"the processes of this run cannot meet: {' '.join(str(error).split())[:200]}") from None


def check_runs(runs: Iterable[RunConfig], place: Place) -> None:
    """Raises UserError for a run that so many processes cannot share."""
    for run in runs:
        batch, world = run.settings.train.batch, place.world
        if batch % world:
            fitting = min((n for n in range(1, batch + 1) if batch % n == 0), key=lambda n: abs(n - world))
            other = max(1, round(batch / world)) * world
            raise UserError(
                f"{world} processes do not divide train.batch {batch}: the nearest number of processes that does is "
                f"{fitting}, the nearest batch {other}"
            )
        if run.settings.numerics.device == "cuda" and place.nearby > torch.cuda.device_count():
            count = torch.cuda.device_count()
            raise UserError(f"{place.nearby} processes on a machine of {count} GPUs: use --nproc_per_node={count}")


def call(order: Callable[[], Any]) -> None:
    """In the first process: gives the others something to do; nothing where there are none."""
    if processes() > 1:
        check()
        _tell(order())


def check() -> None:
    """Raises Gone where this process has left a step that the others are still in."""
    if not _in_step:
        raise Gone("the processes of this run are out of step after a failure")


def hear() -> Any:
    """In the others: the next thing to do; None at the end."""
    return _tell(None)


def _tell(said: Any) -> Any:
    """What the first process says."""
    box = [said]
    with _losing_others():
        dist.broadcast_object_list(box, 0, _waiting)
    return box[0]


@contextmanager
def together() -> Iterator[None]:
    """Steps that all processes take. An error in them that is not everybody's leaves this one out of step."""
    global _in_step
    _in_step = processes() == 1
    with _losing_others():
        try:
            yield
        except Diverged:  # as all have computed
            _in_step = True
            raise
    _in_step = True


def agree(*mine: int) -> tuple[int, ...]:
    """The highest of each number that any process has."""
    if processes() == 1:
        return mine
    numbers = torch.tensor(mine)
    with _losing_others():
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return tuple(map(int, numbers))


def part() -> None:
    """All have agreed to leave the steps they take together."""
    global _in_step
    _in_step = True


@contextmanager
def first_alone() -> Iterator[None]:
    """In the first process: does something that the others `await_first` for; if it fails, they part."""
    try:
        yield
    except BaseException:
        agree(1)
        part()
        raise
    agree(0)


def await_first() -> None:
    """In the others; raises Parted where the first one has failed."""
    if agree(0) == (1,):
        part()
        raise Parted


@contextmanager
def _losing_others() -> Iterator[None]:
    """Raises Gone where the others cannot be reached."""
    try:
        yield
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if isinstance(error, dist.DistError) or any(word in text.lower() for word in ("gloo", "nccl", "connection")):
            reason = re.search("Connection [a-z]+ by peer", text)
            raise Gone(f"a process of this run has gone ({reason.group() if reason else text[:100]})") from None
        raise
