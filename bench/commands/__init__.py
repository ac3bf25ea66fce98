"""What each command of the command line does."""

import argparse

from bench.errors import UserError
from bench.seal import Damaged


def dispatch(command: str, args: argparse.Namespace) -> int:
    """Runs a command that needs torch and the methods; returns its exit status."""
    from methods.registry import BrokenMethod, UnknownName

    try:
        if command in ("run", "plan"):
            from bench.commands import grid, launch

            if command == "plan":
                return grid.plan(args)
            settings = launch.settings_of(args)
            return grid.run(args) if settings is None else launch.launch(args, settings)
        if command == "speed":
            from bench.commands.speed import speed

            return speed(args)
        if command == "eval":
            from bench.commands.probe import evaluate

            return evaluate(args)
        if command == "doctor":
            from bench.commands.upkeep import doctor

            return doctor(args)
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
    except Damaged as error:
        raise UserError(f"{error}: remove it, and run the same grid again") from None
