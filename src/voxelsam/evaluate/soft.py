"""Probability maps that ``predict --save-probabilities`` wrote beside the masks, for scores of soft masks."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from voxelsam import checks
from voxelsam.formats import read
from voxelsam.space.grid import Grid
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.pair import check_grids

FOLDER = "probabilities"
"""Beside the masks."""

Map = Float32[np.ndarray, "i j k"]
"""Of one structure, 0 to 1."""


def map_path(prediction: Path, case: str, name: str) -> Path:
    """Where the map of a structure lies, if there is one.

    Args:
        prediction: the mask's file.
        case: the case's id.
        name: of the structure.
    """
    return prediction.parent / FOLDER / f"{case}_{re.sub(r'[^A-Za-z0-9.-]+', '_', name)}.nii.gz"


def probability_maps(prediction: Path, case: str, labels: Labels, grid: Grid) -> dict[int, Map]:
    """Maps by label value, of those structures that have one.

    Args:
        prediction: the mask's file.
        case: the case's id.
        labels: the table.
        grid: of the reference.

    Raises:
        GeometryError: a map lies elsewhere.
        InputError: a map cannot be read.
    """
    maps = {}
    for name in labels.names:
        path = map_path(prediction, case, name)
        if path.is_file():
            with checks.watching(("VAL-02",)):  # a map of an absent structure is 0 everywhere
                volume = read(path)
            check_grids(grid, volume.grid, "the reference", str(path))
            maps[labels.values[name]] = np.asarray(volume.data[0], np.float32)
    return maps


def soft(maps: Mapping[int, Map], value: int | tuple[int, ...]) -> Map | None:
    """The map of a class or region: the sum over its values; None unless every value has a map."""
    values = value if isinstance(value, tuple) else (value,)
    if not all(each in maps for each in values):
        return None
    return np.minimum(np.sum([maps[each] for each in values], axis=0, dtype=np.float32), np.float32(1))
