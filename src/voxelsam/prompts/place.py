"""Prompts of a scan on the pictures that a model sees, and back.

The way is: the prompt's space → voxels of the scan → canonical voxels of the plan (``StackPlan.placement``) → a slice k
and model pixels (x, y) of its picture (``StackPlan.frame``).

A point lies on the nearest slice; half-way between two it lies on the one of the higher number. A box covers the slices
whose centres lie between its edges (one at the lower edge counts, one at the higher edge does not), and where there is
none, the slice nearest to its middle. It is the same rectangle on each of them. A box of one slice is 2D; a box of two
or more is 3D, and its range of slices is the *span* of its object: what holds outside is decided by whoever asks the
model. Turned or sheared boxes become the box that encloses their corners, first along the axes of the scan, where what
reaches beyond the scan is cut off, then along those of the slices.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from voxelsam.errors import PromptError
from voxelsam.nn.drawing import SURE
from voxelsam.nn.prompt_encoder import BACKGROUND, OBJECT, PADDING, PromptBatch
from voxelsam.prompts.prompt import (
    Box,
    Mask,
    Point,
    Prompt,
    Prompts,
    Scribble,
    Space,
    Target,
    Vector,
    corners,
    edges_of,
    from_index,
    of_edges,
    to_index,
)
from voxelsam.space import Grid, Placement, Points3
from voxelsam.stacks.frame import FrameMap, Points2, labels_to_model
from voxelsam.stacks.plan import StackPlan
from voxelsam.volumes import Labels

T = TypeVar("T")

Rectangle = tuple[float, float, float, float]
"""Edges x0, y0, x1, y1, pixels."""

SCRIBBLE_POINTS = 16
"""Most points that a scribble gives on one slice."""

_TIE = 1e-6
"""Part of a slice within which a place counts as half-way, or as on an edge."""
_STEP = 0.5
"""Slice pixels between the places at which a scribble is looked at."""
_APART = 1.0
"""Model pixels that two points of a scribble are apart, at least."""


@dataclass(frozen=True, eq=False)
class FramePrompts:
    """What was said about one object on one canonical slice, in model pixels (x, y).

    Raises:
        ValueError: points and signs do not go together.
    """

    points: Float64[np.ndarray, "n 2"]
    inside: Bool[np.ndarray, " n"]
    """Which points lie on the object."""
    box: Rectangle | None = None
    mask: Bool[np.ndarray, "height width"] | None = None
    """At the size of the model's picture."""

    def __post_init__(self) -> None:
        if self.points.shape != (len(self.inside), 2):
            raise ValueError(f"points are n × 2 with n signs, not {self.points.shape} with {self.inside.shape}")


@dataclass(frozen=True, eq=False)
class Placed:
    """Prompts on the canonical slices of a plan."""

    frames: Mapping[Target, Mapping[int, FramePrompts]]
    """For each object, in the order of the prompts, the slices that were prompted, ascending."""
    spans: Mapping[Target, tuple[int, int]]
    """First and last slice of the 3D box of each object that has one; of several, from the first to the last of all."""


def place(prompts: Prompts, grid: Grid, plan: StackPlan, labels: Labels) -> Placed:
    """Prompts on the pictures that a model sees.

    On one slice the points of an object are gathered in the order of the prompts, its masks are united, and of several
    boxes the last one counts. A mask too small to be seen on the picture of a slice says nothing there.

    Args:
        prompts: what was said about the scan.
        grid: of the scan.
        plan: how the model's pictures are cut.
        labels: the structures that can be prompted.

    Raises:
        PromptError: as :meth:`Prompts.check`; PRM-06, a mask is too small to be seen on any picture.
        GeometryError: the scan cannot be cut so.
    """
    prompts.check(grid, labels)
    way = _Way.of(grid, plan)
    frames: dict[Target, dict[int, FramePrompts]] = {target: {} for target in prompts.targets}
    spans: dict[Target, tuple[int, int]] = {}
    for number, prompt in enumerate(prompts.items, 1):
        said = dict(_placed(prompt, way))
        if not said:
            raise PromptError(
                f"prompt {number} ({prompt}): the mask is too small to be seen on any picture of "
                f"{plan.size[0]} × {plan.size[1]} pixels; mark a larger part, or click instead",
                code="PRM-06",
            )
        slices = frames[prompt.target]
        for k, new in said.items():
            slices[k] = _joined(slices[k], new) if k in slices else new
        if isinstance(prompt, Box) and len(said) > 1:
            first, last = spans.get(prompt.target, (min(said), max(said)))
            spans[prompt.target] = min(first, *said), max(last, *said)
    return Placed({target: dict(sorted(slices.items())) for target, slices in frames.items()}, spans)


