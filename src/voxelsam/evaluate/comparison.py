"""The result of a comparison, as JSON, as a table and as a page to read."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from voxelsam.evaluate import figures, statistics
from voxelsam.evaluate.comparable import BETTER, Model
from voxelsam.evaluate.render import interval, render
from voxelsam.evaluate.scores import RULES, nulled
from voxelsam.evaluate.statistics import Interval, Tally
from voxelsam.evaluate.summary import OVERLAPS, is_region
from voxelsam.files import write_text

MEAN = "mean"
"""Row of the mean over classes."""


@dataclass(frozen=True)
class Mean:
    """A model's mean of one structure, or over classes."""

    model: str
    label: str
    """``1``, ``(1, 2)`` for a region, or ``mean``."""
    name: str
    interval: Interval


@dataclass(frozen=True)
class Difference:
    """Two models in one structure, or over classes."""

    first: str
    second: str
    label: str
    name: str
    interval: Interval
    """Of the mean of first − second."""
    effect: float
    """Rank-biserial correlation, −1..1, positive where the first is better."""
    p: float
    """Of Wilcoxon's signed-rank test, two-sided."""
    corrected: float
    """The same after Holm, over ``tests`` tests."""
    tests: int
    pairs: int
    """Patients whose two scores differ: what the test has to go by."""
    smallest: float
    """The smallest p that so many pairs can give."""
    cases: Tally
    undefined: Mapping[str, int]
    """Scores left out because the first, the second, or both have none."""

    @property
    def note(self) -> str:
        """What must be known to read the p; empty if nothing."""
        if self.interval.cases == 0:
            return "no case has both scores"
        if self.pairs == 0:
            return "no difference in any case"
        if self.smallest > 0.05:
            return f"{self.pairs} differing pairs can never give p ≤ 0.05 (smallest: {self.smallest:.3g})"
        if self.smallest * self.tests > 0.05:
            return (
                f"{self.pairs} differing pairs and {self.tests} tests can never give a corrected p ≤ 0.05 "
                f"(smallest: {min(1.0, self.smallest * self.tests):.2g})"
            )
        return ""


