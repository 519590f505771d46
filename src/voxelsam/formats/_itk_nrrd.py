"""The header of NRRD files, attached (``.nrrd``) or on its own (``.nhdr``).

Every axis of an NRRD has a direction in space, or none: then it counts frames or colours. ``kinds`` says more. A file
without directions has spacings at most, and lies where nobody knows.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float64

from voxelsam.errors import FormatError, GeometryError, InputError
from voxelsam.formats._itk_header import (
    HEADER_LIMIT,
    LPS,
    ItkHeader,
    Packing,
    Rows,
    Storage,
    affine_of,
    broken,
    check_sizes,
    floats,
    integers,
    partner,
)
from voxelsam.space.grid import Grid
from voxelsam.types import Affine

MAGIC = b"NRRD000"

_TYPES = {
    "int8": "signed char, int8, int8_t",
    "uint8": "uchar, unsigned char, uint8, uint8_t",
    "int16": "short, short int, signed short, signed short int, int16, int16_t",
    "uint16": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "int32": "int, signed int, int32, int32_t",
    "uint32": "uint, unsigned int, uint32, uint32_t",
    "int64": "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t",
    "uint64": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "float32": "float",
    "float64": "double",
}
_NAMED = {name: kind for kind, names in _TYPES.items() for name in names.split(", ")}
_WRITTEN = {
    "int8": "int8", "uint8": "unsigned char", "int16": "short", "uint16": "unsigned short", "int32": "int",
    "uint32": "unsigned int", "int64": "long long int", "uint64": "unsigned long long int", "float32": "float",
    "float64": "double",
}  # fmt: skip
_PACKINGS: dict[str, Packing] = {
    "raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2", "ascii": "text", "text": "text",
    "txt": "text",
}  # fmt: skip
_SPACES = {
    "rightanteriorsuperior": (1.0, 1.0, 1.0), "ras": (1.0, 1.0, 1.0), "leftanteriorsuperior": (-1.0, 1.0, 1.0),
    "las": (-1.0, 1.0, 1.0), "leftposteriorsuperior": LPS, "lps": LPS,
}  # fmt: skip
_NO_PATIENT = ("scannerxyz", "3drighthanded", "3dlefthanded")
_THROUGH_SPACE = ("domain", "space", "none", "???", "")
_THREE_NUMBERS = ("rgb-color", "3-color", "vector", "3-vector")
_REFUSED = {
    "complex": "complex numbers; write magnitude or phase to a file",
    "rgba-color": "colours with transparency; write red, green and blue only",
    "4-color": "colours with transparency; write red, green and blue only",
    "hsv-color": "colours that are not red, green and blue",
    "xyz-color": "colours that are not red, green and blue",
}
_COPIED = {"space": "space", "spacedimension": "space dimension"}


def parse(path: Path) -> ItkHeader:
    """The header of a file.

    Raises:
        FormatError: SET-03, it is cut off or makes no sense, or asks for something that is not read.
        GeometryError: GEO-05, it gives no usable place.
        InputError: VAL-05, complex numbers, or colours that are not 8 bits of red, green and blue.
    """
    with path.open("rb") as stream:
        fields, keys, ended = _fields(path, stream)
        start = stream.tell()
    (dimension,) = integers(path, "dimension", _needed(path, fields, "dimension"), 1)
    if not 1 <= dimension <= 16:
        raise broken(path, f"{dimension} axes")
    sizes = check_sizes(path, integers(path, "sizes", _needed(path, fields, "sizes"), dimension))
    kinds = _kinds(path, fields, dimension)
    dtype = _dtype(path, fields)
    space, affine, remarks = _place(path, fields, kinds, dimension)
    colours = _colours(path, sizes, kinds, space, dtype)
    storage = _storage(path, fields, start, ended)
    return ItkHeader("nrrd", fields, sizes, dtype, space, colours, affine, storage, remarks, keys)


def text(
    grid: Grid, dtype: np.dtype[np.generic], channels: int, like: ItkHeader | None, keys: Mapping[str, str]
) -> str:
    """The header of a file to be written, up to the blank line; its voxels are packed by gzip.

    Args:
        grid: Shape and affine.
        dtype: Type of the numbers, which are stored with the low byte first.
        channels: One, or three for colours, which then are the first axis.
        like: Header of the source. If it has the grid's affine, its geometry is taken over as it is written there.
        keys: Key/value pairs.
    """
    twin = like if like is not None and _is_twin(like, grid) else None
    axes = 3 if twin is None else len(twin.space)
    lead = ["3"] if channels == 3 else []
    lines = [
        "NRRD0005" if keys else "NRRD0004",
        "# Complete NRRD file format specification at:",
        "# http://teem.sourceforge.net/nrrd/format.html",
        f"type: {_WRITTEN[dtype.name]}",
        f"dimension: {len(lead) + axes}",
        f"sizes: {' '.join([*lead, *map(str, grid.shape[:axes])])}",
        *_geometry(grid, twin, bool(lead)),
        f"kinds: {' '.join([*(['RGB-color'] if lead else []), *['domain'] * axes])}",
        "endian: little",
        "encoding: gzip",
        *(f"{key}:={_escaped(value)}" for key, value in keys.items()),
    ]
    return "\n".join(lines) + "\n\n"


def _geometry(grid: Grid, twin: ItkHeader | None, colours: bool) -> list[str]:
    none = ["none"] if colours else []
    if twin is None:
        turned = grid.affine[:3] * np.array(LPS)[:, None] + 0.0
        directions = [_vector(turned[:, axis]) for axis in range(3)]
        return [
            "space: left-posterior-superior",
            f"space directions: {' '.join([*none, *directions])}",
            f"space origin: {_vector(turned[:, 3])}",
        ]
    lines = [f"{name}: {twin.fields[key]}" for key, name in _COPIED.items() if key in twin.fields]
    if "spacedirections" in twin.fields:
        stated = _vectors(twin.fields["spacedirections"])
        lines.append(f"space directions: {' '.join([*none, *(stated[axis] for axis in twin.space)])}")
    if "spaceorigin" in twin.fields:
        lines.append(f"space origin: {twin.fields['spaceorigin']}")
    if "spacings" in twin.fields and "spacedirections" not in twin.fields:
        stated = twin.fields["spacings"].split()
        lines.append(f"spacings: {' '.join([*(['NaN'] if colours else []), *(stated[axis] for axis in twin.space)])}")
    return lines


def _is_twin(like: ItkHeader, grid: Grid) -> bool:
    """Whether a header's own text can say where the grid is, in a file without further axes."""
    if like.family != "nrrd" or like.shape != grid.shape or not np.array_equal(like.affine, grid.affine):
        return False
    stated = [vector for vector in _vectors(like.fields.get("spacedirections", "")) if vector != "none"]
    return all(len(vector.split(",")) == len(like.space) for vector in stated)


