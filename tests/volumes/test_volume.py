from pathlib import Path

import numpy as np
import pytest

from voxelsam.errors import GeometryError, LabelError
from voxelsam.space.grid import Grid
from voxelsam.volumes import LabelMap, Labels, Source, Volume

GRID = Grid((3, 4, 5), np.eye(4))
LABELS = Labels({"background": 0, "a": 1})


def test_arrays_that_fit_the_grid() -> None:
    assert Volume(np.zeros((2, 3, 4, 5)), GRID).channels == 2
    assert LabelMap(np.zeros((3, 4, 5), np.uint8), GRID, LABELS).source is None


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 4, 3, 5), (0, 3, 4, 5), (1, 3, 4, 5, 1), (60,)])
def test_images_that_do_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(GeometryError, match=r"scan.nii.*3 × 4 × 5") as caught:
        Volume(np.zeros(shape), GRID, "CT", Source((Path("scan.nii"),), "nifti"))
    assert caught.value.code == "GEO-01"


@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (5, 4, 3), ()])
def test_label_maps_that_do_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(GeometryError, match="3 × 4 × 5"):
        LabelMap(np.zeros(shape, np.uint8), GRID, LABELS)


@pytest.mark.parametrize("dtype", [np.float32, bool])
def test_label_maps_hold_integers(dtype: type) -> None:
    with pytest.raises(LabelError, match="integers"):
        LabelMap(np.zeros((3, 4, 5), dtype), GRID, LABELS)


def test_a_source_names_its_files() -> None:
    assert str(Source((Path("a.nii"), Path("b.nii")), "nifti")) == "a.nii, b.nii"


def test_a_label_map_says_what_made_it_if_anybody_said_so() -> None:
    data = np.zeros((3, 4, 5), np.uint8)
    assert LabelMap(data, GRID, LABELS).author == ""
    assert LabelMap(data, GRID, LABELS, author="voxelsam 0.1.0").author == "voxelsam 0.1.0"
