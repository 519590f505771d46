"""Distances of surfaces against brute force, other libraries and published numbers."""

import json
import math
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import surface_distance
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jaxtyping import TypeCheckError
from scipy import ndimage

from voxelsam.errors import InputError
from voxelsam.evaluate import surface
from voxelsam.evaluate.surface import assd, distances, hd, hd95, hd95_pooled, nsd

pytestmark = pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")  # of surface_distance

SPACING = (0.7, 1.1, 2.3)
ORDERS = list(permutations(range(3)))

masks = arrays(bool, (4, 3, 5))
flat = arrays(bool, (4, 5))
spacings = st.tuples(*[st.sampled_from([0.5, 0.7, 1.0, 1.1, 2.3, 5.0])] * 3)
ALL = (hd, hd95, hd95_pooled, assd, lambda a, b, spacing: nsd(a, b, spacing, 1.3))


def ball(shape, centre, radius, spacing=(1, 1, 1)):
    offsets = np.indices(shape) - np.reshape(centre, (3, 1, 1, 1))
    return (np.square(offsets * np.reshape(spacing, (3, 1, 1, 1))).sum(0) <= radius**2).astype(bool)


def border(mask, outside=False):
    """Places of a mask that have a neighbour across a face which is not in it, one by one."""
    found = []
    for place in np.argwhere(mask):
        for axis, step in product(range(mask.ndim), (-1, 1)):
            other = place.copy()
            other[axis] += step
            inside = 0 <= other[axis] < mask.shape[axis]
            if not (mask[tuple(other)] if inside else outside):
                found.append(place)
                break
    return np.array(found).reshape(-1, mask.ndim)


def brute(a, b, spacing, outside=False):
    """Both lists of nearest distances, from every pair of border voxels."""
    first, second = border(a, outside), border(b, outside)
    table = np.linalg.norm((first[:, None] - second[None]) * np.asarray(spacing), axis=2)
    return table.min(axis=1), table.min(axis=0)


def values(a, b, spacing):
    return [measure(a, b, spacing) for measure in ALL]


def same(first, second):
    """Up to the precision of the areas, which MONAI gives as float32."""
    return first == pytest.approx(second, nan_ok=True, rel=1e-6)


@pytest.mark.parametrize("faces", ["closed", "open"])
@settings(max_examples=40, deadline=None)
@given(a=masks, b=masks, spacing=spacings)
def test_distances_are_those_of_all_pairs(faces, a, b, spacing):
    found = distances(a, b, spacing, faces=faces)
    if not len(border(a, faces == "open")) or not len(border(b, faces == "open")):
        assert not found.pooled.size
        return
    there, back = brute(a, b, spacing, faces == "open")
    assert np.sort(found.forward) == pytest.approx(np.sort(there))
    assert np.sort(found.backward) == pytest.approx(np.sort(back))
    assert found.hd == pytest.approx(max(there.max(), back.max()))
    assert found.hd95 == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    assert found.hd95_pooled == pytest.approx(np.percentile([*there, *back], 95))
    assert found.assd == pytest.approx(np.mean([*there, *back]))
    assert found.asd == pytest.approx(there.mean())


@settings(max_examples=30, deadline=None)
@given(flat, flat)
def test_outlines_of_flat_masks_are_measured_likewise(a, b):
    found = distances(a, b, (0.7, 2.3))
    if a.any() and b.any():
        there, back = brute(a, b, (0.7, 2.3))
        assert np.sort(found.forward) == pytest.approx(np.sort(there))
        assert np.sort(found.backward) == pytest.approx(np.sort(back))


@settings(max_examples=30, deadline=None)
@given(masks, masks)
def test_swapping_the_masks_changes_only_the_directed_mean(a, b):
    assert same(values(a, b, SPACING), values(b, a, SPACING))
    assert np.array_equal(distances(a, b, SPACING).forward, distances(b, a, SPACING).backward)


@settings(max_examples=30, deadline=None)
@given(masks, masks, st.sampled_from(ORDERS), st.sets(st.sampled_from([0, 1, 2])))
def test_turning_and_flipping_changes_nothing(a, b, order, flips):
    turned = [np.flip(mask.transpose(order), tuple(flips)) for mask in (a, b)]
    assert same(values(*turned, [SPACING[axis] for axis in order]), values(a, b, SPACING))


