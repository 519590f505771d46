"""Whether models can be compared: everything that would make their numbers say different things is refused.

That is: other cases, other references, other label tables, other definitions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from voxelsam.errors import ConfigError, InputError
from voxelsam.evaluate.summary import OVERLAPS, Summary
from voxelsam.formats import read_labels

Better = Literal["higher", "lower", "closer to 0"]

BETTER: dict[str, Better] = {
    **dict.fromkeys(("Dice", "IoU", "NSD", "Dice_multi", "IoU_multi"), "higher"),
    **dict.fromkeys(("lesion_F1", "lesion_sensitivity", "lesion_precision"), "higher"),
    **dict.fromkeys(("HD", "HD95", "HD95_pooled", "ASSD", "ASD", "RAVD"), "lower"),
    **dict.fromkeys(("RVE", "VD"), "closer to 0"),
}
"""Metrics that can be compared, and which value is the better one; of signed errors the size is compared."""

_SHOWN = 8


@dataclass(frozen=True)
class Model:
    """What takes part in a comparison."""

    name: str
    source: Path
    """A folder of predictions, or a summary."""
    summary: Summary


def check_known(metric: str) -> None:
    """Refuses a metric that cannot be compared.

    Raises:
        ConfigError: that is so.
    """
    if metric not in BETTER:
        raise ConfigError(f"there is no metric {metric!r} to compare; there are: {', '.join(BETTER)}")


def check_metric(models: Sequence[Model], metric: str) -> None:
    """Refuses a metric that nobody knows, or that some model lacks.

    Raises:
        ConfigError: there is no such metric.
        InputError: a model has none.
    """
    check_known(metric)
    for model in models:
        if metric not in model.summary.metrics:
            raise InputError(
                f"{model.name}: {model.source} has no {metric}, only {', '.join(model.summary.metrics)}; to have it "
                "measured, give the folder of predictions, and the references with -r",
                code="SET-02",
            )


def check_definitions(models: Sequence[Model], metric: str) -> None:
    """Refuses models that were scored by different definitions.

    Raises:
        InputError: SET-02, with the first difference.
    """
    first = models[0]
    for model in models[1:]:
        for what, one, other in _choices(first.summary, model.summary, metric):
            if one != other:
                raise InputError(
                    f"{first.name} and {model.name} were not scored the same way; {what}: {one or 'not stated'}, and "
                    f"{other or 'not stated'}; score both folders of predictions with -r",
                    code="SET-02",
                )


def _choices(first: Summary, second: Summary, metric: str) -> list[tuple[str, str, str]]:
    found = [
        ("rule for absent structures", first.rule, second.rule),
        (f"definition of {metric}", first.definitions.get(metric, ""), second.definitions.get(metric, "")),
    ]
    if metric not in OVERLAPS:
        keys = dict.fromkeys((*first.choices, *second.choices))
        found += [(key, first.choices.get(key, ""), second.choices.get(key, "")) for key in keys]
    return found


def common_labels(models: Sequence[Model]) -> tuple[str, ...]:
    """The labels that all models were scored in.

    Raises:
        InputError: LAB-02, they were scored in different ones, or call one value by different names.
    """
    first = models[0]
    for model in models[1:]:
        if set(model.summary.labels) != set(first.summary.labels):
            raise InputError(
                f"the label tables differ: {first.name} has {listed(first.summary.labels)}, {model.name} has "
                f"{listed(model.summary.labels)}; score both folders of predictions with -r",
                code="LAB-02",
            )
    for label in first.summary.labels:
        names = {model.summary.names[label]: model.name for model in models if label in model.summary.names}
        if len(names) > 1:
            said = ", ".join(f"{name} in {model}" for name, model in names.items())
            raise InputError(f"the label tables differ: the value {label} is {said}", code="LAB-02")
    return first.summary.labels


def common_cases(models: Sequence[Model], common: bool) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Cases that all models have, and by model those that others lack.

    Args:
        models: to be compared.
        common: whether cases that some model lacks may be left out.

    Raises:
        InputError: SET-02, the cases differ and may not, or no case is in all.
    """
    sets = [set(model.summary.scores) for model in models]
    shared = set.intersection(*sets)
    surplus = {
        model.name: tuple(sorted(cases - shared)) for model, cases in zip(models, sets, strict=True) if cases - shared
    }
    if not shared:
        each = "; ".join(f"{model.name}: {listed(sorted(cases))}" for model, cases in zip(models, sets, strict=True))
        raise InputError(f"the models have no case in common ({each})", code="SET-02")
    if surplus and not common:
        missing = "; ".join(
            _lacking(model, set.union(*sets)) for model in models if model.summary.scores.keys() < set.union(*sets)
        )
        raise InputError(
            f"the models have different cases: {missing}. Predict them; or compare the {len(shared)} common cases with "
            "--common",
            code="SET-02",
        )
    return tuple(sorted(shared)), surplus


def _lacking(model: Model, cases: set[str]) -> str:
    """Which cases a model lacks, and why if that is known."""
    missing = sorted(cases - set(model.summary.scores))
    reasons = [f"{case}: {model.summary.failures[case]}" for case in missing if case in model.summary.failures]
    return f"{model.name} lacks {listed(missing)}" + (f" ({reasons[0]})" if reasons else "")


def check_references(models: Sequence[Model], cases: Sequence[str]) -> None:
    """Refuses models that were scored against different masks: by their voxel counts, and by their files if there.

    Raises:
        InputError: SET-02, with the first case that differs.
    """
    first = models[0]
    for model in models[1:]:
        for case in cases:
            if reason := _unlike(first.summary, model.summary, case):
                raise InputError(
                    f"{first.name} and {model.name} were scored against different references: case {case}, {reason}; "
                    "score both folders of predictions with -r",
                    code="SET-02",
                )


def _unlike(first: Summary, second: Summary, case: str) -> str:
    one, other = first.voxels[case], second.voxels[case]
    for label in (label for label in one if label in other):
        here, there = _present(one[label]), _present(other[label])
        if here != there and here and there:
            return f"label {label}: {here[0]:.0f} of {here[1]:.0f} voxels, and {there[0]:.0f} of {there[1]:.0f}"
    paths = first.references[case], second.references[case]
    if all(path.is_file() for path in paths) and not _same_file(*paths):
        return f"{paths[0]} and {paths[1]} differ"
    return ""


def _present(counts: Mapping[str, float]) -> tuple[float, float] | None:
    """Voxels of the reference, and of the scan; None if the summary does not say."""
    if not {"TP", "FP", "FN", "TN"} <= counts.keys():
        return None
    present = counts["TP"] + counts["FN"]
    return present, present + counts["FP"] + counts["TN"]


def _same_file(first: Path, second: Path) -> bool:
    """Whether two label files hold the same mask in the same place."""
    if first.samefile(second) or first.read_bytes() == second.read_bytes():
        return True
    one, other = read_labels(first), read_labels(second)
    return (
        one.data.shape == other.data.shape and one.grid.same_place(other.grid) and bool((one.data == other.data).all())
    )


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    shown = list(names)[:_SHOWN]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")
