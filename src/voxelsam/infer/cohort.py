"""Many volumes, one model: every mask is written whole or not at all, and a failure stops nothing else."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from voxelsam import checks, examine, formats, record
from voxelsam.checks import Finding
from voxelsam.errors import InputError, OutputError, VoxelSamError
from voxelsam.formats import can_write, ending_of, mask_ending, picture, read_channels
from voxelsam.infer.prediction import Prediction, Progress
from voxelsam.infer.predictor import Predictor
from voxelsam.preview import save_preview
from voxelsam.record import Run
from voxelsam.volumes.volume import Volume


@dataclass(frozen=True)
class Task:
    """One case to segment."""

    id: str
    images: tuple[Path, ...]
    """One file (or folder of a DICOM series) per channel."""
    output: Path
    series: str | None = None
    """Which DICOM series, where the folder or archive holds several."""


@dataclass(frozen=True)
class Outcome:
    """What became of one case."""

    id: str
    output: Path
    status: Literal["done", "kept", "failed", "planned"]
    """``kept``: its mask was there already."""
    reason: str = ""
    code: str = ""
    """Of the check that failed, if it has one."""
    seconds: float = 0.0
    findings: tuple[Finding, ...] = ()
    """What the checks noticed, or were told to accept."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**vars(self), "output": str(self.output), "findings": [vars(finding) for finding in self.findings]}


@dataclass(frozen=True)
class Extras:
    """What is written beside a mask."""

    preview: bool = False
    """A picture of some slices (of a film, a film) with the structures drawn in."""
    probabilities: bool = False
    """A map from 0 to 1 for each structure."""


SLICES = ("", ".dcm", ".ima", ".dicom")
"""Endings of the files of a DICOM series."""

Segment = Callable[[Task, Volume, Progress | None], Prediction]
"""A case and its volume to the label map."""


def tasks(
    source: Path,
    output: Path,
    channels: int,
    *,
    ending: str | None = None,
    series: str | None = None,
    film: bool = False,
) -> tuple[Task, ...]:
    """The cases of a file or folder, and where each mask goes.

    A folder that holds DICOM files is one case; in any other folder every image file is a case, and every folder with
    DICOM files. With one channel a mask has the name of its image, without nnU-Net's ``_0000``. With several channels
    files are named ``CASE_0000.nii.gz``, ``CASE_0001.nii.gz`` and so on, as in nnU-Net. A picture, or a file with a
    volume for each channel in a fourth axis, may hold all channels, so each is a case of its own, unless there is one
    for each channel under those names. A mask is of the same family as its image: NIfTI beside NIfTI, DICOM SEG beside
    DICOM, PNG beside pictures, a folder of PNG beside a film.

    Args:
        source: an image file, a folder of image files, a DICOM series, or a folder of them.
        output: a folder; for one file also the name of the mask.
        channels: how many channels the model takes.
        ending: of the masks' names; None: see above.
        series: which DICOM series of a single case that holds several.
        film: folders of numbered pictures are films; otherwise each picture is a case of its own.

    Raises:
        InputError: there is nothing to segment, a case lacks a channel, or two cases would share a mask.
        OutputError: masks cannot be written in the format of that file name.
    """
    if not source.exists():
        raise InputError(f"there is no {source}")
    groups = _grouped(_images(source, film), channels)
    if not groups:
        raise InputError(f"there is no image of a known format in {source}", code="SET-03")
    wrong = [
        f"  {name}: {', '.join(p.name for p in paths)}"
        for name, paths in groups.items()
        if len(paths) != channels and not (len(paths) == 1 and _holds_all(paths[0], channels))
    ]
    if wrong:
        need = "CASE_0000 …" if channels > 1 else "one file per case"
        raise InputError(
            f"expected {channels} file(s) per case ({need}), but found\n" + "\n".join(wrong), code="VAL-06"
        )
    if series is not None and len(groups) > 1:
        raise InputError(f"{source} holds {len(groups)} cases: a series can be chosen for one case only", code="DCM-03")
    if ending is not None and not can_write(Path(f"mask{ending}")):
        raise OutputError(f"masks cannot be written as {ending}")
    if not ending_of(output):
        masks = {name: output / f"{name}{ending or mask_ending(paths[0])}" for name, paths in groups.items()}
        return tuple(Task(name, tuple(paths), masks[name], series) for name, paths in groups.items())
    if len(groups) > 1:
        raise InputError(f"{source} holds {len(groups)} cases: give a folder for their masks, not {output}")
    if ending is not None and not output.name.endswith(ending):
        raise OutputError(f"{output} does not end with {ending}: leave one of the two out")
    if not can_write(output):
        raise OutputError(f"{output}: masks cannot be written as {ending_of(output)}; take {mask_ending(output)}")
    return tuple(Task(name, tuple(paths), output, series) for name, paths in groups.items())


def place(todo: Sequence[Task], output: Path) -> Path:
    """Where the record of the run lies."""
    return record.path_for(output, folder=todo[0].output != output)


def check_output(todo: Sequence[Task], output: Path, made_by: Mapping[str, Any], go_on: bool) -> None:
    """Refuses to mix new masks with what is there already.

    Args:
        todo: the cases.
        output: what the user named: a folder, or a mask's file name.
        made_by: what makes the masks: bundle and settings.
        go_on: masks that are there are kept, if the same model made them.

    Raises:
        OutputError: something is in the way.
    """
    if todo[0].output == output:
        if output.exists() and not go_on:
            raise OutputError(f"{output} exists already: remove it, give another name, or keep it with --continue")
        return
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} is a file, but the masks need a folder")
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not go_on:
        raise OutputError(f"{output} is not empty: give another folder, or go on with --continue")
    there = record.read(output / record.FILE)
    if there and there["made_by"] != made_by:
        raise OutputError(
            f"the masks in {output} were made by another model or setting ({record.FILE}): give another folder"
        )


