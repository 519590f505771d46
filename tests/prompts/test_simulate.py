import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from voxelsam.errors import InputError
from voxelsam.prompts.simulate import (
    Click,
    Cuboid,
    box_cover,
    box_iou,
    components,
    error_click,
    error_clicks,
    interior_click,
    interior_clicks,
    jittered,
    key_slices,
    most_agreed,
    objects,
    per_slice,
    random_error_click,
    random_error_clicks,
    random_points,
    relaxed,
    relaxed_cuboid,
    tight_box,
    tight_cuboid,
    to_cover,
    to_iou,
)

SHAPE = (3, 5, 7)
"""Slices, height, width: no two are the same, so that axes cannot be mistaken for each other."""

masks = arrays(bool, SHAPE)
blocks = st.tuples(*(st.tuples(st.integers(0, n - 1), st.integers(1, n)) for n in SHAPE))
seeds = st.integers(0, 2**32 - 1)
EMPTY = np.zeros(SHAPE, bool)
FULL = np.ones(SHAPE, bool)


def block(*ranges, shape=SHAPE):
    """A mask that is true from start to stop along slices, y, x."""
    mask = np.zeros(shape, bool)
    mask[tuple(slice(start, stop) for start, stop in ranges)] = True
    return mask


def voxel(k, y, x, shape=SHAPE):
    return block((k, k + 1), (y, y + 1), (x, x + 1), shape=shape)


def rng(seed=0):
    return np.random.default_rng(seed)


def index(click):
    return click.slice, int(click.y), int(click.x)


def brute_depth(mask, spacing):
    """Distance of each voxel to the nearest one outside, all pairs; beyond the array is outside."""
    padded = np.pad(mask, 1)
    inside, outside = np.argwhere(padded), np.argwhere(~padded)
    away = np.linalg.norm((inside[:, None] - outside[None]) * np.asarray(spacing), axis=-1).min(axis=1)
    depth = np.zeros(padded.shape)
    depth[tuple(inside.T)] = away
    return depth[(slice(1, -1),) * mask.ndim]


def is_deepest(depth, place):
    return depth[place] == pytest.approx(depth.max())


@st.composite
def boxes(draw, most=40):
    """A picture and the tight box of something on it."""
    height, width = draw(st.integers(2, most)), draw(st.integers(2, most))
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    x1, y1 = draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))
    return (x0 - 0.5, y0 - 0.5, x1 - 0.5, y1 - 0.5), (height, width)


def assert_within(box, size):
    x0, y0, x1, y1 = box
    height, width = size
    assert all(type(edge) is float for edge in box)
    assert -0.5 <= x0 < x1 <= width - 0.5
    assert -0.5 <= y0 < y1 <= height - 0.5
    assert min(x1 - x0, y1 - y0) >= 1 - 1e-9


# Points


@given(masks, st.integers(1, 40), seeds)
def test_random_points_lie_on_the_object_and_repeat_only_when_they_must(mask, k, seed):
    points = random_points(mask, k, rng(seed))
    voxels = int(mask.sum())
    assert len(points) == (k if voxels else 0)
    assert all(point.inside and mask[index(point)] for point in points)
    times = Counter(points).values()
    assert not times or max(times) - (min(times) if len(times) == voxels else 0) <= 1


def test_random_points_are_uniform():
    mask = block((0, 1), (1, 3), (2, 4))
    random = rng()
    found = Counter(random_points(mask, 1, random)[0] for _ in range(4000))
    assert len(found) == 4
    assert all(900 < times < 1100 for times in found.values())


def test_a_single_voxel_is_named_slice_x_y():
    mask = voxel(2, 1, 5)
    expected = Click(slice=2, x=5.0, y=1.0, inside=True)
    assert random_points(mask, 2, rng()) == (expected, expected)
    assert per_slice(mask, 1, rng()) == (expected,)
    assert interior_click(mask) == expected
    assert interior_clicks(mask) == (expected,)
    assert error_click(EMPTY, mask) == expected
    assert error_clicks(EMPTY, mask) == (expected,)
    assert random_error_click(EMPTY, mask, rng()) == expected
    assert random_error_clicks(EMPTY, mask, rng()) == (expected,)
    assert most_agreed(mask[2].astype(np.float32), rng()) == Click(slice=0, x=5.0, y=1.0, inside=True)


@given(masks, st.integers(1, 4), seeds)
def test_per_slice_gives_k_to_each_slice_that_shows_the_object(mask, k, seed):
    points = per_slice(mask, k, rng(seed))
    assert all(point.inside and mask[index(point)] for point in points)
    assert Counter(point.slice for point in points) == {s: k for s in range(len(mask)) if mask[s].any()}


