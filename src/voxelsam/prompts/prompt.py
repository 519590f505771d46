"""Prompts as data: what somebody says about the objects in a scan, and in which space.

``voxel`` coordinates are continuous indices i, j, k of the scan's array as it was read; voxel centres are at whole
numbers. A box in voxels is half open, as in nnInteractive: voxel 4 alone has low 4 and high 5, and its edges lie at 3.5
and 4.5. ``ras`` and ``lps`` are millimetres (seconds along the third axis of a film), and a box gives its edges. In a
picture i is the column, j the row and k is 0.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from numbers import Real
from typing import Any, Literal, NoReturn, get_args

import numpy as np
from jaxtyping import Bool, Float64

from voxelsam.errors import PromptError
from voxelsam.space import Grid, Points3
from voxelsam.volumes import Labels

Space = Literal["voxel", "ras", "lps"]
"""What coordinates are: indices of the scan's array, or millimetres."""

Vector = tuple[float, float, float]
"""A place (i, j, k) or (x, y, z)."""

LIMIT = 1000
"""Most prompts of one scan, and most points of one scribble."""

SPACES: tuple[Space, ...] = get_args(Space)

_TOUCH = 1e-6
"""Part of a voxel by which a place may lie beyond the scan: rounding of millimetres."""
_LISTED = 20

Problem = tuple[str, str]
"""Code and text."""


@dataclass(frozen=True)
class Target:
    """One object: a structure, and a number where there are several objects of it.

    Raises:
        PromptError: PRM-01, there is no name, or the number is no integer from 1 on.
    """

    label: str
    """Name in the label table."""
    instance: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.label, str) or not self.label:
            _malformed(f"a target needs the name of a structure, but {self.label!r} came")
        if isinstance(self.instance, bool) or not isinstance(self.instance, int) or self.instance < 1:
            _malformed(f"objects of {self.label} are numbered from 1, but instance {self.instance!r} came")

    def __str__(self) -> str:
        return self.label if self.instance == 1 else f"{self.label} {self.instance}"


@dataclass(frozen=True)
class Point:
    """A click on an object, or on what does not belong to it.

    Raises:
        PromptError: PRM-01, the place is not three finite numbers, or the space is unknown.
    """

    at: Vector
    target: Target
    inside: bool = True
    """False: the object is not here."""
    space: Space = "voxel"

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", _vector("a point", self.at))
        _check_space(self.space)

    def __str__(self) -> str:
        return f"{_sign(self.inside)}point {_spaced(self.space)}{_numbers(self.at)} of {self.target}"


@dataclass(frozen=True)
class Box:
    """A box around an object, on one slice or on several.

    Raises:
        PromptError: PRM-01, a corner is not three finite numbers, the box has no size along an axis, its corners are
            the wrong way round, or the space is unknown.
    """

    low: Vector
    """The corner of the lowest coordinates; in voxels the first voxel inside."""
    high: Vector
    """The corner of the highest coordinates; in voxels the first voxel beyond."""
    target: Target
    space: Space = "voxel"

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", _vector("the low corner of a box", self.low))
        object.__setattr__(self, "high", _vector("the high corner of a box", self.high))
        _check_space(self.space)
        if any(low > high for low, high in zip(self.low, self.high, strict=True)):
            _malformed(f"{self}: low must lie below high on every axis; exchange the coordinates that are inverted")
        if any(low == high for low, high in zip(self.low, self.high, strict=True)):
            flat = "; in voxels high is the first voxel beyond the box" if self.space == "voxel" else ""
            _malformed(f"{self}: the box has no size along an axis{flat}")

    def __str__(self) -> str:
        return f"box {_spaced(self.space)}{_numbers(self.low)} to {_numbers(self.high)} of {self.target}"


