"""Many volumes, one model: every mask is written whole or not at all, and a failure stops nothing else.

While a case is segmented, the next one is read and the last one is written, each in a thread of its own; so three scans
are in memory at most. Outcomes come in the order of the cases, and what was noticed on the way belongs to its case.
"""

import csv
import io
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from voxelsam import checks, examine, formats, record
from voxelsam.checks import Finding
from voxelsam.errors import ConfigError, OutputError, VoxelSamError
from voxelsam.files import write_text
from voxelsam.infer.cases import Task
from voxelsam.infer.prediction import Model, Prediction, Progress, Work
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
    work: Work | None = None
    """What was computed; None where no mask was made without prompts."""

    @property
    def flags(self) -> tuple[Finding, ...]:
        """The findings that say that the masks may be bad."""
        own = () if self.quality is None else self.quality.findings(self.id)
        return tuple(finding for finding in self.findings if finding in own)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        findings = [vars(finding) for finding in self.findings]
        quality = self.quality and self.quality.to_json()
        work = self.work and asdict(self.work)
        return {**vars(self), "output": str(self.output), "findings": findings, "quality": quality, "work": work}


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


def check_overlap(overlap: int | None, depth: int, *, single_pass: bool = False) -> None:
    """Refuses stacks that cannot share so many slices.

    Args:
        overlap: slices that neighbouring stacks share; None: as many as in the model's plan.
        depth: slices in a stack.
        single_pass: whether a volume is one stack.

    Raises:
        ConfigError: it is below 0, or all slices of a stack, or there is a single stack.
    """
    if single_pass and overlap is not None:
        raise ConfigError("--single-pass makes one stack of a volume, which overlaps with nothing: leave --overlap out")
    if overlap is not None and not 0 <= overlap < depth:
        raise ConfigError(
            f"the overlap should be 0 to {depth - 1} slices, as this model's stacks have {depth}, but {overlap} came"
        )


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
    every = (_Case(task, _parts(predictor, task, progress, segment, extras or Extras(), noted)) for task in todo)

    def ended(case: _Case) -> Outcome:
        outcome = case.outcome()
        if noted is not None:
            _note(outcome, case.files, noted)
        return outcome

    status = "interrupted"
    try:
        for number, outcome in enumerate(_overlapping(every, ended)):
            if number == len(todo) - 1:
                status = "done"
            yield outcome
    finally:
        if noted is not None and noted.path is not None and noted.path.is_file():
            noted.save(status)


Part = Literal["read", "segment", "write", "end"]
"""What there is to do of a case."""

Files = Mapping[str, str]
"""What a record says of the files of a case."""


class _Case:
    """A case on its way, whose parts may run in any thread, one after the other.

    Args:
        task: the case.
        parts: runs to the end of a part and says which comes next; at last it returns the outcome and the files.
    """

    def __init__(self, task: Task, parts: Generator[Part, None, tuple[Outcome, Files]]) -> None:
        self.task = task
        self.files: Files = {}
        self._parts, self._context = parts, copy_context()
        self._next: Part = "read"

    def go(self, part: Part) -> None:
        """Runs a part, if it is the one that comes next: what follows a failure does not."""
        if self._next == part:
            self._next = self._context.run(next, self._parts)

    def outcome(self) -> Outcome:
        """What became of it, after all other parts."""
        try:
            self._context.run(next, self._parts)
        except StopIteration as stop:
            outcome: Outcome = stop.value[0]
            self.files = stop.value[1]
            return outcome
        raise AssertionError(f"{self.task.id} has not come to its end")

    def leave(self) -> None:
        """Gives it up, wherever it is."""
        self._context.run(self._parts.close)


