"""Prompts as data: what they refuse by themselves, and what a scan refuses."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxelsam.errors import InputError, PromptError
from voxelsam.prompts import LIMIT, Box, Mask, Point, Prompt, Prompts, Scribble, Target
from voxelsam.prompts.prompt import Space, edges_of, from_index, of_edges, to_index
from voxelsam.space import Grid
from voxelsam.volumes import Labels

Make = Callable[..., Grid]
LIVER, SPLEEN = Target("liver"), Target("spleen")
SHAPE = (12, 10, 8)


def one(voxel: tuple[int, int, int] = (3, 4, 5), shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    data = np.zeros(shape, bool)
    data[voxel] = True
    return data


def refused(*prompts: Prompt, grid: Grid, labels: Labels) -> PromptError:
    with pytest.raises(PromptError) as caught:
        Prompts(prompts).check(grid, labels)
    return caught.value


def test_a_prompt_error_is_about_the_input() -> None:
    assert issubclass(PromptError, InputError)


def test_targets_come_in_the_order_of_the_prompts_and_once() -> None:
    first = Prompts((Point((1, 2, 3), SPLEEN), Point((1, 2, 3), LIVER)))
    more = first.add(Box((1, 2, 3), (4, 5, 6), SPLEEN), Point((1, 2, 3), Target("liver", 2)))
    assert more.targets == (SPLEEN, LIVER, Target("liver", 2))
    assert (len(first.items), len(more.items)) == (2, 4)
    assert Prompts().targets == ()


def test_equal_prompts_are_equal_and_can_be_looked_up() -> None:
    assert Point((1, 2, 3), LIVER) == Point((1.0, 2.0, 3.0), Target("liver"))
    assert len({Point((1, 2, 3), LIVER), Point(np.array([1, 2, 3]), LIVER)}) == 1  # type: ignore[arg-type]
    assert Point((1, 2, 3), LIVER) != Point((1, 2, 3), LIVER, space="ras")


def test_prompts_cannot_be_changed() -> None:
    point = Point((1, 2, 3), LIVER)
    with pytest.raises(FrozenInstanceError):
        point.at = (4, 5, 6)  # type: ignore[misc]
    data = one()
    mask = Mask(data, LIVER)
    data[:] = False
    assert mask.data.sum() == 1
    with pytest.raises(ValueError, match="read-only"):
        mask.data[0, 0, 0] = True


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "at", [(1, 2), (1, 2, 3, 4), (1, 2, float("nan")), (float("inf"), 0, 0), "123", 5, ("1", 2, 3)]
)
@pytest.mark.parametrize(
    "make",
    [
        lambda at: Point(at, LIVER),
        lambda at: Box(at, (9, 9, 9), LIVER),
        lambda at: Box((0, 0, 0), at, LIVER),
        lambda at: Scribble(((1, 2, 3), at), LIVER),
    ],
)
def test_places_are_three_finite_numbers(make: Callable[[object], Prompt], at: object) -> None:
    with pytest.raises(PromptError, match="three finite numbers") as caught:
        make(at)
    assert caught.value.code == "PRM-01"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("space", ["RAS", "mm", "", None])
def test_an_unknown_space_is_refused(space: Space) -> None:
    for make in (
        lambda: Point((1, 2, 3), LIVER, space=space),
        lambda: Box((1, 2, 3), (4, 5, 6), LIVER, space),
        lambda: Scribble(((1, 2, 3),), LIVER, space=space),
    ):
        with pytest.raises(PromptError, match="voxel, ras, lps, but"):
            make()


@pytest.mark.parametrize("axis", range(3))
def test_a_box_needs_a_size_on_every_axis(axis: int) -> None:
    low, high = [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]
    high[axis] = low[axis]
    with pytest.raises(PromptError, match=r"box .* of liver: the box has no size.*first voxel beyond"):
        Box(tuple(low), tuple(high), LIVER)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match=r"no size along an axis$"):
        Box(tuple(low), tuple(high), LIVER, "ras")  # type: ignore[arg-type]
    high[axis] = low[axis] - 1
    with pytest.raises(PromptError, match=r"box .* of liver: low must lie below high"):
        Box(tuple(low), tuple(high), LIVER)  # type: ignore[arg-type]


def test_a_scribble_needs_a_point() -> None:
    with pytest.raises(PromptError, match="scribble of liver needs at least one point"):
        Scribble((), LIVER)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("label", "instance"), [("", 1), (None, 1), ("liver", 0), ("liver", -2), ("liver", 1.5), ("liver", True)]
)
def test_a_target_has_a_name_and_a_number(label: str, instance: int) -> None:
    with pytest.raises(PromptError, match=r"name of a structure|numbered from 1"):
        Target(label, instance)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("data", [np.zeros(SHAPE), np.zeros(SHAPE[:2], bool), np.zeros(SHAPE, np.uint8)])
def test_a_mask_is_true_and_false_on_three_axes(data: np.ndarray) -> None:
    with pytest.raises(PromptError, match="true and false along i, j, k, not"):
        Mask(data, LIVER)


def test_prompts_within_the_scan_are_fine(scan: Make, labels: Labels) -> None:
    grid = scan()
    Prompts(
        (
            Point((-0.5, 9.5, 7.5), LIVER),
            Point((40, -90, 15), LIVER, space="ras"),
            Point((-40, 90, 15), LIVER, space="lps"),
            Point((5, 5, 5), Target("spleen", 3)),
            Point((5, 5, 5), LIVER, inside=False),
            Box((0, 0, 0), SHAPE, LIVER),
            Box((30, -100, 0), (45, -80, 20), LIVER, "ras"),
            Scribble(((1, 2, 3), (11, 9, 7)), LIVER),
            Mask(one(), LIVER),
        )
    ).check(grid, labels)


def test_every_problem_is_told_with_the_number_and_content_of_the_prompt(scan: Make, labels: Labels) -> None:
    error = refused(
        Point((1, 2, 30), LIVER),
        Point((1, 2, 3), LIVER),
        Point((1, 1, 3), Target("livre", 2)),
        Box((1, 2, 3), (13, 5, 6), SPLEEN),
        Point((1.2, 2.4, 2.6), LIVER, inside=False),
        Mask(one(shape=(10, 12, 8)), LIVER),
        Mask(np.zeros(SHAPE, bool), LIVER),
        Point((1, 2, 3), Target("background"), inside=False),
        grid=scan(),
        labels=labels,
    )
    lines = str(error).splitlines()
    assert lines[0] == "the prompts cannot be used (problems: 7):"
    assert error.code == "PRM-02"
    for line, (code, start, words) in zip(
        lines[1:],
        [
            ("PRM-02", "prompt 1 (point 1, 2, 30 of liver): outside the scan", "voxels 0 to 11, 0 to 9, 0 to 7"),
            ("PRM-03", "prompt 3 (point 1, 1, 3 of livre 2): there is no structure 'livre'", "liver, spleen"),
            ("PRM-02", "prompt 4 (box 1, 2, 3 to 13, 5, 6 of spleen): reaches outside", "high at most 12, 10, 8"),
            (
                "PRM-06",
                "prompt 6 (mask of liver): a mask lies on the voxels",
                "12 × 10 × 8, but this one has 10 × 12 × 8",
            ),
            ("PRM-06", "prompt 7 (mask of liver): the mask is empty", ""),
            (
                "PRM-03",
                "prompt 8 (background point 1, 2, 3 of background): background is what is left",
                "inside = false",
            ),
            ("PRM-05", "prompt 5 (background point 1.2, 2.4, 2.6 of liver) contradicts prompt 2", "voxel 1, 2, 3"),
        ],
        strict=True,
    ):
        assert line.startswith(f"  {code}: {start}"), line
        assert words in line


@pytest.mark.parametrize(
    ("at", "space", "words"),
    [
        ((12, 0, 0), "voxel", "voxels 0 to 11"),
        ((0, 9.6, 0), "voxel", "voxels 0 to 11"),
        ((-0.6, 0, 0), "voxel", "voxels 0 to 11"),
        ((30, -90, 15), "ras", "ras coordinates x 39.5 to 51.5, y -90.75 to -75.75, z 13.5 to 37.5"),
        ((-40, 60, 15), "lps", "lps coordinates x -51.5 to -39.5, y 75.75 to 90.75, z 13.5 to 37.5"),
    ],
)
def test_the_range_of_the_scan_is_told_in_the_space_of_the_prompt(
    at: tuple[float, float, float], space: Space, words: str, scan: Make, labels: Labels
) -> None:
    assert words in str(refused(Point(at, LIVER, space=space), grid=scan(), labels=labels))


@pytest.mark.parametrize(
    ("at", "space", "hint"),
    [
        ((40, -90, 15), "lps", "as ras coordinates it would lie inside"),
        ((-40, 90, 15), "ras", "as lps coordinates it would lie inside"),
        ((40, -90, 15), "voxel", "as ras coordinates it would lie inside"),
        ((7, 2, 11), "voxel", "in the order k, j, i it would lie inside"),
    ],
)
def test_what_may_have_been_meant_is_told(
    at: tuple[float, float, float], space: Space, hint: str, scan: Make, labels: Labels
) -> None:
    assert hint in str(refused(Point(at, LIVER, space=space), grid=scan(), labels=labels))


def test_inside_the_range_of_a_turned_scan_is_not_inside_the_scan(scan: Make, labels: Labels) -> None:
    grid = scan(turn=30)
    corner = grid.corners().min(axis=0)
    assert refused(Point(tuple(corner), LIVER, space="ras"), grid=grid, labels=labels).code == "PRM-02"


def test_the_point_of_a_scribble_that_is_outside_is_named(scan: Make, labels: Labels) -> None:
    line = Scribble(((1, 2, 3), (1, 2, 9), (1, 2, 5), (1, 20, 5)), LIVER)
    assert "point 2 (1, 2, 9) and 1 more of its points lie outside" in str(refused(line, grid=scan(), labels=labels))


@pytest.mark.parametrize("low", [(60, -90, 15), (41, -200, 15)])
def test_a_box_in_millimetres_may_reach_beyond_the_scan_but_not_lie_there(
    low: tuple[float, float, float], scan: Make, labels: Labels
) -> None:
    x, y, z = low
    error = refused(Box(low, (x + 5, y + 5, z + 5), LIVER, "ras"), grid=scan(), labels=labels)
    assert "outside the scan, which has ras coordinates x 39.5 to 51.5" in str(error)
    Prompts((Box((41, -200, 15), (43, -85, 20), LIVER, "ras"),)).check(scan(), labels)


def test_a_long_list_of_structures_is_cut(scan: Make) -> None:
    many = Labels({"background": 0, **{f"part_{n}": n for n in range(1, 40)}})
    assert "part_20 and 19 more" in str(refused(Point((1, 2, 3), LIVER), grid=scan(), labels=many))


def test_more_than_the_limit_is_refused(scan: Make, labels: Labels) -> None:
    point = Point((1, 2, 3), LIVER)
    Prompts((point,) * LIMIT).check(scan(), labels)
    error = refused(*(point,) * (LIMIT + 1), grid=scan(), labels=labels)
    assert error.code == "PRM-04"
    assert f"up to {LIMIT} prompts, but {LIMIT + 1} came" in str(error)
    line = Scribble(((1, 2, 3),) * (LIMIT + 1), LIVER)
    assert refused(line, grid=scan(), labels=labels).code == "PRM-04"


@pytest.mark.parametrize(
    ("other", "contradicts"),
    [
        (Point((3.4, 4, 5), LIVER, inside=False), True),
        (Point((43, -84, 30), LIVER, inside=False, space="ras"), True),
        (Point((3, 4, 5), SPLEEN), True),
        (Point((3, 4, 5), Target("liver", 2)), True),
        (Point((3.6, 4, 5), LIVER, inside=False), False),
        (Point((3, 4, 5), SPLEEN, inside=False), False),
        (Point((3, 4, 5), Target("liver", 2), inside=False), False),
        (Point((3, 4, 5), LIVER), False),
        (Scribble(((3, 4, 5),), LIVER, inside=False), False),
    ],
)
def test_points_on_one_voxel_must_agree(other: Prompt, contradicts: bool, scan: Make, labels: Labels) -> None:
    for prompts in ((Point((3, 4, 5), LIVER), other), (other, Point((3, 4, 5), LIVER))):
        if not contradicts:
            Prompts(prompts).check(scan(), labels)
            continue
        error = refused(*prompts, grid=scan(), labels=labels)
        assert error.code == "PRM-05"
        assert "both lie in voxel 3, 4, 5" in str(error)


spaces = st.sampled_from(["voxel", "ras", "lps"])


@settings(max_examples=40, deadline=None)
@given(spaces, st.integers(0, 2**32 - 1))
def test_spaces_are_undone(space: Space, seed: int) -> None:
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3] = rng.normal(size=(3, 4)) + 3 * np.eye(3, 4)
    grid = Grid((4, 5, 6), affine)
    places = rng.uniform(-5, 9, (7, 3))
    np.testing.assert_allclose(to_index(from_index(places, space, grid), space, grid), places, atol=1e-6)


def test_millimetres_are_what_they_say() -> None:
    grid = Grid((4, 5, 6), np.array([[2.0, 0, 0, -10], [0, 3, 0, 20], [0, 0, 5, 7], [0, 0, 0, 1]]))
    np.testing.assert_allclose(to_index(np.array([[-8.0, 26, 22]]), "ras", grid), [[1, 2, 3]])
    np.testing.assert_allclose(to_index(np.array([[8.0, -26, 22]]), "lps", grid), [[1, 2, 3]])


def test_a_box_in_voxels_is_half_open_and_one_in_millimetres_has_edges(scan: Make) -> None:
    grid = scan()
    for box in (Box((3, 4, 5), (4, 6, 6), LIVER), Box((42.5, -84.75, 28.5), (43.5, -81.75, 31.5), LIVER, "ras")):
        low, high = edges_of(box, grid)
        np.testing.assert_allclose([low, high], [[2.5, 3.5, 4.5], [3.5, 5.5, 5.5]])
        np.testing.assert_allclose(of_edges(low, high, box.space, grid), [box.low, box.high])


def test_a_box_in_millimetres_of_a_turned_scan_encloses_its_corners(scan: Make) -> None:
    grid = scan(turn=30)
    box = Box((40, -85, 20), (45, -80, 30), LIVER, "ras")
    low, high = edges_of(box, grid)
    rng = np.random.default_rng(0)
    inside = to_index(rng.uniform(box.low, box.high, (500, 3)), "ras", grid)
    assert (inside >= low).all()
    assert (inside <= high).all()
    assert (inside.min(axis=0) - low < 1).all()
    assert (high - inside.max(axis=0) < 1).all()
