import itertools
import math

import numpy as np
import pytest
from scipy import stats

from voxelsam.evaluate.statistics import (
    FEWEST,
    Tally,
    by_unit,
    holm,
    means,
    rank_biserial,
    signed_rank,
    spearman,
    tally,
)

NAN = math.nan
DICE = np.array([0.91, 0.88, 0.95, 0.62, 0.90, 0.93, 0.79, 0.97, 0.85, 0.92])


def column(*values):
    return np.array(values, float)[:, None]


def brute_force(differences):
    """Two-sided p of the signed-rank test: every choice of signs is equally likely."""
    pairs = np.array([value for value in differences if value])
    ranks = stats.rankdata(np.abs(pairs))
    middle = ranks.sum() / 2
    seen = abs(ranks[pairs > 0].sum() - middle)
    sums = [ranks[list(signs)].sum() for signs in itertools.product((False, True), repeat=len(pairs))]
    return np.mean([abs(total - middle) >= seen - 1e-9 for total in sums])


def test_the_interval_is_that_of_scipy():
    (ours,) = means(DICE[:, None], resamples=40_000)
    theirs = stats.bootstrap((DICE,), np.mean, n_resamples=40_000, method="BCa", rng=1).confidence_interval
    assert ours.value == pytest.approx(DICE.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=2e-3)
    plain = np.quantile([np.mean(np.random.default_rng(n).choice(DICE, DICE.size)) for n in range(2000)], 0.025)
    assert ours.low < plain - 2e-3  # the one bad case skews the mean


def test_two_cases_by_hand():
    """Four equally likely resamples: 0, 0.5, 0.5, 1."""
    (found,) = means(column(0, 1), level=0.4)
    assert (found.low, found.value, found.high) == (0.5, 0.5, 0.5)
    (wide,) = means(column(0, 1))
    assert (wide.low, wide.high) == (0, 1)


def test_the_interval_covers_the_true_mean_as_often_as_it_says():
    random = np.random.default_rng(7)
    samples = random.beta(9, 1, (40, 600))  # skewed as Dice is; the true mean is 0.9
    found = means(samples, resamples=1999)
    held = np.mean([each.low <= 0.9 <= each.high for each in found])
    assert 0.91 <= held <= 0.97
    half = np.mean([each.low <= 0.9 <= each.high for each in means(samples, resamples=1999, level=0.5)])
    assert 0.43 <= half <= 0.57


def test_five_cases_give_an_interval_that_is_too_narrow():
    """What docs/how-to/compare-models.md says of few cases."""
    samples = np.random.default_rng(7).beta(9, 1, (5, 600))
    held = np.mean([each.low <= 0.9 <= each.high for each in means(samples, resamples=1999)])
    assert 0.75 <= held <= 0.86


def test_patients_with_several_cases_are_drawn_whole():
    """Ten patients with five equal scans each know no more than ten scans."""
    scans = np.repeat(DICE, 5)[:, None]
    patients = np.repeat(np.arange(10), 5).tolist()
    (grouped,) = means(scans, patients)
    (alone,) = means(DICE[:, None])
    (naive,) = means(scans)
    assert (grouped.value, grouped.low, grouped.high) == pytest.approx((alone.value, alone.low, alone.high), abs=1e-12)
    assert (grouped.cases, grouped.units) == (50, 10)
    assert naive.high - naive.low < 0.6 * (grouped.high - grouped.low)


def test_patients_weigh_by_their_cases_in_a_mean_over_cases():
    (found,) = means(column(1, 1, 1, 0), ["a", "a", "a", "b"])
    assert found.value == 0.75


def test_undefined_scores_are_left_out_and_counted():
    (found,) = means(column(0.5, NAN, 0.7, NAN))
    (without,) = means(column(0.5, 0.7))
    assert found.value == pytest.approx(0.6)
    assert (found.cases, found.units) == (2, 2)
    assert (found.low, found.high) == pytest.approx((without.low, without.high), abs=1e-12)


@pytest.mark.parametrize("scores", [column(NAN, NAN, NAN), np.zeros((0, 1))])
def test_nothing_defined_has_no_mean(scores):
    (found,) = means(scores)
    assert (found.cases, found.units) == (0, 0)
    assert all(math.isnan(value) for value in (found.value, found.low, found.high))