def _vector(numbers: Float64[np.ndarray, "3"]) -> str:
    return f"({','.join(f'{float(number):.17g}' for number in numbers)})"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", " ")


def _unescaped(value: str) -> str:
    return re.sub(r"\\([\\n])", lambda found: "\n" if found[1] == "n" else "\\", value)


def _fields(path: Path, stream: BinaryIO) -> tuple[dict[str, str], dict[str, str], bool]:
    """Fields (names without blanks, lower case), key/value pairs, and whether a blank line ended them."""
    magic = stream.readline(HEADER_LIMIT).rstrip()
    if not (magic.startswith(MAGIC) and magic[len(MAGIC) :] in (b"1", b"2", b"3", b"4", b"5", b"6")):
        raise FormatError(f"{path}: begins with {magic[:16]!r}, which is no NRRD of versions 1 to 6", code="SET-03")
    fields: dict[str, str] = {}
    keys: dict[str, str] = {}
    while line := stream.readline(HEADER_LIMIT):
        if stream.tell() > HEADER_LIMIT:
            raise broken(path, f"more than {HEADER_LIMIT} bytes of text")
        content = _decoded(line).rstrip("\r\n")
        if not content:
            return fields, keys, True
        if content.startswith("#"):
            continue
        found = re.match(r"([^:]+):(=|\s)(.*)", content)
        if found is None:
            raise broken(path, f"{content[:40]!r} is no field")
        if found[2] == "=":
            keys[_unescaped(found[1])] = _unescaped(found[3])
            continue
        name = found[1].lower().replace(" ", "")
        if name in fields:
            raise broken(path, f"the field {found[1]!r} comes twice")
        fields[name] = found[3].strip()
    return fields, keys, False


