"""Many volumes, one model: every mask is written whole or not at all, and a failure stops nothing else."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from voxelsam.errors import InputError, OutputError, VoxelSamError
from voxelsam.files import write_text
from voxelsam.formats import can_write, ending_of, mask_ending, picture, read_channels
from voxelsam.infer.prediction import Prediction, Progress
from voxelsam.infer.predictor import Predictor
from voxelsam.volumes.volume import Volume

RECORD = "predict.json"
"""What made the masks of a folder; a run that continues there must be the same."""


@dataclass(frozen=True)
class Task:
    """One case to segment."""

    id: str
    images: tuple[Path, ...]
    """One file per channel."""
    output: Path


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


Segment = Callable[[Task, Volume, Progress | None], Prediction]
"""A case and its volume to the label map."""


def tasks(source: Path, output: Path, channels: int) -> tuple[Task, ...]:
    """The cases of a file or folder, and where each mask goes.

    With one channel every file is a case; its mask has the same name, without nnU-Net's ``_0000``. With several
    channels files are named ``CASE_0000.nii.gz``, ``CASE_0001.nii.gz`` and so on, as in nnU-Net. A picture may hold all
    channels, so each is a case of its own, unless there is one for each channel under those names. A mask is of the
    same family as its image: NIfTI beside volumes, PNG beside pictures.

    Args:
        source: an image file, or a folder of image files.
        output: a folder; for one file also the name of the mask.
        channels: how many channels the model takes.

    Raises:
        InputError: there is nothing to segment, a case lacks a channel, or two cases would share a mask.
        OutputError: masks cannot be written in the format of that file name.
    """
    if not source.exists():
        raise InputError(f"there is no {source}")
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    groups = _grouped([path for path in files if ending_of(path) and not path.name.startswith(".")], channels)
    if not groups:
        raise InputError(f"there is no NIfTI file or picture in {source}", code="SET-03")
    wrong = [
        f"  {name}: {', '.join(p.name for p in paths)}"
        for name, paths in groups.items()
        if len(paths) != channels and not (len(paths) == 1 and picture.named_so(paths[0]))
    ]
    if wrong:
        need = "CASE_0000 …" if channels > 1 else "one file per case"
        raise InputError(
            f"expected {channels} file(s) per case ({need}), but found\n" + "\n".join(wrong), code="VAL-06"
        )
    if not ending_of(output):
        masks = {name: output / f"{name}{mask_ending(paths[0])}" for name, paths in groups.items()}
        return tuple(Task(name, tuple(paths), masks[name]) for name, paths in groups.items())
    if len(groups) > 1:
        raise InputError(f"{source} holds {len(groups)} cases: give a folder for their masks, not {output}")
    if not can_write(output):
        raise OutputError(f"{output}: masks cannot be written as {ending_of(output)}; take {mask_ending(output)}")
    return tuple(Task(name, tuple(paths), output) for name, paths in groups.items())


def check_output(todo: Sequence[Task], output: Path, record: dict[str, str], go_on: bool) -> None:
    """Refuses to mix new masks with what is there already.

    Args:
        todo: the cases.
        output: what the user named: a folder, or a mask's file name.
        record: what makes the masks: bundle and settings.
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
    there = output / RECORD
    if there.is_file() and json.loads(there.read_text("utf-8")) != record:
        raise OutputError(
            f"the masks in {output} were made by another model or setting ({RECORD}): give another folder"
        )


def run(
    predictor: Predictor,
    todo: Sequence[Task],
    *,
    progress: Callable[[Task], Progress] | None = None,
    segment: Segment | None = None,
) -> Iterator[Outcome]:
    """Segments one case after the other; the outcome of each comes as soon as it is known.

    Args:
        predictor: the model.
        todo: the cases; one whose mask exists is kept as it is.
        progress: gives the progress callback of a case.
        segment: how a case is segmented; None: by the predictor, without prompts.
    """
    for task in todo:
        if task.output.exists():
            yield Outcome(task.id, task.output, "kept")
            continue
        try:
            volume = read_channels(task.images, len(predictor.bundle.description.channels))
            told = progress(task) if progress else None
            prediction = segment(task, volume, told) if segment else predictor(volume, progress=told)
            task.output.parent.mkdir(parents=True, exist_ok=True)
            prediction.save(task.output)
        except (VoxelSamError, OSError, MemoryError) as error:
            code = error.code if isinstance(error, VoxelSamError) else ""
            yield Outcome(task.id, task.output, "failed", str(error) or type(error).__name__, code)
        else:
            yield Outcome(task.id, task.output, "done")


def write_record(output: Path, record: dict[str, str]) -> None:
    """Says in the masks' folder what makes them."""
    write_text(output / RECORD, json.dumps(record, indent=1) + "\n")


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
