"""Configuration: the frozen sections, the presets that fill them, and a run with the text that keys are hashes of."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from bench.data.augment import View
from bench.errors import UserError, nearest
from bench.layers import Given, Layer, fill, leaves, read_yaml
from bench.models.resnet import Stem

CONFIGS = Path(__file__).parent.parent / "configs"
PRESETS, FIDELITIES = CONFIGS / "presets", CONFIGS / "fidelity"
GRID_KEYS = ("methods", "objective", "scenario", "seeds", "vary", "preset", "recipe", "fidelity")


def later(default: Any) -> Any:
    """A field that came after keys had been made: at this default it stays out of the text that keys are hashes of."""
    return field(default=default, metadata={"neutral": True})


@lru_cache(maxsize=256)
def lean(section: Any) -> dict[str, Any]:
    """A section as plain values, without the fields of `later` that have their default; not to be changed, as it is
    shared by all who ask."""
    left_out = {f.name for f in fields(section) if "neutral" in f.metadata and getattr(section, f.name) == f.default}
    return {name: value for name, value in asdict(section).items() if name not in left_out}


@dataclass(frozen=True)
class DataConfig:
    """dataset: a name, `folder:PATH` or `domains:PATH`; tasks: None for the scenario's default (5, or all domains);
    domains: their order, empty for an order from the seed; image_size: of the network's input, None for the dataset's
    own; normalisation: whose statistics (see `arrays.statistics`); order: of classes and domains, and the shards, ours
    or as one of the two released programs draws them (see `scenarios.build`)."""

    dataset: str = "fashion_mini"
    data_dir: str | None = None
    tasks: int | None = None
    domains: tuple[str, ...] = ()
    image_size: int | None = None
    skip_corrupt: bool = False
    normalisation: Literal["dataset", "cifar", "imagenet", "imagenet_228", "released"] = later("dataset")
    order: Literal["seeded", "pnr", "cassle"] = later("seeded")


@dataclass(frozen=True)
class EncoderConfig:
    """name: resnet4, resnet8, resnet10, resnet18, resnet34 or timm:NAME; width: channels of the first stage (ours);
    stem: None for `cifar` (ours) or the network's own (timm); stem_padding: 1, or 2 as in the released code."""

    name: str = "resnet18"
    width: int = 64
    stem: Stem | None = None
    stem_padding: int = 1


@dataclass(frozen=True)
class TrainConfig:
    """epochs: per task; batch: images per step (each gives two views); teacher_bn: BatchNorm mode of the frozen
    model, `reference` being eval in the first epoch of a task and train from then on; ema_skip_first: momentum networks
    stay where they are in a task's first step and lag a step behind their schedule; device_groups: into how many equal
    parts losses divide the batch, each with negatives and statistics of its own, as on so many devices."""

    epochs: int = 500
    batch: int = 256
    teacher_bn: Literal["eval", "train", "reference"] = "eval"
    ema_skip_first: bool = later(False)
    device_groups: int = later(1)


@dataclass(frozen=True)
class OptimConfig:
    """lr: of a batch as it is, never rescaled; eta, clip: of LARS; warmup_epochs, warmup_start_lr: of every task;
    schedule: whether the rate changes with every step or, as released, with every epoch."""

    name: Literal["lars", "sgd", "adamw"] = "lars"
    lr: float = 0.6
    momentum: float = 0.9
    weight_decay: float = 1e-4
    eta: float = 0.02
    clip: bool = True
    exclude_bias_and_norm: bool = True
    warmup_epochs: float = 10
    warmup_start_lr: float = 0.003
    min_lr: float = 0.0
    schedule: Literal["step", "epoch"] = later("step")

    def __post_init__(self) -> None:
        if self.schedule == "epoch" and self.warmup_epochs != int(self.warmup_epochs):
            raise UserError(f"optim.warmup_epochs {self.warmup_epochs} must be whole under optim.schedule epoch")


