"""Many volumes, one model: every mask is written whole or not at all, and a failure stops nothing else."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal
from zipfile import is_zipfile

from voxelsam import checks, examine, formats, record
from voxelsam.checks import Finding
from voxelsam.errors import ConfigError, InputError, OutputError, VoxelSamError
from voxelsam.formats import can_write, dicom, ending_of, mask_ending, picture, read_channels
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
    frame: int | None = None
    """Which volume, where a file holds several."""

    def read(self, channels: int) -> Volume:
        """The image, with that many channels."""
        return read_channels(self.images, channels, frame=self.frame, series=self.series)


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


ARCHIVE = ".zip"
"""Ending of archives, which may hold DICOM series."""

Segment = Callable[[Task, Volume, Progress | None], Prediction]
"""A case and its volume to the label map."""


def tasks(
    source: Path,
    output: Path,
    channels: int,
    *,
    ending: str | None = None,
    series: str | None = None,
    frame: int | None = None,
    film: bool = False,
) -> tuple[Task, ...]:
    """The cases of a file or folder, and where each mask goes.

    A folder that holds DICOM files is one case; in any other folder every image file is a case, and every folder or zip
    archive with DICOM files. Folders without one are named in a notice. With one channel a mask has the name of its
    image, without nnU-Net's ``_0000``. With several channels files are named ``CASE_0000.nii.gz``,
    ``CASE_0001.nii.gz`` and so on, as in nnU-Net. A picture, a film, a DICOM series, or a file with a volume for each
    channel in a fourth axis, may hold all channels, so each is a case of its own, unless there is one for each channel
    under those names. A mask is of the same family as its image: NIfTI beside NIfTI, DICOM SEG beside DICOM, PNG beside
    pictures, a folder of PNG beside a film.

    Args:
        source: an image file, a folder of image files, a DICOM series, or a folder of them.
        output: a folder; for one file also the name of the mask.
        channels: how many channels the model takes.
        ending: of the masks' names; None: see above.
        series: which DICOM series of all that lie in ``source``, which is then a single case.
        frame: which volume of files that hold several, from 0.
        film: folders of numbered pictures are films; otherwise each picture is a case of its own.

    Raises:
        InputError: there is nothing to segment, a case lacks a channel, or two cases would share a mask.
        OutputError: masks cannot be written in the format of that file name.
    """
    if not source.exists():
        raise InputError(f"there is no {source}")
    groups = _grouped(_images(source, film, series), channels)
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
        return tuple(Task(name, tuple(paths), masks[name], series, frame) for name, paths in groups.items())
    if len(groups) > 1:
        raise InputError(f"{source} holds {len(groups)} cases: give a folder for their masks, not {output}")
    if ending is not None and not output.name.endswith(ending):
        raise OutputError(f"{output} does not end with {ending}: leave one of the two out")
    if not can_write(output):
        better = mask_ending(output) or "the name of a folder"
        raise OutputError(f"{output}: masks cannot be written as {ending_of(output)}; take {better}")
    return tuple(Task(name, tuple(paths), output, series, frame) for name, paths in groups.items())


def place(todo: Sequence[Task], output: Path) -> Path:
    """Where the record of the run lies."""
    return record.path_for(output, folder=todo[0].output != output)


def check_stride(stride: int | None, depth: int) -> None:
    """Refuses stacks that would leave slices out between them.

    Args:
        stride: slices from stack to stack; None: the model's own.
        depth: slices in a stack.

    Raises:
        ConfigError: the stride is larger than the depth, or below 1.
    """
    if stride is not None and not 1 <= stride <= depth:
        raise ConfigError(f"the stride should be 1 to {depth}, the slices of this model's stacks, but {stride} came")


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
                files = {} if outcome.status == "kept" else _digest(task.images)
                code = {"code": outcome.code} if outcome.code else {}
                seconds = round(outcome.seconds, 2)
                noted.case(task.id, outcome.status, outcome.findings, seconds=seconds, **code, **files)
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
            volume = task.read(channels)
            about = examine.measure(task.id, volume, kind=predictor.bundle.description.kind)
            checks.settle(examine.case(about, depth=predictor.plan.depth, told=examine.READING))
            _check_target(task, volume)
            told = progress(task) if progress else None
            wanted = extras.probabilities
            if segment is not None:
                prediction = segment(task, volume, told)
            else:
                prediction = predictor(volume, progress=told, probabilities=wanted)
            with _whole() as made:
                _folder(task.output.parent, made)
                if noted is not None and noted.path is not None and not noted.path.is_file():
                    made.append(noted.path)
                    noted.save()
                _beside(prediction, task, extras, made)
                prediction.save(task.output)
        except (VoxelSamError, OSError, MemoryError) as error:
            code = error.code if isinstance(error, VoxelSamError) else ""
            reason, seconds = str(error) or type(error).__name__, perf_counter() - begin
            return Outcome(task.id, task.output, "failed", reason, code, seconds, tuple(watch.findings))
    return Outcome(task.id, task.output, "done", "", "", perf_counter() - begin, tuple(watch.findings))


def _check_target(task: Task, volume: Volume) -> None:
    """Refuses a mask that could not be written before it is made, which may take long."""
    try:
        formats.check_target(task.output, volume)
    except OutputError as error:
        raise OutputError(f"{error} (choose by --format, such as --format nii.gz)", code=error.code) from None


def _beside(prediction: Prediction, task: Task, extras: Extras, made: list[Path]) -> None:
    """Writes what stands beside a mask; the mask itself comes last, so that where it is, all is."""
    folder = task.output.parent
    if extras.preview:
        target = folder / "previews" / f"{task.id}{'.mp4' if prediction.volume.grid.along_k == 'time' else '.png'}"
        _folder(target.parent, made)
        made.append(target)
        save_preview(target, prediction.volume, prediction.labels)
    if extras.probabilities:
        _folder(folder / "probabilities", made)
        made.extend(prediction.maps(folder / "probabilities" / task.id).values())
        prediction.save_probabilities(folder / "probabilities" / task.id)


@contextmanager
def _whole() -> Iterator[list[Path]]:
    """Gives a list for the files and folders that are made; if the block fails, they are removed."""
    made: list[Path] = []
    try:
        yield made
    except BaseException:
        for path in reversed(made):
            if not path.is_dir():
                path.unlink(missing_ok=True)
            elif not any(path.iterdir()):
                path.rmdir()
        raise


def _folder(path: Path, made: list[Path]) -> None:
    """Makes a folder and those above it, and notes which were not there."""
    made.extend(reversed([folder for folder in (path, *path.parents) if not folder.exists()]))
    path.mkdir(parents=True, exist_ok=True)


def _digest(images: Sequence[Path]) -> dict[str, str]:
    """Of a case's files; nothing where they cannot be read, which is why the case failed."""
    try:
        return {"sha256": record.digest(images)}
    except OSError:
        return {}


