"""Configuration: the frozen sections, the presets that fill them, and a run with the text that keys are hashes of."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from bench.data.augment import View
from bench.errors import UserError, nearest
from bench.layers import Given, Layer, read_yaml
from bench.models.resnet import Stem

PRESETS = Path(__file__).parent.parent / "configs" / "presets"
GRID_KEYS = ("methods", "objective", "scenario", "seeds", "vary", "preset", "recipe")


def later(default: Any) -> Any:
    """A field that came after keys had been made: at this default it stays out of the text that keys are hashes of."""
    return field(default=default, metadata={"neutral": True})


def lean(section: Any) -> dict[str, Any]:
    """A section as plain values, without the fields of `later` that have their default."""
    left_out = {f.name for f in fields(section) if "neutral" in f.metadata and getattr(section, f.name) == f.default}
    return {name: value for name, value in asdict(section).items() if name not in left_out}


@dataclass(frozen=True)
class DataConfig:
    """dataset: a name, `folder:PATH` or `domains:PATH`; tasks: None for the scenario's default (5, or all domains);
    domains: their order, empty for an order from the seed; image_size: of the network's input, None for the dataset's
    own."""

    dataset: str = "fashion_mini"
    data_dir: str | None = None
    tasks: int | None = None
    domains: tuple[str, ...] = ()
    image_size: int | None = None
    skip_corrupt: bool = False


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
    model."""

    epochs: int = 500
    batch: int = 256
    teacher_bn: Literal["eval", "train"] = "eval"


@dataclass(frozen=True)
class OptimConfig:
    """lr: of a batch as it is, never rescaled; eta, clip: of LARS; warmup_epochs, warmup_start_lr: of every task."""

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
class ProbeConfig:
    """Settings of the probes on frozen features."""

    linear: LinearProbe = LinearProbe()
    knn: KnnProbe = KnnProbe()
    ncm: NcmProbe = NcmProbe()


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
    augment: AugmentConfig = AugmentConfig()
    numerics: NumericsConfig = NumericsConfig()
    probe: ProbeConfig = ProbeConfig()


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: the text that keys are hashes of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} has no canonical form")


def digest(value: Any, length: int = 16) -> str:
    """Leading hex digits of the SHA-256 of the canonical form."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:length]


def preset_names() -> list[str]:
    """Names of the presets that ship."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def read_preset(name: str) -> Layer:
    """The layer of a preset; raises UserError with the nearest name."""
    if name not in preset_names():
        raise UserError(f"unknown preset '{name}'{nearest(name, preset_names())}")
    layer = read_yaml(PRESETS / f"{name}.yaml")
    return {key: value for key, value in layer.items() if key != "description"}


def describe_preset(name: str) -> str:
    """The preset's own one-line description."""
    given = read_yaml(PRESETS / f"{name}.yaml").get("description", Given("", ""))
    return str(given.value)


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
