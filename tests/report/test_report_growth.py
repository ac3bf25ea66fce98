"""The work of a report grows with the number of its runs and no faster: function calls are counted, not timed."""

import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import recording

from bench.report import comparisons
from bench.report.write import write_report

METHODS = ("finetune", "sycon")
SHAPES = {
    "seeds": lambda i: {"seed": i},
    "settings": lambda i: {"overrides": {"optim.lr": i / 100}},
    "datasets": lambda i: {"dataset": f"set {i}"},
    "unfinished": lambda i: {"seed": i},
}


def grid(out: Path, shape: str, size: int) -> Path:
    """Two methods, each with `size` runs, which differ in what the shape says."""
    for i in range(size):
        for name in METHODS:
            rows = recording.rows_of(recording.config(name, **SHAPES[shape](i)))
            recording.write(out, rows[:9] if shape == "unfinished" else rows)
    return out


def calls(out: Path) -> int:
    """Python function calls of writing a report."""
    count = Counter[str]()

    def note(frame: FrameType, event: str, arg: Any) -> None:
        count[event] += 1

    sys.setprofile(note)
    try:
        write_report(out, ["md", "tex", "csv"])
    finally:
        sys.setprofile(None)
    return count["call"]


@pytest.mark.parametrize("shape", SHAPES)
def test_as_many_runs_again_cost_as_much_again(tmp_path: Path, shape: str) -> None:
    few, more, most = (calls(grid(tmp_path / str(size), shape, size)) for size in (4, 12, 28))
    # 8 and 16 sizes more: twice the work, with room for what sorting takes
    assert most - more < 2.2 * (more - few)


def test_each_pair_of_strategies_is_compared_by_seed_in_one_interval_per_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {}
    real = comparisons.interval
    for size in (2, 5):
        out = grid(tmp_path / str(size), "datasets", size)
        seen = []
        monkeypatch.setattr(comparisons, "interval", lambda values, seen=seen: seen.append(1) or real(values))
        write_report(out, ["csv", "md"])
        counts[size] = len(seen)
    # six columns and the table of differences, for each of the datasets
    assert counts == {2: 2 * 7, 5: 5 * 7}
