"""The header of MetaImage files, attached (``.mha``) or on its own (``.mhd``).

Each row of ``TransformMatrix`` is the direction of one axis in LPS, ``ElementSpacing`` its step. ``CenterOfRotation``
and ``AnatomicalOrientation`` say nothing that counts.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float64

from voxelsam import checks
from voxelsam.errors import FormatError, GeometryError, InputError
from voxelsam.formats._itk_header import (
    HEADER_LIMIT,
    LPS,
    ItkHeader,
    Packing,
    Storage,
    affine_of,
    broken,
    check_sizes,
    floats,
    integers,
    partner,
)
from voxelsam.space.grid import Grid
from voxelsam.space.orientation import opposite
from voxelsam.types import Affine

_TYPES = {
    "MET_CHAR": "int8", "MET_UCHAR": "uint8", "MET_SHORT": "int16", "MET_USHORT": "uint16", "MET_INT": "int32",
    "MET_UINT": "uint32", "MET_LONG": "int32", "MET_ULONG": "uint32", "MET_LONG_LONG": "int64",
    "MET_ULONG_LONG": "uint64", "MET_FLOAT": "float32", "MET_DOUBLE": "float64",
}  # fmt: skip
_WRITTEN = {kind: name for name, kind in reversed(_TYPES.items())}
_STARTS = re.compile(rb"\s*(ObjectType|Comment|NDims|ObjectSubType)\s*[=:]")
_MATRIX, _ORIGIN = ("TransformMatrix", "Rotation", "Orientation"), ("Offset", "Position", "Origin")
_STEPS = ("ElementSpacing", "ElementSize")
_CHANNELS = "ElementNumberOfChannels"


def recognises(head: bytes) -> bool:
    """Whether the first bytes are those of a MetaImage header."""
    return _STARTS.match(head) is not None and re.search(rb"(^|\n)\s*NDims\s*[=:]", head) is not None


def parse(path: Path) -> ItkHeader:
    """The header of a file.

    Raises:
        FormatError: SET-03, it is cut off or makes no sense, or asks for something that is not read.
        GeometryError: GEO-05, it gives no usable place.
        InputError: VAL-03, it asks for other values than it stores, and that is not accepted.
    """
    with path.open("rb") as stream:
        fields = _fields(path, stream)
        start = stream.tell()
    if fields.get("ObjectType", "Image") != "Image":
        raise FormatError(f"{path}: a MetaIO file of a {fields['ObjectType'][:40]}, which is no image", code="SET-03")
    (dimension,) = integers(path, "NDims", _needed(path, fields, "NDims"), 1)
    if not 2 <= dimension <= 16:
        raise broken(path, f"{dimension} axes are no image; expected 2 or more")
    sizes = check_sizes(path, integers(path, "DimSize", _needed(path, fields, "DimSize"), dimension))
    (channels,) = check_sizes(path, integers(path, _CHANNELS, fields.get(_CHANNELS, "1"), 1))
    dtype = _dtype(path, fields)
    _check_scaling(path, fields)
    axes = min(dimension, 3)
    affine, remarks = _place(path, fields, dimension)
    lead = () if channels == 1 else (channels,)
    space = tuple(range(len(lead), len(lead) + axes))
    colours = 0 if channels == 3 and dtype == np.uint8 else None
    storage = _storage(path, fields, start)
    return ItkHeader("meta", fields, (*lead, *sizes), dtype, space, colours, affine, storage, remarks)


def text(grid: Grid, dtype: np.dtype[np.generic], channels: int, like: ItkHeader | None, size: int) -> str:
    """The header of a file to be written; its voxels are packed by zlib.

    Args:
        grid: Shape and affine.
        dtype: Type of the numbers, which are stored with the low byte first.
        channels: One, or three for colours, which then vary fastest.
        like: Header of the source. If it has the grid's affine, its geometry is taken over as it is written there.
        size: Bytes of the packed voxels.
    """
    twin = like if like is not None and _is_twin(like, grid) else None
    axes = 3 if twin is None else len(twin.space)
    lines = [
        "ObjectType = Image",
        f"NDims = {axes}",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = True",
        f"CompressedDataSize = {size}",
        *_geometry(grid, twin),
        f"DimSize = {' '.join(map(str, grid.shape[:axes]))}",
        *([] if channels == 1 else [f"{_CHANNELS} = {channels}"]),
        f"ElementType = {_WRITTEN[dtype.name]}",
        "ElementDataFile = LOCAL",
    ]
    return "\n".join(lines) + "\n"


def _geometry(grid: Grid, twin: ItkHeader | None) -> list[str]:
    if twin is not None:
        return [f"{name} = {twin.fields[name]}" for name in (*_MATRIX, *_ORIGIN, *_STEPS) if name in twin.fields]
    steps = np.array(grid.spacing)
    turned = grid.affine[:3] * np.array(LPS)[:, None] + 0.0
    directions = (turned[:, :3] / steps).T.ravel()
    return [
        f"TransformMatrix = {_numbers(directions)}",
        f"Offset = {_numbers(turned[:, 3])}",
        "CenterOfRotation = 0 0 0",
        f"AnatomicalOrientation = {opposite(grid.axes)}",
        f"ElementSpacing = {_numbers(steps)}",
    ]


def _numbers(values: Float64[np.ndarray, " n"]) -> str:
    return " ".join(f"{float(value):.17g}" for value in values)


def _is_twin(like: ItkHeader, grid: Grid) -> bool:
    """Whether a header's own text can say where the grid is, in a file without further axes."""
    flat_or_deep = like.family == "meta" and like.fields["NDims"].strip() in ("2", "3")
    return flat_or_deep and like.shape == grid.shape and np.array_equal(like.affine, grid.affine)


