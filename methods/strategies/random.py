"""The random network."""

from dataclasses import fields

from methods.base import Objective, Strategy


class Random(Strategy):
    """The network before any training: the lower reference, behind forward transfer (arXiv:1706.08840 eq. 4)."""

    name = "random"
    trains = "never"

    @classmethod
    def ignores(cls, objective: type[Objective]) -> frozenset[str]:
        """Nothing of an objective is used."""
        return frozenset(f.name for f in fields(objective.Hparams))
