"""Films: MP4, MOV, AVI and Matroska files, and folders of numbered pictures; frames lie along k.

A film is one volume of kind VIDEO: 0 to 255, i the column, j the row, k the frame, one channel if the file itself is
grey, else red, green and blue. The third column of the affine counts seconds from frame to frame. What is read is what
a player shows: a film that asks to be turned is turned. Everything odd is VID-01.

A folder of pictures is a film only if somebody says so: ``recognises`` tells whether it could be one (pictures of one
name, numbered one by one without a gap, of equal size), and ``read`` takes such a folder as one. Many folders of
unrelated photographs look like that, too: who goes through folders must ask before he takes one as a film.

Masks of a film are a folder of PNG files, ``00000.png`` and so on, beside ``frames.json``, which says how far apart
frames are. They are read back and compared before the folder gets its name.
"""

import json
import shutil
from fractions import Fraction
from pathlib import Path
from uuid import uuid4

import numpy as np
from einops import rearrange

from voxelsam.errors import FormatError, InputError, LabelError, OutputError
from voxelsam.formats import picture
from voxelsam.formats._files import fresh_file, head_of
from voxelsam.formats._values import named, warn_if_constant
from voxelsam.formats._video_file import LIMIT, Frames, decode, encode
from voxelsam.formats._video_folder import SIDECAR, numbered, only_masks, seconds_of, take_place
from voxelsam.space.grid import Grid
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.volume import LabelMap, Source, Volume

NAME = "video"
SUFFIXES: tuple[str, ...] = ()
ENDINGS = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm")
MASKS = dict.fromkeys(("", *ENDINGS), "")

_ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_STILLS = (b"heic", b"heix", b"mif1", b"avif", b"msf1", b"crx ")


def recognises(path: Path, head: bytes) -> bool:
    """Whether the first bytes are those of a film; of a folder, whether its pictures could be one (see above)."""
    if path.is_dir():
        try:
            numbered(path)
        except InputError:
            return False
        return True
    is_movie = head[4:8] in _ATOMS and head[8:12] not in _STILLS
    return is_movie or head.startswith(b"\x1a\x45\xdf\xa3") or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")


def frames(path: Path) -> int:
    """1: a film is one volume, however many frames it has.

    Raises:
        FormatError: SET-01 or SET-03, there is no such file, or it holds no data.
    """
    if not path.is_dir():
        head_of(path)
    return 1


def read(
    path: Path, *, frame: int | None = None, start: int = 0, stop: int | None = None, seconds: float | None = None
) -> Volume:
    """A film, or a part of it.

    Args:
        path: The file, or the folder of pictures.
        frame: 0 or None, because a film is one volume.
        start: First frame to read.
        stop: The frame before which reading ends; None reads to the end.
        seconds: From frame to frame; None takes what the file says (of a folder: ``frames.json``, else 1).

    Raises:
        FormatError: SET-03, the file is broken, holds no film, or the folder holds no film; VID-01, its end is damaged
            (if that is accepted, the frames before it are the film).
        InputError: VAL-05, another volume than the first was asked for, or more frames than fit into memory; VID-01,
            pixels are transparent (if that is accepted, transparency is dropped).
        GeometryError: GEO-01, frames differ in size.
        MissingExtra: the package that decodes films is not installed.
    """
    if frame not in (None, 0):
        raise InputError(f"{path}: a film is one volume, but volume {frame} was asked for", code="VAL-05")
    if start < 0 or (stop is not None and stop <= start):
        raise InputError(f"{path}: frames from {start} to before {stop} are none", code="VAL-05")
    if path.is_dir():
        return _read_folder(path, start, stop, seconds)
    film = decode(path, start, stop)
    count, height, width = film.pixels.shape[:3]
    warn_if_constant(path, film.pixels)
    grid = _lattice(width, height, count, film.seconds if seconds is None else seconds)
    return Volume(rearrange(film.pixels, "k j i c -> c i j k"), grid, "VIDEO", Source((path,), NAME))


def read_numbers(path: Path) -> Volume:
    """Whole numbers that stand for something, frame by frame, as an image of one channel.

    Args:
        path: A folder of masks, as ``write_frames`` makes it.

    Raises:
        FormatError, InputError: as ``read``.
        LabelError: LAB-01, a film file, whose values are not exact, colours, or values that are no integers.
    """
    if not path.is_dir():
        head_of(path)
        raise LabelError(
            f"{path}: a film file cannot hold masks, because packing changes values; store one PNG for each frame",
            code="LAB-01",
        )
    files = numbered(path)
    parts = [picture.read_numbers(file) for file in files]
    for part in parts:
        _check_alike(part, parts[0])
    data = np.stack([part.data[..., 0] for part in parts], axis=-1)
    width, height, _ = parts[0].grid.shape
    return Volume(data, _lattice(width, height, len(files), seconds_of(path)), "UNKNOWN", Source((path,), NAME))


