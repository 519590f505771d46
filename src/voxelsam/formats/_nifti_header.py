"""Where a NIfTI file says its voxels are: sform first, then qform, spacing from the affine only.

A NIfTI header can state its geometry three times: as an affine (sform), as a rotation (qform) and as voxel sizes
(pixdim). Programs differ in which they believe, so contradictions are reported here, once, with the file's name.
"""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError

from voxelsam import checks
from voxelsam.errors import FormatError, GeometryError, InputError
from voxelsam.formats._files import unpacked
from voxelsam.formats._values import PLAUSIBLE_MM, SHEAR, sheared
from voxelsam.space.grid import Grid
from voxelsam.types import Affine
from voxelsam.volumes.pair import TOLERANCE_MM

CLASSES: dict[int, Any] = {348: Nifti1Header, 540: Nifti2Header}
"""Header class of each header length."""

MAGICS = {b"n+1": "single", b"n+2": "single", b"ni1": "pair", b"ni2": "pair"}

_UNITS = {1: "metres", 3: "micrometres"}
_COPIED = (
    "pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y",
    "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units",
)  # fmt: skip


def header_length(head: bytes) -> tuple[int, str] | None:
    """Length of a NIfTI or Analyze header and its byte order (``<`` or ``>``), or None for other files."""
    start = unpacked(head)[:4]
    for order, name in (("<", "little"), (">", "big")):
        length = int.from_bytes(start, "little" if name == "little" else "big")
        if len(start) == 4 and length in CLASSES:
            return length, order
    return None


def parse(path: Path, stream: BinaryIO, head: bytes) -> Any:
    """The header at the start of a stream.

    Raises:
        FormatError: SET-03, the header is cut off, or it is no header of a NIfTI volume.
    """
    found = header_length(head)
    if found is None:
        raise FormatError(f"{path}: not a NIfTI file", code="SET-03")
    length, order = found
    block = stream.read(length)
    if len(block) < length:
        raise FormatError(f"{path}: ends within its header, after {len(block)} of {length} bytes", code="SET-03")
    header = CLASSES[length](block, endianness=order, check=False)
    if bytes(header["magic"].item())[:3] not in MAGICS:
        raise FormatError(
            f"{path}: an Analyze 7.5 header, which says nothing about orientation; convert the scan to NIfTI from "
            "its source",
            code="SET-03",
        )
    intent = int(header["intent_code"])
    if 3000 <= intent < 3100:
        raise FormatError(f"{path}: a CIFTI file (intent {intent}) holds connectivity, not voxels", code="SET-03")
    return header


def is_pair(header: Any) -> bool:
    """Whether the voxels are in a file of their own."""
    return MAGICS[bytes(header["magic"].item())[:3]] == "pair"


def shape_of(path: Path, header: Any) -> tuple[int, ...]:
    """Voxels along all axes, at least three; a missing third axis counts one slice.

    Raises:
        FormatError: SET-03, the counts make no sense.
    """
    count, *sizes = (int(size) for size in header["dim"])
    if not 1 <= count <= 7 or min(sizes[:count]) < 1:
        raise FormatError(f"{path}: the header says {count} axes of {sizes} voxels, which is no image", code="SET-03")
    return (*sizes[:count], *(1 for _ in range(3 - count)))


def affine_of(path: Path, header: Any) -> Affine:
    """Affine that counts: the sform if its code is set, else the qform, else voxel sizes only.

    Raises:
        GeometryError: GEO-05, a voxel size that is needed is zero or negative, or the rotation is broken.
    """
    if int(header["sform_code"]) > 0:
        return np.asarray(header.get_sform(), np.float64)
    if int(header["qform_code"]) > 0:
        return _qform(path, header)
    sizes = header["pixdim"][1:4]
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise GeometryError(
            f"{path}: the header has no orientation, and voxel sizes {sizes.tolist()}; correct it from the scan's "
            "source",
            code="GEO-05",
        )
    return np.asarray(header.get_base_affine(), np.float64)


