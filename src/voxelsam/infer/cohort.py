"""Many volumes, one model: every mask is written whole or not at all, and a failure stops nothing else."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from voxelsam import checks, examine, formats, record
from voxelsam.checks import Finding
from voxelsam.errors import ConfigError, OutputError, VoxelSamError
from voxelsam.files import write_text
from voxelsam.infer.cases import Task
from voxelsam.infer.prediction import Model, Prediction, Progress
from voxelsam.infer.quality import FIELDS, Quality
from voxelsam.preview import save_preview
from voxelsam.record import Run
from voxelsam.volumes.volume import Volume

TABLE = "quality.csv"
"""Name of the table of quality in a folder of masks."""


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
    """What the checks noticed, or were told to accept; and the flags of the quality."""
    quality: Quality | None = None
    """How far the masks can be trusted; None where no mask was made without prompts."""

    @property
    def flags(self) -> tuple[Finding, ...]:
        """The findings that say that the masks may be bad."""
        own = () if self.quality is None else self.quality.findings(self.id)
        return tuple(finding for finding in self.findings if finding in own)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        findings = [vars(finding) for finding in self.findings]
        quality = self.quality and self.quality.to_json()
        return {**vars(self), "output": str(self.output), "findings": findings, "quality": quality}


@dataclass(frozen=True)
class Extras:
    """What is written beside a mask."""

    preview: bool = False
    """A picture of some slices (of a film, a film) with the structures drawn in."""
    probabilities: bool = False
    """A map from 0 to 1 for each structure."""


Segment = Callable[[Task, Volume, Progress | None], Prediction]
"""A case and its volume to the label map."""


def place(todo: Sequence[Task], output: Path) -> Path:
    """Where the record of the run lies."""
    return record.path_for(output, folder=todo[0].output != output)


def table(record_path: Path) -> Path:
    """Where the quality of every mask lies: ``quality.csv``, or ``NAME.quality.csv`` beside a single mask.

    Args:
        record_path: of the record of the run.
    """
    return record_path.with_name(record_path.name.removesuffix(record.FILE) + TABLE)


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
    predictor: Model,
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
        noted: the record of the run; it is written before the first mask and again at the end, and the table of
            quality after every mask. A run that makes no mask leaves none.
    """
    status = "interrupted"
    try:
        for number, task in enumerate(todo):
            outcome = _one(predictor, task, progress, segment, extras or Extras(), noted)
            if noted is not None:
                files = {} if outcome.status == "kept" else _digest(task.images)
                code = {"code": outcome.code} if outcome.code else {}
                seconds = round(outcome.seconds, 2)
                quality = {} if outcome.quality is None else {"quality": outcome.quality.to_json()}
                noted.case(task.id, outcome.status, outcome.findings, seconds=seconds, **code, **files, **quality)
                _tabulate(outcome, noted)
            if number == len(todo) - 1:
                status = "done"
            yield outcome
    finally:
        if noted is not None and noted.path is not None and noted.path.is_file():
            noted.save(status)


def _one(
    predictor: Model,
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
            volume = task.read(len(predictor.channels))
            about = examine.measure(task.id, volume, kind=predictor.kind)
            checks.settle(examine.case(about, depth=predictor.depth, told=examine.READING))
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
        quality = prediction.quality
        watch.findings += [] if quality is None else quality.findings(task.id)
    return Outcome(task.id, task.output, "done", "", "", perf_counter() - begin, tuple(watch.findings), quality)


def _tabulate(outcome: Outcome, noted: Run) -> None:
    """Puts the quality of a case into the table beside the record; rows of other cases stay."""
    if outcome.quality is None or noted.path is None:
        return
    path = table(noted.path)
    earlier = list(csv.DictReader(io.StringIO(path.read_text("utf-8")))) if path.is_file() else []
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(row for row in earlier if row.get("case") != outcome.id)
    writer.writerows(outcome.quality.rows(outcome.id))
    write_text(path, text.getvalue())


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
