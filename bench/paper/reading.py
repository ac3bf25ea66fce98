"""YAML mappings into frozen dataclasses: every field known, present and of its type, or one line that names it."""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from bench.errors import UserError, nearest
from bench.layers import Given, coerce

Record = TypeVar("Record")


def build(cls: type[Record], given: Given, what: str, **known: Any) -> Record:
    """An instance of dataclass `cls` from a mapping; `known` are fields that the file does not hold.

    what: what the mapping is, for messages. Raises UserError naming line and field.
    """
    values, hints = mapping(given, what), get_type_hints(cls)
    own: list[Any] = [f for f in fields(cls) if f.name not in known]  # type: ignore[arg-type]
    for key, item in values.items():
        if key not in {f.name for f in own}:
            raise UserError(f"{item.where}: unknown field '{key}' of {what}{nearest(key, (f.name for f in own))}")
    for f in own:
        if f.name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise UserError(f"{given.where}: {what} lacks the field '{f.name}'")
    return cls(**known, **{key: _value(item, hints[key], key) for key, item in values.items()})


def mapping(given: Given, what: str) -> Mapping[str, Given]:
    """The mapping that was given; raises UserError where it is something else."""
    if not isinstance(given.value, dict):
        raise UserError(f"{given.where}: {what} takes `key: value` lines, not {plain(given)!r}")
    return given.value


def items(given: Given, what: str) -> list[Given]:
    """The list that was given, of one item or more; raises UserError where it is something else."""
    if not isinstance(given.value, list) or not given.value:
        raise UserError(f"{given.where}: {what} takes a list of at least one item, not {plain(given)!r}")
    return given.value


def plain(given: Given) -> Any:
    """The value without the places it was read from."""
    if isinstance(given.value, dict):
        return {key: plain(item) for key, item in given.value.items()}
    return [plain(item) for item in given.value] if isinstance(given.value, list) else given.value


def _value(given: Given, kind: Any, name: str) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if kind is Given:
        return Given(plain(given), given.where)
    if is_dataclass(kind):
        return build(kind, given, name)  # type: ignore[arg-type]
    if origin is dict:
        return {key: _value(item, args[1], f"{name}.{key}") for key, item in mapping(given, name).items()}
    if origin is tuple and is_dataclass(args[0]):
        return tuple(_value(item, args[0], f"an item of {name}") for item in items(given, name))
    return coerce(plain(given), kind, f"{given.where}: {name}")
