import numpy as np
import pytest
from PIL import Image

from voxelsam.errors import InputError
from voxelsam.formats import write_labels
from voxelsam.layouts import open_dataset
from voxelsam.layouts.pairs import read, recognises
from voxelsam.space.grid import Grid
from voxelsam.volumes import LabelMap, Labels

GRID = Grid((2, 3, 4), np.eye(4))


def write_mask(path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.zeros(GRID.shape, np.uint8)
    data[1] = value
    write_labels(path, LabelMap(data, GRID, Labels.of_values({0, value})))


@pytest.mark.parametrize("folders", [("images", "labels"), ("image", "mask"), ("imgs", "masks"), ("img", "label")])
def test_equal_names_are_pairs_and_values_make_the_table(touch, tmp_path, folders) -> None:
    images, labels = folders
    touch(f"{images}/a.nii.gz", f"{images}/b.nii", f"{images}/.DS_Store")
    write_mask(tmp_path / labels / "a.nii.gz", 3)
    write_mask(tmp_path / labels / "b.nii.gz", 1)
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.channels, dataset.kind, dataset.test) == ("pairs", ("image",), "UNKNOWN", ())
    assert [(case.id, case.images[0].name, case.label.name) for case in dataset.train] == [
        ("a", "a.nii.gz", "a.nii.gz"),
        ("b", "b.nii", "b.nii.gz"),
    ]
    assert dataset.labels.to_json() == {"background": 0, "label_1": 1, "label_3": 3}


def test_a_table_beside_them_saves_reading(touch, note, tmp_path) -> None:
    touch("images/a.nii", "labels/a.nii")
    note("labels.json", {"background": 0, "polyp": 1})
    assert read(tmp_path).labels.names == ("polyp",)


@pytest.mark.parametrize(("mode", "channels"), [("RGB", ("red", "green", "blue")), ("L", ("image",))])
def test_pictures_are_colour_if_the_first_one_is(touch, note, tmp_path, mode, channels) -> None:
    touch("images/b.png", "masks/a.png", "masks/b.png")
    note("labels.json", {"background": 0, "polyp": 1})
    Image.effect_noise((4, 3), 40).convert(mode).save(tmp_path / "images/a.jpg")
    dataset = read(tmp_path)
    assert (dataset.channels, dataset.kind) == (channels, "PICTURE")


def test_a_picture_that_is_none(touch, note, tmp_path) -> None:
    touch("images/a.png", "masks/a.png")
    note("labels.json", {"background": 0, "polyp": 1})
    with pytest.raises(InputError, match=r"a.png: 0 bytes"):
        read(tmp_path)


def test_partners_that_are_missing_are_all_named(touch, tmp_path) -> None:
    touch("images/a.nii", "images/b.nii", "images/b.nii.gz", "images/c.nii", "labels/c.nii", "labels/d.nii")
    with pytest.raises(InputError, match="problems: 4") as caught:
        read(tmp_path)
    for text in ("a: ", "b.nii.gz have this name", "a.nii has no mask", "d.nii has no image"):
        assert text in str(caught.value)


def test_masks_that_cannot_be_read_are_all_named(touch, tmp_path) -> None:
    touch("images/a.nii", "images/b.nii", "labels/a.nii", "labels/b.nii")
    with pytest.raises(InputError, match=r"a.nii: 0 bytes(.|\n)*b.nii: 0 bytes"):
        read(tmp_path)


def test_two_folders_for_one_thing(touch, tmp_path) -> None:
    touch("images/a.nii", "labels/a.nii", "masks/a.nii")
    with pytest.raises(InputError, match="there is labels, masks"):
        open_dataset(tmp_path)


def test_empty_folders(tmp_path) -> None:
    (tmp_path / "images").mkdir()
    assert not recognises(tmp_path)
    (tmp_path / "labels").mkdir()
    assert recognises(tmp_path)
    with pytest.raises(InputError, match="no cases"):
        read(tmp_path)
