"""Facts of one case, measured on voxels that are in memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
from jaxtyping import Bool, Integer, Shaped
from scipy import ndimage

from voxelsam.space.grid import Grid
from voxelsam.volumes.labels import count_values
from voxelsam.volumes.volume import Kind, LabelMap, Volume

SAMPLE = 200_000
"""About how many voxels quantiles are taken from."""

COARSE = 1_000_000
"""About how many voxels the air around a patient is looked for in."""

SPECK = 3
"""Parts of at most so many voxels are specks."""

MAIN = 0.1
"""Parts with at least this share of a structure's voxels are main parts."""

FAR_MM = 10.0
"""Specks nearer than this to a main part's bounding box are left alone."""

AIR_HU = -900.0
"""CT values below this are air; lungs lie above."""

EMPTY = 0.1
"""Share of voxels that the lowest value must have to count as what lies around the patient."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ChannelFacts:
    """Values of one channel."""

    low: float
    high: float
    quantiles: tuple[float, float, float]
    """0.5 %, 50 % and 99.5 %."""
    digest: str
    """Of voxels, shape and type."""


@dataclass(frozen=True)
class ImageFacts:
    """One image."""

    grid: Grid
    kind: Kind
    dtype: str
    channels: tuple[ChannelFacts, ...]
    """Empty where only the header was read."""

    @property
    def digest(self) -> str:
        """Of all channels: equal for equal voxels."""
        return " ".join(channel.digest for channel in self.channels)

    @property
    def flat(self) -> bool:
        """Whether every channel is constant."""
        return bool(self.channels) and all(channel.low == channel.high for channel in self.channels)


@dataclass(frozen=True)
class Speck:
    """A tiny part of a structure, far from its main parts."""

    voxels: int
    apart_mm: float
    """From the nearest bounding box of a main part."""
    at: tuple[int, int, int]
    """Index of one of its voxels."""


@dataclass(frozen=True)
class LabelFacts:
    """One label map."""

    grid: Grid
    counts: Mapping[int, int]
    """Number of voxels of each value, 0 included."""
    digest: str
    specks: Mapping[int, tuple[Speck, ...]] = field(default_factory=dict)
    """Per value, where there are any."""
    outside: Mapping[int, float] = field(default_factory=dict)
    """Per value the share of its voxels in the air around the patient; nothing where that cannot be told."""

    @property
    def empty(self) -> bool:
        """Whether nothing is drawn."""
        return not any(count for value, count in self.counts.items() if value)


@dataclass(frozen=True)
class CaseFacts:
    """One case; image or label is missing where it could not be read."""

    id: str
    image: ImageFacts | None = None
    label: LabelFacts | None = None
    group: str = ""
    """What must stay on one side of a split, as a rule the patient; the id if not given."""
    unlabelled: tuple[str, ...] = ()
    """Structures that nobody looked for in this case."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "group", self.group or self.id)


def measure(
    id: str,  # noqa: A002 - the field's name
    volume: Volume | None,
    label_map: LabelMap | None = None,
    *,
    group: str = "",
    kind: Kind = "UNKNOWN",
    unlabelled: tuple[str, ...] = (),
) -> CaseFacts:
    """Facts of one case.

    Args:
        id: of the case.
        volume: the image, if it could be read.
        label_map: its label map, if it has one.
        group: the patient; the id if not given.
        kind: modality that the data set states, for images that do not say it themselves.
        unlabelled: structures that nobody looked for in this case.
    """
    about = None if volume is None else image_facts(volume, kind)
    label = None if label_map is None else _label_facts(label_map, volume, about)
    return CaseFacts(id, about, label, group, unlabelled)


def image_facts(volume: Volume, kind: Kind = "UNKNOWN") -> ImageFacts:
    """Facts of one image; ``kind`` is for images that do not say it themselves."""
    return ImageFacts(
        volume.grid,
        kind if volume.kind == "UNKNOWN" else volume.kind,
        str(volume.data.dtype),
        tuple(_channel(channel) for channel in volume.data),
    )


