"""The stacks of a volume one after the other, and which slices come and go with each."""

from collections.abc import Iterator
from dataclasses import dataclass

from voxelsam.stacks.plan import StackPlan


@dataclass(frozen=True)
class Turn:
    """One stack."""

    start: int
    """Its first slice, possibly below 0."""
    shows: tuple[int, ...]
    """The slice that each place shows."""
    new: tuple[int, ...]
    """Those of them that no earlier stack shows, ascending."""
    gone: tuple[int, ...]
    """Those of them that no later stack shows, ascending."""
    last: bool
    """Whether no stack follows."""


def turns(plan: StackPlan, slices: int) -> Iterator[Turn]:
    """The stacks in the order of ``plan.starts``.

    Whoever makes something of every slice in ``new``, and drops it after the stack in whose ``gone`` it is, makes it
    once and holds no more than the slices of a stack and those that its edge reflects.

    Args:
        plan: how the volume is cut.
        slices: of the volume.

    Raises:
        ValueError: the volume has no slices.
    """
    starts = plan.starts(slices)
    final = {number: start for start in starts for number in plan.slices(start, slices)}
    known: set[int] = set()
    for start in starts:
        shows = plan.slices(start, slices)
        new = sorted(set(shows) - known)
        gone = sorted(number for number in set(shows) if final[number] == start)
        known.update(new)
        yield Turn(start, shows, tuple(new), tuple(gone), start == starts[-1])
        known.difference_update(gone)
