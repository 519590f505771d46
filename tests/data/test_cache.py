"""Numbers of single objects beside labels."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from voxelsam.data.cache import Prepared, Store, read_case
from voxelsam.data.loader import Stacks
from voxelsam.errors import GeometryError, InputError, LabelError
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
