"""What an annotator would click and draw, taken from a reference mask: for training and for studies.

Masks are arrays (slices, height, width) of one object. Points are (x, y) in pixels of a slice, x along the width, pixel
centres at whole numbers. Boxes are edges (x0, y0, x1, y1): the pixel x = 3, y = 5 alone has the box
(2.5, 4.5, 3.5, 5.5), and a picture of (height, width) reaches from -0.5 to width - 0.5 and to height - 0.5. Sizes are
(height, width), spacings (slice, y, x), in the order of the array. Boxes that are made here stay within the picture and
keep sides of at least one pixel (or of their own side, if that was shorter).

Voxels that touch, if only at a corner, belong to one component: 8 neighbours on a slice, 26 in a volume.

Whatever is random takes a generator and nothing else decides. Where a mask is empty there is nothing to click: no
function invents a prompt for it.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64, Integer, Real
from scipy import ndimage

from voxelsam.errors import InputError

ObjectMask = Bool[np.ndarray, "slices height width"]
"""Voxels of one object."""

Rectangle = tuple[float, float, float, float]
"""Edges x0, y0, x1, y1 of a box on a slice, pixels."""

Jitter = Literal["sam", "uniform"]
"""``sam``: normal noise on each edge, its deviation a share of the side, cut at a number of pixels.
``uniform``: each edge moves by up to a share of the side."""

_DRAWS = 64
_HALVINGS = 60
_EQUAL = 1 - 1e-9


@dataclass(frozen=True)
class Click:
    """A point on one slice."""

    slice: int
    x: float
    """Pixels along the width."""
    y: float
    """Pixels along the height."""
    inside: bool
    """On the object, or on what is not the object."""


@dataclass(frozen=True)
class Cuboid:
    """A box around an object in a volume: one rectangle on every slice of a range."""

    first: int
    last: int
    """The last slice that it covers, not the one after."""
    rectangle: Rectangle


def random_points(mask: ObjectMask, k: int, rng: np.random.Generator) -> tuple[Click, ...]:
    """Points on the object, drawn uniformly over its voxels; none for an empty mask.

    No voxel comes twice before each has come once, so an object of fewer than ``k`` voxels still gives ``k`` points.

    Raises:
        ValueError: not a mask, or ``k`` is below 1.
    """
    _check_mask(mask)
    _check_count("points", k)
    return tuple(_click(place, inside=True) for place in _drawn(mask, k, rng))


def most_agreed(soft: Real[np.ndarray, "height width"], rng: np.random.Generator) -> Click | None:
    """A point on a mask that averages several raters: uniform over the pixels of the highest agreement.

    This is Med-SA's click on a picture. None where no rater marked anything.

    Raises:
        ValueError: not a picture of real, finite values.
    """
    if soft.ndim != 2 or soft.dtype.kind not in "buif" or soft.size == 0:
        raise ValueError(f"a mask of several raters is numbers (height, width), not {soft.dtype} of shape {soft.shape}")
    peak = soft.max()
    if not np.isfinite(peak):
        raise ValueError(f"a mask of several raters has finite values, but one of them is {peak}")
    if peak <= 0:
        return None
    ((y, x),) = _drawn(soft == peak, 1, rng)
    return _click((0, y, x), inside=True)


def per_slice(mask: ObjectMask, k: int, rng: np.random.Generator) -> tuple[Click, ...]:
    """Points as :func:`random_points` draws them, ``k`` on each slice that shows the object, none on the others.

    Raises:
        ValueError: not a mask, or ``k`` is below 1.
    """
    _check_mask(mask)
    _check_count("points on each slice", k)
    return tuple(_click((s, y, x), inside=True) for s in _showing(mask) for y, x in _drawn(mask[s], k, rng))


def interior_click(mask: ObjectMask, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Click | None:
    """The deepest point of an object in a volume: the first click of a study. None for an empty mask.

    Depth is the distance to the nearest voxel outside the object, and what lies beyond the array is outside. Of several
    deepest voxels the one that is deepest on its own slice is taken (so a flat object, or a volume of one slice, gets
    the middle of its area), then the one nearest to the middle of those, then the first in the array.

    Args:
        mask: the object.
        spacing: distance between voxels along slices, y, x; mm.

    Raises:
        ValueError: not a mask, or a spacing that is not positive.
    """
    _check_mask(mask)
    _check_spacing(spacing, 3)
    return _click(_deepest(mask, spacing), inside=True) if mask.any() else None


def interior_clicks(mask: ObjectMask, spacing: tuple[float, float] = (1.0, 1.0)) -> tuple[Click, ...]:
    """The deepest point on each slice that shows the object, as for :func:`interior_click` but within the slice.

    Args:
        mask: the object.
        spacing: distance between pixels along y, x; mm.

    Raises:
        ValueError: not a mask, or a spacing that is not positive.
    """
    _check_mask(mask)
    _check_spacing(spacing, 2)
    return tuple(_click((s, *_deepest(mask[s], spacing)), inside=True) for s in _showing(mask))


def error_click(
    predicted: ObjectMask, reference: ObjectMask, *, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> Click | None:
    """The click that corrects the most: the deepest point of the largest component of error. None where none is left.

    What is missing and what is too much are taken apart into components separately; the one with the most voxels
    counts, of equal ones a missing one, then the first in the array. Missing voxels give a click on the object, others
    a click on the background. Depth is that of :func:`interior_click` within the component.

    Args:
        predicted: what the model answered.
        reference: what it should have answered.
        spacing: distance between voxels along slices, y, x; mm.

    Raises:
        ValueError: not two masks of one shape, or a spacing that is not positive.
    """
    _check_pair(predicted, reference)
    _check_spacing(spacing, 3)
    component, inside = _largest_error(predicted, reference)
    return _click(_deepest(component, spacing), inside=inside) if component.any() else None


def error_clicks(
    predicted: ObjectMask, reference: ObjectMask, *, spacing: tuple[float, float] = (1.0, 1.0)
) -> tuple[Click, ...]:
    """One correcting click on each slice that is wrong, as :func:`error_click` but within the slice.

    Args:
        predicted: what the model answered.
        reference: what it should have answered.
        spacing: distance between pixels along y, x; mm.

    Raises:
        ValueError: not two masks of one shape, or a spacing that is not positive.
    """
    _check_pair(predicted, reference)
    _check_spacing(spacing, 2)
    found = ((s, *_largest_error(predicted[s], reference[s])) for s in _showing(predicted ^ reference))
    return tuple(_click((s, *_deepest(component, spacing)), inside=inside) for s, component, inside in found)


def random_error_click(predicted: ObjectMask, reference: ObjectMask, rng: np.random.Generator) -> Click | None:
    """A correcting click for training, by SAM's rule: uniform over all wrong voxels. None where none is left.

    Components do not matter here. A missing voxel gives a click on the object, any other one on the background.

    Raises:
        ValueError: not two masks of one shape.
    """
    _check_pair(predicted, reference)
    wrong = _drawn(predicted ^ reference, 1, rng)
    return _click(wrong[0], inside=bool(reference[wrong[0]])) if wrong else None


def random_error_clicks(predicted: ObjectMask, reference: ObjectMask, rng: np.random.Generator) -> tuple[Click, ...]:
    """One click by SAM's rule on each slice that is wrong, uniform over the wrong pixels of the slice.

    Raises:
        ValueError: not two masks of one shape.
    """
    _check_pair(predicted, reference)
    error = predicted ^ reference
    places = [(s, *place) for s in _showing(error) for place in _drawn(error[s], 1, rng)]
    return tuple(_click(place, inside=bool(reference[place])) for place in places)


def tight_box(mask: Bool[np.ndarray, "height width"]) -> Rectangle | None:
    """The smallest box around the object on one slice; None for an empty mask.

    Raises:
        ValueError: not a mask of one slice.
    """
    _check_mask(mask, axes=2)
    if not mask.any():
        return None
    rows, columns = _bounds(mask)
    return columns.start - 0.5, rows.start - 0.5, columns.stop - 0.5, rows.stop - 0.5


def tight_cuboid(mask: ObjectMask) -> Cuboid | None:
    """The smallest box around the object in the volume; None for an empty mask.

    Raises:
        ValueError: not a mask.
    """
    _check_mask(mask)
    if not mask.any():
        return None
    slices, rows, columns = _bounds(mask)
    edges = columns.start - 0.5, rows.start - 0.5, columns.stop - 0.5, rows.stop - 0.5
    return Cuboid(slices.start, slices.stop - 1, edges)


def jittered(
    box: Rectangle,
    share: float,
    rng: np.random.Generator,
    size: tuple[int, int],
    rule: Jitter = "sam",
    *,
    most: float = 20.0,
) -> Rectangle:
    """The box as somebody draws it in a hurry: each edge moves on its own.

    Args:
        box: edges, pixels.
        share: of the side: the standard deviation (``sam``, which takes 0.1) or the most (``uniform``).
        rng: where the moves come from.
        size: the picture, pixels (height, width).
        rule: how the moves are distributed.
        most: with ``sam``, no edge moves further than this many pixels.

    Raises:
        ValueError: a box outside the picture, a negative share, or no such rule.
    """
    _check_box(box, size)
    _check_amount("share of the side", share)
    _check_amount("number of pixels", most)
    width, height = _sides(box)
    sides = np.array((width, height, width, height))
    if rule == "sam":
        moves = np.clip(rng.normal(0.0, share * sides), -most, most)
    elif rule == "uniform":
        moves = rng.uniform(-share, share, 4) * sides
    else:
        raise ValueError(f"no rule {rule!r} to move edges; there are: sam, uniform")
    x0, y0, x1, y1 = (np.array(box) + moves).tolist()
    return _within((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), box, size)


def relaxed(box: Rectangle, share: float, size: tuple[int, int]) -> Rectangle:
    """The box with each edge moved outwards by a share of the side, as far as the picture goes.

    Args:
        box: edges, pixels.
        share: 0.05 makes the sides 10 % longer.
        size: the picture, pixels (height, width).

    Raises:
        ValueError: a box outside the picture, or a negative share.
    """
    _check_box(box, size)
    _check_amount("share of the side", share)
    (x0, y0, x1, y1), (width, height) = box, _sides(box)
    return _within((x0 - share * width, y0 - share * height, x1 + share * width, y1 + share * height), box, size)


def relaxed_cuboid(cuboid: Cuboid, share: float, shape: tuple[int, int, int]) -> Cuboid:
    """The cuboid with each side moved outwards by a share of the extent, along slices too, as far as the volume goes.

    Along slices the move is rounded to whole slices, halves outwards: 5 % of 9 slices is none, of 10 slices is one.

    Args:
        cuboid: slices and edges.
        share: 0.05 makes the extents 10 % longer.
        shape: the volume (slices, height, width).

    Raises:
        ValueError: a cuboid outside the volume, or a negative share.
    """
    slices, height, width = shape
    if not 0 <= cuboid.first <= cuboid.last < slices:
        raise ValueError(f"a cuboid covers slices between 0 and {slices - 1}, not {cuboid.first} to {cuboid.last}")
    rectangle = relaxed(cuboid.rectangle, share, (height, width))
    move = math.floor(share * (cuboid.last - cuboid.first + 1) + 0.5)
    return Cuboid(max(cuboid.first - move, 0), min(cuboid.last + move, slices - 1), rectangle)


def to_iou(box: Rectangle, iou: float, rng: np.random.Generator, size: tuple[int, int]) -> Rectangle:
    """A box, shifted and scaled, whose intersection over union with the given one is as wanted (within 1e-6).

    The box moves in a straight line towards a random other one (shifted by up to its sides, scaled by 1/2 to 2 along
    each axis) until the overlap is as wanted.

    Args:
        box: edges of the tight box, pixels.
        iou: wanted intersection over union, above 0 and at most 1.
        rng: where the way comes from.
        size: the picture, pixels (height, width).

    Raises:
        ValueError: a box outside the picture, or an overlap outside (0, 1].
        InputError: no box of that overlap fits into the picture.
    """
    _check_overlap("intersection over union", iou)
    return _moved_until(box_iou, "an intersection over union", box, iou, rng, size)


def to_cover(box: Rectangle, share: float, rng: np.random.Generator, size: tuple[int, int]) -> Rectangle:
    """A box, moved as by :func:`to_iou`, that covers the wanted share of the given one (within 1e-6).

    This is the second reading of a box that "overlaps 50 % of the target": what it covers besides does not count.

    Args:
        box: edges of the tight box, pixels.
        share: wanted share of its area, above 0 and at most 1.
        rng: where the way comes from.
        size: the picture, pixels (height, width).

    Raises:
        ValueError: a box outside the picture, or a share outside (0, 1].
        InputError: no box that covers so little fits into the picture.
    """
    _check_overlap("covered share", share)
    return _moved_until(box_cover, "a covered share", box, share, rng, size)


def box_iou(box: Rectangle, other: Rectangle) -> float:
    """Intersection over union of the areas of two boxes, 0..1."""
    common = _intersection(box, other)
    return common / (_area(box) + _area(other) - common)


def box_cover(box: Rectangle, other: Rectangle) -> float:
    """The share of ``box`` that ``other`` covers, 0..1."""
    return _intersection(box, other) / _area(box)


def key_slices(mask: ObjectMask, count: int) -> tuple[int, ...]:
    """The slices that an annotator would prompt, ascending; none for an empty mask.

    One is the slice with the largest area (of equal ones the middle one). Two or more are the first and the last slice
    that show the object and others between, evenly spread over the slices that show it. An object on fewer slices than
    ``count`` gives all of them.

    Raises:
        ValueError: not a mask, or ``count`` is below 1.
    """
    _check_mask(mask)
    _check_count("key slices", count)
    shown = _showing(mask)
    if len(shown) <= count:
        return shown
    if count == 1:
        areas = np.count_nonzero(mask, axis=(1, 2))
        largest = np.flatnonzero(areas == areas.max())
        return (int(largest[len(largest) // 2]),)
    return tuple(shown[math.floor(n * (len(shown) - 1) / (count - 1) + 0.5)] for n in range(count))


def components(mask: ObjectMask, least: int = 1) -> Int32[np.ndarray, "slices height width"]:
    """Numbers 1, 2, … for the separate parts of a mask, in the order of the array, 0 elsewhere.

    Args:
        mask: parts that touch, if only at a corner, are one.
        least: parts of fewer voxels are left out.

    Raises:
        ValueError: not a mask, or ``least`` is below 1.
    """
    _check_mask(mask)
    _check_count("voxels of a component", least)
    labels, sizes = _labelled(mask)
    kept = sizes >= least
    numbers = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    result: Int32[np.ndarray, "slices height width"] = numbers[labels]
    return result


def objects(instances: Integer[np.ndarray, "slices height width"]) -> tuple[int, ...]:
    """The numbers of the objects in a map of instances, ascending; 0 is background.

    Raises:
        ValueError: not whole numbers (slices, height, width), or some are negative.
    """
    if instances.ndim != 3 or instances.dtype.kind not in "iu":
        raise ValueError(
            "a map of instances is whole numbers (slices, height, width), "
            f"not {instances.dtype} of shape {instances.shape}; components() numbers the parts of a mask"
        )
    found = np.unique(instances).tolist()
    if found and found[0] < 0:
        raise ValueError(f"objects are numbered from 1 and 0 is background, but there is {found[0]}")
    return tuple(number for number in found if number)


def _click(place: tuple[int, ...], *, inside: bool) -> Click:
    """A click on the voxel (slice, y, x)."""
    s, y, x = place
    return Click(s, float(x), float(y), inside)


def _drawn(where: Bool[np.ndarray, "*axes"], k: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """Indices of ``k`` voxels of a mask, in rounds without repetition; none if it is empty."""
    voxels = np.flatnonzero(where)
    if not voxels.size:
        return []
    rounds = [rng.permutation(voxels) for _ in range(k // voxels.size)]
    rounds.append(rng.choice(voxels, k % voxels.size, replace=False))
    indices = np.unravel_index(np.concatenate(rounds), where.shape)
    return [tuple(place) for place in np.stack(indices, axis=1).tolist()]


def _deepest(mask: Bool[np.ndarray, "*axes"], spacing: tuple[float, ...]) -> tuple[int, ...]:
    """Index of the deepest voxel of a mask that is not empty, ties as :func:`interior_click` says."""
    bounds = _bounds(mask)
    part = mask[bounds]
    depth = _depth(part, spacing)
    ties = np.argwhere(depth >= depth.max() * _EQUAL)
    if len(ties) > 1 and mask.ndim == 3:
        on_slice = np.zeros(part.shape)
        for s in np.unique(ties[:, 0]):
            on_slice[s] = _depth(part[s], spacing[1:])
        values = on_slice[tuple(ties.T)]
        ties = ties[values >= values.max() * _EQUAL]
    away = (((ties - ties.mean(axis=0)) * spacing) ** 2).sum(axis=1)
    nearest = ties[away.argmin()]
    return tuple(int(index) + axis.start for index, axis in zip(nearest, bounds, strict=True))


def _depth(mask: Bool[np.ndarray, "*axes"], spacing: tuple[float, ...]) -> Float64[np.ndarray, "*axes"]:
    """Distance of each voxel of the mask to the nearest one outside it."""
    distance = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=spacing)
    inner: Float64[np.ndarray, "*axes"] = distance[(slice(1, -1),) * mask.ndim]
    return inner


def _largest_error(
    predicted: Bool[np.ndarray, "*axes"], reference: Bool[np.ndarray, "*axes"]
) -> tuple[Bool[np.ndarray, "*axes"], bool]:
    """The largest component of error, and whether it is missing (rather than too much); empty without errors."""
    missing, surplus = _largest(reference & ~predicted), _largest(predicted & ~reference)
    if np.count_nonzero(missing) >= np.count_nonzero(surplus):
        return missing, True
    return surplus, False


def _largest(mask: Bool[np.ndarray, "*axes"]) -> Bool[np.ndarray, "*axes"]:
    """The component with the most voxels, of equal ones the first."""
    if not mask.any():
        return mask
    labels, sizes = _labelled(mask)
    component: Bool[np.ndarray, "*axes"] = labels == sizes.argmax()
    return component


def _labelled(mask: Bool[np.ndarray, "*axes"]) -> tuple[Int32[np.ndarray, "*axes"], Int64[np.ndarray, " n"]]:
    """Component numbers, and the voxels of each number (0 for the background)."""
    labels, _ = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    sizes = np.bincount(labels.reshape(-1))
    sizes[0] = 0
    return labels, sizes


def _showing(mask: ObjectMask) -> tuple[int, ...]:
    """Slices with at least one voxel."""
    return tuple(np.flatnonzero(mask.any(axis=(1, 2))).tolist())


def _bounds(mask: Bool[np.ndarray, "*axes"]) -> tuple[slice, ...]:
    """The range of indices along each axis that holds the whole of a mask that is not empty."""
    others = ([other for other in range(mask.ndim) if other != axis] for axis in range(mask.ndim))
    found = [np.flatnonzero(mask.any(axis=tuple(axes))) for axes in others]
    return tuple(slice(int(indices[0]), int(indices[-1]) + 1) for indices in found)


def _sides(box: Rectangle) -> tuple[float, float]:
    """Width and height."""
    return box[2] - box[0], box[3] - box[1]


def _area(box: Rectangle) -> float:
    width, height = _sides(box)
    return width * height


def _intersection(box: Rectangle, other: Rectangle) -> float:
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


def _least(box: Rectangle) -> tuple[float, float]:
    """The shortest sides (width, height) that a box made of this one may have."""
    width, height = _sides(box)
    return min(width, 1.0), min(height, 1.0)


def _within(wanted: Rectangle, origin: Rectangle, size: tuple[int, int]) -> Rectangle:
    """The wanted box cut to the picture, and no shorter than a box made of ``origin`` may be."""
    x0, y0, x1, y1 = wanted
    (height, width), (narrow, low) = size, _least(origin)
    left, right = _cut(x0, x1, width - 0.5, narrow)
    top, bottom = _cut(y0, y1, height - 0.5, low)
    return left, top, right, bottom


def _cut(start: float, end: float, last: float, least: float) -> tuple[float, float]:
    """A range cut to -0.5..last; if too little is left, the least around its middle, moved inside."""
    start, end = max(start, -0.5), min(end, last)
    if end - start >= least:
        return start, end
    start = min(max((start + end - least) / 2, -0.5), last - least)
    return start, min(start + least, last)


def _moved_until(
    measure: Callable[[Rectangle, Rectangle], float],
    what: str,
    box: Rectangle,
    wanted: float,
    rng: np.random.Generator,
    size: tuple[int, int],
) -> Rectangle:
    """A box on the way to a random other one, where the measure has fallen from 1 to the wanted value."""
    _check_box(box, size)
    for end in _ends(box, rng, size):
        if measure(box, end) <= wanted:
            return _on_the_way(measure, box, end, wanted, size)
    raise InputError(
        f"no box with {what} of {wanted:g} to the box {box} fits into a picture of {size} pixels (height, width): "
        "the object fills too much of it; ask for more overlap, or leave the object out"
    )


def _ends(box: Rectangle, rng: np.random.Generator, size: tuple[int, int]) -> Iterator[Rectangle]:
    """Boxes to move towards: random ones, then those that overlap the least that the picture allows."""
    sides, centre = np.array(_sides(box)), (np.array(box[:2]) + box[2:]) / 2
    for _ in range(_DRAWS):
        middle = centre + rng.uniform(-1, 1, 2) * sides
        half = 2 ** rng.uniform(-1, 1, 2) * sides / 2
        (x0, y0), (x1, y1) = (middle - half).tolist(), (middle + half).tolist()
        yield _within((x0, y0, x1, y1), box, size)
    height, width = size
    yield -0.5, -0.5, width - 0.5, height - 0.5
    for x in (-0.5, width - 0.5):
        for y in (-0.5, height - 0.5):
            yield _within((x, y, x, y), box, size)


def _on_the_way(
    measure: Callable[[Rectangle, Rectangle], float],
    box: Rectangle,
    end: Rectangle,
    wanted: float,
    size: tuple[int, int],
) -> Rectangle:
    """The box between two, found by halving, at which the measure has the wanted value."""

    def at(share: float) -> Rectangle:
        x0, y0, x1, y1 = (a + share * (b - a) for a, b in zip(box, end, strict=True))
        return _within((x0, y0, x1, y1), box, size)

    near, far = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (near + far) / 2
        if measure(box, at(middle)) > wanted:
            near = middle
        else:
            far = middle
    return at(far)


def _check_mask(mask: Bool[np.ndarray, "*axes"], axes: int = 3) -> None:
    if mask.dtype != np.bool_ or mask.ndim != axes or mask.size == 0:
        names = ("slices", "height", "width")[-axes:]
        raise ValueError(f"a mask is bool ({', '.join(names)}) with voxels, not {mask.dtype} of shape {mask.shape}")


def _check_pair(predicted: ObjectMask, reference: ObjectMask) -> None:
    _check_mask(predicted)
    _check_mask(reference)
    if predicted.shape != reference.shape:
        raise ValueError(f"the prediction has the shape {predicted.shape}, but the reference {reference.shape}")


def _check_count(what: str, count: int) -> None:
    if count < 1:
        raise ValueError(f"the number of {what} is at least 1, not {count}")


def _check_spacing(spacing: tuple[float, ...], axes: int) -> None:
    if len(spacing) != axes or not all(math.isfinite(step) and step > 0 for step in spacing):
        raise ValueError(f"a spacing is {axes} positive numbers, along the axes of the array, not {spacing}")


def _check_amount(what: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"the {what} is 0 or more, not {value}")


def _check_overlap(what: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"the {what} is above 0 and at most 1, not {value}")


def _check_box(box: Rectangle, size: tuple[int, int]) -> None:
    height, width = size
    x0, y0, x1, y1 = box
    if not (-0.5 <= x0 < x1 <= width - 0.5 and -0.5 <= y0 < y1 <= height - 0.5):
        raise ValueError(
            f"a box is x0 < x1 between -0.5 and {width - 0.5} and y0 < y1 between -0.5 and {height - 0.5}, "
            f"the edges of the picture, not {box}"
        )