@given(arrays(np.float32, (4, 6), elements=st.sampled_from([0, 0.25, 0.5, 1])), seeds)
def test_most_agreed_picks_a_pixel_of_the_maximum(soft, seed):
    click = most_agreed(soft, rng(seed))
    if not soft.any():
        assert click is None
    else:
        assert click.inside
        assert soft[int(click.y), int(click.x)] == soft.max()


def test_most_agreed_is_uniform_over_the_maximum():
    soft = np.array([[0.5, 1, 0], [0, 1, 0.9]])
    random = rng()
    found = Counter((click.x, click.y) for click in (most_agreed(soft, random) for _ in range(2000)))
    assert found.keys() == {(1.0, 0.0), (1.0, 1.0)}
    assert all(900 < times < 1100 for times in found.values())


@pytest.mark.shared
def test_most_agreed_can_draw_what_the_official_code_drew(shared):
    case = json.loads((shared / "golden/med_sa/functions.json").read_text())["click2d"]
    soft = np.array(case["mask"])
    random = rng()
    drawn = {(click.x, click.y) for click in (most_agreed(soft, random) for _ in range(400))}
    assert len(drawn) == np.count_nonzero(soft == soft.max())
    assert {tuple(draw) for draw in case["draws_xy"]} <= drawn


# Interior clicks


spacings = st.tuples(*(st.sampled_from([0.5, 1.0, 1.7, 5.0]) for _ in SHAPE))


@given(masks, spacings)
def test_the_interior_click_is_a_deepest_voxel(mask, spacing):
    click = interior_click(mask, spacing)
    if not mask.any():
        assert click is None
    else:
        assert click.inside
        assert is_deepest(brute_depth(mask, spacing), index(click))


@given(masks, spacings)
def test_interior_clicks_are_deepest_on_their_slices(mask, spacing):
    clicks = interior_clicks(mask, spacing[1:])
    assert [click.slice for click in clicks] == np.flatnonzero(mask.any(axis=(1, 2))).tolist()
    for click in clicks:
        assert is_deepest(brute_depth(mask[click.slice], spacing[1:]), (int(click.y), int(click.x)))


@given(masks, spacings)
def test_a_transposed_object_has_a_transposed_interior_click(mask, spacing):
    """Up to voxels that are equally deep."""
    assume(mask.any())
    s, y, x = spacing
    straight, turned = interior_click(mask, spacing), interior_click(mask.transpose(0, 2, 1), (s, x, y))
    depth = brute_depth(mask, spacing)
    assert depth[index(straight)] == pytest.approx(depth[turned.slice, int(turned.x), int(turned.y)])


def test_a_transposed_object_has_transposed_clicks():
    shape = (4, 12, 20)
    k, y, x = np.indices(shape)
    mask = ((x - 13) / 6) ** 2 + ((y - 4) / 4) ** 2 + ((k - 2) / 2) ** 2 < 1
    nothing = np.zeros(shape, bool)
    assert interior_click(mask) == Click(2, 13.0, 4.0, True)
    assert interior_click(mask.transpose(0, 2, 1)) == Click(2, 4.0, 13.0, True)
    assert error_click(nothing, mask) == Click(2, 13.0, 4.0, True)
    assert error_click(*(m.transpose(0, 2, 1) for m in (nothing, mask))) == Click(2, 4.0, 13.0, True)


def test_the_interior_click_of_a_block_is_its_middle():
    mask = block((1, 6), (2, 7), (3, 14), shape=(8, 9, 20))
    assert interior_click(mask) == Click(3, 8.0, 4.0, True)


def test_beyond_the_array_is_outside():
    assert interior_click(np.ones((5, 7, 11), bool)) == Click(2, 5.0, 3.0, True)


@pytest.mark.parametrize("spacing", [(1, 1, 1), (5, 1, 1), (0.2, 1, 1)])
def test_a_picture_or_a_flat_object_is_clicked_in_the_middle_of_its_area(spacing):
    """Along slices every voxel of it is at the surface."""
    wide = block((0, 1), (2, 11), (3, 12), shape=(1, 14, 30)) | block((0, 1), (5, 8), (12, 29), shape=(1, 14, 30))
    assert interior_click(wide, spacing) == Click(0, 7.0, 6.0, True)
    assert interior_click(np.concatenate([~wide & wide, wide, ~wide & wide]), spacing) == Click(1, 7.0, 6.0, True)