def _fields(path: Path, stream: BinaryIO) -> dict[str, str]:
    fields: dict[str, str] = {}
    while line := stream.readline(HEADER_LIMIT):
        if stream.tell() > HEADER_LIMIT:
            raise broken(path, f"more than {HEADER_LIMIT} bytes of text")
        name, sign, value = line.decode("latin-1").partition("=")
        if not line.strip():
            continue
        if not sign:
            raise broken(path, f"{line[:40]!r} is no field")
        if name.strip() in fields:
            raise broken(path, f"the field {name.strip()[:40]} comes twice")
        fields[name.strip()] = value.strip()
        if name.strip() == "ElementDataFile":
            return fields
    raise broken(path, "it is cut off before the field ElementDataFile")


def _needed(path: Path, fields: Mapping[str, str], name: str) -> str:
    if name not in fields:
        raise broken(path, f"the field {name} is missing")
    return fields[name]


def _true(path: Path, fields: Mapping[str, str], name: str, default: bool) -> bool:
    value = fields.get(name, str(default)).lower()
    if value not in ("true", "false", "1", "0", "t", "f"):
        raise broken(path, f"{name} should be True or False, but is {value[:40]!r}")
    return value in ("true", "1", "t")


def _dtype(path: Path, fields: Mapping[str, str]) -> np.dtype[np.generic]:
    name = _needed(path, fields, "ElementType")
    if name not in _TYPES:
        raise broken(path, f"numbers of the type {name[:40]} are not known")
    named = [key for key in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB") if key in fields]
    orders = {_true(path, fields, key, False) for key in named} or {False}
    if len(orders) > 1:
        raise broken(path, "it states two byte orders")
    return np.dtype(_TYPES[name]).newbyteorder(">" if orders.pop() else "<")


def _check_scaling(path: Path, fields: Mapping[str, str]) -> None:
    slope = floats(path, "slope", fields.get("ElementToIntensityFunctionSlope", "1"), 1)[0]
    offset = floats(path, "offset", fields.get("ElementToIntensityFunctionOffset", "0"), 1)[0]
    if (slope, offset) != (1, 0):
        checks.refuse(
            "VAL-03",
            f"{path}: the header asks for its numbers times {slope:.6g} plus {offset:.6g}, which ITK does not do and "
            "others do; write the values that are meant to a new file, or accept the numbers as they are stored",
            InputError,
        )


def _place(path: Path, fields: Mapping[str, str], dimension: int) -> tuple[Affine, tuple[tuple[str, str], ...]]:
    axes = min(dimension, 3)
    remarks = []
    matrix, origin, steps = np.eye(dimension), np.zeros(dimension), np.ones(dimension)
    stated = {names[0]: next((name for name in names if name in fields), None) for names in (_MATRIX, _ORIGIN, _STEPS)}
    if name := stated["TransformMatrix"]:
        matrix = floats(path, name, fields[name], dimension**2).reshape(dimension, dimension)
    else:
        remarks.append(
            (
                "GEO-05",
                "the header gives no orientation (no TransformMatrix); left and right, front and back are a guess",
            )
        )
    if name := stated["Offset"]:
        origin = floats(path, name, fields[name], dimension)
    if name := stated["ElementSpacing"]:
        steps = floats(path, name, fields[name], dimension)
    if matrix[:axes, axes:].any() or matrix[axes:, :axes].any():
        raise GeometryError(f"{path}: axes run through space and something else at once", code="GEO-05")
    if not (np.isfinite(steps).all() and (steps[:axes] > 0).all()):
        raise GeometryError(
            f"{path}: element spacings {steps.tolist()}; correct them from the scan's source", code="GEO-05"
        )
    if axes == 2:
        remarks = [("GEO-05", "a flat image says nothing about its place; it counts as an axial slice at height 0")]
    rows = matrix[:axes, :axes] * steps[:axes, None]
    return affine_of(path, rows, origin[:axes], LPS), tuple(remarks)


def _storage(path: Path, fields: Mapping[str, str], start: int) -> Storage:
    name = fields["ElementDataFile"]
    packed, binary = _true(path, fields, "CompressedData", False), _true(path, fields, "BinaryData", True)
    (skip,) = integers(path, "HeaderSize", fields.get("HeaderSize", "0"), 1)
    if skip < -1 or (packed and (skip or not binary)):
        raise broken(path, f"HeaderSize {skip}, compressed {packed}, binary {binary}")
    packing: Packing = "zlib" if packed else "raw" if binary else "text"
    if name == "LOCAL":
        return Storage(path, start, packing)
    return Storage(partner(path, name), 0, packing, skip=skip)
