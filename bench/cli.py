"""The command line: from words to a command, and from what goes wrong to one line and an exit status."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.engine.stopping import Stopped, listening
from bench.errors import UserError, nearest
from bench.files import FULL, NoSpace, no_space
from bench.options import COMMANDS, VERBS, subparser
from bench.output import make_output_last
from bench.torchrun import Gone, Place, place, speaks


def _command(words: list[str]) -> str:
    """Takes the command and its verb off the words; "run" where there is none."""
    if not words or words[0].startswith("-"):
        return "run"
    command = words.pop(0)
    if command not in COMMANDS:
        raise UserError(f"unknown command '{command}'{nearest(command, COMMANDS)}")
    if command not in VERBS or not words or words[0].startswith("-"):
        return command
    verb = words.pop(0)
    if verb not in VERBS[command]:
        raise UserError(f"{command} cannot '{verb}'{nearest(verb, VERBS[command])}")
    return f"{command} {verb}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit status: 0 done, 1 some run failed, 2 bad input, 130 interrupted, 143 asked
    to end by a signal."""
    words = list(sys.argv[1:] if argv is None else argv)
    make_output_last()
    try:
        with listening():
            return _main(words)
    except Gone as error:
        print(f"error: {error}; the same line goes on from here", file=sys.stderr)  # the first may be the one
        return 1
    except Stopped as stopped:
        _say(f"{stopped}; the same line goes on from here")
        return stopped.status
    except KeyboardInterrupt:  # before this process listened
        _say("stopped; the same line goes on from here")
        return 130
    except UserError as error:
        _say(f"error: {error}")
        return 2
    except OSError as error:  # a full disk, a file system that has become read-only, an I/O error
        if error.errno in FULL and error.filename is not None:
            error = no_space(Path(error.filename), 0, error)
        hint = "; the same line goes on from here when there is space" if isinstance(error, NoSpace) else ""
        print(f"error: {error}{hint}", file=sys.stderr)
        return 1
    except MemoryError:  # before any stage, which would say what of its own to lower
        print("error: out of memory: lower --image-size or --jobs, or name a smaller dataset", file=sys.stderr)
        return 1


def _say(text: str) -> None:
    if speaks():
        print(text, file=sys.stderr)


def _main(words: list[str]) -> int:
    here = place()
    if here.rank > 0 and {"-h", "--help"} & set(words):
        return 0
    command = _command(words)
    args = subparser(command).parse_args(words)
    args.words = words
    trains = command == "run" or (command == "paper" and args.name != "list")
    if here.world > 1 and trains:
        return _on_several(command, args, here)
    if here.world > 1 and command == "speed":
        raise UserError("speed measures one process: start it without torchrun")
    return _dispatch(command, args) if here.rank == 0 else 0


def _on_several(command: str, args: argparse.Namespace, here: Place) -> int:
    """What one process does as the first of several, or with the first."""
    if args.jobs != 1:
        raise UserError(f"--jobs {args.jobs}: the processes of torchrun work at one stage together, so it must be 1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # before torch is imported
    from bench.engine.company import gathered
    from bench.engine.follower import follow

    with gathered(here):
        if here.rank == 0:
            return _dispatch(command, args)
        follow(args.out)
        return 0


def _dispatch(command: str, args: argparse.Namespace) -> int:
    # Commands import what they need: reports and datasets do without torch.
    if command == "report":
        from bench.commands.report import report

        return report(args)
    if command == "gc":
        from bench.commands.upkeep import gc

        return gc(args)
    if command in ("export", "merge"):
        from bench.commands import bundle

        return bundle.export(args) if command == "export" else bundle.merge(args)
    if command == "data build":
        from bench.commands.data import build

        return build(args)
    if command == "data check":
        from bench.commands.data_check import check

        return check(args)
    if command == "paper" and args.name == "list":
        from bench.commands.paper import show

        return show(args)
    if command in ("run", "paper") and (args.jobs != 1 or args.shard is not None) and place().world == 1:
        from bench.engine.packing import start_server

        start_server()  # what workers need is imported while this process imports the same
    from bench.commands import dispatch

    return dispatch(command, args)