@dataclass(frozen=True)
class OnlineConfig:
    """A linear classifier trained beside the encoder on detached features of labelled images of all tasks, as released
    on CIFAR. run: whether there is one; lr: its rate, which follows the schedule of the optimizer; leak: whether its
    images pass the networks in training mode, so that running statistics see all classes."""

    run: bool = False
    lr: float = 0.1
    leak: bool = False


@dataclass(frozen=True)
class AugmentConfig:
    """The two views' recipes."""

    view1: View = field(default_factory=View)
    view2: View = field(default_factory=lambda: View(solarize_prob=0.2))


@dataclass(frozen=True)
class NumericsConfig:
    """Whatever changes the last bit: device kind, precision, threads of a run, compilation of the encoder."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    threads: int = 1
    compile: bool = False


@dataclass(frozen=True)
class LinearProbe:
    """l2: weight of the squared norm of the weights; iterations: of L-BFGS at most."""

    l2: float = 1e-4
    iterations: int = 100


@dataclass(frozen=True)
class KnnProbe:
    """k: neighbours; temperature: of their weights exp(cos / temperature)."""

    k: int = 20
    temperature: float = 0.07


@dataclass(frozen=True)
class NcmProbe:
    """Nearest class mean has no settings."""


@dataclass(frozen=True)
class LinearOfflineProbe:
    """lr: never rescaled, None for the published one of the objective; momentum: 0.9 (CaSSLe) or 0 (PNR); milestones:
    fractions of the epochs after which lr is a tenth; from_images: False trains on the cached features instead, without
    crops and flips."""

    epochs: int = 100
    lr: float | None = None
    momentum: float = 0.9
    batch: int = 256
    milestones: tuple[float, float] = (0.6, 0.8)
    crop_scale: tuple[float, float] = (0.08, 1.0)
    from_images: bool = True

    def __post_init__(self) -> None:
        View(crop_scale=self.crop_scale)  # raises UserError for a bad range
        if self.milestones[1] > 1:
            raise UserError(f"milestones {self.milestones}: fractions of the epochs, at most 1")


@dataclass(frozen=True)
class ProbeConfig:
    """run: the probes of every stage; headline: the one of the main table; transfer: other datasets, whose features
    are probed too; and the settings of each probe."""

    run: tuple[str, ...] = ("linear", "knn", "ncm")
    headline: str = "linear"
    transfer: tuple[str, ...] = ()
    linear: LinearProbe = LinearProbe()
    knn: KnnProbe = KnnProbe()
    ncm: NcmProbe = NcmProbe()
    linear_1pct: LinearProbe = LinearProbe()
    linear_10pct: LinearProbe = LinearProbe()
    linear_offline: LinearOfflineProbe = LinearOfflineProbe()


@dataclass(frozen=True)
class Seeds:
    """Separate sources of chance, so that a spread can be traced to one of them."""

    order: int = 0
    split: int = 0
    init: int = 0
    data: int = 0
    augment: int = 0
    probe: int = 0


@dataclass(frozen=True)
class Settings:
    """Everything about a run but its scenario, its method and its seeds."""

    data: DataConfig = DataConfig()
    encoder: EncoderConfig = EncoderConfig()
    train: TrainConfig = TrainConfig()
    optim: OptimConfig = OptimConfig()
    online: OnlineConfig = OnlineConfig()
    augment: AugmentConfig = AugmentConfig()
    numerics: NumericsConfig = NumericsConfig()
    probe: ProbeConfig = ProbeConfig()


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} has no canonical form")


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=_plain)


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: the text that keys are hashes of."""
    return _CANONICAL.encode(value)


def digest(value: Any, length: int = 16) -> str:
    """Leading hex digits of the SHA-256 of the canonical form."""
    return _hashed(canonical(value))[:length]