def test_anisotropic_spacing_moves_the_deepest_point():
    """A wide part on few slices against a narrow one on many: which is deeper depends on the spacing."""
    shape = (9, 11, 24)
    plate, column = block((3, 6), (1, 10), (1, 10), shape=shape), block((0, 9), (3, 8), (14, 19), shape=shape)
    both = plate | column
    assert interior_click(both, (1, 1, 1)).x == 16.0
    assert interior_click(both, (4, 1, 1)).x == 5.0
    flat = block((0, 1), (0, 3), (0, 9), shape=(1, 9, 20)) | block((0, 1), (4, 9), (10, 15), shape=(1, 9, 20))
    nothing = np.zeros(flat.shape, bool)
    for step, x in ((1, 12.0), (4, 4.0)):
        assert interior_clicks(flat, (step, 1)) == (interior_click(flat, (0.5, step, 1)),)
        assert interior_clicks(flat, (step, 1))[0].x == x
    thick = block((0, 1), (0, 3), (0, 9), shape=(1, 9, 20)) | block((0, 1), (2, 7), (9, 14), shape=(1, 9, 20))
    for step, x in ((1, 11.0), (4, 4.0)):
        assert error_clicks(thick, nothing, spacing=(step, 1))[0].x == x
    assert interior_clicks(flat.transpose(0, 2, 1), (1, 4))[0].y == 4.0


# Corrections


@given(masks, masks, spacings)
def test_an_error_click_is_deepest_in_a_largest_component_of_its_sign(predicted, reference, spacing):
    click = error_click(predicted, reference, spacing=spacing)
    if (predicted == reference).all():
        assert click is None
        return
    place = index(click)
    assert reference[place] == click.inside
    assert predicted[place] != click.inside
    full = np.ones((3, 3, 3))
    missing, _ = ndimage.label(reference & ~predicted, full)
    surplus, _ = ndimage.label(predicted & ~reference, full)
    labels = missing if click.inside else surplus
    component = labels == labels[place]
    sizes = [*np.bincount(missing.ravel())[1:], *np.bincount(surplus.ravel())[1:]]
    assert component.sum() == max(sizes)
    assert is_deepest(brute_depth(component, spacing), place)


@given(masks, masks)
def test_error_clicks_are_the_error_clicks_of_the_slices(predicted, reference):
    clicks = error_clicks(predicted, reference)
    assert [click.slice for click in clicks] == np.flatnonzero((predicted != reference).any(axis=(1, 2))).tolist()
    for click in clicks:
        alone = error_click(predicted[click.slice][None], reference[click.slice][None])
        assert alone == Click(0, click.x, click.y, click.inside)


@given(masks, masks, seeds)
def test_random_error_clicks_lie_on_errors_of_their_sign(predicted, reference, seed):
    wrong = predicted != reference
    one, all_slices = (f(predicted, reference, rng(seed)) for f in (random_error_click, random_error_clicks))
    assert (one is None) == (not wrong.any())
    assert [click.slice for click in all_slices] == np.flatnonzero(wrong.any(axis=(1, 2))).tolist()
    for click in (*all_slices, *((one,) if one else ())):
        assert wrong[index(click)]
        assert reference[index(click)] == click.inside


def test_random_error_clicks_are_uniform_over_all_errors_whatever_their_component():
    reference = block((0, 1), (0, 1), (0, 3))
    predicted = voxel(2, 4, 6)
    random = rng()
    found = Counter(index(random_error_click(predicted, reference, random)) for _ in range(4000))
    assert found.keys() == {(0, 0, 0), (0, 0, 1), (0, 0, 2), (2, 4, 6)}
    assert all(900 < times < 1100 for times in found.values())


def test_a_larger_surplus_outweighs_a_smaller_gap():
    reference = block((0, 1), (0, 2), (0, 2))
    predicted = block((2, 3), (2, 5), (3, 6))
    assert error_click(predicted, reference) == Click(2, 4.0, 3.0, False)
    assert error_click(reference, predicted) == Click(2, 4.0, 3.0, True)


def test_of_equal_errors_the_missing_one_counts():
    assert error_click(voxel(0, 0, 0), voxel(2, 4, 6)).inside
    assert error_click(voxel(2, 4, 6), voxel(0, 0, 0)).inside


def test_gap_and_surplus_that_touch_are_two_errors():
    reference, predicted = block((1, 2), (0, 5), (0, 2)), block((1, 2), (0, 5), (2, 7))
    assert error_click(predicted, reference) == Click(1, 4.0, 2.0, False)


def test_corners_join_a_component():
    """Four voxels in a diagonal outweigh three in a row."""
    reference = EMPTY.copy()
    reference[1, range(4), range(4)] = True
    reference[1, 0, 4:] = True
    click = error_click(EMPTY, reference)
    assert click.x == click.y


