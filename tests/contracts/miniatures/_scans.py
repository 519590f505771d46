"""Tiny volumes for miniatures, loaded with ``runpy`` because tests are no package."""

from pathlib import Path

import numpy as np

from voxelsam.formats import write_labels, write_volume
from voxelsam.space.grid import Grid
from voxelsam.volumes import LabelMap, Labels, Volume


def grid(number: int) -> Grid:
    """A grid that no other number has."""
    return Grid((4, 5, 3 + number % 3), np.diag([-1.0, 1.5, 2.0 + number / 1000, 1.0]))


def write_scan(path: Path, number: int) -> None:
    """An image on the grid of that number; no other file has its voxels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng([number, *path.name.encode()]).integers(-200, 200, (1, *grid(number).shape), np.int16)
    write_volume(path, Volume(data, grid(number)))


def write_mask(path: Path, number: int, values: tuple[int, ...]) -> None:
    """A label map on the grid of that number that holds each of the values, in turn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = grid(number).shape
    data = np.resize(np.array(values, np.uint8), shape)
    write_labels(path, LabelMap(data, grid(number), Labels.of_values({0, *values})))
