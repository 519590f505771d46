"""Where prompts land on the model's pictures, and the way back."""

from collections.abc import Callable
from itertools import pairwise, permutations, product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from voxelsam.errors import PromptError
from voxelsam.prompts import Box, Mask, Point, Prompt, Prompts, Scribble, Space, Target
from voxelsam.prompts.place import (
    SCRIBBLE_POINTS,
    SURE,
    FramePrompts,
    Placed,
    batch,
    groups,
    place,
    recover,
    recover_box,
)
from voxelsam.prompts.prompt import from_index, to_index
from voxelsam.space import Grid
from voxelsam.stacks import Scale, StackPlan, cut, cut_labels
from voxelsam.volumes import Labels

Make = Callable[..., Grid]
Recipe = dict[str, Any]

quick = settings(max_examples=60, deadline=None)
LIVER, SPLEEN = Target("liver"), Target("spleen")
TABLE = Labels({"background": 0, "liver": 1, "spleen": 2})
AXIAL = StackPlan(plane="axial", size=(20, 24), fit="stretch")
WAYS = [(order, flips) for order in permutations(range(3)) for flips in product((1, -1), repeat=3)]

spaces = st.sampled_from(["voxel", "ras", "lps"])
seeds = st.integers(0, 2**32 - 1)


def rotation(rng: np.random.Generator, degrees: float) -> np.ndarray:
    x, y, z = rng.normal(size=3) / np.sqrt(3)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn, _ = np.linalg.qr(np.eye(3) + np.tan(np.radians(degrees)) * cross)
    return turn * np.sign(np.diag(turn))


def grid_of(seed: int, order: tuple[int, ...], flips: tuple[int, ...], *, oblique: float = 0, shear: float = 0) -> Grid:
    """Any axis order and flips, spacings up to 1:10, three different counts."""
    rng = np.random.default_rng(seed)
    matrix = rotation(rng, oblique) @ np.eye(3)[:, order] * flips
    matrix = matrix @ (np.eye(3) + shear * np.eye(3, k=1)) * np.array([0.5, 1.3, 5])[rng.permutation(3)]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix, rng.uniform(-200, 200, 3)
    return Grid(tuple(rng.choice([4, 5, 6, 7, 9], 3, replace=False).tolist()), affine)


def straight(shape: tuple[int, int, int], spacing: tuple[float, float, float] = (1, 1, 1), **options: Any) -> Grid:
    """A grid whose axes are the canonical ones of axial slices, so that i, j, k are x, y and the slice."""
    return Grid(shape, np.diag([-spacing[0], -spacing[1], spacing[2], 1]), **options)


recipes = st.builds(
    lambda seed, way, **slant: {"seed": seed, "order": way[0], "flips": way[1], **slant},
    seeds,
    st.sampled_from(WAYS),
    oblique=st.floats(0, 30),
    shear=st.sampled_from([0, 0, 0.3]),
)
plans = st.builds(
    StackPlan,
    size=st.tuples(st.integers(3, 70), st.integers(3, 70)),
    plane=st.sampled_from(["axial", "coronal", "sagittal", "auto"]),
    spacing=st.sampled_from([None, None, (None, None, 1.7), (0.8, 1.1, 2.3), (2.0, None, None), (0.7, 0.7, 0.7)]),
    interpolation=st.sampled_from(["linear", "cubic"]),
    fit=st.sampled_from(["pad", "stretch"]),
)

enlarging = st.builds(
    StackPlan,
    size=st.tuples(st.integers(40, 90), st.integers(40, 90)),
    plane=st.sampled_from(["axial", "coronal", "sagittal", "auto"]),
    spacing=st.sampled_from([None, None, (None, None, 1.7), (1.0, None, None)]),
    interpolation=st.sampled_from(["linear", "cubic"]),
    fit=st.sampled_from(["pad", "stretch"]),
)


def only(placed: Placed, target: Target = LIVER) -> tuple[int, FramePrompts]:
    ((k, frame),) = placed.frames[target].items()
    return k, frame


def put(*prompts: Prompt, grid: Grid, plan: StackPlan = AXIAL) -> Placed:
    return place(Prompts(prompts), grid, plan, TABLE)


