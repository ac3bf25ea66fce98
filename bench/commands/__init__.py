"""What each command of the command line does."""

import argparse

from bench.errors import UserError


def dispatch(command: str, args: argparse.Namespace) -> int:
    """Runs a command that needs torch and the methods; returns its exit status."""
    from methods.registry import BrokenMethod, UnknownName

    try:
        if command in ("run", "plan"):
            from bench.commands import grid

            return grid.run(args) if command == "run" else grid.plan(args)
        if command == "speed":
            from bench.commands.speed import speed

            return speed(args)
        if command == "eval":
            from bench.commands.probe import evaluate

            return evaluate(args)
        if command == "paper":
            from bench.commands.paper import regenerate

            return regenerate(args)
        if command == "list":
            from bench.commands.listing import show

            return show(args.what)
        from bench.commands.author import check, new

        return new(args.kind, args.name) if command == "new" else check(args.name)
    except (UnknownName, BrokenMethod) as error:
        raise UserError(str(error)) from None
