"""Files to volumes and label maps, and back.

The module is the plug-in: each module of this folder reads one family of files and offers the names of ``Format``.
Which one reads a file is decided by the file's content. Axis conventions other than RAS+ end here.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from einops import rearrange

from voxelsam import plugins
from voxelsam.errors import FormatError, InputError, LabelError, OutputError
from voxelsam.formats import video
from voxelsam.formats._files import ZIP, first_bytes, head_of, is_folder
from voxelsam.formats._values import named
from voxelsam.space.grid import Grid
from voxelsam.volumes import LabelMap, Labels, Source, Volume, check_grids
from voxelsam.volumes.labels import Encoding, colours_to_labels

__all__ = [
    "Format",
    "SeveralSeries",
    "can_write",
    "check_target",
    "ending_of",
    "endings",
    "family",
    "frames",
    "mask_ending",
    "read",
    "read_channels",
    "read_frames",
    "read_labels",
    "read_labels_on",
    "read_numbers",
    "write_labels",
    "write_volume",
]

NIFTI = ".nii.gz"
"""Ending of masks beside images of a family that is only read."""


@runtime_checkable
class Format(Protocol):
    """What a format module offers; see ``nifti`` for the errors of each.

    A module whose masks do not have the first of ``SUFFIXES`` names their endings in ``MASKS``, by the ending of the
    image ("" for a folder or a file without one).
    """

    SUFFIXES: tuple[str, ...]
    """Endings of the files it writes, the one to prefer first; empty if it only reads."""
    ENDINGS: tuple[str, ...]
    """Endings that files of the family have, for finding them in folders; content decides what they are."""

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether a file whose first bytes are ``head`` is of this family; a folder has no first bytes."""
        ...

    def frames(self, path: Path) -> int:
        """Number of volumes in the file."""
        ...

    def read(self, path: Path, *, frame: int | None = None) -> Volume:
        """An image."""
        ...

    def read_numbers(self, path: Path) -> Volume:
        """Whole numbers that stand for something, as an image of one channel."""
        ...

    def read_labels(self, path: Path, labels: Labels | None = None) -> LabelMap:
        """A label map whose values are in the table."""
        ...

    def write_labels(self, path: Path, label_map: LabelMap, like: Source | None = None) -> None:
        """Writes a label map beside the target, compares, renames."""
        ...

    def write_volume(self, path: Path, volume: Volume) -> None:
        """Writes an image of one channel (a picture: one or three), in the same way."""
        ...


@runtime_checkable
class SeveralSeries(Protocol):
    """What a format offers besides, if one folder or archive of it may hold several images."""

    def list_series(self, path: Path) -> Sequence[Any]:
        """What can be chosen, each with its ``key``."""
        ...

    def read(self, path: Path, *, frame: int | None = None, series: str | None = None) -> Volume:
        """An image; ``series`` is a key."""
        ...


@runtime_checkable
class Partial(Protocol):
    """What a format offers besides, if its label maps may cover a part of their image only."""

    def read_labels_on(self, path: Path, grid: Grid, labels: Labels | None = None) -> LabelMap:
        """A label map on the voxels of its image."""
        ...


@runtime_checkable
class Choosy(Protocol):
    """What a format offers besides, if it cannot hold the label maps of every image."""

    def check_target(self, path: Path, image: Volume) -> None:
        """Raises what ``write_labels`` would raise for any label map of that image."""
        ...


def family(path: Path) -> str | None:
    """Name of the format that reads a file or a folder; None where no format knows it.

    Raises:
        FormatError: there is no such file, or it holds no data.
    """
    head = b"" if is_folder(path) else head_of(path)
    return next((name for name, module in _modules() if module.recognises(path, head)), None)


def endings() -> tuple[str, ...]:
    """Endings of all files that can be read, in lower case."""
    return tuple(ending for _, module in _modules() for ending in module.ENDINGS)


def ending_of(path: Path) -> str:
    """The part of a file's name that says its format, as it is written there; empty if it says none."""
    found = max((len(ending) for ending in endings() if path.name.lower().endswith(ending)), default=0)
    return path.name[len(path.name) - found :]


def mask_ending(path: Path) -> str:
    """Ending of the mask of an image: that of ``MASKS`` in its format, else the preferred one, else NIfTI's.

    Empty for a film, whose mask is a folder.
    """
    ending = ending_of(path).lower()
    home = family(path) if not ending and path.exists() else None
    found = (module for name, module in _modules() if name == home or (ending and ending in module.ENDINGS))
    module = next(found, None)
    if module is None:
        return NIFTI
    masks: Mapping[str, str] = getattr(module, "MASKS", {})
    return masks.get(ending, (*module.SUFFIXES, NIFTI)[0])


def can_write(path: Path) -> bool:
    """Whether files of that name can be written."""
    return any(path.name.lower().endswith(tuple(module.SUFFIXES)) for _, module in _modules())


def frames(path: str | Path) -> int:
    """Number of volumes in a file: the length of a fourth axis, pages of a picture, else 1.

    Raises:
        FormatError: SET-01 or SET-03, see ``read``.
    """
    return _reader(Path(path)).frames(Path(path))


