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


@dataclass(frozen=True, eq=False)
class Carried:
    """An object on its way along a route."""

    start: Answer
    """The object on the starting slice."""
    route: Sequence[int]
    """The slices to reach, in order."""
    cues: Collection[Cue]
    """What each slice is told of the one before."""
    stop: "Stop"
    """When the object has ended."""


@dataclass(frozen=True, eq=False)
class Asked:
    """What the model is asked about the next slice of a route."""

    of: int
    """Number of the route."""
    slice: int
    prompts: FramePrompts
    earlier: Float[Tensor, "h w"] | None
    """Logits of the slice before."""
    distance: int
    """Slices from the starting point."""


Ask = Callable[[Sequence[Asked]], Sequence[Answer]]
"""The answers to some questions, in their order."""

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


def sweep(ask: Ask, carried: Sequence[Carried], frame: FrameMap) -> Iterator[tuple[Asked, Answer | None]]:
    """Objects on the slices of their routes, each as soon as it is known, until the object ends.

    Routes know nothing of one another, so all of them go forward together, one slice at a time, and the model is asked
    about the next slices of all of them at once.

    Args:
        ask: the model.
        carried: the objects.
        frame: the map between slices and model pictures.

    Yields:
        What was asked and the answer; None where the object has ended, which is the last one of its route.
    """
    before = {number: one.start for number, one in enumerate(carried) if one.route}
    for place in range(max((len(one.route) for one in carried), default=0)):
        asked = [
            Asked(
                number,
                one.route[place],
                cue(before[number], frame, one.cues),
                before[number].logits if "mask" in one.cues else None,
                place + 1,
            )
            for number, one in enumerate(carried)
            if number in before
        ]
        if not asked:
            return
        for question, answer in zip(asked, ask(asked), strict=True):
            one = carried[question.of]
            if one.stop.after(answer, one.start.patch.area):
                del before[question.of]
                yield question, None
            else:
                before[question.of] = answer
                if place + 1 == len(one.route):
                    del before[question.of]
                yield question, answer


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
