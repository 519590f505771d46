"""How sure a mean is, and whether two models differ.

Intervals are bootstrap intervals, bias-corrected and accelerated (BCa; Efron 1987, Journal of the American Statistical
Association 82:171): what is drawn again is the patient with all cases and all classes, because these are not
independent of each other. Pairs are tested by Wilcoxon's signed-rank test (Wilcoxon 1945, Biometrics Bulletin 1:80) and
corrected for their number after Holm (1979, Scandinavian Journal of Statistics 6:65); the size of an effect is the
matched-pairs rank-biserial correlation (Kerby 2014, Comprehensive Psychology 3:11.IT.3.1).

A score that is not defined is NaN and takes no part.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

LEVEL = 0.95
"""Of an interval: the share of such intervals that should hold the true mean."""
RESAMPLES = 9999
SEED = 1234
FEWEST = 6
"""With fewer pairs no two-sided signed-rank test can fall below 0.05: 2 / 2⁵ = 0.0625."""

_EXACT = 50
"""Up to here the exact distribution of the signed ranks is used where no two differences have the same size."""
_TIED = 13
"""Up to here it is also used where some have: all 2ⁿ signs are tried."""
_DIGITS = 12
"""Differences are compared to so many decimals, so that rounding makes no rank."""
_NUMBERS = 1 << 22
"""Weights in memory at a time."""

Scores = Float[np.ndarray, "cases columns"]
Values = Float[np.ndarray, " cases"]


@dataclass(frozen=True)
class Interval:
    """A mean, and where it may lie."""

    value: float
    """NaN if nothing is defined."""
    low: float
    """NaN with fewer than two patients."""
    high: float
    cases: int
    """With a defined score."""
    units: int
    """Patients among them; cases where patients are not known."""


@dataclass(frozen=True)
class SignedRank:
    """Wilcoxon's signed-rank test of paired differences, two-sided."""

    p: float
    """1 if all differences are 0; NaN if there is none."""
    pairs: int
    """Differences that are not 0; the others take no part."""
    smallest: float
    """The smallest p that so many pairs can give."""


@dataclass(frozen=True)
class Tally:
    """Cases in which the first is better, equal, worse."""

    wins: int
    ties: int
    losses: int


def means(
    scores: Scores,
    groups: Sequence[Hashable] | None = None,
    together: Sequence[Sequence[int]] = (),
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> tuple[Interval, ...]:
    """Mean of each column over its defined cases, and means over columns of these means, with bootstrap intervals.

    Every column comes from the same resamples. A resample in which a column has no defined score is left out of that
    column's interval.

    Args:
        scores: NaN where not defined.
        groups: The patient of each case; None: every case is a patient.
        together: Columns over which to take a further mean each, undefined ones left out.
        level: Of the intervals, 0..1.
        resamples: How often patients are drawn again.
        seed: Of the drawing.

    Returns:
        One interval per column, then one per entry of ``together``.
    """
    sums, counts = _per_unit(scores, groups)
    units = len(sums)
    whole = _ratios(np.ones((1, units)), sums, counts, together)[0]
    parts = [*([column] for column in range(scores.shape[1])), *(list(part) for part in together)]
    if units > 1:
        drawn = _drawn(sums, counts, together, resamples, seed)
        without = _ratios(1.0 - np.eye(units), sums, counts, together)
    found = []
    for number, value in enumerate(whole):
        cases = int((~np.isnan(scores[:, parts[number]])).any(axis=1).sum())
        taking = counts[:, parts[number]].any(axis=1)
        low = high = math.nan
        if taking.sum() > 1:
            low, high = _accelerated(float(value), drawn[:, number], without[taking, number], level)
        found.append(Interval(float(value), low, high, cases, int(taking.sum())))
    return tuple(found)


def signed_rank(differences: Values) -> SignedRank:
    """Tests whether paired differences lie evenly around 0.

    Pairs without a difference are left out (Wilcoxon's rule). The distribution is exact with up to 50 pairs, 13 where
    differences of the same size occur; above, it is the normal one.

    Args:
        differences: NaN where a pair has none.
    """
    from scipy.stats import PermutationMethod, wilcoxon

    rounded = _defined(differences)
    if not rounded.size:
        return SignedRank(math.nan, 0, math.nan)
    pairs = rounded[rounded != 0]
    smallest = min(1.0, 2.0 ** (1 - pairs.size))
    if not pairs.size:
        return SignedRank(1.0, 0, smallest)
    tied = len(np.unique(np.abs(pairs))) < pairs.size
    if tied and pairs.size <= _TIED:
        method = PermutationMethod(n_resamples=2**_TIED)
    else:
        method = "exact" if pairs.size <= _EXACT and not tied else "asymptotic"
    return SignedRank(float(wilcoxon(pairs, method=method).pvalue), int(pairs.size), smallest)


def rank_biserial(differences: Values) -> float:
    """Share of the ranks that speak for the first minus that for the second, −1..1; 0 if nothing differs.

    Args:
        differences: Positive where the first is better; NaN where a pair has none.

    Returns:
        NaN if there are no differences.
    """
    from scipy.stats import rankdata

    rounded = _defined(differences)
    if not rounded.size:
        return math.nan
    pairs = rounded[rounded != 0]
    if not pairs.size:
        return 0.0
    ranks = rankdata(np.abs(pairs))
    return float((ranks * np.sign(pairs)).sum() / ranks.sum())


def holm(values: Sequence[float]) -> tuple[float, ...]:
    """P values corrected for their number: the smallest times m, the next times m − 1, never falling, at most 1.

    NaN stays NaN and does not count.
    """
    order = sorted((p, place) for place, p in enumerate(values) if not math.isnan(p))
    corrected = [math.nan] * len(values)
    running = 0.0
    for rank, (p, place) in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p))
        corrected[place] = running
    return tuple(corrected)