# there and back


@quick
@given(recipes, plans, spaces, seeds)
def test_a_point_comes_back(recipe: Recipe, plan: StackPlan, space: Space, seed: int) -> None:
    grid = grid_of(**recipe)
    voxel = np.random.default_rng(seed).uniform(-0.5, np.array(grid.shape) - 0.5)
    at = from_index(voxel[None], space, grid)[0]
    k, frame = only(put(Point(tuple(at), LIVER, space=space), grid=grid, plan=plan))
    assert frame.inside.tolist() == [True]
    (back,) = to_index(recover(frame.points, k, grid, plan, space), space, grid)
    way = plan.placement(grid)
    there, here = way.to_target(np.array([voxel, back]))
    np.testing.assert_allclose(here[:2], there[:2], atol=1e-6)
    assert abs(here[2] - there[2]) <= 0.5 + 1e-5
    assert 0 <= k < way.target.shape[2]
    if way.reordering:
        assert np.abs(back - voxel).max() <= 0.5 + 1e-5


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_the_centre_of_a_voxel_comes_back_exactly(way: tuple[Any, Any], plane: Any) -> None:
    grid = grid_of(7, *way, oblique=20)
    plan = StackPlan(plane=plane, size=(31, 18))
    for voxel in ((0, 0, 0), (3, 1, 2), tuple(count - 1 for count in grid.shape)):
        k, frame = only(put(Point(voxel, LIVER), grid=grid, plan=plan))
        np.testing.assert_allclose(recover(frame.points, k, grid, plan), [voxel], atol=1e-9)


@quick
@given(recipes, plans, seeds)
def test_a_box_of_voxels_comes_back(recipe: Recipe, plan: StackPlan, seed: int) -> None:
    grid = grid_of(**recipe | {"shear": 0})
    rng = np.random.default_rng(seed)
    low = np.array([rng.integers(0, count) for count in grid.shape])
    high = np.array([rng.integers(start + 1, count + 1) for start, count in zip(low, grid.shape, strict=True)])
    slices = put(Box(tuple(low), tuple(high), LIVER), grid=grid, plan=plan).frames[LIVER]
    (box,) = {frame.box for frame in slices.values()}
    assert box is not None
    assert list(slices) == list(range(min(slices), max(slices) + 1))
    ends = min(slices), max(slices)
    back = np.array(recover_box(box, ends, grid, plan))
    step = np.abs(np.linalg.solve(grid.affine[:3, :3], plan.placement(grid).target.affine[:3, :3]))
    along_k = step[:, 2].argmax()
    np.testing.assert_allclose(np.delete(back, along_k, 1), np.delete([low, high], along_k, 1), atol=1e-6)
    thick, slice_ = (high - low)[along_k], step[along_k, 2]
    reach = 0 if plan.placement(grid).reordering else max(slice_ / 2, slice_ - thick / 2)
    assert np.abs(back[:, along_k] - (low[along_k], high[along_k])).max() <= reach + 1e-5


@quick
@given(recipes, plans, spaces.filter(lambda space: space != "voxel"), seeds)
def test_a_box_in_millimetres_is_never_cut_short(recipe: Recipe, plan: StackPlan, space: Space, seed: int) -> None:
    grid = grid_of(**recipe)
    rng = np.random.default_rng(seed)
    voxels = rng.uniform(0, np.array(grid.shape) - 1, (2, 3))
    voxels[1, np.abs(voxels[1] - voxels[0]) < 0.2] += 0.3
    low, high = np.sort(from_index(voxels, space, grid), axis=0)
    assume((high - low).min() >= 1e-3)
    slices = put(Box(tuple(low), tuple(high), LIVER, space), grid=grid, plan=plan).frames[LIVER]
    inside = to_index(rng.uniform(low, high, (200, 3)), space, grid)
    inside = inside[((inside >= -0.5) & (inside <= np.array(grid.shape) - 0.5)).all(axis=1)]
    index = plan.placement(grid).to_target(inside)
    width, height, _ = plan.placement(grid).target.shape
    seen = plan.frame((height, width)).to_model(index[:, :2])
    x0, y0, x1, y1 = next(iter(slices.values())).box or (0, 0, 0, 0)
    assert (seen >= np.array([x0, y0]) - 1e-6).all()
    assert (seen <= np.array([x1, y1]) + 1e-6).all()
    assert index[:, 2].min() >= min(slices) - 1 - 1e-6
    assert index[:, 2].max() <= max(slices) + 1 + 1e-6


