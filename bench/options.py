"""The options of every command, with what each says of itself."""

import argparse
import re
from pathlib import Path
from typing import Any, NoReturn

from bench.errors import UserError, nearest

COMMANDS = {
    "run": "train, evaluate and report (the default: no subcommand needed)",
    "plan": "show what a run would do: what is shared, done and to do, time and disk",
    "paper": "a paper's table: run what it lacks, show it beside the published numbers",
    "speed": "measure how fast methods train here, and where the time of a step goes",
    "report": "render tables and figures from the records in --out",
    "eval": "run probes on finished stages, without training, and report",
    "doctor": "examine a results folder: what is whole, stale, orphaned, damaged; repair it on request",
    "gc": "free what no record needs, after saying how much",
    "export": "write the records of --out into a bundle for another machine",
    "merge": "take the records of bundles, or of other results folders, into --out",
    "list": "methods, datasets, scenarios, presets, recipes, probes",
    "new": "write a template of a new strategy or objective",
    "check": "run the contract tests of a method",
    "data": "prepare or examine a dataset: data build NAME, data check NAME",
}
VERBS = {
    "data": {
        "build": "decode the image files of a dataset to where runs look for them",
        "check": "say what is wrong with a dataset, and which of its known variants it is",
    }
}
MOST_JOBS = 1024  # processes of one machine
EXAMPLES = """examples:
  python run_bench.py --methods finetune,cassle,sycon --scenario class_il
  python run_bench.py --methods sycon,cassle --objective byol,vicreg --scenario domain_il --seeds 0-2
  python run_bench.py --methods sycon-moco,cassle-simclr --dataset folder:PATH --tasks 5 --set optim.lr=0.3
  python run_bench.py plan --methods all --scenario class_il,data_il
  python run_bench.py speed --methods finetune,cassle,sycon --encoder resnet18 --batch 256
  python run_bench.py data check imagenet100 --data-dir DIR
  python run_bench.py data build imagenet100 --data-dir DIR --image-size 224
  python run_bench.py report --format md,png
  python run_bench.py paper cassle-main --tier quick --jobs 2
"""


class _Parser(argparse.ArgumentParser):
    """Errors become UserError, unknown options name the nearest one."""

    def error(self, message: str) -> NoReturn:
        if "unrecognized arguments:" in message:
            word = next(iter(message.partition("unrecognized arguments:")[2].split()), "")
            options = [o for action in self._actions for o in action.option_strings]
            flag = word.partition("=")[0]
            message = f"unknown argument '{flag}'{nearest(flag, options) if flag.startswith('-') else ''}"
        raise UserError(f"{message} (see --help)")