def _overlapping(cases: Iterator[_Case], ended: Callable[[_Case], Outcome]) -> Iterator[Outcome]:
    """Takes the cases through their parts: one is read and one is written while another is segmented.

    Args:
        cases: in their order, which is that of the outcomes, too.
        ended: told of every case that came to its end, before anything of a later one is written. An interruption waits
            for the case that is being written, and gives up the others.
    """
    underway: list[_Case] = []
    writing: Future[None] | None = None
    with ThreadPoolExecutor(1, "voxelsam-read") as reader, ThreadPoolExecutor(1, "voxelsam-write") as writer:

        def begin() -> Future[None] | None:
            underway.extend(few := list(islice(cases, 1)))
            return reader.submit(few[0].go, "read") if few else None

        reading = begin()
        try:
            while reading is not None:
                reading.result()
                case, reading = underway[-1], begin()
                case.go("segment")
                if writing is not None:
                    writing.result()
                    writing = None
                    yield ended(underway.pop(0))
                writing = writer.submit(case.go, "write")
            if writing is not None:
                writing.result()
                writing = None
                yield ended(underway.pop(0))
        finally:
            reader.shutdown()
            writer.shutdown()
            if writing is not None and writing.exception() is None:
                ended(underway.pop(0))
            for case in underway:
                case.leave()


def _parts(
    predictor: Model,
    task: Task,
    progress: Callable[[Task], Progress] | None,
    segment: Segment | None,
    extras: Extras,
    noted: Run | None,
) -> Generator[Part, None, tuple[Outcome, Files]]:
    """The parts of a case; the clock runs in none of the pauses between them."""
    if task.output.exists():
        yield "end"
        return Outcome(task.id, task.output, "kept"), {}
    files = {} if noted is None else _digest(task.images)
    clock, failure = _Clock(), None
    with checks.watching(where=task.id) as watch:
        try:
            quality, work = yield from _made(predictor, task, progress, segment, extras, noted, clock)
        except (VoxelSamError, OSError, MemoryError) as error:
            code = error.code if isinstance(error, VoxelSamError) else ""
            failure = str(error) or type(error).__name__, code
        else:
            watch.findings += [] if quality is None else quality.findings(task.id)
        clock.stop()
        yield "end"
    if failure is not None:
        return Outcome(task.id, task.output, "failed", *failure, clock.seconds, tuple(watch.findings)), files
    found = tuple(watch.findings)
    return Outcome(task.id, task.output, "done", "", "", clock.seconds, found, quality, work), files


def _made(
    predictor: Model,
    task: Task,
    progress: Callable[[Task], Progress] | None,
    segment: Segment | None,
    extras: Extras,
    noted: Run | None,
    clock: "_Clock",
) -> Generator[Part, None, tuple[Quality | None, Work | None]]:
    """Makes and writes the mask of a case; what it read is forgotten with its end."""
    volume = task.read(len(predictor.channels))
    about = examine.measure(task.id, volume, kind=predictor.kind)
    checks.settle(examine.case(about, depth=predictor.depth, told=examine.READING))
    _check_target(task, volume)
    yield from clock.pause("segment")
    told = progress(task) if progress else None
    if segment is not None:
        prediction = segment(task, volume, told)
    else:
        prediction = predictor(volume, progress=told, probabilities=extras.probabilities)
    yield from clock.pause("write")
    with _whole() as made:
        _folder(task.output.parent, made)
        if noted is not None and noted.path is not None and not noted.path.is_file():
            made.append(noted.path)
            noted.save()
        _beside(prediction, task, extras, made)
        prediction.save(task.output)
    return prediction.quality, prediction.work


class _Clock:
    """Seconds that are spent on a case."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._begin = perf_counter()

    def stop(self) -> None:
        """What follows does not count."""
        self.seconds += perf_counter() - self._begin

    def pause(self, part: Part) -> Iterator[Part]:
        """Stops until the next part begins."""
        self.stop()
        yield part
        self._begin = perf_counter()


def _note(outcome: Outcome, files: Files, noted: Run) -> None:
    """Puts a case into the record and its table."""
    code = {"code": outcome.code} if outcome.code else {}
    quality = {} if outcome.quality is None else {"quality": outcome.quality.to_json()}
    work = {} if outcome.work is None else {"work": asdict(outcome.work)}
    seconds = round(outcome.seconds, 2)
    noted.case(outcome.id, outcome.status, outcome.findings, seconds=seconds, **code, **files, **quality, **work)
    _tabulate(outcome, noted)


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
