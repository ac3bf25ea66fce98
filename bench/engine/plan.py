"""From runs to stages: what would be trained, what is shared, and the names that everything is stored under."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bench.config import DataConfig, EncoderConfig, RunConfig, digest, lean
from bench.data.datasets import load
from bench.data.scenarios import Scenario, build
from bench.engine.store import Store
from bench.errors import UserError
from bench.evaluate.probes import PROBES, probe_names, settings_of
from bench.grid import ignored
from bench.models.encoder import build_encoder, native_size
from bench.recipes import recipe_values, remarks_of
from methods import registry

SCHEMA = 1


@dataclass(frozen=True)
class Probe:
    """A probe to run on a stage."""

    name: str
    config: Any
    seed: int

    @property
    def key(self) -> str:
        """Name of its results: settings and seed."""
        return f"{self.name}-{digest([settings_of(self.name, self.config), self.seed], 8)}"


@dataclass(frozen=True)
class Stage:
    """One unit of work, named by the hash of everything that influences it.

    kind: `pixels` (raw images), `init` (random network) or `task`; task: index, -1 where there is none; run: any run
    that has this stage.
    """

    key: str
    kind: Literal["pixels", "init", "task"]
    task: int
    parent: str | None
    run: RunConfig
    probes: frozenset[Probe] = frozenset()


@dataclass(frozen=True)
class PlannedRun:
    """A run with its chain of stages: pixels, init, task 0, task 1 ...

    images: number of training images of each task.
    """

    run_id: str
    config: RunConfig
    stages: tuple[str, ...]
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
        return [n for p in self.probes for n in probe_names(p.name, p.config, self.config.scenario)]


@dataclass
class Plan:
    """Runs and their unique stages, parents before children."""

    runs: list[PlannedRun] = field(default_factory=list)
    stages: dict[str, Stage] = field(default_factory=dict)

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
    """How datasets are loaded: `quiet` makes no other dataset."""

    out: Path
    quiet: bool = field(compare=False)


def scenario_of(run: RunConfig, out: Path, quiet: bool = True) -> Scenario:
    """The scenario of a run on its dataset, which is loaded once per process."""
    return _scenario(_sequence(run), _Loading(out, quiet))


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
    )


@lru_cache(maxsize=2)
def _dataset(spec: str, data_dir: str | None, size: int | None, skip: bool, loading: _Loading) -> Any:
    where = None if data_dir is None else Path(data_dir)
    return load(spec, out=loading.out, data_dir=where, image_size=size, skip_corrupt=skip, quiet=loading.quiet)


def input_size(run: RunConfig, scenario: Scenario) -> int:
    """Side of the images that the encoder gets, in pixels."""
    native = native_size(run.settings.encoder)
    height, width = scenario.dataset.train.images.shape[1:3]
    return run.settings.data.image_size or native or min(height, width)


def make_plan(runs: Iterable[RunConfig], out: Path, quiet: bool = True) -> Plan:
    """The plan of a grid; raises UserError for a run that cannot start (batch above the task, too many tasks ...)."""
    plan = Plan()
    known: set[str] = set()
    for planned, stages in _planned(list(runs), out, quiet):
        if planned.run_id in known:
            continue
        known.add(planned.run_id)
        plan.runs.append(planned)
        for stage in stages:
            first = plan.stages.get(stage.key, stage)
            plan.stages[stage.key] = replace(first, probes=first.probes | stage.probes)
    return plan


def _planned(runs: list[RunConfig], out: Path, quiet: bool) -> list[tuple[PlannedRun, list[Stage]]]:
    """Every run with its stages, in the order given; runs of one scenario are planned together, so that each is built
    once, whatever the number of runs."""
    positions: dict[_Sequence, list[int]] = {}
    for position, run in enumerate(runs):
        positions.setdefault(_sequence(run), []).append(position)
    made: dict[int, tuple[PlannedRun, list[Stage]]] = {}
    for members in positions.values():
        scenario = scenario_of(runs[members[0]], out, quiet)
        for position in members:
            made[position] = _plan_run(runs[position], scenario)
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


@lru_cache
def _check_builds(encoder: EncoderConfig, channels: int, size: int) -> None:
    if encoder.name.startswith("timm:"):
        build_encoder(encoder, channels, size, 0)


def _identity(run: RunConfig, scenario: Scenario) -> tuple[dict[str, Any], dict[str, Any]]:
    """What every stage depends on: the sequence of tasks; and all that a network runs in: the model."""
    settings, seeds = run.settings, run.seeds
    base = {
        "schema": SCHEMA,
        "scenario": run.scenario,
        "dataset": scenario.dataset.digest,
        "tasks": [task.name for task in scenario.tasks],
        "order": seeds.order,
        "split": seeds.split,
    }
    model = {
        "encoder": lean(settings.encoder),
        "size": input_size(run, scenario),
        "numerics": lean(settings.numerics),
        "init": seeds.init,
    }
    return base, model


def first_key(run: RunConfig, scenario: Scenario) -> str:
    """Key of task 0, which all strategies share."""
    return digest([*_identity(run, scenario), _first_task(run)])


def _plan_run(run: RunConfig, scenario: Scenario) -> tuple[PlannedRun, list[Stage]]:
    settings, seeds = run.settings, run.seeds
    base, model = _identity(run, scenario)
    probes = tuple(Probe(name, getattr(settings.probe, name), seeds.probe) for name in PROBES)
    stages = [
        Stage(digest([base, "pixels", settings.numerics.threads]), "pixels", -1, None, run),
        Stage(digest([base, model, "init"]), "init", -1, None, run),
        Stage(first_key(run, scenario), "task", 0, None, run),
    ]
    later = _later_tasks(run)
    for task in range(1, len(scenario.tasks)):
        stages.append(Stage(digest([stages[-1].key, task, later]), "task", task, stages[-1].key, run))
    stages = [replace(stage, probes=frozenset(probes)) for stage in stages]
    setting = {"base": [scenario.source, settings.data.domains], **model, "init": None, **_training(run)}
    planned = PlannedRun(
        run_id=digest([stages[-1].key, run.strategy, run.seed, run.vary, seeds.probe]),
        config=run,
        stages=tuple(stage.key for stage in stages),
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


def _training(run: RunConfig) -> dict[str, Any]:
    """How a run trains, but for data, model and method; under a recipe, whose values go with the objective, its name,
    a hash of its values, and what was asked for beside it: so that runs of all its objectives share a setting."""
    settings = run.settings
    if not run.recipe:
        return {"train": lean(settings.train), "optim": lean(settings.optim), "augment": lean(settings.augment)}
    elsewhere = ("encoder.", "numerics.", f"{run.objective}.", f"{run.strategy}.")
    asked = {key: value for key, value in run.overrides.items() if not key.startswith(elsewhere)}
    return {"recipe": [run.recipe, digest(recipe_values(run.recipe)), run.preset, asked]}


def _first_task(run: RunConfig) -> dict[str, Any]:
    """What task 0 depends on beside data and encoder: no strategy, and nothing that only later tasks read."""
    own = {n: v for n, v in run.objective_hparams.items() if not n.startswith(("distill_", "pseudo_"))}
    train = {n: v for n, v in lean(run.settings.train).items() if n != "teacher_bn"}
    return {
        "objective": [run.objective, own],
        "train": train,
        "optim": lean(run.settings.optim),
        "augment": lean(run.settings.augment),
        "seeds": [run.seeds.data, run.seeds.augment],
    }


def _later_tasks(run: RunConfig) -> dict[str, Any]:
    """What later tasks depend on beside the state they start from and all that its key already holds."""
    unread = ignored(run.strategy, run.objective)
    distill = {n: v for n, v in run.objective_hparams.items() if n.startswith(("distill_", "pseudo_"))}
    own = {n: v for n, v in run.strategy_hparams.items() if n not in unread}
    teacher = registry.get("strategy", run.strategy).teacher
    return {
        "strategy": [run.strategy, own],
        "distill": {n: v for n, v in distill.items() if n not in unread},
        "teacher_bn": run.settings.train.teacher_bn if teacher else None,
    }


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
