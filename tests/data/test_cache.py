"""Prepared cases: numbers of single objects beside labels, and folders that are whole or not there."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from PIL import Image

from voxelsam.data import cache
from voxelsam.data.cache import Prepared, Store, classes_shown, damage_of, read_case
from voxelsam.data.loader import Stacks
from voxelsam.errors import GeometryError, InputError, InputWarning, LabelError, OutputError
from voxelsam.formats import write_labels
from voxelsam.layouts import Case, Dataset
from voxelsam.space.grid import Grid
from voxelsam.stacks.intensity import PICTURE
from voxelsam.stacks.plan import StackPlan
from voxelsam.volumes import LabelMap, Labels
from voxelsam.volumes.labels import Encoding

PLAN = StackPlan(depth=1, size=(32, 64), channels="rgb")


@pytest.fixture
def dataset(pictures) -> Dataset:
    return pictures()


def opened(dataset: Dataset, folder: Path, case: Case | None = None) -> Prepared:
    assert dataset.labels is not None
    return Store(folder, dataset.labels, dataset.channels, PLAN, PICTURE).open(case or dataset.train[0])


def numbered(case: Case, change) -> None:
    """Changes the instance map of a case."""
    assert case.instances is not None
    objects = np.array(Image.open(case.instances))
    Image.fromarray(change(objects)).save(case.instances)


def test_they_lie_on_the_pixels_of_image_and_label(dataset: Dataset, tmp_path: Path) -> None:
    prepared = opened(dataset, tmp_path / "cache")
    assert prepared.instances is not None
    rows = np.array(Image.open(dataset.train[0].instances))
    np.testing.assert_array_equal(prepared.instances[:, :, 0].T, rows)
    np.testing.assert_array_equal(prepared.instances > 0, prepared.label > 0)
    np.testing.assert_array_equal(
        prepared.image[..., 0].transpose(2, 1, 0), np.array(Image.open(dataset.train[0].images[0]))
    )
    assert isinstance(prepared.instances.base, np.memmap)
    assert prepared.instances.dtype == np.uint16


def test_a_stack_shows_them_where_it_shows_the_label(dataset: Dataset, tmp_path: Path) -> None:
    batch = Stacks([opened(dataset, tmp_path / "cache")], PLAN)[0, 0]
    assert set(batch.instances.unique().tolist()) == {0, 1, 300}
    assert ((batch.instances > 0) == (batch.target > 0)).all()


def test_a_data_set_without_them_has_none(pictures, tmp_path: Path) -> None:
    assert opened(pictures(instances=False), tmp_path / "cache").instances is None


def test_a_changed_map_is_prepared_again(dataset: Dataset, tmp_path: Path) -> None:
    case = dataset.train[0]
    opened(dataset, tmp_path / "cache")
    numbered(case, lambda objects: np.where(objects == 300, 7, objects).astype(np.uint16))
    os.utime(case.instances, ns=(1, 1))
    assert set(np.unique(opened(dataset, tmp_path / "cache").instances)) == {0, 1, 7}
    assert opened(dataset, tmp_path / "cache", replace(case, instances=None)).instances is None


def test_a_label_file_read_in_another_way_is_prepared_again(dataset: Dataset, tmp_path: Path) -> None:
    case = replace(dataset.train[0], instances=None)
    drawn = opened(dataset, tmp_path / "cache", case).label
    merged = replace(case, encoding=Encoding(values=dict.fromkeys(range(256), 0)))
    assert drawn.any()
    assert not opened(dataset, tmp_path / "cache", merged).label.any()


def test_a_series_with_a_changed_file_is_prepared_again(dataset: Dataset, tmp_path: Path) -> None:
    assert dataset.labels is not None
    store = Store(tmp_path / "cache", dataset.labels, dataset.channels, PLAN, PICTURE)
    series = tmp_path / "series"
    (series / "deeper").mkdir(parents=True)
    slices = [series / "deeper" / name for name in ("1.dcm", "2.dcm")]
    for path in slices:
        path.write_bytes(b"first")
    dates = [folder.stat().st_mtime_ns for folder in (series, series / "deeper")]
    case = replace(dataset.train[0], images=(series,))
    before = store._key(case)
    assert store._key(case) == before
    slices[1].write_bytes(b"other and longer")
    assert [folder.stat().st_mtime_ns for folder in (series, series / "deeper")] == dates
    assert store._key(case) != before


@pytest.mark.parametrize(
    ("change", "nameless", "strange"),
    [
        (lambda objects: np.where(objects == 1, 0, objects).astype(np.uint16), 120, 0),
        (lambda objects: np.maximum(objects, 1), 0, 50 * 70 - 320),
    ],
)
def test_a_number_without_a_label_or_a_label_without_a_number_is_refused(dataset, tmp_path, change, nameless, strange):
    numbered(dataset.train[0], change)
    with pytest.raises(LabelError, match=rf"a.png: .*{nameless} labelled voxels of .*a.png have none, and {strange} "):
        opened(dataset, tmp_path / "cache")
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").iterdir())


def test_a_map_of_another_size_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    numbered(dataset.train[0], lambda objects: objects[:-1])
    with pytest.raises(GeometryError, match="voxels"):
        opened(dataset, tmp_path / "cache")


def test_voxels_that_nobody_labelled_may_have_no_number(tmp_path: Path) -> None:
    labels = Labels({"background": 0, "a": 1}, ignore=2)
    grid = Grid((2, 3, 4), np.eye(4))
    drawn, objects = np.zeros(grid.shape, np.uint8), np.zeros(grid.shape, np.uint8)
    drawn[0], drawn[1, 0], objects[0] = 1, 2, 4
    table = Labels.of_values({0, 1, 2, 4})
    for name, data in (("image", drawn), ("label", drawn), ("objects", objects)):
        write_labels(tmp_path / f"{name}.nii.gz", LabelMap(data, grid, table))
    image, label, instances = (tmp_path / f"{name}.nii.gz" for name in ("image", "label", "objects"))
    _, _, found = read_case(Case("x", (image,), label, instances=instances), labels, 1)
    np.testing.assert_array_equal(found, objects)


def test_a_case_without_a_label_is_named(dataset: Dataset) -> None:
    with pytest.raises(InputError, match="case a has no label"):
        read_case(replace(dataset.train[0], label=None), dataset.labels, 3)


# Whole or not there


def folders(root: Path) -> list[Path]:
    return sorted(root.iterdir()) if root.is_dir() else []


def test_two_that_prepare_one_case_at_once_both_get_it(dataset, tmp_path, monkeypatch) -> None:
    together = Barrier(2, timeout=60)
    settle = cache._settle

    def both(folder: Path, place: Path) -> None:
        together.wait()
        settle(folder, place)

    monkeypatch.setattr(cache, "_settle", both)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: opened(dataset, tmp_path / "cache"), range(2))
    np.testing.assert_array_equal(first.label, second.label)
    np.testing.assert_array_equal(first.image, second.image)
    assert len(folders(tmp_path / "cache")) == 1


def test_one_that_comes_late_leaves_the_whole_folder_of_the_other(dataset, tmp_path, monkeypatch) -> None:
    settle = cache._settle

    def late(folder: Path, place: Path) -> None:
        monkeypatch.setattr(cache, "_settle", settle)
        opened(dataset, tmp_path / "cache")
        (place / "mine").touch()
        settle(folder, place)

    monkeypatch.setattr(cache, "_settle", late)
    opened(dataset, tmp_path / "cache")
    (place,) = folders(tmp_path / "cache")
    assert (place / "mine").is_file()


def shorten(place: Path) -> None:
    with (place / cache.IMAGE).open("r+b") as file:
        file.truncate(200)


def lose(place: Path) -> None:
    (place / cache.LABEL).unlink()


def scribble(place: Path) -> None:
    (place / cache.RECORD).write_text("{")


def empty(place: Path) -> None:
    (place / cache.SHOWN).write_bytes(b"")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (shorten, "image.npy has 200 bytes, not"),
        (lose, "missing"),
        (scribble, "record.json"),
        (empty, "shown.npy has 0"),
    ],
)
def test_a_damaged_folder_is_named_and_prepared_again(dataset, tmp_path, harm, said) -> None:
    before = opened(dataset, tmp_path / "cache")
    label, image = np.array(before.label), np.array(before.image)
    (place,) = folders(tmp_path / "cache")
    assert damage_of(place) == ""
    harm(place)
    with pytest.warns(InputWarning, match=rf"{place.name}: .*{said}.*; the case is prepared again"):
        again = opened(dataset, tmp_path / "cache")
    np.testing.assert_array_equal(again.label, label)
    np.testing.assert_array_equal(again.image, image)
    assert folders(tmp_path / "cache") == [place]
    assert damage_of(place) == ""
    opened(dataset, tmp_path / "cache")


def test_a_damaged_folder_whose_source_is_gone_is_an_error_and_stays(dataset, tmp_path) -> None:
    opened(dataset, tmp_path / "cache")
    (place,) = folders(tmp_path / "cache")
    shorten(place)
    case = dataset.train[0]
    state = case.images[0].stat()
    case.images[0].write_bytes(b"x" * state.st_size)
    os.utime(case.images[0], ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.warns(InputWarning, match="prepared again"), pytest.raises(InputError, match=case.images[0].name):
        opened(dataset, tmp_path / "cache")
    assert damage_of(place)


@pytest.mark.parametrize(
    "trouble", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), OSError("90000 requested and 512 written")]
)
@pytest.mark.parametrize("file", [cache.IMAGE, cache.LABEL, cache.SHOWN])
def test_a_full_disk_is_said_and_leaves_nothing(dataset, tmp_path, monkeypatch, trouble, file) -> None:
    save = np.save

    def full(target, values) -> None:
        if target.name.endswith(file):
            target.write(b"half")
            raise trouble
        save(target, values)

    monkeypatch.setattr(cache.np, "save", full)
    with pytest.raises(
        OutputError, match=r"cannot write the prepared case .*a-.*(No space left on device|512 written); free space"
    ):
        opened(dataset, tmp_path / "cache")
    assert folders(tmp_path / "cache") == []
    monkeypatch.undo()
    assert opened(dataset, tmp_path / "cache").label.any()


def test_a_place_that_is_no_folder_is_said(dataset, tmp_path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(OutputError, match="cannot write the prepared case"):
        opened(dataset, tmp_path / "cache")


def test_a_prepared_case_of_another_format_is_prepared_again(dataset, tmp_path, monkeypatch) -> None:
    opened(dataset, tmp_path / "cache")
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    opened(dataset, tmp_path / "cache")
    assert len(folders(tmp_path / "cache")) == 2


def test_each_slice_says_which_classes_it_shows() -> None:
    label = np.zeros((4, 3, 3), np.uint8)
    label[0, 0, 1], label[1, 1, 1], label[:, :, 2] = 2, 255, 1
    np.testing.assert_array_equal(classes_shown(label, 4), [[1, 0, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0]])


def test_a_prepared_case_knows_what_its_slices_show(dataset, tmp_path) -> None:
    assert dataset.labels is not None
    prepared = opened(dataset, tmp_path / "cache")
    np.testing.assert_array_equal(prepared.shown, classes_shown(np.array(prepared.label), dataset.labels.count))
    assert prepared.shown.tolist() == [[True, True]]