def recover(points: Points2, k: int, grid: Grid, plan: StackPlan, space: Space = "voxel") -> Float64[np.ndarray, "n 3"]:
    """Places in the scan of points on the picture of a slice; the inverse of placing points.

    Args:
        points: model pixels (x, y).
        k: canonical slice.
        grid: of the scan.
        plan: how the model's pictures are cut.
        space: what the coordinates of the result are.
    """
    way = _Way.of(grid, plan)
    x_y = way.frame.to_slice(points)
    index = np.column_stack([x_y, np.full(len(x_y), k, np.float64)])
    return from_index(way.placement.to_source(index), space, grid)


def recover_box(
    box: Rectangle, slices: tuple[int, int], grid: Grid, plan: StackPlan, space: Space = "voxel"
) -> tuple[Vector, Vector]:
    """Low and high corner, as :class:`Box` takes them, of a rectangle on some slices; the inverse of placing boxes.

    Args:
        box: edges, model pixels.
        slices: the first and the last canonical slice.
        grid: of the scan.
        plan: how the model's pictures are cut.
        space: what the coordinates of the result are; where axes are turned against one another the box encloses the
            corners.
    """
    way = _Way.of(grid, plan)
    (x0, y0), (x1, y1) = way.frame.to_slice(np.array(box).reshape(2, 2))
    index = way.placement.to_source(corners((x0, y0, slices[0] - 0.5), (x1, y1, slices[1] + 0.5)))
    return of_edges(index.min(axis=0), index.max(axis=0), space, grid)


def groups(frames: Sequence[FramePrompts | None], earlier: Sequence[bool] | None = None) -> list[list[int]]:
    """Numbers of frames that may share a batch: as many points, and a box and a mask alike.

    Filling points and boxes of others would change a frame's answer; within a group there is nothing to fill.

    Args:
        frames: prompts of each frame.
        earlier: whether logits of an earlier round go in as the frame's mask; None: nowhere.

    Raises:
        ValueError: the two have different lengths.
    """
    found: dict[tuple[int, bool, bool], list[int]] = {}
    given = [False] * len(frames) if earlier is None else earlier
    for number, (frame, logits) in enumerate(zip(frames, given, strict=True)):
        shape = (0, False, logits)
        if frame is not None:
            shape = len(frame.points), frame.box is not None, logits or frame.mask is not None
        found.setdefault(shape, []).append(number)
    return list(found.values())


def batch(
    frames: Sequence[FramePrompts | None], masks: Sequence[Float[Tensor, "h w"] | None], mask_size: tuple[int, int]
) -> PromptBatch:
    """Prompts of some frames as the prompt encoder takes them.

    Fewer points than in other frames are filled up with points of label -1, which the model sees: :func:`groups` makes
    batches that need none.

    Args:
        frames: prompts of each frame; None: nothing was said.
        masks: logits of an earlier round for each frame, taken as they are in place of a drawn mask; None: there was
            none.
        mask_size: size (height, width) of mask prompts.

    Raises:
        ValueError: there are no frames or not as many masks, some frames but not all have a box or a mask, or logits
            have another size.
    """
    if not frames or len(frames) != len(masks):
        raise ValueError(f"one entry of masks for each of at least one frame, not {len(masks)} for {len(frames)}")
    points, signs = _filled(frames)
    boxes = _all_or_none("box", [frame.box if frame else None for frame in frames])
    logits = [_logits(frame, earlier, mask_size) for frame, earlier in zip(frames, masks, strict=True)]
    drawn = _all_or_none("mask", logits)
    return PromptBatch(
        points,
        signs,
        None if boxes is None else torch.tensor(boxes, dtype=torch.float32)[:, None],
        None if drawn is None else torch.stack(drawn)[:, None],
    )