# an independent look: the placed point is where the picture shows the place


@quick
@given(recipes, enlarging, seeds)
def test_a_bright_spot_is_seen_where_its_point_is_placed(recipe: Recipe, plan: StackPlan, seed: int) -> None:
    grid = grid_of(**recipe | {"shear": 0})
    voxel = tuple(np.random.default_rng(seed).integers(1, np.array(grid.shape) - 1).tolist())
    data = np.zeros((1, *grid.shape), np.float32)
    data[(0, *voxel)] = 1
    k, frame = only(put(Point(voxel, LIVER), grid=grid, plan=plan))
    canonical = plan.placement(grid).bring(data)
    assert canonical[..., k].max() >= canonical.max() * 0.999
    brightest = np.array(np.unravel_index(canonical[0, :, :, k].argmax(), canonical.shape[1:3]))
    assume((brightest > 0).all() and (brightest < np.array(canonical.shape[1:3]) - 1).all())  # else it has no middle
    picture = cut(canonical, plan, k, Scale((0.0,), (float(canonical.max()),)))[0, 0].numpy()
    y, x = np.unravel_index(picture.argmax(), picture.shape)
    scale = np.array(plan.frame(canonical.shape[2:0:-1]).scale[::-1])
    blurred = (0.1 if plan.placement(grid).reordering else 0.5) * scale  # a cubic peak leans away from the border
    assert (np.abs(frame.points[0] - (x, y)) <= 0.5 + blurred + 1e-3).all()


@pytest.mark.parametrize("way", WAYS)
def test_the_brightest_slice_and_pixel_are_those_of_the_point(way: tuple[Any, Any]) -> None:
    grid = grid_of(11, *way, oblique=10)
    plan = StackPlan(plane="coronal", depth=1, size=(90, 90), fit="stretch")
    rng = np.random.default_rng(0)
    for voxel in rng.integers(0, np.array(grid.shape), (4, 3)).tolist():
        data = np.zeros((1, *grid.shape), np.float32)
        data[(0, *voxel)] = 1
        canonical = plan.placement(grid).bring(data)
        stack = [cut(canonical, plan, k, Scale((0.0,), (1.0,)))[0, 0].numpy() for k in range(canonical.shape[3])]
        k, frame = only(put(Point(tuple(voxel), LIVER), grid=grid, plan=plan))
        assert int(np.argmax([picture.max() for picture in stack])) == k
        y, x = ndimage.center_of_mass(stack[k] >= stack[k].max() - 1e-6)
        scale = 90 / np.array(canonical.shape[1:3])
        edge = (np.array([x, y]) < scale) | (np.array([x, y]) > 89 - scale)  # at a border the spot is cut off
        assert (np.abs(frame.points[0] - (x, y)) <= np.where(edge, scale / 2 + 0.5, 0.51)).all()


@pytest.mark.parametrize("axis", range(3))
def test_a_point_that_moves_along_one_axis_moves_along_that_axis_only(axis: int) -> None:
    grid = straight((12, 10, 8))
    at = [3.0, 4.0, 5.0]
    k, frame = only(put(Point(tuple(at), LIVER), grid=grid))  # type: ignore[arg-type]
    at[axis] += 1
    k2, frame2 = only(put(Point(tuple(at), LIVER), grid=grid))  # type: ignore[arg-type]
    moved = (*(frame2.points - frame.points)[0], k2 - k)
    np.testing.assert_allclose(moved, np.array([2, 2, 1]) * (np.arange(3) == axis))


