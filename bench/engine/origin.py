"""What has made a stage: code, machines and processes, each from a step on, and the stage that it began from."""

import hashlib
from dataclasses import dataclass
from typing import Any

from bench.engine.environment import environment
from bench.engine.plan import Stage
from bench.errors import UserError
from bench.models.gather import processes
from bench.source import base_code, following_code

SAME = ("torch", "processor", "accelerator", "cuda")
"""What of the environment numbers and speed depend on."""


@dataclass(frozen=True)
class Terms:
    """What a start may do beside going on where it was left.

    retrain: make again what other code has made. new_environment: go on with a stage that was begun elsewhere.
    """

    retrain: bool = False
    new_environment: bool = False


GO_ON = Terms()
"""Nothing beside."""


@dataclass(frozen=True)
class Origin:
    """start: code of the stage that it began from, None for a first one. sessions: who went on with it, each with the
    step from which on, its code, the environment and the number of processes."""

    start: str | None
    sessions: tuple[dict[str, Any], ...]

    @property
    def code(self) -> str:
        """The code that made it; where several did, a hash of them all, which no code will ever have."""
        codes = list(dict.fromkeys(session["code"] for session in self.sessions))
        return codes[0] if len(codes) == 1 else hashlib.sha256(" ".join(codes).encode()).hexdigest()[:12]

    def note(self) -> dict[str, Any]:
        """As files hold it."""
        return {"code": self.code, "from": self.start, "sessions": list(self.sessions)}

    def holds(self, stage: Stage, parent: str | None, terms: Terms) -> bool:
        """Whether what it has made is of use: the stage that it began from is as it was, and its code is the present
        or may stay. parent: the code of that stage, None where there is none or it is gone."""
        return parent in (None, self.start) and not (terms.retrain and self.code != stage.code)

    def continued(self, stage: Stage, step: int, terms: Terms) -> "Origin":
        """With this process going on from a step; raises UserError where it may not."""
        last, here = self.sessions[-1], _session(stage, self.start, step)
        if last["environment"] != here["environment"] and not terms.new_environment:
            begun, now = (_text(session["environment"]) for session in (last, here))
            raise UserError(
                f"it was trained up to step {step} with {begun}, and here is {now}: go on there, or add "
                "--allow-new-environment, which is recorded"
            )
        if all(last[name] == here[name] for name in ("code", "environment", "processes")):
            return self
        return Origin(self.start, (*self.sessions, here))


def origin_in(note: dict[str, Any]) -> Origin:
    """The origin that a file's note, or the facts of a stage, hold."""
    return Origin(note["from"], tuple(note["sessions"]))


def begun(stage: Stage, start: str | None) -> Origin:
    """That of a stage that begins here. start: the code of the stage it begins from."""
    return Origin(start, (_session(stage, start, 0),))


def _session(stage: Stage, start: str | None, step: int) -> dict[str, Any]:
    run = stage.run
    return {
        "step": step,
        "code": following_code(start, run.objective, run.strategy) if stage.trains else base_code(),
        "environment": what_counts(environment(run.settings.numerics.device)),
        "processes": processes(),
    }


def what_counts(facts: dict[str, str]) -> dict[str, str]:
    """What of an environment numbers and speed depend on."""
    return {name: facts[name] for name in SAME if name in facts}


def _text(environment: dict[str, str]) -> str:
    return ", ".join(f"{name} {environment[name]}" for name in SAME if name in environment)
