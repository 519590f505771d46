"""DICOM segmentations: binary ones, label maps, and fractional ones that hold yes and no only.

A file lists its segments by number and name; its frames say where they lie, in any order and only where something is.
Reading gives them a regular grid of their own, or puts them on the grid of an image. Writing needs the headers of the
DICOM image: patient, study and frame of reference are the image's, and each frame names the slice it belongs to.
"""

from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool

from voxelsam import checks
from voxelsam.errors import FormatError, GeometryError, InputError, LabelError, OutputError
from voxelsam.formats._dicom_seg_frames import Array, Frames, load, own_grid
from voxelsam.formats._dicom_sop import LABEL_MAP, SEGMENTATION, objects_in, sop_class
from voxelsam.formats._files import HEAD, fresh_file
from voxelsam.formats._values import compact
from voxelsam.space.grid import Grid
from voxelsam.volumes._terms import Code
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.volume import LabelMap, Source, Volume

NAME = "dicom_seg"
SUFFIXES = (".dcm",)
ENDINGS = (".dcm",)

_KINDS = (SEGMENTATION, LABEL_MAP)
_ALIGNED = 0.1
"""Offset from a voxel's centre, in voxels, that is rounding."""


@dataclass(frozen=True, eq=False)
class Segment:
    """One segment of a file by itself."""

    number: int
    """The file's number of it."""
    name: str
    mask: Bool[np.ndarray, "i j k"]
    grid: Grid
    """The same for all segments of a file."""
    code: Code | None = None
    """What the file says it is, where that is no private code of ours."""


def recognises(path: Path, head: bytes) -> bool:
    """Whether a file is a DICOM segmentation, or a folder holds such files and nothing else."""
    if path.is_dir():
        return bool(objects_in(path, _KINDS, HEAD))
    return sop_class(head) in _KINDS


def frames(path: Path) -> int:
    """Number of volumes in the file: always 1."""
    return 1


def read(path: Path, *, frame: int | None = None) -> Volume:
    """Refuses: a segmentation holds no image.

    Raises:
        FormatError: SET-03, always.
    """
    raise FormatError(
        f"{path}: expected an image, but this is a DICOM segmentation; give the images that it belongs to, or read it "
        "as labels",
        code="SET-03",
    )


def read_numbers(path: Path) -> Volume:
    """Numbers of segments, as an image of one channel on the segmentation's own grid.

    Raises:
        FormatError, GeometryError, LabelError: as ``read_labels``.
    """
    found = _load(path)
    numbers = {segment.number: segment.number for segment in found.structures}
    grid = own_grid(found)
    return Volume(_fill(found, grid, numbers)[None], grid, "UNKNOWN", Source((path,), NAME))


def read_labels(path: Path, labels: Labels | None = None) -> LabelMap:
    """A label map on the segmentation's own grid; slices between frames that the file leaves out are background.

    Args:
        path: The file, or a folder that holds it alone.
        labels: Table that the segments must be in, by name; values may differ from the file's numbers. None makes a
            table of the segments' names and numbers.

    Raises:
        FormatError: SET-03, the file cannot be read, or is of a microscope's slide.
        GeometryError: DCM-01, frames at irregular distances; DCM-03, of several orientations; DCM-08, without
            positions; GEO-05, without a grid.
        LabelError: LAB-01, shares instead of yes and no; LAB-02, numbers without a segment; LAB-04, segments that are
            not in the table; LAB-05, segments overlap.
    """
    found = _load(path)
    return _label_map(found, own_grid(found), labels)


def read_labels_on(path: str | Path, grid: Grid, labels: Labels | None = None) -> LabelMap:
    """A label map on the grid of an image: each frame goes to the slice it was drawn on.

    Args:
        path: The file, or a folder that holds it alone.
        grid: Where to put it. Its voxels must be the segmentation's, in any order of axes; it may have more of them.
        labels: As in ``read_labels``.

    Raises:
        FormatError, GeometryError, LabelError: as ``read_labels``, but distances of frames may be any.
        GeometryError: GEO-02, frames lie between the grid's voxels or outside of it.
    """
    return _label_map(_load(Path(path)), grid, labels)


def read_segments(path: str | Path) -> tuple[Segment, ...]:
    """Every segment by itself, so that they may overlap; in the order of their numbers, empty ones included.

    Raises:
        FormatError, GeometryError, LabelError: as ``read_labels``, but not LAB-05.
    """
    found = _load(Path(path))
    grid = own_grid(found)
    masks = {segment.number: np.zeros(grid.shape, bool) for segment in found.structures}
    lattice = _lattice(found, grid)
    for index, numbers in enumerate(found.numbers()):
        for number in np.unique(numbers[numbers != 0]):
            lattice.frame(masks[int(number)], index)[numbers == number] = True
    return tuple(Segment(s.number, s.name, masks[s.number], grid, s.code) for s in found.structures)


