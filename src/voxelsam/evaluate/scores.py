"""What an evaluation found: scores of cases and classes, and their files.

``summary.json`` has the keys of nnU-Net's (``metric_per_case``, ``mean``, ``foreground_mean``; labels by value, as
text, regions by the tuple of their values) and more beside them; what is counted per lesion stands under ``lesions``.
It is strict JSON: what is not a number is null. ``summary.csv`` has one row per case and class or region. Regions stand
beside the classes and take no part in means over classes, because a voxel would count several times.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from voxelsam.evaluate.measures import PENALTIES, MeasureScore, Unit, definitions, heading, nested, over_cases
from voxelsam.evaluate.metrics import Counts, Empty
from voxelsam.evaluate.presets import DEFAULT, Preset
from voxelsam.files import write_text
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.pair import TOLERANCE_MM

DEFINITIONS = {
    "Dice": "2 TP / (2 TP + FP + FN), over the voxels of a case",
    "IoU": "TP / (TP + FP + FN), over the voxels of a case",
    "mean": "of each class over its cases; undefined scores are left out",
    "foreground_mean": "of the means of the foreground classes; undefined means are left out",
}
RULES: dict[Empty, str] = {
    "nan": "a class in neither mask has no score and is left out of means",
    "one": "a class in neither mask scores 1",
    "zero": "a class in neither mask scores 0",
}


Value = int | tuple[int, ...]
"""A label value, or the values of a region."""


@dataclass(frozen=True)
class CaseScore:
    """One prediction against its reference."""

    case: str
    prediction: Path
    reference: Path
    spacing: tuple[float, float, float]
    """mm along i, j, k of the reference."""
    displacement: float
    """Largest distance of the two grids' corners in mm."""
    counts: Mapping[Value, Counts]
    """Voxels of each foreground class, by label value, and of each region."""
    measures: Mapping[Value, Mapping[str, float]] = field(default_factory=dict)
    """Beside overlap: values by name (``HD95``, ``lesion_F1``, see ``measures``), NaN where undefined."""
    unit: Unit = "mm"
    """Of distances."""


@dataclass(frozen=True)
class Failure:
    """A case that could not be scored."""

    case: str
    reason: str
    code: str = ""


@dataclass(frozen=True)
class ClassScore:
    """One class or region over all scored cases; NaN where no case has a defined score."""

    value: Value
    name: str
    dice: float
    dice_deviation: float
    """Standard deviation over cases (of the cases at hand, not an estimate for a population)."""
    dice_lowest: float
    iou: float
    cases: int
    """Cases with a defined score."""
    both_empty: int
    """Cases that have the class in neither mask."""
    one_empty: int = 0
    """Cases that have the class in exactly one mask."""
    measures: Mapping[str, MeasureScore] = field(default_factory=dict)
    """Beside overlap, by name."""


