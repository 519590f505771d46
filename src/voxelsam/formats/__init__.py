"""Files to volumes and label maps, and back.

The module is the plug-in: each module of this folder reads one family of files and offers the names of ``Format``.
Which one reads a file is decided by the file's content. Axis conventions other than RAS+ end here.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np

from voxelsam import plugins
from voxelsam.errors import FormatError, InputError, OutputError
from voxelsam.formats._files import first_bytes, head_of
from voxelsam.volumes import LabelMap, Labels, Source, Volume, check_grids

__all__ = ["Format", "frames", "read", "read_channels", "read_labels", "write_labels", "write_volume"]


@runtime_checkable
class Format(Protocol):
    """What a format module offers; see ``nifti`` for the errors of each."""

    SUFFIXES: tuple[str, ...]
    """Endings of the files it writes; empty if it only reads."""

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether a file whose first bytes are ``head`` is of this family."""
        ...

    def frames(self, path: Path) -> int:
        """Number of volumes in the file."""
        ...

    def read(self, path: Path, *, frame: int | None = None) -> Volume:
        """An image."""
        ...

    def read_labels(self, path: Path, labels: Labels | None = None) -> LabelMap:
        """A label map whose values are in the table."""
        ...

    def write_labels(self, path: Path, label_map: LabelMap, like: Source | None = None) -> None:
        """Writes a label map beside the target, compares, renames."""
        ...

    def write_volume(self, path: Path, volume: Volume) -> None:
        """Writes an image of one channel, in the same way."""
        ...


def frames(path: str | Path) -> int:
    """Number of volumes in a file: the length of a fourth axis, else 1.

    Raises:
        FormatError: SET-01 or SET-03, see ``read``.
    """
    return _reader(Path(path)).frames(Path(path))


def read(path: str | Path, *, frame: int | None = None) -> Volume:
    """An image, whatever its format.

    Args:
        path: The file.
        frame: Which volume, from 0, of a file that holds several.

    Raises:
        FormatError: SET-01, no such file; SET-03, the file is empty, cut off, or of no known format.
        GeometryError: the file says nothing usable about where its voxels are.
        InputError: the voxels cannot be used as they are (VAL-01 not finite, VAL-05 several volumes or complex).
    """
    return _reader(Path(path)).read(Path(path), frame=frame)


def read_channels(paths: Sequence[str | Path], count: int | None = None) -> Volume:
    """One image from several files, one channel each, in their order.

    Args:
        paths: The files; a single one gives its own channels.
        count: Number of channels to expect. A single file that holds that many volumes in a fourth axis, as in the
            Decathlon, gives one channel per volume.

    Raises:
        FormatError, GeometryError, InputError: as ``read``.
        GeometryError: GEO-01 or GEO-02, the files do not lie on the same voxels.
        InputError: VAL-05, one of several files holds several channels; VAL-06, there are not ``count`` channels.
    """
    if not paths:
        raise InputError("an image needs at least one file, but none came", code="SET-01")
    files = [Path(path) for path in paths]
    stacked = len(files) == 1 and count is not None and frames(files[0]) == count
    parts = [read(files[0], frame=i) for i in range(count or 1)] if stacked else [read(file) for file in files]
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


def read_labels(path: str | Path, labels: Labels | None = None) -> LabelMap:
    """A label map, whatever its format.

    Args:
        path: The file.
        labels: Table that the values must be in; None makes one from the values found (``label_3`` for 3).

    Raises:
        FormatError, GeometryError, InputError: as ``read``.
        LabelError: LAB-01, values that are no integers; LAB-02, values outside the table.
    """
    return _reader(Path(path)).read_labels(Path(path), labels)


def write_labels(path: str | Path, label_map: LabelMap, like: Volume | None = None) -> None:
    """Writes a label map with the shape and affine of its grid.

    Args:
        path: Target; its suffix chooses the format. An existing file is replaced, but only by a complete one.
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
    _writer(target).write_labels(target, label_map, None if like is None else like.source)


def write_volume(path: str | Path, volume: Volume) -> None:
    """Writes an image of one channel with the shape and affine of its grid.

    Raises:
        InputError: VAL-01, NaN or infinite voxels.
        OutputError: no format writes this suffix, there are several channels, or the file cannot be written.
    """
    _writer(Path(path)).write_volume(Path(path), volume)


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
    head = head_of(path)
    for _, module in _modules():
        if module.recognises(path, head):
            return module
    known = ", ".join(name for name, _ in _modules())
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
