"""Where the rows of runs came from that another machine has made."""

from collections import Counter
from collections.abc import Sequence

from bench.report.records import Run, whole_lines


def origins(runs: Sequence[Run]) -> list[str]:
    """A line for each bundle that rows of these runs were merged from."""
    counts: Counter[tuple[str, str]] = Counter()
    for run in runs:
        counts.update(_bundles(run))
    return [
        f"{count} of {len(runs)} runs, or some of their rows, were merged from {name} (sha256 {sha256[:12]})."
        for (name, sha256), count in sorted(counts.items())
    ]


def _bundles(run: Run) -> set[tuple[str, str]]:
    path = run.path.parent.parent / "merged" / run.path.name
    lines = whole_lines(path.read_bytes())[0] if path.is_file() else []
    return {(str(line.row.get("bundle")), str(line.row.get("sha256"))) for line in lines}
