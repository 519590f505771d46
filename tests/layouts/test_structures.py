"""Choosing structures of a data set, and putting several together."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from voxelsam.errors import ConfigError, InputError
from voxelsam.layouts import Dataset, open_dataset, read_label

TABLE = {"background": 0, "left": 2, "right": 5, "heart": 7, "ignore": 9}


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).choice(np.array([0, 2, 5, 7, 9], np.uint8), size=(4, 5, 6))


@pytest.fixture
def dataset(tmp_path: Path, note, values) -> Dataset:
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4)), tmp_path / "imagesTr/a_0000.nii.gz")
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "labelsTr/a.nii.gz")
    table = {**TABLE, "lungs": [2, 5]}
    facts = {"channel_names": {"0": "CT"}, "labels": table, "regions_class_order": [1, 2, 3, 4]}
    note("dataset.json", facts | {"file_ending": ".nii.gz", "numTraining": 1})
    return open_dataset(tmp_path)


@pytest.mark.parametrize("names", [["left", "right"], ["right", "left"], ["lungs"]])
def test_structures_become_one_and_the_rest_background(dataset, values, names) -> None:
    chosen = dataset.with_structures({"both": names})
    assert dict(chosen.labels.values) == {"background": 0, "both": 1}
    found = read_label(chosen.train[0], chosen.labels).data
    np.testing.assert_array_equal(found == 1, np.isin(values, (2, 5)))
    np.testing.assert_array_equal(found == chosen.labels.ignore, values == 9)
    np.testing.assert_array_equal(found == 0, np.isin(values, (0, 7)))


def test_the_order_given_is_the_order_of_the_values(dataset, values) -> None:
    chosen = dataset.with_structures({"heart": ["heart"], "one": ["right"]})
    found = read_label(chosen.train[0], chosen.labels).data
    assert chosen.labels.names == ("heart", "one")
    np.testing.assert_array_equal(found == 1, values == 7)
    np.testing.assert_array_equal(found == 2, values == 5)


def test_the_data_set_itself_stays_as_it_is(dataset, values) -> None:
    dataset.with_structures({"heart": ["heart"]})
    np.testing.assert_array_equal(read_label(dataset.train[0], dataset.labels).data, values)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({}, "at least one; asked for were none"),
        ({"empty": []}, "at least one"),
        ({"a": ["left"], "b": ["lungs"]}, "goes into one chosen structure at most"),
        ({"a": ["left", "left"]}, "goes into one chosen structure at most"),
        ({"a": ["kidney"]}, "no structure or region is named 'kidney'; there are left, right, heart, lungs"),
        ({"a": ["background"]}, "no structure or region is named 'background'"),
        ({"a": ["ignore"]}, "no structure or region is named 'ignore'"),
    ],
)
def test_impossible_choices_are_refused(dataset, wanted, message) -> None:
    with pytest.raises(ConfigError, match=message):
        dataset.with_structures(wanted)


def test_a_second_choice_is_refused(dataset) -> None:
    with pytest.raises(InputError, match="chosen once"):
        dataset.with_structures({"both": ["lungs"]}).with_structures({"both": ["both"]})