def read_labels(path: Path, labels: Labels | None = None) -> LabelMap:
    """A label map of a film, as uint8 or uint16.

    Args:
        path: A folder of masks, as ``write_frames`` makes it.
        labels: Table that the values must be in; None makes one from the values found.

    Raises:
        FormatError, InputError: as ``read``.
        LabelError: as ``read_numbers``; LAB-02, values outside the table.
    """
    return named(path, read_numbers(path), labels)


def write_labels(path: Path, label_map: LabelMap, like: Source | None = None) -> None:
    """``write_frames``; what the image was read from is not needed."""
    write_frames(path, label_map)


def write_frames(folder: Path, label_map: LabelMap) -> None:
    """Writes the masks of a film: a folder of PNG files, whole or not at all.

    Args:
        folder: Target. A folder that is there is replaced, if it holds nothing else than such masks.
        label_map: What to write; its values must be in its table.

    Raises:
        LabelError: LAB-02, values outside the table.
        OutputError: this is no label map of a film, something else is in the way, or the folder cannot be written.
    """
    grid = label_map.grid
    if grid.along_k != "time" or not np.array_equal(grid.affine[:2], _lattice(*grid.shape, 1).affine[:2]):
        raise OutputError(f"{folder}: a folder of frames holds the masks of a film; write a .nii.gz file for a scan")
    label_map.labels.check(label_map.data, f"the label map for {folder}")
    if folder.exists() and not only_masks(folder):
        raise OutputError(f"{folder}: holds something else than masks of a film; give another name")
    beside = folder.with_name(f".{uuid4().hex}.part")
    try:
        beside.mkdir(parents=True)
        (beside / SIDECAR).write_text(json.dumps({"seconds": grid.spacing[2]}) + "\n", "utf-8")
        still = picture.lattice(*grid.shape[:2])
        for k in range(grid.shape[2]):
            one = LabelMap(label_map.data[:, :, k : k + 1], still, label_map.labels)
            picture.write_labels(beside / f"{k:05d}.png", one)
        if not np.array_equal(read_numbers(beside).data[0], label_map.data):
            raise OutputError(f"{folder}: does not read back as what was written; nothing was changed")
        take_place(beside, folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror}); nothing was changed") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write_volume(path: Path, volume: Volume) -> None:
    """Refuses: films are packed with loss, so they are no data; ``write_film`` makes one to look at.

    Raises:
        OutputError: always.
    """
    raise OutputError(f"{path}: films are not written as data, because packing changes them; write PNG files")


def write_film(path: Path, pixels: Frames, seconds: float = 0.04) -> None:
    """Writes a film to look at, H.264 in MP4; every player shows it, but values change.

    Args:
        path: Target, ``.mp4``; an existing file is replaced.
        pixels: Frames; those of odd size get one more row or column, a copy of the last.
        seconds: From frame to frame.

    Raises:
        OutputError: the name ends otherwise, there is no frame, or the file cannot be written.
        MissingExtra: the package that encodes films is not installed.
    """
    if path.suffix.lower() != ".mp4":
        raise OutputError(f"{path}: films to look at are MP4; let the name end with .mp4")
    if not len(pixels) or not 0 < seconds < 3600:
        raise OutputError(f"{path}: {len(pixels)} frames, {seconds} s apart, are no film")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: cannot be written, there is no folder {path.parent}")
    with fresh_file(path) as beside:
        encode(beside, pixels, Fraction(1 / seconds).limit_denominator(1001))


def _lattice(width: int, height: int, count: int, seconds: float) -> Grid:
    """Where the pixels of a film count as lying: as a picture's, frames along k."""
    return Grid((width, height, count), np.diag([-1.0, -1.0, seconds, 1.0]), "time")


def _read_folder(path: Path, start: int, stop: int | None, seconds: float | None) -> Volume:
    files = numbered(path)[start:stop]
    if not files:
        raise InputError(f"{path}: there is no frame {start}", code="VAL-05")
    first = picture.read(files[0])
    if first.data.nbytes * len(files) > LIMIT:
        raise InputError(
            f"{path}: {len(files)} frames of {first.grid.shape[0]} × {first.grid.shape[1]} pixels need more than "
            f"{LIMIT >> 20} MiB; read a part (start=0, stop={LIMIT // first.data.nbytes})",
            code="VAL-05",
        )
    data = np.empty((len(files), *first.data.shape[:3]), first.data.dtype)
    for number, file in enumerate(files):
        one = picture.read(file) if number else first
        _check_alike(one, first)
        data[number] = one.data[..., 0]
    width, height, _ = first.grid.shape
    grid = _lattice(width, height, len(files), seconds_of(path) if seconds is None else seconds)
    return Volume(rearrange(data, "k c i j -> c i j k"), grid, "VIDEO", Source((path,), NAME))


def _check_alike(one: Volume, first: Volume) -> None:
    if (one.data.shape, one.data.dtype) != (first.data.shape, first.data.dtype):
        raise FormatError(
            f"{one.source}: {one.channels} channels of {one.grid.shape[0]} × {one.grid.shape[1]} pixels "
            f"({one.data.dtype}), but {first.source} has {first.channels} of {first.grid.shape[0]} × "
            f"{first.grid.shape[1]} ({first.data.dtype}); frames of a film are alike",
            code="VID-01",
        )