def digest_of(texts: Iterable[str]) -> str:
    """`digest` of the list of the values that have these canonical forms."""
    return _hashed(f"[{','.join(texts)}]")[:16]


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def preset_names() -> list[str]:
    """Names of the presets that ship."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def read_preset(name: str) -> Layer:
    """The layer of a preset; raises UserError with the nearest name."""
    if name not in preset_names():
        raise UserError(f"unknown preset '{name}'{nearest(name, preset_names())}")
    layer = read_yaml(PRESETS / f"{name}.yaml")
    return {key: value for key, value in layer.items() if key != "description"}


def fidelity_names() -> list[str]:
    """Names of the sets of switches that ship."""
    return sorted(path.stem for path in FIDELITIES.glob("*.yaml"))


def with_fidelity(layer: Layer, name: str | None) -> Layer:
    """The layer of a preset (and recipe) under a set of switches, or as it is for None.

    Keys of the set's group `unless_given` yield to the layer. Raises UserError with the nearest name.
    """
    if name is None:
        return layer
    if name not in fidelity_names():
        raise UserError(f"unknown fidelity '{name}'{nearest(name, fidelity_names())}")
    content = {k: given for k, given in read_yaml(FIDELITIES / f"{name}.yaml").items() if k != "description"}
    weak = {key: given for key, given in content.items() if key.startswith("unless_given.")}
    strong = {key: given for key, given in content.items() if key not in weak}
    return {**{key.removeprefix("unless_given."): given for key, given in weak.items()}, **layer, **strong}


def describe_preset(name: str) -> str:
    """The preset's own one-line description."""
    return _description(PRESETS / f"{name}.yaml")


def describe_fidelity(name: str) -> str:
    """The same of a set of switches."""
    return _description(FIDELITIES / f"{name}.yaml")


def _description(path: Path) -> str:
    return str(read_yaml(path).get("description", Given("", "")).value)


@dataclass(frozen=True)
class RunConfig:
    """One run: a method on a scenario with its seeds. `seed` is the label under which runs are paired; `recipe`: where
    its settings come from, beside the preset."""

    scenario: str
    objective: str
    strategy: str
    objective_hparams: dict[str, Any]
    strategy_hparams: dict[str, Any]
    seed: int
    vary: str
    seeds: Seeds
    preset: str
    settings: Settings
    overrides: dict[str, Any] = field(default_factory=dict)
    recipe: str = ""


_KINDS = {"seed": int} | dict.fromkeys(
    ("settings", "seeds", "objective_hparams", "strategy_hparams", "overrides"), dict
)


def restored(content: dict[str, Any]) -> RunConfig:
    """The configuration of a run from the plain values of its record; settings that came later have their defaults.

    Raises UserError for settings that this version does not know, and for values that no run has; the names of methods
    and their hyperparameters are not looked at.
    """
    _check_fields(RunConfig, content, lambda name: _KINDS.get(name, str))
    _check_fields(Seeds, content["seeds"], lambda name: int)
    if not all(0 <= seed < 2**63 for seed in (content["seed"], *content["seeds"].values())):
        raise UserError("a record has seeds that are negative or beyond 64 bits")
    settings: Layer = {}

    def flatten(values: dict[str, Any], prefix: str) -> None:
        for name, value in values.items():
            if isinstance(value, dict):
                flatten(value, f"{prefix}{name}.")
            else:
                settings[f"{prefix}{name}"] = Given(value, "record")

    flatten(content["settings"], "")
    unknown = settings.keys() - {key for key, _ in leaves(Settings)}
    if unknown:
        raise UserError(f"a record has settings of another version: {', '.join(sorted(unknown))}")
    hparams = {
        kind: {name: tuple(v) if isinstance(v, list) else v for name, v in content[kind].items()}
        for kind in ("objective_hparams", "strategy_hparams")
    }
    seeds = Seeds(**content["seeds"])
    return RunConfig(**{**content, **hparams, "seeds": seeds, "settings": fill(Settings, settings)})


def _check_fields(cls: Any, content: dict[str, Any], kind: Callable[[str], type]) -> None:
    """Raises UserError for a field that the class has not, lacks without a default, or that is of another type."""
    needed = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}
    for name in sorted(needed | content.keys()):
        if name not in {f.name for f in fields(cls)} or type(content.get(name)) is not kind(name):
            raise UserError(f"a record has no configuration of a run: {name} is {content.get(name)!r:.100}")