def read(path: str | Path, *, frame: int | None = None, series: str | None = None) -> Volume:
    """An image, whatever its format.

    Args:
        path: The file, or the folder of a DICOM series.
        frame: Which volume, from 0, of a file that holds several.
        series: Which DICOM series of a folder or archive that holds several; the error that lists them gives the keys.

    Raises:
        FormatError: SET-01, no such file; SET-03, the file is empty, cut off, or of no known format.
        GeometryError: the file says nothing usable about where its voxels are.
        InputError: the voxels cannot be used as they are (VAL-01 not finite, VAL-05 several volumes or complex).
    """
    module = _reader(Path(path))
    if series is None:
        return module.read(Path(path), frame=frame)
    if not isinstance(module, SeveralSeries):
        raise InputError(f"{path}: series {series} was asked for, but only DICOM has series", code="DCM-03")
    return module.read(Path(path), frame=frame, series=series)


def read_channels(
    paths: Sequence[str | Path], count: int | None = None, *, frame: int | None = None, series: str | None = None
) -> Volume:
    """One image from several files, one channel each, in their order.

    Args:
        paths: The files; a single one gives its own channels.
        count: Number of channels to expect. A single file that holds that many volumes in a fourth axis, as in the
            Decathlon, gives one channel per volume, unless a frame is chosen.
        frame: Which volume of each file, as in ``read``.
        series: Which DICOM series, as in ``read``.

    Raises:
        FormatError, GeometryError, InputError: as ``read``.
        GeometryError: GEO-01 or GEO-02, the files do not lie on the same voxels.
        InputError: VAL-05, one of several files holds several channels; VAL-06, there are not ``count`` channels.
    """
    if not paths:
        raise InputError("an image needs at least one file, but none came", code="SET-01")
    files = [Path(path) for path in paths]
    several = frame is None and series is None and len(files) == 1 and count is not None and count > 1
    stacked = several and frames(files[0]) == count
    if stacked:
        parts = [read(files[0], frame=number) for number in range(count or 1)]
    else:
        parts = [read(file, frame=frame, series=series) for file in files]
    first = parts[0]
    for part in parts[1:]:
        check_grids(first.grid, part.grid, str(first.source), str(part.source))
        if part.channels != 1 or first.channels != 1:
            raise InputError(
                f"{part.source}: expected one channel in each of {len(parts)} files, but there are "
                f"{first.channels} in the first and {part.channels} here",
                code="VAL-05",
            )
    whole = first if len(parts) == 1 else _joined(parts, tuple(files))
    if count is not None and whole.channels != count:
        raise InputError(f"{whole.source}: expected {count} channels, but there are {whole.channels}", code="VAL-06")
    return whole


def read_frames(paths: Sequence[str | Path], seconds: float = 1.0) -> Volume:
    """One film from several pictures of equal size; frames lie along k in the order of the files.

    Args:
        paths: One file per frame.
        seconds: From one frame to the next.

    Raises:
        FormatError, InputError: as ``read``.
        InputError: SET-01, no file came; VAL-05, a file holds several slices; VAL-06, a frame has other channels.
        GeometryError: GEO-01, a frame has another size than the first.
    """
    if not paths:
        raise InputError("a film needs at least one frame, but none came", code="SET-01")
    files = tuple(Path(path) for path in paths)
    first = read(files[0])
    data = np.empty((len(files), *first.data.shape[:3]), first.data.dtype)
    for number, file in enumerate(files):
        frame = read(file) if number else first
        _check_frame(frame, first)
        data[number] = frame.data[..., 0]
    affine = first.grid.affine.copy()
    affine[:3, 2] *= seconds / first.grid.spacing[2]
    grid = Grid((*first.grid.shape[:2], len(files)), affine, "time")
    kind = "VIDEO" if first.kind == "PICTURE" else first.kind
    form = first.source.format if first.source else ""
    return Volume(rearrange(data, "k c i j -> c i j k"), grid, kind, Source(files, form))


def read_numbers(path: str | Path) -> Volume:
    """Whole numbers that stand for something, such as objects counted one by one, as an image of one channel.

    Raises:
        FormatError, GeometryError, InputError: as ``read``.
        LabelError: LAB-01, values that are no integers.
    """
    return _reader(Path(path)).read_numbers(Path(path))


def read_labels(path: str | Path, labels: Labels | None = None, encoding: Encoding | None = None) -> LabelMap:
    """A label map, whatever its format.

    Args:
        path: The file.
        labels: Table that the values must be in; None makes one from the values found (``label_3`` for 3).
        encoding: What the file's numbers or colours stand for; None: its numbers are the values.

    Raises:
        FormatError, GeometryError, InputError: as ``read``.
        LabelError: LAB-01, values that are no integers; LAB-02, values outside the table.
    """
    file = Path(path)
    if encoding is None:
        return _reader(file).read_labels(file, labels)
    if encoding.colours is None:
        numbers = read_numbers(file)
        values = encoding.decode(numbers.data, str(path))
    else:
        numbers = read(file)
        if numbers.channels != 3 or numbers.data.dtype != np.uint8:
            raise LabelError(f"{path}: expected a mask in colours of 8 bits, but it is grey or deeper", code="LAB-01")
        values = colours_to_labels(rearrange(numbers.data, "c i j k -> i j k c"), encoding.colours)[None]
    return named(file, Volume(values, numbers.grid, "UNKNOWN", numbers.source), labels)


