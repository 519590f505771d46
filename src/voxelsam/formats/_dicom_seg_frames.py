"""The frames of a DICOM segmentation: which segment each shows, and where it lies.

Positions are turned from DICOM's LPS into RAS here. Frames are arrays ``i j`` of segment numbers, 0 where there is no
segment.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from voxelsam import checks
from voxelsam.errors import FormatError, GeometryError, LabelError, VoxelSamError
from voxelsam.formats._dicom_files import Entry, library, quiet
from voxelsam.formats._dicom_sop import LABEL_MAP, SEGMENTATION
from voxelsam.space.grid import Grid
from voxelsam.volumes._terms import PRIVATE, Code

Array = np.ndarray[Any, Any]

RAS = np.array([-1.0, -1.0, 1.0])
"""LPS to RAS, component by component."""

_SAME_POSITION_MM = 0.01
"""Frames this close along the normal lie in one slice."""
_REGULAR = 0.02
"""Deviation from a regular lattice, in slice distances, that is rounding."""
_SAME_DIRECTION = 1e-3
"""Difference of direction cosines that is rounding."""
_MOST_SLICES = 20_000
"""More slices than any scan has: the distance of slices in the file is wrong."""
_MOST_VOXELS = 1 << 32
"""More voxels than any scan has."""
_BACKGROUND = ("DCM", "125040")
_ABNORMAL = {("SCT", "49755003"), ("SRT", "M-01000")}
_SIDES = {
    ("SCT", "7771000"): "left",
    ("SCT", "24028007"): "right",
    ("SRT", "G-A101"): "left",
    ("SRT", "G-A100"): "right",
}


@dataclass(frozen=True)
class Described:
    """What a file says about one of its segments."""

    number: int
    name: str
    code: Code | None
    background: bool


@dataclass(frozen=True, eq=False)
class Frames:
    """A segmentation as its file holds it."""

    path: Path
    dataset: Any
    """The pydicom data set, with its pixels still packed."""
    described: tuple[Described, ...]
    """Segments in the order of their numbers, the background among them where the file has it."""
    shape: tuple[int, int]
    """Columns, rows of a frame."""
    steps: Array
    """Vectors in mm, RAS, from a voxel to the next along i and along j, as two columns."""
    origins: Array
    """Millimetres, RAS, of the first voxel of each frame, ``frames 3``."""
    segments: tuple[int, ...]
    """Number of the segment that each frame shows; 0 where the voxels say it themselves."""
    distance: float | None
    """Millimetres between slices as the file says, if it says so."""
    author: str

    @property
    def normal(self) -> Array:
        """Unit vector that slices are sorted along, RAS."""
        across = np.cross(self.steps[:, 0] * RAS, self.steps[:, 1] * RAS) * RAS
        return np.asarray(across / np.linalg.norm(across))

    @property
    def structures(self) -> tuple[Described, ...]:
        """Segments but the background, in the order of their numbers."""
        return tuple(segment for segment in self.described if not segment.background)

    def numbers(self) -> Iterator[Array]:
        """Segment numbers of each frame, ``i j``, uint16.

        Raises:
            FormatError: SET-03, the voxels cannot be unpacked.
            LabelError: LAB-01, shares of voxels instead of yes and no; LAB-02, numbers that no segment has.
        """
        return (self.frame(index) for index in range(len(self.segments)))

    def frame(self, index: int) -> Array:
        """Segment numbers of one frame, as ``numbers`` gives them."""
        with reading(self.path):
            stored = self._stored(index)
        return self._numbers(stored, self.segments[index])

    def _stored(self, index: int) -> Array:
        """One frame as it is stored, rows first."""
        from pydicom.pixels.utils import pixel_array

        syntax = self.dataset.file_meta.TransferSyntaxUID
        if int(self.dataset.BitsAllocated) != 1 or syntax.is_encapsulated or not syntax.is_little_endian:
            return pixel_array(self.dataset, index=index, raw=True)
        return _bits(self.dataset.PixelData, index, self.shape[::-1])

    def _numbers(self, stored: Array, number: int) -> Array:
        if self.dataset.SegmentationType == "FRACTIONAL":
            stored = _halved(self.path, stored, int(self.dataset.get("MaximumFractionalValue", 255)))
        if self.dataset.SegmentationType != "LABELMAP":
            shown = 0 if number in self._silent else number
            return np.asarray((stored.T != 0) * np.uint16(shown), np.uint16)
        meaning = self._meanings[stored.T]
        if (meaning < 0).any():
            strange, counts = np.unique(stored.T[meaning < 0], return_counts=True)
            listed = ", ".join(f"{a} ({b} voxels)" for a, b in zip(strange[:20], counts, strict=False))
            raise LabelError(f"{self.path}: numbers of no described segment in a frame: {listed}", code="LAB-02")
        return np.asarray(meaning, np.uint16)

    @cached_property
    def _silent(self) -> frozenset[int]:
        return frozenset(segment.number for segment in self.described if segment.background)

    @cached_property
    def _meanings(self) -> Array:
        """Segment number of each stored number: 0 for background and padding, -1 where there is none."""
        meanings = np.full(np.iinfo(np.uint16).max + 1, -1, np.int32)
        padding = self.dataset.get("PixelPaddingValue")
        meanings[[0, *self._silent, *([] if padding is None else [int(padding) & 0xFFFF])]] = 0
        for segment in self.structures:
            meanings[segment.number] = segment.number
        return meanings


def load(path: Path) -> Frames:
    """Reads a segmentation; its voxels stay packed.

    Raises:
        FormatError: SET-03, the file is cut off, broken, no segmentation, or one of a microscope's slide in tiles.
        GeometryError: DCM-08, no frame of reference or no positions; DCM-03, slices of several orientations.
        MissingExtra: pydicom is not installed.
    """
    library("pydicom", f"{path}: reading DICOM")
    with reading(path):
        data = Entry(str(path), lambda: path.open("rb")).dataset(pixels=True)
        if str(data.SOPClassUID) not in (SEGMENTATION, LABEL_MAP):
            raise FormatError(f"{path}: expected a DICOM segmentation, but it holds something else", code="SET-03")
        _check_place(path, data)
        shared = data.SharedFunctionalGroupsSequence[0]
        groups = list(data.PerFrameFunctionalGroupsSequence)
        if len(groups) != int(data.NumberOfFrames):
            raise FormatError(
                f"{path}: {data.NumberOfFrames} frames, but positions of {len(groups)}; export it again", code="SET-03"
            )
        described = tuple(_described(item) for item in data.SegmentSequence)
        segments = tuple(_segment(shared, group, data) for group in groups)
        if strange := sorted({*segments} - {0} - {segment.number for segment in described}):
            raise LabelError(
                f"{path}: frames of the segments {strange}, which the file does not describe", code="LAB-02"
            )
        steps, distance = _steps(path, shared, groups)
        return Frames(
            path=path,
            dataset=data,
            described=tuple(sorted(described, key=lambda segment: segment.number)),
            shape=(int(data.Columns), int(data.Rows)),
            steps=steps,
            origins=np.array([_position(path, shared, group) for group in groups]).reshape(-1, 3) * RAS,
            segments=segments,
            distance=distance,
            author=_author(data),
        )


def _bits(packed: bytes, index: int, shape: tuple[int, int]) -> Array:
    """One frame of packed bits. Frames begin within a byte where their size is no multiple of 8."""
    size = shape[0] * shape[1]
    start, end = index * size, (index + 1) * size
    part = np.frombuffer(packed, np.uint8)[start // 8 : -(-end // 8)]
    return np.unpackbits(part, bitorder="little")[start % 8 : start % 8 + size].reshape(shape)


def own_grid(frames: Frames) -> Grid:
    """The smallest regular grid that holds every frame, slices ascending along the normal; gaps get slices, too.

    Raises:
        GeometryError: DCM-01, the frames are not at whole multiples of one distance; GEO-05, the only slice of the file
            has no thickness.
    """
    depths = frames.origins @ frames.normal
    order = np.argsort(depths, kind="stable")
    starts = np.flatnonzero(np.diff(depths[order], prepend=-np.inf) > _SAME_POSITION_MM)
    levels = np.array([frames.origins[order[start]] for start in starts])
    affine = np.eye(4)
    affine[:3, :2] = frames.steps
    affine[:3, 3] = levels[0]
    if len(levels) == 1:
        if frames.distance is None:
            raise GeometryError(
                f"{frames.path}: one slice without a thickness, so its grid is not known; give the grid of its image",
                code="GEO-05",
            )
        affine[:3, 2] = frames.normal * frames.distance
        return Grid((*frames.shape, 1), affine)
    index = _index(frames, np.diff(levels @ frames.normal))
    if (int(index[-1]) + 1) * frames.shape[0] * frames.shape[1] > _MOST_VOXELS:
        raise _irregular(frames, f"between the first and the last there would be {int(index[-1]) + 1} of them")
    affine[:3, 2] = (levels[-1] - levels[0]) / index[-1]
    off = np.linalg.norm(levels - levels[0] - index[:, None] * affine[:3, 2], axis=1).max()
    if off > _REGULAR * np.linalg.norm(affine[:3, 2]):
        raise _irregular(frames, f"one lies {off:.3g} mm aside")
    return Grid((*frames.shape, int(index[-1]) + 1), affine)


def _index(frames: Frames, gaps: Array) -> Array:
    """Slice number of each level, from the distances of neighbours."""
    for step in (frames.distance, float(gaps.min())):
        if step is None:
            continue
        index = np.concatenate([[0], np.cumsum(gaps)]) / step
        if index[-1] < _MOST_SLICES and np.abs(index - np.rint(index)).max() <= _REGULAR and np.rint(gaps / step).all():
            return np.asarray(np.rint(index), np.int64)
    raise _irregular(frames, f"distances run from {gaps.min():.4g} to {gaps.max():.4g} mm")


def _irregular(frames: Frames, why: str) -> GeometryError:
    return GeometryError(
        f"{frames.path}: its slices are no multiples of one distance apart ({why}), so they make no grid; place them "
        "on the grid of their image (read_labels_on)",
        code="DCM-01",
    )


def _check_place(path: Path, data: Any) -> None:
    if "TotalPixelMatrixColumns" in data or "TotalPixelMatrixOriginSequence" in data:
        raise FormatError(
            f"{path}: a segmentation of a microscope's slide in tiles, which is not read; convert it to a picture",
            code="SET-03",
        )
    shared = data.SharedFunctionalGroupsSequence[0]
    placed = all(
        "PlanePositionSequence" in group or "PlanePositionSequence" in shared
        for group in data.PerFrameFunctionalGroupsSequence
    )
    if not data.get("FrameOfReferenceUID") or not placed:
        raise GeometryError(
            f"{path}: a segmentation without a frame of reference or positions (of a projection such as an X-ray), so "
            "its place is not known; convert it to a picture",
            code="DCM-08",
        )


def _steps(path: Path, shared: Any, groups: list[Any]) -> tuple[Array, float | None]:
    turns = [_group("PlaneOrientationSequence", shared, group).ImageOrientationPatient for group in groups]
    cosines = np.array(turns, np.float64).reshape(-1, 2, 3)
    lengths = np.linalg.norm(cosines, axis=2, keepdims=True)
    if not np.isfinite(cosines).all() or not lengths.all():
        raise GeometryError(f"{path}: directions of rows and columns that are none", code="GEO-05")
    cosines /= lengths
    if np.abs(cosines - cosines[0]).max() > _SAME_DIRECTION:
        raise GeometryError(f"{path}: slices of several orientations, which make no volume", code="DCM-03")
    if abs(cosines[0, 0] @ cosines[0, 1]) > _SAME_DIRECTION:
        raise GeometryError(f"{path}: rows and columns are not at right angles", code="GEO-03")
    measures = [_group("PixelMeasuresSequence", shared, group) for group in groups]
    spacings = np.array([item.PixelSpacing for item in measures], np.float64)
    if np.ptp(spacings, axis=0).max() > _SAME_DIRECTION or not (spacings > 0).all() or not np.isfinite(spacings).all():
        raise GeometryError(
            f"{path}: distances of pixels that are not positive, or not the same everywhere", code="GEO-05"
        )
    between = [abs(float(measures[0].get(name) or 0)) for name in ("SpacingBetweenSlices", "SliceThickness")]
    return (cosines[0] * spacings[0, ::-1, None]).T * RAS[:, None], next((mm for mm in between if mm > 0), None)


def _position(path: Path, shared: Any, group: Any) -> Array:
    position = np.array(_group("PlanePositionSequence", shared, group).ImagePositionPatient, np.float64)
    if position.shape != (3,) or not np.isfinite(position).all():
        raise GeometryError(f"{path}: a position of a slice that is none", code="DCM-08")
    return position


def _segment(shared: Any, group: Any, data: Any) -> int:
    if data.SegmentationType == "LABELMAP":
        return 0
    return int(_group("SegmentIdentificationSequence", shared, group).ReferencedSegmentNumber)


def _group(name: str, shared: Any, group: Any) -> Any:
    return (group if name in group else shared)[name].value[0]


def _described(item: Any) -> Described:
    number = int(item.SegmentNumber)
    name = str(item.get("SegmentLabel") or "").strip() or f"segment {number}"
    kinds = item.get("SegmentedPropertyTypeCodeSequence") or [{}]
    scheme, value = str(kinds[0].get("CodingSchemeDesignator", "")), str(kinds[0].get("CodeValue", ""))
    background = number == 0 or (scheme, value) == _BACKGROUND or name.casefold() == "background"
    return Described(number, name, _code(item, kinds[0], scheme, value), background)


def _code(item: Any, kind: Any, scheme: str, value: str) -> Code | None:
    category = (item.get("SegmentedPropertyCategoryCodeSequence") or [{}])[0]
    modifiers = kind.get("SegmentedPropertyTypeModifierCodeSequence") or item.get(
        "SegmentedPropertyTypeModifierCodeSequence"
    )
    sides = [_SIDES.get((str(m.get("CodingSchemeDesignator")), str(m.get("CodeValue")))) for m in modifiers or []]
    side: Any = next((found for found in sides if found), "")
    abnormal = (str(category.get("CodingSchemeDesignator")), str(category.get("CodeValue"))) in _ABNORMAL
    try:
        return None if scheme == PRIVATE else Code(value, scheme, str(kind.get("CodeMeaning", "")), side, abnormal)
    except LabelError:
        return None


def _author(data: Any) -> str:
    item = data.SegmentSequence[-1]
    found = item.get("SegmentationAlgorithmIdentificationSequence")
    if not found:
        return str(item.get("SegmentAlgorithmName") or "")
    return f"{found[0].get('AlgorithmName', '')} {found[0].get('AlgorithmVersion', '')}".strip()


def _halved(path: Path, stored: Array, most: int) -> Array:
    soft = (stored != 0) & (stored != most)
    if soft.any():
        checks.refuse(
            "LAB-01",
            f"{path}: labels say yes or no, but {int(soft.sum())} voxels of a frame hold a share between 0 and 1 (a "
            "fractional segmentation); threshold it, or accept this check to take half and more as yes",
            LabelError,
        )
    return np.asarray(stored >= most / 2)


@contextmanager
def reading(path: Path, thing: str = "DICOM segmentation") -> Iterator[None]:
    """Turns whatever a broken file makes pydicom raise into an error of ours, and keeps its warnings quiet."""
    try:
        with quiet():
            yield
    except (VoxelSamError, MemoryError):
        raise
    except Exception as error:
        raise FormatError(
            f"{path}: cut off, broken or no complete {thing} ({path.stat().st_size} bytes on disk; "
            f"{type(error).__name__}); fetch or export it again",
            code="SET-03",
        ) from error
