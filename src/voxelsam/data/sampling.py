"""Which stacks of the training cases an epoch shows, and how often.

Without a wish every stack is shown once. Stacks without any structure can be kept to a share of the epoch, rare classes
can be shown more often, and every case can be given the same share however long its scan is. What an epoch shows is a
pure function of (seed, epoch); processes and workers only share it out.

Weights. A stack has the weight 1, or 1 / stacks of its case where cases are equal. With balance 1 a class is chosen
first, each as likely as any other, then one of the stacks that show it, by their weights; a balance in between mixes
the two. Worked example: of ten stacks all show the liver and one a gallbladder, too. That one is shown in 1 of 10 draws
with balance 0, and in 1/2 · 1/10 + 1/2 = 55 of 100 with balance 1.

Draws are systematic: a stack whose share of an epoch is 2.3 draws is shown 2 or 3 times, never 0 or 7 times.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from voxelsam.config import STRICT
from voxelsam.errors import InputError

ROUNDING = 1e-9
"""Added before rounding down, so that 0.29 · 100 is 29."""


@dataclass(frozen=True)
class Sampling:
    """Which stacks an epoch shows; by default every stack once.

    Raises:
        ValueError: a share is not between 0 and 1.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    empty: float | None = None
    """At most this share of an epoch's stacks shows no structure at all; None takes them as they come."""
    balance: float = 0.0
    """0 shows classes as often as they occur, 1 draws every class equally often; stacks then come more than once."""
    cases: Literal["natural", "equal"] = "natural"
    """``equal`` gives every case the same share of an epoch, however many slices it has."""

    def __post_init__(self) -> None:
        for name in ("empty", "balance"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"{name} is a share and lies between 0 and 1, but {share} came")


@dataclass(frozen=True, eq=False)
class Shown:
    """What the stacks of a data set show."""

    classes: Bool[np.ndarray, "stacks classes"]
    """Which classes each stack shows; the first one is the background."""
    cases: Int[np.ndarray, " stacks"]
    """Number of the case of each stack."""

    @property
    def structures(self) -> Bool[np.ndarray, "stacks structures"]:
        """Without the background."""
        return self.classes[:, 1:]

    @property
    def empty(self) -> Bool[np.ndarray, " stacks"]:
        """Stacks that show no structure."""
        none: Bool[np.ndarray, " stacks"] = np.logical_not(self.structures.any(axis=1))
        return none


class Draw:
    """The stacks of every epoch.

    Args:
        sampling: what is wished.
        shown: what the stacks show.
        limit: at most so many stacks in an epoch.

    Raises:
        InputError: no stack shows a structure, but empty ones are to be few.
    """

    def __init__(self, sampling: Sampling, shown: Shown, limit: int | None = None) -> None:
        self.shown = shown
        empty, stacks = shown.empty, len(shown.cases)
        if sampling.empty is not None and sampling.empty < 1 and empty.all():
            raise InputError(
                f"sampling.empty lets {sampling.empty:.0%} of the training stacks be without any structure, but all "
                f"{stacks} are: look at the labels, or leave sampling.empty out"
            )
        weights = 1 / np.bincount(shown.cases)[shown.cases] if sampling.cases == "equal" else np.ones(stacks)
        self.length = stacks if limit is None else min(limit, stacks)
        share = float(weights[empty].sum() / weights.sum())
        if sampling.empty is not None:
            self.length = longest(self.length, int((~empty).sum()), sampling.empty)
            share = min(share, sampling.empty)
        self.empties = int(share * self.length + ROUNDING)
        """How many of an epoch's stacks show no structure."""
        self._of_empty = np.where(empty, weights, 0)
        self._of_others = balanced(np.where(empty, 0, weights), shown.structures, sampling.balance)

    def positions(self, random: np.random.Generator) -> Int[np.ndarray, " length"]:
        """The stacks of one epoch in their order.

        Args:
            random: seeded for the epoch.

        Returns:
            Numbers of stacks; when one comes again, the number of stacks is added for every time before, so that the
            same stack gets another change each time.
        """
        empties = spread(self._of_empty, self.shown.cases, self.empties, random)
        others = spread(self._of_others, self.shown.cases, self.length - self.empties, random)
        drawn = random.permutation(np.concatenate([empties, others]))
        numbers: Int[np.ndarray, " length"] = drawn + len(self.shown.cases) * times_before(drawn)
        return numbers


def longest(length: int, others: int, empty: float) -> int:
    """The largest length of an epoch that needs no stack with a structure twice.

    Args:
        length: the largest one otherwise.
        others: stacks that show a structure.
        empty: largest share of those that do not.
    """
    while length - int(empty * length + ROUNDING) > others:
        length -= 1
    return length


def balanced(
    weights: Float[np.ndarray, " stacks"], shows: Bool[np.ndarray, "stacks structures"], balance: float
) -> Float[np.ndarray, " stacks"]:
    """Weights between those given and those that draw every structure equally often.

    Args:
        weights: of the stacks.
        shows: which structures they show.
        balance: 0 keeps the weights, 1 draws every structure equally often.
    """
    each = weights[:, None] * shows
    totals = each.sum(axis=0)
    there = totals > 0
    if not there.any():
        return weights
    equal = (each[:, there] / totals[there]).mean(axis=1)
    mixed: Float[np.ndarray, " stacks"] = (1 - balance) * weights / weights.sum() + balance * equal
    return mixed


def spread(
    weights: Float[np.ndarray, " stacks"], cases: Int[np.ndarray, " stacks"], count: int, random: np.random.Generator
) -> Int[np.ndarray, " count"]:
    """Systematic draws: every stack, and every case, as often as its share of the draws, rounded down or up.

    Args:
        weights: of the stacks, 0 or more.
        cases: which case each one belongs to.
        count: how many are drawn.
        random: orders cases and stacks, and puts the comb down.
    """
    candidates = np.flatnonzero(weights)
    if count == 0 or len(candidates) == 0:
        return np.zeros(0, np.int64)
    turn = random.random(int(cases.max()) + 1)[cases[candidates]]
    candidates = candidates[np.lexsort((random.random(len(candidates)), turn))]
    ends = np.cumsum(weights[candidates])
    teeth = (np.arange(count) + random.uniform(0.001, 0.999)) / count * ends[-1]  # never on an end: sums are rounded
    chosen: Int[np.ndarray, " count"] = candidates[np.searchsorted(ends, teeth)]
    return chosen


def times_before(drawn: Int[np.ndarray, " draws"]) -> Int[np.ndarray, " draws"]:
    """How often each draw's stack was drawn before it."""
    order = np.argsort(drawn, kind="stable")
    ranked = drawn[order]
    before = np.empty_like(order)
    before[order] = np.arange(len(drawn)) - np.searchsorted(ranked, ranked)
    return before