@dataclass(frozen=True, eq=False)
class Report:
    """The result of an evaluation."""

    labels: Labels
    empty: Empty
    """Rule for classes that are in neither mask."""
    cases: tuple[CaseScore, ...]
    failures: tuple[Failure, ...] = ()
    extra: tuple[str, ...] = ()
    """Predictions that have no reference."""
    preset: Preset = DEFAULT
    """What was measured, and how; its rule for absent structures is ``empty``."""

    @cached_property
    def measured(self) -> tuple[str, ...]:
        """Names of what was measured beside overlap, each once."""
        return tuple(dict.fromkeys(name for case in self.cases for each in case.measures.values() for name in each))

    @cached_property
    def unit(self) -> str:
        """Unit of the distances: mm, px or voxel; several, where cases differ."""
        return ", ".join(sorted({case.unit for case in self.cases})) or "mm"

    def heading(self, name: str) -> str:
        """A measure's name with its unit, for the head of a table."""
        return heading(name, self.preset, self.unit)

    @cached_property
    def classes(self) -> tuple[ClassScore, ...]:
        """Every foreground class in the order of its value."""
        return tuple(self._class(name, value) for name, value in self.labels.values.items() if value != 0)

    @cached_property
    def regions(self) -> tuple[ClassScore, ...]:
        """Every region of the label table."""
        return tuple(self._class(name, values) for name, values in self.labels.regions.items())

    @cached_property
    def mean_dice(self) -> float:
        """Mean over classes of the mean over cases; NaN if nothing was scored."""
        return _mean(row.dice for row in self.classes)

    @cached_property
    def mean_iou(self) -> float:
        """As ``mean_dice``, for IoU."""
        return _mean(row.iou for row in self.classes)

    def case_dice(self, case: CaseScore) -> float:
        """Mean Dice of a case over its classes with a defined score."""
        return _mean(case.counts[row.value].dice(self.empty) for row in self.classes if row.value in case.counts)

    def worst_first(self) -> tuple[CaseScore, ...]:
        """Scored cases from the lowest mean Dice up; undefined ones last."""
        return tuple(sorted(self.cases, key=lambda case: _rank(self.case_dice(case))))

    def rows(self) -> list[dict[str, Any]]:
        """A table to print: one row per class, one per region, and the mean over classes."""
        rows = [asdict(row) for row in (*self.classes, *self.regions)]
        mean = ClassScore(
            value=-1,
            name="mean",
            dice=self.mean_dice,
            dice_deviation=float("nan"),
            dice_lowest=min(
                (row.dice_lowest for row in self.classes if not math.isnan(row.dice_lowest)), default=math.nan
            ),
            iou=self.mean_iou,
            cases=len(self.cases),
            both_empty=sum(row.both_empty for row in self.classes),
            one_empty=sum(row.one_empty for row in self.classes),
            measures={name: self._over_classes(name) for name in self.measured},
        )
        return [*rows, asdict(mean)]

    def to_json(self) -> dict[str, Any]:
        """The content of ``summary.json``, NaN included."""
        return {
            "metric_per_case": [self._case_json(case) for case in self.cases],
            "mean": {str(row.value): self._mean_json(row) for row in (*self.classes, *self.regions)},
            "foreground_mean": self._foreground_json(),
            "labels": self.labels.to_json(),
            "definitions": DEFINITIONS | nested(definitions(self.measured, self.preset, self.unit)),
            "empty": {
                "rule": self.empty,
                "meaning": RULES[self.empty],
                "penalty": self.preset.penalty,
                "penalty_meaning": PENALTIES[self.preset.penalty],
            },
            "units": self.unit,
            "preset": self.preset.plain(),
            "geometry": {
                "tolerance_mm": TOLERANCE_MM,
                "largest_displacement_mm": max((case.displacement for case in self.cases), default=0.0),
            },
            "counts": {"scored": len(self.cases), "failed": len(self.failures), "without_reference": len(self.extra)},
            "failures": [asdict(failure) for failure in self.failures],
            "without_reference": list(self.extra),
            "voxelsam": version("voxelsam"),
        }

    def to_csv(self) -> str:
        """The content of ``summary.csv``; an undefined score is an empty field."""
        text = io.StringIO()
        rules = {"unit": self.unit, "empty_rule": self.empty, "penalty": self.preset.penalty}
        overlap = _scores(Counts(0, 0, 0, 0), self.empty)
        writer = csv.DictWriter(text, [*_identity("", "", 0), *overlap, *self.measured, *rules])
        writer.writeheader()
        names = {row.value: row.name for row in (*self.classes, *self.regions)}
        for case in self.cases:
            for value, counts in case.counts.items():
                scores = _scores(counts, self.empty) | dict(case.measures.get(value, {}))
                shown = {key: "" if _undefined(score) else score for key, score in scores.items()}
                writer.writerow(_identity(case.case, names[value], value) | shown | rules | {"unit": case.unit})
        return text.getvalue()

    def write(self, out: Path) -> Path:
        """Writes both files and returns the JSON's path.

        Args:
            out: a folder (made if missing), or the name of the JSON file; the CSV gets the same stem.

        Raises:
            OutputError: the files cannot be written.
        """
        target = out if out.suffix == ".json" else out / "summary.json"
        write_text(target.with_suffix(".csv"), self.to_csv())
        write_text(target, json.dumps(nulled(self.to_json()), indent=2, allow_nan=False) + "\n")
        return target

    def _class(self, name: str, value: Value) -> ClassScore:
        cases = [case for case in self.cases if value in case.counts]
        counts = [case.counts[value] for case in cases]
        shown = [case for case, item in zip(cases, counts, strict=True) if not item.both_empty]
        dices = [dice for item in counts if not math.isnan(dice := item.dice(self.empty))]
        return ClassScore(
            value=value,
            name=name,
            dice=_mean(dices),
            dice_deviation=pstdev(dices) if dices else math.nan,
            dice_lowest=min(dices, default=math.nan),
            iou=_mean(item.iou(self.empty) for item in counts),
            cases=len(dices),
            both_empty=sum(item.both_empty for item in counts),
            one_empty=sum(not item.both_empty and not (item.predicted and item.present) for item in counts),
            measures={
                name: over_cases(
                    name,
                    [case.measures.get(value, {}) for case in cases],
                    [case.measures.get(value, {}) for case in shown],
                )
                for name in self.measured
            },
        )

    def _over_classes(self, name: str) -> MeasureScore:
        rows = [row.measures[name] for row in self.classes]
        return MeasureScore(
            mean=_mean(row.mean for row in rows),
            deviation=math.nan,
            cases=sum(row.cases for row in rows),
            undefined=sum(row.undefined for row in rows),
        )

    def _case_json(self, case: CaseScore) -> dict[str, Any]:
        return {
            "case": case.case,
            "reference_file": str(case.reference),
            "prediction_file": str(case.prediction),
            "spacing": list(case.spacing),
            "geometry": {"verdict": "same place", "displacement_mm": case.displacement},
            "unit": case.unit,
            "metrics": {
                str(value): _scores(counts, self.empty) | nested(case.measures.get(value, {}))
                for value, counts in case.counts.items()
            },
        }

    def _mean_json(self, row: ClassScore) -> dict[str, Any]:
        scores = [_scores(case.counts[row.value], self.empty) for case in self.cases if row.value in case.counts]
        means = {key: _mean(score[key] for score in scores) for key in _COLUMNS}
        return {
            "name": row.name,
            **means,
            **nested({name: item.mean for name, item in row.measures.items()}),
            "n_cases": row.cases,
            "n_both_empty": row.both_empty,
            "n_one_empty": row.one_empty,
            "n_undefined": nested({name: item.undefined for name, item in row.measures.items()}),
        }

    def _foreground_json(self) -> dict[str, Any]:
        means = [self._mean_json(row) for row in self.classes]
        measures = nested({name: self._over_classes(name).mean for name in self.measured})
        return {key: _mean(mean[key] for mean in means) for key in _COLUMNS} | measures


_COLUMNS = ("Dice", "IoU", "TP", "FP", "FN", "TN", "n_pred", "n_ref")


def _scores(counts: Counts, empty: Empty) -> dict[str, float | int | bool]:
    return {
        "Dice": counts.dice(empty),
        "IoU": counts.iou(empty),
        "TP": counts.tp,
        "FP": counts.fp,
        "FN": counts.fn,
        "TN": counts.tn,
        "n_pred": counts.predicted,
        "n_ref": counts.present,
        "both_empty": counts.both_empty,
    }


def _identity(case: str, name: str, value: Value) -> dict[str, str]:
    return {"case": case, "class": name, "label": str(value)}


def _mean(values: Iterable[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return fmean(defined) if defined else math.nan


def _undefined(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _rank(value: float) -> float:
    return math.inf if math.isnan(value) else value


def nulled(value: Any) -> Any:
    """The same nested values with None where there is no number."""
    if isinstance(value, dict):
        return {key: nulled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [nulled(item) for item in value]
    return None if _undefined(value) else value