@dataclass(frozen=True)
class Scribble:
    """A line through an object, or through what does not belong to it.

    Raises:
        PromptError: PRM-01, there is no point, one is not three finite numbers, or the space is unknown.
    """

    points: tuple[Vector, ...]
    """Corners of the line; a single one is a dot."""
    target: Target
    inside: bool = True
    """False: the object is not here."""
    space: Space = "voxel"

    def __post_init__(self) -> None:
        points = tuple(_vector("a point of a scribble", point) for point in self.points)
        object.__setattr__(self, "points", points)
        if not points:
            _malformed(f"a scribble of {self.target} needs at least one point, but has none")
        _check_space(self.space)

    def __str__(self) -> str:
        ends = _numbers(self.points[0])
        if len(self.points) > 1:
            ends += f" to {_numbers(self.points[-1])}"
        return f"{_sign(self.inside)}scribble {_spaced(self.space)}{ends} of {self.target}"


@dataclass(frozen=True, eq=False)
class Mask:
    """The object as somebody drew it, or as another tool found it.

    Raises:
        PromptError: PRM-01, the array is not a mask of three axes.
    """

    data: Bool[np.ndarray, "i j k"]
    """On the voxels of the scan; a slice without any True says nothing. Kept as a read-only copy."""
    target: Target

    def __post_init__(self) -> None:
        data = np.array(self.data)
        if data.dtype != np.bool_ or data.ndim != 3:
            _malformed(
                f"a mask of {self.target} is an array of true and false along i, j, k, not {data.dtype} of shape "
                f"{data.shape}; compare it with the wanted value (labels == 1)"
            )
        data.setflags(write=False)
        object.__setattr__(self, "data", data)

    def __str__(self) -> str:
        return f"mask of {self.target}"


Prompt = Point | Box | Scribble | Mask


@dataclass(frozen=True)
class Prompts:
    """All that was said about one scan, in order."""

    items: tuple[Prompt, ...] = ()

    @property
    def targets(self) -> tuple[Target, ...]:
        """The objects, each once, in the order in which they were first prompted."""
        return tuple(dict.fromkeys(prompt.target for prompt in self.items))

    def add(self, *prompts: Prompt) -> "Prompts":
        """These prompts and some more; this object stays as it is."""
        return replace(self, items=(*self.items, *prompts))

    def check(self, grid: Grid, labels: Labels) -> None:
        """Refuses prompts that make no sense in a scan.

        Points and scribbles lie in the scan. A box in voxels lies in it too; one in millimetres may reach beyond it,
        because the edges of a scan need not run along x, y and z, but not lie beyond it.

        Args:
            grid: of the scan.
            labels: the structures that can be prompted.

        Raises:
            PromptError: every problem, each with the number of the prompt, counted from 1, and what it says: PRM-02
                outside the scan, PRM-03 a structure that is not in the table, or background, PRM-04 too many,
                PRM-05 points that contradict each other, PRM-06 an empty mask, or one of another shape.
        """
        refuse("the prompts cannot be used", list(self._problems(grid, labels)))

    def _problems(self, grid: Grid, labels: Labels) -> Iterator[Problem]:
        if len(self.items) > LIMIT:
            yield "PRM-04", f"a scan takes up to {LIMIT} prompts, but {len(self.items)} came; leave some out"
            return
        for number, prompt in enumerate(self.items, 1):
            for code, text in chain(_unknown(prompt.target, labels), _misplaced(prompt, grid)):
                yield code, f"prompt {number} ({prompt}): {text}"
        yield from self._contradictions(grid)

    def _contradictions(self, grid: Grid) -> Iterator[Problem]:
        """Points that cannot both be true: a voxel belongs to one object at most."""
        seen: dict[tuple[int, ...], list[tuple[int, Point]]] = {}
        for number, point in enumerate(self.items, 1):
            if not isinstance(point, Point):
                continue
            index = to_index(np.array([point.at]), point.space, grid)
            if not _within(index, grid).all():
                continue
            voxel = tuple(np.floor(index[0] + 0.5).astype(int).tolist())
            for earlier, other in seen.setdefault(voxel, []):
                same = point.target == other.target
                if (same and point.inside != other.inside) or (not same and point.inside and other.inside):
                    yield (
                        "PRM-05",
                        f"prompt {number} ({point}) contradicts prompt {earlier} ({other}): both lie in voxel "
                        f"{_numbers(voxel)}; leave one of them out",
                    )
                    break
            seen[voxel].append((number, point))


