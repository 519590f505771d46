from pathlib import Path

import numpy as np
import pytest

from voxelsam import checks
from voxelsam.errors import GeometryError, InputWarning
from voxelsam.space.grid import Grid
from voxelsam.volumes import LabelMap, Labels, Source, Volume, check_pair

IMAGE = Volume(np.zeros((1, 4, 4, 4)), Grid((4, 4, 4), np.eye(4)), "CT", Source((Path("scan.nii"),), "nifti"))


def label_at(shift: float, shape: tuple[int, int, int] = (4, 4, 4), spacing: float = 1.0) -> LabelMap:
    affine = np.diag([1, 1, spacing, 1.0])
    affine[0, 3] = shift
    source = Source((Path("mask.nii"),), "nifti")
    return LabelMap(np.zeros(shape, np.uint8), Grid(shape, affine), Labels({"background": 0, "a": 1}), source)


@pytest.mark.parametrize("shift", [0.0, 1e-4])
def test_the_same_place_says_nothing(shift: float) -> None:
    check_pair(IMAGE, label_at(shift))


def test_a_small_shift_is_told() -> None:
    with pytest.warns(InputWarning, match=r"GEO-02: mask.nii lies up to 0.4 mm away from scan.nii"):
        check_pair(IMAGE, label_at(0.4))


@pytest.mark.parametrize("label", [label_at(0.6), label_at(0.0, spacing=1.2)])
def test_another_place_is_refused(label: LabelMap) -> None:
    with pytest.raises(GeometryError, match=r"mask.nii.*0.6 mm away from scan.nii") as caught:
        check_pair(IMAGE, label)
    assert caught.value.code == "GEO-02"


def test_another_shape_is_refused() -> None:
    with pytest.raises(GeometryError, match=r"\(4, 4, 5\) voxels, but scan.nii has \(4, 4, 4\)") as caught:
        check_pair(IMAGE, label_at(0.0, (4, 4, 5)))
    assert caught.value.code == "GEO-01"


def test_another_place_can_be_accepted_and_is_kept() -> None:
    with checks.watching({"GEO-02"}) as watch:
        check_pair(IMAGE, label_at(0.6))
    assert [(finding.code, finding.severity) for finding in watch.findings] == [("GEO-02", "warning")]


def test_another_shape_cannot() -> None:
    with checks.watching({"GEO-02"}), pytest.raises(GeometryError, match=r"\(4, 4, 5\) voxels"):
        check_pair(IMAGE, label_at(0.0, (4, 4, 5)))
