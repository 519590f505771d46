"""One object carried from slice to slice: the mask of a slice is the prompt of the next.

Slices that the user prompted are never overwritten: those that show the object are starting points, all of them are
limits. Between two starting points each slice belongs to the nearer one, the middle one to the lower. *Up* means
rising canonical slice numbers (in axial slices towards the head), along time later frames.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from voxelsam.errors import ConfigError
from voxelsam.infer.prompted import Answer
from voxelsam.prompts.place import FramePrompts
from voxelsam.prompts.simulate import interior_click, tight_box
from voxelsam.stacks.frame import FrameMap

Direction = Literal["both", "up", "down"]

Cue = Literal["mask", "box", "click"]
"""What the next slice is told of a mask: its logits · its tight box · its deepest point."""

Ask = Callable[[int, FramePrompts, Float[Tensor, "h w"] | None, int], Answer]
"""Slice, prompts, earlier logits, and slices from the starting point, to the answer."""


FADE = 4.0
"""Slices from the starting point after which the carried mask and the prompt-free answer count the same."""


def prior_share(distance: int, fade: float) -> float:
    """How much the prompt-free answer counts on a slice: nothing on the starting one, one half at ``fade`` slices."""
    return float(1 - 0.5 ** (distance / fade))


@dataclass(frozen=True)
class Stop:
    """When an object has come to its end; the slice that shows it is left out.

    Raises:
        ConfigError: a limit is out of range.
    """

    area: float = 0.05
    """Share of the starting slice's area below which the object has vanished; an empty mask always has."""
    quality: float | None = None
    """Least IoU that the model expects of its own mask; None: never asked."""
    slices: int | None = None
    """At most so many slices from a starting point; None: as far as it goes."""

    def __post_init__(self) -> None:
        if not 0 <= self.area < 1:
            raise ConfigError(f"area: a share from 0 to below 1 of the starting area, not {self.area}")
        if self.quality is not None and not 0 <= self.quality <= 1:
            raise ConfigError(f"quality: an IoU from 0 to 1, not {self.quality}")
        if self.slices is not None and self.slices < 1:
            raise ConfigError(f"slices: at least 1, not {self.slices}")

    def after(self, answer: Answer, area: int) -> bool:
        """Whether an answer says that the object has ended.

        Args:
            answer: of the slice that was reached.
            area: pixels of the object on the starting slice.
        """
        vanished = answer.patch.area == 0 or answer.patch.area < self.area * area
        return vanished or (self.quality is not None and answer.quality is not None and answer.quality < self.quality)


def routes(
    starts: Collection[int], fixed: Collection[int], slices: int, direction: Direction, most: int | None = None
) -> list[tuple[int, range]]:
    """From where to where: starting slice, and the slices to be reached from it in their order.

    Args:
        starts: slices that show the object.
        fixed: slices that must stay as they are, the starting ones among them.
        slices: slices of the volume.
        direction: which way to go.
        most: at most so many slices from each start.
    """
    found = []
    for start in sorted(starts):
        if direction != "down":
            other = min((number for number in fixed if number > start), default=slices)
            end = (start + other) // 2 + 1 if other in starts and direction == "both" else other
            found.append((start, range(start + 1, end)))
        if direction != "up":
            other = max((number for number in fixed if number < start), default=-1)
            end = (start + other) // 2 if other in starts and direction == "both" else other
            found.append((start, range(start - 1, end, -1)))
    return [(start, route[:most]) for start, route in found if route]


def sweep(
    ask: Ask, start: Answer, route: Sequence[int], frame: FrameMap, cues: Collection[Cue], stop: Stop
) -> Iterator[tuple[int, Answer]]:
    """The object on the slices of a route, each as soon as it is known, until the object ends.

    Args:
        ask: the model.
        start: the object on the starting slice.
        route: the slices to reach, in order.
        frame: the map between slices and model pictures.
        cues: what each slice is told of the one before.
        stop: when the object has ended.
    """
    before = start
    for distance, number in enumerate(route, 1):
        answer = ask(number, cue(before, frame, cues), before.logits if "mask" in cues else None, distance)
        if stop.after(answer, start.patch.area):
            return
        yield number, answer
        before = answer


def cue(answer: Answer, frame: FrameMap, cues: Collection[Cue]) -> FramePrompts:
    """Prompts made from a mask that is not empty, in model pixels."""
    mask = answer.patch.mask(frame.source)
    points = np.zeros((0, 2))
    click = interior_click(mask[None]) if "click" in cues else None
    if click is not None:
        points = frame.to_model(np.array([(click.x, click.y)]))
    box = tight_box(mask) if "box" in cues else None
    if box is not None:
        (x0, y0), (x1, y1) = frame.to_model(np.array(box).reshape(2, 2)).tolist()
        box = x0, y0, x1, y1
    return FramePrompts(points, np.ones(len(points), bool), box)
