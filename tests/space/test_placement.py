from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxelsam.errors import GeometryError
from voxelsam.space import PLANES, Grid, Placement, Plane, canonical, to_axes

quick = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 2**32 - 1)
planes = st.sampled_from(sorted(PLANES))
Recipe = dict[str, Any]
ORDERS = [(order, flips) for order in permutations(range(3)) for flips in product((1, -1), repeat=3)]


def rotation(seed: int, degrees: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x, y, z = rng.normal(size=3) / np.sqrt(3)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn, _ = np.linalg.qr(np.eye(3) + np.tan(np.radians(degrees)) * cross)
    return turn * np.sign(np.diag(turn))


def grid_of(seed: int, order: tuple[int, ...], flips: tuple[int, ...], *, oblique: float = 0, shear: float = 0) -> Grid:
    """Any axis order and flips, anisotropy up to 10:1, small and uneven shape."""
    rng = np.random.default_rng(seed)
    matrix = rotation(seed, oblique) @ np.eye(3)[:, order] * flips
    matrix = matrix @ (np.eye(3) + shear * np.eye(3, k=1)) * np.array([0.5, 1.3, 5])[rng.permutation(3)]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix, rng.uniform(-200, 200, 3)
    return Grid(tuple(rng.choice([4, 5, 6, 7, 9], 3, replace=False).tolist()), affine)


# what grid_of takes; the grid is built inside the test because run-time checks of annotations draw random numbers
recipes = st.builds(
    lambda seed, way, **slant: {"seed": seed, "order": way[0], "flips": way[1], **slant},
    seeds,
    st.sampled_from(ORDERS),
    oblique=st.floats(0, 30),
    shear=st.floats(0, 0.4),
)


@pytest.mark.parametrize(("order", "flips"), ORDERS)
@pytest.mark.parametrize("plane", PLANES)
def test_every_axis_order_and_flip_becomes_canonical_and_comes_back(
    order: tuple[int, ...], flips: tuple[int, ...], plane: Plane
) -> None:
    source = grid_of(3, order, flips)
    labels = np.random.default_rng(0).integers(0, 60000, source.shape).astype(np.uint16)
    place = canonical(source, plane)
    brought = place.bring_labels(labels)
    assert place.target.axes == PLANES[plane]
    assert brought.shape == place.target.shape
    assert np.shares_memory(brought, labels)
    restored = place.restore(brought)
    assert restored.dtype == labels.dtype
    np.testing.assert_array_equal(restored, labels)


@quick
@given(recipes, planes, seeds)
def test_bring_and_restore_are_exact_on_any_grid_when_nothing_is_resampled(
    recipe: Recipe, plane: Plane, seed: int
) -> None:
    grid = grid_of(**recipe | {"shear": 0})
    place = canonical(grid, plane)
    labels = np.random.default_rng(seed).integers(0, 255, grid.shape).astype(np.uint8)
    assert place.reordering is not None
    np.testing.assert_array_equal(place.restore(place.bring_labels(labels)), labels)
    np.testing.assert_array_equal(place.bring(labels[None])[0], place.bring_labels(labels))


@quick
@given(recipes, planes, seeds)
def test_a_landmark_keeps_its_millimetres(recipe: Recipe, plane: Plane, seed: int) -> None:
    grid = grid_of(**recipe | {"shear": 0})
    place = canonical(grid, plane)
    voxel = tuple(np.random.default_rng(seed).integers(0, grid.shape))
    labels = np.zeros(grid.shape, np.uint8)
    labels[voxel] = 1
    found = np.argwhere(place.bring_labels(labels))
    assert len(found) == 1
    np.testing.assert_allclose(place.target.to_world(found), grid.to_world(np.array([voxel])), atol=1e-9)
    np.testing.assert_allclose(place.to_target(np.array([voxel])), found, atol=1e-9)
    np.testing.assert_allclose(place.to_source(found), [voxel], atol=1e-9)


@quick
@given(recipes, planes, st.tuples(*[st.sampled_from([None, 0.7, 1.0, 2.3])] * 3))
def test_resampled_voxels_stay_within_one_voxel(
    recipe: Recipe, plane: Plane, spacing: tuple[float | None, float | None, float | None]
) -> None:
    grid = grid_of(**recipe)
    place = canonical(grid, plane, spacing)
    names = np.arange(1, np.prod(grid.shape) + 1, dtype=np.int32).reshape(grid.shape)
    brought = place.bring_labels(names)
    found = np.argwhere(brought)
    origin = np.stack(np.unravel_index(brought[tuple(found.T)] - 1, grid.shape), axis=1)
    assert np.abs(place.to_source(found) - origin).max() <= 0.5 + 1e-6

    restored = place.restore(brought)
    at = np.argwhere(restored)
    origin = np.stack(np.unravel_index(restored[tuple(at.T)] - 1, grid.shape), axis=1)
    off = np.linalg.norm(grid.to_world(at) - grid.to_world(origin), axis=1)
    half_diagonals = [np.abs(g.affine[:3, :3]).sum(axis=1) / 2 for g in (grid, place.target)]
    assert off.max() <= np.linalg.norm(np.sum(half_diagonals, axis=0)) + 1e-6


@quick
@given(recipes, planes, st.tuples(*[st.sampled_from([None, 0.7, 1.0, 2.3, 20.0])] * 3))
def test_the_target_covers_every_source_voxel(
    recipe: Recipe, plane: Plane, spacing: tuple[float | None, float | None, float | None]
) -> None:
    grid = grid_of(**recipe)
    place = canonical(grid, plane, spacing)
    every = np.indices(grid.shape).reshape(3, -1).T
    seen = place.to_target(every)
    assert (seen >= -0.5 - 1e-2).all()
    assert (seen <= np.array(place.target.shape) - 0.5 + 1e-2).all()
    full = np.ones(grid.shape, np.uint8)
    if grid.shear < 1e-3:
        assert place.restore(place.bring_labels(full)).all()


@quick
@given(recipes, planes)
def test_fine_resampling_and_back_is_the_identity(recipe: Recipe, plane: Plane) -> None:
    grid = grid_of(**recipe)
    step = min(grid.spacing) / 3
    place = canonical(grid, plane, (step, step, step))
    labels = np.random.default_rng(0).integers(1, 250, grid.shape).astype(np.uint8)
    np.testing.assert_array_equal(place.restore(place.bring_labels(labels)), labels)


@pytest.mark.parametrize("plane", PLANES)
def test_a_sheared_source_is_straightened_and_keeps_the_size_of_voxels(plane: Plane) -> None:
    source = grid_of(0, (0, 1, 2), (1, 1, 1), shear=0.3)
    assert source.shear > 0.2
    place = canonical(source, plane)
    assert place.reordering is None
    assert place.target.shear < 1e-9
    assert place.target.axes == PLANES[plane]
    assert place.target.voxel_volume == pytest.approx(source.voxel_volume)
    respaced = canonical(source, plane, (1.0, None, None)).target
    assert respaced.shear < 1e-9
    assert respaced.spacing[0] == pytest.approx(1)


@quick
@given(recipes, planes, seeds)
def test_labels_of_a_sheared_source_come_back_onto_its_own_voxels(recipe: Recipe, plane: Plane, seed: int) -> None:
    """A label never moves further than half a voxel of each of the two grids."""
    grid = grid_of(**recipe)
    place = canonical(grid, plane)
    labels = np.random.default_rng(seed).integers(1, 60000, grid.shape).astype(np.uint16)
    restored = place.restore(place.bring_labels(labels))
    assert (restored.shape, restored.dtype) == (labels.shape, labels.dtype)
    reach = sum(np.linalg.norm(np.abs(g.affine[:3, :3]).sum(axis=1)) / 2 for g in (grid, place.target))
    for voxel in np.argwhere(restored != labels)[:20]:
        same = np.argwhere(labels == restored[tuple(voxel)])
        assert np.linalg.norm(grid.to_world(same) - grid.to_world(voxel[None]), axis=1).min() <= reach


def test_a_sheared_film_keeps_its_frames() -> None:
    affine = np.diag([-1.0, -1, 1, 1])
    affine[0, 2] = 0.5
    assert canonical(Grid((8, 9, 3), affine, "time"), "axial").reordering is not None


@quick
@given(recipes, planes)
def test_the_given_spacing_is_met_and_the_rest_kept(recipe: Recipe, plane: Plane) -> None:
    grid = grid_of(**recipe)
    own = canonical(grid, plane).target.spacing
    target = canonical(grid, plane, (0.9, None, 3.0)).target
    assert target.spacing == pytest.approx((0.9, own[1], 3))
    assert target.axes == PLANES[plane]


@pytest.mark.parametrize("plane", PLANES)
def test_an_oblique_source_stays_oblique_when_respaced(plane: Plane) -> None:
    source = grid_of(0, (2, 0, 1), (1, -1, 1), oblique=20)
    kept, spaced = canonical(source, plane).target, canonical(source, plane, (2.0, 2.0, 2.0)).target
    np.testing.assert_allclose(
        spaced.affine[:3, :3] / spaced.spacing, kept.affine[:3, :3] / np.asarray(kept.spacing), atol=1e-9
    )


def test_the_spacing_of_the_source_resamples_nothing() -> None:
    source = grid_of(0, (2, 0, 1), (1, -1, 1), oblique=20)
    own = canonical(source, "coronal").target.spacing
    assert canonical(source, "coronal", own).reordering is not None
    assert canonical(source, "coronal", tuple(step * 1.0001 for step in own)).reordering is not None
    assert canonical(source, "coronal", (own[0] * 1.5, None, None)).reordering is None


def test_axial_on_ras_axes_is_the_anti_transpose_of_the_published_preparation() -> None:
    data = np.random.default_rng(0).normal(size=(1, 6, 5, 3))
    brought = canonical(Grid((6, 5, 3), np.eye(4)), "axial").bring(data)
    picture = np.flip(np.rot90(data[0], k=1, axes=(0, 1)), axis=1)
    np.testing.assert_array_equal(brought[0].transpose(1, 0, 2), picture)


def test_intensities_are_resampled_linearly_and_constants_stay() -> None:
    source = grid_of(5, (1, 2, 0), (1, -1, -1), oblique=15)
    data = np.full((2, *source.shape), 40, np.int16)
    brought = canonical(source, "axial", (1.0, 1.0, 1.0)).bring(data)
    assert brought.dtype == np.float32
    np.testing.assert_allclose(brought, 40, rtol=1e-5)


def test_half_a_voxel_apart_is_another_lattice() -> None:
    source = Grid((4, 4, 4), np.eye(4))
    moved = np.eye(4)
    moved[0, 3] = 0.5
    assert Placement(source, source).reordering == to_axes("RAS", "RAS")
    assert Placement(source, Grid((4, 4, 4), moved)).reordering is None
    assert Placement(source, Grid((4, 4, 3), np.eye(4))).reordering is None
    assert Placement(source, Grid((4, 4, 4), np.diag([2.0, 1, 1, 1]))).reordering is None


def test_two_target_axes_along_one_source_axis_are_no_permutation() -> None:
    leaning = np.eye(4)
    leaning[0, 1] = 0.9
    assert Placement(Grid((4, 4, 4), np.eye(4)), Grid((4, 4, 4), leaning)).reordering is None


@pytest.mark.parametrize(
    "spacing", [(0.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, 1.0, float("nan")), (float("inf"), 1.0, 1.0), (1.0, 1.0)]
)
def test_an_impossible_spacing_is_refused(spacing: tuple[float, ...]) -> None:
    with pytest.raises(GeometryError, match="three positive distances"):
        canonical(Grid((4, 4, 4), np.eye(4)), "axial", spacing)


@pytest.mark.parametrize(("along_k", "depth"), [("time", 3), ("single", 1)])
def test_a_film_has_one_plane_and_keeps_its_frames(along_k: str, depth: int) -> None:
    film = Grid((8, 9, depth), np.diag([-1.0, -1, 1, 1]), along_k)  # type: ignore[arg-type]
    place = canonical(film, "axial", (2.0, 2.0, None))
    assert place.target.along_k == along_k
    assert place.target.shape == (4, 5, depth)
    with pytest.raises(GeometryError, match="one plane"):
        canonical(film, "sagittal")
    with pytest.raises(GeometryError, match="cannot be resampled"):
        canonical(film, "axial", (1.0, 1.0, 1.0))


def test_arrays_of_another_shape_are_refused_by_name() -> None:
    place = canonical(Grid((4, 5, 6), np.eye(4)), "sagittal")
    with pytest.raises(GeometryError, match=r"\(5, 4, 6\).*\(4, 5, 6\)"):
        place.bring_labels(np.zeros((5, 4, 6), np.uint8))
    with pytest.raises(GeometryError, match="grid has"):
        place.bring(np.zeros((1, 5, 4, 6)))
    with pytest.raises(GeometryError, match="grid has"):
        place.restore(np.zeros((4, 5, 6), np.uint8))