def test_correcting_ends():
    """Whoever fills the voxels around each click is done in the end, and each click is still wrong before."""
    reference, predicted = block((0, 3), (1, 5), (1, 4)), block((1, 2), (0, 3), (2, 7))
    near = np.indices(SHAPE)
    for _ in range(int((reference ^ predicted).sum()) + 1):
        click = error_click(predicted, reference)
        if click is None:
            break
        place = np.array(index(click)).reshape(3, 1, 1, 1)
        around = (abs(near - place) <= 1).all(axis=0)
        predicted = np.where(around, reference, predicted)
    assert (predicted == reference).all()


# Boxes


def test_the_box_of_one_pixel():
    mask = voxel(1, 4, 3)
    assert tight_box(mask[1]) == (2.5, 3.5, 3.5, 4.5)
    assert tight_cuboid(mask) == Cuboid(1, 1, (2.5, 3.5, 3.5, 4.5))
    picture = np.zeros((9, 8), bool)
    picture[5, 3] = True
    assert tight_box(picture) == (2.5, 4.5, 3.5, 5.5)


@given(masks)
def test_a_tight_cuboid_holds_all_and_touches_every_side(mask):
    cuboid = tight_cuboid(mask)
    if not mask.any():
        assert cuboid is None
        return
    k, y, x = np.nonzero(mask)
    x0, y0, x1, y1 = cuboid.rectangle
    assert (cuboid.first, cuboid.last) == (k.min(), k.max())
    assert (x0, x1) == (x.min() - 0.5, x.max() + 0.5)
    assert (y0, y1) == (y.min() - 0.5, y.max() + 0.5)
    assert tight_box(mask.any(axis=0)) == cuboid.rectangle


@given(boxes(), st.sampled_from(["sam", "uniform"]), st.floats(0, 2), seeds)
def test_jittered_boxes_stay_in_the_picture_and_are_not_empty(drawn, rule, share, seed):
    box, size = drawn
    moved = jittered(box, share, rng(seed), size, rule)
    assert_within(moved, size)
    assert jittered(box, 0, rng(seed), size, rule) == box


@given(boxes(), st.floats(0.01, 0.3), seeds)
def test_uniform_jitter_moves_no_edge_by_more_than_the_share(drawn, share, seed):
    box, size = drawn
    width, height = box[2] - box[0], box[3] - box[1]
    assume(min(width, height) > 2.5)
    moved = jittered(box, share, rng(seed), size, "uniform")
    steps = np.abs(np.subtract(moved, box)) / (width, height, width, height)
    assert steps.max() <= share + 1e-9


def test_uniform_jitter_moves_each_edge_on_its_own_over_the_whole_share():
    box, random = (299.5, 399.5, 399.5, 599.5), rng()
    moves = np.array([np.subtract(jittered(box, 0.1, random, (1024, 1024), "uniform"), box) for _ in range(3000)])
    assert np.abs(np.corrcoef(moves.T) - np.eye(4)).max() < 0.06
    assert moves.std(axis=0) == pytest.approx(np.array([20, 40, 20, 40]) / 12**0.5, rel=0.05)


def test_jitter_by_sams_rule():
    """A tenth of the side, each edge on its own, never more than 20 pixels."""
    box, size, random = (299.5, 399.5, 399.5, 599.5), (1024, 1024), rng()
    moves = np.array([np.subtract(jittered(box, 0.1, random, size), box) for _ in range(3000)])
    assert moves.mean(axis=0) == pytest.approx(0, abs=1)
    assert moves[:, [0, 2]].std(axis=0) == pytest.approx(9.6, rel=0.05)  # 10, and cut at two deviations
    assert np.abs(moves).max() == 20
    assert np.mean(np.abs(moves[:, 1]) == 20) == pytest.approx(0.317, abs=0.03)
    assert np.abs(np.corrcoef(moves.T) - np.eye(4)).max() < 0.06
    free = np.array([np.subtract(jittered(box, 0.1, random, size, most=1e9), box) for _ in range(3000)])
    assert free.std(axis=0) == pytest.approx([10, 20, 10, 20], rel=0.05)


def test_relaxed_moves_each_edge_by_the_share_of_its_own_side():
    assert relaxed((9.5, 19.5, 29.5, 59.5), 0.05, (100, 90)) == pytest.approx((8.5, 17.5, 30.5, 61.5))
    assert relaxed((0.5, 19.5, 20.5, 59.5), 0.25, (62, 90)) == pytest.approx((-0.5, 9.5, 25.5, 61.5))