@settings(max_examples=30, deadline=None)
@given(masks, masks, st.sampled_from([0.5, 3.0, 10.0]))
def test_distances_grow_with_the_spacing(a, b, factor):
    wide = [step * factor for step in SPACING]
    assert same([measure(a, b, wide) for measure in ALL[:4]], [measure(a, b, SPACING) * factor for measure in ALL[:4]])
    assert same(nsd(a, b, wide, 1.3 * factor), nsd(a, b, SPACING, 1.3))


@settings(max_examples=30, deadline=None)
@given(masks, masks)
def test_the_rest_of_the_grid_does_not_matter(a, b):
    wider = [np.pad(mask, ((3, 4), (0, 5), (6, 1))) for mask in (a, b)]
    assert same(values(*wider, SPACING), values(a, b, SPACING))


@settings(max_examples=20, deadline=None)
@given(masks, masks)
def test_away_from_the_end_of_the_scan_open_is_closed(a, b):
    wider = [np.pad(mask, 1) for mask in (a, b)]
    ends = [distances(*wider, SPACING, faces=faces).pooled for faces in ("open", "closed")]
    assert np.array_equal(*ends)
    assert same(nsd(*wider, SPACING, 1.3, faces="open"), nsd(*wider, SPACING, 1.3))


@settings(max_examples=30, deadline=None)
@given(masks, masks, st.floats(0, 5), st.floats(0, 5))
def test_they_are_ordered_as_their_definitions_say(a, b, one, other):
    found = distances(a, b, SPACING)
    if found.pooled.size:
        assert 0 <= found.hd95_pooled <= found.hd + 1e-12
        assert 0 <= found.assd <= found.hd + 1e-12
        assert found.hd95 <= found.hd + 1e-12
        assert 0 <= nsd(a, b, SPACING, min(one, other)) <= nsd(a, b, SPACING, max(one, other)) <= 1 + 1e-12


@settings(max_examples=20, deadline=None)
@given(masks.filter(np.any))
def test_a_mask_lies_on_itself(a):
    assert values(a, a, SPACING) == [0, 0, 0, 0, 1]
    assert nsd(a, a, SPACING, 0) == 1