def refuse(head: str, problems: Sequence[Problem]) -> None:
    """Raises if there are problems.

    Args:
        head: what cannot be done.
        problems: all that is wrong.

    Raises:
        PromptError: all problems, one per line; its code is that of the first.
    """
    if problems:
        lines = "\n".join(f"  {code}: {text}" for code, text in problems)
        raise PromptError(f"{head} (problems: {len(problems)}):\n{lines}", code=problems[0][0])


def to_index(points: Points3, space: Space, grid: Grid) -> Float64[np.ndarray, "n 3"]:
    """Places in a space to continuous voxel indices of the scan."""
    if space == "voxel":
        return np.asarray(points, np.float64)
    return grid.to_index(_swapped(points) if space == "lps" else points)


def from_index(index: Points3, space: Space, grid: Grid) -> Float64[np.ndarray, "n 3"]:
    """The inverse of :func:`to_index`."""
    if space == "voxel":
        return np.asarray(index, np.float64)
    world = grid.to_world(index)
    return _swapped(world) if space == "lps" else world


def edges_of(box: Box, grid: Grid) -> tuple[Float64[np.ndarray, " 3"], Float64[np.ndarray, " 3"]]:
    """Low and high edges of a box as continuous voxel indices of the scan.

    A box in millimetres becomes the box along the scan's axes that encloses its eight corners.
    """
    if box.space == "voxel":
        return np.array(box.low) - 0.5, np.array(box.high) - 0.5
    index = to_index(corners(box.low, box.high), box.space, grid)
    return index.min(axis=0), index.max(axis=0)


def of_edges(
    low: Float64[np.ndarray, " 3"], high: Float64[np.ndarray, " 3"], space: Space, grid: Grid
) -> tuple[Vector, Vector]:
    """The inverse of :func:`edges_of`; in millimetres again the box that encloses the eight corners."""
    if space == "voxel":
        return _tuple(low + 0.5), _tuple(high + 0.5)
    places = from_index(corners(low, high), space, grid)
    return _tuple(places.min(axis=0)), _tuple(places.max(axis=0))


def corners(low: Sequence[float] | Points3, high: Sequence[float] | Points3) -> Float64[np.ndarray, "8 3"]:
    """The eight corners of a box."""
    return np.array(list(product(*zip(low, high, strict=True))), np.float64)


def unfit(mask: Mask, grid: Grid) -> Iterator[Problem]:
    """Why a mask says nothing in a scan."""
    if mask.data.shape != grid.shape:
        yield (
            "PRM-06",
            f"a mask lies on the voxels of the scan, {times(grid.shape)}, but this one has {times(mask.data.shape)}",
        )
    elif not mask.data.any():
        yield "PRM-06", "the mask is empty"


def times(shape: tuple[int, ...]) -> str:
    """A shape in words."""
    return " × ".join(str(count) for count in shape)


def _unknown(target: Target, labels: Labels) -> Iterator[Problem]:
    if target.label in labels.names:
        return
    known = ", ".join(labels.names[:_LISTED])
    if len(labels.names) > _LISTED:
        known += f" and {len(labels.names) - _LISTED} more"
    if target.label in labels.values:
        yield (
            "PRM-03",
            f"{target.label} is what is left over and cannot be prompted: prompt one of {known}, and say with "
            "inside = false where it is not",
        )
    else:
        yield "PRM-03", f"there is no structure {target.label!r}, but {known}"


def _misplaced(prompt: Prompt, grid: Grid) -> Iterator[Problem]:
    match prompt:
        case Point():
            yield from _beyond(np.array([prompt.at]), prompt.space, grid)
        case Scribble() if len(prompt.points) > LIMIT:
            text = f"a scribble takes up to {LIMIT} points, but has {len(prompt.points)}; thin it out, or split it"
            yield "PRM-04", text
        case Scribble():
            yield from _beyond(np.array(prompt.points), prompt.space, grid)
        case Box():
            yield from _box_beyond(prompt, grid)
        case Mask():
            yield from unfit(prompt, grid)


