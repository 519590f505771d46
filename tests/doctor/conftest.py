import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import nibabel
import numpy as np
import pytest

SHAPE = (24, 22, 20)


class Folder:
    """A data set in nnU-Net's layout whose files are made one by one, sound or not."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.table: dict[str, Any] = {
            "channel_names": {"0": "MRI"},
            "labels": {"background": 0, "liver": 1, "spleen": 2},
            "file_ending": ".nii.gz",
        }
        for part in ("imagesTr", "labelsTr"):
            (root / part).mkdir(parents=True)
        self.write()

    def write(self, **more: Any) -> None:
        """Writes dataset.json with some keys changed."""
        self.table |= more
        (self.root / "dataset.json").write_text(json.dumps(self.table))

    def image(self, name: str) -> Path:
        return self.root / "imagesTr" / f"{name}_0000.nii.gz"

    def label(self, name: str) -> Path:
        return self.root / "labelsTr" / f"{name}.nii.gz"

    def add(self, name: str, image: np.ndarray | None = None, label: np.ndarray | None = None, **more: Any) -> None:
        """A case; ``image_affine`` and ``label_affine`` place it."""
        seed = crc32(name.encode())
        random = np.random.default_rng(seed)
        if image is None:
            image = random.integers(-900, 900, SHAPE).astype(np.int16)
        if label is None:
            label = drawn()
            label[tuple(random.integers(2, 12, (3, 5)))] = 0
        save(self.image(name), image, more.get("image_affine"))
        save(self.label(name), label, more.get("label_affine"))

    def split(self, *folds: dict[str, list[str]]) -> None:
        (self.root / "splits_final.json").write_text(json.dumps(folds))


def drawn() -> np.ndarray:
    """Two structures."""
    label = np.zeros(SHAPE, np.uint8)
    label[2:12, 2:12, 2:12] = 1
    label[14:20, 4:12, 4:16] = 2
    return label


def save(path: Path, data: np.ndarray, affine: np.ndarray | None = None) -> Path:
    image = nibabel.Nifti1Image(data, np.eye(4) if affine is None else affine, dtype=data.dtype)
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine, 1)
    nibabel.save(image, path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """An empty data set."""
    return Folder(tmp_path / "set")


@pytest.fixture
def sound(folder: Folder) -> Folder:
    """A data set with nothing wrong."""
    for name in ("ada", "bob", "cleo"):
        folder.add(name)
    return folder


@pytest.fixture
def structures() -> Callable[[], np.ndarray]:
    return drawn


@pytest.fixture
def store() -> Callable[..., Path]:
    return save