@given(boxes(), st.floats(0, 3), st.floats(0, 3))
def test_relaxed_boxes_hold_the_tight_one_and_grow(drawn, share, more):
    box, size = drawn
    less, most = (relaxed(box, value, size) for value in sorted((share, more)))
    for relaxed_box in (less, most):
        assert_within(relaxed_box, size)
        assert box_cover(box, relaxed_box) == pytest.approx(1)
    assert box_cover(less, most) == pytest.approx(1)
    assert relaxed(box, 0, size) == box


@pytest.mark.parametrize(
    ("first", "last", "share", "expected"),
    [
        (10, 18, 0.05, (10, 18)),  # 9 slices: 0.45
        (10, 19, 0.05, (9, 20)),  # 10 slices: 0.5
        (10, 29, 0.1, (8, 31)),
        (1, 20, 0.1, (0, 22)),
        (10, 38, 0.1, (7, 39)),
        (10, 18, 0.0, (10, 18)),
    ],
)
def test_relaxed_along_slices(first, last, share, expected):
    cuboid = relaxed_cuboid(Cuboid(first, last, (9.5, 19.5, 29.5, 59.5)), share, (40, 100, 90))
    assert (cuboid.first, cuboid.last) == expected
    assert cuboid.rectangle == relaxed((9.5, 19.5, 29.5, 59.5), share, (100, 90))


