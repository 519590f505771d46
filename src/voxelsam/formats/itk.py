"""NRRD (``.nrrd``, ``.nhdr``), MetaImage (``.mha``, ``.mhd``) and 3D Slicer's segmentations (``.seg.nrrd``).

The headers are read here, not by ITK: ITK's readers keep what they understand and change the rest without a word. So
the geometry is what the file says, sheared axes included, and everything odd is told. Both formats count in LPS, as
ITK does, unless an NRRD names another space; arrays keep the file's axis order i j k. Three bytes for each voxel are
colours, and become channels; other further axes count frames. A flat image is one slice, 1 mm thick.

Label maps are written as whole numbers, packed, read back and compared before they get their name. A name that ends in
``.seg.nrrd`` makes a segmentation with names and colours. One that Slicer wrote is often cropped to what is drawn: it
has a grid of its own, and ``place_on`` puts it onto the grid of its image.
"""

import gzip
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from voxelsam.errors import FormatError, GeometryError, InputError, LabelError, OutputError
from voxelsam.formats import _itk_meta as meta
from voxelsam.formats import _itk_nrrd as nrrd
from voxelsam.formats import _itk_segments as segmentation
from voxelsam.formats import _itk_voxels as voxels
from voxelsam.formats._files import fresh_file, head_of, store
from voxelsam.formats._itk_header import ItkHeader, warn_about
from voxelsam.formats._values import Array, check_finite, chosen, compact, integers, named, warn_if_constant
from voxelsam.space.grid import Grid
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.volume import LabelMap, Source, Volume

NAME = "itk"
SUFFIXES = (".nrrd", ".seg.nrrd", ".mha")
ENDINGS = (*SUFFIXES, ".nhdr", ".mhd")
MASKS = {".mha": ".mha", ".mhd": ".mha"}

_SEGMENTATION = ".seg.nrrd"
_SAME_LATTICE = 1e-3
"""Largest offset, in voxels, of two lattices that count as one."""
_CLOSE_MM = 1e-6
"""Places that differ by less differ by rounding only."""


def recognises(path: Path, head: bytes) -> bool:
    """Whether the first bytes are those of an NRRD or a MetaImage header."""
    return head.startswith(nrrd.MAGIC) or meta.recognises(head)


def frames(path: Path) -> int:
    """Numbers that each voxel has, colours counting as one; 1 for a single volume.

    Raises:
        FormatError, GeometryError, InputError: as ``read``.
    """
    return _header(path).frames


def read(path: Path, *, frame: int | None = None) -> Volume:
    """An image.

    Args:
        path: The file; of a pair, the header.
        frame: Which number of each voxel, from 0; needed only if there are several.

    Raises:
        FormatError: SET-03, the file is cut off or broken, or of a kind that is not read.
        GeometryError: GEO-05, no usable geometry.
        InputError: VAL-01, NaN or infinite voxels; VAL-03, the header asks for other values; VAL-05, complex voxels,
            other colours than 8 bits of red, green and blue, or several frames and none chosen.
    """
    header, grid, data = _load(path, frame)
    warn_about(path, header, grid)
    data = check_finite(path, data)
    warn_if_constant(path, data)
    return Volume(data, grid, "UNKNOWN", Source((path,), NAME, header))


def read_numbers(path: Path) -> Volume:
    """Whole numbers that stand for something, as an image of one channel.

    Raises:
        FormatError, GeometryError, InputError: as ``read``.
        LabelError: LAB-01, values that are not within 0.001 of an integer, or colours; VAL-04, values beyond 32 bits.
    """
    header, grid, data = _load(path, None)
    warn_about(path, header, grid)
    if header.colours is not None:
        raise LabelError(f"{path}: a label map holds one number per voxel, but this holds colours", code="LAB-01")
    return Volume(integers(path, data), grid, "UNKNOWN", Source((path,), NAME, header))


def read_labels(path: Path, labels: Labels | None = None) -> LabelMap:
    """A label map, as uint8 or uint16.

    A segmentation of 3D Slicer brings its names: without a table they are the table; with one, structures are found
    by their names, whatever their numbers.

    Args:
        path: The file; of a pair, the header.
        labels: Table that the values must be in; None takes the names of the file, or makes some.

    Raises:
        FormatError, GeometryError, InputError: as ``read``.
        LabelError: as ``read_numbers``; LAB-02, values outside the table; LAB-04, segments with names that the table
            does not know; LAB-05, segments that overlap; if it is accepted, the later one wins.
    """
    stated = _header(path)
    header = replace(stated, colours=None)  # three layers that another program wrote again look like colours
    segments = segmentation.segments_of(path, header.keys, header.frames > 1)
    if not segments:
        return named(path, read_numbers(path), labels)
    grid, whole = header.grid(path), voxels.load(path, header)
    warn_about(path, header, grid)
    layers = np.stack([_numbers(path, header, whole, layer) for layer in range(header.frames)])
    values, own = segmentation.merged(path, layers, segments)
    if labels is not None:
        values = segmentation.in_table(path, values, own, labels)
    return named(path, Volume(values[None], grid, "UNKNOWN", Source((path,), NAME, stated)), labels or own)


def read_labels_on(path: Path, grid: Grid, labels: Labels | None = None) -> LabelMap:
    """A label map on the voxels of an image, where the file is a segmentation that was cropped to what is drawn.

    Args:
        path: The file.
        grid: Of the image.
        labels: As in ``read_labels``.

    Raises:
        FormatError, GeometryError, InputError, LabelError: as ``read_labels``.
        GeometryError: GEO-02, the voxels of a segmentation are not the image's, or labels lie outside of it.
    """
    found = read_labels(path, labels)
    header = found.source.header if found.source else None
    is_segmentation = isinstance(header, ItkHeader) and bool(segmentation.segments_of(path, header.keys, False))
    return place_on(found, grid) if is_segmentation and found.grid.shape != grid.shape else found


