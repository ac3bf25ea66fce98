"""Which probes a stage has, the names of their results, and running one on a stage that is trained."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from bench.config import DataConfig, ProbeConfig, RunConfig, Settings, digest
from bench.data.arrays import Stats
from bench.data.datasets import Dataset, load
from bench.data.scenarios import Scenario
from bench.engine.checkpoint import load_tensors, save_tensors
from bench.engine.online import PROBE as ONLINE
from bench.engine.online import online_rows
from bench.engine.store import Store
from bench.errors import UserError, nearest
from bench.evaluate import offline
from bench.evaluate.catalogue import PROBES
from bench.evaluate.features import Features
from bench.evaluate.probes import probe_names, run_probe, settings_of
from bench.evaluate.transfer import TRANSFER_PROBES, run_transfer, transfer_features
from bench.models.learner import Learner


@dataclass(frozen=True)
class Target:
    """Another dataset to probe features on: where it is and what it holds. images: training and test ones."""

    data: DataConfig
    name: str
    digest: str
    images: tuple[int, int]


@dataclass(frozen=True)
class Probe:
    """A probe to run on a stage.

    rate: published learning rate of the run's objective, where the settings leave it open. target: another dataset,
    whose features are probed instead.
    """

    name: str
    config: Any
    seed: int
    rate: float | None = None
    target: Target | None = None

    @cached_property
    def key(self) -> str:
        """Name of its results: settings and seed."""
        settings = settings_of(self.name, self.config)
        if self.rate is not None:
            settings["published_rate"] = self.rate
        if self.target is not None:
            return f"{self.name}-{digest([settings, self.seed, self.target.digest], 8)}-transfer"
        return f"{self.name}-{digest([settings, self.seed], 8)}"

    @property
    def kind(self) -> str:
        """What it runs on: `features`, `images` or `training`."""
        if self.name == offline.NAME and not self.config.from_images:
            return "features"
        return PROBES[self.name].kind

    @property
    def needs_network(self) -> bool:
        """Whether cached features are not enough."""
        return self.kind == "images" or self.target is not None

    def fits(self, stage: str) -> bool:
        """Whether a stage of this kind has it: raw pixels have no encoder, and only tasks train."""
        return {"features": True, "images": stage != "pixels", "training": stage in ("task", "joint")}[self.kind]

    def record_names(self, scenario: str) -> list[str]:
        """Names under which the accuracies of a run are recorded; none for another dataset's."""
        if self.kind == "training":
            return [self.name]
        return [] if self.target is not None else probe_names(self.name, self.config, scenario)


def check_names(settings: Settings) -> None:
    """Raises UserError for a probe that does not exist, and for a headline that is not run."""
    names, headline = list(settings.probe.run), settings.probe.headline
    for name in names:
        if name not in PROBES:
            raise UserError(f"unknown probe '{name}'{nearest(name, PROBES)}")
        if PROBES[name].kind == "training":
            raise UserError(f"probe {name} runs while a stage trains: leave it out, and --set online.run=true")
    names += [ONLINE] if settings.online.run else []
    if headline not in names:
        raise UserError(f"probe.headline '{headline}' is not among the probes that run: {', '.join(names)}")


def probe_of(name: str, config: ProbeConfig, objective: str, seed: int) -> Probe:
    """A probe as an objective's runs have it; raises UserError where it lacks a published learning rate."""
    settings = getattr(config, name)
    rate = offline.published_rate(objective) if name == offline.NAME and settings.lr is None else None
    return Probe(name, settings, seed, rate)


def probes_of(run: RunConfig) -> tuple[Probe, ...]:
    """The probes of a run, each once; last the classifier trained beside the encoder, where there is one."""
    config, online = run.settings.probe, run.settings.online
    named = [probe_of(name, config, run.objective, run.seeds.probe) for name in dict.fromkeys(config.run)]
    return (*named, *([Probe(ONLINE, online, 0)] if online.run else []))


def transfers_of(run: RunConfig, config: ProbeConfig, out: Path, quiet: bool) -> tuple[Probe, ...]:
    """The probes of a run on each dataset of `config.transfer`."""
    return transfers(targets_of(run, config, out, quiet), config, run.seeds.probe)


def transfers(targets: Iterable[Target], config: ProbeConfig, seed: int) -> tuple[Probe, ...]:
    """The probes on other datasets."""
    return tuple(Probe(name, getattr(config, name), seed, None, t) for t in targets for name in TRANSFER_PROBES)


def targets_of(run: RunConfig, config: ProbeConfig, out: Path, quiet: bool) -> tuple[Target, ...]:
    """The datasets of `config.transfer`, of which each is loaded."""
    targets = []
    for spec in dict.fromkeys(config.transfer):
        where = replace(run.settings.data, dataset=spec, tasks=None, domains=())
        data = _dataset(where, out, quiet)
        targets.append(Target(where, data.name, data.digest, (len(data.train.labels), len(data.test.labels))))
    return tuple(targets)


@lru_cache(maxsize=2)
def _dataset(data: DataConfig, out: Path, quiet: bool) -> Dataset:
    where = None if data.data_dir is None else Path(data.data_dir)
    return load(
        data.dataset,
        out=out,
        data_dir=where,
        image_size=data.image_size,
        skip_corrupt=data.skip_corrupt,
        quiet=quiet,
    )


@dataclass(frozen=True)
class Subject:
    """A trained stage under its probes. learner: makes one with the stage's encoder; size, stats: of the encoder's
    images."""

    key: str
    kind: str
    features: Features
    scenario: Scenario
    size: int
    stats: Stats
    learner: Callable[[], Learner]


def run_on(subject: Subject, probe: Probe, store: Store) -> list[dict[str, Any]]:
    """The rows of a probe on a trained stage; changes nothing but caches. Raises Damaged where what it is to run on is
    not whole, or not there."""
    if probe.kind == "training":
        state, _ = load_tensors(store.online(subject.key))
        return online_rows(state, subject.features, len(subject.scenario.tasks))
    if probe.target is not None:
        features = _transferred(subject, probe.target, store)
        return run_transfer(probe.name, probe.config, features, probe.target.name, probe.seed)
    features, scenario = subject.features, subject.scenario
    if probe.name == offline.NAME:
        learner = subject.learner() if probe.needs_network else None
        rate = probe.config.lr if probe.rate is None else probe.rate
        return offline.run_offline(
            probe.config, rate, features, scenario, learner, subject.size, subject.stats, probe.seed
        )
    return run_probe(probe.name, probe.config, features, scenario.name, len(scenario.tasks), probe.seed)


def _transferred(subject: Subject, target: Target, store: Store) -> Features:
    """Features of another dataset, from the cache or put there."""
    path = store.transfer(subject.key, target.digest)
    if not path.exists():
        learner = None if subject.kind == "pixels" else subject.learner()
        channels = subject.scenario.dataset.train.images.shape[3]
        data = _dataset(target.data, store.out, True)
        features = transfer_features(data, learner, subject.size, channels)
        save_tensors(path, features.tensors(), write=store.write)
    return Features.of(load_tensors(path)[0], path)
