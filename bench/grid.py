"""From what was asked for (methods, scenarios, seeds, keys) to the list of runs, refusing what nothing would read."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any, Literal, NamedTuple

import torch

from bench.config import DataConfig, NumericsConfig, RunConfig, Seeds, Settings, read_preset, restored, with_fidelity
from bench.data.scenarios import SCENARIOS
from bench.errors import UserError, nearest
from bench.layers import Given, Layer, check_range, coerce, fill, given_of, leaves
from bench.models.encoder import check_encoder
from bench.recipes import recipe_layer
from methods import registry

Nodes = Literal["", "cpu", "cuda"]
"""What other machines have that runs are for; empty where they are for this one."""
VARY = ("all", *(f.name for f in fields(Seeds)))
MOST_SEEDS = 10_000
MOST_RUNS = 100_000


@dataclass(frozen=True)
class Request:
    """What to run, as names; `layer` holds the keys given in files and flags, over those of `fidelity` (a set of
    switches, None: as they are) over those of the recipe (where there is one) over those of the preset."""

    methods: Sequence[str]
    objectives: Sequence[str] = ("moco",)
    scenarios: Sequence[str] = ("class_il",)
    seeds: Sequence[int] = (0,)
    vary: str = "all"
    preset: str = "quick"
    recipe: str = ""
    fidelity: str | None = None
    layer: Layer | None = None
    nodes: Nodes = ""


def parse_seeds(text: str) -> list[int]:
    """`0-2`, `0,3,5` or a mix -> sorted distinct seeds; raises UserError for anything else."""
    seeds: set[int] = set()
    for part in str(text).split(","):
        span = re.fullmatch(r"\s*([0-9]{1,18})(?:-([0-9]{1,18}))?\s*", part)
        if span is None:
            raise UserError(f"--seeds '{text}' does not parse: write 0-2 or 0,3,5")
        first, last = int(span[1]), int(span[2] or span[1])
        if last < first:
            raise UserError(f"--seeds '{text}' does not parse: {first}-{last} runs backwards")
        seeds.update(range(first, min(last, first + MOST_SEEDS) + 1))
        if len(seeds) > MOST_SEEDS:
            raise UserError(f"--seeds '{text}' are more than {MOST_SEEDS:,} seeds")
    return sorted(seeds)


def seeds_text(seeds: Iterable[int]) -> str:
    """Seeds as `parse_seeds` takes them, three and more in a row as a span."""
    parts: list[tuple[int, int]] = []
    for seed in sorted(set(seeds)):
        first, last = parts[-1] if parts else (seed, seed - 2)
        parts[-1:] = [(first, seed)] if seed == last + 1 else [*parts[-1:], (seed, seed)]
    return ",".join(f"{a}-{b}" if b - a > 1 else ",".join(map(str, range(a, b + 1))) for a, b in parts)


def method_pairs(methods: Iterable[str], objectives: Iterable[str]) -> list[tuple[str, str]]:
    """(strategy, objective) of each method: `sycon-byol` names both, `sycon` takes every given objective, `all` every
    strategy."""
    wanted = _expand(objectives, "objective")
    pairs: dict[tuple[str, str], None] = {}
    for method in methods:
        strategy, dash, objective = method.partition("-")
        if dash:
            pairs[registry.resolve("strategy", strategy), registry.resolve("objective", objective)] = None
        else:
            pairs |= dict.fromkeys(product(_expand([method], "strategy"), wanted))
    return list(pairs)


def _expand(names: Iterable[str], kind: str) -> list[str]:
    return [
        found
        for name in names
        for found in (registry.classes(kind) if name == "all" else [registry.resolve(kind, name)])
    ]


def build_runs(request: Request) -> list[RunConfig]:
    """The product scenario x method x seed, resolved for this machine.

    Raises UserError or methods.registry.UnknownName for unknown names, keys and values, and for a hyperparameter that
    no run of the grid reads.
    """
    _check_names(request)
    pairs, scenarios = method_pairs(request.methods, request.objectives), list(dict.fromkeys(request.scenarios))
    count = len(scenarios) * len(pairs) * len(request.seeds)
    if count > MOST_RUNS:
        raise UserError(f"a grid of {count:,} runs is more than the {MOST_RUNS:,} that one may have: plan it in parts")
    preset, layer = read_preset(request.preset), request.layer or {}
    known = {key for key, _ in leaves(Settings)} | _method_keys()
    for key, given in {**preset, **layer}.items():
        _check_key(key, given, known)
    preset, layer = _by_name(preset), _by_name(layer)
    for key, given in layer.items():
        _check_read(key, given, pairs)
    data = fill(Settings, _settings_keys({**preset, **layer})).data
    cases: dict[tuple[str, str], _Case] = {}
    for scenario, objective in product(scenarios, dict.fromkeys(objective for _, objective in pairs)):
        recipe = _recipe(request.recipe, data, scenario, objective)
        base = with_fidelity({**preset, **recipe}, request.fidelity)
        for key, given in base.items():
            _check_key(key, given, known)
        cases[scenario, objective] = _resolve(objective, base, layer, request.nodes)
    seeds = {seed: _seeds(seed, request.vary) for seed in request.seeds}
    # Runs that differ in their seeds alone are copies: they share all other values.
    return [
        replace(first, seed=seed, seeds=seeds[seed])
        for scenario, pair in product(scenarios, pairs)
        for first in (_run(scenario, pair, request, cases[scenario, pair[1]]),)
        for seed in request.seeds
    ]


def _seeds(seed: int, vary: str) -> Seeds:
    names = {f.name for f in fields(Seeds)}
    return Seeds(**{name: seed if vary in ("all", name) else 0 for name in names})


def _check_names(request: Request) -> None:
    for scenario in request.scenarios:
        if scenario not in SCENARIOS:
            raise UserError(f"unknown scenario '{scenario}'{nearest(scenario, SCENARIOS)}")
    if request.vary not in VARY:
        raise UserError(f"--vary cannot be '{request.vary}'{nearest(request.vary, VARY)}")


class _Case(NamedTuple):
    """What runs of one scenario and objective share; base: keys of preset and recipe, given: those over them."""

    base: Layer
    given: Layer
    plain: Settings
    settings: Settings
    objective_hparams: dict[str, Any]


def _recipe(name: str, data: DataConfig, scenario: str, objective: str) -> Layer:
    return recipe_layer(name, data.dataset, scenario, objective, data.image_size) if name else {}


def _resolve(objective: str, base: Layer, layer: Layer, nodes: Nodes) -> _Case:
    plain = fill(Settings, _settings_keys(base))
    settings = fill(Settings, {**given_of(plain), **_settings_keys(layer)})
    settings = replace(settings, numerics=resolve_numerics(settings.numerics, nodes))
    if settings.encoder.name.startswith("timm:") and "encoder.stem" not in layer:
        # The stem of a preset or recipe is for our networks; timm's keep their own unless one is asked for.
        settings = replace(settings, encoder=replace(settings.encoder, stem=None))
    check_encoder(settings.encoder)
    if settings.optim.min_lr > settings.optim.lr:
        raise UserError(f"optim.min_lr {settings.optim.min_lr} is above optim.lr {settings.optim.lr}")
    return _Case(base, layer, plain, settings, _hparams("objective", objective, {**base, **layer}))


def _by_name(layer: Layer) -> Layer:
    """The layer with `pnr.repel` as `sycon.repel`: under an alias a key would not meet the preset's value of it."""
    names = registry.aliases("strategy") | registry.aliases("objective")
    split = ((key.partition("."), given) for key, given in layer.items())
    return {f"{names.get(owner, owner)}{dot}{name}": given for (owner, dot, name), given in split}


