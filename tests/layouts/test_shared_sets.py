"""The real data sets open, and image and label of a case of each lie in one place."""

from pathlib import Path

import pytest

from voxelsam.formats import read_channels, read_labels
from voxelsam.layouts import open_dataset
from voxelsam.volumes import check_pair

pytestmark = pytest.mark.shared


@pytest.mark.parametrize(
    ("name", "classes", "train", "test", "split"),
    [
        ("Dataset501_LeftAtrium", 2, 25, 0, (20, 5)),
        ("Dataset502_CardiacMRI", 4, 20, 0, (16, 4)),
        ("Dataset504_Hippocampus", 3, 70, 10, (60, 10)),
    ],
)
def test_data_set(shared: Path, name: str, classes: int, train: int, test: int, split: tuple[int, int]) -> None:
    dataset = open_dataset(shared / "data" / name)
    assert (dataset.name, dataset.layout, dataset.kind) == (name, "nnunet", "MR")
    assert (dataset.labels.count, len(dataset.train), len(dataset.test)) == (classes, train, test)
    assert tuple(len(side) for side in dataset.split(0)) == split
    for case in (dataset.train[0], dataset.train[-1], *dataset.test[:1]):
        image = read_channels(case.images, len(dataset.channels))
        label = read_labels(case.label, dataset.labels)
        check_pair(image, label)
        assert label.data.max() == classes - 1
