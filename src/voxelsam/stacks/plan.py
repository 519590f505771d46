"""Which slices form a stack, and the picture that the model gets of each.

Slice numbers are indices along canonical k. A stack may begin before the first slice or end after the last one;
``edge`` says which slices stand in there.
"""

import math
from dataclasses import dataclass
from typing import Literal

from voxelsam.config import STRICT
from voxelsam.space import Grid, Placement, canonical, plane_of
from voxelsam.stacks.frame import Fit, FrameMap, Interpolation
from voxelsam.stacks.intensity import Channels


@dataclass(frozen=True)
class StackPlan:
    """How a volume is cut into stacks; a section of the configuration.

    Raises:
        ValueError: a value is out of range; the message begins with the name of the field.
    """

    __pydantic_config__ = STRICT

    depth: int = 5
    """Slices per stack, 1 or more."""
    stride: int = 1
    """Slices between neighbouring stacks, 1 to ``depth``. 1 makes every slice once the centre, as MA-SAM does."""
    size: tuple[int, int] = (512, 512)
    """Model input, pixels (height, width)."""
    edge: Literal["repeat", "reflect"] = "repeat"
    """What stands in beyond the first and last slice: that slice again, or its neighbours in reverse order."""
    plane: Literal["axial", "coronal", "sagittal", "auto"] = "auto"
    """The plane slices are taken in; ``auto`` takes the one a volume was acquired in (its coarsest axis)."""
    spacing: tuple[float | None, float | None, float | None] | None = None
    """Millimetres along canonical i (right on a slice), j (down) and k (between slices); nothing: the volume's own."""
    interpolation: Interpolation = "linear"
    """How slices are resized; ``cubic`` is MA-SAM's preparation (see ``stacks.frame``)."""
    fit: Fit = "pad"
    """Keep the aspect ratio and pad, or stretch to the model's size."""
    channels: Channels = "copy"
    """What the model's three channels are (see ``stacks.intensity.to_three``)."""

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"depth: a stack has at least one slice, not {self.depth}")
        if not 1 <= self.stride <= self.depth:
            raise ValueError(f"stride: 1 to depth ({self.depth}), or slices would be left out, but {self.stride} came")
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size: a height and a width of at least 1 pixel, not {self.size}")
        if any(step is not None and not 0 < step < math.inf for step in self.spacing or ()):
            raise ValueError(f"spacing: positive distances in mm, or nothing to keep them, not {self.spacing}")

    @property
    def lead(self) -> int:
        """Slices of a stack that lie before its middle ``stride`` slices; those middles tile the volume."""
        return (self.depth - self.stride + 1) // 2

    def starts(self, slices: int) -> tuple[int, ...]:
        """First slices of the stacks of a volume, ascending; the first ones may be below 0.

        The middle ``stride`` slices of the stacks cover each slice exactly once, so that each stack is asked where it
        knows most. With stride 1 stack n has its centre (index ``depth // 2``) on slice n.

        Raises:
            ValueError: the volume has no slices.
        """
        _check_count(slices)
        return tuple(range(-self.lead, slices - self.lead, self.stride))

    def slices(self, start: int, slices: int) -> tuple[int, ...]:
        """The slice that each place of a stack shows, beyond the ends too.

        Args:
            start: first slice of the stack, possibly below 0.
            slices: slices of the volume.

        Raises:
            ValueError: the volume has no slices.
        """
        _check_count(slices)
        places = range(start, start + self.depth)
        if self.edge == "repeat" or slices == 1:
            return tuple(min(max(place, 0), slices - 1) for place in places)
        turn = slices - 1
        return tuple(turn - abs(place % (2 * turn) - turn) for place in places)

    def placement(self, grid: Grid) -> Placement:
        """The way from a volume's grid to the canonical grid that this plan cuts.

        Raises:
            GeometryError: the grid cannot be seen in that plane or at that spacing.
        """
        plane = plane_of(grid) if self.plane == "auto" else self.plane
        return canonical(grid, plane, self.spacing)

    def frame(self, source: tuple[int, int]) -> FrameMap:
        """The map between slices of a size (height, width) and the model's picture."""
        return FrameMap.fit(source, self.size, self.fit, self.interpolation)


def _check_count(slices: int) -> None:
    if slices < 1:
        raise ValueError(f"a volume has at least one slice, not {slices}")
