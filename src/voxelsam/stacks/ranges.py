"""What the training scans were like, and whether another scan is like them.

Distances and sizes are those of the slices: canonical i (right on a slice), j (down) and k (between slices), before any
resampling. Intensities are quantiles of the whole image on the scale that the model sees, 0…1.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from voxelsam.config import STRICT
from voxelsam.space import Grid, canonical, plane_of
from voxelsam.space.orientation import Plane
from voxelsam.stacks.intensity import Intensity
from voxelsam.types import Pixels

LEVELS = (0.5, 5.0, 25.0, 50.0, 75.0, 95.0, 99.5)
"""Quantiles that are compared, in percent."""

SPACING = 1.5
"""A spacing this many times below the smallest or above the largest of training is outside."""
SIZE = 2.0
"""The same for the number of columns, rows and slices."""
VOLUME = 2.0
"""The same for the volume of a structure."""
INTENSITY = 0.15
"""A quantile this far beyond those of training, on the scale 0…1, is outside."""

_SAMPLE = 2**20
"""About so many voxels of a channel are enough for its quantiles."""

_AXES = ("columns", "rows", "slices")

Quantiles = tuple[tuple[float, ...], ...]
"""Per channel, one value per level."""


@dataclass(frozen=True)
class Span:
    """The least, the median and the greatest of some numbers."""

    __pydantic_config__ = STRICT

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Span":
        """Of at least one number."""
        return cls(float(min(values)), float(np.median(values)), float(max(values)))

    def within(self, value: float, factor: float) -> bool:
        """Whether a number is at most that many times below or above all of them."""
        return self.low / factor <= value <= self.high * factor


@dataclass(frozen=True)
class Look:
    """What one scan is like."""

    spacing: tuple[float, float, float]
    """Millimetres along canonical i, j, k."""
    size: tuple[int, int, int]
    """Columns, rows and slices."""
    intensity: Quantiles
    """On the scale that the model sees; empty: not measured."""
    along_k: Literal["space", "time", "single"] = "space"


@dataclass(frozen=True)
class Ranges:
    """What the training scans were like; a part of the bundle's description."""

    __pydantic_config__ = STRICT

    cases: int
    spacing: tuple[Span, Span, Span]
    size: tuple[Span, Span, Span]
    intensity: tuple[tuple[Span, ...], ...] = ()
    """Per channel and level; empty: not measured."""
    volume: dict[str, Span] = field(default_factory=dict)
    """Per structure, millilitres, over the cases that show it."""
    shown: dict[str, int] = field(default_factory=dict)
    """How many cases show each structure."""

    @classmethod
    def of(cls, looks: Sequence[Look], volumes: Sequence[Mapping[str, float]]) -> "Ranges":
        """The ranges of some scans.

        Args:
            looks: one per case, at least one.
            volumes: for each case the millilitres of each structure, 0 where it is not shown.
        """
        i, j, k = (Span.of([look.spacing[axis] for look in looks]) for axis in range(3))
        columns, rows, slices = (Span.of([look.size[axis] for look in looks]) for axis in range(3))
        measured = [look.intensity for look in looks if look.intensity]
        intensity: tuple[tuple[Span, ...], ...] = ()
        if len(measured) == len(looks):
            intensity = tuple(
                tuple(Span.of(values) for values in zip(*channel, strict=True))
                for channel in zip(*measured, strict=True)
            )
        found: dict[str, list[float]] = {}
        for case in volumes:
            for name, millilitres in case.items():
                found.setdefault(name, []).extend([millilitres] if millilitres > 0 else [])
        return cls(
            len(looks),
            (i, j, k),
            (columns, rows, slices),
            intensity,
            {name: Span.of(values) for name, values in found.items() if values},
            {name: len(values) for name, values in found.items()},
        )

    def outside(self, look: Look, channels: Sequence[str]) -> dict[str, str]:
        """In what a scan is unlike those of training: what is meant, and the sentence that says it.

        Args:
            look: of the scan.
            channels: their names.
        """
        axes = range(2 if look.along_k == "time" else 3)
        told = {}
        for axis in axes:
            if not self.spacing[axis].within(look.spacing[axis], SPACING):
                told[f"spacing of {_AXES[axis]}"] = (
                    f"{_AXES[axis]} lie {look.spacing[axis]:.3g} mm apart, {_had(self.spacing[axis], ' mm')}"
                )
            if not self.size[axis].within(look.size[axis], SIZE):
                told[f"number of {_AXES[axis]}"] = f"{look.size[axis]} {_AXES[axis]}, {_had(self.size[axis])}"
        for name, values, spans in zip(channels, look.intensity, self.intensity, strict=False):
            if text := _strange(values, spans):
                told[f"intensities of {name}"] = f"intensities of {name}: {text}"
        return told

    def odd_volume(self, name: str, millilitres: float) -> str:
        """Why the volume of a structure is unlike those of training; empty if it is not, or nothing is known.

        Args:
            name: of the structure.
            millilitres: its volume, 0 where it is absent.
        """
        if name not in self.volume:
            return ""
        if millilitres == 0:
            every = self.shown[name] == self.cases
            return f"{name} is absent, but each of the {self.cases} training cases shows it" if every else ""
        if self.volume[name].within(millilitres, VOLUME):
            return ""
        return f"{name} has {millilitres:.3g} ml, {_had(self.volume[name], ' ml')}"