def check_target(path: Path, image: Volume) -> None:
    """Refuses an image that cannot have segmentations.

    Raises:
        GeometryError: GEO-01, the image's header says another shape.
        OutputError: the image was no DICOM, was resampled, or has no frame of reference (DCM-08).
    """
    from voxelsam.formats._dicom_seg_write import image_headers

    nothing = LabelMap(np.zeros(image.grid.shape, np.uint8), image.grid, Labels({"background": 0}))
    image_headers(path, image.source, nothing)


def write_labels(path: Path, label_map: LabelMap, like: Source | None = None) -> None:
    """Writes a binary segmentation with one segment per structure; as ``write_segmentation``.

    Raises:
        LabelError, OutputError: as ``write_segmentation``.
    """
    write_segmentation(path, label_map, like)


def write_segmentation(
    path: str | Path,
    label_map: LabelMap,
    like: Source | None = None,
    *,
    kind: Literal["binary", "labelmap"] = "binary",
) -> None:
    """Writes a segmentation; the file appears under its name only after it was read back and found equal.

    Structures that are nowhere are listed all the same. Regions are not written: their parts are.

    Args:
        path: Target; an existing file is replaced.
        label_map: What to write; its values must be in its table, and none may be the ignore value.
        like: Where the image came from, which must be DICOM; None: where the label map says it came from.
        kind: ``binary`` is what other programs read; ``labelmap``, of 2024, is smaller where there are many structures,
            and keeps the values of the table as numbers of the segments.

    Raises:
        LabelError: LAB-02, values outside the table.
        OutputError: the image was no DICOM, has no frame of reference (DCM-08), or is not the one that the label map
            lies on; DICOM has no place for something in it; the file cannot be written.
    """
    from voxelsam.formats._dicom_seg_write import image_headers, segmentation, store_dataset

    target = Path(path)
    label_map.labels.check(label_map.data, f"the label map for {target}")
    header = image_headers(target, like, label_map)
    with fresh_file(target) as beside:
        store_dataset(target, beside, segmentation(target, label_map, header, kind))
        _compare(target, beside, label_map)


def write_volume(path: Path, volume: Volume) -> None:
    """Refuses: images are not written as DICOM.

    Raises:
        OutputError: always.
    """
    raise OutputError(f"{path}: images are not written as DICOM; write NIfTI (.nii.gz)")


def _load(path: Path) -> Frames:
    if not path.is_dir():
        return load(path)
    files = objects_in(path, _KINDS, HEAD)
    if len(files) != 1:
        names = ", ".join(file.name for file in files[:10])
        raise FormatError(
            f"{path}: expected one DICOM segmentation, but found {len(files)} ({names}); choose one", code="DCM-03"
        )
    return load(files[0])


def _label_map(found: Frames, grid: Grid, labels: Labels | None) -> LabelMap:
    table, values = (_own_table(found), None) if labels is None else (labels, _by_name(found, labels))
    numbers = values or {segment.number: segment.number for segment in found.structures}
    data = compact(_fill(found, grid, numbers))
    return LabelMap(data, grid, table, Source((found.path,), NAME), found.author)


def _own_table(found: Frames) -> Labels:
    values = {"background": 0}
    codes = {}
    for segment in found.structures:
        name = segment.name if segment.name not in values else f"{segment.name} {segment.number}"
        values[name] = segment.number
        if segment.code is not None:
            codes[name] = segment.code
    return Labels(values, codes=codes)


def _by_name(found: Frames, labels: Labels) -> dict[int, int]:
    """Value of each segment number, by name; upper and lower case and underscores do not matter if names stay apart."""
    loose: dict[str, list[str]] = {}
    for name in labels.names:
        loose.setdefault(_loosely(name), []).append(name)
    values, strange = {}, []
    for segment in found.structures:
        likely = [segment.name] if segment.name in labels.names else loose.get(_loosely(segment.name), [])
        if len(likely) == 1:
            values[segment.number] = labels.values[likely[0]]
        else:
            strange.append(segment.name)
    if strange:
        raise LabelError(
            f"{found.path}: segments must be named as in the table ({', '.join(labels.names)}), but it has "
            f"{', '.join(repr(name) for name in strange)}; rename them, or add them to the table",
            code="LAB-04",
        )
    return values


