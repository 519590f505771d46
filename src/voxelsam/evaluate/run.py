"""Predictions against references: pairs of files, places first, then scores.

Pairs are made by case id, the name of a file without its suffix. A pair whose grids differ is never scored: it is
listed as a failure with its reason, and so is a pair with a file that cannot be read. References are checked as labels
are before training; what is odd about a prediction shows in its scores.
"""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from voxelsam import checks, examine
from voxelsam.errors import ConfigError, InputError, InputWarning, LabelError
from voxelsam.evaluate.measures import DISTANCES, measure, scale_of
from voxelsam.evaluate.metrics import Counts, count, count_classes, empty_rule
from voxelsam.evaluate.presets import DEFAULT, Preset, changed, preset_of
from voxelsam.evaluate.scores import CaseScore, Failure, Report, Value
from voxelsam.evaluate.soft import map_path, probability_maps, soft
from voxelsam.examine import CaseFacts
from voxelsam.formats import ending_of, endings, family, read_labels, read_labels_on
from voxelsam.layouts import Case, open_dataset, read_label, recognising
from voxelsam.record import FILE, Run, digest
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.pair import check_grids
from voxelsam.volumes.volume import LabelMap

DESCRIPTION = "dataset.json"

TILT = 0.01
"""Distances on grids whose axes differ more than this from right angles (as a cosine) are told to be wrong."""

Reference = Path | Case
"""A label file, or a case of a data set, whose layout knows how its label is read."""

Progress = Callable[[int, int, str], None]
"""Called with the number of cases done, of all cases, and the id of the next one."""


def evaluate(
    predictions: Path,
    references: Path | Mapping[str, Reference],
    *,
    labels: Labels | None = None,
    empty: str | None = None,
    out: Path | None = None,
    allow_missing: bool = False,
    progress: Progress | None = None,
    preset: str | Preset = DEFAULT,
    workers: int = 1,
) -> Report:
    """Scores every prediction that has a reference.

    Args:
        predictions: a folder of label files, or one file.
        references: a folder of label files, a data set's folder (its training or test cases, whichever the
            predictions belong to), one file if ``predictions`` is one, or cases or label files by case id.
        labels: the label table; by default the one in the references' data set, else made from the values found.
        empty: rule for classes that are in neither mask, see ``metrics``; by default the preset's.
        out: where to write ``summary.json`` and ``summary.csv``; a folder or the JSON's name.
        allow_missing: list references without a prediction as failures instead of stopping.
        progress: told about each case before it is read.
        preset: what is measured, and by which definitions; or its name.
        workers: processes that score cases side by side; the result is the same for any number.

    Raises:
        InputError: a folder is missing, nothing can be compared, or predictions are missing; or a worker was killed.
        ConfigError: there is no such rule or preset, or less than one worker.
        OutputError: the summary cannot be written.
    """
    if workers < 1:
        raise ConfigError(f"workers: at least 1, not {workers}")
    chosen = preset_of(preset) if isinstance(preset, str) else preset
    chosen = changed(chosen, empty=None if empty is None else empty_rule(empty))
    given, wanted, described = _files(predictions, references)
    paired = [case for case in wanted if case in given]
    missing = [case for case in wanted if case not in given]
    if not paired:
        raise InputError(
            f"nothing to compare: none of the {len(given)} predictions in {predictions} ({_some(list(given))}) has a "
            f"reference of the same name ({len(wanted)} references: {_some(list(wanted))})",
            code="SET-02",
        )
    if missing and not allow_missing:
        raise InputError(
            f"{len(missing)} of {len(wanted)} references have no prediction in {predictions}: {_some(missing)}; "
            "predict them, or allow missing predictions to list them as failures",
            code="SET-02",
        )
    extra = tuple(case for case in given if case not in wanted)
    if extra:
        warnings.warn(f"predictions without a reference were left out: {_some(extra)}", InputWarning, stacklevel=2)
    pairs = {case: (given[case], wanted[case]) for case in paired}
    table = labels or described or _found(pairs)
    scores, failures = _score_all(pairs, table, chosen, progress, workers)
    failures += [Failure(case, "there is no prediction", "SET-02") for case in missing]
    report = Report(table, chosen.empty, tuple(scores), tuple(failures), extra, chosen)
    if out is not None:
        report.write(out)
    return report


def note(report: Report, noted: Run, output: Path) -> None:
    """Writes the record of an evaluation beside its summary.

    Args:
        report: what was found.
        noted: the record.
        output: as in ``evaluate``.
    """
    for scored in report.cases:
        found = [finding for finding in noted.watch.findings if finding.where == scored.case]
        noted.case(scored.case, "scored", found, sha256=digest([scored.prediction, scored.reference]))
    for failure in report.failures:
        noted.case(failure.case, "failed", code=failure.code)
    noted.path = (output.parent if output.suffix == ".json" else output) / FILE
    noted.save("done")


