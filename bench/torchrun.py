"""What torchrun, or whoever starts several processes in its place, says in the environment of each."""

import os
import re
from typing import NamedTuple

from bench.errors import UserError

NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


class Gone(BaseException):
    """The processes of this run cannot go on together; no error of a stage, so that nothing takes it for one."""


class Place(NamedTuple):
    """This process among those of one run. rank: 0 for the one that drives the others and alone writes; world: how many
    they are; local, nearby: the same on this machine, 1 where nothing is said of it; meeting: where they find each
    other, as torch writes it."""

    rank: int = 0
    world: int = 1
    local: int = 0
    nearby: int = 1
    meeting: str = "env://"


def place() -> Place:
    """The only one, where nothing is said of others; raises UserError for what makes no sense.

    `BENCH_MEETING=file:///PATH` is a meeting place without a network address.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Place()
    said = {name: os.environ[name] for name in NUMBERS if name in os.environ}
    for name, text in said.items():
        if not re.fullmatch("[0-9]{1,9}", text):
            raise UserError(f"the environment says {name}={text}, which is no number: unset it, or use torchrun")
    rank, world = int(said["RANK"]), int(said["WORLD_SIZE"])
    if rank >= world:
        raise UserError(f"the environment says RANK={rank} of WORLD_SIZE={world}: unset both, or use torchrun")
    local, nearby = int(said.get("LOCAL_RANK", rank)), int(said.get("LOCAL_WORLD_SIZE", 1))
    meeting = os.environ.get("BENCH_MEETING", "env://")
    if not re.match("(env|file|tcp)://", meeting):
        raise UserError(f"the environment says BENCH_MEETING={meeting}, and it takes file:///PATH: unset it")
    return Place(rank, world, local, nearby, meeting)


def speaks() -> bool:
    """Whether this process is the one that tells the user."""
    try:
        return place().rank == 0
    except UserError:
        return True