def _settings_keys(layer: Layer) -> Layer:
    names = {f.name for f in fields(Settings)}
    return {key: given for key, given in layer.items() if key.partition(".")[0] in names}


def _method_keys() -> set[str]:
    return {
        f"{word}.{f.name}"
        for kind in ("strategy", "objective")
        for word, name in registry.aliases(kind).items()
        for f in fields(registry.get(kind, name).Hparams)
    }


def _check_key(key: str, given: Given, known: set[str]) -> None:
    if key not in known:
        inside = sorted(k for k in known if k.startswith(f"{key}."))
        hint = f" (a group: set {inside[0]} or another of it)" if inside else nearest(key, known)[:200]
        raise UserError(f"{given.where}: unknown key '{key}'{hint}")


def _check_read(key: str, given: Given, pairs: Iterable[tuple[str, str]]) -> None:
    owner, _, name = key.partition(".")
    for strategy, objective in pairs:
        if owner in (strategy, objective) and name not in ignored(strategy, objective):
            return
    if owner not in {f.name for f in fields(Settings)}:
        methods = ", ".join("-".join(pair) for pair in pairs)
        raise UserError(f"{given.where}: no method of this grid reads '{key}' (methods: {methods})")


def ignored(strategy: str, objective: str) -> frozenset[str]:
    """Names of the hyperparameters that change nothing for this pair."""
    ignores: frozenset[str] = registry.get("strategy", strategy).ignores(registry.get("objective", objective))
    return ignores