def look(grid: Grid, quantiles: Quantiles, plane: Plane | Literal["auto"], intensity: Intensity) -> Look:
    """What a scan is like.

    Args:
        grid: of the scan.
        quantiles: of its values, as ``measure`` gives them.
        plane: of the slices; ``auto`` is the scan's own.
        intensity: how the model's scale follows from the values.

    Raises:
        GeometryError: the grid cannot be seen in that plane.
    """
    target = canonical(grid, plane_of(grid) if plane == "auto" else plane).target
    return Look(target.spacing, target.shape, seen(quantiles, intensity), grid.along_k)


def measure(data: Pixels) -> Quantiles:
    """Quantiles of each channel at ``LEVELS``, over evenly spread voxels where there are many."""
    step = max(1, math.ceil((data[0].size / _SAMPLE) ** (1 / 3)))
    thin = data[:, ::step, ::step, ::step]
    return tuple(tuple(np.percentile(channel, LEVELS).tolist()) for channel in thin)


def seen(quantiles: Quantiles, intensity: Intensity) -> Quantiles:
    """Quantiles on the model's scale, 0…1.

    Where the scale is the same for every scan (``window``, ``unit``, ``zscore`` of a data set) it is exactly that;
    where each scan has its own, it is the range between the scan's 0.5 % and 99.5 % quantiles.
    """
    return tuple(_scaled(values, *(_fixed(intensity) or (values[0], values[-1]))) for values in quantiles)


def _fixed(intensity: Intensity) -> tuple[float, float] | None:
    low, high = intensity.limits
    if low is None or high is None or intensity.kind == "percentile":
        return None
    if intensity.kind != "zscore":
        return low, high
    if intensity.mean is None or intensity.std is None:
        return None
    return intensity.mean + low * intensity.std, intensity.mean + high * intensity.std


def _scaled(values: Sequence[float], low: float, high: float) -> tuple[float, ...]:
    span = high - low
    return tuple(min(max((value - low) / span, 0.0), 1.0) if span > 0 else 0.0 for value in values)


def _strange(values: Sequence[float], spans: Sequence[Span]) -> str:
    """The quantile that lies farthest beyond those of training, if it lies too far."""
    beyond = [max(span.low - value, value - span.high) for value, span in zip(values, spans, strict=True)]
    worst = int(np.argmax(beyond))
    if beyond[worst] <= INTENSITY:
        return ""
    return f"the {LEVELS[worst]:g} % quantile is {values[worst]:.2f} on the model's scale, {_had(spans[worst])}"


def _had(span: Span, unit: str = "") -> str:
    return f"training had {span.low:.3g} to {span.high:.3g}{unit} (median {span.middle:.3g})"