@settings(max_examples=40, deadline=None)
@given(masks.filter(np.any), masks.filter(np.any), spacings, st.floats(0.01, 6))
def test_surface_dice_is_that_of_the_reference_package(a, b, spacing, tolerance):
    judge = surface_distance.compute_surface_distances(b, a, spacing)
    expected = surface_distance.compute_surface_dice_at_tolerance(judge, tolerance)
    assert nsd(a, b, spacing, tolerance) == pytest.approx(expected, abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(flat.filter(np.any), flat.filter(np.any), st.floats(0.01, 6))
def test_flat_surface_dice_is_that_of_the_reference_package(a, b, tolerance):
    judge = surface_distance.compute_surface_distances(b, a, (0.7, 2.3))
    expected = surface_distance.compute_surface_dice_at_tolerance(judge, tolerance)
    assert nsd(a, b, (0.7, 2.3), tolerance) == pytest.approx(expected, abs=1e-5)


@pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")  # MONAI's own call
@settings(max_examples=15, deadline=None)
@given(masks.filter(np.any), masks.filter(np.any), spacings)
def test_distances_and_surface_dice_are_those_of_monai(a, b, spacing):
    import torch
    from monai import metrics

    first, second = (torch.from_numpy(mask)[None, None].float() for mask in (a, b))
    found, told = distances(a, b, spacing), {"include_background": True, "spacing": list(spacing)}
    assert found.hd == pytest.approx(float(metrics.compute_hausdorff_distance(first, second, **told)), rel=1e-5)
    assert found.hd95 == pytest.approx(
        float(metrics.compute_hausdorff_distance(first, second, percentile=95, **told)), rel=1e-5
    )
    assert found.assd == pytest.approx(
        float(metrics.compute_average_surface_distance(first, second, symmetric=True, **told)), rel=1e-5
    )
    assert found.asd == pytest.approx(float(metrics.compute_average_surface_distance(first, second, **told)), rel=1e-5)
    judged = metrics.compute_surface_dice(first, second, [1.33], use_subvoxels=True, **told)
    assert nsd(a, b, spacing, 1.33) == pytest.approx(float(judged), abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(masks.filter(np.any), masks.filter(np.any), spacings)
def test_the_pooled_percentile_is_the_formula_of_medpy(a, b, spacing):
    """Written down from its description: both directed sets of border voxels, by distance transform, stacked."""

    def directed(first, second):
        edges = [mask ^ ndimage.binary_erosion(mask) for mask in (first, second)]
        return ndimage.distance_transform_edt(~edges[1], sampling=spacing)[edges[0]]

    expected = np.percentile(np.hstack((directed(a, b), directed(b, a))), 95)
    assert hd95_pooled(a, b, spacing) == pytest.approx(expected)


class TestToys:
    """Cases on which libraries were run: medpy, surface-distance, MONAI (their versions of November 2026)."""

    def test_two_balls(self):
        a, b = ball((32,) * 3, (16,) * 3, 10), ball((32,) * 3, (16,) * 3, 12)
        assert hd95_pooled(a, b, (1.0, 1.0, 1.0)) == pytest.approx(2.236, abs=5e-4)
        assert hd95(a, b, (1.0, 1.0, 1.0)) == pytest.approx(2.236, abs=5e-4)
        assert assd(a, b, (1.0, 1.0, 1.0)) == pytest.approx(1.8909, abs=5e-5)
        assert nsd(a, b, (1.0, 1.0, 1.0), 2) == pytest.approx(0.9244, abs=5e-5)

    def test_a_small_false_blob_far_away(self):
        truth = ball((48,) * 3, (31,) * 3, 10)
        guess = truth.copy()
        guess[3:7, 21:25, 21:25] = True
        assert hd95_pooled(guess, truth, (1.0, 1.0, 1.0)) == 0
        assert hd95(guess, truth, (1.0, 1.0, 1.0)) == pytest.approx(17.51, abs=5e-3)
        assert nsd(guess, truth, (1.0, 1.0, 1.0), 2) == pytest.approx(0.9713, abs=5e-5)
        judge = surface_distance.compute_surface_distances(truth, guess, (1.0, 1.0, 1.0))
        assert surface_distance.compute_robust_hausdorff(judge, 95) == pytest.approx(16.58, abs=5e-3)  # area-weighted

    def test_spacing_decides(self):
        truth = np.zeros((9, 9, 9), bool)
        truth[3:6, 3:6, 3:6] = True
        assert hd(np.roll(truth, 2, 2), truth, (1.0, 1.0, 5.0)) == 10
        assert hd(np.roll(truth, 2, 0), truth, (1.0, 1.0, 5.0)) == 2


@pytest.mark.shared
@pytest.mark.parametrize(
    ("faces", "mean"), [("open", "recomputed"), ("closed", "erosion with the outside counting as background: ASSD_mm")]
)
def test_published_numbers_of_chaos(shared, faces, mean):
    folder = shared / "data" / "golden_metrics_chaos"
    known = json.loads((folder / "expected.json").read_text())
    guess, truth = (nib.load(folder / f"{name}.nii.gz") for name in ("segmentation", "reference"))
    spacing = tuple(float(step) for step in truth.header.get_zooms())
    found = distances(*(np.asarray(image.dataobj) > 0 for image in (guess, truth)), spacing, faces=faces)
    assert found.hd == known["recomputed_here"]["MSSD_mm"] == known["published"]["MSSD_mm"]
    if faces == "closed":
        assert found.assd == pytest.approx(known["other_definitions_give"][mean], rel=1e-9)
        return
    assert found.assd == pytest.approx(known["recomputed_here"]["ASSD_mm"], rel=1e-9)
    assert found.assd == pytest.approx(known["published"]["ASSD_mm"], abs=5e-4)
    assert found.hd95_pooled == pytest.approx(known["recomputed_here"]["HD95_mm_both_directions_pooled"], rel=1e-9)


def test_single_voxels():
    a, b = np.zeros((2, 5, 6, 7), bool)
    a[1, 2, 3], b[3, 2, 6] = True, True
    apart = math.hypot(2 * 0.7, 3 * 2.3)
    assert values(a, b, SPACING)[:4] == pytest.approx([apart] * 4)
    assert nsd(a, b, SPACING, apart) == 1
    assert nsd(a, b, SPACING, apart * 0.99) < 1


def test_a_distance_of_just_the_tolerance_is_within():
    a = np.zeros((12, 4, 4), bool)
    a[1:3, 1:3, 1:3] = True
    assert nsd(np.roll(a, 7, 0), a, (0.1, 1.0, 1.0), 0.7) == 1
    assert nsd(np.roll(a, 7, 0), a, (0.1, 1.0, 1.0), 0.69) < 1


def test_where_the_scan_cuts_a_structure_off_there_is_surface_if_closed_and_none_if_open():
    a, b = np.zeros((2, 4, 5, 6), bool)
    a[:, :, :3], b[:, :, :4] = True, True
    open_, closed = (distances(a, b, SPACING, faces=faces) for faces in ("open", "closed"))
    assert set(open_.pooled) == {2.3}
    assert (closed.pooled == 0).sum() > 0
    assert nsd(a, b, SPACING, 1, faces="open") == 0
    assert nsd(a, b, SPACING, 1) > 0.5


@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 4)])
def test_a_full_mask_has_a_surface_only_if_the_faces_are_closed(shape):
    full = np.ones(shape, bool)
    spacing = SPACING[: len(shape)]
    assert hd(full, full, spacing) == 0
    assert nsd(full, full, spacing, 1) == 1
    assert math.isnan(hd(full, full, spacing, faces="open"))
    assert math.isnan(nsd(full, full, spacing, 1, faces="open"))


