"""The command line: from words to a command, and from what goes wrong to one line and an exit status."""

import os
import sys
from collections.abc import Sequence

from bench.engine.stopping import Stopped, listening
from bench.errors import UserError, nearest
from bench.files import NoSpace
from bench.options import COMMANDS, VERBS, subparser


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
    try:
        with listening():
            return _main(words)
    except Stopped as stopped:
        print(f"{stopped}; the same line goes on from here", file=sys.stderr)
        return stopped.status
    except KeyboardInterrupt:  # before this process listened
        print("stopped; the same line goes on from here", file=sys.stderr)
        return 130
    except UserError as error:
        print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
    except NoSpace as error:
        print(f"error: {error}; the same line goes on from here when there is space", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a file system that has become read-only, an I/O error
        print(f"error: {error}", file=sys.stderr)
        return 1


def _main(words: list[str]) -> int:
    command = _command(words)
    args = subparser(command).parse_args(words)
    # Commands import what they need: reports and datasets do without torch.
    if command == "report":
        from bench.commands.report import report

        return report(args)
    if command == "data build":
        from bench.commands.data import build

        return build(args)
    if command == "data check":
        from bench.commands.data_check import check

        return check(args)
    if command == "paper" and args.name == "list":
        from bench.commands.paper import show

        return show(args)
    if command in ("run", "paper") and args.jobs != 1:
        from bench.engine.packing import start_server

        start_server()  # what workers need is imported while this process imports the same
    from bench.commands import dispatch

    return dispatch(command, args)
