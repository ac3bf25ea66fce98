"""What `--launcher`, `--slurm` and the block `launcher:` ask for, checked key by key.

Values end up in a batch script, so that each is held to the few characters that its kind is made of.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.errors import UserError, nearest
from bench.layers import Given

LAUNCHER = "launcher."
"""Prefix of the keys of the block in a file."""
LAUNCHERS = ("slurm", "local", "none")
DEFAULT_TIME = "8:00:00"
SAVE_SECONDS = 90
"""Before a job's time limit it is told to save and to queue again."""
LEAST_MINUTES = 5
MOST_MINUTES = 365 * 24 * 60
_NAME = "[A-Za-z0-9][A-Za-z0-9_.-]*"
_NUMBER = "[1-9][0-9]{0,8}"
# Key -> what its text must be, and that in words.
_KINDS = {
    "partition": (f"{_NAME}(,{_NAME})*", "a name, or several separated by commas"),
    "account": (_NAME, "a name"),
    "qos": (_NAME, "a name"),
    "reservation": (_NAME, "a name"),
    "constraint": (r"[A-Za-z0-9_.&|*()\[\]-]+", "features, joined by & or |"),
    "exclude": (r"[A-Za-z0-9][A-Za-z0-9_.,\[\]-]*", "names of nodes, separated by commas"),
    "gres": ("[A-Za-z0-9][A-Za-z0-9_.:,-]*", "a resource such as gpu:a100:1"),
    "gpus": (_NUMBER, "a whole number above 0"),
    "cpus": (_NUMBER, "a whole number above 0"),
    "mem": (f"{_NUMBER}[KMGT]?", "a size such as 16G"),
    "time": ("[0-9:-]{1,30}", "5 minutes to a year as 90 (minutes), 8:00:00 or 2-12:00:00"),
    "array": (_NUMBER, "a whole number above 0"),
}
_LISTS = ("partition", "exclude", "gres")
# Keys whose name submitit spells otherwise.
_SPELLED = {"gpus": "gpus_per_node", "cpus": "cpus_per_task"}


@dataclass(frozen=True)
class LaunchSettings:
    """launcher: `slurm`, or `local` for this machine; options: keys of --slurm with their texts, which are checked."""

    launcher: str
    options: Mapping[str, str]

    @property
    def array(self) -> int | None:
        """The number of workers asked for."""
        return int(self.options["array"]) if "array" in self.options else None

    @property
    def has_gpus(self) -> bool:
        """Whether a worker is to have a GPU."""
        return "gpus" in self.options or "gpu" in self.options.get("gres", "")

    def parameters(self) -> dict[str, Any]:
        """The same in the words of submitit's SLURM executor."""
        made: dict[str, Any] = {
            "time": minutes_of(self.options.get("time", DEFAULT_TIME)),
            "signal_delay_s": SAVE_SECONDS,
        }
        # A cluster that queues no job again by itself lets those do it that ask for it here.
        more: dict[str, Any] = {"requeue": True}
        for key in self.options.keys() - {"time", "array"}:
            text = self.options[key]
            if key == "reservation":
                more[key] = text
            else:
                made[_SPELLED.get(key, key)] = int(text) if _KINDS[key][0] == _NUMBER else text
        if "cpus" in self.options:  # which srun does not take over from the job
            made["srun_args"] = [f"--cpus-per-task={self.options['cpus']}"]
        return {**made, "additional_parameters": more}


def launch_settings(launcher: str | None, slurm: str | None, block: Mapping[str, Given]) -> LaunchSettings | None:
    """What flags ask for, over the block of a file (keys without `launcher.`); None where runs are made here.

    Raises UserError for an unknown launcher or key, and for a value that is not of its kind.
    """
    asked = dict(block)
    chosen = Given(launcher, "--launcher") if launcher is not None else asked.pop("name", None)
    asked.pop("name", None)
    if slurm is not None:
        asked |= {key: Given(text, "--slurm") for key, text in _split(slurm).items()}
    options = {key: _checked(key, given) for key, given in asked.items()}
    if chosen is None:
        if asked:
            where = next(iter(asked.values())).where
            raise UserError(f"{where}: says how to launch, but not with what: add --launcher slurm or local")
        return None
    if chosen.value not in LAUNCHERS:
        raise UserError(f"{chosen.where}: unknown launcher '{chosen.value}'{nearest(str(chosen.value), LAUNCHERS)}")
    if chosen.value == "none":
        return None
    if chosen.value == "local" and (unread := sorted(options.keys() - {"array"})):
        raise UserError(f"{asked[unread[0]].where}: --launcher local reads no {unread[0]}, only array")
    return LaunchSettings(str(chosen.value), options)


def _split(text: str) -> dict[str, str]:
    """`partition=a,b,time=60` -> texts by key: a part without `=` goes on with a list."""
    found: dict[str, str] = {}
    last = ""
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if equals:
            last = key.strip()
            if last in found:
                raise UserError(f"--slurm: {last} is given twice")
            found[last] = value
        elif last in _LISTS and part.strip() not in _KINDS:
            found[last] += f",{part}"
        else:
            raise UserError(f"--slurm takes KEY=VALUE,KEY=VALUE..., not '{part}'")
    return found


def _checked(key: str, given: Given) -> str:
    if key not in _KINDS:
        raise UserError(f"{given.where}: unknown key '{key}'{nearest(key, _KINDS)}")
    pattern, takes = _KINDS[key]
    text = given.value if isinstance(given.value, str) else repr(given.value)
    fits = re.fullmatch(pattern, text) and (key != "time" or minutes_of(text) is not None)
    if not fits:
        raise UserError(f"{given.where}: {key} takes {takes}, not {text!r}")
    return text


def minutes_of(text: str) -> int | None:
    """A time in SLURM's formats as whole minutes, a begun one counted in full; None for what is none, or is not within
    the bounds."""
    days, dash, clock = text.rpartition("-")
    parts = [*([days] if dash else []), *clock.split(":")]
    if not all(re.fullmatch("[0-9]{1,9}", part) for part in parts):
        return None
    # In seconds; with days, hours come next; of two parts without, the first is minutes.
    units = (86_400, 3600, 60, 1) if dash else {1: (60,), 2: (60, 1), 3: (3600, 60, 1)}.get(len(parts), ())
    if len(parts) > len(units):
        return None
    minutes = -(-sum(int(part) * unit for part, unit in zip(parts, units, strict=False)) // 60)
    return minutes if LEAST_MINUTES <= minutes <= MOST_MINUTES else None
