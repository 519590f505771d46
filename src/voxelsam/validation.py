"""What a trained model is worth on the cases that were kept from it.

A training ends with this: the validation cases are segmented as any new scan would be, from file to file, and the masks
are scored on the voxels of the scans. That is another number than the one that the training watches, which is of stacks
at the size of the model's input. ``pool`` does the same for the folds of a cross-validation, where every case was
segmented by a model that never saw it.
"""

import csv
import io
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from voxelsam import bundle, checks
from voxelsam.bundle import Bundle
from voxelsam.checks import Finding
from voxelsam.errors import InputError, OutputError
from voxelsam.evaluate import report as pages
from voxelsam.evaluate.run import evaluate
from voxelsam.evaluate.scores import CaseScore, Failure, Report
from voxelsam.files import write_text
from voxelsam.formats import mask_ending
from voxelsam.infer import cohort, trust
from voxelsam.infer.cases import Task
from voxelsam.infer.prediction import Progress
from voxelsam.infer.predictor import Predictor
from voxelsam.infer.quality import MEASURES, Quality
from voxelsam.layouts import Case
from voxelsam.train import history, job
from voxelsam.train.job import Finished
from voxelsam.train.run import METRICS

FOLDER, PAGE, TRUST = "validation", "report.html", "trust.csv"

Told = Callable[[str], Progress]
"""Gives the progress callback of a case."""


@dataclass(frozen=True)
class Validation:
    """Masks of the validation cases, and what they are worth."""

    folder: Path
    """With the masks, ``summary.json``, ``summary.csv``, ``report.html``, and ``trust.csv``."""
    report: Report
    quality: Mapping[str, Quality]
    """Quality measures of each case's masks, as a user of the model would see them."""
    cases: tuple[Case, ...]
    findings: tuple[Finding, ...]
    """What the checks noticed on the way."""
    facts: Mapping[str, str]
    """What the page says of the run."""

    @property
    def trust(self) -> trust.QualityTable:
        """The quality measures beside the true Dice."""
        return trust.quality_table(self.quality, {case.case: _dice(self.report, case) for case in self.report.cases})


def validate(folder: Path, *, told: Told | None = None) -> Validation | None:
    """Segments and scores the validation cases of a finished training, with its best bundle.

    The thresholds of the quality flags that follow from it are written into the bundle.

    Args:
        folder: of the run.
        told: gives the progress callback of a case.

    Returns:
        None for a model that always needs a prompt, and for a training without validation cases.

    Raises:
        OutputError: there is no run in the folder, or it cannot be written.
        InputError: the data set is no longer there, or no case could be segmented.
        WeightsError: there is no bundle, or its backbone is not to be found.
    """
    run = job.finished(folder)
    trained = bundle.load(folder / "best")
    if not run.validation or not trained.description.prompts.free:
        return None
    weights = run.recipe.backbone.weights
    predictor = Predictor(trained, weights=None if weights is None else Path(weights), device=run.recipe.train.device)
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    tasks = [Task(case.id, case.images, place / f"{case.id}{mask_ending(case.images[0])}") for case in run.validation]
    for task in tasks:
        _remove(task.output)
    with checks.watching(run.recipe.data.accept) as watch:
        outcomes = list(cohort.run(predictor, tasks, progress=told and (lambda task: told(task.id))))
        failed = [Failure(one.id, one.reason, one.code) for one in outcomes if one.status == "failed"]
        if len(failed) == len(tasks):
            raise InputError(f"none of the validation cases could be segmented; the first: {failed[0].reason}")
        references = {case.id: case for case in run.validation if case.id not in {one.case for one in failed}}
        scored = evaluate(place, references, labels=run.labels)
    found = replace(scored, failures=(*scored.failures, *failed))
    quality = {one.id: one.quality for one in outcomes if one.quality is not None}
    done = Validation(place, found, quality, run.validation, tuple(watch.findings), _facts(run, trained))
    bundle.judge(folder / "best", trust.thresholds(done.trust))
    _write(done, history.curve(folder / METRICS))
    return done


def pool(parts: Sequence[Validation], folder: Path) -> Validation:
    """The validations of all folds as one: the masks side by side, scored together.

    Args:
        parts: of the folds, all of one data set.
        folder: for the masks and the report.

    Raises:
        InputError: a case was validated in two folds.
        OutputError: the folder cannot be written.
    """
    scores = [case for part in parts for case in part.report.cases]
    names = [case.case for case in scores]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{', '.join(twice)}: validated in two folds; a case belongs to one", code="SET-02")
    folder.mkdir(parents=True, exist_ok=True)
    moved = []
    for case in scores:
        place = folder / case.prediction.name
        _remove(place)
        copy = shutil.copytree if case.prediction.is_dir() else shutil.copy2
        copy(case.prediction, place)
        moved.append(replace(case, prediction=place))
    failures = tuple(failure for part in parts for failure in part.report.failures)
    done = Validation(
        folder,
        replace(parts[0].report, cases=tuple(moved), failures=failures, extra=()),
        {name: one for part in parts for name, one in part.quality.items()},
        tuple(case for part in parts for case in part.cases),
        tuple(finding for part in parts for finding in part.findings),
        dict(parts[0].facts)
        | {"folds": f"{len(parts)}; every case was segmented by a model that did not learn from it"},
    )
    _write(done, ())
    return done


def _facts(run: Finished, trained: Bundle) -> dict[str, str]:
    return {
        "data set": run.dataset.name,
        "method": str(run.recipe.adapt.get("name")),
        "backbone": trained.description.backbone.name,
        "cases": f"{len(run.train)} for training, {len(run.validation)} for validation",
    }


def _write(done: Validation, curve: Sequence[Mapping[str, float | None]]) -> None:
    done.report.write(done.folder)
    table = done.trust
    write_text(done.folder / TRUST, _csv(table))
    pages.page(
        done.folder / PAGE,
        done.report,
        images={case.id: case.images for case in done.cases},
        title="Validation",
        facts=done.facts,
        curve=curve,
        quality=[
            pages.QualityRow(row["case"], row["structure"], measure, row[measure], row["dice"])
            for row in table.rows
            for measure in MEASURES
            if row[measure] is not None
        ],
        groups={case.id: case.group for case in done.cases},
        references={case.id: case for case in done.cases},
    )


def _csv(table: trust.QualityTable) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["case", "structure", "dice", *MEASURES, "flagged"], extrasaction="ignore")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in table.rows)
    return text.getvalue()


def _dice(report: Report, case: CaseScore) -> dict[str, float]:
    return {row.name: case.counts[row.value].dice(report.empty) for row in report.classes if row.value in case.counts}


def _remove(place: Path) -> None:
    try:
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{place} cannot be replaced ({error.strerror})") from None