def run(
    predictor: Predictor,
    todo: Sequence[Task],
    *,
    progress: Callable[[Task], Progress] | None = None,
    segment: Segment | None = None,
    extras: Extras | None = None,
    noted: Run | None = None,
) -> Iterator[Outcome]:
    """Segments one case after the other; the outcome of each comes as soon as it is known.

    Args:
        predictor: the model.
        todo: the cases; one whose mask exists is kept as it is.
        progress: gives the progress callback of a case.
        segment: how a case is segmented; None: by the predictor, without prompts.
        extras: what is written beside the masks.
        noted: the record of the run; it is written before the first mask and again at the end. A run that makes no
            mask leaves none.
    """
    status = "interrupted"
    try:
        for number, task in enumerate(todo):
            outcome = _one(predictor, task, progress, segment, extras or Extras(), noted)
            if noted is not None:
                files = {} if outcome.status == "kept" else {"sha256": record.digest(task.images)}
                noted.case(task.id, outcome.status, outcome.findings, seconds=round(outcome.seconds, 2), **files)
            if number == len(todo) - 1:
                status = "done"
            yield outcome
    finally:
        if noted is not None and noted.path is not None and noted.path.is_file():
            noted.save(status)


def _one(
    predictor: Predictor,
    task: Task,
    progress: Callable[[Task], Progress] | None,
    segment: Segment | None,
    extras: Extras,
    noted: Run | None,
) -> Outcome:
    if task.output.exists():
        return Outcome(task.id, task.output, "kept")
    begin = perf_counter()
    with checks.watching(where=task.id) as watch:
        try:
            channels = len(predictor.bundle.description.channels)
            volume = read_channels(task.images, channels, series=task.series)
            about = examine.measure(task.id, volume, kind=predictor.bundle.description.kind)
            checks.settle(examine.case(about, depth=predictor.plan.depth, told=examine.READING))
            told = progress(task) if progress else None
            wanted = extras.probabilities
            if segment is not None:
                prediction = segment(task, volume, told)
            else:
                prediction = predictor(volume, progress=told, probabilities=wanted)
            if noted is not None and noted.path is not None and not noted.path.is_file():
                noted.save()
            task.output.parent.mkdir(parents=True, exist_ok=True)
            _beside(prediction, task, extras)
            prediction.save(task.output)
        except (VoxelSamError, OSError, MemoryError) as error:
            code = error.code if isinstance(error, VoxelSamError) else ""
            reason, seconds = str(error) or type(error).__name__, perf_counter() - begin
            return Outcome(task.id, task.output, "failed", reason, code, seconds, tuple(watch.findings))
    return Outcome(task.id, task.output, "done", "", "", perf_counter() - begin, tuple(watch.findings))


def _beside(prediction: Prediction, task: Task, extras: Extras) -> None:
    """Writes what stands beside a mask; the mask itself comes last, so that where it is, all is."""
    folder = task.output.parent
    if extras.preview:
        target = folder / "previews" / f"{task.id}{'.mp4' if prediction.volume.grid.along_k == 'time' else '.png'}"
        target.parent.mkdir(exist_ok=True)
        save_preview(target, prediction.volume, prediction.labels)
    if extras.probabilities:
        (folder / "probabilities").mkdir(exist_ok=True)
        prediction.save_probabilities(folder / "probabilities" / task.id)


def _images(source: Path, film: bool) -> list[Path]:
    """What is a case or a channel of one: see ``tasks``."""
    if not source.is_dir():
        return [source] if ending_of(source) or formats.family(source) else []
    inside = [path for path in sorted(source.iterdir()) if not path.name.startswith(".")]
    if any(_is_slice(path) for path in inside) or (film and formats.family(source) == "video"):
        return [source]
    folders = ("dicom", "video") if film else ("dicom",)
    return [path for path in inside if (formats.family(path) in folders if path.is_dir() else ending_of(path))]


def _is_slice(path: Path) -> bool:
    """Whether a file is one of a DICOM series; files that have the ending of another format are not opened."""
    return path.is_file() and path.suffix.lower() in SLICES and formats.family(path) == "dicom"


def _holds_all(path: Path, channels: int) -> bool:
    """Whether one file may hold all channels; what is wrong with a file is told when its turn comes."""
    if picture.named_so(path):
        return True
    try:
        return path.is_file() and formats.frames(path) == channels
    except InputError:
        return False


def _grouped(files: Sequence[Path], channels: int) -> dict[str, list[Path]]:
    """The files of each case, by its id."""
    groups: dict[str, list[Path]] = {}
    for path in files:
        groups.setdefault(_without(path, r"_\d{4}$" if channels > 1 else r"_0000$"), []).append(path)
    cases: dict[str, list[Path]] = {}
    for name, paths in groups.items():
        alone = channels > 1 and len(paths) != channels and all(map(picture.named_so, paths))
        for case, members in ((_without(p, r"_0000$"), [p]) for p in paths) if alone else ((name, paths),):
            cases.setdefault(case, []).extend(members)
    return cases


def _without(path: Path, number: str) -> str:
    """A file's name without its ending, and without its number."""
    return re.sub(number, "", path.name.removesuffix(ending_of(path)))
