"""A published protocol run on a user's own copy of the data, and its figures beside the paper's.

Plan, training, prediction and evaluation are those of every other run, with the recipe and the preset of scores that
the study fixes (``voxelsam.evaluate.studies``). What the user changes is recorded, and a changed run is never called a
reproduction; neither is one on a random backbone.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from voxelsam import backbones, bundle, config
from voxelsam import study as prompting
from voxelsam.errors import ConfigError, InputError
from voxelsam.evaluate.run import evaluate
from voxelsam.evaluate.scores import CaseScore, Report, nulled
from voxelsam.evaluate.statistics import Interval, means
from voxelsam.evaluate.studies import Figures, Study, Table
from voxelsam.files import write_text
from voxelsam.infer.predictor import Predictor
from voxelsam.layouts import Case
from voxelsam.train import job as jobs
from voxelsam.train.origin import flat
from voxelsam.train.recipe import parse
from voxelsam.validation import FOLDER as VALIDATION
from voxelsam.validation import validate

FILE = "reproduction.json"

CLOSE = 1.0
"""Points around a printed mean within which a result counts as reproduced, if its interval does not hold the mean."""

FREE = ("data.root", "backbone.weights", "train.device", "train.devices", "train.nodes", "train.workers", "data.accept")
"""Settings that do not make another experiment of it."""

Verdict = Literal["reproduced", "not reached", "changed", "random backbone", "no figure"]


@dataclass(frozen=True)
class Row:
    """One of our figures beside the printed one."""

    measure: str
    column: str
    """A structure, a set of cases, or ``mean``."""
    paper: float | None
    """As printed; None where nothing is."""
    ours: Interval
    """In the paper's unit."""


@dataclass(frozen=True)
class Reproduction:
    """What came of a study."""

    study: str
    arm: str
    rows: tuple[Row, ...]
    changed: tuple[str, ...]
    """Settings that are not the study's, ``path: study's -> ours``."""
    backbone: str
    random: bool
    """Whether the backbone was never pretrained."""
    cases: int

    @property
    def verdict(self) -> Verdict:
        """Whether the printed mean of the first measure was reached."""
        if self.changed:
            return "changed"
        if self.random:
            return "random backbone"
        row = next((row for row in self.rows if row.column == "mean" and row.paper is not None), None)
        if row is None or row.paper is None or math.isnan(row.ours.value):
            return "no figure"
        inside = row.ours.low <= row.paper <= row.ours.high
        return "reproduced" if inside or abs(row.ours.value - row.paper) <= CLOSE else "not reached"

    def to_json(self) -> dict[str, Any]:
        """As plain values, NaN included."""
        return {
            **asdict(self),
            "rows": [asdict(row) for row in self.rows],
            "verdict": self.verdict,
            "close": CLOSE,
            "voxelsam": version("voxelsam"),
        }