@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 4), (1, 1, 1)])
@pytest.mark.parametrize("faces", ["closed", "open"])
def test_empty_masks_have_no_distance(shape, faces):
    none, some = np.zeros(shape, bool), np.zeros(shape, bool)
    some.flat[0] = True
    spacing = SPACING[: len(shape)]
    for pair in ((none, none), (none, some), (some, none)):
        found = distances(*pair, spacing, faces=faces)
        assert all(math.isnan(value) for value in (found.hd, found.hd95, found.hd95_pooled, found.assd, found.asd))
    assert math.isnan(nsd(none, none, spacing, 1, faces=faces))
    assert nsd(none, some, spacing, 1, faces=faces) == nsd(some, none, spacing, 1, faces=faces) == 0


def test_area_counts_and_not_voxels():
    """A flat slab of thick slices: its broad sides have most of the area but few of the border places."""
    a = np.zeros((12, 12, 6), bool)
    a[2:10, 2:10, 2:4] = True
    b = a.copy()
    b[:, :, 4] = b[:, :, 3]  # one broad side moves
    share = nsd(a, b, (1.0, 1.0, 5.0), 2.0)
    judge = surface_distance.compute_surface_distances(b, a, (1.0, 1.0, 5.0))
    assert share == pytest.approx(surface_distance.compute_surface_dice_at_tolerance(judge, 2.0), abs=1e-6)
    pooled = distances(a, b, (1.0, 1.0, 5.0)).pooled
    assert share > (pooled <= 2.0).mean() + 0.1


EMPTY = np.zeros((2, 3, 4), bool)


@pytest.mark.parametrize(
    ("second", "spacing", "message"),
    [
        (np.zeros((2, 3, 5), bool), SPACING, "two masks of one shape"),
        (EMPTY, (1.0, 1.0), "one positive number for each of the 3 axes"),
        (EMPTY, (1.0, 0.0, 1.0), "one positive number"),
        (EMPTY, (1.0, -2.0, 1.0), "one positive number"),
        (EMPTY, (1.0, math.nan, 1.0), "one positive number"),
        (EMPTY, (1.0, math.inf, 1.0), "one positive number"),
    ],
)
def test_what_cannot_be_measured_is_refused(second, spacing, message):
    for measure in ALL:
        with pytest.raises((InputError, TypeCheckError), match=f"{message}|Type-check error"):
            measure(EMPTY, second, spacing)


@pytest.mark.parametrize("tolerance", [-1.0, math.nan, math.inf])
def test_a_tolerance_is_a_distance(tolerance):
    with pytest.raises(InputError, match="tolerance"):
        nsd(EMPTY, EMPTY, SPACING, tolerance)


def test_there_is_no_default_spacing():
    with pytest.raises(TypeError, match="spacing"):
        surface.hd(EMPTY, EMPTY)