def score(case: str, prediction: Path, reference: Reference, labels: Labels, preset: Preset = DEFAULT) -> CaseScore:
    """One pair of files. Structures that nobody looked for in a case are not scored there.

    Raises:
        GeometryError: the grids differ.
        InputError: a file cannot be read, or its values do not fit the table.
    """
    return _score(case, prediction, reference, _truth(reference, labels), labels, preset)


def _truth(reference: Reference, labels: Labels) -> LabelMap:
    return read_label(reference, labels) if isinstance(reference, Case) else read_labels(reference, labels)


def _score(
    case: str, prediction: Path, reference: Reference, truth: LabelMap, labels: Labels, preset: Preset
) -> CaseScore:
    file = _file(reference)
    guess = read_labels_on(prediction, truth.grid, labels)
    check_grids(truth.grid, guess.grid, str(file), str(prediction))
    counted = _counted(guess, truth, prediction)
    counts = count_classes(labels.to_classes(guess.data), labels.to_classes(truth.data), labels.count, counted)
    unknown = {labels.values[name] for name in reference.unlabelled} if isinstance(reference, Case) else set()
    structures: dict[Value, Counts] = {
        value: counts[index] for index, value in enumerate(labels.values.values()) if value and value not in unknown
    }
    regions: dict[Value, Counts] = {
        values: count(*_masks(guess, truth, values, counted), counted)
        for values in labels.regions.values()
        if not unknown.intersection(values)
    }
    maps = probability_maps(prediction, case, labels, truth.grid) if "multi_threshold" in preset.metrics else {}
    return CaseScore(
        case=case,
        prediction=prediction,
        reference=file,
        spacing=truth.grid.spacing,
        displacement=truth.grid.displacement(guess.grid),
        counts=structures | regions,
        measures={
            value: measure(*_masks(guess, truth, value, counted), truth.grid, preset, soft(maps, value))
            for value in structures | regions
        },
        unit=scale_of(truth.grid, preset.units).unit,
    )


def _masks(
    guess: LabelMap, truth: LabelMap, value: Value, counted: Bool[np.ndarray, "i j k"] | None
) -> tuple[Bool[np.ndarray, "i j k"], Bool[np.ndarray, "i j k"]]:
    """Voxels of a value, or of all values of a region together, in both maps; none where nobody labelled."""
    predicted, present = (
        np.isin(item.data, value) if isinstance(value, tuple) else item.data == value for item in (guess, truth)
    )
    return (predicted, present) if counted is None else (predicted & counted, present & counted)


def _score_all(
    pairs: Mapping[str, tuple[Path, Reference]],
    labels: Labels,
    preset: Preset,
    progress: Progress | None,
    workers: int,
) -> tuple[list[CaseScore], list[Failure]]:
    scores: list[CaseScore] = []
    failures: list[Failure] = []
    seen: list[CaseFacts] = []
    tasks = [_Task(case, *pair, labels, preset) for case, pair in pairs.items()]
    for facts, found in _attempts(tasks, progress, workers):
        seen += [] if facts is None else [facts]
        if isinstance(found, Failure):
            failures.append(found)
        else:
            scores.append(found)
    odd = [finding for facts in seen for finding in examine.case(facts, labels)]
    checks.settle([*odd, *examine.copies(seen)])
    _tell(scores, seen, labels, preset)
    return scores, failures


@dataclass(frozen=True)
class _Task:
    """One pair of files to score."""

    case: str
    prediction: Path
    reference: Reference
    labels: Labels
    preset: Preset


_Attempt = tuple[CaseFacts | None, CaseScore | Failure]
"""What was seen in a reference that could be read, and what came of the case."""


def _attempts(tasks: Sequence[_Task], progress: Progress | None, workers: int) -> Iterator[_Attempt]:
    """Cases in their order, one after the other or in processes."""
    if workers == 1 or len(tasks) == 1:
        for number, task in enumerate(tasks):
            if progress is not None:
                progress(number, len(tasks), task.case)
            yield _attempt(task)
        return
    with ProcessPoolExecutor(min(workers, len(tasks)), get_context("spawn")) as pool:
        results = pool.map(partial(_elsewhere, checks.accepted_codes()), tasks)
        for number, task in enumerate(tasks):
            if progress is not None:
                progress(number, len(tasks), task.case)
            try:
                attempt, findings, told = next(results)
            except BrokenProcessPool:
                raise InputError(
                    f"a process that scored ended without a word, at {task.case} or soon after it (often memory ran "
                    f"out); use fewer workers than {workers}"
                ) from None
            with checks.watching() as watch:
                watch.findings.extend(findings)
            for message in told:
                warnings.warn(message, InputWarning, stacklevel=2)
            yield attempt


def _attempt(task: _Task) -> _Attempt:
    facts = None
    try:
        with checks.watching(where=task.case):
            truth = _truth(task.reference, task.labels)
            unlabelled = task.reference.unlabelled if isinstance(task.reference, Case) else ()
            facts = examine.measure(task.case, None, truth, unlabelled=unlabelled)
            return facts, _score(task.case, task.prediction, task.reference, truth, task.labels, task.preset)
    except InputError as error:
        return facts, Failure(task.case, str(error), error.code)


