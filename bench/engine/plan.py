"""From runs to stages: what would be trained, what is shared, and the names that everything is stored under."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from bench.config import DataConfig, RunConfig, canonical, digest, digest_of
from bench.data.arrays import Pending
from bench.data.datasets import load
from bench.data.pending import load_or_foresee
from bench.data.scenarios import Scenario, Task, build
from bench.engine.keys import Texts, later_tasks, setting_of, texts_of
from bench.engine.probing import Probe, Target, check_names, probes_of, targets_of, transfers
from bench.engine.sizes import check_sizes
from bench.recipes import remarks_of
from bench.source import base_code, trained_codes
from methods import registry


@dataclass(frozen=True)
class Stage:
    """One unit of work, named by the hash of everything that influences it.

    kind: `pixels` (raw images), `init` (random network), `task` or `joint` (all tasks at once); task: index, 0 for
    `joint`, -1 where nothing is trained; run: any run that has this stage.
    """

    key: str
    kind: Literal["pixels", "init", "task", "joint"]
    task: int
    parent: str | None
    run: RunConfig
    probes: frozenset[Probe] = frozenset()

    @property
    def trains(self) -> bool:
        """Whether a network is trained."""
        return self.kind in ("task", "joint")

    @property
    def code(self) -> str:
        """The present code of it and of the stages before it."""
        if not self.trains:
            return base_code()
        return trained_codes(self.run.objective, self.run.strategy, self.task + 1)[self.task]

    def rows(self, tasks: Sequence[Task]) -> np.ndarray:
        """The images it is trained on: indices into the training split, of the tasks of its scenario."""
        if self.kind == "joint":
            return np.sort(np.concatenate([task.train for task in tasks]))
        return tasks[self.task].train


@dataclass(frozen=True)
class PlannedRun:
    """A run with its chain of stages: pixels, init, task 0, task 1 ..., or less where it is a bound.

    after: of each stage, the task after which it stands: -2 raw pixels, -1 the random network, the last for one that
    is trained jointly. images: number of training images of each task.
    """

    run_id: str
    config: RunConfig
    stages: tuple[str, ...]
    after: tuple[int, ...]
    task_names: tuple[str, ...]
    images: tuple[int, ...]
    dataset: str
    synthetic_domains: bool
    note: str
    setting: str
    method_setting: str
    probes: tuple[Probe, ...]

    def expected_probes(self) -> list[str]:
        """Names under which this run's accuracies are recorded."""
        return [name for probe in self.probes for name in probe.record_names(self.config.scenario)]


@dataclass
class Plan:
    """Runs and their unique stages, parents before children; pending: datasets of which only the numbers are there."""

    runs: list[PlannedRun] = field(default_factory=list)
    stages: dict[str, Stage] = field(default_factory=dict)
    pending: set[Pending] = field(default_factory=set)

    def users(self) -> dict[str, list[PlannedRun]]:
        """Stage -> runs that have it."""
        users: dict[str, list[PlannedRun]] = {key: [] for key in self.stages}
        for run in self.runs:
            for key in run.stages:
                users[key].append(run)
        return users


class _Sequence(NamedTuple):
    """What a scenario is built from: runs that agree in it have the same one."""

    data: DataConfig
    scenario: str
    order: int
    split: int


@dataclass(frozen=True)
class _Loading:
    """How datasets are loaded: `quiet` makes no other dataset, `foresee` one without its images (for plans only)."""

    out: Path
    quiet: bool = field(compare=False)
    foresee: bool = False


def scenario_of(run: RunConfig, out: Path, quiet: bool = True, foresee: bool = False) -> Scenario:
    """The scenario of a run on its dataset, which is loaded once per process; foresee: see `load_or_foresee`."""
    return _scenario(_sequence(run), _Loading(out, quiet, foresee))


def _sequence(run: RunConfig) -> _Sequence:
    return _Sequence(run.settings.data, run.scenario, run.seeds.order, run.seeds.split)


# Few, as one with synthetic domains holds all its images: building one is nothing beside training on it.
@lru_cache(maxsize=2)
def _scenario(sequence: _Sequence, loading: _Loading) -> Scenario:
    data = sequence.data
    dataset = _dataset(data.dataset, data.data_dir, data.image_size, data.skip_corrupt, loading)
    return build(
        sequence.scenario,
        dataset,
        tasks=data.tasks,
        order_seed=sequence.order,
        split_seed=sequence.split,
        domain_order=data.domains,
        order=data.order,
    )


@lru_cache(maxsize=2)
def _dataset(spec: str, data_dir: str | None, size: int | None, skip: bool, loading: _Loading) -> Any:
    where = None if data_dir is None else Path(data_dir)
    loaded = load_or_foresee if loading.foresee else load
    return loaded(spec, out=loading.out, data_dir=where, image_size=size, skip_corrupt=skip, quiet=loading.quiet)


def make_plan(runs: Iterable[RunConfig], out: Path, quiet: bool = True, foresee: bool = False) -> Plan:
    """The plan of a grid, from numbers only where data is not there and `foresee` allows it.

    Raises UserError for a run that cannot start (batch above the task, too many tasks ...).
    """
    plan = Plan()
    known: set[str] = set()
    for planned, stages, pending in _planned(list(runs), _Loading(out, quiet, foresee)):
        plan.pending |= pending
        if planned.run_id in known:
            continue
        known.add(planned.run_id)
        plan.runs.append(planned)
        for stage in stages:
            first = plan.stages.setdefault(stage.key, stage)
            if not stage.probes <= first.probes:
                plan.stages[stage.key] = replace(first, probes=first.probes | stage.probes)
    return plan


