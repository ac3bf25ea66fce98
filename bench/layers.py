"""Values under dotted keys: from files and `--set` into frozen dataclasses, strict about every key and value."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from bench.errors import UserError, nearest


@dataclass(frozen=True)
class Given:
    """One value as the user gave it, and where: `configs/x.yaml:12` or the flag."""

    value: Any
    where: str


MOST_BYTES = 1 << 18
"""Of a YAML file: ten times the largest that ships, and some seconds of reading."""
Layer = dict[str, Given]
"""Dotted key -> value, e.g. {'optim.lr': Given(0.3, '--set')}."""


def leaves(cls: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and type of every leaf of a (nested) dataclass."""
    hints = get_type_hints(cls)
    for f in fields(cls):
        if is_dataclass(hints[f.name]):
            yield from leaves(hints[f.name], f"{prefix}{f.name}.")
        else:
            yield f"{prefix}{f.name}", hints[f.name]


def coerce(value: Any, kind: Any, what: str) -> Any:
    """The value as the type of its field; raises UserError naming the field and what it takes. Ints pass for floats."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if value is None and NoneType in args:
            return None
        return coerce(value, next(a for a in args if a is not NoneType), what)
    if origin is Literal:
        if value not in args:
            raise UserError(f"{what} cannot be {value!r}{nearest(str(value), map(str, args))}")
        return value
    if origin is tuple:
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or (args[-1] is not Ellipsis and len(items) != len(args)):
            count = "a list" if args[-1] is Ellipsis else f"{len(args)} values"
            raise UserError(f"{what} takes {count}, not {value!r}")
        return tuple(coerce(item, args[0], what) for item in items)
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 1e-4 as text
        with suppress(ValueError):
            value = float(value)
    ok = isinstance(value, int | float) if kind is float else isinstance(value, kind)
    if not ok or (isinstance(value, bool) and kind is not bool) or value != value:
        names = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
        raise UserError(f"{what} takes {names[kind]}, not {value!r}")
    return float(value) if kind is float else value


_AT_LEAST_ONE = (
    "tasks",
    "image_size",
    "width",
    "epochs",
    "batch",
    "device_groups",
    "threads",
    "iterations",
    "k",
    "output",
    "queue",
    "prototypes",
    "memory",
)
_POSITIVE = ("lr", "temperature", "alpha", "distill_temperature", "eta", "epsilon")
_UNIT = ("_prob", "tau_start", "tau_end", "momentum", "queue_start", "freeze")
MOST_TASKS = 1000
"""Of a run: its accuracies grow with the square."""
_AT_MOST = {
    **{"tasks": MOST_TASKS, "image_size": 4096, "width": 1024, "stem_padding": 16, "threads": 256},
    **{"output": 100_000, "hidden": 100_000, "queue": 10_000_000, "prototypes": 10_000_000, "memory": 10_000_000},
}
_HUGE = 1_000_000_000


def check_range(value: Any, what: str) -> None:
    """Raises UserError for a value outside the range that its name implies; `what` ends in the field's name."""
    name = what.rpartition(".")[2]
    if isinstance(value, tuple) and value and all(isinstance(v, float) for v in value):
        if not 0 < value[0] <= value[1] <= _HUGE:
            raise UserError(f"{what} takes two positive numbers in rising order, not {list(value)}")
    elif not isinstance(value, int | float) or isinstance(value, bool):
        return
    elif abs(value) == float("inf") or value < 0:
        raise UserError(f"{what} must be a finite number >= 0, not {value}")
    elif (name in _AT_LEAST_ONE or "hidden" in name) and value < 1:
        raise UserError(f"{what} must be at least 1, not {value}")
    elif value > (most := _AT_MOST.get("hidden" if "hidden" in name else name, _HUGE)):
        raise UserError(f"{what} must be at most {most}, not {value}")
    elif name in _POSITIVE and value == 0:
        raise UserError(f"{what} must be above 0, not {value}")
    elif (name.endswith(_UNIT[0]) or name in _UNIT[1:]) and value > 1:
        raise UserError(f"{what} must lie in [0, 1], not {value}")


def fill(cls: Any, values: Mapping[str, Given], prefix: str = "") -> Any:
    """An instance of a (nested) dataclass from dotted keys below `prefix`; keys must exist, values are checked."""
    hints = get_type_hints(cls)
    chosen: dict[str, Any] = {}
    for f in fields(cls):
        key = f"{prefix}{f.name}"
        if is_dataclass(hints[f.name]):
            below = {k: v for k, v in values.items() if k.startswith(key + ".")}
            if below:
                default = f.default if not callable(f.default_factory) else f.default_factory()
                chosen[f.name] = fill(hints[f.name], {**given_of(default, key + "."), **below}, key + ".")
        elif key in values:
            given = values[key]
            value = coerce(given.value, hints[f.name], f"{given.where}: {key}")
            check_range(value, f"{given.where}: {key}")
            chosen[f.name] = value
    return cls(**chosen)