@given(boxes(most=12), st.floats(0.01, 1), seeds)
def test_boxes_of_a_wanted_overlap(drawn, wanted, seed):
    """Whatever is wanted exists, but for an object that fills the picture and would need less than a pixel."""
    box, size = drawn
    fills = box == (-0.5, -0.5, size[1] - 0.5, size[0] - 0.5)
    for make, measure in ((to_iou, box_iou), (to_cover, box_cover)):
        if fills and wanted * size[0] * size[1] < 1 - 1e-9:
            with pytest.raises(InputError, match="fits into a picture"):
                make(box, wanted, rng(seed), size)
        else:
            moved = make(box, wanted, rng(seed), size)
            assert_within(moved, size)
            assert measure(box, moved) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("wanted", [0.05, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("size", [(5, 7), (64, 48), (1024, 512)])
@pytest.mark.parametrize("make", [to_iou, to_cover])
def test_overlaps_counted_on_a_fine_raster(make, size, wanted):
    height, width = size
    box = (width // 3 - 0.5, height // 4 - 0.5, width // 3 + width // 4 + 0.5, height // 4 + height // 2 + 0.5)
    moved = make(box, wanted, rng(5), size)
    xs, ys = ((np.arange(4000) + 0.5) / 4000 * n - 0.5 for n in (width, height))
    across = [(low < xs) & (xs < high) for low, _, high, _ in (box, moved)]
    down = [(low < ys) & (ys < high) for _, low, _, high in (box, moved)]
    areas = [a.sum() * d.sum() for a, d in zip(across, down, strict=True)]
    common = (across[0] & across[1]).sum() * (down[0] & down[1]).sum()
    share = common / areas[0] if make is to_cover else common / (sum(areas) - common)
    assert share == pytest.approx(wanted, abs=0.005)


def test_boxes_of_a_wanted_iou_are_moved_grown_and_shrunk():
    box, random = (99.5, 99.5, 139.5, 129.5), rng()
    moved = np.array([to_iou(box, 0.5, random, (256, 240)) for _ in range(400)])
    middles = moved[:, :2] + moved[:, 2:]
    areas = (moved[:, 2] - moved[:, 0]) * (moved[:, 3] - moved[:, 1])
    assert len(np.unique(moved, axis=0)) == 400
    assert all(40 < np.count_nonzero(side) < 360 for side in (*(middles > (239, 229)).T, areas > 1300, areas < 1100))


def test_a_single_pixel_and_a_whole_picture_have_such_boxes_too():
    pixel, picture = (2.5, 4.5, 3.5, 5.5), (-0.5, -0.5, 6.5, 8.5)
    for seed in range(20):
        assert box_iou(pixel, to_iou(pixel, 0.5, rng(seed), (9, 7))) == pytest.approx(0.5)
        assert box_iou(picture, to_iou(picture, 0.5, rng(seed), (9, 7))) == pytest.approx(0.5)
        assert box_cover(picture, to_cover(picture, 0.1, rng(seed), (9, 7))) == pytest.approx(0.1)


@pytest.mark.parametrize("make", [to_iou, to_cover])
def test_an_overlap_that_the_picture_does_not_allow(make):
    with pytest.raises(InputError, match=r"of 0\.1 to the box .* fits into a picture of \(2, 3\) pixels"):
        make((-0.5, -0.5, 2.5, 1.5), 0.1, rng(), (2, 3))


def test_overlaps_by_hand():
    box, other = (0.0, 0.0, 4.0, 2.0), (3.0, 1.0, 5.0, 5.0)
    assert (box_iou(box, other), box_cover(box, other), box_cover(other, box)) == (1 / 15, 1 / 8, 1 / 8)
    assert box_iou(box, (4.0, 0.0, 8.0, 2.0)) == box_iou(box, (9.0, 9.0, 10.0, 10.0)) == 0
    assert box_iou(box, box) == box_cover(box, box) == 1


# Slices and objects


@given(arrays(bool, (12, 1, 1)), st.integers(1, 13))
def test_key_slices_show_the_object_and_reach_its_ends(mask, count):
    shown = np.flatnonzero(mask.any(axis=(1, 2))).tolist()
    chosen = key_slices(mask, count)
    assert sorted(set(chosen)) == list(chosen)
    assert set(chosen) <= set(shown)
    assert len(chosen) == min(count, len(shown))
    if count >= 2 and shown:
        assert (chosen[0], chosen[-1]) == (shown[0], shown[-1])
        steps = np.diff([shown.index(s) for s in chosen])
        assert not len(steps) or steps.max() - steps.min() <= 1


def test_key_slices_by_hand():
    mask = block((2, 13), (0, 1), (0, 1), shape=(15, 4, 3))
    assert [key_slices(mask, n) for n in (1, 2, 3, 5)] == [(7,), (2, 12), (2, 7, 12), (2, 5, 7, 10, 12)]
    mask[4, :2] = True
    assert key_slices(mask, 1) == (4,)
    assert key_slices(np.zeros((3, 2, 2), bool), 2) == ()


@given(masks, st.integers(1, 5))
def test_components_are_the_parts_of_the_mask(mask, least):
    labels = components(mask, least)
    found, parts = ndimage.label(mask, np.ones((3, 3, 3)))
    kept = [part for part in range(1, parts + 1) if (found == part).sum() >= least]
    assert labels.dtype == np.int32
    assert objects(labels) == tuple(range(1, len(kept) + 1))
    for number, part in enumerate(kept, start=1):
        assert ((labels == number) == (found == part)).all()
    assert ((labels > 0) <= mask).all()


def test_components_by_hand():
    mask = voxel(0, 0, 0) | voxel(1, 1, 1) | voxel(0, 4, 6) | block((2, 3), (4, 5), (0, 3))
    labels = components(mask)
    assert objects(labels) == (1, 2, 3)
    assert labels[0, 0, 0] == labels[1, 1, 1] == 1  # a shared corner is enough
    assert labels[0, 4, 6] == 2
    assert objects(components(mask, least=3)) == (1,)
    assert components(mask, least=3)[2, 4, 1] == 1


def test_objects_are_the_numbers_that_occur():
    instances = np.array([[[0, 7, 7], [2, 0, 300]]], np.uint16)
    assert objects(instances) == (2, 7, 300)
    assert objects(np.zeros((1, 2, 3), np.int64)) == ()


# Nothing, everything, and repetition


def test_nothing_is_made_up_for_an_empty_mask():
    assert random_points(EMPTY, 3, rng()) == per_slice(EMPTY, 3, rng()) == interior_clicks(EMPTY) == ()
    assert interior_click(EMPTY) is most_agreed(EMPTY[0], rng()) is tight_box(EMPTY[0]) is tight_cuboid(EMPTY) is None
    assert key_slices(EMPTY, 1) == objects(components(EMPTY)) == ()


@pytest.mark.parametrize("mask", [EMPTY, FULL, voxel(1, 2, 3)])
def test_nothing_is_corrected_where_nothing_is_wrong(mask):
    assert error_click(mask, mask) is random_error_click(mask, mask, rng()) is None
    assert error_clicks(mask, mask) == random_error_clicks(mask, mask, rng()) == ()


def test_a_full_mask():
    assert tight_cuboid(FULL) == Cuboid(0, 2, (-0.5, -0.5, 6.5, 4.5))
    assert error_click(FULL, EMPTY) == Click(1, 3.0, 2.0, False)
    assert error_clicks(EMPTY, FULL) == tuple(Click(s, 3.0, 2.0, True) for s in range(3))
    assert relaxed((-0.5, -0.5, 6.5, 4.5), 0.2, (5, 7)) == (-0.5, -0.5, 6.5, 4.5)


RANDOM = {
    "random_points": lambda random: random_points(FULL, 4, random),
    "most_agreed": lambda random: most_agreed(FULL[0], random),
    "per_slice": lambda random: per_slice(FULL, 2, random),
    "random_error_click": lambda random: random_error_click(FULL, EMPTY, random),
    "random_error_clicks": lambda random: random_error_clicks(FULL, EMPTY, random),
    "jittered, sam": lambda random: jittered((9.5, 9.5, 19.5, 29.5), 0.1, random, (60, 50)),
    "jittered, uniform": lambda random: jittered((9.5, 9.5, 19.5, 29.5), 0.1, random, (60, 50), "uniform"),
    "to_iou": lambda random: to_iou((9.5, 9.5, 19.5, 29.5), 0.5, random, (60, 50)),
    "to_cover": lambda random: to_cover((9.5, 9.5, 19.5, 29.5), 0.5, random, (60, 50)),
}


@pytest.mark.parametrize("name", RANDOM)
def test_a_seed_repeats_and_another_one_differs(name):
    draw = RANDOM[name]
    assert draw(rng(7)) == draw(rng(7))
    assert len({draw(rng(seed)) for seed in range(12)}) > 1


@given(masks, masks, seeds)
def test_masks_are_left_as_they_are(predicted, reference, seed):
    before = predicted.copy(), reference.copy()
    predicted.flags.writeable = reference.flags.writeable = False
    error_click(predicted, reference)
    random_error_clicks(predicted, reference, rng(seed))
    interior_click(reference)
    components(reference, 2)
    assert (predicted == before[0]).all()
    assert (reference == before[1]).all()


# Bad input

ON_A_MASK = {
    "random_points": lambda mask: random_points(mask, 1, rng()),
    "per_slice": lambda mask: per_slice(mask, 1, rng()),
    "interior_click": interior_click,
    "interior_clicks": interior_clicks,
    "error_click": lambda mask: error_click(FULL, mask),
    "error_clicks": lambda mask: error_clicks(mask, FULL),
    "random_error_click": lambda mask: random_error_click(FULL, mask, rng()),
    "random_error_clicks": lambda mask: random_error_clicks(mask, FULL, rng()),
    "tight_cuboid": tight_cuboid,
    "key_slices": lambda mask: key_slices(mask, 1),
    "components": components,
}
ON_A_PAIR = {
    "error_click": error_click,
    "error_clicks": error_clicks,
    "random_error_click": lambda *pair: random_error_click(*pair, rng()),
    "random_error_clicks": lambda *pair: random_error_clicks(*pair, rng()),
}


@pytest.mark.parametrize("name", ON_A_MASK)
@pytest.mark.parametrize("mask", [FULL.astype(np.uint8), FULL.astype(float), FULL[0], FULL[None], FULL[:0]])
def test_what_is_not_a_mask_is_refused(name, mask):
    with pytest.raises(ValueError, match=r"a mask is bool \(slices, height, width\) with voxels, not"):
        ON_A_MASK[name](mask)


@pytest.mark.parametrize("mask", [FULL[0].astype(np.int32), FULL, FULL[0, 0]])
def test_what_is_not_a_mask_of_a_slice_is_refused(mask):
    with pytest.raises(ValueError, match=r"a mask is bool \(height, width\)"):
        tight_box(mask)


@pytest.mark.parametrize("name", ON_A_PAIR)
@pytest.mark.parametrize("other", [FULL.transpose(0, 2, 1), FULL[:2], FULL[:1]])
def test_masks_of_two_shapes_are_refused(name, other):
    with pytest.raises(ValueError, match=r"the prediction has the shape .* but the reference \(3, 5, 7\)"):
        ON_A_PAIR[name](other, FULL)


@pytest.mark.parametrize("soft", [FULL, FULL[0].astype(complex), FULL[0].astype(object), np.zeros((0, 3))])
def test_what_is_not_a_soft_mask_is_refused(soft):
    with pytest.raises(ValueError, match="a mask of several raters is numbers"):
        most_agreed(soft, rng())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_soft_mask_with_values_that_are_not_finite_is_refused(value):
    with pytest.raises(ValueError, match="has finite values"):
        most_agreed(np.array([[0, 1], [value, 0]]), rng())


@pytest.mark.parametrize("count", [0, -3])
def test_counts_start_at_one(count):
    with pytest.raises(ValueError, match=f"number of points is at least 1, not {count}"):
        random_points(FULL, count, rng())
    with pytest.raises(ValueError, match="number of points on each slice is at least 1"):
        per_slice(FULL, count, rng())
    with pytest.raises(ValueError, match="number of key slices is at least 1"):
        key_slices(FULL, count)
    with pytest.raises(ValueError, match="number of voxels of a component is at least 1"):
        components(FULL, count)


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, -1, 1), (1, 1, np.nan), (np.inf, 1, 1), (1, 1, 1, 1)])
def test_a_bad_spacing_is_refused(spacing):
    with pytest.raises(ValueError, match="a spacing is 3 positive numbers"):
        interior_click(FULL, spacing)
    with pytest.raises(ValueError, match="a spacing is 3 positive numbers"):
        error_click(FULL, EMPTY, spacing=spacing)


