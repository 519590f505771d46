"""What every layout owes: a fabricated miniature yields cases that can be used.

A new layout brings its miniature, ``miniatures/<layout>.py`` with ``make(root)`` (which may return the path to open,
where that is not the root itself); without one its tests fail.
"""

import numpy as np

from voxelsam.formats import read_channels
from voxelsam.layouts import Dataset, Split, read_label, recognising
from voxelsam.volumes import check_pair


def test_it_is_recognised_by_its_own_layout_only(dataset: Dataset, layout: str) -> None:
    assert dataset.layout == layout
    assert recognising(dataset.root) == [layout]


def test_ids_are_unique_and_all_there(dataset: Dataset) -> None:
    ids = [case.id for case in (*dataset.train, *dataset.test)]
    assert len(ids) == len(set(ids)) >= 3
    assert all(case.group and case.label is not None for case in dataset.train)


def test_grids_of_image_and_label_agree(dataset: Dataset) -> None:
    for case in dataset.train:
        image = read_channels(case.images, len(dataset.channels))
        check_pair(image, read_label(case, dataset.labels))
        assert image.channels == len(dataset.channels)


def test_labels_cover_what_is_in_the_files(dataset: Dataset) -> None:
    found = set()
    for case in dataset.train:
        found |= set(np.unique(read_label(case, dataset.labels).data))
    assert found == set(dataset.labels.values.values())


def test_splits_name_cases_that_exist(dataset: Dataset) -> None:
    for fold, split in enumerate(dataset.splits):
        assert isinstance(split, Split)
        train, val = dataset.split(fold)
        assert not {case.group for case in train} & {case.group for case in val}