@dataclass(frozen=True, eq=False)
class _Way:
    """From the voxels of a scan to the model's pictures."""

    grid: Grid
    placement: Placement
    frame: FrameMap

    @classmethod
    def of(cls, grid: Grid, plan: StackPlan) -> "_Way":
        placement = plan.placement(grid)
        width, height, _ = placement.target.shape
        return cls(grid, placement, plan.frame((height, width)))

    def canonical(self, points: Sequence[Vector], space: Space) -> Float64[np.ndarray, "n 3"]:
        """Places in a space to canonical indices."""
        return self.placement.to_target(to_index(np.array(points), space, self.grid))

    def model(self, index: Points3) -> Float64[np.ndarray, "n 2"]:
        """Canonical indices to model pixels."""
        return self.frame.to_model(index[:, :2])

    def nearest(self, places: Float64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The slices nearest to places along canonical k."""
        last = self.placement.target.shape[2] - 1
        return np.clip(np.floor(places + 0.5 + _TIE), 0, last).astype(np.int64)


def _placed(prompt: Prompt, way: _Way) -> Iterator[tuple[int, FramePrompts]]:
    match prompt:
        case Point():
            index = way.canonical([prompt.at], prompt.space)
            yield int(way.nearest(index[:, 2])[0]), _clicks(way.model(index), prompt.inside)
        case Scribble():
            index = _along(way.canonical(prompt.points, prompt.space))
            slices = way.nearest(index[:, 2])
            for k in np.unique(slices).tolist():
                yield k, _clicks(_spread(way.model(index[slices == k])), prompt.inside)
        case Box():
            yield from _rectangles(prompt, way)
        case Mask():
            yield from _masks(prompt, way)


def _rectangles(box: Box, way: _Way) -> Iterator[tuple[int, FramePrompts]]:
    """The same rectangle on every slice of a box."""
    low, high = edges_of(box, way.grid)
    within = np.maximum(low, -0.5), np.minimum(high, np.array(way.grid.shape) - 0.5)
    index = way.placement.to_target(corners(*within))
    edges = np.array([index.min(axis=0), index.max(axis=0)])
    (x0, y0), (x1, y1) = way.model(edges).tolist()
    start, end = edges[:, 2]
    first, beyond = np.ceil([start - _TIE, end - _TIE]).astype(int).tolist()
    covered = range(first, beyond) or way.nearest(np.array([(start + end) / 2])).tolist()
    for k in covered:
        yield k, replace(_clicks(np.zeros((0, 2)), inside=True), box=(x0, y0, x1, y1))


def _masks(mask: Mask, way: _Way) -> Iterator[tuple[int, FramePrompts]]:
    brought = way.placement.bring_labels(mask.data.astype(np.uint8))
    shown = np.flatnonzero(brought.any(axis=(0, 1)))
    if not len(shown):
        return
    slices = np.ascontiguousarray(rearrange(brought[:, :, shown], "i j k -> k j i"))
    pictures = labels_to_model(torch.from_numpy(slices), way.frame).numpy().astype(bool)
    for k, picture in zip(shown.tolist(), pictures, strict=True):
        if picture.any():
            yield k, replace(_clicks(np.zeros((0, 2)), inside=True), mask=picture)


def _clicks(points: Float64[np.ndarray, "n 2"], inside: bool) -> FramePrompts:
    return FramePrompts(points, np.full(len(points), inside))


def _joined(old: FramePrompts, new: FramePrompts) -> FramePrompts:
    mask = new.mask if old.mask is None or new.mask is None else old.mask | new.mask
    return FramePrompts(
        np.concatenate([old.points, new.points]),
        np.concatenate([old.inside, new.inside]),
        old.box if new.box is None else new.box,
        old.mask if mask is None else mask,
    )


def _along(line: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "places 3"]:
    """Places along a line, no farther apart than the step along any axis; its corners are among them."""
    parts = []
    for start, end in pairwise(line):
        steps = int(np.ceil(np.abs(end - start).max() / _STEP))
        parts.append(start + np.arange(steps)[:, None] / max(steps, 1) * (end - start))
    return np.concatenate([*parts, line[-1:]])


def _spread(points: Float64[np.ndarray, "n 2"]) -> Float64[np.ndarray, "few 2"]:
    """A few points that lie far from one another: the first, then always the one farthest from those taken.

    They come in the order of the line; of equally far ones the first is taken.
    """
    taken = [0]
    nearest = np.linalg.norm(points - points[0], axis=1)
    while len(taken) < SCRIBBLE_POINTS and nearest.max() >= _APART:
        taken.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(points - points[taken[-1]], axis=1))
    return points[sorted(taken)]


def _filled(frames: Sequence[FramePrompts | None]) -> tuple[Float[Tensor, "frames n 2"], Int64[Tensor, "frames n"]]:
    most = max(len(frame.points) if frame else 0 for frame in frames)
    points = torch.zeros(len(frames), most, 2)
    signs = torch.full((len(frames), most), PADDING)
    for row, frame in enumerate(frames):
        if frame is not None:
            count = len(frame.points)
            points[row, :count] = torch.tensor(frame.points)
            signs[row, :count] = torch.tensor(np.where(frame.inside, OBJECT, BACKGROUND))
    return points, signs


def _all_or_none(what: str, values: Sequence[T | None]) -> list[T] | None:
    given = [value for value in values if value is not None]
    if given and len(given) < len(values):
        raise ValueError(
            f"{len(given)} of {len(values)} frames have a {what}, but a batch has one for each frame or none at all; "
            "groups() tells which frames may share a batch"
        )
    return given or None


def shrunk(logits: Float[Tensor, "frames height width"], size: tuple[int, int]) -> Float[Tensor, "frames h w"]:
    """Mask logits of the model's size at the size of mask prompts, in training and in use."""
    return F.interpolate(logits[:, None], size, mode="bilinear", align_corners=False, antialias=True)[:, 0]


def _logits(
    frame: FramePrompts | None, earlier: Float[Tensor, "h w"] | None, size: tuple[int, int]
) -> Float[Tensor, "h w"] | None:
    if earlier is not None:
        if tuple(earlier.shape) != tuple(size):
            raise ValueError(f"logits of an earlier round are {size[0]} × {size[1]}, not {tuple(earlier.shape)}")
        return earlier
    if frame is None or frame.mask is None:
        return None
    drawn = SURE * (2 * torch.tensor(frame.mask).float() - 1)
    return shrunk(drawn[None], size)[0]
