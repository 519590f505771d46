"""Which of a header's three geometries counts, and what is said when they disagree."""

import nibabel
import numpy as np
import pytest

from voxelsam.errors import GeometryError, InputWarning
from voxelsam.formats import read, read_labels


def turned(affine: np.ndarray) -> np.ndarray:
    return affine @ np.diag([1.0, -1, -1, 1])


def test_the_sform_wins_and_the_contradiction_is_told(make, scan, oblique) -> None:
    path = make(scan, oblique, qform=2)
    quaternion = nibabel.Nifti1Header()
    quaternion.set_qform(turned(oblique))
    path = make(scan, oblique, **{f: quaternion[f] for f in ("quatern_b", "quatern_c", "quatern_d")})
    with pytest.warns(InputWarning, match=r"GEO-04: .*scan.nii.gz: sform and qform differ by up to \d+.* mm; the"):
        volume = read(path)
    np.testing.assert_allclose(volume.grid.affine, oblique, atol=1e-5)


@pytest.mark.parametrize("codes", [(1, 1), (2, 1), (1, 4), (4, 2)])
def test_codes_do_not_choose_between_forms(make, scan, oblique, codes) -> None:
    path = make(scan, oblique, sform=codes[0], qform=codes[1], qoffset_x=500)
    with pytest.warns(InputWarning, match="GEO-04"):
        assert abs(read(path).grid.affine[0, 3] - oblique[0, 3]) < 1e-4


def test_a_difference_below_half_a_millimetre_says_nothing(make, scan, oblique) -> None:
    read(make(scan, oblique, qoffset_x=oblique[0, 3] + 0.4))


def test_the_qform_counts_where_there_is_no_sform(make, scan, oblique) -> None:
    volume = read(make(scan, oblique, sform=0, srow_x=[9, 9, 9, 9]))
    np.testing.assert_allclose(volume.grid.affine, oblique, atol=1e-5)


def test_no_orientation_is_told(make, scan, oblique) -> None:
    with pytest.warns(InputWarning, match=r"GEO-05: .*scan.nii.gz: .*no orientation"):
        volume = read(make(scan, oblique, sform=0, qform=0))
    np.testing.assert_allclose(volume.grid.spacing, (0.7, 0.9, 2.5), atol=1e-6)


@pytest.mark.parametrize("size", [0.0, -1.0, np.nan])
@pytest.mark.parametrize("codes", [(0, 0), (0, 1)])
def test_voxel_sizes_that_are_needed_must_be_positive(make, scan, oblique, size, codes) -> None:
    path = make(scan, oblique, sform=codes[0], qform=codes[1], pixdim=[1, 1, size, 1, 1, 1, 1, 1])
    with pytest.raises(GeometryError, match=r"scan.nii.gz") as caught:
        read(path)
    assert caught.value.code == "GEO-05"


@pytest.mark.parametrize("row", [[0, 0, 0, 5], [np.nan, 0, 0, 0], [np.inf, 0, 0, 0]])
def test_a_singular_sform_is_refused_even_beside_a_good_qform(make, scan, oblique, row) -> None:
    with pytest.raises(GeometryError, match=r"scan.nii.gz") as caught:
        read(make(scan, oblique, srow_x=row))
    assert caught.value.code == "GEO-05"


def test_a_broken_qform_is_refused_where_it_is_needed_and_told_where_not(make, scan, oblique) -> None:
    broken = {"quatern_b": 1.0, "quatern_c": 1.0, "quatern_d": 1.0}
    with pytest.raises(GeometryError, match="qform cannot be used"):
        read(make(scan, oblique, sform=0, **broken))
    with pytest.warns(InputWarning, match="GEO-04: .*the sform is used"):
        read(make(scan, oblique, **broken))


def test_voxel_sizes_that_contradict_the_sform_are_told(make, scan) -> None:
    path = make(scan, np.diag([2.0, 2, 2, 1]), qform=0, pixdim=[1, 1, 1, 1, 1, 1, 1, 1])
    with pytest.warns(InputWarning, match="GEO-04: .*voxel sizes 1 × 1 × 1 mm contradict"):
        assert read(path).grid.spacing == (2.0, 2.0, 2.0)


@pytest.mark.parametrize("reader", [read, read_labels])
def test_shear_is_kept_and_told(make, scan, reader) -> None:
    sheared = np.eye(4)
    sheared[0, 2] = 0.3
    with pytest.warns(InputWarning, match=r"GEO-03: .* not at right angles \(off by 17 degrees\)"):
        result = reader(make(scan, sheared, qform=0))
    np.testing.assert_allclose(result.grid.affine, sheared, atol=1e-6)


def test_rounding_of_directions_is_no_shear(make, scan) -> None:
    nearly = np.eye(4)
    nearly[0, 2] = 1e-4
    read(make(scan, nearly))


@pytest.mark.parametrize("axes", ["LPS", "RAS", "PIR", "SAL"])
def test_any_axis_order_is_taken_as_it_is(make, scan, axes) -> None:
    directions = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    affine = nibabel.affines.from_matvec(np.array([directions[axis] for axis in axes], float).T, (4, 5, 6))
    volume = read(make(scan, affine))
    assert volume.grid.axes == axes
    np.testing.assert_array_equal(volume.data[0], scan)


@pytest.mark.parametrize(("unit", "name"), [(1, "metres"), (3, "micrometres")])
def test_units_other_than_millimetres_are_told(make, scan, unit, name) -> None:
    with pytest.warns(InputWarning, match=f"GEO-08: .*the header counts in {name}"):
        read(make(scan, xyzt_units=unit))


@pytest.mark.parametrize("spacing", [0.001, 50.0])
def test_implausible_spacing_is_told(make, scan, spacing) -> None:
    with pytest.warns(InputWarning, match="GEO-08: .*a voxel spacing"):
        read(make(scan, np.diag([spacing, 1, 1, 1])))