def _planned(runs: list[RunConfig], loading: _Loading) -> list[tuple[PlannedRun, list[Stage], set[Pending]]]:
    """Every run with its stages, in the order given; runs of one scenario are planned together, so that each is built
    once, whatever the number of runs."""
    positions: dict[_Sequence, list[int]] = {}
    for position, run in enumerate(runs):
        positions.setdefault(_sequence(run), []).append(position)
    made: dict[int, tuple[PlannedRun, list[Stage], set[Pending]]] = {}
    shared: dict[tuple[object, ...], _Shared] = {}
    for sequence, members in positions.items():
        scenario = _scenario(sequence, loading)
        pending = {each for each in (scenario.dataset.pending,) if each is not None}
        texts: dict[tuple[int, ...], Texts] = {}
        for position in members:
            run = runs[position]
            alike, first = _but_seeds(run), _but_strategy(run)
            if alike not in shared:
                shared[alike] = _share(run, scenario, loading)
            if first not in texts:
                texts[first] = texts_of(run, scenario)
            made[position] = (*_plan_run(run, scenario, shared[alike], texts[first]), pending)
            check_sizes(run, scenario)
    return [made[position] for position in range(len(runs))]


class _Shared(NamedTuple):
    """What runs that differ in their seeds alone have in common. later: canonical text of what tasks after the first
    depend on; targets: other datasets that are probed."""

    trains: str
    later: str
    setting: str
    method_setting: str
    remarks: tuple[str, ...]
    targets: tuple[Target, ...]


def _but_seeds(run: RunConfig) -> tuple[object, ...]:
    """Equal for runs that differ in their seeds alone where they are copies of one another, as those of a grid are."""
    values = (run.settings, run.objective_hparams, run.strategy_hparams, run.overrides)
    return (run.scenario, run.objective, run.strategy, run.vary, run.preset, run.recipe, *map(id, values))


def _share(run: RunConfig, scenario: Scenario, loading: _Loading) -> _Shared:
    check_names(run.settings)
    return _Shared(
        trains=registry.get("strategy", run.strategy).trains,
        later=canonical(later_tasks(run)),
        setting=setting_of(run, scenario),
        method_setting=digest([run.objective_hparams, run.strategy_hparams], 8),
        remarks=tuple(remarks_of(run)),
        targets=targets_of(run, run.settings.probe, loading.out, loading.quiet),
    )


def _but_strategy(run: RunConfig) -> tuple[int, ...]:
    """The same, within a sequence of tasks, for runs that differ in their strategy alone."""
    seeds = run.seeds
    return id(run.settings), id(run.objective_hparams), seeds.init, seeds.data, seeds.augment


def _plan_run(run: RunConfig, scenario: Scenario, shared: _Shared, texts: Texts) -> tuple[PlannedRun, list[Stage]]:
    settings, seeds = run.settings, run.seeds
    probes = (*probes_of(run), *transfers(shared.targets, settings.probe, seeds.probe))
    pixels = digest_of([texts.base, '"pixels"', str(settings.numerics.threads)])
    stages = [
        Stage(pixels, "pixels", -1, None, run, _fitting(probes, "pixels")),
        Stage(digest_of([texts.base, texts.model, '"init"']), "init", -1, None, run, _fitting(probes, "init")),
        *_trained_stages(run, scenario, shared, texts, probes),
    ]
    last = len(scenario.tasks) - 1
    planned = PlannedRun(
        run_id=digest([stages[-1].key, run.strategy, run.seed, run.vary, seeds.probe]),
        config=run,
        stages=tuple(stage.key for stage in stages),
        after=(-2, *(last if stage.kind == "joint" else stage.task for stage in stages[1:])),
        task_names=tuple(task.name for task in scenario.tasks),
        images=tuple(len(task.train) for task in scenario.tasks),
        dataset=scenario.dataset.name,
        synthetic_domains=scenario.synthetic_domains,
        note="; ".join(filter(None, (scenario.note, *shared.remarks))),
        setting=shared.setting,
        method_setting=shared.method_setting,
        probes=probes,
    )
    return planned, stages


@lru_cache(maxsize=64)
def _fitting(probes: tuple[Probe, ...], kind: str) -> frozenset[Probe]:
    """Those of the probes that a stage of a kind has."""
    return frozenset(probe for probe in probes if probe.fits(kind))


def _trained_stages(
    run: RunConfig, scenario: Scenario, shared: _Shared, texts: Texts, probes: tuple[Probe, ...]
) -> list[Stage]:
    if shared.trains == "never":
        return []
    if shared.trains == "jointly":
        key = digest_of([texts.base, texts.model, '"joint"', texts.first_task])
        return [Stage(key, "joint", 0, None, run, _fitting(probes, "joint"))]
    fitting = _fitting(probes, "task")
    stages = [Stage(digest_of(texts), "task", 0, None, run, fitting)]
    for task in range(1, len(scenario.tasks)):
        parent = stages[-1].key
        key = digest_of([f'"{parent}"', str(task), shared.later])
        stages.append(Stage(key, "task", task, parent, run, fitting))
    return stages
