"""`export` and `merge`: records from one machine to another."""

import argparse
import sys
from collections import Counter
from importlib.metadata import PackageNotFoundError, version

from bench.errors import UserError
from bench.source import code_hash, git_state
from bench.upkeep.bundle import export as write_bundle
from bench.upkeep.bundle import opened
from bench.upkeep.merging import merge as take_in


def export(args: argparse.Namespace) -> int:
    """Writes the bundle; status 1 where a record was left out as it is not whole."""
    done = write_bundle(args.out, args.file, _exporter(), args.methods, args.scenario)
    for path in done.left_out:
        print(f"left out: {path} is not whole (see `doctor`)", file=sys.stderr)
    if not args.quiet:
        print(f"{done.runs} runs in {args.file}")
    return int(bool(done.left_out))


def _exporter() -> dict[str, str]:
    """Who exports: the code, but not the machine, so that equal records give equal bytes anywhere."""
    try:
        own = version("cssl-bench")
    except PackageNotFoundError:
        own = "not installed"
    return {"version": own, "code": code_hash(), "git": git_state()}


def merge(args: argparse.Namespace) -> int:
    """Takes in all records of the sources, a line for each; status 1 where one was refused."""
    for path in args.sources:
        if path.resolve() == args.out.resolve():
            raise UserError(f"{path} is --out itself: there is nothing to merge")
    outcomes: Counter[str] = Counter()
    for path in args.sources:
        with opened(path) as source:
            if not source.runs:
                raise UserError(f"no records in {path}")
            for done in take_in(source, args.out):
                outcomes[done.outcome] += 1
                text = f": {done.text}" if done.text else ""
                if done.outcome == "refused":
                    print(f"{done.run_id} refused{text}", file=sys.stderr)
                elif not args.quiet:
                    print(f"{done.run_id} {done.outcome}{text}")
    if not args.quiet:
        print(", ".join(f"{outcomes[name]} {name}" for name in ("new", "same", "extended", "refused")))
    return int(outcomes["refused"] > 0)
