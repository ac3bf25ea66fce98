"""Guards the ratios of docs/performance.md, by hand: timings are no tests, so nothing runs this in the suite.

    python tests/speed/ratios.py                 # all but jobs; about a quarter of an hour on two cores
    python tests/speed/ratios.py loss jobs       # only these

Every ratio is a median over rounds of ratios within a round. Exit status 1 where one is below its floor.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from PIL import Image
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from bench.data import augment  # noqa: E402
from bench.speed.reference import transform  # noqa: E402
from methods.contrast import using  # noqa: E402
from methods.losses import info_nce  # noqa: E402


class Ratio(NamedTuple):
    """A measured ratio, the goal it was made for, and the floor below which something has become worse."""

    what: str
    goal: float
    floor: float
    measured: float


def interleaved(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each work in each round, after a round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def over(seconds: dict[str, list[float]], slow: str, fast: str) -> float:
    """Median over rounds of slow / fast."""
    return median(a / b for a, b in zip(seconds[slow], seconds[fast], strict=True))


def steps() -> Iterator[Ratio]:
    """Whole steps against the encoder-only limit and the reference feed, in the two settings of the goals."""
    settings = {
        "quick preset": (["--preset", "quick", "--rounds", "7"], 0.80, 5.0, 0.70, 1.5),
        "ResNet-18, batch 128, K 65,536": (
            ["--preset", "paper", "--dataset", "noise:32", "--batch", "128", "--rounds", "3"],
            0.92,
            4.0,
            0.80,
            1.9,
        ),
    }
    for name, (words, limit, reference, limit_floor, reference_floor) in settings.items():
        with tempfile.TemporaryDirectory() as out:
            line = ["run_bench.py", "speed", "--methods", "finetune,cassle,sycon", *words, "--out", out]
            subprocess.run([sys.executable, *line], cwd=ROOT, check=True)
            (path,) = Path(out).glob("speed/*.json")
            rows = json.loads(path.read_text())["methods"]
        for row in rows:
            yield Ratio(f"{name}, {row['method']}: part of the limit", limit, limit_floor, row["of_limit"])
        for row in rows:
            ratio = row["over_reference"]
            yield Ratio(f"{name}, {row['method']}: times the reference feed", reference, reference_floor, ratio)


def augmentation() -> Iterator[Ratio]:
    """Two views of a batch against PIL and torchvision per sample, both on one thread."""
    torch.set_num_threads(1)
    recipe = augment.View(solarize_prob=0.2, blur_prob=0.5)
    for name, channels, side, goal, floor in (("32 px RGB", 3, 32, 10.0, 10.0), ("28 px grey", 1, 28, 10.0, 10.0)):
        rng = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (256, channels, side, side), dtype=torch.uint8, generator=rng)
        arrays = images.permute(0, 2, 3, 1).numpy()
        pictures = [Image.fromarray(a[..., 0] if channels == 1 else a) for a in arrays]
        mean, std = (0.5,) * channels, (0.2,) * channels
        change = transform(recipe, side, mean, std)

        def batched(images=images, channels=channels, side=side, mean=mean, std=std, rng=rng) -> None:
            for _ in range(2):
                numbers = augment.draw(recipe, 256, side, side, channels, rng)
                augment.apply(images, numbers, side, mean, std)

        def one_by_one(pictures=pictures, change=change) -> None:
            for _ in range(2):
                torch.stack([change(picture) for picture in pictures])

        seconds = interleaved({"batched": batched, "one by one": one_by_one}, 7)
        yield Ratio(f"augmentation, {name}, full recipe", goal, floor, over(seconds, "one by one", "batched"))


def loss() -> Iterator[Ratio]:
    """InfoNCE with two sets of 65,536 keys, value and gradient, against the released form."""
    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(0)

    def unit(*shape: int) -> torch.Tensor:
        return F.normalize(torch.randn(*shape, generator=rng), dim=-1)

    for batch in (128, 256):
        q, positive = unit(2, batch, 128), unit(2, batch, 128)
        own, past = unit(2, 65536, 128), unit(2, 65536, 128)
        columns = [[keys[v].T.contiguous() for v in range(2)] for keys in (own, past)]

        def released(q=q, positive=positive, columns=columns, batch=batch) -> None:
            x = q.clone().requires_grad_()
            total = torch.zeros(())
            for v in range(2):
                negatives = torch.cat([keys[v].clone().detach() for keys in columns], 1)
                first = (x[v] * positive[v]).sum(1, keepdim=True)
                logits = torch.cat([first, x[v] @ negatives], 1) / 0.2
                total = total + F.cross_entropy(logits, torch.zeros(batch, dtype=torch.long)) / 2
            total.backward()

        def fused(mode, q=q, positive=positive, own=own, past=past) -> None:
            with using(mode):
                info_nce(q.clone().requires_grad_(), positive, [own, past], 0.2).backward()

        works = {"released": released, "fp32": lambda f=fused: f("exact"), "bf16": lambda f=fused: f("bf16")}
        seconds = interleaved(works, 7)
        yield Ratio(f"queue loss, batch {batch}, fp32", 4.0, 4.0, over(seconds, "released", "fp32"))
        yield Ratio(f"queue loss, batch {batch}, bf16", 8.0, 6.5, over(seconds, "released", "bf16"))


def jobs() -> Iterator[Ratio]:
    """The README's main job with one job and with two; raises AssertionError where results differ."""
    walls, tables = {}, {}
    for count in (1, 2):
        with tempfile.TemporaryDirectory() as out:
            line = ["run_bench.py", "--methods", "finetune,cassle,sycon", "--scenario", "class_il"]
            began = time.perf_counter()
            subprocess.run([sys.executable, *line, "--jobs", str(count), "--out", out], cwd=ROOT, check=True)
            walls[count] = time.perf_counter() - began
            tables[count] = list(csv.reader((Path(out) / "report" / "matrix.csv").open()))
    assert tables[1] == tables[2], "results depend on --jobs"
    print(f"one job {walls[1]:.0f} s, two jobs {walls[2]:.0f} s")
    yield Ratio("two jobs over one, main job", 1.8, 1.5, walls[1] / walls[2])


SECTIONS = {"loss": loss, "augmentation": augmentation, "steps": steps, "jobs": jobs}


def main() -> int:
    """Measures, prints the table, and says by the exit status whether every ratio keeps its floor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    sections = parser.parse_args().sections or ["loss", "augmentation", "steps"]
    if unknown := set(sections) - set(SECTIONS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    ratios = [ratio for name in sections for ratio in SECTIONS[name]()]
    print(f"{'ratio':62} {'goal':>6} {'floor':>6} {'now':>6}")
    for ratio in ratios:
        mark = "" if ratio.measured >= ratio.floor else "  below its floor"
        print(f"{ratio.what:62} {ratio.goal:6.2f} {ratio.floor:6.2f} {ratio.measured:6.2f}{mark}")
    return int(any(ratio.measured < ratio.floor for ratio in ratios))


if __name__ == "__main__":
    sys.exit(main())