def test_points_by_value() -> None:
    """12 × 10 pixels become 24 × 20: x = 2 (i + 1/2) - 1/2."""
    grid = straight((12, 10, 8), (1, 1, 3))
    placed = put(Point((3, 4, 5), LIVER), Point((0, 9, 5), LIVER, inside=False), grid=grid)
    k, frame = only(placed)
    assert k == 5
    np.testing.assert_allclose(frame.points, [[6.5, 8.5], [0.5, 18.5]])
    assert frame.inside.tolist() == [True, False]
    for at, space in (((-3, -4, 15), "ras"), ((3, 4, 15), "lps")):
        k, frame = only(put(Point(at, LIVER, space=space), grid=grid))  # type: ignore[arg-type]
        assert k == 5
        np.testing.assert_allclose(frame.points, [[6.5, 8.5]])


@pytest.mark.parametrize(("at", "k"), [(-0.5, 0), (0.49, 0), (0.5, 1), (1.5, 2), (1.5 - 1e-9, 2), (6.6, 7), (7.5, 7)])
def test_half_way_between_two_slices_is_the_higher_one(at: float, k: int) -> None:
    assert only(put(Point((3, 4, at), LIVER), grid=straight((12, 10, 8))))[0] == k


# boxes


def test_a_box_by_value() -> None:
    """Voxels 3 to 6, 4 to 5 on slices 2 to 4: edges 2.5 to 6.5 and 3.5 to 5.5, twice as large on the picture."""
    placed = put(Box((3, 4, 2), (7, 6, 5), LIVER), grid=straight((12, 10, 8)))
    assert {k: frame.box for k, frame in placed.frames[LIVER].items()} == dict.fromkeys(
        (2, 3, 4), (5.5, 7.5, 13.5, 11.5)
    )
    assert placed.spans == {LIVER: (2, 4)}
    assert all(not len(frame.points) for frame in placed.frames[LIVER].values())


@pytest.mark.parametrize(
    ("low", "high", "slices"),
    [
        (2, 3, [2]),
        (2.1, 2.9, [2]),
        (2.6, 2.9, [2]),
        (2.9, 3.1, [3]),
        (2.95, 3.06, [3]),
        (2.5, 3.5, [2]),
        (2.4, 3.6, [2, 3]),
        (0, 8, list(range(8))),
        (7.8, 8, [7]),
    ],
)
def test_a_box_covers_the_slices_whose_centres_it_holds_and_one_at_least(
    low: float, high: float, slices: list[int]
) -> None:
    placed = put(Box((3, 4, low), (7, 6, high), LIVER), grid=straight((12, 10, 8)))
    assert list(placed.frames[LIVER]) == slices
    assert placed.spans == ({} if len(slices) == 1 else {LIVER: (slices[0], slices[-1])})


def test_boxes_that_meet_share_no_slice_under_any_plan() -> None:
    grid = straight((12, 10, 8), (1, 1, 3))
    for spacing in (None, (None, None, 1.0), (None, None, 1.5), (None, None, 2.0), (None, None, 7.0)):
        plan = StackPlan(plane="axial", size=(20, 24), spacing=spacing)
        placed = put(Box((3, 4, 0), (7, 6, 4), LIVER), Box((3, 4, 4), (7, 6, 8), SPLEEN), grid=grid, plan=plan)
        slices = [*placed.frames[LIVER], *placed.frames[SPLEEN]]
        assert slices == list(range(plan.placement(grid).target.shape[2]))


def test_a_box_of_one_thick_slice_is_3d_where_slices_are_made_thinner() -> None:
    grid = straight((12, 10, 8), (1, 1, 3))
    plan = StackPlan(plane="axial", size=(20, 24), spacing=(None, None, 1.0))
    placed = put(Box((3, 4, 2), (7, 6, 3), LIVER), grid=grid, plan=plan)
    assert placed.spans == {LIVER: (6, 8)}
    assert list(placed.frames[LIVER]) == [6, 7, 8]


def test_what_reaches_beyond_the_scan_is_cut_off() -> None:
    grid = straight((12, 10, 8))
    placed = put(Box((-4.5, -100, -100), (100, -3.5, 1), LIVER, "ras"), grid=grid)
    assert list(placed.frames[LIVER]) == [0]
    (box,) = {frame.box for frame in placed.frames[LIVER].values()}
    np.testing.assert_allclose(box, (-0.5, 7.5, 9.5, 19.5))