def _images(source: Path, film: bool, series: str | None) -> list[Path]:
    """What is a case or a channel of one: see ``tasks``."""
    if not source.is_dir():
        return [source] if ending_of(source) or _is_archive(source) or formats.family(source) else []
    if series is not None and _family(source) == "dicom":
        return [source]
    inside = [path for path in sorted(source.iterdir()) if not path.name.startswith(".")]
    if any(_is_slice(path) for path in inside) or (film and _family(source) == "video"):
        return [source]
    families = {path: _family(path) for path in inside if path.is_dir()}
    known = [path for path, family in families.items() if family in (("dicom", "video") if film else ("dicom",))]
    frames = [path.name for path, family in families.items() if family == "video" and path not in known]
    if frames:
        checks.notice(
            "SET-03", f"{source}: folders of pictures are left out, unless --film takes them: {_some(frames)}"
        )
    others = [path.name for path in families if path not in known and path.name not in frames]
    if known and others:
        checks.notice("SET-03", f"{source}: folders without an image that can be read are left out: {_some(others)}")
    return [path for path in inside if (path in known if path.is_dir() else ending_of(path) or _is_archive(path))]


def _family(path: Path) -> str | None:
    """Name of the format; None also for files that hold nothing."""
    try:
        return formats.family(path)
    except InputError:
        return None


def _is_slice(path: Path) -> bool:
    """Whether a file is one of a DICOM series; files that have the ending of another format are not opened."""
    if not path.is_file() or path.suffix.lower() == ARCHIVE:
        return False
    return ending_of(path).lower() in ("", *dicom.ENDINGS) and _family(path) == "dicom"


def _is_archive(path: Path) -> bool:
    """Whether this is an archive with DICOM, or a damaged one, which nobody knows."""
    return path.suffix.lower() == ARCHIVE and (_family(path) == "dicom" or not is_zipfile(path))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _holds_all(path: Path, channels: int) -> bool:
    """Whether one file or folder may hold all channels; what is wrong with it is told when its turn comes."""
    if _may_be_coloured(path):
        return True
    try:
        return path.is_file() and formats.frames(path) == channels
    except InputError:
        return False


def _may_be_coloured(path: Path) -> bool:
    """Whether this is a picture, a film or DICOM, all of which may be red, green and blue."""
    return picture.named_so(path) or _family(path) in ("dicom", "video")


def _grouped(files: Sequence[Path], channels: int) -> dict[str, list[Path]]:
    """The files of each case, by its id."""
    groups: dict[str, list[Path]] = {}
    for path in files:
        groups.setdefault(_without(path, r"_\d{4}$" if channels > 1 else r"_0000$"), []).append(path)
    cases: dict[str, list[Path]] = {}
    for name, paths in groups.items():
        alone = channels > 1 and len(paths) != channels and all(map(_may_be_coloured, paths))
        for case, members in ((_without(p, r"_0000$"), [p]) for p in paths) if alone else ((name, paths),):
            cases.setdefault(case, []).extend(members)
    return cases


def _without(path: Path, number: str) -> str:
    """A file's name without its ending, and without its number."""
    named = path if path.name not in ("", "..") else path.resolve()
    ending = ending_of(named) or (named.suffix if named.suffix.lower() == ARCHIVE else "")
    return re.sub(number, "", named.name.removesuffix(ending))