def _loosely(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").split())


@dataclass(frozen=True, eq=False)
class _Lattice:
    """Where the frames of a file lie in the arrays of a grid."""

    order: tuple[int, int, int]
    """Axis of the grid along columns, along rows, and across frames."""
    flipped: tuple[int, ...]
    """Which of these run against the grid's."""
    starts: Array
    """First voxel of each frame, ``frames 3``, counted along these."""
    shape: tuple[int, int]

    def frame(self, data: Array, index: int) -> Array:
        """The voxels of a frame in an array on the grid: a view, ``i j``."""
        i, j, k = self.starts[index]
        turned = np.flip(data.transpose(self.order), self.flipped)
        return turned[i : i + self.shape[0], j : j + self.shape[1], k]


def _lattice(found: Frames, grid: Grid) -> _Lattice:
    """Finds the grid's voxels that the frames' voxels are.

    Raises:
        GeometryError: GEO-02, the frames' voxels lie between the grid's or outside of it.
    """
    inverse = np.linalg.inv(grid.affine[:3, :3])
    exact = inverse @ found.steps
    steps = np.rint(exact)
    origins = (found.origins - grid.affine[:3, 3]) @ inverse.T
    starts = np.rint(origins)
    drift = np.abs(exact - steps) @ np.array(found.shape)
    off = float((np.abs(origins - starts) + drift).max(initial=0.0))
    first, second = (int(axis) for axis in np.abs(steps).argmax(axis=0))
    if off > _ALIGNED or not np.array_equal(np.abs(steps).sum(axis=0), (1, 1)) or first == second:
        raise GeometryError(
            f"{found.path}: its voxels must be voxels of the image's grid, but they lie up to {off:.3g} voxels beside "
            "them; it belongs to another series, or was resampled: give the image that it was drawn on",
            code="GEO-02",
        )
    ends = starts + steps @ (np.array(found.shape) - 1)
    low, high = np.minimum(starts, ends).min(axis=0).astype(int), np.maximum(starts, ends).max(axis=0).astype(int)
    if (low < 0).any() or (high >= grid.shape).any():
        raise GeometryError(
            f"{found.path}: its frames reach from voxel {low.tolist()} to {high.tolist()} of the image's grid, which "
            f"has {list(grid.shape)} voxels; it belongs to another series, or to more slices than are there",
            code="GEO-02",
        )
    order = (first, second, 3 - first - second)
    flipped = tuple(turned for turned in (0, 1) if steps[order[turned], turned] < 0)
    along = starts.astype(int)[:, order]
    for turned in flipped:
        along[:, turned] = grid.shape[order[turned]] - 1 - along[:, turned]
    return _Lattice(order, flipped, along, found.shape)


def _fill(found: Frames, grid: Grid, values: dict[int, int]) -> Array:
    """Values of the segments on a grid, uint16."""
    table = np.zeros(np.iinfo(np.uint16).max + 1, np.uint16)
    table[list(values)] = list(values.values())
    data = np.zeros(grid.shape, np.uint16)
    lattice = _lattice(found, grid)
    clash = False
    for index, numbers in enumerate(found.numbers()):
        here, new = lattice.frame(data, index), table[numbers]
        clash = clash or bool(((here != 0) & (new != 0) & (here != new)).any())
        np.copyto(here, new, where=new != 0)
    if clash:
        _refuse_overlaps(found, lattice, table)
    return data


def _refuse_overlaps(found: Frames, lattice: _Lattice, table: Array) -> None:
    names = {segment.number: segment.name for segment in found.structures}
    shared: Counter[tuple[int, int]] = Counter()
    places: dict[tuple[int, ...], list[int]] = {}
    for index, start in enumerate(lattice.starts):
        places.setdefault(tuple(start.tolist()), []).append(index)
    for together in places.values():
        stack = np.stack([found.frame(index) for index in together])
        stack = stack[:, np.count_nonzero(stack, axis=0) > 1]
        for first, second in combinations([numbers for numbers in stack if numbers.any()], 2):
            both = (first != 0) & (second != 0) & (table[first] != table[second])
            shared.update(zip(first[both].tolist(), second[both].tolist(), strict=True))
    listed = "; ".join(f"{names[a]!r} and {names[b]!r} share {n} voxels" for (a, b), n in sorted(shared.items()))
    checks.refuse(
        "LAB-05",
        f"{found.path}: a label map has one value per voxel, but segments overlap: {listed}; read them one by one "
        "(read_segments), or accept this check to let the segment that comes later in the file win",
        LabelError,
    )


def _compare(target: Path, written: Path, label_map: LabelMap) -> None:
    """Refuses a file that another program would read as something else than the label map."""
    try:
        again = read_labels_on(written, label_map.grid, label_map.labels)
    except InputError as error:
        reason = str(error).replace(str(written), "what was written")
        raise OutputError(f"{target}: does not read back ({reason}); nothing was changed", code=error.code) from error
    if not np.array_equal(again.data, label_map.data):
        raise OutputError(f"{target}: does not read back as what was written; nothing was changed")
