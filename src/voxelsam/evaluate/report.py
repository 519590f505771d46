"""One HTML page about a training or an evaluation, complete in itself; see ``render``."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from voxelsam.errors import VoxelSamError
from voxelsam.evaluate import figures, statistics
from voxelsam.evaluate.render import limits, render
from voxelsam.evaluate.run import Reference
from voxelsam.evaluate.scores import DEFINITIONS, RULES, CaseScore, Report
from voxelsam.evaluate.statistics import LEVEL, Interval
from voxelsam.evaluate.summary import Summary, is_region
from voxelsam.files import write_text
from voxelsam.formats import frames, read, read_labels, read_labels_on
from voxelsam.layouts import Case, read_label
from voxelsam.overlay import Overlay, overlay

WORST, BEST = 3, 2
"""Cases with a picture."""
MEAN = "mean"

_OVERLAP = ("Dice", "IoU")
_BOXED = ("Dice", "NSD", "HD95")
"""Measures with a box plot, where they were measured."""
_LENGTHS = ("HD", "HD95", "HD95_pooled", "ASSD", "ASD")


@dataclass(frozen=True)
class QualityRow:
    """A quality flag of one structure in one case, and how good the mask really is."""

    case: str
    structure: str
    flag: str
    """Its name, such as ``agreement``."""
    value: float
    """NaN where it has none."""
    dice: float
    """Against the reference; NaN where not defined."""


@dataclass(frozen=True)
class MeasureRow:
    """One measure of one class, or its mean over classes."""

    name: str
    interval: Interval
    undefined: int
    """Cases in which a mask has the class, but the measure has no value."""

    def below(self, digits: int) -> list[str]:
        """What stands below the value: its interval; the cases with a value and those without."""
        cases, undefined = self.interval.cases, self.undefined
        counts = [f"{cases} {'case' if cases == 1 else 'cases'}"] if cases else []
        counts += [f"{undefined} undefined"] if undefined else []
        return [line for line in (limits(self.interval, digits), ", ".join(counts)) if line]


@dataclass(frozen=True)
class Measure:
    """One column of the table of measures."""

    title: str
    definition: str
    rows: tuple[MeasureRow, ...]
    digits: int


@dataclass(frozen=True)
class Flag:
    """How well a quality flag knows where masks are bad."""

    name: str
    correlation: float
    """Spearman's, with Dice; NaN where there is too little to tell."""
    count: int
    """Structures of cases with both values."""
    png: bytes | None


def page(
    path: Path,
    report: Report | None,
    *,
    images: Mapping[str, Sequence[Path]] | None = None,
    title: str,
    facts: Mapping[str, str] | None = None,
    curve: Sequence[Mapping[str, float | None]] = (),
    notes: Sequence[str] = (),
    quality: Sequence[QualityRow] | None = None,
    groups: Mapping[str, str] | None = None,
    references: Mapping[str, Reference] | None = None,
) -> None:
    """Writes the page, with pictures of the worst and the best cases where their images are known.

    A case whose picture cannot be drawn is named in the notes with the reason.

    Args:
        path: As in ``write_html``.
        report: As in ``write_html``.
        images: Image files of cases by id; the first is shown.
        title: As in ``write_html``.
        facts: As in ``write_html``.
        curve: As in ``write_html``.
        notes: As in ``write_html``.
        quality: Flags of structures against their Dice.
        groups: As in ``write_html``.
        references: Cases of a data set by id, which know how their labels are read; else the label's file is read.

    Raises:
        OutputError: the file cannot be written.
    """
    overlays, missing = _overlays(report, images, references or {}) if report and images else ([], [])
    write_html(
        path,
        title=title,
        report=report,
        curve=curve,
        overlays=overlays,
        facts=facts,
        notes=[*notes, *missing],
        quality=quality or (),
        groups=groups,
    )


def write_html(
    path: Path,
    *,
    title: str,
    report: Report | None = None,
    curve: Sequence[Mapping[str, float | None]] = (),
    overlays: Sequence[Overlay] = (),
    facts: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    quality: Sequence[QualityRow] = (),
    groups: Mapping[str, str] | None = None,
) -> None:
    """Writes the page; parts that are not given are left out.

    Args:
        path: the HTML file; replaced if it is there.
        title: heading.
        report: scores by class and case.
        curve: one row per epoch with ``epoch`` and any of ``train_loss``, ``val_loss`` and further ``val_…`` scores
            from 0 to 1; what was not measured is missing, None or NaN.
        overlays: pictures.
        facts: names and values, such as the data set and the number of trained parameters.
        notes: sentences that the reader should know, such as warnings.
        quality: flags of structures against their Dice.
        groups: the patient of each case, where known; others are patients of their own.

    Raises:
        OutputError: the file cannot be written.
    """
    measures = _measures(report, groups) if report and report.cases else {}
    text = render(
        "report.html.jinja",
        title=title,
        report=report,
        worst_first=_case_rows(report) if report else [],
        dice=_dice_limits(report, measures) if report else {},
        measures=[measure for name, measure in measures.items() if name not in _OVERLAP],
        boxes=_boxes(report, measures) if report else [],
        curve=figures.curve(curve),
        overlays=overlays,
        quality=correlations(quality),
        facts=facts or {},
        notes=notes,
        definitions=DEFINITIONS,
        rules=RULES,
        level=LEVEL,
        unit="patients" if groups else "cases",
    )
    write_text(path, text)