def _elsewhere(accept: frozenset[str], task: _Task) -> tuple[_Attempt, list[checks.Finding], list[str]]:
    """An attempt in another process, with what its checks found and its warnings, to be told here."""
    with warnings.catch_warnings(record=True) as told, checks.watching(accept) as watch:
        warnings.simplefilter("always", InputWarning)
        attempt = _attempt(task)
    return attempt, watch.findings, [str(each.message) for each in told if issubclass(each.category, InputWarning)]


def _tell(scores: Sequence[CaseScore], seen: Sequence[CaseFacts], labels: Labels, preset: Preset) -> None:
    """Warns where values are less than their names say."""
    hard = [
        score.case
        for score in scores
        if not any(map_path(score.prediction, score.case, name).is_file() for name in labels.names)
    ]
    if hard and "multi_threshold" in preset.metrics:
        warnings.warn(
            f"no probability maps (predict --save-probabilities) for {_some(hard)}; their masks count as certain",
            InputWarning,
            stacklevel=4,
        )
    tilted = [facts.id for facts in seen if facts.label is not None and facts.label.grid.shear > TILT]
    if tilted and {*DISTANCES, "NSD"}.intersection(preset.metrics):
        warnings.warn(
            f"the slices of {_some(tilted)} are tilted; distances are measured as if the axes were at right angles",
            InputWarning,
            stacklevel=4,
        )


def _counted(guess: LabelMap, truth: LabelMap, prediction: Path) -> Bool[np.ndarray, "i j k"] | None:
    """Voxels that somebody labelled; None if there is no ignore value."""
    if truth.labels.ignore is None:
        return None
    counted: Bool[np.ndarray, "i j k"] = truth.data != truth.labels.ignore
    unsaid = int(np.count_nonzero(guess.data[counted] == truth.labels.ignore))
    if unsaid:
        raise LabelError(
            f"{prediction}: {unsaid} voxels hold the ignore value {truth.labels.ignore}; a prediction names a class "
            "for every voxel",
            code="LAB-02",
        )
    return counted


def _files(
    predictions: Path, references: Path | Mapping[str, Reference]
) -> tuple[dict[str, Path], dict[str, Reference], Labels | None]:
    """Predictions and references by case id, and the table that describes the references."""
    if isinstance(references, Mapping):
        return _folder(predictions, "predictions"), dict(references), None
    if predictions.is_file() and references.is_file():
        case = _case_id(references) or references.name
        return {case: predictions}, {case: references}, _described(references.absolute().parent)
    given = _folder(predictions, "predictions")
    if not recognising(references):
        return given, dict(_folder(references, "references")), _described(references)
    dataset = open_dataset(references)
    parts = [{case.id: case for case in part if case.label} for part in (dataset.train, dataset.test)]
    return (
        given,
        {name: case for part in parts if part.keys() & given.keys() for name, case in part.items()},
        dataset.labels,
    )


def _file(reference: Reference) -> Path:
    if not isinstance(reference, Case):
        return reference
    if reference.label is None:
        raise InputError(f"case {reference.id} has no label", code="SET-01")
    return reference.label


def _folder(folder: Path, what: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"the {what} should be a folder of label files, but {folder} is none", code="SET-03")
    files = _label_files(folder)
    if not files:
        raise InputError(f"the folder of {what} {folder} holds no label file ({', '.join(endings())})", code="SET-03")
    found: dict[str, Path] = {}
    for path in files:
        case = _case_id(path)
        if case in found:
            raise InputError(f"case {case} is there twice: {found[case]} and {path}; keep one", code="SET-02")
        found[case] = path
    return found


def _label_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.name[0] != "." and _case_id(path))


def _case_id(path: Path) -> str:
    """A file's name without its ending, or that of a folder with the masks of a film; empty if it is neither."""
    if path.is_dir():
        return path.name if family(path) == "video" else ""
    ending = ending_of(path)
    return path.name.removesuffix(ending) if ending else ""


def _described(folder: Path) -> Labels | None:
    """The label table in a data set's description, in the folder or the one above."""
    for path in (folder / DESCRIPTION, folder.absolute().parent / DESCRIPTION):
        if path.is_file():
            try:
                return Labels.from_json(json.loads(path.read_text(encoding="utf-8"))["labels"])
            except (ValueError, KeyError, TypeError):
                raise InputError(f"{path} describes a data set, but has no readable table 'labels'") from None
    return None


def _found(pairs: Mapping[str, tuple[Path, Reference]]) -> Labels:
    """A table of all values in readable files; a file that cannot be read fails later, with its case."""
    values: set[int] = set()
    for item in (item for pair in pairs.values() for item in pair):
        try:
            found = read_label(item) if isinstance(item, Case) else read_labels(item)
            values.update(found.labels.values.values())
        except InputError:
            continue
    return Labels.of_values(values)


def _some(cases: list[str] | tuple[str, ...]) -> str:
    return ", ".join(cases[:5]) + (f" and {len(cases) - 5} more" if len(cases) > 5 else "")
