"""What a model version is made of: a few numbers from which it can be made again from the log.

    Recipe
      Expert            a way to predict, with a weight in the mixture
        Base            rows that its linear part is fitted on
        Cohort ...      trees that were grown together, and the rows that they were grown on

Invariants:
- A version is a function of its recipe, the rows that the recipe names and the settings; nothing else.
- Rows are named by their number: the n-th labelled row of the stream, from 1, in the order in which they
  were learned from.
- A recipe holds no data, except for the few coefficients of `Local`, which come from past errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

LOCAL = 0
"""Id of the expert that corrects the first one by what the last few errors tell."""


@dataclass(frozen=True, slots=True)
class Base:
    """Rows that a linear part is fitted on.

    Args:
        first: number of the first row.
        last: number of the last row.
        seed: of the choice between a linear part and none.
    """

    first: int
    last: int
    seed: int

    @property
    def rows(self) -> int:
        """How many rows."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Cohort:
    """Trees that were grown together.

    Args:
        first: number of the first row that they were grown on.
        last: number of the last row.
        trees: how many were grown.
        kept: how many of them are still in the forest; those grown first leave first.
        seed: `random_state` of the estimator.
    """

    first: int
    last: int
    trees: int
    kept: int
    seed: int


@dataclass(frozen=True, slots=True)
class Expert:
    """A linear part and the trees on what it leaves.

    Args:
        number: its id, from 1, unique in the stream.
        start: number of the first row of the world that it knows.
        born: number of the row at which it came to be.
        weight: its share in the prediction, from 0 to 1.
        base: of its linear part.
        cohorts: oldest first.
        retired: whether it is kept as it is, for a world that may come back.
        plain: whether it sees the record's own fields alone, and none of the derived features.
    """

    number: int
    start: int
    born: int
    weight: float
    base: Base
    cohorts: tuple[Cohort, ...]
    retired: bool = False
    plain: bool = False

    @property
    def last(self) -> int:
        """Number of the last row that it has learned from."""
        return self.cohorts[-1].last


@dataclass(frozen=True, slots=True)
class Local:
    """A linear correction of the first expert, fitted on its last errors.

    Args:
        weight: its share in the prediction, from 0 to 1.
        intercept: in the target's unit.
        slopes: per feature, in the target's unit per unit of the feature.
    """

    weight: float
    intercept: float
    slopes: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a version is made of.

    Args:
        at: number of the last labelled row before it was made.
        scaler_version: that all rows are expressed in.
        experts: the one in charge first; at least one.
        local: the correction; None where there is none.
        next_number: id of the next expert.
    """

    at: int
    scaler_version: int
    experts: tuple[Expert, ...]
    local: Local | None = None
    next_number: int = 2

    @property
    def first(self) -> int:
        """Number of the oldest row that it needs."""
        return min(min(expert.base.first, *(cohort.first for cohort in expert.cohorts)) for expert in self.experts)

    @property
    def youngest_rows(self) -> int:
        """Rows in the smallest window of an expert that is not retired."""
        return min(self.at + 1 - expert.cohorts[-1].first for expert in self.experts if not expert.retired)

    @property
    def first_renewed(self) -> int:
        """Number of the oldest row that what is new in it needs."""
        fresh = [expert for expert in self.experts if expert.last == self.at]
        return min([c.first for e in fresh for c in e.cohorts if c.last == self.at], default=self.at)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Ids of its predictions beside the mixture, in the order of the graph's output `experts`."""
        return (*(expert.number for expert in self.experts), *((LOCAL,) if self.local else ()))

    @property
    def weights(self) -> tuple[float, ...]:
        """Shares in the prediction, in the order of `numbers`."""
        return (*(expert.weight for expert in self.experts), *((self.local.weight,) if self.local else ()))

    def plain(self) -> dict[str, Any]:
        """The recipe as JSON values.

        >>> recipe = Recipe(9, 1, (Expert(1, 1, 9, 1.0, Base(1, 9, 0), (Cohort(1, 9, 10, 10, 0),)),))
        >>> Recipe.of(recipe.plain()) == recipe
        True
        """
        return asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Recipe:
        """The recipe that `plain` wrote, also when it has been through JSON."""
        experts = tuple(
            Expert(**{**expert, "base": Base(**expert["base"]), "cohorts": tuple(Cohort(**c) for c in expert["cohorts"])})
            for expert in plain["experts"]
        )
        local = plain["local"] and Local(**{**plain["local"], "slopes": tuple(plain["local"]["slopes"])})
        return cls(**{**plain, "experts": experts, "local": local or None})
