import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from voxelsam.errors import InputError
from voxelsam.evaluate.lesions import Lesions, detect

masks = arrays(bool, (4, 5, 3))


def line(text):
    """A row of voxels: ``#`` is in the mask."""
    return np.array([[[mark == "#" for mark in text]]])


@pytest.mark.parametrize(
    ("guess", "truth", "expected"),
    [
        ("##..##", "##..##", Lesions(2, 2, 2, 2)),
        ("##....", "##..##", Lesions(2, 1, 1, 1)),
        ("##..##", "##....", Lesions(1, 1, 2, 1)),
        ("######", "##..##", Lesions(2, 2, 1, 1)),
        ("#....#", "######", Lesions(1, 1, 2, 2)),
        ("......", "##..##", Lesions(2, 0, 0, 0)),
        ("..##..", "##..##", Lesions(2, 0, 1, 0)),
        ("......", "......", Lesions(0, 0, 0, 0)),
    ],
)
def test_one_common_voxel_is_enough(guess, truth, expected):
    assert detect(line(guess), line(truth), 1.0) == expected


def test_scores_by_hand():
    found = Lesions(reference=4, found=3, prediction=5, right=2)
    assert (found.sensitivity, found.precision) == (0.75, 0.4)
    assert found.f1 == pytest.approx(2 * 0.75 * 0.4 / 1.15)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Lesions(0, 0, 0, 0), (math.nan, math.nan, math.nan)),
        (Lesions(2, 0, 0, 0), (0, math.nan, 0)),
        (Lesions(0, 0, 3, 0), (math.nan, 0, 0)),
        (Lesions(2, 0, 3, 0), (0, 0, 0)),
    ],
)
def test_scores_where_there_is_nothing(found, expected):
    assert (found.sensitivity, found.precision, found.f1) == pytest.approx(expected, nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(masks, masks)
def test_swapping_the_masks_swaps_both_sides(a, b):
    for match in ("overlap", "iou"):
        one, other = detect(a, b, 2.0, match=match, smallest=3), detect(b, a, 2.0, match=match, smallest=3)
        assert (one.reference, one.found) == (other.prediction, other.right)
        assert one.f1 == pytest.approx(other.f1, nan_ok=True)
        assert one.found <= one.reference


@settings(max_examples=40, deadline=None)
@given(masks)
def test_a_mask_finds_itself(a):
    for match, least in (("overlap", 0.1), ("iou", 1.0)):
        found = detect(a, a, 1.0, match=match, least_iou=least)
        assert found.reference == found.found == found.prediction == found.right


def test_voxels_that_share_a_corner_are_one_lesion():
    mask = np.zeros((3, 3, 3), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    assert detect(mask, mask, 1.0).reference == 1
    mask[1, 1, 1], mask[2, 2, 2] = False, True
    assert detect(mask, mask, 1.0).reference == 2


def test_parts_below_the_smallest_size_are_not_counted_but_may_find():
    truth, guess = line("####..#..."), line("#.......##")
    assert detect(guess, truth, 2.0, smallest=4.0) == Lesions(1, 1, 1, 0)
    assert detect(guess, truth, 2.0, smallest=4.1) == Lesions(1, 1, 0, 0)
    assert detect(guess, truth, 2.0) == Lesions(2, 1, 2, 1)
    small = line("......##..")  # hits the lesion that is too small to count, and is no mistake
    assert detect(small, truth, 2.0, smallest=4.0) == Lesions(1, 0, 1, 1)


def test_by_iou_parts_are_paired_one_to_one():
    joined, two = line("#####"), line("##.##")
    assert detect(joined, two, 1.0) == Lesions(2, 2, 1, 1)
    assert detect(joined, two, 1.0, match="iou") == Lesions(2, 1, 1, 1)
    assert detect(joined, two, 1.0, match="iou", least_iou=0.5) == Lesions(2, 0, 1, 0)
    assert detect(line("##..."), line("####."), 1.0, match="iou", least_iou=0.5) == Lesions(1, 1, 1, 1)


def test_as_many_pairs_as_possible_are_made():
    """The best pair alone would take the only partner of another lesion."""
    truth, guess = np.zeros((2, 3, 12), bool)
    truth[0, :8] = True  # overlaps both parts, the first one more
    truth[2, :2] = True
    guess[0, :5] = guess[1, :1] = guess[2, :1] = True  # touches both lesions
    guess[0, 6:8] = True
    found = detect(guess, truth, 1.0, match="iou", least_iou=0.1)
    assert (found.found, found.right) == (2, 2)


@settings(max_examples=60, deadline=None)
@given(masks, masks, st.sampled_from([0.05, 0.2, 0.5]))
def test_pairs_are_the_best_of_all_that_are_possible(a, b, least):
    near = np.ones((3, 3, 3))
    (parts, count), (lesions, number) = ndimage.label(a, near), ndimage.label(b, near)
    iou = np.array(
        [
            [
                ((parts == part) & (lesions == lesion)).sum() / ((parts == part) | (lesions == lesion)).sum()
                for part in range(1, count + 1)
            ]
            for lesion in range(1, number + 1)
        ]
    ).reshape(number, count)

    def most(rows):
        """The largest number of pairs, by trying every partner of the first lesion."""
        if not rows:
            return lambda taken: 0
        rest = most(rows[1:])
        return lambda taken: max(
            [rest(taken)]
            + [1 + rest(taken | {part}) for part in range(count) if part not in taken and iou[rows[0], part] >= least]
        )

    found = detect(a, b, 1.0, match="iou", least_iou=least)
    assert found.found == found.right == most(tuple(range(number)))(frozenset())


def test_specks_by_the_thousand_take_no_memory():
    specks = np.zeros((60, 60, 60), bool)
    specks[::2, ::2, ::2] = True
    for match in ("overlap", "iou"):
        assert detect(specks, specks, 1.0, match=match) == Lesions(27000, 27000, 27000, 27000)


@pytest.mark.parametrize("wrong", [{"voxel_volume": 0.0}, {"smallest": -1.0}, {"least_iou": 0.0}, {"least_iou": 1.1}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match="lesions need a voxel volume"):
        detect(line("#"), line("#"), **({"voxel_volume": 1.0} | wrong))


def test_other_shapes_are_refused():
    with pytest.raises(InputError, match="two masks of one shape"):
        detect(np.zeros((2, 2, 1), bool), np.zeros((1, 2, 2), bool), 1.0)
