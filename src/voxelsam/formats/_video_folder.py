"""Folders of numbered pictures that could be a film."""

import json
import re
import shutil
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

from voxelsam.errors import FormatError
from voxelsam.formats import picture

SIDECAR = "frames.json"
"""Beside the pictures of a film: ``{"seconds": 0.04}``, from frame to frame."""

_NOTES = (".json", ".txt", ".csv", ".md", ".xml", ".ini", ".db", ".yaml", ".yml")
_MOST_NOTES = 5


def numbered(folder: Path) -> list[Path]:
    """The pictures of a folder that could be a film, in the order of their numbers.

    Raises:
        FormatError: SET-03, with what speaks against it.
    """
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise FormatError(f"{folder}: cannot be read ({error.strerror})", code="SET-03") from None
    files = [entry for entry in entries if picture.named_so(entry)]
    notes = [entry for entry in entries if entry.suffix.lower() in _NOTES]
    strange = [
        entry.name
        for entry in entries
        if not (picture.named_so(entry) or entry.suffix.lower() in _NOTES) or entry.is_dir()
    ]
    if len(files) == 1 and not strange and folder / SIDECAR in notes:
        return files
    if strange or len(notes) > _MOST_NOTES or len(files) < 2:
        found = f"there is {strange[0]}" if strange else f"there are {len(files)} pictures and {len(notes)} other files"
        raise _no_film(folder, f"at least two pictures and nothing else, but {found}")
    pieces = [re.split(r"(\d+)", file.name) for file in files]
    if len({tuple(piece[::2]) for piece in pieces}) > 1:
        raise _no_film(folder, f"one name with a number in it, but there are {files[0].name} and {files[-1].name}")
    columns = list(zip(*(map(int, piece[1::2]) for piece in pieces), strict=True))
    changing = [column for column in columns if len(set(column)) > 1]
    if len(changing) != 1:
        raise _no_film(folder, f"one number that counts, but there are {files[0].name} and {files[-1].name}")
    order = sorted(zip(changing[0], files, strict=True))
    for (before, _), (after, file) in pairwise(order):
        if after != before + 1:
            raise _no_film(folder, f"numbers without a gap, but {file.name} follows {before}")
    in_order = [file for _, file in order]
    sizes = {picture.read_size(file) for file in (in_order[0], in_order[-1])}
    if len(sizes) > 1:
        raise _no_film(folder, "pictures of equal size, but the first and the last differ")
    return in_order


def _no_film(folder: Path, expected: str) -> FormatError:
    return FormatError(f"{folder}: no film; a folder of frames should hold {expected}", code="SET-03")


def seconds_of(folder: Path) -> float:
    """Seconds from frame to frame as the sidecar says, else 1.

    Raises:
        FormatError: SET-03, the sidecar is broken.
    """
    file = folder / SIDECAR
    if not file.is_file():
        return 1.0
    try:
        seconds = float(json.loads(file.read_text("utf-8"))["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise FormatError(
            f'{file}: should be {{"seconds": …}}, from frame to frame; correct or remove it', code="SET-03"
        )
    return seconds


def only_masks(folder: Path) -> bool:
    """Whether a folder holds masks of a film and nothing else."""
    return folder.is_dir() and all(
        entry.is_file() and (entry.name == SIDECAR or re.fullmatch(r"\d{5,}\.png", entry.name))
        for entry in folder.iterdir()
    )


def take_place(beside: Path, folder: Path) -> None:
    """Gives a finished folder its name; one that was there is put back if that fails."""
    if not folder.exists():
        beside.rename(folder)
        return
    old = folder.with_name(f".{uuid4().hex}.old")
    folder.rename(old)
    try:
        beside.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