def _words(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise argparse.ArgumentTypeError("takes one or more names, separated by commas")
    return words


def _positive(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"takes a whole number above 0 (of at most 9 digits), not '{text}'")
    return int(text)


def _jobs(text: str) -> int | str:
    if text == "auto":
        return text
    try:
        jobs = _positive(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"takes a whole number above 0 or 'auto', not '{text}'") from None
    if jobs > MOST_JOBS:
        raise argparse.ArgumentTypeError(f"takes at most {MOST_JOBS}, not {jobs}")
    return jobs


def _shard(text: str) -> tuple[int, int]:
    found = re.fullmatch("([0-9]{1,6})/([0-9]{1,6})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"takes I/N with I from 1 to N, e.g. 1/4, not '{text}'")
    return int(found[1]) - 1, int(found[2])


def _retrain(text: str) -> str:
    if text != "stale":
        raise argparse.ArgumentTypeError(f"takes 'stale', not '{text}'")
    return text


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"takes seconds, not '{text}'")
    return value


def _add_grid(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what to compare")
    what.add_argument(
        "--methods",
        type=_words,
        metavar="NAMES",
        help="strategies (sycon) or pairs (sycon-byol); 'all' for every strategy",
    )
    what.add_argument(
        "--objective",
        type=_words,
        metavar="NAMES",
        help="objectives of bare strategies; 'all' for every one (default: moco)",
    )
    what.add_argument(
        "--scenario", type=_words, metavar="NAMES", help="class_il, data_il, domain_il (default: class_il)"
    )
    what.add_argument("--seeds", metavar="LIST", help="0-2 or 0,3,5 (default: 0; under --recipe: 5)")
    what.add_argument(
        "--vary",
        metavar="WHAT",
        help="what the seeds vary: all, or one of order, split, init, data, augment, probe",
    )
    data = parser.add_argument_group("data")
    data.add_argument("--dataset", metavar="NAME", help="a name of `list datasets`, folder:PATH or domains:PATH")
    data.add_argument("--data-dir", metavar="DIR", help="where dataset files lie, or are downloaded to")
    data.add_argument("--tasks", type=_positive, metavar="N", help="number of tasks (default: 5, or every domain)")
    data.add_argument("--domains", type=_words, metavar="NAMES", help="order of the domains (default: from the seed)")
    data.add_argument("--image-size", type=_positive, metavar="PIXELS", help="side of the network's input")
    data.add_argument(
        "--skip-corrupt", action="store_true", help="leave out images that cannot be read, and count them"
    )
    how = parser.add_argument_group("how to train")
    how.add_argument("--preset", metavar="NAME", help="quick, pilot or paper (default: quick; under --recipe: paper)")
    how.add_argument(
        "--recipe",
        metavar="NAME",
        help="pnr or cassle: settings of the released scripts, by dataset, scenario and objective",
    )
    how.add_argument(
        "--fidelity",
        metavar="NAME",
        help="released or principled: all switches for what released code does (default: as all else says)",
    )
    how.add_argument("--config", type=Path, metavar="FILE", help="YAML with the keys of --set and of this command line")
    how.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any key of `list presets`, e.g. optim.lr=0.3 or sycon.repel=1",
    )
    how.add_argument("--encoder", metavar="NAME", help="resnet4, resnet8, resnet10, resnet18, resnet34 or timm:NAME")
    how.add_argument("--epochs", type=_positive, metavar="N", help="epochs per task")
    how.add_argument("--batch", type=_positive, metavar="N", help="images per step")
    how.add_argument(
        "--precision", metavar="P", help="auto, fp32 or bf16 (default: auto: bf16 where the hardware has it)"
    )
    how.add_argument("--device", metavar="D", help="auto, cpu or cuda (default: auto)")
    how.add_argument("--compile", action="store_true", help="compile the encoder with torch.compile")
    measured = parser.add_argument_group("how to evaluate")
    measured.add_argument(
        "--probes",
        type=_words,
        metavar="NAMES",
        help="of `list probes` (default: linear,knn,ncm); linear_offline is slow",
    )
    measured.add_argument(
        "--transfer", type=_words, metavar="NAMES", help="other datasets whose features are probed after every task"
    )


def _add_out(parser: argparse.ArgumentParser) -> Any:
    where = parser.add_argument_group("where and how it runs")
    where.add_argument(
        "--out",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="holds everything a run writes (default: results)",
    )
    where.add_argument("--quiet", action="store_true", help="only the result and errors")
    return where


def _add_format(parser: Any) -> None:
    parser.add_argument(
        "--format",
        type=_words,
        metavar="NAMES",
        help="of the report: md, tex, csv, png, pdf (default: all); none for no report",
    )


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    overview = "\n".join(f"  {name:8} {text}" for name, text in COMMANDS.items())
    parser = _Parser(
        prog="run_bench.py",
        description=f"Benchmark of continual self-supervised learning methods.\n\ncommands:\n{overview}\n\n"
        "Options below are those of `run`; `run_bench.py COMMAND --help` shows the others.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_grid(parser)
    where = _add_out(parser)
    _add_jobs(where)
    _add_format(where)
    _add_launcher(parser)
    return parser


def _add_launcher(parser: argparse.ArgumentParser) -> None:
    jobs = parser.add_argument_group("on a cluster (docs/clusters.md)")
    jobs.add_argument(
        "--launcher",
        metavar="NAME",
        help="slurm: as jobs of a cluster, which this process follows; local: the same on this machine; none: here, "
        "whatever --config says",
    )
    jobs.add_argument(
        "--slurm",
        metavar="KEY=VALUE,...",
        help="of the jobs: partition, account, qos, constraint, reservation, exclude, gres, gpus, cpus, mem, time "
        "(default: 8:00:00), array (at most so many workers); or the block `launcher:` of --config",
    )
    jobs.add_argument("--attach", action="store_true", help="join the jobs of this line again, and start none")
    jobs.add_argument("--dry-run", action="store_true", help="print the batch script, and submit nothing")


def _add_jobs(where: Any) -> None:
    where.add_argument(
        "--jobs",
        type=_jobs,
        default=1,
        metavar="N",
        help="stages side by side, or auto: as many as a short measurement finds worth it; no result depends on it "
        "(default: 1)",
    )
    where.add_argument(
        "--shard",
        type=_shard,
        metavar="I/N",
        help="of N processes on this --out, begin with the I-th part (1 to N), then help the others",
    )
    where.add_argument(
        "--retrain",
        type=_retrain,
        metavar="stale",
        help="stale: make stages again that other code than the present has made, and all that begin from them",
    )
    where.add_argument(
        "--allow-new-environment",
        action="store_true",
        help="go on inside a task that was begun with another torch, processor or GPU; it is recorded",
    )
    where.add_argument(
        "--save-every",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="between checkpoints inside a task (default: 30)",
    )


def _add_paper(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a table, 'all' of them, a suite file (.yaml), or 'list'")
    parser.add_argument(
        "--tier",
        default="quick",
        metavar="NAME",
        help="quick and pilot make the shape on small data, paper the numbers at full scale (default: quick)",
    )
    parser.add_argument(
        "--dataset", metavar="SPEC", help="in place of the tier's data; at tier paper, only the blocks of this dataset"
    )
    parser.add_argument("--data-dir", metavar="DIR", help="where dataset files lie, or are downloaded to")
    parser.add_argument("--seeds", metavar="LIST", help="0-2 or 0,3,5 (default: as the tier says)")
    parser.add_argument("--dry-run", action="store_true", help="show the plan and the table as it stands, run nothing")
    _add_jobs(_add_out(parser))


def _add_upkeep(parser: argparse.ArgumentParser, command: str) -> None:
    if command == "export":
        parser.add_argument("file", type=Path, metavar="FILE.zip", help="where to write the bundle")
        parser.add_argument("--methods", type=_words, metavar="NAMES", help="of the runs: sycon or sycon-byol")
        parser.add_argument("--scenario", type=_words, metavar="NAMES", help="of the runs")
    elif command == "merge":
        parser.add_argument(
            "sources", type=Path, nargs="+", metavar="FILE.zip|DIR", help="bundles, or other results folders"
        )
    where = _add_out(parser)
    if command == "doctor":
        where.add_argument(
            "--repair", action="store_true", help="set damaged files aside; the next run makes them again"
        )
        where.add_argument(
            "--adopt", action="store_true", help="seal files of older versions, which carry no seal, as they are"
        )
    elif command == "gc":
        where.add_argument("--yes", action="store_true", help="free it; else only say how much it is")


def _add_verb(parser: argparse.ArgumentParser, verb: str) -> None:
    """The options of `data VERB`; without one, what there is."""
    if not verb:
        parser.add_argument(
            "verb",
            metavar="|".join(VERBS["data"]),
            help="; ".join(f"{name}: {text}" for name, text in VERBS["data"].items()),
        )
        return
    parser.add_argument("name", metavar="NAME", help="a name of `list datasets`, folder:PATH or domains:PATH")
    parser.add_argument("--data-dir", metavar="DIR", help="where dataset files lie")
    parser.add_argument(
        "--image-size", type=_positive, metavar="PIXELS", help="side of the network's input, as of runs"
    )
    if verb == "build":
        parser.add_argument(
            "--skip-corrupt", action="store_true", help="leave out images that cannot be read, and count them"
        )
        parser.add_argument(
            "--jobs", type=_positive, metavar="N", help="decoding threads (default: one per core, at most 8)"
        )
    else:
        parser.add_argument(
            "--quick", action="store_true", help="headers and ends of files only: nothing decoded, no duplicates"
        )
        parser.add_argument("--all", action="store_true", help="the counts of every class")
    _add_out(parser)


def subparser(command: str) -> argparse.ArgumentParser:
    if command == "run":
        return build_parser()
    command, _, verb = command.partition(" ")
    summary = VERBS[command][verb] if verb else COMMANDS[command]
    parser = _Parser(prog=f"run_bench.py {command} {verb}".strip(), description=summary, allow_abbrev=False)
    if command == "plan":
        _add_grid(parser)
        _add_out(parser)
    elif command == "speed":
        _add_grid(parser)
        where = _add_out(parser)
        where.add_argument(
            "--rounds", type=_positive, default=5, metavar="N", help="interleaved measurements per method (default: 5)"
        )
        where.add_argument(
            "--no-reference",
            action="store_true",
            help="leave out the reference feed (per-sample PIL transforms in workers, float32, plain loss)",
        )
    elif command in ("doctor", "gc", "export", "merge"):
        _add_upkeep(parser, command)
    elif command == "report":
        _add_format(_add_out(parser))
    elif command == "eval":
        where = _add_out(parser)
        _add_format(where)
        probes = parser.add_argument_group("probes")
        probes.add_argument(
            "--probe",
            "--probes",
            dest="probe",
            type=_words,
            metavar="NAMES",
            help="of `list probes` (default: linear,knn,ncm, or none with --transfer); linear_offline is slow",
        )
        probes.add_argument(
            "--transfer", type=_words, metavar="NAMES", help="other datasets whose features to probe (linear and knn)"
        )
        probes.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="settings, e.g. probe.knn.k=50"
        )
    elif command == "list":
        parser.add_argument(
            "what",
            nargs="?",
            metavar="WHAT",
            help="methods, datasets, scenarios, presets, recipes or probes (default: all)",
        )
    elif command == "paper":
        _add_paper(parser)
    elif command == "new":
        parser.add_argument("kind", metavar="KIND", help="strategy or objective")
        parser.add_argument("name", metavar="NAME", help="name of the method, and of its file")
    elif command == "check":
        parser.add_argument("name", metavar="NAME", help="strategy, objective or pair (sycon-byol)")
    elif command == "data":
        _add_verb(parser, verb)
    return parser
