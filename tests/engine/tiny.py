"""A grid small enough to train in a second: 8x8 images in a folder, a network of three layers."""

import json
from pathlib import Path

from bench import cli, options
from bench.commands.grid import request_of
from bench.engine.plan import Plan, make_plan
from bench.grid import build_runs
from tests.data.image_folders import fill

CLASSES = ("ant", "bee", "cat", "dog")
SIZES = {
    "moco": ("moco.hidden=16", "moco.output=16", "moco.queue=64"),
    "simclr": ("simclr.hidden=16", "simclr.output=16"),
    "byol": ("byol.hidden=16", "byol.output=16", "byol.predictor_hidden=16"),
    "simsiam": ("simsiam.hidden=16", "simsiam.output=16", "simsiam.predictor_hidden=16"),
    "barlow": ("barlow.hidden=16", "barlow.output=16"),
    "vicreg": ("vicreg.hidden=16", "vicreg.output=16"),
    "swav": ("swav.hidden=16", "swav.output=16", "swav.prototypes=16", "swav.queue=32"),
    "cassle": ("cassle.hidden=16",),
    "sycon": ("sycon.hidden=16",),
    "lump": ("lump.memory=32",),
}


def paint_folder(root: Path, count: int = 50) -> Path:
    """Four classes of `count` random 8x8 images."""
    return fill(root, classes=CLASSES, count=count)


def words(folder: Path, out: Path, methods: str, *more: str, tasks: int = 2, objective: str = "moco") -> list[str]:
    """The command line of a tiny grid."""
    names = {part for method in methods.split(",") for part in method.split("-")}
    names |= set(objective.split(",")) if any("-" not in method for method in methods.split(",")) else set()
    sizes = [size for name in sorted(names) for size in SIZES.get(name, ())]
    sizes += ["encoder.width=16", "encoder.stem=stride2", "optim.lr=0.03"]
    return [
        *("--methods", methods, "--objective", objective, "--dataset", f"folder:{folder}", "--tasks", str(tasks)),
        *("--encoder", "resnet4", "--epochs", "2", "--batch", "16", "--device", "cpu", "--precision", "fp32"),
        *("--out", str(out), "--format", "md"),
        *(word for size in sizes for word in ("--set", size)),
        *more,
    ]


def run(*line: str) -> int:
    """The exit status of a command line, run in this process."""
    return cli.main(line)


def rows(path: Path) -> list[dict]:
    """The rows of one record."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def records(out: Path) -> dict[str, list[dict]]:
    """Rows of every run by its strategy and objective."""
    found = [rows(path) for path in sorted((out / "records").glob("*.jsonl"))]
    return {f"{each[0]['strategy']}-{each[0]['objective']}": each for each in found}


def results(out: Path) -> dict[str, bytes]:
    """Content of everything that two equal runs must share: models, features, probe results and records."""
    paths = [
        p for pattern in ("stages/*/*.safetensors", "stages/*/probe-*.json", "records/*") for p in out.glob(pattern)
    ]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths}


def differing(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    """Names of the files that are not the same in both."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def planned(*line: str) -> Plan:
    """The plan of a command line."""
    args = options.build_parser().parse_args(line)
    return make_plan(build_runs(request_of(args)), args.out)


def without(line: list[str], option: str) -> list[str]:
    """The command line less an option and its value."""
    position = line.index(option)
    return [*line[:position], *line[position + 2 :]]