def _decoded(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")


def _needed(path: Path, fields: Mapping[str, str], name: str) -> str:
    if name not in fields:
        raise broken(path, f"the field {name!r} is missing")
    return fields[name]


def _dtype(path: Path, fields: Mapping[str, str]) -> np.dtype[np.generic]:
    name = _needed(path, fields, "type").lower()
    if name not in _NAMED:
        raise broken(path, f"numbers of the type {name[:40]!r} are not known")
    dtype: np.dtype[np.generic] = np.dtype(_NAMED[name])
    order = fields.get("endian", "").lower()
    if dtype.itemsize == 1 or _PACKINGS.get(_needed(path, fields, "encoding").lower()) == "text":
        return dtype
    if order not in ("little", "big"):
        raise broken(path, f"the byte order should be little or big, but is {order[:40]!r}")
    return dtype.newbyteorder("<" if order == "little" else ">")


def _kinds(path: Path, fields: Mapping[str, str], dimension: int) -> list[str]:
    kinds = fields.get("kinds", "").lower().split() or [""] * dimension
    if len(kinds) != dimension:
        raise broken(path, f"{dimension} axes, but {len(kinds)} kinds")
    return kinds


def _vectors(text: str) -> list[str]:
    return [found.replace(" ", "") for found in re.findall(r"none|\([^()]*\)", text.lower())]


def _place(
    path: Path, fields: Mapping[str, str], kinds: Sequence[str], dimension: int
) -> tuple[tuple[int, ...], Affine, tuple[tuple[str, str], ...]]:
    """Axes through space, the affine, and what is odd about it."""
    signs, remarks = _space(path, fields)
    if "spacedirections" in fields:
        space, rows = _directions(path, fields["spacedirections"], dimension)
        origin = np.zeros(rows.shape[1])
        if "spaceorigin" in fields:
            stated = fields["spaceorigin"].strip().removeprefix("(").removesuffix(")").replace(",", " ")
            origin = floats(path, "space origin", stated)[: rows.shape[1]]
            if len(origin) != rows.shape[1]:
                raise broken(path, f"a space origin of {len(origin)} numbers beside directions of {rows.shape[1]}")
        else:
            remarks.append(("GEO-05", "the header gives no position; the first voxel counts as 0, 0, 0"))
    else:
        space = tuple(axis for axis, kind in enumerate(kinds) if kind in _THROUGH_SPACE)[:3]
        rows, origin = _spacings(path, fields, space, dimension), np.zeros(3)
        remarks = [(
            "GEO-05", "the header gives no orientation (no space directions); left and right, front and back are a "
            "guess, and so is the position",
        )]  # fmt: skip
    if len(space) not in (2, 3):
        raise FormatError(f"{path}: {len(space)} axes through space are no image; expected 2 or 3", code="SET-03")
    if rows.shape[1] == 2:
        remarks = [("GEO-05", "a flat image says nothing about its place; it counts as an axial slice at height 0")]
    units = set(re.findall(r'"([^"]*)"', fields.get("spaceunits", "")))
    if units - {"mm", "millimeter", "millimetre", "???", ""}:
        remarks.append(("GEO-08", f"the header counts in {', '.join(sorted(units))}; its numbers are taken as mm"))
    return space, affine_of(path, rows, origin, signs), tuple(remarks)


def _space(path: Path, fields: Mapping[str, str]) -> tuple[tuple[float, float, float], list[tuple[str, str]]]:
    name = re.sub(r"[-\s]", "", fields.get("space", "").lower())
    bare = name.removesuffix("time")
    if bare in (*_SPACES, "rast", "last", "lpst"):
        return _SPACES[bare if bare in _SPACES else bare.removesuffix("t")], []
    if name and bare not in _NO_PATIENT:
        raise GeometryError(f"{path}: the space {fields['space'][:40]!r} is not known", code="GEO-05")
    what = f"the space of the header is {fields['space']}" if name else "the header names no space"
    return LPS, [("GEO-05", f"{what}, which does not say where left and right are; it is taken as LPS, as ITK does")]


def _directions(path: Path, text: str, dimension: int) -> tuple[tuple[int, ...], Rows]:
    stated = _vectors(text)
    if len(stated) != dimension:
        raise broken(path, f"{dimension} axes, but {len(stated)} space directions")
    vectors = {
        axis: floats(path, "space directions", vector.strip("()").replace(",", " "))
        for axis, vector in enumerate(stated)
        if vector != "none"
    }
    lengths = {len(vector) for vector in vectors.values()}
    if not vectors or len(lengths) > 1 or not lengths <= {2, 3, 4}:
        raise broken(path, f"space directions {text[:80]!r}")
    if lengths == {4}:
        mixed = [axis for axis, vector in vectors.items() if vector[:3].any() and vector[3]]
        if mixed:
            raise GeometryError(f"{path}: axis {mixed[0]} runs through space and time at once", code="GEO-05")
        vectors = {axis: vector[:3] for axis, vector in vectors.items() if not vector[3]}
    if len(vectors) not in (2, 3):
        raise FormatError(f"{path}: {len(vectors)} axes through space are no image; expected 2 or 3", code="SET-03")
    return tuple(vectors), np.array(list(vectors.values()))


def _spacings(path: Path, fields: Mapping[str, str], space: Sequence[int], dimension: int) -> Rows:
    steps = np.ones(len(space))
    if "spacings" in fields:
        steps = floats(path, "spacings", fields["spacings"], dimension)[list(space)]
    if not (np.isfinite(steps).all() and (steps > 0).all()):
        raise GeometryError(
            f"{path}: the header has no orientation, and spacings {steps.tolist()}; correct it from the scan's source",
            code="GEO-05",
        )
    return np.diag(np.append(steps, [1.0] * (3 - len(steps))))[: len(steps)]


def _colours(
    path: Path, sizes: Sequence[int], kinds: Sequence[str], space: Sequence[int], dtype: np.dtype[np.generic]
) -> int | None:
    """The axis of red, green and blue; three bytes called a vector are colours, as ITK writes them."""
    for axis in set(range(len(sizes))) - set(space):
        if kinds[axis] in _REFUSED:
            raise InputError(f"{path}: its voxels are {_REFUSED[kinds[axis]]}", code="VAL-05")
        if sizes[axis] == 3 and kinds[axis] in _THREE_NUMBERS:
            if dtype == np.uint8:
                return axis
            if kinds[axis].endswith("color"):
                raise InputError(f"{path}: colours of {dtype}; store colours with 8 bits", code="VAL-05")
    return None


def _storage(path: Path, fields: Mapping[str, str], start: int, ended: bool) -> Storage:
    encoding = fields["encoding"].lower() if "encoding" in fields else _needed(path, fields, "encoding")
    if encoding not in _PACKINGS:
        raise FormatError(f"{path}: voxels packed as {encoding[:40]!r} are not read; export as gzip", code="SET-03")
    (lines,) = integers(path, "line skip", fields.get("lineskip", "0"), 1)
    (skip,) = integers(path, "byte skip", fields.get("byteskip", "0"), 1)
    if lines < 0 or skip < -1 or lines > HEADER_LIMIT:
        raise broken(path, f"line skip {lines}, byte skip {skip}; the least byte skip is -1")
    name = fields.get("datafile")
    if name is None and not ended:
        raise broken(path, "it is cut off before the blank line that ends it, and names no data file")
    if name is None:
        return Storage(path, start, _PACKINGS[encoding], lines, skip)
    return Storage(partner(path, name), 0, _PACKINGS[encoding], lines, skip)
