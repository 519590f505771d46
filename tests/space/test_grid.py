import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxelsam.errors import GeometryError
from voxelsam.space import Grid, VoxelBox

quick = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def random_grid(seed: int) -> Grid:
    """Oblique, sheared, anisotropic up to 10:1, either handedness."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.normal(size=(3, 3)))[0] @ (np.eye(3) + np.triu(rng.uniform(-0.3, 0.3, (3, 3)), 1))
    affine = np.eye(4)
    affine[:3, :3] = directions * rng.uniform(0.5, 5, 3)
    affine[:3, 3] = rng.uniform(-300, 300, 3)
    return Grid(tuple(rng.integers(1, 40, 3).tolist()), affine)


@quick
@given(seeds)
def test_index_to_world_to_index_is_the_identity(seed: int) -> None:
    grid = random_grid(seed)
    index = np.random.default_rng(seed).uniform(-50, 500, (20, 3))
    np.testing.assert_allclose(grid.to_index(grid.to_world(index)), index, atol=1e-8)


@quick
@given(seeds)
def test_world_agrees_with_the_homogeneous_product(seed: int) -> None:
    grid = random_grid(seed)
    index = np.random.default_rng(seed).integers(0, 50, (5, 3))
    expected = (grid.affine @ np.c_[index, np.ones(5)].T).T[:, :3]
    np.testing.assert_allclose(grid.to_world(index), expected, atol=1e-9)


@quick
@given(seeds)
def test_a_crop_keeps_every_voxel_where_it_was(seed: int) -> None:
    grid = random_grid(seed)
    rng = np.random.default_rng(seed)
    start = tuple(int(rng.integers(0, count)) for count in grid.shape)
    stop = tuple(int(rng.integers(low + 1, count + 1)) for low, count in zip(start, grid.shape, strict=True))
    box = VoxelBox(start, stop)
    cropped = grid.crop(box)
    assert np.empty(grid.shape)[box.slices()].shape == box.shape == cropped.shape
    np.testing.assert_allclose(cropped.to_world(np.zeros((1, 3))), grid.to_world(np.array([start])), atol=1e-9)
    np.testing.assert_array_equal(cropped.affine[:3, :3], grid.affine[:3, :3])


@pytest.mark.parametrize(
    ("columns", "axes"),
    [
        (((1, 0, 0), (0, 1, 0), (0, 0, 1)), "RAS"),
        (((-1, 0, 0), (0, -1, 0), (0, 0, 1)), "LPS"),
        (((0, -1, 0), (0, 0, -1), (-1, 0, 0)), "PIL"),
        (((-1, 0.2, 0), (0.1, 0.3, -1), (0, 1, 0.4)), "LIA"),
    ],
)
def test_axes_name_the_closest_patient_direction(columns: tuple[tuple[float, ...], ...], axes: str) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.array(columns).T * (0.5, 1, 8)
    assert Grid((2, 2, 2), affine).axes == axes


def test_spacing_and_volume_come_from_the_affine() -> None:
    affine = np.array([[0, -0.5, 0, 3], [2.0, 0, 0, 4], [0, 0, 7, 5], [0, 0, 0, 1]])
    grid = Grid((4, 5, 6), affine)
    assert grid.spacing == (2, 0.5, 7)
    assert grid.voxel_volume == pytest.approx(7)


def test_shear_is_the_cosine_between_two_axes() -> None:
    affine = np.diag([2.0, 3, 4, 1])
    assert Grid((2, 2, 2), affine).shear == 0
    affine[0, 2] = 4 * np.tan(np.radians(15))
    assert Grid((2, 2, 2), affine).shear == pytest.approx(np.sin(np.radians(15)))


def test_corners_are_the_centres_of_the_outermost_voxels() -> None:
    corners = Grid((3, 1, 5), np.diag([2.0, 2, 10, 1])).corners()
    assert {tuple(corner) for corner in corners} == {(x, 0.0, z) for x in (0.0, 4.0) for z in (0.0, 40.0)}


def test_displacement_is_the_largest_corner_distance() -> None:
    grid = Grid((11, 11, 11), np.eye(4))
    stretched = np.diag([1.05, 1, 1, 1])
    stretched[1, 3] = 0.3
    other = Grid((11, 11, 11), stretched)
    assert grid.displacement(other) == pytest.approx(np.hypot(0.5, 0.3))
    assert other.displacement(grid) == pytest.approx(np.hypot(0.5, 0.3))
    assert not grid.same_place(other)
    assert grid.same_place(other, tolerance_mm=0.6)
    assert grid.same_place(grid, tolerance_mm=0.0)


def test_other_shapes_are_never_the_same_place() -> None:
    assert Grid((3, 3, 3), np.eye(4)).displacement(Grid((3, 3, 4), np.eye(4))) == float("inf")


def test_the_affine_is_a_read_only_copy() -> None:
    given_affine = np.eye(4)
    grid = Grid((2, 2, 2), given_affine)
    given_affine[0, 0] = 9
    assert grid.affine[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 0] = 2


def test_a_grid_survives_pickling() -> None:
    grid = random_grid(1)
    again = pickle.loads(pickle.dumps(grid))  # noqa: S301
    assert grid.displacement(again) == 0


@pytest.mark.usefixtures("unchecked")
def test_shape_and_affine_become_plain_integers_and_float64() -> None:
    grid = Grid(tuple(np.array([2, 3, 4])), np.eye(4, dtype=np.float32).tolist())  # type: ignore[arg-type]
    assert [type(count) for count in grid.shape] == [int] * 3
    assert grid.affine.dtype == np.float64


@pytest.mark.parametrize("shape", [(2, 2, 0), (2, 2, -1)])
def test_a_shape_without_voxels_is_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(GeometryError, match="three whole voxel counts"):
        Grid(shape, np.eye(4))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shape", [(2, 2), (2, 2, 2, 2), (2, 2, 2.5)])
def test_a_shape_that_is_not_three_counts_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(GeometryError, match="three whole voxel counts"):
        Grid(shape, np.eye(4))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_matrix_with_holes_is_refused(value: float) -> None:
    affine = np.eye(4)
    affine[1, 3] = value
    with pytest.raises(GeometryError, match="finite 4 × 4"):
        Grid((2, 2, 2), affine)


@pytest.mark.parametrize("value", [1e10, -1e300])
def test_places_beyond_the_world_are_refused(value: float) -> None:
    affine = np.eye(4)
    affine[1, 3] = value
    with pytest.raises(GeometryError, match="counts in mm"):
        Grid((2, 2, 2), affine)


@pytest.mark.usefixtures("unchecked")
def test_a_matrix_of_another_size_is_refused() -> None:
    with pytest.raises(GeometryError, match="finite 4 × 4"):
        Grid((2, 2, 2), np.eye(3))


def test_another_last_row_is_refused() -> None:
    affine = np.eye(4)
    affine[3, 0] = 1
    with pytest.raises(GeometryError, match="last row"):
        Grid((2, 2, 2), affine)


@pytest.mark.parametrize("third", [(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1e-9)])
def test_axes_in_one_plane_are_refused(third: tuple[float, ...]) -> None:
    affine = np.eye(4)
    affine[:3, 2] = third
    with pytest.raises(GeometryError, match="span no volume"):
        Grid((2, 2, 2), affine)


def test_tiny_and_huge_voxels_are_no_reason_to_refuse() -> None:
    assert Grid((2, 2, 2), np.diag([1e-4, 1e-4, 1e4, 1])).spacing == pytest.approx((1e-4, 1e-4, 1e4))


def test_a_single_image_has_one_slice() -> None:
    assert Grid((4, 4, 1), np.eye(4), "single").along_k == "single"
    with pytest.raises(GeometryError, match="one slice"):
        Grid((4, 4, 2), np.eye(4), "single")


@pytest.mark.parametrize(("start", "stop"), [((0, 0, 0), (1, 1, 0)), ((-1, 0, 0), (1, 1, 1)), ((2, 0, 0), (1, 1, 1))])
def test_an_empty_or_negative_box_is_refused(start: tuple[int, int, int], stop: tuple[int, int, int]) -> None:
    with pytest.raises(GeometryError, match="start < stop"):
        VoxelBox(start, stop)


def test_a_crop_beyond_the_grid_is_refused() -> None:
    with pytest.raises(GeometryError, match="does not fit"):
        Grid((2, 2, 2), np.eye(4)).crop(VoxelBox((0, 0, 0), (2, 3, 2)))