def grid_of(path: Path, header: Any) -> Grid:
    """The lattice of a header, without its warnings.

    Raises:
        GeometryError: GEO-05, there is no usable geometry.
    """
    try:
        i, j, k = shape_of(path, header)[:3]
        return Grid((i, j, k), affine_of(path, header))
    except GeometryError as error:
        message = str(error) if str(path) in str(error) else f"{path}: {error}"
        raise GeometryError(message, code="GEO-05") from None


def warn_about(path: Path, header: Any, grid: Grid) -> None:
    """Says what is odd about the geometry: GEO-03 shear, GEO-04 contradiction, GEO-05 nothing, GEO-08 sizes."""
    for code, message in filter(None, (_orientation(path, header, grid), _shear(grid), _sizes(header, grid))):
        checks.notice(code, f"{path}: {message}", stacklevel=5)


def header_for(path: Path, grid: Grid, like: Any, dtype: np.dtype[Any]) -> Any:
    """A header for writing an array on a grid.

    Args:
        path: The file to be written, for messages.
        grid: Shape and affine.
        like: Header of the source. If it has the grid's affine, all its geometry fields are taken over unchanged; no
            other field is, so that no text about the patient travels along.
        dtype: Type of the voxels.
    """
    twin = like is not None and np.array_equal(affine_of(path, like), grid.affine)
    large = max(grid.shape) > np.iinfo(np.int16).max
    header = type(like)() if twin and not large else CLASSES[540 if large else 348]()
    header.set_data_shape(grid.shape)
    header.set_data_dtype(dtype)
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["vox_offset"] = header.single_vox_offset
    if twin:
        for field in _COPIED:
            header[field] = like[field]
        header["pixdim"][4:] = 1
    else:
        header.set_xyzt_units("mm")
        header.set_sform(grid.affine, code=1)
        header.set_qform(grid.affine, code=1, strip_shears=True)
    if grid.shear > SHEAR:
        header["qform_code"] = 0
    return header


def _qform(path: Path, header: Any) -> Affine:
    try:
        return np.asarray(header.get_qform(), np.float64)
    except (HeaderDataError, ValueError) as error:
        raise GeometryError(f"{path}: the qform cannot be used ({error})", code="GEO-05") from None


def _orientation(path: Path, header: Any, grid: Grid) -> tuple[str, str] | None:
    """Code and text of what is odd, as in the functions below."""
    has_sform, has_qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    if not has_sform and not has_qform:
        return "GEO-05", (
            "the header gives no orientation (sform and qform codes are 0); left and right, front and back "
            "are a guess, and so is the position"
        )
    if has_sform and has_qform:
        try:
            apart = grid.displacement(Grid(grid.shape, _qform(path, header)))
        except InputError as error:
            return "GEO-04", f"the sform is used; {error}"
        if apart > TOLERANCE_MM:
            return "GEO-04", (
                f"sform and qform differ by up to {apart:.3g} mm; the sform is used, other programs may not"
            )
        return None
    sizes = np.asarray(header["pixdim"][1:4], np.float64)
    apart = float(np.max(np.abs(sizes - grid.spacing) * (np.array(grid.shape) - 1)))
    if has_sform and not apart <= TOLERANCE_MM:
        return "GEO-04", (
            f"voxel sizes {_sizes_text(sizes)} contradict the sform, whose columns are "
            f"{_sizes_text(np.array(grid.spacing))} long; the sform is used"
        )
    return None


def _shear(grid: Grid) -> tuple[str, str] | None:
    if grid.shear <= SHEAR:
        return None
    return "GEO-03", sheared(grid)


def _sizes(header: Any, grid: Grid) -> tuple[str, str] | None:
    unit = _UNITS.get(int(header["xyzt_units"]) & 7)
    if unit is not None:
        return "GEO-08", f"the header counts in {unit}; its numbers are taken as mm"
    low, high = PLAUSIBLE_MM
    if min(grid.spacing) < low or max(grid.spacing) > high:
        return "GEO-08", f"a voxel spacing of {_sizes_text(np.array(grid.spacing))} is unusual; check the unit"
    return None


def _sizes_text(sizes: np.ndarray[Any, Any]) -> str:
    return " × ".join(f"{size:.4g}" for size in sizes) + " mm"
