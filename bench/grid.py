"""From what was asked for (methods, scenarios, seeds, keys) to the list of runs, refusing what nothing would read."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any, NamedTuple

import torch

from bench.config import DataConfig, NumericsConfig, RunConfig, Seeds, Settings, read_preset, with_fidelity
from bench.data.scenarios import SCENARIOS
from bench.errors import UserError, nearest
from bench.layers import Given, Layer, check_range, coerce, fill, given_of, leaves
from bench.models.encoder import check_encoder
from bench.recipes import recipe_layer
from methods import registry

VARY = ("all", *(f.name for f in fields(Seeds)))
MOST_SEEDS = 10_000


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
        if last - first >= MOST_SEEDS:
            raise UserError(f"--seeds '{text}' are more than {MOST_SEEDS:,} seeds")
        seeds.update(range(first, last + 1))
    return sorted(seeds)


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
    for scenario in request.scenarios:
        if scenario not in SCENARIOS:
            raise UserError(f"unknown scenario '{scenario}'{nearest(scenario, SCENARIOS)}")
    if request.vary not in VARY:
        raise UserError(f"--vary cannot be '{request.vary}'{nearest(request.vary, VARY)}")
    pairs = method_pairs(request.methods, request.objectives)
    preset, layer = read_preset(request.preset), request.layer or {}
    known = {key for key, _ in leaves(Settings)} | _method_keys()
    for key, given in {**preset, **layer}.items():
        _check_key(key, given, known)
    preset, layer = _by_name(preset), _by_name(layer)
    for key, given in layer.items():
        _check_read(key, given, pairs)
    data = fill(Settings, _settings_keys({**preset, **layer})).data
    cases: dict[tuple[str, str], _Case] = {}
    for scenario, objective in product(request.scenarios, dict.fromkeys(objective for _, objective in pairs)):
        recipe = _recipe(request.recipe, data, scenario, objective)
        base = with_fidelity({**preset, **recipe}, request.fidelity)
        for key, given in base.items():
            _check_key(key, given, known)
        cases[scenario, objective] = _resolve(base, layer)
    return [
        _run(scenario, pair, seed, request, cases[scenario, pair[1]])
        for scenario, pair, seed in product(request.scenarios, pairs, request.seeds)
    ]


class _Case(NamedTuple):
    """What runs of one scenario and objective share; base: keys of preset and recipe, given: those over them."""

    base: Layer
    given: Layer
    plain: Settings
    settings: Settings


def _recipe(name: str, data: DataConfig, scenario: str, objective: str) -> Layer:
    return recipe_layer(name, data.dataset, scenario, objective, data.image_size) if name else {}


def _resolve(base: Layer, layer: Layer) -> _Case:
    plain = fill(Settings, _settings_keys(base))
    settings = fill(Settings, {**given_of(plain), **_settings_keys(layer)})
    settings = replace(settings, numerics=resolve_numerics(settings.numerics))
    if settings.encoder.name.startswith("timm:") and "encoder.stem" not in layer:
        # The stem of a preset or recipe is for our networks; timm's keep their own unless one is asked for.
        settings = replace(settings, encoder=replace(settings.encoder, stem=None))
    check_encoder(settings.encoder)
    if settings.optim.min_lr > settings.optim.lr:
        raise UserError(f"optim.min_lr {settings.optim.min_lr} is above optim.lr {settings.optim.lr}")
    return _Case(base, layer, plain, settings)


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


def _run(scenario: str, pair: tuple[str, str], seed: int, request: Request, case: _Case) -> RunConfig:
    strategy, objective = pair
    names = {f.name for f in fields(Seeds)}
    varied = names if request.vary == "all" else {request.vary}
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
        objective_hparams=_hparams("objective", objective, layer),
        strategy_hparams=_hparams("strategy", strategy, layer),
        seed=seed,
        vary=request.vary,
        seeds=Seeds(**{name: seed if name in varied else 0 for name in names}),
        preset=request.preset,
        settings=case.settings,
        overrides=overrides | ({"fidelity": request.fidelity} if request.fidelity else {}),
        recipe=request.recipe,
    )


def resolve_numerics(config: NumericsConfig) -> NumericsConfig:
    """`auto` as what this machine has: CUDA if there, bf16 where the hardware computes in it.

    Raises UserError for a device that is not there.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine has no CUDA device (leave it at auto)")
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if _has_bf16(device) else "fp32"
    return replace(config, device=device, precision=precision)


def _has_bf16(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
