import pytest

from voxelsam.errors import InputError
from voxelsam.layouts import Split, open_dataset
from voxelsam.layouts.decathlon import read, recognises


def entry(name: str, **more: object) -> dict[str, object]:
    return {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz", **more}


TABLE = {
    "name": "Hippocampus",
    "modality": {"0": "MRI"},
    "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
    "training": [entry("h_1"), entry("h_2")],
    "test": ["./imagesTs/h_3.nii.gz"],
}
FILES = (*(f"{part}/h_{n}.nii.gz" for n in (1, 2) for part in ("imagesTr", "labelsTr")), "imagesTs/h_3.nii.gz")


@pytest.fixture
def small(touch, note):
    touch(*FILES)
    note("dataset.json", TABLE)


def test_cases_labels_and_kind(small, tmp_path) -> None:
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.name, dataset.kind) == ("decathlon", "Hippocampus", "MR")
    assert dataset.labels.names == ("Anterior", "Posterior")
    assert [case.id for case in dataset.train] == ["h_1", "h_2"]
    assert dataset.case("h_2").label.samefile(tmp_path / "labelsTr/h_2.nii.gz")
    assert [(case.id, case.label) for case in dataset.test] == [("h_3", None)]
    assert dataset.splits == ()


def test_modalities_of_one_file(small, note, tmp_path) -> None:
    note("dataset.json", {**TABLE, "modality": {"0": "T2", "1": "ADC"}})
    dataset = read(tmp_path)
    assert dataset.channels == ("T2", "ADC")
    assert len(dataset.case("h_1").images) == 1


def test_several_files_of_a_case(small, touch, note, tmp_path) -> None:
    touch("imagesTr/h_1b.nii.gz")
    several = {"image": ["imagesTr/h_1.nii.gz", "imagesTr/h_1b.nii.gz"], "label": "labelsTr/h_1.nii.gz"}
    note("dataset.json", {**TABLE, "modality": {"0": "T2", "1": "ADC"}, "training": [several], "test": []})
    assert [path.name for path in read(tmp_path).case("h_1").images] == ["h_1.nii.gz", "h_1b.nii.gz"]


def test_case_names_that_look_numbered(touch, note, tmp_path) -> None:
    touch("imagesTr/la_0001.nii.gz", "labelsTr/la_0001.nii.gz")
    note("dataset.json", {**TABLE, "training": [entry("la_0001")], "test": []})
    assert open_dataset(tmp_path).layout == "decathlon"


def test_folds_and_validation_lists_become_splits(small, note, tmp_path) -> None:
    note("dataset.json", {**TABLE, "training": [entry("h_1", fold=0), entry("h_2", fold=1)]})
    assert read(tmp_path).splits == (Split(("h_2",), ("h_1",)), Split(("h_1",), ("h_2",)))
    note("dataset.json", {**TABLE, "training": [entry("h_1")], "validation": [entry("h_2")]})
    dataset = read(tmp_path)
    assert dataset.splits == (Split(("h_1",), ("h_2",)),)
    assert len(dataset.train) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"training": [entry("h_1"), entry("gone")]},
            "gone: .*imagesTr/gone.nii.gz does not exist(.|\n)*labelsTr/gone",
        ),
        ({"training": [entry("h_1"), entry("h_1")]}, "id h_1 occurs twice"),
        ({"training": [{"image": "imagesTr/h_1.nii.gz"}]}, "without a label"),
        ({"training": [{"label": "labelsTr/h_1.nii.gz"}, 7]}, "2 entries of 'training' name no"),
        ({"test": "imagesTs"}, "'test' must be a list"),
        ({"test": ["imagesTs/gone.nii.gz"]}, "imagesTs/gone.nii.gz does not exist"),
        ({"training": [entry("h_1", fold=0), entry("h_2")]}, "'fold' must be an integer in every entry"),
        ({"training": [entry("h_1", fold=0, group="p"), entry("h_2", fold=1, group="p")]}, "SET-02: .*p is on both"),
        ({"training": [], "test": []}, "no cases"),
        ({"labels": {"0": "background", "1": "a", "2": "a"}}, "LAB-02"),
        ({"modality": {"1": "MRI"}}, "VAL-06"),
        ({"modality": {"0": "a", "1": "b", "2": "c"}, "training": [{**entry("h_1"), "image": FILES[:2]}]}, "1 or 3"),
    ],
)
def test_problems(small, note, tmp_path, change, message) -> None:
    note("dataset.json", {**TABLE, **change})
    with pytest.raises(InputError, match=message):
        read(tmp_path)


def test_problems_come_together(small, note, tmp_path) -> None:
    note("dataset.json", {**TABLE, "labels": {"1": "a"}, "training": [entry("x"), entry("y")]})
    with pytest.raises(InputError, match="problems: 5"):
        read(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"training": {}}'])
def test_other_tables_are_not_recognised(note, tmp_path, text) -> None:
    assert not recognises(tmp_path)
    note("dataset.json", text)
    assert not recognises(tmp_path)