def test_one_case_has_a_mean_and_no_interval():
    (found,) = means(column(0.5, NAN))
    assert (found.value, found.cases) == (0.5, 1)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_equal_scores_have_an_interval_of_no_width():
    (found,) = means(column(0.1, 0.1, 0.1, 0.1))
    assert (found.low, found.high) == (found.value, found.value)
    assert found.value == pytest.approx(0.1)


def test_classes_of_a_case_are_drawn_together():
    """Where two classes of a case always move against each other, their mean is certain."""
    pair = np.column_stack([DICE, 1 - DICE])
    first, second, mean = means(pair, together=[(0, 1)])
    assert first.high - first.low > 0.05
    assert second.value == pytest.approx(1 - first.value)
    assert (mean.low, mean.value, mean.high) == pytest.approx((0.5, 0.5, 0.5))


def test_a_mean_over_classes_is_the_mean_of_their_means():
    """Not that over all scores: the second class has one score in four."""
    scores = np.column_stack([[1, 1, 1, 1.0], [0, NAN, NAN, NAN]])
    *_, mean = means(scores, together=[(0, 1)])
    assert mean.value == 0.5
    assert mean.cases == 4


def test_a_class_without_any_score_is_no_part_of_the_mean_over_classes():
    scores = np.column_stack([DICE, np.full(10, NAN)])
    first, second, mean = means(scores, together=[(0, 1)])
    assert math.isnan(second.value)
    assert mean == first


