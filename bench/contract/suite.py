"""All laws on a pair, with what a method has declared that it does not keep."""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

from bench.contract.laws import Broken, laws
from bench.contract.world import world_size_faults
from bench.errors import UserError, nearest
from methods import registry


class Result(NamedTuple):
    """How a law fared on a pair.

    mark: 'holds', 'failed', 'declared' (a failure with a reason) or 'kept' (declared, but it did not fail).
    """

    law: str
    mark: str
    detail: str


def declared(strategy: str, objective: str) -> dict[str, str]:
    """Law -> reason why one of the two does not keep it."""
    return {
        **registry.get("strategy", strategy).expected_failures,
        **registry.get("objective", objective).expected_failures,
    }


def check_pair(strategy: str, objective: str) -> Iterator[Result]:
    """Every law on one pair."""
    for law, check in laws().items():
        try:
            check(strategy, objective)
            fault = ""
        except Broken as error:
            fault = str(error)
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"
        yield _judge(law, fault, strategy, objective)
    pair = (strategy, objective)
    yield _judge("world_size", world_size_faults([pair])[pair], strategy, objective)


def _judge(law: str, fault: str, strategy: str, objective: str) -> Result:
    reason = declared(strategy, objective).get(law)
    if reason is None:
        return Result(law, "failed" if fault else "holds", fault)
    return Result(law, "declared" if fault else "kept", reason)


def contenders() -> list[str]:
    """The strategies that laws are about: bounds, which see no sequence of tasks, have none to keep."""
    return [name for name, cls in registry.classes("strategy").items() if cls.trains == "task by task"]


def pairs_of(name: str) -> list[tuple[str, str]]:
    """The pairs that a method, or a pair 'strategy-objective', stands for; raises UserError with the nearest name."""
    strategy, dash, objective = name.partition("-")
    resolved = registry.aliases("strategy").get(strategy)
    if resolved is not None and resolved not in contenders():
        raise UserError(f"{resolved} is a bound without a sequence of tasks: laws are about {', '.join(contenders())}")
    if dash:
        return [(registry.resolve("strategy", strategy), registry.resolve("objective", objective))]
    strategies, objectives = registry.aliases("strategy"), registry.aliases("objective")
    if name in strategies:
        return list(product([strategies[name]], registry.classes("objective")))
    if name in objectives:
        return list(product(contenders(), [objectives[name]]))
    raise UserError(f"no method '{name}'{nearest(name, [*strategies, *objectives])}")
