"""`new` and `check`: writing a method and holding it to the laws."""

import re
from dataclasses import fields
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.config import GRID_KEYS, Settings
from bench.errors import UserError, nearest
from methods import registry

ROOT = Path(registry.__file__).parent
RESERVED = {"all", "description", *GRID_KEYS, *(f.name for f in fields(Settings))}
TEMPLATES = {
    "strategy": '''"""{title}: one line on what it is."""

from dataclasses import dataclass

from torch import Tensor

from methods.base import Embeddings, Objective, Strategy
from methods.heads import per_view


class {cls}(Strategy):
    """{title}: what it does about earlier tasks (cite it: arXiv:0000.00000, equation).

    Differs: where this departs from the paper or its code.
    """

    name = "{name}"
    teacher = True  # the previous model's projections arrive as `frozen`

    @dataclass(frozen=True)
    class Hparams:
        """weight: of the term that keeps the past, >= 0."""

        weight: float = 1.0

    def build(self, objective: Objective, image: tuple[int, int, int]) -> None:
        """What the objective wants at the end of a distilled branch (for most: nothing)."""
        self.head = objective.student_head()

    def loss(self, objective: Objective, e: Embeddings, frozen: Tensor | None) -> Tensor:
        """SSL loss + weight * the objective's distillation, without a predictor."""
        assert frozen is not None
        return objective.loss(e) + self.hparams.weight * objective.distill(per_view(self.head, e.z), frozen)
''',
    "objective": '''"""{title}: one line on what it is."""

from dataclasses import dataclass

from torch import Tensor

from methods.base import Embeddings, Objective
from methods.heads import mlp, per_view
from methods.losses import cosine_distance, negative_cosine


class {cls}(Objective):
    """{title}: what it learns from two views (cite it: arXiv:0000.00000, equation).

    Differs: where this departs from the paper or its code.
    """

    name = "{name}"
    repel_weight = 0.5

    @dataclass(frozen=True)
    class Hparams:
        """hidden, output: widths of the projector."""

        hidden: int = 512
        output: int = 128

    def build(self, features: int) -> None:
        """Two-layer projector with BatchNorm."""
        self.projector = mlp(features, self.hparams.hidden, self.hparams.output)

    def embed(self, h: Tensor, target: Tensor | None = None) -> Embeddings:
        """h: (2, N, F) -> projections."""
        return Embeddings(z=per_view(self.projector, h))

    def loss(self, e: Embeddings, extra: Tensor | None = None) -> Tensor:
        """Both views of an image closer to each other (alone it collapses: replace it)."""
        return cosine_distance(e.z[0], e.z[1])

    def distill(
        self, student: Tensor, teacher: Tensor, own: Tensor | None = None, past: Tensor | None = None
    ) -> Tensor:
        """The same family of loss towards the frozen projections."""
        return cosine_distance(student, teacher)

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """What pseudo-negatives push up."""
        return negative_cosine(student, teacher)
''',
}


def new(kind: str, name: str) -> int:
    """Writes a working template; raises UserError for a bad or taken name."""
    if kind not in TEMPLATES:
        raise UserError(f"cannot write a new '{kind}'{nearest(kind, TEMPLATES)}")
    if not re.fullmatch("[a-z][a-z0-9_]{0,30}", name):
        raise UserError(f"'{name}' cannot name a method: use up to 31 lower-case letters, digits and _")
    for other in registry.KINDS:
        if name in registry.aliases(other):
            raise UserError(f"the name '{name}' is taken by the {other} '{registry.resolve(other, name)}'")
    if name in RESERVED:
        raise UserError(f"'{name}' cannot name a method: the configuration has a key of this name")
    path = ROOT / registry.FOLDERS[kind] / f"{name}.py"
    title = name.replace("_", " ").title()
    with path.open("x", encoding="utf-8") as file:
        file.write(TEMPLATES[kind].format(name=name, title=title, cls=title.replace(" ", "")))
    print(f"{path} is written and registered; now: run_bench.py check {name}")
    return 0


def check(name: str) -> int:
    """Runs every contract test on every pair of a method; status 1 where one fails."""
    from bench.contract.suite import check_pair, pairs_of

    console = Console(emoji=False)
    failed = 0
    for strategy, objective in pairs_of(name):
        table = Table("law", "", "", title=f"{strategy}-{objective}", title_justify="left")
        for result in check_pair(strategy, objective):
            table.add_row(result.law, result.mark, escape(result.detail))
            failed += result.mark == "failed"
        console.print(table)
    print(f"{failed} laws failed" if failed else "all laws hold")
    return 1 if failed else 0