def test_the_seed_decides():
    one, again, other = (means(DICE[:, None], seed=seed, resamples=500) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_many_cases_are_drawn_in_parts(monkeypatch):
    from voxelsam.evaluate import statistics

    whole = means(DICE[:, None], resamples=5000)
    monkeypatch.setattr(statistics, "_NUMBERS", 70)
    parts = means(DICE[:, None], resamples=5000)
    assert parts == whole


@pytest.mark.parametrize(
    "differences",
    [
        [0.1, 0.2, 0.3, -0.4, 0.5, 0.6, 0.7],
        [0.1, 0.1, 0.1, -0.1, 0.2, 0.2],  # ties
        [0, 0, 0.1, -0.2, 0.3, 0.3, 0.5],  # ties and zeros
        [1, 2, 3, 4, 5],
    ],
)
def test_p_is_that_of_all_signs_tried(differences):
    assert signed_rank(np.array(differences, float)).p == pytest.approx(brute_force(differences))


def test_p_of_wilcoxons_classical_example():
    """Cross- and self-fertilised plants of Darwin, as in scipy's documentation: p = 0.041."""
    plants = np.array([6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75], float)
    found = signed_rank(plants)
    assert found.p == pytest.approx(0.041259765625)
    assert found.pairs == 15


def test_many_pairs_are_tested_by_the_normal_distribution():
    differences = np.random.default_rng(0).normal(0.2, 1, 60)
    assert signed_rank(differences).p == pytest.approx(stats.wilcoxon(differences, method="asymptotic").pvalue)


def test_p_is_right_as_often_as_it_says():
    """Without any difference one test in twenty falls below 0.05."""
    random = np.random.default_rng(3)
    below = np.mean([signed_rank(random.normal(size=12)).p < 0.05 for _ in range(800)])
    assert 0.03 <= below <= 0.065


@pytest.mark.parametrize(("pairs", "smallest"), [(5, 0.0625), (6, 0.03125)])
def test_five_pairs_can_never_reach_five_percent(pairs, smallest):
    found = signed_rank(np.arange(1.0, pairs + 1))
    assert found.p == found.smallest == smallest
    assert (smallest > 0.05) == (pairs < FEWEST)


def test_pairs_without_a_difference_and_without_a_score_take_no_part():
    found = signed_rank(np.array([0.0, NAN, 1, 2, 3, 4, 5, 6, 0]))
    assert (found.pairs, found.p) == (6, 0.03125)


def test_equal_models_do_not_differ():
    found = signed_rank(np.zeros(9))
    assert (found.p, found.pairs) == (1.0, 0)
    assert rank_biserial(np.zeros(9)) == 0
    assert tally(np.zeros(9)) == Tally(0, 9, 0)


def test_nothing_to_test():
    nothing = np.array([NAN])
    assert math.isnan(signed_rank(nothing).p)
    assert math.isnan(rank_biserial(nothing))
    assert tally(nothing) == Tally(0, 0, 0)


def test_rounding_of_sums_makes_no_rank():
    """0.3 − 0.2 and 0.2 − 0.1 differ by 3e-17, and are the same difference."""
    noisy = np.array([0.3 - 0.2, 0.2 - 0.1, 0.1, -0.1])
    assert signed_rank(noisy).p == signed_rank(np.array([0.1, 0.1, 0.1, -0.1])).p
    assert tally(np.array([0.1 + 0.2 - 0.3]), 0.0) == Tally(0, 1, 0)


@pytest.mark.parametrize("seed", range(5))
def test_swapping_the_two_changes_signs_only(seed):
    differences = np.random.default_rng(seed).normal(0.3, 1, 20).round(1)
    there, back = signed_rank(differences), signed_rank(-differences)
    assert there == back
    assert rank_biserial(-differences) == -rank_biserial(differences)
    won, lost = tally(differences, 0.2), tally(-differences, 0.2)
    assert (won.wins, won.ties, won.losses) == (lost.losses, lost.ties, lost.wins)
    (mean,), (opposite,) = means(differences[:, None]), means(-differences[:, None])
    assert opposite.value == -mean.value
    assert (opposite.low, opposite.high) == pytest.approx((-mean.high, -mean.low), abs=1e-9)


def test_effect_by_hand():
    """Ranks 1, 2, 3, 4; the second speaks against: (1 + 3 + 4 − 2) / 10."""
    assert rank_biserial(np.array([0.1, -0.2, 0.3, 0.4])) == pytest.approx(0.6)
    assert rank_biserial(np.array([1.0, 2, 3])) == 1
    assert rank_biserial(np.array([-1.0, -2, 0])) == -1


def test_cases_within_the_margin_are_ties():
    assert tally(np.array([0.2, 0.1, 0.05, 0, -0.1, -0.3, NAN]), 0.1) == Tally(1, 4, 1)


def test_holm_by_hand():
    """0.01 × 4 = 0.04; 0.03 × 3 = 0.09; 0.02 × … is second: 0.02 × 3 = 0.06; 0.04 × 1 is below 0.06, so 0.06."""
    assert holm([0.01, 0.04, 0.03, 0.02]) == pytest.approx((0.04, 0.06, 0.06, 0.06))
    assert holm([0.01, 0.02, 0.03, 0.9]) == pytest.approx((0.04, 0.06, 0.06, 0.9))
    assert holm([0.6, 0.7]) == (1.0, 1.0)
    assert holm([0.02]) == (0.02,)
    assert holm([]) == ()


def test_holm_does_not_count_tests_that_could_not_be_made():
    corrected = holm([0.02, NAN, 0.03])
    assert corrected[0] == pytest.approx(0.04)
    assert math.isnan(corrected[1])


def test_holm_keeps_the_promise_over_all_tests():
    """Of twenty tests without any difference one run in twenty has a corrected p below 0.05."""
    random = np.random.default_rng(5)
    alarms = np.mean([min(holm(random.uniform(size=20).tolist())) < 0.05 for _ in range(2000)])
    assert 0.035 <= alarms <= 0.065


def test_a_patient_counts_once():
    values = np.array([0.2, 0.4, NAN, 1.0, NAN])
    assert by_unit(values, ["a", "a", "a", "b", "c"]) == pytest.approx([0.3, 1.0, NAN], nan_ok=True)
    assert by_unit(values, None) == pytest.approx(values, nan_ok=True)


def test_rank_correlation():
    first = np.array([1.0, 2, 3, 4, NAN, 9])
    assert spearman(first, first**3) == pytest.approx(1)
    assert spearman(first, -first) == pytest.approx(-1)
    known = spearman(np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 4]))
    assert known == pytest.approx(0.8)  # 1 − 6 · 2 / (4 · 15)


@pytest.mark.parametrize("second", [[1.0, 1, 1], [NAN, 1, 2]])
def test_no_rank_correlation_of_too_little(second):
    assert math.isnan(spearman(np.array([1.0, 2, 3]), np.array(second)))