@pytest.mark.parametrize("spacing", [(1,), (1, 0), (1, 1, 1)])
def test_a_bad_spacing_of_a_slice_is_refused(spacing):
    with pytest.raises(ValueError, match="a spacing is 2 positive numbers"):
        interior_clicks(FULL, spacing)
    with pytest.raises(ValueError, match="a spacing is 2 positive numbers"):
        error_clicks(FULL, EMPTY, spacing=spacing)


ON_A_BOX = {
    "jittered": lambda box: jittered(box, 0.1, rng(), (9, 6)),
    "relaxed": lambda box: relaxed(box, 0.1, (9, 6)),
    "relaxed_cuboid": lambda box: relaxed_cuboid(Cuboid(0, 1, box), 0.1, (4, 9, 6)),
    "to_iou": lambda box: to_iou(box, 0.5, rng(), (9, 6)),
    "to_cover": lambda box: to_cover(box, 0.5, rng(), (9, 6)),
}


@pytest.mark.parametrize("name", ON_A_BOX)
@pytest.mark.parametrize(
    "box",
    [
        (1.5, 1.5, 1.5, 4.5),  # no width
        (1.5, 4.5, 3.5, 2.5),  # upside down
        (-1.5, 1.5, 3.5, 4.5),
        (1.5, 1.5, 7.5, 4.5),  # wider than the picture, but not than it is high
        (1.5, 1.5, 3.5, 8.6),
        (np.nan, 1.5, 3.5, 4.5),
        (1.5, 1.5, np.inf, 4.5),
    ],
)
def test_a_box_that_is_none_or_not_in_the_picture_is_refused(name, box):
    with pytest.raises(ValueError, match=r"a box is x0 < x1 between -0\.5 and 5\.5 and y0 < y1 between -0\.5 and 8\.5"):
        ON_A_BOX[name](box)