def _beyond(points: Points3, space: Space, grid: Grid) -> Iterator[Problem]:
    outside = np.flatnonzero(~_within(to_index(points, space, grid), grid))
    if not len(outside):
        return
    which = ""
    if len(points) > 1:
        more = f" and {len(outside) - 1} more of its points lie" if len(outside) > 1 else " lies"
        which = f"point {outside[0] + 1} ({_numbers(points[outside[0]])}){more} "
    yield "PRM-02", f"{which}outside the scan, which has {_range(space, grid)}{_hint(points, space, grid)}"


def _box_beyond(box: Box, grid: Grid) -> Iterator[Problem]:
    low, high = edges_of(box, grid)
    last = np.array(grid.shape) - 0.5
    both = np.array([box.low, box.high])
    if box.space != "voxel":
        if (high <= -0.5 + _TOUCH).any() or (low >= last - _TOUCH).any():
            yield (
                "PRM-02",
                f"outside the scan, which has {_range(box.space, grid)}{_hint(both, box.space, grid)}",
            )
    elif (low < -0.5 - _TOUCH).any() or (high > last + _TOUCH).any():
        yield (
            "PRM-02",
            f"reaches outside the scan, which has {_range('voxel', grid)} (high at most {_numbers(grid.shape)})"
            f"{_hint(both, 'voxel', grid)}",
        )


def _within(index: Points3, grid: Grid) -> Bool[np.ndarray, " n"]:
    last = np.array(grid.shape) - 0.5
    return np.asarray(((index >= -0.5 - _TOUCH) & (index <= last + _TOUCH)).all(axis=1))


def _range(space: Space, grid: Grid) -> str:
    """Where the scan lies, in words."""
    if space == "voxel":
        return "voxels " + ", ".join(f"0 to {count - 1}" for count in grid.shape)
    edges = corners((-0.5, -0.5, -0.5), [count - 0.5 for count in grid.shape])
    places = from_index(edges, space, grid)
    sides = zip("xyz", places.min(axis=0), places.max(axis=0), strict=True)
    return f"{space} coordinates " + ", ".join(f"{axis} {low:.6g} to {high:.6g}" for axis, low, high in sides)


def _hint(points: Points3, space: Space, grid: Grid) -> str:
    """What may have been meant."""
    others = [other for other in SPACES if other != space and _within(to_index(points, other, grid), grid).all()]
    if others:
        return f"; as {' or '.join(others)} coordinates it would lie inside"
    if space == "voxel" and _within(points[:, ::-1], grid).all():
        return "; in the order k, j, i it would lie inside, but the order is i, j, k"
    return ""


def _swapped(points: Points3) -> Float64[np.ndarray, "n 3"]:
    """RAS to LPS, or back."""
    return np.asarray(points, np.float64) * (-1.0, -1.0, 1.0)


def _vector(what: str, values: Any) -> Vector:
    numbers = tuple(values) if isinstance(values, Sequence | np.ndarray) else (values,)
    if len(numbers) != 3 or not all(isinstance(value, Real) and math.isfinite(value) for value in numbers):
        _malformed(f"{what} is three finite numbers, but {values!r} came")
    return _tuple(numbers)


def _tuple(numbers: Sequence[float] | Float64[np.ndarray, " 3"]) -> Vector:
    a, b, c = (float(number) for number in numbers)
    return a, b, c


def _check_space(space: str) -> None:
    if space not in SPACES:
        _malformed(f"a space is one of {', '.join(SPACES)}, but {space!r} came")


def _malformed(text: str) -> NoReturn:
    raise PromptError(text, code="PRM-01")


def _sign(inside: bool) -> str:
    return "" if inside else "background "


def _spaced(space: Space) -> str:
    return "" if space == "voxel" else f"{space} "


def _numbers(values: Sequence[float] | Points3) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
