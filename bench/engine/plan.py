"""From runs to stages: what would be trained, what is shared, and the names that everything is stored under."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from bench.config import DataConfig, EncoderConfig, RunConfig, digest
from bench.data.arrays import Pending
from bench.data.datasets import load
from bench.data.pending import load_or_foresee
from bench.data.scenarios import Scenario, Task, build
from bench.engine.keys import first_key, first_task, identity, input_size, input_statistics, later_tasks, training
from bench.engine.probing import Probe, check_names, probes_of, transfers_of
from bench.engine.store import Store
from bench.errors import UserError
from bench.models.encoder import build_encoder
from bench.recipes import remarks_of
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
            first = plan.stages.get(stage.key, stage)
            plan.stages[stage.key] = replace(first, probes=first.probes | stage.probes)
    return plan


def _planned(runs: list[RunConfig], loading: _Loading) -> list[tuple[PlannedRun, list[Stage], set[Pending]]]:
    """Every run with its stages, in the order given; runs of one scenario are planned together, so that each is built
    once, whatever the number of runs."""
    positions: dict[_Sequence, list[int]] = {}
    for position, run in enumerate(runs):
        positions.setdefault(_sequence(run), []).append(position)
    made: dict[int, tuple[PlannedRun, list[Stage], set[Pending]]] = {}
    for sequence, members in positions.items():
        scenario = _scenario(sequence, loading)
        pending = {each for each in (scenario.dataset.pending,) if each is not None}
        for position in members:
            planned, stages = _plan_run(runs[position], scenario)
            made[position] = (*_with_transfer(planned, stages, loading.out, loading.quiet), pending)
            _check_sizes(made[position][0], scenario)
    return [made[position] for position in range(len(runs))]


def _check_sizes(planned: PlannedRun, scenario: Scenario) -> None:
    run = planned.config
    _check_builds(run.settings.encoder, scenario.dataset.train.images.shape[3], input_size(run, scenario))
    batch, smallest = run.settings.train.batch, min(planned.images)
    if batch > smallest:
        task = planned.images.index(smallest)
        raise UserError(
            f"train.batch {batch} is larger than task {task} ({planned.task_names[task]}), which has "
            f"{smallest} images: use at most that"
        )
    queue = run.objective_hparams.get("queue")
    if queue is not None and queue < batch:
        raise UserError(f"{run.objective}.queue {queue} is smaller than train.batch {batch}: use at least that")
    if batch < 2:
        raise UserError("train.batch must be at least 2")
    _check_groups(run.settings.train.device_groups, batch)
    input_statistics(run, scenario)


def _check_groups(groups: int, batch: int) -> None:
    fitting = [count for count in range(1, batch // 2 + 1) if batch % count == 0]
    if groups not in fitting:
        close = min(fitting, key=lambda count: abs(count - groups))
        raise UserError(
            f"train.device_groups {groups} does not divide train.batch {batch} into groups of 2 or more: "
            f"the nearest that does is {close}"
        )


@lru_cache
def _check_builds(encoder: EncoderConfig, channels: int, size: int) -> None:
    if encoder.name.startswith("timm:"):
        build_encoder(encoder, channels, size, 0)


def _plan_run(run: RunConfig, scenario: Scenario) -> tuple[PlannedRun, list[Stage]]:
    settings, seeds = run.settings, run.seeds
    base, model = identity(run, scenario)
    check_names(settings)
    probes = probes_of(run)
    stages = [
        Stage(digest([base, "pixels", settings.numerics.threads]), "pixels", -1, None, run),
        Stage(digest([base, model, "init"]), "init", -1, None, run),
        *_trained_stages(run, scenario),
    ]
    stages = [replace(stage, probes=frozenset(p for p in probes if p.fits(stage.kind))) for stage in stages]
    last = len(scenario.tasks) - 1
    drawn = [base["drawn"]] if "drawn" in base else []
    setting = {"base": [scenario.source, settings.data.domains, *drawn], **model, "init": None, **training(run)}
    planned = PlannedRun(
        run_id=digest([stages[-1].key, run.strategy, run.seed, run.vary, seeds.probe]),
        config=run,
        stages=tuple(stage.key for stage in stages),
        after=(-2, *(last if stage.kind == "joint" else stage.task for stage in stages[1:])),
        task_names=tuple(task.name for task in scenario.tasks),
        images=tuple(len(task.train) for task in scenario.tasks),
        dataset=scenario.dataset.name,
        synthetic_domains=scenario.synthetic_domains,
        note="; ".join(filter(None, (scenario.note, *remarks_of(run)))),
        setting=digest(setting, 8),
        method_setting=digest([run.objective_hparams, run.strategy_hparams], 8),
        probes=probes,
    )
    return planned, stages


def _trained_stages(run: RunConfig, scenario: Scenario) -> list[Stage]:
    trains = registry.get("strategy", run.strategy).trains
    if trains == "never":
        return []
    if trains == "jointly":
        key = digest([*identity(run, scenario), "joint", first_task(run)])
        return [Stage(key, "joint", 0, None, run)]
    stages = [Stage(first_key(run, scenario), "task", 0, None, run)]
    later = later_tasks(run)
    for task in range(1, len(scenario.tasks)):
        stages.append(Stage(digest([stages[-1].key, task, later]), "task", task, stages[-1].key, run))
    return stages


def _with_transfer(planned: PlannedRun, stages: list[Stage], out: Path, quiet: bool) -> tuple[PlannedRun, list[Stage]]:
    """The run with the probes on other datasets, which every stage has."""
    more = transfers_of(planned.config, planned.config.settings.probe, out, quiet)
    stages = [replace(stage, probes=stage.probes.union(more)) for stage in stages]
    return replace(planned, probes=planned.probes + more), stages


@dataclass(frozen=True)
class Status:
    """How far a plan is: counts of stages."""

    done: int
    partial: int
    to_do: int
    shared: int


def status_of(plan: Plan, store: Store) -> Status:
    """Counts finished, half-trained and missing stages, and those that several runs share."""
    done = {key for key in plan.stages if is_done(plan.stages[key], store)}
    partial = [key for key in plan.stages if key not in done and store.partial(key).exists()]
    shared = [key for key, runs in plan.users().items() if len(runs) > 1]
    return Status(len(done), len(partial), len(plan.stages) - len(done) - len(partial), len(shared))


def is_done(stage: Stage, store: Store) -> bool:
    """Whether a stage is trained and all its probes have run."""
    return store.facts(stage.key) is not None and all(
        store.probe(stage.key, probe.key).exists() for probe in stage.probes
    )