@pytest.mark.parametrize("share", [-0.1, np.nan, np.inf])
def test_a_bad_share_is_refused(share):
    box = (1.5, 1.5, 3.5, 4.5)
    for call in (
        lambda: jittered(box, share, rng(), (9, 6)),
        lambda: relaxed(box, share, (9, 6)),
        lambda: relaxed_cuboid(Cuboid(0, 1, box), share, (4, 9, 6)),
    ):
        with pytest.raises(ValueError, match="share of the side is 0 or more"):
            call()
    with pytest.raises(ValueError, match="number of pixels is 0 or more"):
        jittered(box, 0.1, rng(), (9, 6), most=share)


def test_an_unknown_jitter_is_refused():
    with pytest.raises(ValueError, match="no rule 'gauss' to move edges; there are: sam, uniform"):
        jittered((1.5, 1.5, 3.5, 4.5), 0.1, rng(), (9, 6), "gauss")


@pytest.mark.parametrize(("first", "last"), [(-1, 2), (2, 1), (0, 4), (4, 4)])
def test_a_cuboid_outside_the_volume_is_refused(first, last):
    with pytest.raises(ValueError, match="a cuboid covers slices between 0 and 3"):
        relaxed_cuboid(Cuboid(first, last, (1.5, 1.5, 3.5, 4.5)), 0.1, (4, 9, 6))


@pytest.mark.parametrize("wanted", [0, -0.5, 1.01, np.nan])
def test_an_overlap_outside_its_range_is_refused(wanted):
    box = (1.5, 1.5, 3.5, 4.5)
    with pytest.raises(ValueError, match="intersection over union is above 0 and at most 1"):
        to_iou(box, wanted, rng(), (9, 6))
    with pytest.raises(ValueError, match="covered share is above 0 and at most 1"):
        to_cover(box, wanted, rng(), (9, 6))


@pytest.mark.parametrize("instances", [FULL, FULL.astype(float), FULL[0].astype(int)])
def test_what_is_not_a_map_of_instances_is_refused(instances):
    with pytest.raises(ValueError, match="a map of instances is whole numbers"):
        objects(instances)


def test_negative_instances_are_refused():
    with pytest.raises(ValueError, match="but there is -1"):
        objects(np.array([[[0, -1]]]))