def tally(differences: Values, tie: float = 0.0) -> Tally:
    """Cases won and lost.

    Args:
        differences: Positive where the first is better; NaN where a pair has none.
        tie: The largest difference that counts as none.
    """
    rounded = _defined(differences)
    won, lost = int((rounded > tie).sum()), int((rounded < -tie).sum())
    return Tally(won, rounded.size - won - lost, lost)


def by_unit(values: Values, groups: Sequence[Hashable] | None) -> Values:
    """The mean of each patient's defined values, NaN where it has none.

    Args:
        values: One per case.
        groups: The patient of each case; None: every case is one.
    """
    sums, counts = _per_unit(values[:, None], groups)
    return _divided(sums, counts)[:, 0]


def spearman(first: Values, second: Values) -> float:
    """Rank correlation of the pairs with both defined; NaN with fewer than three, or where one side never changes."""
    from scipy.stats import spearmanr

    both = ~(np.isnan(first) | np.isnan(second))
    one, other = first[both], second[both]
    if one.size < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return math.nan
    return float(spearmanr(one, other).statistic)


def _defined(differences: Values) -> Values:
    rounded: Values = np.round(differences[~np.isnan(differences)], _DIGITS)
    return rounded


def _per_unit(
    scores: Scores, groups: Sequence[Hashable] | None
) -> tuple[Float[np.ndarray, "units columns"], Float[np.ndarray, "units columns"]]:
    """Sum of the defined scores of each patient, and how many there are."""
    places: dict[Hashable, int] = {}
    of_case = [places.setdefault(group, len(places)) for group in groups or range(len(scores))]
    sums, counts = (np.zeros((len(places), scores.shape[1])) for _ in range(2))
    np.add.at(sums, of_case, np.nan_to_num(scores))
    np.add.at(counts, of_case, (~np.isnan(scores)).astype(float))
    return sums, counts


def _drawn(
    sums: Float[np.ndarray, "units columns"],
    counts: Float[np.ndarray, "units columns"],
    together: Sequence[Sequence[int]],
    resamples: int,
    seed: int,
) -> Float[np.ndarray, "resamples means"]:
    """The means of every resample. A patient drawn twice weighs twice."""
    units = len(sums)
    random = np.random.default_rng(seed)
    step = max(1, _NUMBERS // units)
    parts = []
    for start in range(0, resamples, step):
        weights = random.multinomial(units, np.full(units, 1 / units), min(step, resamples - start))
        parts.append(_ratios(weights.astype(float), sums, counts, together))
    return np.concatenate(parts)


def _ratios(
    weights: Float[np.ndarray, "resamples units"],
    sums: Float[np.ndarray, "units columns"],
    counts: Float[np.ndarray, "units columns"],
    together: Sequence[Sequence[int]],
) -> Float[np.ndarray, "resamples means"]:
    columns = _divided(weights @ sums, weights @ counts)
    further = [_mean_of_defined(columns[:, list(part)]) for part in together]
    return np.column_stack([columns, *further]) if further else columns


def _mean_of_defined(values: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, " rows"]:
    known = ~np.isnan(values)
    return _divided(np.nan_to_num(values).sum(axis=1), known.sum(axis=1).astype(float))


def _divided(sums: Float[np.ndarray, "..."], counts: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """NaN where there is nothing to divide by."""
    result: Float[np.ndarray, "..."] = np.full(sums.shape, np.nan)
    np.divide(sums, counts, out=result, where=counts > 0)
    return result


def _accelerated(
    value: float, drawn: Float[np.ndarray, " resamples"], without: Float[np.ndarray, " units"], level: float
) -> tuple[float, float]:
    """The BCa interval (Efron 1987): percentiles of the resamples, moved for their bias and for skew.

    Args:
        value: The mean of all.
        drawn: Of each resample.
        without: With each patient left out.
        level: 0..1.
    """
    from scipy.special import ndtr, ndtri

    drawn, without = drawn[~np.isnan(drawn)], without[~np.isnan(without)]
    slack = 1e-12 * max(1.0, abs(value))
    if not drawn.size or np.ptp(drawn) <= slack:
        return value, value
    below: Bool[np.ndarray, " resamples"] = drawn < value - slack
    share = (below.mean() + (drawn <= value + slack).mean()) / 2
    bias = ndtri(np.clip(share, 0.5 / drawn.size, 1 - 0.5 / drawn.size))
    spread = without.mean() - without
    squares = float((spread**2).sum())
    skew = float((spread**3).sum()) / (6 * squares**1.5) if squares > slack**2 else 0.0
    wanted = bias + ndtri([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(drawn, ndtr(bias + wanted / (1 - skew * wanted))).tolist()
    return low, high
