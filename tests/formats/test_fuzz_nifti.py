"""NIfTI files with wrong bytes: a volume or one of our errors, within bounded memory and time; nothing else.

Derandomised, so that the same files are tried every time; ``VOXELSAM_FUZZ=5000`` tries more of them.
"""

import gzip
import os
import struct
import time
import tracemalloc
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voxelsam.errors import FormatError, InputWarning, VoxelSamError
from voxelsam.formats import frames, read, read_labels, read_numbers
from voxelsam.volumes import LabelMap, Volume

EXAMPLES = int(os.environ.get("VOXELSAM_FUZZ", "120"))
fuzzing = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

LIMIT = 32 << 20
"""Bytes that reading a file of a few kilobytes may take."""
SECONDS = 5.0
"""That reading one may take."""

NUMBERS = st.one_of(
    st.sampled_from([0, 1, -1, 2, 3, 4, 7, 8, 127, 128, 255, 256, 32767, -32768]), st.integers(-32768, 32767)
)
FLOATS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, 1e38, -1e38, float("nan"), float("inf"), -float("inf"), 352.0]),
    st.floats(width=32),
)


def seed(kind: type, packed: bool, shape: tuple[int, ...] = (4, 5, 6)) -> bytes:
    data = np.random.default_rng(3).integers(0, 3, shape).astype(np.int16)
    image = kind(data, np.diag([0.9, 1.1, 3, 1]))
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine, 1)
    content: bytes = image.to_bytes()
    return gzip.compress(content, mtime=0) if packed else content


def header(content: bytes, packed: bool, kind: type, changes: dict[str, object]) -> bytes:
    """The file with other values in some fields of its header."""
    plain = gzip.decompress(content) if packed else content
    length = kind.header_class.sizeof_hdr
    fields = kind.header_class(plain[:length], check=False)
    for name, value in changes.items():
        with np.errstate(all="ignore"):
            if isinstance(value, tuple):
                place, one = value
                fields[name][place % fields[name].size] = one
            else:
                fields[name] = value
    changed = fields.binaryblock + plain[length:]
    return gzip.compress(changed, mtime=0) if packed else changed


def survives(path: Path) -> None:
    """Reads as image, numbers and labels: a sound result, or one of our errors; little memory, little time."""
    for reader in (frames, read, read_numbers, read_labels):
        tracemalloc.start()
        begin = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                warnings.simplefilter("ignore", InputWarning)
                result = reader(path)
        except VoxelSamError as error:
            result = error
        finally:
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        if isinstance(result, VoxelSamError):
            assert str(path) in str(result)
        if isinstance(result, Volume):
            assert np.isfinite(result.data).all()
            assert result.data.shape[1:] == result.grid.shape
        if isinstance(result, LabelMap):
            assert not result.labels.unexpected(result.data)
        assert most < LIMIT, (reader, most)
        assert time.perf_counter() - begin < SECONDS


kinds = st.sampled_from([nib.Nifti1Image, nib.Nifti2Image])


FIELDS = (
    "dim", "pixdim", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "vox_offset",
    "scl_slope", "scl_inter", "datatype", "bitpix", "sform_code", "qform_code", "intent_code", "xyzt_units",
)  # fmt: skip
LISTS = {"dim": 1, "pixdim": 2, "srow_x": 2, "srow_y": 2, "srow_z": 2}
WHOLE = {"datatype", "bitpix", "sform_code", "qform_code", "intent_code"}


@fuzzing
@given(
    kinds,
    st.booleans(),
    st.dictionaries(st.sampled_from(FIELDS), st.tuples(st.integers(0, 7), NUMBERS, FLOATS), min_size=1, max_size=4),
)
def test_header_fields_of_any_value(
    tmp_path: Path, kind: type, packed: bool, changes: dict[str, tuple[int, int, float]]
) -> None:
    values: dict[str, object] = {}
    for name, (place, number, fraction) in changes.items():
        if name in LISTS:
            values[name] = (place, number if LISTS[name] == 1 else fraction)
        elif name == "xyzt_units":
            values[name] = number % 128
        elif name in WHOLE:
            values[name] = number
        else:
            values[name] = float(abs(number)) if name == "vox_offset" and kind is nib.Nifti2Image else fraction
    path = tmp_path / "scan.nii"
    path.write_bytes(header(seed(kind, packed), packed, kind, values))
    survives(path)


@fuzzing
@given(kinds, st.booleans(), st.integers(0, 700))
def test_files_that_end_too_early(tmp_path: Path, kind: type, packed: bool, length: int) -> None:
    content = seed(kind, packed)
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(content[: min(length, len(content) - 1)])
    survives(path)
    with pytest.raises(FormatError) as caught:
        read(path)
    assert caught.value.code == "SET-03"


@fuzzing
@given(kinds, st.booleans(), st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 255)), min_size=1, max_size=8))
def test_bytes_of_any_value(tmp_path: Path, kind: type, packed: bool, changes: list[tuple[int, int]]) -> None:
    content = bytearray(seed(kind, packed))
    for place, value in changes:
        content[place % len(content)] = value
    path = tmp_path / "scan.nii"
    path.write_bytes(content)
    survives(path)


@fuzzing
@given(st.binary(max_size=600), st.sampled_from([b"", struct.pack("<i", 348), struct.pack(">i", 540), b"\x1f\x8b\x08"]))
def test_anything_behind_a_familiar_beginning(tmp_path: Path, content: bytes, start: bytes) -> None:
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(start + content)
    survives(path)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("shape", [(30000, 30000, 30000), (32767, 32767, 1), (512, 512, 600)])
def test_a_header_that_lies_about_its_size_allocates_nothing(
    tmp_path: Path, packed: bool, shape: tuple[int, int, int]
) -> None:
    dim = {place: (place, size) for place, size in enumerate(shape, 1)}
    content = seed(nib.Nifti1Image, packed)
    for one in dim.values():
        content = header(content, packed, nib.Nifti1Image, {"dim": one})
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(content)
    survives(path)
    with pytest.raises(FormatError, match="cut off"):
        read(path)


def test_many_volumes_in_a_small_file_are_counted_before_they_are_believed(tmp_path: Path) -> None:
    content = seed(nib.Nifti1Image, False)
    for one in ((0, 7), (4, 32767), (5, 32767), (6, 32767), (7, 32767)):
        content = header(content, False, nib.Nifti1Image, {"dim": one})
    path = tmp_path / "scan.nii"
    path.write_bytes(content)
    survives(path)
    with pytest.raises(VoxelSamError):
        read(path, frame=0)


def test_zeros_that_gzip_packs_well_are_read_only_as_far_as_the_header_says(tmp_path: Path) -> None:
    """100 MB of zeros behind a small scan are 100 kB on disk; they are passed by, not held."""
    content = gzip.decompress(seed(nib.Nifti1Image, True)) + bytes(100 << 20)
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(content, compresslevel=9, mtime=0))
    assert path.stat().st_size < 1 << 20
    survives(path)
    assert read(path).grid.shape == (4, 5, 6)
