"""What every layout owes: a fabricated miniature yields cases that can be used.

A new layout brings its miniature, ``miniatures/<layout>.py`` with ``make(root)`` (which may return the path to open,
where that is not the root itself); without one its tests fail.
"""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from voxelsam import plugins
from voxelsam.formats import read_channels, write_labels, write_volume
from voxelsam.layouts import Dataset, Split, open_dataset, read_label, recognising
from voxelsam.space.grid import Grid
from voxelsam.volumes import LabelMap, Labels, Volume, check_pair

LABELS = Labels({"background": 0, "first": 1, "second": 4})
NAMES = ("case_a", "case_b", "case_c")


def write_scan(path: Path, number: int) -> Path:
    """An image whose grid and voxels depend on the number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = Grid((4, 5, 3 + number), np.diag([-1.0, 1.5, 2.0 + number, 1.0]))
    data = np.random.default_rng(number).integers(0, 99, (1, *grid.shape), np.int16)
    write_volume(path, Volume(data, grid))
    return path


def write_label(path: Path, number: int) -> Path:
    """A label map on the grid of the image of that number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = Grid((4, 5, 3 + number), np.diag([-1.0, 1.5, 2.0 + number, 1.0]))
    data = np.random.default_rng(number).choice([0, 1, 4], grid.shape).astype(np.uint8)
    write_labels(path, LabelMap(data, grid, LABELS))
    return path


def nnunet(root: Path) -> None:
    for number, name in enumerate(NAMES):
        write_scan(root / "imagesTr" / f"{name}_0000.nii.gz", number)
        write_scan(root / "imagesTr" / f"{name}_0001.nii.gz", number)
        write_label(root / "labelsTr" / f"{name}.nii.gz", number)
    table = {"channel_names": {"0": "T1", "1": "T2"}, "labels": LABELS.to_json(), "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(table))
    (root / "splits_final.json").write_text(json.dumps([{"train": NAMES[:2], "val": NAMES[2:]}]))


def decathlon(root: Path) -> None:
    for number, name in enumerate(NAMES):
        write_scan(root / "imagesTr" / f"{name}.nii.gz", number)
        write_label(root / "labelsTr" / f"{name}.nii.gz", number)
    listed = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in NAMES]
    numbered = {str(value): name for name, value in LABELS.values.items()}
    table = {"modality": {"0": "CT"}, "labels": numbered, "training": listed, "test": []}
    (root / "dataset.json").write_text(json.dumps(table))


def pairs(root: Path) -> None:
    for number, name in enumerate(NAMES):
        write_scan(root / "images" / f"{name}.nii.gz", number)
        write_label(root / "masks" / f"{name}.nii", number)


def table(root: Path) -> None:
    rows = ["id,image,image_2,label,split"]
    for number, name in enumerate(NAMES):
        files = (
            write_scan(root / "scans" / f"{number}_first.nii.gz", number),
            write_scan(root / "scans" / f"{number}_second.nii.gz", number),
            write_label(root / "truth" / f"{number}.nii.gz", number),
        )
        rows.append(",".join((name, *(str(path.relative_to(root)) for path in files), "val" if number else "train")))
    (root / "cases.csv").write_text("\n".join(rows))


MINIATURES: dict[str, Callable[[Path], None]] = {
    "nnunet": nnunet,
    "decathlon": decathlon,
    "pairs": pairs,
    "table": table,
}

pytestmark = pytest.mark.parametrize("layout", plugins.names("layouts"))


@pytest.fixture
def dataset(layout: str, tmp_path: Path) -> Dataset:
    root = tmp_path / "miniature"
    root.mkdir()
    return open_dataset(_make(layout)(root) or root)


def _make(layout: str) -> Callable[[Path], Path | None]:
    if layout in MINIATURES:
        return MINIATURES[layout]
    file = Path(__file__).with_name("miniatures") / f"{layout}.py"
    assert file.is_file(), f"the layout {layout!r} has no miniature yet: write {file}"
    spec = importlib.util.spec_from_file_location(f"miniature_{layout}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    make: Callable[[Path], Path | None] = module.make
    return make


def test_it_is_recognised_by_its_own_layout_only(dataset: Dataset, layout: str) -> None:
    assert dataset.layout == layout
    assert recognising(dataset.root) == [layout]


def test_ids_are_unique_and_all_there(dataset: Dataset, layout: str) -> None:
    ids = [case.id for case in (*dataset.train, *dataset.test)]
    assert len(ids) == len(set(ids)) >= 3
    assert all(case.group and case.label is not None for case in dataset.train)


def test_grids_of_image_and_label_agree(dataset: Dataset, layout: str) -> None:
    for case in dataset.train:
        image = read_channels(case.images, len(dataset.channels))
        check_pair(image, read_label(case, dataset.labels))
        assert image.channels == len(dataset.channels)


def test_labels_cover_what_is_in_the_files(dataset: Dataset, layout: str) -> None:
    found = set()
    for case in dataset.train:
        found |= set(np.unique(read_label(case, dataset.labels).data))
    assert found == set(dataset.labels.values.values())


def test_splits_name_cases_that_exist(dataset: Dataset, layout: str) -> None:
    for fold, split in enumerate(dataset.splits):
        assert isinstance(split, Split)
        train, val = dataset.split(fold)
        assert not {case.group for case in train} & {case.group for case in val}
