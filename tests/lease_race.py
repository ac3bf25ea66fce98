"""Threads and processes that race for one lease, die with it or are taken for dead, and write on as if they held it.

`python tests/lease_race.py FOLDER SEED HOLDS`: one process of the race. Whoever holds the lease makes a file that must
not be there yet, and finds at the end of its turn what it has written at the beginning; else a line says so, and the
status is 1.
"""

import json
import os
import random
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.lease import Busy, Lease, LostLease, take

THREADS = 3


def turn(folder: Path, rng: random.Random, faults: list[str]) -> Lease | None:
    """Takes the lease and gives it back; returns it where it ends without giving it back, or None."""
    while True:
        try:
            mine = take(folder / "held")
            break
        except Busy:
            time.sleep(rng.uniform(0, 0.002))
    try:
        os.close(os.open(folder / "probe", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        faults.append("two hold the lease")
        return None
    text = os.urandom(8).hex().encode()
    try:
        mine.write(folder / "value", text)
        time.sleep(rng.choice((0, 0, 0.001)))
        if (folder / "value").read_bytes() != text:
            faults.append("written by one that does not hold the lease")
        mine.check()
    except LostLease:
        faults.append("one that lives has lost the lease")
    os.unlink(folder / "probe")
    fate = rng.random()
    if fate < 0.6:
        mine.release()
        return None
    if fate < 0.8:
        who = mine.folder / "who.json"
        who.write_text(json.dumps({**json.loads(who.read_text()), "started": "before"}))  # its process is dead
    else:
        os.utime(mine.folder / "beat", (0, 0))  # it has given no sign of life for long
    return mine


def act_like_holders(ghosts: list[Lease], folder: Path, rng: random.Random) -> None:
    """Those that have lost the lease go on as if they had not, until they notice."""
    for ghost in ghosts:
        try:
            act = rng.choice(("write", "write", "beat", "release"))
            if act == "write":
                ghost.write(folder / "value", b"by a ghost")
            elif act == "release":
                ghost.release()
            elif ghost.folder.exists():
                continue  # a sign of life would revive it
            else:
                ghost.beat()
        except (LostLease, OSError):
            continue


def race(folder: Path, rng: random.Random, holds: int, faults: list[str]) -> None:
    """One thread of the race."""
    ghosts: list[Lease] = []
    try:
        for _ in range(holds):
            ghost = turn(folder, rng, faults)
            act_like_holders(ghosts, folder, rng)
            ghosts += [] if ghost is None else [ghost]
    except Exception as error:
        faults.append(repr(error))


def main() -> int:
    """Races and prints what went wrong."""
    folder, seed, holds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    faults: list[str] = []
    sys.setswitchinterval(1e-5)
    threads = [
        threading.Thread(target=race, args=(folder, random.Random(f"{seed} {number}"), holds, faults))
        for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("\n".join(faults), end="")
    return int(bool(faults))


if __name__ == "__main__":
    raise SystemExit(main())
