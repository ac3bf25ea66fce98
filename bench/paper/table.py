"""A paper's table as data: what runs gave, what was published, and where the two may be subtracted."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import UserError
from bench.evaluate.metrics import METRICS, Metric
from bench.files import write_atomic
from bench.links import refuse_links
from bench.paper.ledger import Ledger, Published
from bench.paper.mismatch import Mismatch, mismatches
from bench.paper.suite import Cell, Sheet
from bench.report.maintable import QUICK_NOTE, SYNTHETIC_NOTE
from bench.report.records import STATES, Run, read_run
from bench.report.rows import is_key
from bench.report.statistics import Interval, interval
from bench.report.variants import method_name

NOT_COMPARABLE, QUOTED = "‡", "§"


@dataclass(frozen=True)
class Runs:
    """The runs of a cell: as planned, one per seed, those that count, and why others do not. probe: its record name."""

    planned: tuple[Run, ...]
    averaged: tuple[Run, ...]
    states: tuple[str, ...]
    probe: str

    @property
    def stale(self) -> bool:
        """Whether other code than the present made one of the runs that count."""
        return any(run.stale for run in self.averaged)

    @property
    def state(self) -> str:
        """In a word, why there is no number; empty where there is one."""
        if self.averaged:
            return ""
        words = ("collapsed", "failed", "unfinished", "not measured")
        return next((state for state in words if state in self.states), "not run")

    def values(self, metric: Metric) -> Iterator[float]:
        """The metric of every run that counts, a fraction."""
        for run in self.averaged:
            extra = (run.random(self.probe),) if metric.needs_random else ()
            yield float(metric.function(run.matrix(self.probe), *extra))


@dataclass(frozen=True)
class Entry:
    """A cell in percent: `here` over seeds; `published` None where the ledger has no number.

    notes: numbers of the footnotes. comparable: whether the two measure the same thing; difference: nan where they do
    not, where nothing was run, and where the protocol of the published number is not known.
    """

    cell: Cell
    runs: Runs
    here: Interval
    published: Published | None
    comparable: bool
    difference: float
    notes: tuple[int, ...]


@dataclass(frozen=True)
class Block:
    """A part of the table: entries by row and column."""

    title: str
    rows: tuple[tuple[str, tuple[Entry, ...]], ...]


@dataclass(frozen=True)
class PaperTable:
    """All that a renderer needs; footnotes are counted from 1."""

    sheet: Sheet
    caption: tuple[str, ...]
    columns: tuple[str, ...]
    blocks: tuple[Block, ...]
    footnotes: tuple[str, ...]
    sources: tuple[str, ...]
    troubles: tuple[tuple[str, str, str, str], ...]
    warnings: tuple[str, ...]

    def entries(self) -> list[Entry]:
        """Every entry, block by block, row by row."""
        return [entry for block in self.blocks for _, entries in block.rows for entry in entries]


def make_table(
    sheet: Sheet, planned: Mapping[Cell, Sequence[Run]], absent: Mapping[int, str], ledger: Ledger, out: Path
) -> PaperTable:
    """The table from the records in results folder `out`.

    planned: each cell's runs, one per seed, of whose records only the first line is needed. absent: why a part could
    not be planned, by its index.
    """
    refuse_links(out, "records")
    maker = _Maker(sheet, ledger, out)
    suite = sheet.suite
    blocks = []
    for index, part in enumerate(suite.parts):
        rows = []
        for row in suite.axis(suite.rows):
            cells = [suite.cell(index, row, column) for column in suite.axis(suite.columns)]
            rows.append((row, tuple(maker.entry(cell, planned.get(cell, ())) for cell in cells)))
        spec = sheet.spec(part)
        every = "every domain of " if sheet.tasks(part) != part.tasks else ""
        title = part.title + (f", here on {every}{spec}" if spec != part.dataset else "")
        title += f", {sheet.probe(part)} probe" if sheet.probe(part) != suite.probe else ""
        blocks.append(Block(title + (f" (not run: {absent[index]})" if index in absent else ""), tuple(rows)))
    return PaperTable(
        sheet=sheet,
        caption=(*_caption(sheet), *maker.notes()),
        columns=suite.axis(suite.columns),
        blocks=tuple(blocks),
        footnotes=tuple(maker.footnotes),
        sources=tuple(maker.sources),
        troubles=tuple(sorted(maker.troubles)),
        warnings=tuple(dict.fromkeys(maker.warnings)),
    )


class _Maker:
    """Reads the runs of one table, each once, and numbers its footnotes as they come up."""

    def __init__(self, sheet: Sheet, ledger: Ledger, out: Path) -> None:
        self.sheet, self.ledger, self.records = sheet, ledger, out / "records"
        self.known: dict[str, Run | None] = {}
        self.footnotes: dict[str, int] = {}
        self.sources: dict[str, None] = {}
        self.troubles: set[tuple[str, str, str, str]] = set()
        self.warnings: list[str] = []

    def entry(self, cell: Cell, planned: Sequence[Run]) -> Entry:
        """One cell of the table."""
        suite = self.sheet.suite
        part = suite.parts[cell.part]
        published = None
        if len(suite.variants) == 1:  # no published number of the ledger is of a variant
            published = self.ledger.find(
                part.protocols, part.dataset, part.scenario, part.tasks, cell.objective, cell.strategy
            )
        runs = self._runs(planned, self.sheet.probe(part))
        here = interval(100 * value for value in runs.values(METRICS[suite.metric]))
        comparable, notes = self._compare(runs, published)
        scored = comparable and published is not None and published.confidence != "quoted" and here.n > 0
        difference = here.mean - published.value if scored and published is not None else math.nan
        return Entry(cell, runs, here, published, comparable, difference, notes)

    def notes(self) -> list[str]:
        """What a reader must know of the runs behind the table."""
        runs = [run for run in self.known.values() if run is not None]
        lines = [QUICK_NOTE] if any(run.preset == "quick" for run in runs) else []
        lines += [SYNTHETIC_NOTE] if any(run.synthetic_domains for run in runs) else []
        return [*lines, *sorted({f"{run.note.rstrip('.')}." for run in runs if run.note})]

    def _runs(self, planned: Sequence[Run], probe: str) -> Runs:
        averaged, states = [], []
        for run_id in (run.run_id for run in planned):
            run = self._read(run_id)
            if run is None or not (run.accuracy or run.failures):
                states.append("not run")
                continue
            if run.status == "complete" and _label(run, probe) is not None:
                averaged.append(run)
                states.append("complete")
            elif run.status == "complete":
                states.append("not measured")
                self.warnings.append(f"runs without the {probe} probe, which this block prints, are not measured")
            else:
                states.append("unfinished" if run.status == "incomplete" else STATES[run.status])
                name = f"{run.scenario} / {run.dataset} / {method_name(run.strategy, run.objective)}"
                self.troubles.add((name, f"seed {run.seed} ({run_id})", states[-1], run.reason))
        label = next(filter(None, (_label(run, probe) for run in (*averaged, *planned))), probe)
        return Runs(tuple(planned), tuple(averaged), tuple(states), label)

    def _read(self, run_id: str) -> Run | None:
        if run_id not in self.known:
            path = self.records / f"{run_id}.jsonl"
            self.known[run_id] = read_run(path, self.warnings) if path.exists() else None
        return self.known[run_id]

    def _compare(self, runs: Runs, published: Published | None) -> tuple[bool, tuple[int, ...]]:
        """Whether the published number may stand against these runs, and the footnotes that say how they differ."""
        if published is None:
            return False, ()
        text = f"{published.source} ({published.version}; {published.where}), {published.confidence}: {published.url}"
        self.sources[f"{text} ({published.note})" if published.note else text] = None
        found = self._mismatches(runs, published)
        if published.confidence == "quoted":
            found.append(Mismatch("quoted: its protocol is not known, so no difference is formed", False))
        numbers = {self.footnotes.setdefault(text, len(self.footnotes) + 1) for text, _ in found}
        comparable = self.sheet.tier == "paper" and not any(blocks for _, blocks in found)
        return comparable, tuple(sorted(numbers))

    def _mismatches(self, runs: Runs, published: Published) -> list[Mismatch]:
        behind = runs.averaged or runs.planned
        return mismatches(behind, published, self.ledger, self.sheet, runs.probe) if behind else []


def _caption(sheet: Sheet) -> list[str]:
    """What the table is and at what scale it was made, one sentence each."""
    suite = sheet.suite
    metric = METRICS[suite.metric]
    keys = ", ".join(f"{key}={given.value}" for key, given in sheet.settings.items())
    scale = f"Tier {sheet.tier}: preset {sheet.preset}"
    scale += f", recipe {sheet.recipe}" if sheet.recipe else ""
    scale += f", fidelity {sheet.fidelity}" if sheet.fidelity else ""
    scale += f", every block on {sheet.dataset} in place of its own data" if sheet.dataset else ""
    scale += f", {keys}" if keys else ""
    lines = [
        f"The shape of: {suite.source}.",
        f"{scale}.",
        f"here: {suite.metric} ({metric.formula}) by the {suite.probe} probe where none is named, percent, mean ± "
        "standard deviation over seeds; n: runs averaged / seeds planned.",
    ]
    if sheet.dataset and len(suite.parts) > 1:
        lines.append("Blocks that agree in scenario, number of tasks and data show the same runs.")
    if sheet.tier != "paper":
        lines.append("At this tier no published number is comparable: they show what belongs where.")
    return lines


def _label(run: Run, name: str) -> str | None:
    """The record name of a probe, which holds the settings that are not the default, as in `knn(k=50)`."""
    return next((probe for probe in run.probes if probe == name or probe.startswith(f"{name}(")), None)


def write_asked(out: Path, sheet: Sheet, ids: Sequence[str]) -> None:
    """Keeps which runs a table was last made of, for `read_asked`."""
    refuse_links(out, "paper")
    path = _asked_path(out, sheet.suite.name, sheet.tier)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(sorted(set(ids))) + "\n").encode())


def read_asked(out: Path, name: str, tier: str) -> list[str]:
    """Ids of the runs that a table was last made of at a tier; empty where it never was. Raises UserError for a file
    that holds something else."""
    refuse_links(out, "paper")
    path = _asked_path(out, name, tier)
    if not path.is_file():
        return []
    try:
        ids = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        ids = None
    if not isinstance(ids, list) or not all(map(is_key, ids)):
        raise UserError(f"{path}: is no list of runs: remove it")
    return ids


def _asked_path(out: Path, name: str, tier: str) -> Path:
    return out / "paper" / f"{name}-{tier}.json"


def runs_done(ids: Sequence[str], out: Path) -> int:
    """How many of these runs have all their results in `out`, collapsed ones among them."""
    refuse_links(out, "records")
    found = [read_run(path, []) for path in (out / "records" / f"{name}.jsonl" for name in ids) if path.exists()]
    return sum(run is not None and run.status in ("complete", "marked") for run in found)