def _channel(data: Shaped[np.ndarray, "i j k"]) -> ChannelFacts:
    flat = data.ravel(order="K")
    low, middle, high = np.quantile(flat[:: max(1, flat.size // SAMPLE)], (0.005, 0.5, 0.995))
    return ChannelFacts(float(flat.min()), float(flat.max()), (float(low), float(middle), float(high)), _digest(data))


def _digest(data: Array) -> str:
    content = blake2b(f"{data.shape} {data.dtype}".encode(), digest_size=16)
    content.update(np.ascontiguousarray(data.T).data)
    return content.hexdigest()


def _label_facts(label_map: LabelMap, volume: Volume | None, about: ImageFacts | None) -> LabelFacts:
    data, grid = label_map.data, label_map.grid
    outside: dict[int, float] = {}
    counts = count_values(data)
    values = [value for value in counts if value not in (0, label_map.labels.ignore)]
    if volume is not None and about is not None and volume.grid.shape == grid.shape and values:
        outside = _outside(data, volume, about)
    return LabelFacts(grid, counts, _digest(data), _specks(data, grid, values), outside)


def _specks(data: Integer[np.ndarray, "i j k"], grid: Grid, values: list[int]) -> dict[int, tuple[Speck, ...]]:
    boxes = ndimage.find_objects(data) if values else []
    parts = {value: _parts(data[boxes[value - 1]] == value, _limits(boxes[value - 1])[0], grid) for value in values}
    return {value: specks for value, specks in parts.items() if specks}


def _parts(mask: Bool[np.ndarray, "i j k"], start: Array, grid: Grid) -> tuple[Speck, ...]:
    parts, count = ndimage.label(mask, np.ones((3, 3, 3)))
    if count < 2:
        return ()
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = 0
    main = np.flatnonzero(sizes >= MAIN * sizes.sum())
    tiny = np.flatnonzero((sizes > 0) & (sizes <= SPECK) & (sizes < MAIN * sizes.sum()))
    if not tiny.size or sizes[main].sum() < (1 - MAIN) * sizes.sum():
        return ()
    boxes = ndimage.find_objects(parts)
    spacing = np.array(grid.spacing)
    specks = []
    for number in tiny:
        low, high = _limits(boxes[number - 1])
        gaps = [np.maximum(0, np.maximum(a - high, low - b)) for a, b in (_limits(boxes[n - 1]) for n in main)]
        apart = float(min(np.linalg.norm(gap * spacing) for gap in gaps))
        if apart > FAR_MM:
            i, j, k = (int(value) for value in low + start)
            specks.append(Speck(int(sizes[number]), apart, (i, j, k)))
    return tuple(specks)


def _limits(box: tuple[slice, ...]) -> tuple[Array, Array]:
    """First and last index of a box along each axis."""
    return np.array([side.start for side in box]), np.array([side.stop - 1 for side in box])


def _outside(data: Integer[np.ndarray, "i j k"], volume: Volume, about: ImageFacts) -> dict[int, float]:
    if volume.grid.along_k != "space" or about.flat:
        return {}
    step = max(1, round((data.size / COARSE) ** (1 / 3)))
    thin = tuple(slice(None, None, step if size >= 8 * step else 1) for size in data.shape)
    image, label = volume.data[(slice(None), *thin)], data[thin]
    if about.kind == "CT":
        air = image[0] < AIR_HU
    else:
        air = np.logical_and.reduce([channel == fact.low for channel, fact in zip(image, about.channels, strict=True)])
    if air.mean() < EMPTY:
        return {}
    around = _reaching_sides(air, volume.grid)
    whole, there = count_values(label), count_values(label[around])
    return {value: there.get(value, 0) / count for value, count in whole.items() if value and count > SPECK}


def _reaching_sides(air: Bool[np.ndarray, "i j k"], grid: Grid) -> Bool[np.ndarray, "i j k"]:
    """Air that reaches a side of the scan; its ends towards head and feet are none, because they cut the patient."""
    parts, count = ndimage.label(air)
    around = np.zeros(count + 1, bool)
    touching = [
        np.unique(parts.take((0, -1), axis=axis)) for axis, towards in enumerate(grid.axes) if towards not in "SI"
    ]
    around[np.concatenate(touching)] = True
    around[0] = False
    return np.asarray(around[parts])
