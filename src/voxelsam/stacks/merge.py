"""Scores of overlapping stacks → one score per slice, streaming.

Only slices that a later stack may still add to are held: at most ``depth`` of them, whatever the length of the
volume. Places of a stack beyond the ends of the volume are dropped, as MA-SAM drops its padding slices.
"""

import math
from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from voxelsam.stacks.plan import StackPlan

Weights = Literal["mean", "hann", "centre"]
"""Every stack counts the same (MA-SAM) · more the nearer the slice is to the middle of the stack · only the stack
whose middle ``stride`` slices hold the slice."""


class Merger:
    """Averages the scores of the stacks of one volume.

    Feed the stacks in the order of ``plan.starts`` and take the slices that are done after each::

        for start in plan.starts(slices):
            merger.add(start, probabilities_of(start))
            for index, scores in merger.done():
                ...

    Raises:
        ValueError: the volume has no slices.
    """

    def __init__(self, slices: int, plan: StackPlan, weights: Weights = "mean") -> None:
        self._slices = slices
        self._starts = plan.starts(slices)
        self._weights = stack_weights(plan, weights)
        self._added = 0
        self._place = 0
        """How many places of the stack added last have come."""
        self._sums: dict[int, Tensor] = {}
        self._totals: dict[int, float] = {}

    @property
    def held(self) -> int:
        """Slices whose sums are in memory now."""
        return len(self._sums)

    @property
    def complete(self) -> bool:
        """Whether all stacks were added, so that ``done`` gives out everything that is left."""
        return self._added == len(self._starts) and self._place == len(self._weights)

    def add(self, first: int, probabilities: Float[Tensor, "depth classes height width"]) -> None:
        """Adds the scores of the next stack.

        Args:
            first: its first slice, possibly below 0.
            probabilities: its scores at the size of the slices; sums are kept in float32 or better.

        Raises:
            ValueError: this is not the stack whose turn it is, or it has another depth.
        """
        if len(probabilities) != len(self._weights):
            raise ValueError(f"a stack has {len(self._weights)} slices, but {len(probabilities)} came")
        self.begin(first)
        for scores in probabilities:
            self.put(scores)

    def begin(self, first: int) -> None:
        """Begins the next stack, whose slices then come one by one; ``add`` is for whole stacks.

        Args:
            first: its first slice, possibly below 0.

        Raises:
            ValueError: this is not the stack whose turn it is, or the one before is not whole.
        """
        expected = self._starts[self._added] if self._added < len(self._starts) else None
        if first != expected:
            turn = "all stacks were added" if expected is None else f"the one from slice {expected} is next"
            raise ValueError(f"a stack from slice {first} came, but {turn}; add the stacks in the order of plan.starts")
        if self._added and self._place < len(self._weights):
            raise ValueError(f"a stack has {len(self._weights)} slices, but {self._place} came")
        self._added += 1
        self._place = 0

    def put(self, scores: Float[Tensor, "classes height width"]) -> None:
        """Adds the next slice of the stack that was begun.

        Args:
            scores: at the size of the slices.

        Raises:
            ValueError: no stack was begun, or it has no further slice.
        """
        if not self._added or self._place == len(self._weights):
            raise ValueError(f"a stack has {len(self._weights)} slices, and all have come; begin the next one")
        index, weight = self._starts[self._added - 1] + self._place, self._weights[self._place]
        self._place += 1
        if weight > 0 and 0 <= index < self._slices:
            self._add_slice(index, scores, weight)

    def done(self) -> Iterator[tuple[int, Float[Tensor, "classes height width"]]]:
        """Gives out, in order, and forgets the slices that are not touched any more: (index, weighted mean).

        A slice with one vote of weight 1 is given out as it came, without a copy.
        """
        for index in [place for place in self._sums if place < self._end]:
            total = self._totals.pop(index)
            scores = self._sums.pop(index)
            yield index, scores if total == 1 else scores.div_(total)

    @property
    def _end(self) -> int:
        """The first slice that a later place of this stack, or a later stack, may still touch."""
        if not self._added:
            return 0
        later = self._starts[self._added] if self._added < len(self._starts) else self._slices
        whole = self._place == len(self._weights)
        return later if whole else min(later, self._starts[self._added - 1] + self._place)

    def _add_slice(self, index: int, scores: Float[Tensor, "classes height width"], weight: float) -> None:
        self._totals[index] = self._totals.get(index, 0.0) + weight
        if index in self._sums:
            self._sums[index].add_(scores, alpha=weight)
            return
        precise = scores.to(torch.promote_types(scores.dtype, torch.float32))
        alone = weight == 1 and index < self._end
        self._sums[index] = precise if alone else precise * weight


def stack_weights(plan: StackPlan, weights: Weights) -> tuple[float, ...]:
    """How much each place of a stack counts."""
    if weights == "mean":
        return (1.0,) * plan.depth
    if weights == "hann":
        return tuple(math.sin(math.pi * (place + 1) / (plan.depth + 1)) ** 2 for place in range(plan.depth))
    own = range(plan.lead, plan.lead + plan.stride)
    return tuple(1.0 if place in own else 0.0 for place in range(plan.depth))
