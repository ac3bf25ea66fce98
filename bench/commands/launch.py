"""`run` with a launcher: the workers are jobs, of a cluster or of this machine, and this process follows them."""

import argparse
import sys
from dataclasses import replace

from bench.commands.grid import carry_out, leave_merged, narrator, print_plan, request_of, status_of_failures
from bench.commands.report import render
from bench.engine.display import Display
from bench.engine.packing import most_at_once
from bench.engine.plan import Plan, make_plan
from bench.engine.progress import done_and_stale
from bench.engine.stopping import Stopped, in_steps
from bench.engine.store import Store
from bench.errors import UserError
from bench.grid import Nodes, build_runs
from bench.launch.follow import Deserted, Follower
from bench.launch.jobs import AT_WORK, cancel_waiting, jobs_of
from bench.launch.launches import Launch, begin, draft, is_claimed, is_of, latest
from bench.launch.settings import LAUNCHER, LaunchSettings, launch_settings
from bench.launch.submit import check_installed, most_in_array, script, submit
from bench.layers import read_yaml
from bench.report.formats import check_formats
from bench.torchrun import place

MOST_UNASKED = 64
"""Workers on a cluster, where --slurm names no number."""


def settings_of(args: argparse.Namespace) -> LaunchSettings | None:
    """How a command line wants its workers launched; None where runs are made by this process."""
    layer = read_yaml(args.config) if args.config else {}
    block = {key.removeprefix(LAUNCHER): given for key, given in layer.items() if key.startswith(LAUNCHER)}
    settings = launch_settings(args.launcher, args.slurm, block)
    if settings is None and (args.attach or args.dry_run):
        raise UserError(f"{'--attach' if args.attach else '--dry-run'} takes a --launcher: slurm or local")
    return settings


def launch(args: argparse.Namespace, settings: LaunchSettings) -> int:
    """Plans, has workers do it, follows them and reports; the statuses are those of `run`.

    Joins the workers of the same line where they are at it, and then submits none.
    """
    if args.dry_run and settings.launcher == "local":
        raise UserError("--dry-run shows a batch script, of which --launcher local has none")
    if place().world > 1:
        raise UserError("--launcher starts processes itself: not under torchrun")
    if args.shard is not None:
        raise UserError("--shard is what workers of a launcher get: leave it out, or the launcher")
    check_formats(args.format)
    check_installed(settings.launcher, args.dry_run)
    made = make_plan(build_runs(replace(request_of(args), nodes=_nodes(settings))), args.out, args.quiet)
    store = Store(args.out)
    made = leave_merged(made, store, args.retrain is not None)
    done, stale = done_and_stale(made, store)
    done -= stale if args.retrain else set()
    if args.dry_run:
        sys.stdout.write(script(draft(args.out, settings, args.words, _numerics(made), _workers(made, done, settings))))
        return 0
    store.prepare()
    if len(done) < len(made.stages):
        return _follow(made, store, done, args, settings)
    failures = carry_out(made, args)  # which trains nothing
    render(args.out, args.format, args.quiet)
    return status_of_failures(made, failures, store)


def _nodes(settings: LaunchSettings) -> Nodes:
    if settings.launcher == "local":
        return ""
    return "cuda" if settings.has_gpus else "cpu"


def _numerics(made: Plan) -> list[str]:
    """Flags that say what `auto` means, as another machine may take it for something else."""
    found = {(run.config.settings.numerics.device, run.config.settings.numerics.precision) for run in made.runs}
    if len(found) > 1:
        raise UserError("runs of one launch take one device and one precision: launch these apart")
    device, precision = found.pop()
    return ["--device", device, "--precision", precision]


def _workers(made: Plan, done: set[str], settings: LaunchSettings) -> int:
    """How many are of use: at most as many as asked for, as stages can run at once, and as the cluster takes."""
    most = most_at_once([stage for key, stage in made.stages.items() if key not in done])
    if settings.launcher == "local":
        return min(settings.array or 1, most)
    asked = settings.array or MOST_UNASKED
    return min(asked, most, most_in_array() or asked)


def _follow(made: Plan, store: Store, done: set[str], args: argparse.Namespace, settings: LaunchSettings) -> int:
    if not args.quiet:
        print_plan(made, store, details=False, retrain=args.retrain is not None)
    say = narrator(args.quiet)
    numerics = _numerics(made)
    # Before the look at what is running: if another process launches after that, it has taken this one's place.
    launch = draft(args.out, settings, args.words, numerics, _workers(made, done, settings))
    running = _running(args, numerics)
    launch = running or launch
    try:
        if running is None:
            with in_steps():  # lest an interrupt leaves jobs that nobody knows of
                begin(launch, args.config)
                submit(launch, 0, range(launch.workers))
            say(f"launched {launch.workers} worker{'s' * (launch.workers != 1)}; logs in {launch.folder}")
        else:
            say(f"joins the workers in {launch.folder}")
        with Display(made, done, args.quiet) as display:
            failures = Follower(made, store, launch, display, done, args.retrain is not None).follow()
    except Deserted as error:
        print(error, file=sys.stderr)
        return 1
    except Stopped as stopped:
        text = "left: its workers go on; the same line with --attach joins them again"
        print(f"{text}; {_how_to_end(launch)}", file=sys.stderr)
        return stopped.status
    cancel_waiting(launch)
    render(args.out, args.format, args.quiet)
    return status_of_failures(made, failures, store)


def _running(args: argparse.Namespace, numerics: list[str]) -> Launch | None:
    """The launch that is to be joined; None where there is none to join.

    Raises UserError where another line is at work, or this one is to join what is not there.
    """
    found = latest(args.out)
    if found is not None and not args.attach:
        jobs = jobs_of(found)
        if jobs is None:
            raise UserError("the cluster does not answer whether workers of before are still there: try again")
        if not is_claimed(found) and not any(job.state in AT_WORK for job in jobs):
            return None
    elif found is None:
        if args.attach:
            raise UserError(f"--attach: nothing was launched into {args.out}")
        return None
    if not is_of(found, args.words, numerics, args.config):
        line = " ".join(found.words)
        raise UserError(
            f"{args.out} was launched with another line, --config or working directory: {found.where}: {line}"
        )
    return found


def _how_to_end(launch: Launch) -> str:
    """What a user types to end the workers."""
    if launch.settings.launcher == "slurm":
        return f"scancel --name={launch.name} ends them"
    return f"kill {' '.join(job.id for job in jobs_of(launch) or [] if job.state == 'running')} ends them"
