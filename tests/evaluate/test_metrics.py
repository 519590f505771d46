import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from jaxtyping import TypeCheckError
from scipy.spatial import distance

from voxelsam.errors import ConfigError, InputError
from voxelsam.evaluate import metrics
from voxelsam.evaluate.metrics import Counts, Overlap, count, count_classes, dice, iou, multi_threshold

masks = arrays(bool, (3, 4, 2))
EMPTY = np.zeros((2, 2), bool)
FULL = np.ones((2, 2), bool)


@given(masks, masks)
def test_dice_is_symmetric_bounded_and_tied_to_iou(a, b):
    value = dice(a, b, empty="one")
    assert value == dice(b, a, empty="one")
    assert 0 <= value <= 1
    overlap = iou(a, b, empty="one")
    assert value == pytest.approx(2 * overlap / (1 + overlap))


@given(masks)
def test_a_mask_equals_itself_and_misses_its_complement(a):
    assert dice(a, a, empty="one") == 1
    assert dice(a, ~a) == 0


@given(masks, masks)
def test_counts_add_up(a, b):
    counts = count(a, b)
    assert counts.tp + counts.fp + counts.fn + counts.tn == a.size
    assert (counts.predicted, counts.present) == (a.sum(), b.sum())


def test_values_by_hand():
    a, b = np.array([1, 1, 1, 0, 0], bool), np.array([0, 1, 1, 1, 1], bool)
    assert count(a, b) == Counts(tp=2, fp=1, fn=2, tn=0)
    assert dice(a, b) == pytest.approx(4 / 7)
    assert iou(a, b) == pytest.approx(2 / 5)


def test_agrees_with_scipy():
    random = np.random.default_rng(0)
    for _ in range(5):
        a, b = random.random((2, 336)) > 0.6
        assert dice(a, b) == pytest.approx(1 - distance.dice(a, b))
        assert iou(a, b) == pytest.approx(1 - distance.jaccard(a, b))


@pytest.mark.parametrize(("rule", "value"), [("one", 1), ("ma_sam", 1), ("zero", 0)])
def test_both_empty_follows_the_rule(rule, value):
    assert dice(EMPTY, EMPTY, empty=rule) == value
    assert iou(EMPTY, EMPTY, empty=rule) == value


@pytest.mark.parametrize("rule", ["nan", "nnunet"])
def test_both_empty_is_undefined_by_default(rule):
    assert math.isnan(dice(EMPTY, EMPTY))
    assert math.isnan(iou(EMPTY, EMPTY, empty=rule))


@pytest.mark.parametrize("rule", ["nan", "one", "zero"])
@pytest.mark.parametrize("pair", [(EMPTY, FULL), (FULL, EMPTY)])
def test_one_empty_is_zero_under_every_rule(rule, pair):
    assert dice(*pair, empty=rule) == 0
    assert iou(*pair, empty=rule) == 0


def test_unknown_rule_is_refused():
    with pytest.raises(ConfigError, match="no rule 'skip'"):
        dice(EMPTY, EMPTY, empty="skip")


def test_counts_of_classes_equal_those_of_single_masks(monkeypatch):
    monkeypatch.setattr(metrics, "_CHUNK", 17)  # several passes, the last one shorter
    random = np.random.default_rng(1)
    guess, truth = random.integers(0, 4, (2, 5, 6, 3), dtype=np.uint8)
    together = count_classes(guess, truth, 5)
    assert together == tuple(count(guess == value, truth == value) for value in range(5))
    assert together[4].both_empty


def test_voxels_that_do_not_count_are_left_out(monkeypatch):
    monkeypatch.setattr(metrics, "_CHUNK", 17)
    random = np.random.default_rng(2)
    guess, truth = random.integers(0, 3, (2, 5, 6, 3), dtype=np.uint8)
    counted = random.random(guess.shape) > 0.3
    truth[~counted] = 255
    for value, counts in enumerate(count_classes(guess, truth, 3, counted)):
        assert counts == count((guess == value)[counted], (truth == value)[counted])


SOFT = arrays(np.float64, (2, 3, 4), elements={"min_value": 0, "max_value": 1})


@given(SOFT, SOFT)
def test_soft_overlap_is_symmetric_and_bounded(a, b):
    value = multi_threshold(a, b)
    assert value == multi_threshold(b, a)
    assert 0 <= value.iou <= value.dice + 1e-4
    assert value.dice <= 1


@given(SOFT)
def test_a_soft_mask_overlaps_itself_whole(a):
    assert multi_threshold(a, a) == Overlap(1, 1)


def test_at_one_threshold_it_is_the_mean_over_images():
    a, b = np.random.default_rng(3).random((2, 5, 6, 7))
    value = multi_threshold(a, b, [0.4])
    pairs = list(zip(a > 0.4, b > 0.4, strict=True))
    assert value.iou == pytest.approx(np.mean([iou(*pair) for pair in pairs]), abs=1e-6)
    assert value.dice == pytest.approx(np.mean([dice(*pair) for pair in pairs]), abs=1e-5)


def test_thresholds_cut_prediction_and_reference_alike():
    prediction, reference = np.array([[0.95, 0.4, 0.0]]), np.array([[0.6, 0.8, 0.0]])
    shares = {0.1: 1, 0.3: 1, 0.5: 1 / 2, 0.7: 0, 0.9: 0}
    assert multi_threshold(prediction, reference).iou == pytest.approx(np.mean(list(shares.values())), abs=1e-5)
    for threshold, share in shares.items():
        assert multi_threshold(prediction, reference, (threshold,)).iou == pytest.approx(share, abs=1e-5)


def test_a_value_at_the_threshold_is_below_it():
    half = np.full((1, 4), 0.5)
    assert multi_threshold(half, np.ones((1, 4)), [0.5]).iou == pytest.approx(0, abs=1e-6)


def test_rightly_empty_images_score_one():
    assert multi_threshold(np.zeros((2, 3)), np.full((2, 3), 0.1)) == Overlap(1, 1)


@pytest.mark.parametrize(
    ("prediction", "reference", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 4)), "the same images"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "the same images"),
        (np.array([[-3.0, 8.0]]), np.zeros((1, 2)), "the prediction holds values from 0 to 1, but these run from -3.0"),
        (np.zeros((1, 2)), np.array([[0.0, 255.0]]), "the reference holds"),
        (np.array([[np.nan, 1.0]]), np.zeros((1, 2)), "the prediction holds"),
    ],
)
def test_arrays_that_are_no_soft_masks_are_refused(prediction, reference, message):
    with pytest.raises((InputError, TypeCheckError), match=f"{message}|Type-check error"):
        multi_threshold(prediction, reference)


def test_no_threshold_is_refused():
    with pytest.raises(InputError, match="at least one threshold"):
        multi_threshold(np.zeros((1, 2)), np.zeros((1, 2)), [])
