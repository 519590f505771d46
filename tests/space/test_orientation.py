from itertools import permutations, product

import numpy as np
import pytest

from voxelsam.errors import GeometryError
from voxelsam.space import PLANES, Grid, Plane, opposite, plane_of, to_axes

ALL_AXES = ["".join(letters) for pairs in permutations(("RL", "AP", "SI")) for letters in product(*pairs)]
WORLD = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}


def grid_with(axes: str, spacing: tuple[float, float, float] = (1, 1, 1)) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = np.array([WORLD[letter] for letter in axes]).T * np.asarray(spacing)
    return Grid((3, 4, 5), affine)


def test_there_are_48_axis_strings() -> None:
    assert len(set(ALL_AXES)) == 48


@pytest.mark.parametrize("current", ALL_AXES)
def test_reordering_arrives_at_the_wanted_axes_and_goes_back(current: str) -> None:
    grid = grid_with(current)
    data = np.arange(2 * 60).reshape(2, 3, 4, 5)
    for wanted in (*PLANES.values(), "RAS"):
        way = to_axes(current, wanted)
        moved = way.apply(data)
        turned = Grid(moved.shape[1:], grid.affine @ way.matrix(grid.shape))
        assert turned.axes == wanted
        assert np.shares_memory(moved, data)
        np.testing.assert_array_equal(way.inverse().apply(moved), data)
        np.testing.assert_array_equal(to_axes(wanted, current).apply(moved), data)


@pytest.mark.parametrize("current", ALL_AXES)
def test_the_matrix_says_where_each_voxel_came_from(current: str) -> None:
    data = np.arange(60).reshape(3, 4, 5)
    way = to_axes(current, "LPS")
    moved = way.apply(data)
    for new in ((0, 0, 0), (1, 0, 1), tuple(count - 1 for count in moved.shape)):
        old = (way.matrix(data.shape) @ (*new, 1))[:3].astype(int)
        assert moved[new] == data[tuple(old)]


def test_equal_axes_change_nothing() -> None:
    data = np.arange(60).reshape(3, 4, 5)
    np.testing.assert_array_equal(to_axes("PIR", "PIR").apply(data), data)


@pytest.mark.parametrize(("axes", "turned"), [("RAS", "LPI"), ("LPS", "RAI"), ("PIL", "ASR")])
def test_opposite_turns_each_direction_round(axes: str, turned: str) -> None:
    assert opposite(axes) == turned
    assert opposite(turned) == axes


@pytest.mark.parametrize("axes", ["", "RA", "RASL", "RRS", "RLS", "ras", "XYZ", "AAS"])
def test_what_is_no_axis_string_is_refused(axes: str) -> None:
    with pytest.raises(GeometryError, match="one letter of each"):
        opposite(axes)
    with pytest.raises(GeometryError, match="one letter of each"):
        to_axes("RAS", axes)
    with pytest.raises(GeometryError, match="one letter of each"):
        to_axes(axes, "RAS")


@pytest.mark.parametrize("plane", PLANES)
def test_a_canonical_slice_is_shown_as_radiologists_look_at_it(plane: Plane) -> None:
    right, down, _ = PLANES[plane]
    assert right == ("P" if plane == "sagittal" else "L")
    assert down == ("P" if plane == "axial" else "I")


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIL", "SRA", "IPR"])
@pytest.mark.parametrize(("across", "plane"), [("SI", "axial"), ("AP", "coronal"), ("RL", "sagittal")])
def test_the_plane_lies_across_the_coarsest_axis(axes: str, across: str, plane: Plane) -> None:
    spacing = tuple(5.0 if letter in across else 0.8 for letter in axes)
    assert plane_of(grid_with(axes, spacing)) == plane


@pytest.mark.parametrize("spacing", [(1, 1, 1), (3, 3, 1), (1, 3, 3.02), (1, 1.0, 1.005)])
def test_no_clear_coarsest_axis_means_axial(spacing: tuple[float, float, float]) -> None:
    assert plane_of(grid_with("PIL", spacing)) == "axial"


def test_just_over_one_per_cent_is_clear() -> None:
    assert plane_of(grid_with("PIL", (1, 1, 1.02))) == "sagittal"


def test_films_and_single_images_lie_across_k() -> None:
    film = grid_with("LIP", (8, 1, 0.04))
    assert plane_of(Grid(film.shape, film.affine, "time")) == "coronal"
    assert plane_of(Grid((8, 8, 1), film.affine, "single")) == "coronal"
