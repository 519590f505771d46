"""``summary.json`` of ours and of nnU-Net v2, read back: scores by case and class, and what they depend on.

nnU-Net writes ``metric_per_case`` (``reference_file``, ``prediction_file``, ``metrics`` by label: Dice, IoU and the
counts of voxels), ``mean`` and ``foreground_mean``, with NaN where a class is in neither mask; it names no cases, no
classes and no definitions, but these are known. Ours has the same keys and more beside them. Labels are text: ``1``, or
``(1, 2)`` for a region.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PureWindowsPath
from typing import Any, Self

import numpy as np
from jaxtyping import Float

from voxelsam.errors import InputError
from voxelsam.evaluate.scores import DEFINITIONS
from voxelsam.formats import ending_of

COUNTS = ("TP", "FP", "FN", "TN", "n_pred", "n_ref")
"""Voxels, which are no scores."""

OVERLAPS = ("Dice", "IoU")
"""Scores that depend on no distance."""

_NO_SCORES = {*COUNTS, "both_empty", "lesion_n_ref", "lesion_n_pred"}


@dataclass(frozen=True)
class Summary:
    """The scores of one model."""

    scores: Mapping[str, Mapping[str, Mapping[str, float]]]
    """By case, label and metric; NaN where not defined."""
    voxels: Mapping[str, Mapping[str, Mapping[str, float]]]
    """The same for the counts of voxels."""
    references: Mapping[str, Path]
    """The reference of each case, under the name that it had when it was scored."""
    names: Mapping[str, str]
    """Of each label that has one; ``label_3`` is none."""
    rule: str
    """For classes that are in neither mask."""
    definitions: Mapping[str, str]
    """Of each metric."""
    choices: Mapping[str, str]
    """What distances depend on, beside their definitions."""
    failures: Mapping[str, str]
    """Cases without scores, and why."""

    @classmethod
    def of(cls, content: Any, where: str) -> Self:
        """A summary from the content of its file.

        Args:
            content: As ``Report.to_json`` or nnU-Net makes it.
            where: What a message calls it.

        Raises:
            InputError: SET-03, it is no such content, or has no case, or a case twice.
        """
        try:
            return cls._of(content, where)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise InputError(
                f"{where}: expected a summary of voxelsam evaluate or nnU-Net (metric_per_case: a list of cases with "
                "reference_file, prediction_file and metrics by label), but it is none",
                code="SET-03",
            ) from None

    @classmethod
    def _of(cls, content: Any, where: str) -> Self:
        entries = {}
        for entry in content["metric_per_case"]:
            case = str(entry.get("case") or case_of(entry["prediction_file"]))
            if case in entries:
                raise InputError(f"{where}: case {case} is there twice", code="SET-02")
            entries[case] = entry
        if not entries:
            raise InputError(f"{where}: no case was scored", code="SET-02")
        ours = "definitions" in content
        measured = {case: _measured(entry) for case, entry in entries.items()}
        known = {str(value): name for name, value in content.get("labels", {}).items() if isinstance(value, int)}
        named = {label: row["name"] for label, row in content.get("mean", {}).items() if "name" in row}
        return cls(
            scores={case: _part(found, counts=False) for case, found in measured.items()},
            voxels={case: _part(found, counts=True) for case, found in measured.items()},
            references={case: Path(entry["reference_file"]) for case, entry in entries.items()},
            names={
                label_of(key): name for key, name in (known | named).items() if key != "0" and name != f"label_{key}"
            },
            rule=str(content["empty"]["rule"]) if ours else "nan",
            definitions=_flat(content["definitions"]) if ours else {name: DEFINITIONS[name] for name in OVERLAPS},
            choices=_choices(content) if ours else {},
            failures={item["case"]: item["reason"] for item in content.get("failures", [])},
        )

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Every scored label, classes by value first, then regions; the background is none."""
        found = {label for case in self.scores.values() for label in case} - {"0"}
        return tuple(sorted(found, key=lambda label: (is_region(label), _values(label))))

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """Every metric that some case has."""
        return tuple(
            dict.fromkeys(name for case in self.scores.values() for scores in case.values() for name in scores)
        )

    def table(self, metric: str, cases: Sequence[str], labels: Sequence[str]) -> Float[np.ndarray, "cases labels"]:
        """Scores of some cases and labels; NaN where not defined."""
        rows = [[self.scores[case].get(label, {}).get(metric, math.nan) for label in labels] for case in cases]
        return np.array(rows, float).reshape(len(cases), len(labels))

    def name(self, label: str) -> str:
        """Of a label, or the label itself."""
        return self.names.get(label, label)


def read(path: Path) -> Summary:
    """The summary in a file.

    Raises:
        InputError: SET-03, the file is missing, no JSON, or no summary; SET-02, its cases make no sense.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", code="SET-03") from None
    except ValueError:
        raise InputError(f"{path} should be a summary, but is no JSON", code="SET-03") from None
    return Summary.of(content, str(path))


def case_of(file: str) -> str:
    """The case that a file is named after; its path may be one of another system."""
    name = PureWindowsPath(file).name
    return name.removesuffix(ending_of(Path(name)))


def is_region(label: str) -> bool:
    """Whether a label stands for several values."""
    return len(_values(label)) > 1


def label_of(key: str) -> str:
    """A label as text: ``1``, or ``(1, 2)`` with its values ascending, whatever their order and brackets were."""
    values = _values(key)
    return str(values[0]) if len(values) == 1 else str(values)


def _values(key: str) -> tuple[int, ...]:
    """ValueError: it holds no numbers."""
    values = tuple(sorted(int(part) for part in str(key).strip("()").split(",") if part.strip()))
    if not values:
        raise ValueError(key)
    return values


def _measured(entry: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """All numbers of a case by label."""
    return {
        label_of(key): {
            name: math.nan if value is None else float(value)
            for name, value in _flat(values).items()
            if value is None or isinstance(value, int | float)
        }
        for key, values in entry["metrics"].items()
    }


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values with those of ``lesions`` beside them, as ``lesion_F1``."""
    inner = values.get("lesions", {})
    return {key: value for key, value in values.items() if key != "lesions"} | {
        f"lesion_{key}": value for key, value in inner.items()
    }


def _choices(content: Mapping[str, Any]) -> dict[str, str]:
    found = {
        "units": content.get("units"),
        "rule for a class in exactly one mask": content["empty"].get("penalty"),
        "ends of the scan": content.get("preset", {}).get("faces"),
    }
    return {name: str(value) for name, value in found.items() if value is not None}


def _part(found: Mapping[str, Mapping[str, float]], *, counts: bool) -> dict[str, dict[str, float]]:
    return {
        label: {name: value for name, value in values.items() if (name in _NO_SCORES) == counts}
        for label, values in found.items()
    }