def write_labels(path: Path, label_map: LabelMap, like: Source | None = None) -> None:
    """Writes a label map; the file appears under its name only after it was read back and found equal.

    Args:
        path: Target, ``.nrrd``, ``.seg.nrrd`` or ``.mha``; an existing file is replaced.
        label_map: What to write; its values must be in its table.
        like: Where the image came from; the text of its geometry is taken over if it gives the same affine.

    Raises:
        LabelError: LAB-02, values outside the table.
        OutputError: the file cannot be written, or does not read back as what was written.
    """
    label_map.labels.check(label_map.data, f"the label map for {path}")
    keys = segmentation.keys_for(label_map) if path.name.lower().endswith(_SEGMENTATION) else {}
    _write(path, compact(label_map.data)[None], label_map.grid, _twin(like) or _twin(label_map.source), keys)


def write_volume(path: Path, volume: Volume) -> None:
    """Writes an image of one channel, or of three 8-bit colours, with the type that its voxels have.

    Raises:
        InputError: VAL-01, NaN or infinite voxels.
        OutputError: there are other channels, or the file cannot be written.
    """
    if volume.channels != 1 and (volume.channels != 3 or volume.data.dtype != np.uint8):
        raise OutputError(
            f"{path}: one file holds one channel, or three of 8 bits, but the image has {volume.channels} of "
            f"{volume.data.dtype}; write one by one"
        )
    data = check_finite(path, volume.data)
    if data.dtype.kind not in "iuf" or data.dtype.itemsize > 8 or data.dtype == np.float16:
        data = data.astype(np.uint8 if data.dtype == np.bool_ else np.float32)
    _write(path, data, volume.grid, _twin(volume.source), {})


def place_on(label_map: LabelMap, grid: Grid) -> LabelMap:
    """A cropped label map on the grid that it was cropped from; what lies outside the crop is background.

    Args:
        label_map: On a part of the grid's lattice, or on one that reaches beyond it with background.
        grid: Of the image.

    Raises:
        GeometryError: GEO-02, the voxels of the two do not coincide, or labels lie outside the grid.
    """
    name = str(label_map.source or "the label map")
    corners = label_map.grid.corners()
    offsets = grid.to_index(corners) - np.rint(label_map.grid.to_index(corners))
    start = np.rint(offsets[0]).astype(np.int64)
    if np.abs(offsets - start).max() > _SAME_LATTICE:
        raise GeometryError(
            f"{name}: its voxels do not coincide with those of the image; resample one onto the other", code="GEO-02"
        )
    low = np.maximum(start, 0)
    high = np.minimum(start + label_map.grid.shape, grid.shape)
    data = np.zeros(grid.shape, label_map.data.dtype)
    if (low < high).all():
        target = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        own_part = tuple(slice(int(a), int(b)) for a, b in zip(low - start, high - start, strict=True))
        data[target] = label_map.data[own_part]
    lost = int(np.count_nonzero(label_map.data)) - int(np.count_nonzero(data))
    if lost:
        raise GeometryError(f"{name}: {lost} labelled voxels lie outside the image", code="GEO-02")
    return LabelMap(data, grid, label_map.labels, label_map.source)


def _header(path: Path) -> ItkHeader:
    head = head_of(path)
    try:
        return nrrd.parse(path) if head.startswith(nrrd.MAGIC) else meta.parse(path)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror})", code="SET-03") from None


def _load(path: Path, frame: int | None) -> tuple[ItkHeader, Grid, Array]:
    """Header, grid and voxels (channels i j k) of a file, without any warning."""
    header = _header(path)
    number, grid = chosen(path, header.frames, frame), header.grid(path)
    return header, grid, voxels.frame_of(voxels.load(path, header), header, number)


def _numbers(path: Path, header: ItkHeader, whole: Array, layer: int) -> Array:
    return integers(path, voxels.frame_of(whole, header, layer)[0])


def _twin(source: Source | None) -> ItkHeader | None:
    return source.header if source is not None and isinstance(source.header, ItkHeader) else None


def _write(path: Path, data: Array, grid: Grid, like: ItkHeader | None, keys: dict[str, str]) -> None:
    little = data.dtype.newbyteorder("<")
    content = data.T if data.shape[0] == 1 else np.moveaxis(data, 0, -1).transpose(2, 1, 0, 3)
    numbers = np.ascontiguousarray(content.astype(little, copy=False)).data
    is_meta = path.name.lower().endswith(".mha")

    def write(stream: BinaryIO) -> None:
        if is_meta:
            packed = zlib.compress(numbers, 6)
            stream.write(meta.text(grid, data.dtype, data.shape[0], like, len(packed)).encode("ascii"))
            stream.write(packed)
            return
        stream.write(nrrd.text(grid, data.dtype, data.shape[0], like, keys).encode("utf-8"))
        with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=stream, mtime=0) as inner:
            inner.write(numbers)

    with fresh_file(path) as beside:
        store(beside, write)
        try:
            header, found_grid, found = _load(beside, None)
        except InputError as error:
            raise OutputError(f"{path}: cannot be read back ({error}); nothing was changed") from error
        same_place = found_grid.displacement(grid) <= (_CLOSE_MM if is_meta else 0)
        if not (same_place and _same(found, data) and header.keys == keys):
            raise OutputError(f"{path}: does not read back as what was written; nothing was changed")


def _same(found: Array, data: np.ndarray[Any, Any]) -> bool:
    return found.dtype == data.dtype.newbyteorder("=") and np.array_equal(found, data)