def test_of_several_boxes_the_last_one_counts_and_the_span_holds_all() -> None:
    placed = put(
        Box((1, 1, 1), (3, 3, 4), LIVER),
        Box((3, 4, 3), (7, 6, 6), LIVER),
        Box((0, 0, 7), (1, 1, 8), LIVER),
        Box((5, 5, 2), (6, 6, 3), SPLEEN),
        grid=straight((12, 10, 8)),
    )
    assert placed.spans == {LIVER: (1, 5)}
    boxes = {k: frame.box for k, frame in placed.frames[LIVER].items()}
    assert list(boxes) == [1, 2, 3, 4, 5, 7]
    assert boxes[2] == (1.5, 1.5, 5.5, 5.5)
    assert boxes[3] == boxes[5] == (5.5, 7.5, 13.5, 11.5)
    assert list(placed.frames[SPLEEN]) == [2]


def test_everything_about_an_object_on_a_slice_comes_together() -> None:
    data = np.zeros((12, 10, 8), bool)
    data[2:9, 3:8, 4] = True
    other = np.zeros_like(data)
    other[0, 0, 4] = True
    placed = put(
        Point((3, 4, 4), LIVER),
        Box((2, 3, 4), (9, 8, 5), LIVER),
        Mask(data, LIVER),
        Point((0, 9, 4), LIVER, inside=False),
        Mask(other, LIVER),
        Point((3, 4, 4), Target("liver", 2), inside=False),
        grid=straight((12, 10, 8)),
    )
    assert list(placed.frames) == [LIVER, Target("liver", 2)]
    k, frame = only(placed)
    assert k == 4
    assert frame.points.tolist() == [[6.5, 8.5], [0.5, 18.5]]
    assert frame.inside.tolist() == [True, False]
    assert frame.box == (3.5, 5.5, 17.5, 15.5)
    assert frame.mask is not None
    assert frame.mask.shape == (20, 24)
    np.testing.assert_array_equal(frame.mask, np.kron((data | other)[:, :, 4].T, np.ones((2, 2))) > 0)


# masks


@quick
@given(recipes, plans, seeds)
def test_masks_are_what_the_labels_of_a_stack_are(recipe: Recipe, plan: StackPlan, seed: int) -> None:
    grid = grid_of(**recipe)
    data = np.random.default_rng(seed).random(grid.shape) > 0.6
    assume(data.any())
    canonical = plan.placement(grid).bring_labels(data.astype(np.uint8))
    plan = StackPlan(**{**plan.__dict__, "depth": 1})
    expected = {k: cut_labels(canonical, plan, k)[0].numpy() > 0 for k in range(canonical.shape[2])}
    expected = {k: picture for k, picture in expected.items() if picture.any()}
    if not expected:
        with pytest.raises(PromptError, match=r"prompt 1 \(mask of liver\): the mask is too small to be seen"):
            put(Mask(data, LIVER), grid=grid, plan=plan)
        return
    slices = put(Mask(data, LIVER), grid=grid, plan=plan).frames[LIVER]
    assert list(slices) == list(expected)
    for k, frame in slices.items():
        np.testing.assert_array_equal(frame.mask, expected[k])


def test_a_mask_that_vanishes_on_the_picture_is_refused() -> None:
    data = np.zeros((40, 40, 3), bool)
    data[1, 1, 1] = True
    plan = StackPlan(plane="axial", size=(4, 4))
    with pytest.raises(PromptError, match="too small to be seen on any picture of 4 × 4") as caught:
        put(Point((1, 1, 1), LIVER), Mask(data, LIVER), grid=straight((40, 40, 3)), plan=plan)
    assert caught.value.code == "PRM-06"
    assert "prompt 2" in str(caught.value)


# scribbles


