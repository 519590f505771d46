"""Predictions against references: pairs of files, places first, then scores.

Pairs are made by case id, the name of a file without its suffix. A pair whose grids differ is never scored: it is
listed as a failure with its reason, and so is a pair with a file that cannot be read. References are checked as labels
are before training; what is odd about a prediction shows in its scores.
"""

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from voxelsam import checks, examine
from voxelsam.errors import InputError, InputWarning, LabelError
from voxelsam.evaluate.metrics import Counts, count, count_classes, empty_rule
from voxelsam.evaluate.scores import CaseScore, Failure, Report
from voxelsam.formats import ending_of, endings, family, read_labels, read_labels_on
from voxelsam.layouts import Case, open_dataset, read_label, recognising
from voxelsam.record import FILE, Run, digest
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.pair import check_grids
from voxelsam.volumes.volume import LabelMap

DESCRIPTION = "dataset.json"

Reference = Path | Case
"""A label file, or a case of a data set, whose layout knows how its label is read."""

Progress = Callable[[int, int, str], None]
"""Called with the number of cases done, of all cases, and the id of the next one."""


def evaluate(
    predictions: Path,
    references: Path | Mapping[str, Reference],
    *,
    labels: Labels | None = None,
    empty: str = "nan",
    out: Path | None = None,
    allow_missing: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Scores every prediction that has a reference.

    Args:
        predictions: a folder of label files, or one file.
        references: a folder of label files, a data set's folder (its training or test cases, whichever the
            predictions belong to), one file if ``predictions`` is one, or cases or label files by case id.
        labels: the label table; by default the one in the references' data set, else made from the values found.
        empty: rule for classes that are in neither mask, see ``metrics``.
        out: where to write ``summary.json`` and ``summary.csv``; a folder or the JSON's name.
        allow_missing: list references without a prediction as failures instead of stopping.
        progress: told about each case before it is read.

    Raises:
        InputError: a folder is missing, nothing can be compared, or predictions are missing.
        ConfigError: there is no such rule.
        OutputError: the summary cannot be written.
    """
    rule = empty_rule(empty)
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
    scores, failures = _score_all(pairs, table, progress)
    failures += [Failure(case, "there is no prediction", "SET-02") for case in missing]
    report = Report(table, rule, tuple(scores), tuple(failures), extra)
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


def score(case: str, prediction: Path, reference: Reference, labels: Labels) -> CaseScore:
    """One pair of files. Structures that nobody looked for in a case are not scored there.

    Raises:
        GeometryError: the grids differ.
        InputError: a file cannot be read, or its values do not fit the table.
    """
    return _score(case, prediction, reference, _truth(reference, labels), labels)


def _truth(reference: Reference, labels: Labels) -> LabelMap:
    return read_label(reference, labels) if isinstance(reference, Case) else read_labels(reference, labels)


def _score(case: str, prediction: Path, reference: Reference, truth: LabelMap, labels: Labels) -> CaseScore:
    file = _file(reference)
    guess = read_labels_on(prediction, truth.grid, labels)
    check_grids(truth.grid, guess.grid, str(file), str(prediction))
    counted = _counted(guess, truth, prediction)
    counts = count_classes(labels.to_classes(guess.data), labels.to_classes(truth.data), labels.count, counted)
    unknown = {labels.values[name] for name in reference.unlabelled} if isinstance(reference, Case) else set()
    structures = {
        value: counts[index] for index, value in enumerate(labels.values.values()) if value and value not in unknown
    }
    regions = {
        values: _region(guess, truth, values, counted)
        for values in labels.regions.values()
        if not unknown.intersection(values)
    }
    return CaseScore(
        case=case,
        prediction=prediction,
        reference=file,
        spacing=truth.grid.spacing,
        displacement=truth.grid.displacement(guess.grid),
        counts=structures | regions,
    )


def _region(
    guess: LabelMap, truth: LabelMap, values: tuple[int, ...], counted: Bool[np.ndarray, "i j k"] | None
) -> Counts:
    """Voxels of all values of a region together."""
    predicted, present = (np.isin(item.data, values) for item in (guess, truth))
    return count(predicted, present) if counted is None else count(predicted[counted], present[counted])


def _score_all(
    pairs: Mapping[str, tuple[Path, Reference]], labels: Labels, progress: Progress | None
) -> tuple[list[CaseScore], list[Failure]]:
    scores, failures, seen = [], [], []
    for number, (case, (prediction, reference)) in enumerate(pairs.items()):
        if progress is not None:
            progress(number, len(pairs), case)
        try:
            with checks.watching(where=case):
                truth = _truth(reference, labels)
                unlabelled = reference.unlabelled if isinstance(reference, Case) else ()
                seen.append(examine.measure(case, None, truth, unlabelled=unlabelled))
                scores.append(_score(case, prediction, reference, truth, labels))
        except InputError as error:
            failures.append(Failure(case, str(error), error.code))
    odd = [finding for facts in seen for finding in examine.case(facts, labels)]
    checks.settle([*odd, *examine.copies(seen)])
    return scores, failures


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