def _method_values(pair: tuple[str, str], layer: Layer) -> dict[str, Any]:
    """Hyperparameters of a pair as keys."""
    kinds = zip(("strategy", "objective"), pair, strict=True)
    return {f"{name}.{key}": value for kind, name in kinds for key, value in _hparams(kind, name, layer).items()}


def _hparams(kind: str, name: str, layer: Layer) -> dict[str, Any]:
    cls = registry.get(kind, name)
    filled: dict[str, Any] = {}
    for key, hint in leaves(cls.Hparams):
        given = layer.get(f"{name}.{key}")
        if given is not None:
            filled[key] = coerce(given.value, hint, f"{given.where}: {name}.{key}")
            check_range(filled[key], f"{given.where}: {name}.{key}")
    try:
        instance = cls.Hparams(**filled)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None
    return {f.name: getattr(instance, f.name) for f in fields(instance)}


def _run(scenario: str, pair: tuple[str, str], request: Request, case: _Case) -> RunConfig:
    """The run of seed 0."""
    strategy, objective = pair
    layer = {**case.base, **case.given}
    before = {key: given.value for key, given in given_of(case.plain).items()} | _method_values(pair, case.base)
    after = {key: given.value for key, given in given_of(case.settings).items()} | _method_values(pair, layer)
    overrides = {
        key: after[key]
        for key in case.given
        if (not key.startswith(("data.", "probe.")) or key in ("data.normalisation", "data.order"))
        and key in after
        and before[key] != after[key]
    }
    return RunConfig(
        scenario=scenario,
        objective=objective,
        strategy=strategy,
        objective_hparams=case.objective_hparams,
        strategy_hparams=_hparams("strategy", strategy, layer),
        seed=0,
        vary=request.vary,
        seeds=_seeds(0, request.vary),
        preset=request.preset,
        settings=case.settings,
        overrides=overrides | ({"fidelity": request.fidelity} if request.fidelity else {}),
        recipe=request.recipe,
    )


def again(content: dict[str, Any]) -> RunConfig:
    """The run of a record's configuration, checked like one that is asked for, but for its device, which may be another
    machine's; raises what `build_runs` raises."""
    run = restored(content)
    _check_names(Request([run.strategy], [run.objective], [run.scenario], vary=run.vary))
    check_encoder(run.settings.encoder)
    return replace(
        run,
        objective_hparams=_given_hparams("objective", run.objective, run.objective_hparams),
        strategy_hparams=_given_hparams("strategy", run.strategy, run.strategy_hparams),
    )


def _given_hparams(kind: str, name: str, values: dict[str, Any]) -> dict[str, Any]:
    layer = {f"{name}.{key}": Given(value, "record") for key, value in values.items()}
    for key, given in layer.items():
        _check_key(key, given, _method_keys())
    return _hparams(kind, name, layer)


def resolve_numerics(config: NumericsConfig, nodes: Nodes = "") -> NumericsConfig:
    """`auto` as what this machine has: CUDA if there, bf16 where the hardware computes in it.

    Raises UserError for a device that is not there, and for a precision that only one of the nodes could tell.
    """
    here = torch.cuda.is_available()
    if config.device == "cuda" and not here and not nodes:
        raise UserError("--device cuda: this machine has no CUDA device (leave it at auto)")
    device = config.device
    if device == "auto":
        device = nodes or ("cuda" if here else "cpu")
    precision = config.precision
    if precision == "auto":
        if device == "cuda" and not here:
            raise UserError(
                "--precision auto: this machine has no CUDA device to tell for those of the jobs: bf16 or fp32"
            )
        precision = "bf16" if _has_bf16(device) else "fp32"
    return replace(config, device=device, precision=precision)


def _has_bf16(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
