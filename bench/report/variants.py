"""Names that keep runs of different settings apart: `sycon`, `sycon [optim.lr=0.3]`, `sycon [pilot]`."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from bench.report.records import Run

Key = TypeVar("Key", bound=Hashable)


class Setting(NamedTuple):
    """What runs must share to be compared: the hash of all but method and seeds, and what the seeds vary."""

    setting: str
    vary: str


class Variant(NamedTuple):
    """What runs must share to be averaged over seeds."""

    objective: str
    strategy: str
    setting: Setting
    method_setting: str


def setting_of(run: Run) -> Setting:
    """The setting of a run."""
    return Setting(run.setting, run.vary)


def strategy_names(runs: Iterable[Run]) -> dict[Run, str]:
    """The name that each run's strategy goes by: runs of one task sequence share it only if they may be
    averaged.

    Where a (scenario, dataset, tasks) holds several settings, all its names say which; else only a strategy
    with several settings of its own does. Said is what preset, recipe, overrides and `vary` of the peers
    do not share, and a hash where these do not tell.
    """
    names: dict[Run, str] = {}
    for section in grouped(runs, lambda run: (run.scenario, run.dataset, run.tasks)).values():
        several = len({setting_of(run) for run in section}) > 1
        peers = [section] if several else grouped(section, lambda run: (run.objective, run.strategy)).values()
        for group in peers:
            names.update(_names_among(group))
    return names


def setting_names(runs: Iterable[Run]) -> dict[Setting, str]:
    """What tells the settings of one task sequence apart, `""` where there is only one."""
    settings = grouped(runs, setting_of)
    texts = _differences(settings)
    same = Counter(texts.values())
    return {key: _clarified(text, same[text] > 1, key.setting) for key, text in texts.items()}


def method_name(strategy: str, objective: str) -> str:
    """`sycon-moco`, or `sycon-moco [pilot]` where the strategy is a variant; `random` where there is no objective."""
    name, bracket, variant = strategy.partition(" [")
    return (name if objective == "none" else f"{name}-{objective}") + bracket + variant


def grouped(runs: Iterable[Run], key: Callable[[Run], Key]) -> dict[Key, list[Run]]:
    """The runs by key, in the order met."""
    groups: dict[Key, list[Run]] = defaultdict(list)
    for run in runs:
        groups[key(run)].append(run)
    return dict(groups)


def _names_among(peers: Sequence[Run]) -> dict[Run, str]:
    variants = grouped(peers, lambda run: Variant(run.objective, run.strategy, setting_of(run), run.method_setting))
    texts = _differences(variants)
    settings: dict[str, set[Setting]] = defaultdict(set)
    for key, text in texts.items():
        settings[text].add(key.setting)
    clear = {key: _clarified(text, len(settings[text]) > 1, key.setting.setting) for key, text in texts.items()}
    same = Counter((key.objective, key.strategy, text) for key, text in clear.items())
    names = {}
    for key, text in clear.items():
        text = _clarified(text, same[key.objective, key.strategy, text] > 1, key.method_setting)
        names.update(dict.fromkeys(variants[key], f"{key.strategy} [{text}]" if text else key.strategy))
    return names


def _differences(groups: Mapping[Key, Sequence[Run]]) -> dict[Key, str]:
    """What preset, recipe, overrides and `vary` of each group say that not all groups say."""
    traits = {key: set.intersection(*(_traits(run) for run in members)) for key, members in groups.items()}
    shared = set.intersection(*traits.values())
    return {key: ", ".join(sorted(own - shared)) for key, own in traits.items()}


def _traits(run: Run) -> set[str]:
    overrides = {f"{name}={_plain(value)}" for name, value in run.overrides.items()}
    return overrides | {f"vary={run.vary}"} | ({run.preset, run.recipe} - {""})


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _clarified(text: str, ambiguous: bool, digest: str) -> str:
    return f"{text}, {digest}".removeprefix(", ") if ambiguous else text