@dataclass(frozen=True, eq=False)
class Comparison:
    """The result."""

    metric: str
    models: tuple[Model, ...]
    cases: tuple[str, ...]
    labels: tuple[str, ...]
    """Classes, then regions."""
    scores: Float[np.ndarray, "models cases labels"]
    """NaN where not defined; sizes of signed errors."""
    groups: tuple[str, ...] | None
    """The patient of each case, where known."""
    means: tuple[Mean, ...]
    differences: tuple[Difference, ...]
    tie: float
    """Largest difference of a case that counts as none."""
    seed: int
    left_out: Mapping[str, tuple[str, ...]]
    """By model, cases that only some of the others have."""
    notes: tuple[str, ...]

    @cached_property
    def digits(self) -> int:
        """Decimals that are worth showing."""
        return 3 if BETTER[self.metric] == "higher" else 2

    @cached_property
    def title(self) -> str:
        """The metric as a table calls it."""
        return f"|{self.metric}|" if BETTER[self.metric] == "closer to 0" else self.metric

    def name(self, label: str) -> str:
        """Of a structure."""
        return name_of(self.models, label)

    def case_means(self) -> Float[np.ndarray, "models cases"]:
        """Mean of each case over its classes with a defined score."""
        columns = classes_of(self.labels)
        return np.array([row_means(table[:, columns]) for table in self.scores])

    def to_json(self) -> dict[str, Any]:
        """The content of ``compare.json``, NaN included."""
        first = self.models[0].summary
        return {
            "metric": self.metric,
            "better": BETTER[self.metric],
            "definition": first.definitions.get(self.metric, ""),
            "empty": {"rule": first.rule, "meaning": _meaning(first.rule)},
            "choices": dict(first.choices) if self.metric not in OVERLAPS else {},
            "models": [{"name": model.name, "source": str(model.source)} for model in self.models],
            "labels": {label: self.name(label) for label in self.labels},
            "means": [
                {"model": row.model, "label": row.label, "name": row.name} | _interval_json(row.interval)
                for row in self.means
            ],
            "differences": [self._difference_json(row) for row in self.differences],
            "per_case": [
                {
                    "case": case,
                    "scores": {
                        model.name: dict(zip(self.labels, table[number].tolist(), strict=True))
                        for model, table in zip(self.models, self.scores, strict=True)
                    },
                }
                | ({"patient": self.groups[number]} if self.groups else {})
                for number, case in enumerate(self.cases)
            ],
            "left_out": {name: list(cases) for name, cases in self.left_out.items()},
            "notes": list(self.notes),
            "method": {
                "interval": f"BCa bootstrap, {statistics.LEVEL:.0%}",
                "resamples": statistics.RESAMPLES,
                "seed": self.seed,
                "unit": "patient" if self.groups else "case",
                "test": "Wilcoxon signed-rank, two-sided",
                "correction": "Holm",
                "effect": "matched-pairs rank-biserial correlation",
                "tie": self.tie,
            },
            "voxelsam": version("voxelsam"),
        }

    def to_csv(self) -> str:
        """The content of ``compare.csv``: one row per case and structure; an undefined score is an empty field."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["case", "patient", "class", "label", "metric", *(model.name for model in self.models)])
        for number, case in enumerate(self.cases):
            for column, label in enumerate(self.labels):
                values = self.scores[:, number, column].tolist()
                writer.writerow(
                    [
                        case,
                        self.groups[number] if self.groups else case,
                        self.name(label),
                        label,
                        self.metric,
                        *("" if math.isnan(value) else value for value in values),
                    ]
                )
        return text.getvalue()

    def to_html(self) -> str:
        """The content of ``compare.html``, complete in itself."""
        means = {(row.model, row.label): row for row in self.means}
        rows = list(dict.fromkeys(row.label for row in self.means))
        return render(
            "compare.html.jinja",
            title=f"{self.metric} of {' and '.join(model.name for model in self.models)}",
            result=self,
            facts=self._facts(),
            notes=self.notes,
            rows=[
                (self.name(label), [interval(means[model.name, label].interval, self.digits) for model in self.models])
                for label in rows
            ],
            differences=[(row, interval(row.interval, self.digits)) for row in self.differences],
            boxes=self._boxes(),
            pairs=self._pairs(),
            level=statistics.LEVEL,
            resamples=statistics.RESAMPLES,
            unit="patient" if self.groups else "case",
            better=f"{BETTER[self.metric]} is better",
            case_rows=list(zip(self.cases, self.case_means().T.tolist(), strict=True)),
        )

    def write(self, folder: Path) -> None:
        """Writes ``compare.json``, ``compare.csv`` and ``compare.html`` into a folder, made if missing.

        Raises:
            OutputError: a file cannot be written.
        """
        written = {
            "compare.json": json.dumps(nulled(self.to_json()), indent=2, allow_nan=False, ensure_ascii=False) + "\n",
            "compare.csv": self.to_csv(),
            "compare.html": self.to_html(),
        }
        for name, text in written.items():
            write_text(folder / name, text)

    def _difference_json(self, row: Difference) -> dict[str, Any]:
        return {
            "first": row.first,
            "second": row.second,
            "label": row.label,
            "name": row.name,
            **_interval_json(row.interval),
            "effect": row.effect,
            "p": row.p,
            "p_corrected": row.corrected,
            "tests": row.tests,
            "differing_pairs": row.pairs,
            "smallest_possible_p": row.smallest,
            **asdict(row.cases),
            "undefined": dict(row.undefined),
            "note": row.note,
        }

    def _facts(self) -> dict[str, str]:
        first = self.models[0].summary
        definition = first.definitions.get(self.metric, "")
        patients = f" of {len(set(self.groups))} patients" if self.groups else ""
        return {
            "metric": f"{self.metric}, {BETTER[self.metric]} is better",
            **({"definition": definition} if definition else {}),
            "absent structures": _meaning(first.rule),
            **(first.choices if self.metric not in OVERLAPS else {}),
            "cases": f"{len(self.cases)}{patients}",
            **{f"model {model.name}": str(model.source) for model in self.models},
        }

    def _boxes(self) -> bytes | None:
        items = [
            figures.Box(self.name(label), model.name, self.scores[number, :, column].tolist())
            for column, label in enumerate(self.labels)
            for number, model in enumerate(self.models)
        ]
        return figures.boxes(items, self.title)

    def _pairs(self) -> list[tuple[str, bytes]]:
        """A picture of each pair."""
        places = {model.name: number for number, model in enumerate(self.models)}
        found = []
        for one, other in combinations(places, 2):
            rows = [row for row in self.differences if (row.first, row.second) == (one, other)]
            gaps = self.scores[places[one]] - self.scores[places[other]]
            columns = {label: gaps[:, column] for column, label in enumerate(self.labels)}
            columns[MEAN] = row_means(gaps[:, classes_of(self.labels)])
            items = [
                figures.Paired(
                    row.name, columns[row.label].tolist(), row.interval.value, row.interval.low, row.interval.high
                )
                for row in rows
            ]
            title = f"{self.title} of {one} − {other}"
            png = figures.differences(items, title)
            if png is not None:
                found.append((title, png))
        return found


def classes_of(labels: Sequence[str]) -> list[int]:
    """Columns of a mean over classes: regions take no part, unless there is nothing else."""
    single = [column for column, label in enumerate(labels) if not is_region(label)]
    return single or list(range(len(labels)))


def row_means(values: Float[np.ndarray, "cases columns"]) -> Float[np.ndarray, " cases"]:
    """Of the defined ones; NaN where there is none."""
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    sums = np.nan_to_num(values).sum(axis=1)
    means: Float[np.ndarray, " cases"] = np.divide(sums, count, out=np.full(len(values), np.nan), where=count > 0)
    return means


def name_of(models: Sequence[Model], label: str) -> str:
    """The name of a structure, from the first summary that has one; else the label."""
    return next((model.summary.names[label] for model in models if label in model.summary.names), label)


def _meaning(rule: str) -> str:
    return {str(name): text for name, text in RULES.items()}.get(rule, rule)


def _interval_json(value: Interval) -> dict[str, Any]:
    return {
        "mean": value.value,
        "low": value.low,
        "high": value.high,
        "cases": value.cases,
        "patients": value.units,
    }
