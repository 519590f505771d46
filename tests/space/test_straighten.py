from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxelsam.space import PLANES, Grid, Plane, canonical, resample
from voxelsam.space.straighten import nearest_rotation, right_angled, straightened

quick = settings(max_examples=40, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
ORDERS = [(order, flips) for order in permutations(range(3)) for flips in product((1, -1), repeat=3)]


def tilted(
    degrees: float,
    *,
    spacing: tuple[float, float, float] = (0.8, 0.7, 3.0),
    shape: tuple[int, int, int] = (9, 11, 8),
    sideways: float = 0.0,
    seed: int = 0,
) -> Grid:
    """Right-angled slices, each shifted along its columns (and, sideways, along its rows); oblique in the room."""
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    lean = np.eye(3)
    lean[1, 2] = np.tan(np.radians(degrees))
    lean[0, 2] = np.tan(np.radians(sideways))
    affine = np.eye(4)
    affine[:3, :3] = turn @ lean * spacing
    affine[:3, 3] = (12, -40, 300)
    return Grid(shape, affine)


def inside(grid: Grid, world: np.ndarray, slack: float = 0.0) -> np.ndarray:
    index = grid.to_index(world)
    return ((index >= -0.5 - slack) & (index <= np.asarray(grid.shape) - 0.5 + slack)).all(axis=1)


def every(grid: Grid) -> np.ndarray:
    return grid.to_world(np.indices(grid.shape).reshape(3, -1).T)


def test_a_tilted_scan_by_value() -> None:
    """3 mm along the slanted axis at 60 degrees: slices are 1.5 mm apart."""
    grid = Grid((4, 6, 3), np.array([[1, 0, 0, 0], [0, 2, 1.5 * 3**0.5, 0], [0, 0, 1.5, 0], [0, 0, 0, 1.0]]))
    assert grid.spacing[2] == pytest.approx(3)
    right = straightened(grid)
    assert right.spacing == pytest.approx((1, 2, 1.5))
    np.testing.assert_allclose(right.affine[:3, :3], np.diag([1, 2, 1.5]), atol=1e-12)
    assert right.shape == (4, 10, 3)  # 12 mm of columns, which lean by 3 x 2.6 mm, in steps of 2 mm
    np.testing.assert_allclose(right.to_index(grid.to_world(np.array([[2, 3, 1]]))), [[2, 5, 1]], atol=1e-9)


@quick
@given(st.floats(-40, 40), st.floats(-20, 20), seeds)
def test_slices_of_a_tilted_scan_stay_slices(degrees: float, sideways: float, seed: int) -> None:
    grid = tilted(degrees, sideways=sideways, seed=seed)
    right = straightened(grid)
    assert right.shear < 1e-3
    np.testing.assert_allclose(right.affine[:3, :2], grid.affine[:3, :2], atol=1e-9)
    assert right.spacing[2] == pytest.approx(3.0)
    assert right.shape[2] == grid.shape[2]
    seen = right.to_index(every(grid))
    np.testing.assert_allclose(seen[:, 2], np.rint(seen[:, 2]), atol=1e-6)


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize(("order", "flips"), ORDERS)
def test_labels_of_a_tilted_scan_come_back_exactly(
    order: tuple[int, ...], flips: tuple[int, ...], plane: Plane
) -> None:
    """Whatever way round its axes are stored: a slice is only shifted by parts of a voxel, there and back."""
    stored = np.eye(3)[:, order] * flips
    affine = tilted(17.3).affine.copy()
    affine[:3, :3] = affine[:3, :3] @ stored
    grid = Grid((7, 8, 9), affine)
    labels = np.random.default_rng(1).integers(0, 60000, grid.shape).astype(np.uint16)
    place = canonical(grid, plane)
    assert place.reordering is None
    np.testing.assert_array_equal(place.restore(place.bring_labels(labels)), labels)


@quick
@given(st.floats(0.1, 35), seeds)
def test_the_straight_grid_holds_every_voxel(degrees: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid = tilted(degrees, spacing=tuple(rng.uniform(0.5, 5, 3)), shape=tuple(rng.integers(1, 12, 3).tolist()))
    right = straightened(grid)
    assert inside(right, every(grid), 1e-2).all()
    tight = Grid(tuple(count + 2 for count in grid.shape), _before(grid))
    outermost = [
        every(right)[np.indices(right.shape)[axis].ravel() == end]
        for axis in range(3)
        for end in (0, right.shape[axis] - 1)
    ]
    assert all(inside(tight, face, 0.5).any() for face in outermost)


def _before(grid: Grid) -> np.ndarray:
    affine = grid.affine.copy()
    affine[:3, 3] = grid.to_world(np.array([[-1, -1, -1]]))[0]
    return affine


def test_right_angles_are_left_alone() -> None:
    grid = tilted(0)
    assert straightened(grid) is grid
    np.testing.assert_allclose(right_angled(grid), grid.affine[:3, :3], atol=1e-9)
    almost = tilted(0.05)
    assert straightened(almost) is almost
    assert straightened(tilted(0.06)) is not almost


def test_a_general_shear_takes_the_nearest_rotation() -> None:
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) + 0.2 * np.eye(3, k=1) - 0.1 * np.eye(3, k=2)) * (1, 2, 3)
    grid = Grid((5, 6, 7), affine)
    axes = right_angled(grid)
    np.testing.assert_allclose(np.linalg.norm(axes, axis=0), grid.spacing)
    units, own = axes / grid.spacing, affine[:3, :3] / grid.spacing
    np.testing.assert_allclose(units.T @ units, np.eye(3), atol=1e-12)
    for other in (np.eye(3), np.linalg.qr(own)[0] * np.sign(np.diag(np.linalg.qr(own)[1]))):
        assert np.linalg.norm(units - own) <= np.linalg.norm(other - own)


def test_a_mirrored_scan_stays_mirrored() -> None:
    affine = tilted(12).affine.copy()
    affine[:3, 0] *= -1
    grid = Grid((4, 5, 6), affine)
    for axes in (right_angled(grid), nearest_rotation(grid)):
        assert np.sign(np.linalg.det(axes)) == np.sign(np.linalg.det(grid.affine[:3, :3]))


def test_a_tilted_image_is_not_blurred_where_its_slices_are_only_shifted() -> None:
    """Steps along the slanted index are longer than a voxel, though nothing gets coarser."""
    grid = tilted(30, spacing=(1, 0.5, 4), shape=(4, 40, 5))
    stripes = np.zeros((1, *grid.shape), np.int16)
    stripes[0, :, ::2] = 100
    right = straightened(grid)
    seen = resample(stripes, grid, right, fill=0)
    middle = seen[0, 2, :, right.shape[2] // 2]
    assert middle.max() > 90


def test_a_landmark_of_a_tilted_image_stays_in_its_millimetres() -> None:
    grid = tilted(25, spacing=(0.9, 0.6, 5), shape=(12, 30, 6))
    data = np.zeros((1, *grid.shape), np.float32)
    data[0, 4, 17, 2] = 1
    place = canonical(grid, "axial")
    seen = place.bring(data)[0]
    index = np.argwhere(seen > 0)
    centre = (place.target.to_world(index) * seen[tuple(index.T)][:, None]).sum(axis=0) / seen.sum()
    np.testing.assert_allclose(centre, grid.to_world(np.array([[4, 17, 2]]))[0], atol=1e-3)
