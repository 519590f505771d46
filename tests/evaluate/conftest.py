"""Small label maps to score."""

import numpy as np
import pytest

from voxelsam.formats import write_labels
from voxelsam.space.grid import Grid
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.volume import LabelMap


@pytest.fixture(scope="session")
def labels():
    return Labels({"background": 0, "liver": 1, "tumour": 7})


@pytest.fixture(scope="session")
def grid():
    affine = np.array([[0, -2.0, 0, 10], [1.5, 0, 0, -20], [0, 0, 3.0, 5], [0, 0, 0, 1]])
    return Grid((6, 5, 4), affine)


@pytest.fixture
def save(labels, grid):
    """Writes an array as a label file."""

    def write(path, data, grid=grid, labels=labels):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_labels(path, LabelMap(np.asarray(data, np.uint8), grid, labels))
        return path

    return write


@pytest.fixture
def pairs(tmp_path, save):
    """Two cases: a perfect one, and one with half of the liver; nobody has a tumour in the second."""
    liver = np.zeros((6, 5, 4), np.uint8)
    liver[:4, :2] = 1
    both = liver.copy()
    both[4:, 3:] = 7
    half = liver.copy()
    half[:2] = 0
    for name, truth, guess in (("a", both, both), ("b", liver, half)):
        save(tmp_path / "truth" / f"{name}.nii.gz", truth)
        save(tmp_path / "guess" / f"{name}.nii.gz", guess)
    return tmp_path / "guess", tmp_path / "truth"
