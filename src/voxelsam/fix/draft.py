"""What a file holds, before anybody judges it.

NIfTI files are taken apart here, because their reader refuses just what is to be repaired; everything else comes
through its reader. Values are what the file means: scaled, but neither rounded nor replaced.
"""

import gzip
import math
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError

from voxelsam import checks, formats
from voxelsam.errors import FormatError, GeometryError
from voxelsam.space.grid import Grid
from voxelsam.types import Affine
from voxelsam.volumes import Kind

Role = Literal["image", "label"]
Array = np.ndarray[Any, Any]

_GZIP = b"\x1f\x8b"
_COLOURS = ("R", "G", "B")
_DEFLATE_LIMIT = 1100
"""gzip never packs more bytes than this into one."""
_LENGTH_2 = {Nifti2Header.sizeof_hdr.to_bytes(4, "little"), Nifti2Header.sizeof_hdr.to_bytes(4, "big")}
_PLAIN = {2, 4, 8, 16, 64, 128, 256, 512, 768, 1024, 1280}
"""Codes of integers, of floating point with 32 and 64 bits, and of red, green and blue."""


@dataclass(frozen=True, eq=False)
class Draft:
    """An image or label map on its way to a repaired file."""

    path: Path
    role: Role
    data: Array
    """``channels i j k``; volumes of a fourth axis and colours count as channels."""
    affine: Affine | None
    """Index to millimetres, RAS+; None where the file says nothing usable."""
    oriented: bool = True
    """Whether the file says which way the patient lies."""
    sform: Affine | None = None
    qform: Affine | None = None
    sizes: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Voxel sizes as the header states them."""
    colours: bool = False
    """Whether the channels are red, green and blue."""
    split: bool = False
    """Whether each channel gets a file of its own."""
    kind: Kind = "UNKNOWN"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along i, j, k."""
        i, j, k = self.data.shape[1:]
        return i, j, k

    @property
    def grid(self) -> Grid:
        """Where the voxels are.

        Raises:
            GeometryError: GEO-05, nothing usable is known.
        """
        if self.affine is None:
            raise GeometryError(
                f"{self.path}: nothing usable says where the voxels are; give --spacing and --axes", code="GEO-05"
            )
        return Grid(self.shape, self.affine)


def draft(path: Path, role: Role, accept: Collection[str] = ()) -> Draft:
    """What a file, or the folder of a DICOM series, holds.

    Args:
        path: the file.
        role: what it is taken for.
        accept: codes that its reader passes over in its own way, if it is not NIfTI.

    Raises:
        FormatError: SET-01 or SET-03, it cannot be read at all.
        InputError: as its reader, for what cannot be repaired.
    """
    if formats.family(path) == "nifti" and (found := _nifti(path, role)):
        return found
    with checks.watching(accept):
        volume = formats.read_numbers(path) if role == "label" else formats.read(path)
    return Draft(
        path,
        role,
        volume.data,
        volume.grid.affine,
        sizes=volume.grid.spacing,
        colours=volume.kind == "PICTURE" and volume.channels == 3,
        kind=volume.kind,
    )


def _nifti(path: Path, role: Role) -> Draft | None:
    """None for what the reader must judge: pairs of files, and voxels that are no plain numbers or colours."""
    formats.frames(path)
    with path.open("rb") as start:
        packed = start.read(2) == _GZIP
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as stream:
            block = stream.read(Nifti2Header.sizeof_hdr)
            kind: Any = Nifti2Header if block[:4] in _LENGTH_2 else Nifti1Header
            header = kind(block[: kind.sizeof_hdr], check=False)
            if int(header["datatype"]) not in _PLAIN or not bytes(header["magic"].item()).startswith(b"n+"):
                return None
            stored = _stored(stream, path, header, packed)
        data = _scaled(stored, header)
    except (OSError, EOFError, zlib.error, HeaderDataError) as error:
        raise FormatError(f"{path}: cut off or damaged ({error}); fetch or export it again", code="SET-03") from None
    sform, qform = _sform(header), _qform(header)
    return Draft(
        path,
        role,
        data,
        _affine(header, sform, qform),
        oriented=sform is not None or qform is not None,
        sform=sform,
        qform=qform,
        sizes=_sizes(header),
        colours=stored.dtype.names is not None,
    )


def _stored(stream: Any, path: Path, header: Any, packed: bool) -> Array:
    """Voxels as stored, ``channels i j k``; a structured type for colours."""
    sizes = [int(size) for size in header["dim"][1 : int(header["dim"][0]) + 1]]
    shape = (*sizes[:3], *(1 for _ in range(3 - len(sizes))))
    volumes = math.prod(sizes[3:])
    dtype = header.get_data_dtype()
    wanted = math.prod(shape) * volumes * dtype.itemsize
    offset = float(header["vox_offset"])
    if not len(header.binaryblock) <= offset < np.inf:
        raise FormatError(f"{path}: voxels cannot start at byte {offset} of the file", code="SET-03")
    most = path.stat().st_size * (_DEFLATE_LIMIT if packed else 1)
    content = b""
    if offset + wanted <= most:
        stream.seek(int(offset))
        content = stream.read(wanted)
    if len(content) < wanted:
        raise FormatError(
            f"{path}: cut off ({len(content)} of {wanted} bytes of voxels are there); fetch or export it again",
            code="SET-03",
        )
    data = np.frombuffer(content, dtype).reshape((*shape, volumes), order="F")
    if not dtype.names:
        data = data.astype(dtype.newbyteorder("="), copy=False)
    return np.moveaxis(data, 3, 0)


def _scaled(stored: Array, header: Any) -> Array:
    if stored.dtype.names:
        return np.concatenate([stored[colour] for colour in _COLOURS])
    slope, intercept = header.get_slope_inter()
    if slope is None or (slope, intercept) == (1.0, 0.0):
        return stored
    scaled: Array = stored.astype(np.float64) * slope + intercept
    return scaled


def _sform(header: Any) -> Affine | None:
    affine = np.asarray(header.get_sform(), np.float64)
    return affine if int(header["sform_code"]) > 0 and _usable(affine) else None


def _qform(header: Any) -> Affine | None:
    if int(header["qform_code"]) <= 0:
        return None
    try:
        affine = np.asarray(header.get_qform(), np.float64)
    except (HeaderDataError, ValueError):
        return None
    return affine if _usable(affine) else None


def _affine(header: Any, sform: Affine | None, qform: Affine | None) -> Affine | None:
    if sform is not None:
        return sform
    if qform is not None:
        return qform
    sizes = _sizes(header)
    return np.asarray(header.get_base_affine(), np.float64) if min(sizes) > 0 and np.isfinite(sizes).all() else None


def _sizes(header: Any) -> tuple[float, float, float]:
    i, j, k = (float(size) for size in header["pixdim"][1:4])
    return i, j, k


def _usable(affine: Affine) -> bool:
    try:
        Grid((1, 1, 1), affine)
    except GeometryError:
        return False
    return True
