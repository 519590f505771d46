from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

OBLIQUE = nibabel.affines.from_matvec(
    nibabel.eulerangles.euler2mat(0.3, -0.2, 0.1) @ np.diag([-0.7, 0.9, 2.5]), [-31.25, 14.5, 102.125]
)
"""Rotated, left-handed, anisotropic, off centre."""

Make = Callable[..., Path]


@pytest.fixture
def oblique() -> np.ndarray:
    return OBLIQUE.copy()


@pytest.fixture
def scan() -> np.ndarray:
    """A small array whose axes cannot be mixed up unnoticed."""
    return np.random.default_rng(4).integers(0, 200, (5, 6, 7)).astype(np.int16)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes a NIfTI file by nibabel, field by field as told, whatever sense it makes."""

    def write(
        data: np.ndarray,
        affine: np.ndarray = OBLIQUE,
        name: str = "scan.nii.gz",
        *,
        sform: int = 1,
        qform: int = 1,
        kind: type = nibabel.Nifti1Image,
        swapped: bool = False,
        **fields: object,
    ) -> Path:
        order = ">" if swapped else "<"
        base = kind.header_class(endianness=order) if swapped else None
        image = kind(data, affine, base, dtype=data.dtype)
        image.set_sform(affine, sform)
        image.set_qform(affine, qform, strip_shears=True)
        path = tmp_path / name
        nibabel.save(image, path)
        if fields:
            _patch(path, fields, kind, order)
        return path

    return write


def _patch(path: Path, fields: dict[str, object], kind: type, order: str) -> None:
    """Overwrites header fields behind nibabel's back."""
    with nibabel.openers.Opener(str(path)) as stream:
        content = stream.read()
    size = kind.header_class().binaryblock.__len__()
    header = kind.header_class(content[:size], endianness=order, check=False)
    for field, value in fields.items():
        header[field] = value
    with nibabel.openers.Opener(str(path), "wb") as stream:
        stream.write(header.binaryblock + content[size:])
