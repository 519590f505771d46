"""The real data sets open, and image and label of a case of each lie in one place."""

from pathlib import Path

import pytest

from voxelsam.formats import read_channels, read_frames, read_labels
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


@pytest.mark.parametrize(
    ("name", "structures", "channels", "split"),
    [
        ("Dataset510_PolypVideo", ("polyp",), 3, (40, 6)),
        ("Dataset511_OpticDiscCup", ("optic_disc_only", "optic_cup"), 3, (16, 4)),
        ("Dataset512_SkinLesion", ("lesion",), 3, (60, 20)),
        ("Dataset513_Nuclei", ("nucleus",), 3, (64, 16)),
        ("Dataset514_MuscleUltrasound", ("aponeurosis",), 1, (20, 6)),
        ("Dataset515_ChestXray", ("right_lung", "left_lung", "cardiomediastinum"), 1, (14, 4)),
    ],
)
def test_pictures(shared: Path, name: str, structures: tuple[str, ...], channels: int, split: tuple[int, int]) -> None:
    dataset = open_dataset(shared / "data" / name)
    assert (dataset.labels.names, len(dataset.channels), dataset.kind) == (structures, channels, "PICTURE")
    assert tuple(len(side) for side in dataset.split(0)) == split
    for case in (dataset.train[0], dataset.train[-1]):
        image, label = read_channels(case.images, channels), read_labels(case.label, dataset.labels)
        check_pair(image, label)
        assert (image.kind, image.grid.along_k) == ("PICTURE", "single")
        assert 0 < label.data.max() <= len(structures)
        assert (case.instances is not None) == (name == "Dataset513_Nuclei")


def test_frames_of_a_sequence_are_one_film(shared: Path) -> None:
    folder = shared / "data" / "Dataset510_PolypVideo" / "imagesTr"
    files = sorted(folder.glob("seq03_*"))
    film = read_frames(files, seconds=0.04)
    assert film.data.shape == (3, 384, 288, len(files))