def correlations(rows: Sequence[QualityRow]) -> list[Flag]:
    """Each flag with its rank correlation to true Dice, and a picture of it."""
    found = []
    for name in dict.fromkeys(row.flag for row in rows):
        chosen = [row for row in rows if row.flag == name and math.isfinite(row.value) and math.isfinite(row.dice)]
        values, dices = (np.array([getattr(row, key) for row in chosen], float) for key in ("value", "dice"))
        points: dict[str, list[tuple[float, float]]] = {}
        for row in chosen:
            points.setdefault(row.structure, []).append((row.value, row.dice))
        correlation = statistics.spearman(values, dices)
        shown = "" if math.isnan(correlation) else f": Spearman’s correlation {correlation:.2f}"
        found.append(Flag(name, correlation, len(chosen), figures.scatter(points, f"{name}{shown}", name, "true Dice")))
    return found


def shown(report: Report) -> list[CaseScore]:
    """Cases that get a picture: the worst, then the best, each with a defined score."""
    ordered = [case for case in report.worst_first() if not math.isnan(report.case_dice(case))]
    worst = ordered[:WORST]
    return worst + [case for case in ordered[-BEST:] if case not in worst]


def _overlays(
    report: Report, images: Mapping[str, Sequence[Path]], references: Mapping[str, Reference]
) -> tuple[list[Overlay], list[str]]:
    """Pictures, and for each that cannot be drawn why."""
    found, missing = [], []
    for number, case in enumerate(shown(report)):
        if not images.get(case.case):
            missing.append(f"No picture of {case.case}: its image is not known.")
            continue
        try:
            png = _drawn(report, case, images[case.case][0], references.get(case.case, case.reference))
        except VoxelSamError as error:
            missing.append(f"No picture of {case.case}: {error}")
            continue
        rank = "among the worst" if number < WORST else "among the best"
        note = f"{rank}, mean Dice {report.case_dice(case):.3f}; filled: prediction, lines: reference"
        found.append(Overlay(case.case, png, note))
    return found, missing


def _drawn(report: Report, case: CaseScore, image: Path, reference: Reference) -> bytes:
    volume = read(image, frame=0 if frames(image) > 1 else None)
    if isinstance(reference, Case):
        truth = read_label(reference, report.labels)
    else:
        truth = read_labels(reference, report.labels)
    return overlay(volume, truth, read_labels_on(case.prediction, truth.grid, report.labels))


def _measures(report: Report, groups: Mapping[str, str] | None) -> dict[str, Measure]:
    """Every measure by its name: classes, regions, and the mean over classes, all from the same resamples."""
    summary = Summary.of(report.to_json(), "the evaluation")
    rows = (*report.classes, *report.regions)
    labels = [str(row.value) for row in rows]
    cases = list(summary.scores)
    names = summary.metrics
    wide = len(labels)
    single = [column for column, label in enumerate(labels) if not is_region(label)]
    table = np.concatenate([summary.table(name, cases, labels) for name in names], axis=1)
    together = [[wide * number + column for column in single] for number in range(len(names))]
    patients = [groups.get(case, case) for case in cases] if groups else None
    found = statistics.means(table, patients, together)
    absent = np.array(
        [[bool(summary.voxels[case].get(label, {}).get("both_empty", True)) for label in labels] for case in cases]
    )
    measures = {}
    for number, name in enumerate(names):
        part = slice(wide * number, wide * (number + 1))
        missing = (np.isnan(table[:, part]) & ~absent).sum(axis=0).tolist()
        each = [
            MeasureRow(row.name, interval, count)
            for row, interval, count in zip(rows, found[part], missing, strict=True)
        ]
        overall = found[wide * len(names) + number]
        each.append(MeasureRow(MEAN, overall, sum(missing[column] for column in single)))
        title = f"{name.replace('_', ' ')} ({report.unit})" if name in _LENGTHS else name.replace("_", " ")
        measures[name] = Measure(title, summary.definitions.get(name, ""), tuple(each), _digits(name))
    return measures


def _digits(name: str) -> int:
    return 2 if name in (*_LENGTHS, "VD") else 1 if name in ("RVE", "RAVD") else 3


def _dice_limits(report: Report, measures: Mapping[str, Measure]) -> dict[str, Interval]:
    """Intervals of Dice by label, and of the mean."""
    labels = [*(str(row.value) for row in (*report.classes, *report.regions)), MEAN]
    if "Dice" not in measures:
        return dict.fromkeys(labels, Interval(math.nan, math.nan, math.nan, 0, 0))
    return {label: row.interval for label, row in zip(labels, measures["Dice"].rows, strict=True)}


def _boxes(report: Report, measures: Mapping[str, Measure]) -> list[bytes]:
    """A picture per measure that is worth one."""
    summary = Summary.of(report.to_json(), "the evaluation") if measures else None
    pictures = []
    for name in _BOXED:
        if summary is None or name not in measures:
            continue
        table = summary.table(name, list(summary.scores), [str(row.value) for row in report.classes])
        items = [
            figures.Box(
                row.name, "", table[:, column].tolist(), _hexadecimal(report.labels.colour(int(str(row.value))))
            )
            for column, row in enumerate(report.classes)
        ]
        pictures.append(figures.boxes(items, measures[name].title))
    return [picture for picture in pictures if picture]


def _hexadecimal(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _case_rows(report: Report) -> list[dict[str, Any]]:
    """Cases from the worst to the best: id, mean, and Dice of every class."""
    return [
        {
            "case": case.case,
            "mean": report.case_dice(case),
            "scores": [
                case.counts[row.value].dice(report.empty) if row.value in case.counts else math.nan
                for row in report.classes
            ],
        }
        for case in report.worst_first()
    ]