def settings_of(
    study: Study, arm: str, weights: Path | None, own: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The parts of the recipe for a run of a study, and what in them is not the study's.

    Args:
        study: the protocol.
        arm: which of its rows.
        weights: the backbone's checkpoint.
        own: what the user sets besides, as nested values.

    Raises:
        ConfigError: there is no such arm, or the parts make no valid recipe.
    """
    fixed = study.settings(arm)
    given = config.merge(fixed, {"backbone": {"weights": str(weights)}} if weights else {})
    given = config.merge(given, own)
    parse(config.merge(given, {"data": {"root": "."}}), where=f"the recipe of {study.name}")
    before, after = flat(fixed), flat(given)
    changed = tuple(
        f"{path}: {before.get(path, 'not fixed')} -> {after.get(path)}"
        for path in after
        if path not in FREE and path in flat(own) and before.get(path) != after.get(path)
    )
    return given, changed


def score(
    study: Study,
    arm: str,
    folder: Path,
    changed: Sequence[str],
    *,
    told: Callable[[str], Callable[[int, int], None]] | None = None,
) -> Reproduction:
    """Segments and scores the held-out cases of a finished run as the study asks, and writes ``reproduction.json``.

    Args:
        study: the protocol.
        arm: which row.
        folder: of the run.
        changed: from ``settings_of``.
        told: gives the progress callback of a case.

    Raises:
        InputError: there are no held-out cases, or none of a set that the study names.
        OutputError: the file cannot be written.
    """
    done = jobs.finished(folder)
    trained = bundle.load(folder / "best")
    if study.prompts is not None:
        rows = _prompted(study, done, folder, told)
    else:
        if validate(folder, told=told) is None:
            raise InputError(f"{folder}: there are no held-out cases, so there is nothing to hold against {study.name}")
        references = {case.id: case for case in done.validation}
        report = evaluate(
            folder / VALIDATION, references, labels=done.labels, preset=study.preset, out=folder / "paper"
        )
        rows = _rows(study, arm, report, done.validation)
    name = trained.description.backbone.name
    found = Reproduction(
        study.name, arm, tuple(rows), tuple(changed), name, name in backbones.SEEDED, len(done.validation)
    )
    write_text(folder / FILE, json.dumps(nulled(found.to_json()), indent=1, allow_nan=False) + "\n")
    return found


def read(folder: Path) -> dict[str, Any]:
    """What ``score`` wrote.

    Raises:
        InputError: there is no such file, or it is none of ours.
    """
    try:
        found = json.loads((folder / FILE).read_text("utf-8"))
        return {key: found[key] for key in ("study", "arm", "rows", "verdict", "changed", "cases")}
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{folder} holds no readable {FILE}: give the folder of a reproduction", code="SET-03"
        ) from None


@dataclass(frozen=True)
class Entry:
    """A line of the ledger."""

    study: str
    arm: str
    title: str
    paper: str
    """The printed mean, with measure and unit; empty where none was obtained."""
    ours: str
    """Our mean with its interval, in the same unit; empty where there is none."""
    status: str
    why: str = ""
    """Of what was not attempted."""


def ledger(studies: Mapping[str, Study], results: Sequence[Path] = ()) -> tuple[Entry, ...]:
    """Every row of every study that could be trained, with what came of it.

    Args:
        studies: by name.
        results: folders of finished reproductions.

    Raises:
        InputError: a folder holds none.
    """
    found = {(one["study"], one["arm"]): one for one in map(read, results)}
    return tuple(
        _entry(study, arm, found.get((study.name, arm)))
        for study in studies.values()
        for arm in (study.arms or {"": {}})
    )


def _entry(study: Study, arm: str, found: Mapping[str, Any] | None) -> Entry:
    table = next((table for table in study.tables if arm in table.figures), None)
    paper = f"{table.measure} {table.figures[arm].mean:g} {table.unit}" if table else ""
    if found is None:
        return Entry(study.name, arm, study.title, paper, "", study.status.state, study.status.why)
    row = next((row for row in found["rows"] if row["column"] == "mean" and row["ours"]["value"] is not None), None)
    status = found["verdict"]
    if row is None:
        return Entry(study.name, arm, study.title, paper, "", status)
    if status == "not reached" and row["paper"] is not None:
        status = f"{row['ours']['value'] - row['paper']:+.1f} from the paper's"
    if status == "changed":
        status = f"another experiment ({'; '.join(found['changed'])})"
    ours = f"{row['measure']} {_shown(row['ours'])}, {found['cases']} cases"
    return Entry(study.name, arm, study.title, paper, ours, status)


def _shown(interval: Mapping[str, float | None]) -> str:
    low, high = interval["low"], interval["high"]
    limits = "" if low is None or high is None else f" ({low:.1f} to {high:.1f})"
    return f"{interval['value']:.1f}{limits}"


def _rows(study: Study, arm: str, report: Report, cases: Sequence[Case]) -> list[Row]:
    groups = {case.id: case.group for case in cases}
    rows = []
    for table in study.tables or (Table("Dice", "%", "", {}),):
        factor = 100.0 if table.unit == "%" else 1.0
        printed = table.figures.get(arm, Figures(math.nan))
        if study.sets:
            columns = [[case for case in report.cases if case.case.startswith(start)] for start in study.sets.values()]
            if empty := [name for name, part in zip(study.sets, columns, strict=True) if not part]:
                raise InputError(f"none of the held-out cases belongs to {', '.join(empty)}", code="SET-02")
            found = [_mean(report, part, table.measure, groups) for part in columns]
            every = np.array([one.value for one in found])
            found.append(Interval(float(every.mean()), math.nan, math.nan, len(report.cases), len(report.cases)))
        else:
            found = list(_means(report, report.cases, table.measure, groups))
        names = [*(study.columns or [row.name for row in report.classes]), "mean"]
        values = [*(printed.values or [math.nan] * (len(names) - 1)), printed.mean]
        rows += [
            Row(table.measure, name, None if math.isnan(value) else value, _scaled(one, factor))
            for name, value, one in zip(names, values, found, strict=True)
        ]
    return rows


def _means(report: Report, cases: Sequence[CaseScore], measure: str, groups: Mapping[str, str]) -> tuple[Interval, ...]:
    """Of each structure, then over structures."""
    scores = np.array([[_value(report, case, row.value, measure) for row in report.classes] for case in cases])
    return means(scores, [groups[case.case] for case in cases], [range(scores.shape[1])])


def _mean(report: Report, cases: Sequence[CaseScore], measure: str, groups: Mapping[str, str]) -> Interval:
    return _means(report, cases, measure, groups)[-1]


def _value(report: Report, case: CaseScore, value: Any, measure: str) -> float:
    if value not in case.counts:
        return math.nan
    counts = case.counts[value]
    if measure in ("Dice", "IoU"):
        return counts.dice(report.empty) if measure == "Dice" else counts.iou(report.empty)
    return case.measures.get(value, {}).get(measure, math.nan)


def _prompted(
    study: Study, done: jobs.Finished, folder: Path, told: Callable[[str], Callable[[int, int], None]] | None
) -> list[Row]:
    """Means over structures at each step of the prompts, held against the rows that name the step."""
    weights = done.recipe.backbone.weights
    predictor = Predictor(
        bundle.load(folder / "best"),
        weights=None if weights is None else Path(weights),
        device=done.recipe.train.device,
    )
    plan = config.parse(prompting.StudyPlan, study.prompts or {}, where=f"the prompts of {study.name}")
    result = prompting.study(predictor, done.validation, plan, folder / "paper", told and told("prompting cases"))
    if not result.scores:
        raise InputError(f"none of the held-out cases could be prompted: {next(iter(result.failures.values()), '')}")
    rows = []
    for table in study.tables:
        if table.measure != "Dice":
            continue
        for step in plan.steps:
            printed = next((row.mean for row in table.figures.values() if row.step == step), None)
            mean = Interval(result.mean(step) * 100, math.nan, math.nan, len(done.validation), len(done.validation))
            rows.append(Row(table.measure, "mean" if printed is not None else step, printed, mean))
    return rows


def _scaled(interval: Interval, factor: float) -> Interval:
    return Interval(
        interval.value * factor, interval.low * factor, interval.high * factor, interval.cases, interval.units
    )


def check_weights(study: Study, settings: Mapping[str, Any]) -> None:
    """Refuses to begin without the backbone that the study was made with.

    Raises:
        ConfigError: a checkpoint is needed and none was given.
    """
    section = settings.get("backbone", {})
    name = section.get("name")
    if name and name not in backbones.SEEDED and not section.get("weights"):
        raise ConfigError(
            f"{study.name} is of {name}: give its checkpoint with --weights, or try the pipeline without one with "
            "--set backbone.name=sam-tiny, which is no reproduction"
        )
