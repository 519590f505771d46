"""What takes part in a comparison: folders of predictions, scored here, or summaries of ours or of nnU-Net's."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from voxelsam.errors import ConfigError, InputError
from voxelsam.evaluate.comparable import Model, check_known
from voxelsam.evaluate.metrics import Empty
from voxelsam.evaluate.presets import Preset, metrics_of
from voxelsam.evaluate.run import Progress, evaluate
from voxelsam.evaluate.scores import Report
from voxelsam.evaluate.summary import OVERLAPS, Summary, read
from voxelsam.formats import ending_of, family
from voxelsam.volumes.labels import Labels

SUMMARY = "summary.json"
VALIDATION = "validation"
"""Folder of a run, ours or nnU-Net's, with the masks and scores of its validation cases."""


def gather(
    given: Sequence[str],
    reference: Path | None = None,
    *,
    metric: str = "Dice",
    preset: Preset,
    empty: Empty | None = None,
    progress: Progress | None = None,
) -> tuple[Model, ...]:
    """The models of a comparison; folders of predictions are scored.

    Args:
        given: Folders of predictions, summaries, or folders of runs, each as a path or NAME=PATH.
        reference: Folder of label files, or a data set; None where every model has a summary. Where it is given, masks
            are scored anew even if a summary lies beside them.
        metric: What will be compared; nothing else is measured.
        preset: How it is measured in folders of predictions.
        empty: Rule for classes in neither mask; None: the preset's.
        progress: Told about each case before it is read.

    Raises:
        InputError: Fewer than two models, one twice, one that is neither predictions nor a summary, or predictions
            without references.
        ConfigError: Two models have the same name, or there is no such metric.
    """
    check_known(metric)
    sources = _sources(given)
    found = {name: _locate(name, path, scored=reference is not None) for name, path in sources.items()}
    folders = {name: path for name, path in found.items() if path.is_dir()}
    if folders and reference is None:
        name, path = next(iter(folders.items()))
        raise InputError(
            f"{name}: {path} holds predictions and no {SUMMARY}; give the references with -r to have them scored",
            code="SET-02",
        )
    _check_twice(found)
    reports = _evaluated(folders, reference, metric, preset, empty, progress) if reference else {}
    return tuple(
        Model(name, path, Summary.of(reports[name].to_json(), str(path)) if name in reports else read(path))
        for name, path in found.items()
    )


def _sources(given: Sequence[str]) -> dict[str, Path]:
    """Path of each model by its name: the one given, else the shortest end of its path that no other has."""
    if len(given) < 2:
        raise InputError(f"a comparison needs two models or more, but {len(given)} came: name another one")
    order = list[tuple[str, Path]]()
    for item in given:
        name, sign, rest = item.partition("=")
        named = bool(sign and name) and not Path(item).exists()
        order.append((name, Path(rest)) if named else ("", Path(item)))
    short = _short_names([path.absolute() for name, path in order if not name])
    found: dict[str, Path] = {}
    for name, path in order:
        chosen = name or short[path.absolute()]
        if chosen in found:
            if found[chosen].absolute() == path.absolute():
                raise InputError(f"{path} is there twice: compare it with another model", code="SET-02")
            raise ConfigError(f"two models are named {chosen}: give them other names, as NAME=PATH")
        found[chosen] = path
    return found


def _short_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Ends of paths that tell them apart; what every model is called is no part of it."""
    parts = {
        path: [part for part in path.parts if part not in (SUMMARY, VALIDATION, path.anchor)] or [path.name]
        for path in paths
    }
    for length in range(1, max((len(each) for each in parts.values()), default=0) + 1):
        names = {path: "/".join(each[-length:]) for path, each in parts.items()}
        if len(set(names.values())) == len(names):
            return names
    return {path: str(path) for path in paths}


def _locate(name: str, path: Path, *, scored: bool) -> Path:
    """The folder of predictions or the summary that a user means; of a run those of its validation.

    Args:
        name: Of the model.
        path: What was given.
        scored: Whether references are there, so that masks are scored anew.
    """
    if path.is_file() and path.suffix == ".json":
        return path
    if not path.is_dir():
        raise InputError(
            f"{name}: expected a folder of predictions, a run or a {SUMMARY}, but {path} is none", code="SET-03"
        )
    folder = path / VALIDATION if (path / VALIDATION).is_dir() else path
    masks, summary = _has_masks(folder), folder / SUMMARY
    if masks and (scored or not summary.is_file()):
        return folder
    if summary.is_file():
        return summary
    raise InputError(f"{name}: {path} holds neither predictions nor a {SUMMARY}", code="SET-03")


def _has_masks(folder: Path) -> bool:
    return any(family(path) == "video" if path.is_dir() else ending_of(path) for path in folder.iterdir())


def _check_twice(found: Mapping[str, Path]) -> None:
    seen: dict[Path, str] = {}
    for name, path in found.items():
        place = path.resolve()
        place = place.parent if place.name == SUMMARY else place
        if place in seen:
            raise InputError(
                f"{seen[place]} and {name} are the same folder, {place}: compare it with another model", code="SET-02"
            )
        seen[place] = name


def _evaluated(
    folders: Mapping[str, Path],
    reference: Path,
    metric: str,
    preset: Preset,
    empty: Empty | None,
    progress: Progress | None,
) -> dict[str, Report]:
    """Scores of every folder under one label table."""

    def scored(labels: Labels | None) -> dict[str, Report]:
        return {
            name: evaluate(
                folder,
                reference,
                labels=labels,
                empty=empty,
                preset=_measuring(preset, metric),
                allow_missing=True,
                progress=progress,
            )
            for name, folder in folders.items()
        }

    reports = scored(None)
    tables = [report.labels for report in reports.values()]
    if any(table.to_json() != tables[0].to_json() for table in tables):  # no table came with the references
        reports = scored(Labels.of_values({value for table in tables for value in table.values.values()}))
    for name, report in reports.items():
        if not report.cases:
            raise InputError(f"{name}: no case could be scored: {report.failures[0].reason}", code="SET-02")
    return reports


def _measuring(preset: Preset, metric: str) -> Preset:
    """The preset with this metric and no other, because distances take long."""
    if metric in OVERLAPS:
        return replace(preset, metrics=())
    if metric.startswith("lesion_"):
        return replace(preset, metrics=("lesions",))
    if metric.endswith("_multi"):
        return replace(preset, metrics=("multi_threshold",))
    return replace(preset, metrics=metrics_of([metric]))