def read_labels_on(path: str | Path, grid: Grid, labels: Labels | None = None) -> LabelMap:
    """A label map on the voxels of an image.

    Some formats store only the part of an image where something is (DICOM SEG, ``.seg.nrrd``); the rest is background.
    Label maps of other formats come as they are, and their place is not checked here.

    Args:
        path: The file.
        grid: Of the image.
        labels: As for ``read_labels``.

    Raises:
        FormatError, GeometryError, InputError, LabelError: as ``read_labels``.
        GeometryError: GEO-02, the part does not lie on voxels of the image.
    """
    module = _reader(Path(path))
    if isinstance(module, Partial):
        return module.read_labels_on(Path(path), grid, labels)
    return module.read_labels(Path(path), labels)


def check_target(path: str | Path, image: Volume) -> None:
    """Refuses a target that no label map of an image could be written to; so one knows before it is made.

    Raises:
        GeometryError: GEO-01, the image's header says another shape.
        OutputError: no format writes this suffix, or its files cannot hold label maps of this image.
    """
    target = Path(path)
    if image.grid.along_k == "time" and not ending_of(target):
        return
    module = _writer(target)
    if isinstance(module, Choosy):
        module.check_target(target, image)


def write_labels(path: str | Path, label_map: LabelMap, like: Volume | None = None) -> None:
    """Writes a label map with the shape and affine of its grid.

    Args:
        path: Target; its suffix chooses the format. An existing file is replaced, but only by a complete one. The
            label map of a film is written as a folder of PNG, one per frame, if the name has no suffix.
        label_map: What to write.
        like: The image it belongs to; what the image's header says about geometry is taken over unchanged.

    Raises:
        GeometryError: GEO-01 or GEO-02, the label map does not have the grid of ``like``.
        LabelError: LAB-02, values outside the table.
        OutputError: no format writes this suffix, or the file cannot be written.
    """
    target = Path(path)
    if like is not None:
        check_grids(like.grid, label_map.grid, str(like.source or "the image"), f"the label map for {target}")
    if label_map.grid.along_k == "time" and not ending_of(target):
        video.write_frames(target, label_map)
        return
    _writer(target).write_labels(target, label_map, None if like is None else like.source)


def write_volume(path: str | Path, volume: Volume) -> None:
    """Writes an image of one channel (a picture: one or three) with the shape and affine of its grid.

    Raises:
        InputError: VAL-01, NaN or infinite voxels.
        OutputError: no format writes this suffix or this image, or the file cannot be written.
    """
    _writer(Path(path)).write_volume(Path(path), volume)


def _check_frame(frame: Volume, first: Volume) -> None:
    if frame.grid.shape[2] != 1:
        raise InputError(
            f"{frame.source}: expected one picture, but it has {frame.grid.shape[2]} slices", code="VAL-05"
        )
    check_grids(first.grid, frame.grid, str(first.source), str(frame.source))
    if (frame.channels, frame.data.dtype) != (first.channels, first.data.dtype):
        raise InputError(
            f"{frame.source}: {frame.channels} channels of {frame.data.dtype}, but {first.source} has "
            f"{first.channels} of {first.data.dtype}; frames of a film are alike",
            code="VAL-06",
        )


def _joined(parts: Sequence[Volume], files: tuple[Path, ...]) -> Volume:
    first = parts[0]
    header = first.source.header if first.source else None
    form = first.source.format if first.source else ""
    return Volume(np.concatenate([part.data for part in parts]), first.grid, first.kind, Source(files, form, header))


@cache
def _modules() -> tuple[tuple[str, Format], ...]:
    """Name and module of every format; looked up once, because listing entry points takes longer than a small file."""
    return tuple((name, cast("Format", plugins.load("formats", name))) for name in plugins.names("formats"))


def _reader(path: Path) -> Format:
    head = b"" if is_folder(path) else head_of(path)
    for _, module in _modules():
        if module.recognises(path, head):
            return module
    known = ", ".join(name for name, _ in _modules())
    if head.startswith(ZIP):
        raise FormatError(
            f"{path}: {path.stat().st_size} bytes, a zip archive that is cut off or holds no image; fetch it again",
            code="SET-03",
        )
    if path.is_dir():
        raise FormatError(f"{path}: a folder that is no image by itself; can read: {known}", code="SET-03")
    raise FormatError(
        f"{path}: no known format ({path.stat().st_size} bytes, begins with {first_bytes(head)}); can read: {known}",
        code="SET-03",
    )


def _writer(path: Path) -> Format:
    modules = _modules()
    for _, module in modules:
        if path.name.lower().endswith(tuple(module.SUFFIXES)):
            return module
    known = ", ".join(suffix for _, module in modules for suffix in module.SUFFIXES)
    raise OutputError(f"{path}: cannot write files of this suffix; can write: {known}")
