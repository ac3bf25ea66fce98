"""How far a plan is: which of its stages a results folder has, and which of them other code has made."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from bench.engine.store import Store

if TYPE_CHECKING:  # it imports torch, and `gc` does without
    from bench.engine.plan import Plan, Stage


@dataclass(frozen=True)
class Status:
    """How far a plan is: counts of stages."""

    done: int
    partial: int
    to_do: int
    shared: int


def status_of(plan: "Plan", store: Store, done: Collection[str]) -> Status:
    """Counts finished, half-trained and missing stages, and those that several runs share. done: keys of the first."""
    there = store.stages()
    partial = [key for key in plan.stages if key not in done and key in there and store.partial(key).exists()]
    shared = [key for key, runs in plan.users().items() if len(runs) > 1]
    return Status(len(done), len(partial), len(plan.stages) - len(done) - len(partial), len(shared))


Facts = Callable[[str], dict[str, Any] | None]
"""Gives what a finished stage says of itself, by its key."""


def done_and_stale(plan: "Plan", store: Store) -> tuple[set[str], set[str]]:
    """Keys of the stages that are done, and of those among them that other code than the present has made.

    Every stage that is there is read once, and nothing is asked about the others.
    """
    there = store.stages()

    @cache  # a parent is asked for by all its children
    def facts(key: str) -> dict[str, Any] | None:
        whole = store.facts(key) if key in there else None
        # Of tens of thousands of stages only what is asked for stays in memory.
        return None if whole is None else {name: whole[name] for name in ("code", "from", "parent")}

    done = {key for key, stage in plan.stages.items() if is_done(stage, store, facts)}
    return done, {key for key in done if (facts(key) or {}).get("code") != plan.stages[key].code}


def is_done(stage: "Stage", store: Store, facts: Facts | None = None) -> bool:
    """Whether a stage is trained, from the one before it as that is now, and all its probes have run."""
    facts = facts or store.facts
    own = facts(stage.key)
    return own is not None and follows(own, facts) and all(store.has_probe(stage.key, p.key) for p in stage.probes)


def follows(own: dict[str, Any], facts: Facts) -> bool:
    """Whether the facts of a stage name the code that has made the stage before it; so too where that one is gone."""
    parent = None if own["parent"] is None else facts(own["parent"])
    return parent is None or parent["code"] == own["from"]
