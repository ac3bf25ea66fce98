"""What stages depend on: the text that their keys are hashes of, and what a run feeds its encoder."""

from typing import Any, NamedTuple

from bench.config import RunConfig, canonical, digest, digest_of, lean
from bench.data.arrays import Stats, normalisation_of, statistics
from bench.data.named import NAMED
from bench.data.scenarios import Scenario
from bench.grid import ignored
from bench.models.encoder import native_size
from bench.recipes import recipe_values
from methods import registry

SCHEMA = 1


def input_size(run: RunConfig, scenario: Scenario) -> int:
    """Side of the images that the encoder gets, in pixels."""
    data, native = run.settings.data, native_size(run.settings.encoder)
    usual = NAMED[data.dataset].side if data.dataset in NAMED else None
    height, width = scenario.dataset.train.images.shape[1:3]
    return data.image_size or native or usual or min(height, width)


def input_statistics(run: RunConfig, scenario: Scenario) -> Stats:
    """Mean and standard deviation per channel that the encoder's input is normalised by."""
    return statistics(run.settings.data.normalisation, scenario.dataset)


def identity(run: RunConfig, scenario: Scenario) -> tuple[dict[str, Any], dict[str, Any]]:
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
    if settings.data.order != "seeded":
        base["drawn"] = settings.data.order
    model = {
        "encoder": lean(settings.encoder),
        "size": input_size(run, scenario),
        "numerics": lean(settings.numerics),
        "init": seeds.init,
    }
    normalisation = normalisation_of(settings.data.normalisation, scenario.dataset)
    if normalisation != "dataset":
        model["normalisation"] = normalisation
    return base, model


class Texts(NamedTuple):
    """Canonical texts of what all stages depend on, of what a network runs in, and of what task 0 depends on beside."""

    base: str
    model: str
    first_task: str


def texts_of(run: RunConfig, scenario: Scenario) -> Texts:
    """The texts of a run, which are those of all its strategies."""
    return Texts(*map(canonical, (*identity(run, scenario), first_task(run))))


def first_key(run: RunConfig, scenario: Scenario) -> str:
    """Key of task 0, which all strategies share."""
    return digest_of(texts_of(run, scenario))


def setting_of(run: RunConfig, scenario: Scenario) -> str:
    """Names what runs must share to be compared: all but method and seeds."""
    base, model = identity(run, scenario)
    drawn = [base["drawn"]] if "drawn" in base else []
    where = [scenario.source, run.settings.data.domains, *drawn]
    return digest({"base": where, **model, "init": None, **training(run)}, 8)


def training(run: RunConfig) -> dict[str, Any]:
    """How a run trains, but for data, model and method; under a recipe, whose values go with the objective, its name,
    a hash of its values, and what was asked for beside it: so that runs of all its objectives share a setting."""
    settings = run.settings
    if not run.recipe:
        sections = {name: lean(getattr(settings, name)) for name in ("train", "optim", "augment")}
        return {**sections, **_online(run)}
    elsewhere = ("encoder.", "numerics.", f"{run.objective}.", f"{run.strategy}.")
    asked = {key: value for key, value in run.overrides.items() if not key.startswith(elsewhere)}
    return {"recipe": [run.recipe, digest(recipe_values(run.recipe)), run.preset, asked]}


def first_task(run: RunConfig) -> dict[str, Any]:
    """What task 0 depends on beside data and encoder: no strategy, and nothing that only later tasks read."""
    own = {n: v for n, v in run.objective_hparams.items() if not n.startswith(("distill_", "pseudo_"))}
    unread = {"teacher_bn"} if registry.get("objective", run.objective).momentum else {"teacher_bn", "ema_skip_first"}
    train = {n: v for n, v in lean(run.settings.train).items() if n not in unread}
    return {
        "objective": [run.objective, own],
        "train": train,
        "optim": lean(run.settings.optim),
        "augment": lean(run.settings.augment),
        "seeds": [run.seeds.data, run.seeds.augment],
        **_online(run),
    }


def _online(run: RunConfig) -> dict[str, Any]:
    """The classifier trained beside the encoder, as part of keys; nothing where there is none."""
    return {"online": lean(run.settings.online)} if run.settings.online.run else {}


def later_tasks(run: RunConfig) -> dict[str, Any]:
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