@quick
@given(recipes, plans, spaces, seeds)
def test_the_points_of_a_scribble_lie_on_its_line(recipe: Recipe, plan: StackPlan, space: Space, seed: int) -> None:
    grid = grid_of(**recipe)
    line = np.random.default_rng(seed).uniform(-0.5, np.array(grid.shape) - 0.5, (4, 3))
    points = tuple(map(tuple, from_index(line, space, grid)))
    slices = put(Scribble(points, LIVER, inside=False, space=space), grid=grid, plan=plan).frames[LIVER]
    corners = plan.placement(grid).to_target(line)
    dense = np.concatenate([a + np.linspace(0, 1, 400)[:, None] * (b - a) for a, b in pairwise(corners)])
    width, height, last = plan.placement(grid).target.shape
    frame = plan.frame((height, width))
    for k, said in slices.items():
        assert 1 <= len(said.points) <= SCRIBBLE_POINTS
        assert not said.inside.any()
        here = dense[np.abs(np.clip(dense[:, 2], 0, last - 1) - k) <= 0.51]
        away = np.linalg.norm(frame.to_model(here[:, :2])[None] - said.points[:, None], axis=-1)
        assert away.min(axis=1).max() < 0.5 + 0.05 * max(frame.scale)
        apart = np.linalg.norm(said.points[:, None] - said.points[None], axis=-1) + 9 * np.eye(len(said.points))
        assert apart.min() >= 1
    passed = np.clip(np.floor(dense[:, 2] + 0.5), 0, last - 1)
    counts = np.bincount(passed.astype(int), minlength=last)
    assert {k for k in range(last) if counts[k] * np.ptp(corners[:, 2]) > 400} <= set(slices)


def test_points_of_a_scribble_are_spread_evenly() -> None:
    grid, plan = straight((100, 90, 3)), StackPlan(plane="axial", size=(90, 100))
    k, frame = only(put(Scribble(((5, 40, 1), (95, 40, 1)), LIVER), grid=grid, plan=plan))
    assert k == 1
    assert len(frame.points) == SCRIBBLE_POINTS
    assert frame.inside.all()
    assert (frame.points[:, 1] == 40).all()
    assert frame.points[0, 0] == 5
    assert frame.points[-1, 0] == 95
    steps = np.diff(frame.points[:, 0])
    assert steps.min() > 0
    assert steps.max() <= 2.1 * steps.min()


def test_a_scribble_of_one_point_is_a_point() -> None:
    grid = straight((12, 10, 8))
    for points in (((3, 4, 5),), ((3, 4, 5), (3, 4, 5)), ((3, 4, 5), (3.2, 4, 5))):
        k, frame = only(put(Scribble(points, LIVER), grid=grid))
        assert k == 5
        assert frame.points.tolist() == [[6.5, 8.5]]


def test_a_scribble_through_slices_prompts_each_of_them() -> None:
    slices = put(Scribble(((3, 4, 1), (3, 4, 6)), LIVER), grid=straight((12, 10, 8))).frames[LIVER]
    assert list(slices) == [1, 2, 3, 4, 5, 6]
    assert all(frame.points.tolist() == [[6.5, 8.5]] for frame in slices.values())


# pictures, checks


def test_a_picture_takes_prompts_too() -> None:
    grid = straight((12, 10, 1), along_k="single")
    data = np.zeros(grid.shape, bool)
    data[4:6, 2:4] = True
    placed = put(
        Point((3, 4, 0), LIVER),
        Box((1, 2, 0), (5, 6, 1), LIVER),
        Mask(data, SPLEEN),
        grid=grid,
        plan=StackPlan(size=(20, 24)),
    )
    k, frame = only(placed)
    assert k == 0
    assert frame.points.tolist() == [[6.5, 8.5]]
    assert frame.box == (1.5, 3.5, 9.5, 11.5)
    assert placed.spans == {}
    _, drawn = only(placed, SPLEEN)
    assert drawn.mask is not None
    assert np.argwhere(drawn.mask).tolist() == [[y, x] for y in range(4, 8) for x in range(8, 12)]


def test_prompts_are_checked_first() -> None:
    with pytest.raises(PromptError, match=r"prompt 2 \(point 3, 4, 50 of liver\): outside the scan"):
        put(Point((3, 4, 5), LIVER), Point((3, 4, 50), LIVER), grid=straight((12, 10, 8)))


