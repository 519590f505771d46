import json

import numpy as np
import pytest

from voxelsam.data import phantom
from voxelsam.errors import InputError, OutputError
from voxelsam.formats import read, read_labels
from voxelsam.layouts import open_dataset
from voxelsam.space.orientation import plane_of
from voxelsam.volumes.pair import check_pair


@pytest.fixture(scope="module")
def cases():
    return [phantom.make_case(number) for number in range(6)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return phantom.make(tmp_path_factory.mktemp("phantom"), cases=4, test_cases=1, folds=2, shape=(40, 36, 15))


def centre(label, organ):
    return label.grid.to_world(np.argwhere(label.data == label.labels.values[organ])).mean(axis=0)


def test_same_seed_and_number_give_the_same_case(cases):
    image, label = phantom.make_case(3)
    np.testing.assert_array_equal(image.data, cases[3][0].data)
    np.testing.assert_array_equal(label.data, cases[3][1].data)
    np.testing.assert_array_equal(image.grid.affine, cases[3][0].grid.affine)


def test_other_seed_gives_another_case(cases):
    other = phantom.make_case(0, seed=1)[0]
    assert other.grid.shape != cases[0][0].grid.shape or not np.array_equal(other.data, cases[0][0].data)


def test_axes_handedness_and_tilt_differ_between_cases(cases):
    grids = [image.grid for image, _ in cases]
    assert [bool(np.linalg.det(grid.affine[:3, :3]) < 0) for grid in grids] == [False, True] * 3
    assert len({grid.axes for grid in grids}) > 2
    for grid in grids:
        directions = np.abs(grid.affine[:3, :3] / grid.spacing).max(axis=0)
        assert (directions < 0.9999).any()
        assert (directions > np.cos(np.deg2rad(12.1))).all()
        assert grid.shear < 1e-6
        assert sorted(grid.spacing) == pytest.approx([1.9, 1.9, 4.0])
        assert plane_of(grid) == "axial"


def test_organs_lie_where_they_belong_in_the_patient(cases):
    for _, label in cases:
        assert centre(label, "kidney_right")[0] > 15
        assert centre(label, "kidney_left")[0] < -15
        assert centre(label, "liver")[0] > 0 > centre(label, "spleen")[0]
        assert centre(label, "liver")[2] > centre(label, "kidney_right")[2]
        assert centre(label, "gallbladder")[1] > centre(label, "kidney_right")[1]


def test_every_organ_is_there_with_its_grey_value(cases):
    wanted = {"spleen": 125, "kidney_right": 160, "kidney_left": 160, "liver": 110, "gallbladder": 15, "aorta": 200}
    for image, label in cases:
        assert image.data.dtype == np.int16
        assert image.kind == "CT"
        for organ, hu in wanted.items():
            inside = image.data[0][label.data == label.labels.values[organ]]
            assert inside.size > 150
            assert abs(np.median(inside) - hu) < 20  # partial volume at the rims


def test_organs_of_one_grey_value_differ_in_place_only(cases):
    for image, label in cases:
        left, right = (np.median(image.data[0][label.data == value]) for value in (3, 2))
        assert abs(left - right) < 20


def test_noise_is_what_was_asked_for():
    silent, loud = (phantom.make_case(0, noise=noise)[0].data.astype(float) for noise in (0, 20))
    air = silent < -995
    assert silent[air].std() < 1.5
    difference = (loud - silent)[(silent > -900) & (silent < 1000)]
    assert difference.std() == pytest.approx(20, rel=0.15)


def test_data_set_opens_as_nnunet(dataset):
    opened = open_dataset(dataset)
    assert opened.layout == "nnunet"
    assert [case.id for case in opened.train] == [f"phantom_{number:03d}" for number in range(4)]
    assert opened.labels.names == phantom.ORGANS
    assert opened.kind == "CT"
    for case in opened.train:
        image, label = read(case.images[0]), read_labels(case.label, opened.labels)
        check_pair(image, label)
    assert (dataset / "labelsTs" / "phantom_004.nii.gz").is_file()


def test_files_hold_what_was_made(dataset):
    image, label = phantom.make_case(1, shape=(40, 36, 15))
    np.testing.assert_array_equal(read(dataset / "imagesTr" / "phantom_001_0000.nii.gz").data, image.data)
    stored = read_labels(dataset / "labelsTr" / "phantom_001.nii.gz")
    np.testing.assert_array_equal(stored.data, label.data)
    assert stored.grid.same_place(label.grid, 1e-3)


def test_splits_put_every_case_into_validation_once(dataset):
    splits = json.loads((dataset / "splits.json").read_text())
    assert sorted(case for split in splits for case in split["val"]) == [f"phantom_{n:03d}" for n in range(4)]
    for split in splits:
        assert not set(split["train"]) & set(split["val"])
        assert len(split["train"]) + len(split["val"]) == 4


def test_one_fold_keeps_something_for_training(tmp_path):
    root = phantom.make(tmp_path, cases=2, test_cases=0, folds=1, shape=(20, 18, 8))
    (split,) = json.loads((root / "splits.json").read_text())
    assert split == {"train": ["phantom_001"], "val": ["phantom_000"]}


def test_nothing_but_the_data_set_is_left_in_the_folder(dataset):
    assert [path.name for path in dataset.parent.iterdir()] == ["Dataset900_Phantom"]


def test_existing_data_set_is_not_overwritten(dataset):
    before = (dataset / "dataset.json").stat().st_mtime_ns
    with pytest.raises(OutputError, match="exists already"):
        phantom.make(dataset.parent, cases=2)
    assert (dataset / "dataset.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("wrong", [{"cases": 1}, {"test_cases": -1}, {"folds": 0}])
def test_impossible_numbers_are_refused(tmp_path, wrong):
    with pytest.raises(InputError, match="phantom needs"):
        phantom.make(tmp_path / "new", **wrong)
    assert not (tmp_path / "new").exists()