def given_of(instance: Any, prefix: str = "") -> Layer:
    """The leaves of an instance as a layer."""
    layer: Layer = {}
    for f in fields(instance):
        value = getattr(instance, f.name)
        if is_dataclass(value):
            layer |= given_of(value, f"{prefix}{f.name}.")
        else:
            layer[f"{prefix}{f.name}"] = Given(value, "default")
    return layer


class _Loader(yaml.SafeLoader):
    """Plain YAML: no aliases, with which a small file can stand for a huge or endless one, no tags but those of YAML
    itself, and 64-bit integers."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuses aliases, and tags on anything: those of keys and mappings would else be passed over."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not taken", mark)
        node = super().compose_node(parent, index)
        if node is not None and node.tag not in self.yaml_constructors:
            text = f"could not determine a constructor for the tag '{node.tag}'"
            raise yaml.composer.ComposerError(None, None, text, node.start_mark)
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> Any:
        """Refuses what no 64-bit integer holds; 8:00:00 is text, and not a number to the base of 60."""
        if ":" in node.value:
            return node.value
        value = super().construct_yaml_int(node) if len(node.value) <= 100 else 2**63
        if abs(value) >= 2**63:
            raise yaml.constructor.ConstructorError(None, None, "a number is beyond 64 bits", node.start_mark)
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _problem(error: Exception) -> tuple[str, int]:
    """What is wrong with a YAML text, in a few words, and the line it is on (0: unknown)."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply", 0
    mark = getattr(error, "problem_mark", None)
    text = getattr(error, "problem", None) or str(error) or type(error).__name__
    return " ".join(str(text).split()), 0 if mark is None else mark.line + 1


def parse_set(text: str) -> tuple[str, Given]:
    """`optim.lr=0.3` -> key and value, the value read as YAML; raises UserError where it is not of this form."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set takes KEY=VALUE, not '{text}'")
    try:
        return key.strip(), Given(yaml.load(value, Loader=_Loader), "--set")
    except Exception as error:  # constructors raise whatever a malformed date or number leads them to
        raise UserError(f"--set {key.strip()}: '{value}' is not a YAML value ({_problem(error)[0]})") from None


def read_yaml(path: Path) -> Layer:
    """A YAML file as a layer of dotted keys, each with file and line; raises UserError for what cannot be read."""
    layer: Layer = {}
    with _read(path) as (root, loader):
        if root is not None:
            _flatten(root, "", path, loader, layer)
    return layer


def read_tree(path: Path) -> Given:
    """A YAML file as it is nested: mappings are dicts of Given, lists are lists of Given, each with file and line.

    Raises UserError for what cannot be read, and for a key given twice.
    """
    with _read(path) as (root, loader):
        return Given({}, f"{path}:1") if root is None else _branch(root, path, loader)


@contextmanager
def _read(path: Path) -> Iterator[tuple[yaml.Node | None, "_Loader"]]:
    """The root node of a YAML file and what constructs values; whatever fails meanwhile is a UserError."""
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: is no regular file, and settings are read more than once")
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise UserError(f"{path}: a YAML file of more than {MOST_BYTES // 1024} KiB holds no settings")
        loader = _Loader(data.decode())
        yield loader.get_single_node(), loader
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except Exception as error:  # as in `parse_set`
        problem, line = _problem(error)
        raise UserError(f"{path}{f':{line}' if line else ''}: not valid YAML: {problem}") from None


def _branch(node: yaml.Node, path: Path, loader: "_Loader") -> Given:
    where = f"{path}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.SequenceNode):
        return Given([_branch(item, path, loader) for item in node.value], where)
    if not isinstance(node, yaml.MappingNode):
        return Given(loader.construct_document(node), where)
    found: dict[str, Given] = {}
    for key_node, value_node in node.value:
        place = f"{path}:{key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError(f"{place}: a key must be plain text")
        if key_node.value in found:
            raise UserError(f"{place}: {key_node.value} is given twice")
        found[key_node.value] = _branch(value_node, path, loader)
    return Given(found, where)


def _flatten(node: yaml.Node, prefix: str, path: Path, loader: _Loader, layer: Layer) -> None:
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path}:{node.start_mark.line + 1}: expected `key: value` lines")
    for key_node, value_node in node.value:
        where = f"{path}:{key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError(f"{where}: a key must be plain text")
        key = f"{prefix}{key_node.value}"
        if isinstance(value_node, yaml.MappingNode):
            _flatten(value_node, f"{key}.", path, loader, layer)
        elif key in layer:
            raise UserError(f"{where}: {key} is given twice")
        else:
            layer[key] = Given(loader.construct_document(value_node), where)