def test_nothing_said_is_nothing_placed() -> None:
    placed = put(grid=straight((12, 10, 8)))
    assert placed.frames == {}
    assert placed.spans == {}


# batches


def said(points: int = 0, box: bool = False, mask: bool = False) -> FramePrompts:
    places = np.arange(2.0 * points).reshape(points, 2)
    picture = np.zeros((16, 8), bool)
    picture[:8] = True
    return FramePrompts(
        places, np.arange(points) % 2 == 0, (1.0, 2.0, 3.0, 4.5) if box else None, picture if mask else None
    )


def test_a_batch_holds_what_was_said() -> None:
    made = batch([said(2, True), said(2, True)], [None, None], (4, 2))
    assert made.points.tolist() == [[[0, 1], [2, 3]]] * 2
    assert made.point_labels.tolist() == [[1, 0]] * 2
    assert made.boxes is not None
    assert made.boxes.tolist() == [[[1, 2, 3, 4.5]]] * 2
    assert made.masks is None
    assert made.points.dtype == made.boxes.dtype == torch.float32


def test_missing_points_are_filled_up() -> None:
    made = batch([said(3), None, said(1)], [None] * 3, (4, 2))
    assert made.points.shape == (3, 3, 2)
    assert made.point_labels.tolist() == [[1, 0, 1], [-1, -1, -1], [1, -1, -1]]
    assert made.boxes is None
    empty = batch([None, None], [None, None], (4, 2))
    assert empty.points.shape == (2, 0, 2)
    assert empty.point_labels.shape == (2, 0)


def test_a_drawn_mask_becomes_sure_logits_of_the_size_of_mask_prompts() -> None:
    made = batch([said(mask=True), said(1, mask=True)], [None, None], (4, 2))
    assert made.masks is not None
    assert made.masks.shape == (2, 1, 4, 2)
    top, middle, bottom = made.masks[0, 0, 0], made.masks[0, 0, 1:3], made.masks[0, 0, 3]
    torch.testing.assert_close(top, torch.full((2,), SURE))
    torch.testing.assert_close(bottom, torch.full((2,), -SURE))
    torch.testing.assert_close(middle[0], -middle[1])


def test_logits_of_an_earlier_round_pass_through_in_place_of_a_drawn_mask() -> None:
    earlier = torch.randn(4, 2)
    made = batch([said(mask=True), None], [earlier, earlier + 1], (4, 2))
    assert made.masks is not None
    assert torch.equal(made.masks[0, 0], earlier)
    assert torch.equal(made.masks[1, 0], earlier + 1)


@pytest.mark.parametrize(
    ("frames", "masks", "message"),
    [
        ([said(box=True), said(1)], [None, None], "1 of 2 frames have a box"),
        ([said(box=True), None], [None, None], "1 of 2 frames have a box"),
        ([said(mask=True), said(1)], [None, None], "1 of 2 frames have a mask"),
        ([said(), said(1)], [torch.zeros(4, 2), None], "1 of 2 frames have a mask"),
        ([said()], [torch.zeros(2, 4)], "4 × 2, not"),
        ([said()], [], "one entry of masks"),
        ([], [], "at least one frame"),
    ],
)
def test_batches_that_would_mix_are_refused(frames: list[Any], masks: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        batch(frames, masks, (4, 2))


def test_groups_hold_frames_that_need_no_filling() -> None:
    frames = [said(2), None, said(2, True), said(2), said(1, mask=True), said(), said(2, True, True), said(1)]
    assert groups(frames) == [[0, 3], [1, 5], [2], [4], [6], [7]]
    earlier = [False, False, True, True, False, False, False, True]
    assert groups(frames, earlier) == [[0], [1, 5], [2, 6], [3], [4, 7]]
    for group in groups(frames):
        made = batch([frames[number] for number in group], [None] * len(group), (4, 2))
        assert (made.point_labels >= 0).all()
    assert groups([]) == []
    with pytest.raises(ValueError, match="shorter"):
        groups(frames, [True])


def test_points_need_as_many_signs() -> None:
    with pytest.raises(ValueError, match="n signs"):
        FramePrompts(np.zeros((2, 2)), np.ones(3, bool))
