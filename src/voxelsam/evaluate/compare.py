"""Models against each other: the same cases, scored the same way, tested in pairs.

Differences are first minus second. Their interval is that of the mean difference, in which patients are drawn again
with all cases and classes. The test, the effect and the cases won look at which of the two is better: higher, lower, or
for signed errors closer to 0. Undefined scores leave a pair out, which favours a model that fails there; they are
counted and said.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from jaxtyping import Float

from voxelsam.errors import ConfigError, InputError
from voxelsam.evaluate import statistics
from voxelsam.evaluate.comparable import (
    BETTER,
    Better,
    Model,
    check_definitions,
    check_metric,
    check_references,
    common_cases,
    common_labels,
    listed,
)
from voxelsam.evaluate.comparison import MEAN, Comparison, Difference, Mean, classes_of, name_of, row_means
from voxelsam.evaluate.statistics import Interval

NO_PREDICTION = "there is no prediction"
"""Reason of a failure, as ``run`` gives it."""


def compare(
    models: Sequence[Model],
    metric: str = "Dice",
    *,
    groups: Mapping[str, str] | None = None,
    common: bool = False,
    tie: float = 0.0,
    seed: int = statistics.SEED,
) -> Comparison:
    """Compares models in one metric.

    Args:
        models: Two or more, see ``gather``.
        metric: Its key in ``summary.json``.
        groups: The patient of each case, where known; others are patients of their own.
        common: Leave out cases that some model lacks, instead of stopping.
        tie: Largest difference of a case that counts as none, in the metric's unit.
        seed: Of the bootstrap.

    Raises:
        InputError: Fewer than two models; their cases, references, label tables or definitions differ, or one lacks the
            metric.
        ConfigError: There is no such metric, or the margin is no size.
    """
    if len(models) < 2:
        raise InputError(f"a comparison needs two models or more, but {len(models)} came: name another one")
    if not (math.isfinite(tie) and tie >= 0):
        raise ConfigError(f"the margin of a tie is 0 or more, but is {tie}")
    check_metric(models, metric)
    check_definitions(models, metric)
    labels = common_labels(models)
    cases, left_out = common_cases(models, common)
    check_references(models, cases)
    scores = np.stack([model.summary.table(metric, cases, labels) for model in models])
    if BETTER[metric] == "closer to 0":
        scores = np.abs(scores)
    patients = tuple(groups.get(case, case) for case in cases) if groups else None
    means, differences = _statistics(models, labels, scores, patients, BETTER[metric], tie, seed)
    return Comparison(
        metric=metric,
        models=tuple(models),
        cases=cases,
        labels=labels,
        scores=scores,
        groups=patients,
        means=means,
        differences=differences,
        tie=tie,
        seed=seed,
        left_out=left_out,
        notes=_notes(models, cases, scores, patients, differences, left_out),
    )


def _statistics(
    models: Sequence[Model],
    labels: Sequence[str],
    scores: Float[np.ndarray, "models cases labels"],
    groups: Sequence[str] | None,
    better: Better,
    tie: float,
    seed: int,
) -> tuple[tuple[Mean, ...], tuple[Difference, ...]]:
    """Means of each model and differences of each pair, all from the same resamples."""
    pairs = list(combinations(range(len(models)), 2))
    tables = [*scores, *(scores[one] - scores[other] for one, other in pairs)]
    wide, classes = len(labels), classes_of(labels)
    overall = [[wide * number + column for column in classes] for number in range(len(tables))]
    together = overall if len(classes) > 1 else []
    found = statistics.means(np.concatenate(tables, axis=1), groups, together, seed=seed)

    def rows(number: int) -> list[tuple[str, Interval]]:
        each = list(zip(labels, found[wide * number : wide * (number + 1)], strict=True))
        return [*each, (MEAN, found[wide * len(tables) + number])] if together else each

    means = [
        Mean(model.name, label, name_of(models, label), value)
        for number, model in enumerate(models)
        for label, value in rows(number)
    ]
    sign = 1.0 if better == "higher" else -1.0
    differences = [
        _difference(models, one, other, label, value, scores, labels, groups, sign, tie)
        for number, (one, other) in enumerate(pairs, start=len(models))
        for label, value in rows(number)
    ]
    return tuple(means), _corrected(differences)


def _difference(
    models: Sequence[Model],
    one: int,
    other: int,
    label: str,
    value: Interval,
    scores: Float[np.ndarray, "models cases labels"],
    labels: Sequence[str],
    groups: Sequence[str] | None,
    sign: float,
    tie: float,
) -> Difference:
    columns = classes_of(labels) if label == MEAN else [labels.index(label)]
    first, second = scores[one][:, columns], scores[other][:, columns]
    gains = sign * row_means(first - second)
    per_patient = statistics.by_unit(gains, groups)
    test = statistics.signed_rank(per_patient)
    none, neither = np.isnan(first), np.isnan(second)
    return Difference(
        first=models[one].name,
        second=models[other].name,
        label=label,
        name=name_of(models, label),
        interval=value,
        effect=statistics.rank_biserial(per_patient),
        p=test.p,
        corrected=math.nan,
        tests=0,
        pairs=test.pairs,
        smallest=test.smallest,
        cases=statistics.tally(gains, tie),
        undefined={
            "first": int((none & ~neither).sum()),
            "second": int((neither & ~none).sum()),
            "both": int((none & neither).sum()),
        },
    )


def _corrected(rows: Sequence[Difference]) -> tuple[Difference, ...]:
    """P values after Holm: over structures and pairs; those of the means over classes by themselves, over pairs."""
    found = list(rows)
    for over_classes in (False, True):
        places = [place for place, row in enumerate(rows) if (row.label == MEAN) == over_classes]
        values = [rows[place].p for place in places]
        tests = sum(not math.isnan(value) for value in values)
        for place, value in zip(places, statistics.holm(values), strict=True):
            found[place] = replace(rows[place], corrected=value, tests=tests)
    return tuple(found)


def _notes(
    models: Sequence[Model],
    cases: Sequence[str],
    scores: Float[np.ndarray, "models cases labels"],
    groups: Sequence[str] | None,
    differences: Sequence[Difference],
    left_out: Mapping[str, tuple[str, ...]],
) -> tuple[str, ...]:
    """Sentences that a reader of the numbers must know."""
    notes = _few(len(set(groups)), "patients") if groups else _few(len(cases), "cases")
    for name, surplus in left_out.items():
        lacking = [model.name for model in models if not set(surplus) <= set(model.summary.scores)]
        notes.append(
            f"Left out: {listed(surplus)}. {name} has a score there and {', '.join(lacking)} not; if that is because a "
            "model failed, leaving it out favours it."
        )
    notes += _failed(models)
    for one, other in combinations(range(len(models)), 2):
        if np.array_equal(scores[one], scores[other], equal_nan=True):
            notes.append(
                f"{models[one].name} and {models[other].name} have the same score everywhere: are they the same model?"
            )
    return (*notes, *_undefined(differences))


def _few(units: int, what: str) -> list[str]:
    """What so few patients are worth."""
    notes = []
    if units < statistics.FEWEST:
        notes.append(
            f"{units} {what} are too few for a test: a two-sided signed-rank test needs {statistics.FEWEST} differing "
            "pairs to fall below 0.05. Read the differences, not the p values."
        )
    if units < 10:
        notes.append(f"Intervals from {units} {what} are too narrow: they hold the true mean less often than 95 %.")
    return notes


def _failed(models: Sequence[Model]) -> list[str]:
    """Cases that have no score, and why."""
    notes, absent = [], []
    for model in models:
        reasons = model.summary.failures
        absent.append({case for case, reason in reasons.items() if reason == NO_PREDICTION})
        broken = [case for case in reasons if case not in absent[-1]]
        if broken:
            notes.append(f"{model.name}: not scored: {listed(broken)} ({reasons[broken[0]]}).")
    everywhere = set.intersection(*absent)
    if everywhere:
        notes.append(f"No model has a prediction for {listed(sorted(everywhere))}; they are no part of this.")
    return notes


def _undefined(differences: Sequence[Difference]) -> list[str]:
    """One sentence per pair whose scores are not all defined on both sides."""
    pairs: dict[tuple[str, str], dict[str, int]] = {}
    for row in differences:
        if row.label != MEAN:
            counts = pairs.setdefault((row.first, row.second), dict.fromkeys(row.undefined, 0))
            for side, count in row.undefined.items():
                counts[side] += count
    notes = []
    for (first, second), counts in pairs.items():
        if any(counts.values()):
            notes.append(
                f"{first} against {second}: undefined scores are left out; undefined in {first} only: "
                f"{counts['first']}, in {second} only: {counts['second']}, in both: {counts['both']}."
            )
        if counts["first"] or counts["second"]:
            notes[-1] += " A model that misses a structure has no distance there, so that leaving it out favours it."
    return notes
