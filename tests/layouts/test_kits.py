import pytest

from voxelsam.errors import InputError
from voxelsam.layouts import open_dataset
from voxelsam.layouts.kits import LABELS, LABELS_2019, read, recognises

PLAIN, MAJORITY = "segmentation.nii.gz", "aggregated_MAJ_seg.nii.gz"


@pytest.fixture
def cases(touch):
    def make(*numbers: int, label: str | None, home: str = "") -> None:
        for number in numbers:
            files = ["imaging.nii.gz", *([label] if label else [])]
            touch(*(f"{home}case_{number:05}/{file}" for file in files))

    return make


def test_the_tables_are_those_of_the_challenges() -> None:
    assert LABELS_2019.to_json() == {"background": 0, "kidney": 1, "tumour": 2, "kidney_and_tumour": [1, 2]}
    assert LABELS.to_json() == {
        "background": 0,
        "kidney": 1,
        "tumour": 2,
        "cyst": 3,
        "kidney_and_masses": [1, 2, 3],
        "masses": [2, 3],
    }


def test_2019_has_unlabelled_cases_and_no_cysts(cases, tmp_path) -> None:
    cases(0, 209, label=PLAIN, home="data/")
    cases(210, 299, label=None, home="data/")
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.name, dataset.kind) == ("kits", "KiTS 2019", "CT")
    assert dataset.labels == LABELS_2019
    assert [case.id for case in dataset.train] == ["case_00000", "case_00209"]
    assert [case.id for case in dataset.test] == ["case_00210", "case_00299"]
    assert (dataset.splits, dataset.window) == ((), None)


def test_2021_takes_the_majority(cases, touch, tmp_path) -> None:
    cases(0, 210, label=MAJORITY, home="kits21/data/")
    touch("kits21/data/case_00000/aggregated_AND_seg.nii.gz", "kits21/data/case_00000/segmentations/a.nii.gz")
    dataset = read(tmp_path)
    assert (dataset.name, dataset.labels) == ("KiTS 2021", LABELS)
    assert dataset.case("case_00000").label.name == MAJORITY


@pytest.mark.parametrize(
    ("numbers", "more"),
    [((0, 1), "case_00000/instances/a.nii.gz"), ((0, 1), "kits23.json"), ((0, 400), "x"), ((0, 210), "x")],
)
def test_what_tells_2023(cases, touch, tmp_path, numbers, more) -> None:
    cases(*numbers, label=PLAIN, home="dataset/")
    touch(f"dataset/{more}")
    dataset = read(tmp_path)
    assert (dataset.name, dataset.labels, len(dataset.train)) == ("KiTS 2023", LABELS, 2)


def test_scans_and_labels_that_were_not_downloaded(cases, touch, tmp_path) -> None:
    cases(0, label=PLAIN)
    cases(1, 211, label=None)
    touch(*(f"case_{number:05}/{PLAIN}" for number in range(2, 14)))
    with pytest.raises(InputError, match="problems: 2") as caught:
        read(tmp_path)
    assert caught.match(r"imaging.nii.gz is missing in 12 cases \(case_00002, .*, case_00011 and 2 more\)")
    assert caught.match(r"segmentation.nii.gz is missing in 1 cases \(case_00001\)")


def test_another_aggregate_is_no_label(cases, touch, tmp_path) -> None:
    cases(0, label=MAJORITY)
    cases(1, label="aggregated_AND_seg.nii.gz")
    with pytest.raises(InputError, match=r"aggregated_MAJ_seg.nii.gz is missing in 1 cases \(case_00001\)"):
        read(tmp_path)


def test_years_cannot_be_mixed(cases, tmp_path) -> None:
    cases(0, label=MAJORITY)
    cases(1, label=PLAIN)
    with pytest.raises(InputError, match=r"SET-02: labels of several years: .*case_00000.*case_00001"):
        read(tmp_path)


@pytest.mark.parametrize(
    "name", ["case_00000/scan.nii.gz", "case_0/imaging.nii.gz", "imaging.nii.gz", "a/case_00000/imaging.nii.gz"]
)
def test_other_folders_are_not_recognised(touch, tmp_path, name) -> None:
    touch(name)
    assert not recognises(tmp_path)
    with pytest.raises(InputError, match="SET-01"):
        read(tmp_path)
