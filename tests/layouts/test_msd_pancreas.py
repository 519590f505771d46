import pytest

from voxelsam.errors import InputError, LabelError
from voxelsam.layouts import Split, open_dataset, recognising
from voxelsam.layouts.msd_pancreas import read, recognises
from voxelsam.stacks.intensity import CT_PANCREAS

NAMES = ("pancreas_001", "pancreas_004")
TABLE = {
    "name": "Pancreas",
    "modality": {"0": "CT"},
    "labels": {"0": "background", "1": "pancreas", "2": "cancer"},
    "training": [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in NAMES],
    "test": ["./imagesTs/pancreas_002.nii.gz"],
}


@pytest.fixture
def complete(touch, note):
    touch(*(f"{part}/{name}.nii.gz" for name in NAMES for part in ("imagesTr", "labelsTr")))
    touch("imagesTs/pancreas_002.nii.gz")
    note("dataset.json", TABLE)


def test_the_decathlon_with_a_window_and_a_region(complete, tmp_path) -> None:
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.name, dataset.kind, dataset.channels) == ("msd_pancreas", "Pancreas", "CT", ("CT",))
    assert dataset.window == (-50, 200) == (CT_PANCREAS.low, CT_PANCREAS.high)
    assert dataset.labels.values == {"background": 0, "pancreas": 1, "cancer": 2}
    assert dataset.labels.regions == {"pancreas_and_cancer": (1, 2)}
    assert [case.id for case in dataset.train] == list(NAMES)
    assert [case.id for case in dataset.test] == ["pancreas_002"]
    assert dataset.splits == ()


def test_folds_of_the_listing_are_kept(complete, note, tmp_path) -> None:
    note("dataset.json", TABLE | {"training": [e | {"fold": n} for n, e in enumerate(TABLE["training"])]})
    assert read(tmp_path).splits == (Split(NAMES[1:], NAMES[:1]), Split(NAMES[:1], NAMES[1:]))


@pytest.mark.parametrize(
    "labels",
    [
        {"0": "background", "1": "cancer", "2": "pancreas"},
        {"0": "background", "1": "pancreas"},
        {"0": "background", "1": "liver", "2": "cancer"},
    ],
)
def test_other_labels_are_another_task(complete, note, tmp_path, labels) -> None:
    note("dataset.json", TABLE | {"labels": labels})
    assert not recognises(tmp_path)
    assert recognising(tmp_path) == ["decathlon"]
    with pytest.raises(LabelError, match=r"expected the labels .*pancreas.*read it as decathlon") as caught:
        read(tmp_path)
    assert caught.value.code == "LAB-02"


@pytest.mark.parametrize("labels", [["pancreas", "cancer"], {"1": "pancreas", "2": "cancer"}, 7])
def test_broken_tables_are_not_recognised(complete, note, tmp_path, labels) -> None:
    note("dataset.json", TABLE | {"labels": labels})
    assert not recognises(tmp_path)
    with pytest.raises(InputError, match="LAB-02"):
        read(tmp_path)


def test_scans_that_were_not_downloaded(complete, tmp_path) -> None:
    (tmp_path / "imagesTr/pancreas_004.nii.gz").unlink()
    (tmp_path / "imagesTs/pancreas_002.nii.gz").unlink()
    assert recognises(tmp_path)
    with pytest.raises(InputError, match=r"imagesTr/pancreas_004.nii.gz does not exist(.|\n)*imagesTs/pancreas_002"):
        read(tmp_path)


def test_nothing_there(tmp_path) -> None:
    assert not recognises(tmp_path)
    with pytest.raises(InputError, match=r"dataset.json: cannot be read"):
        read(tmp_path)
