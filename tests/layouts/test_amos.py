import pytest

from voxelsam.errors import InputError, InputWarning
from voxelsam.layouts import open_dataset, recognising
from voxelsam.layouts.amos import LABELS, read, recognises

FILES = {"Tr": (1, 4, 499, 500, 507), "Va": (8, 9, 508), "Ts": (2, 510)}
RELEASE = (
    "background, spleen, right_kidney, left_kidney, gallbladder, oesophagus, liver, stomach, aorta, "
    "inferior_vena_cava, pancreas, right_adrenal_gland, left_adrenal_gland, duodenum, bladder, prostate_uterus"
)


def name(number: int) -> str:
    return f"amos_{number:04}"


@pytest.fixture
def complete(touch):
    touch(*(f"images{part}/{name(number)}.nii.gz" for part, numbers in FILES.items() for number in numbers))
    touch(*(f"labels{part}/{name(number)}.nii.gz" for part in ("Tr", "Va") for number in FILES[part]))


def listing(**more: object) -> dict[str, object]:
    def entries(part: str) -> list[dict[str, str]]:
        return [{"image": f"./images{part}/{name(number)}.nii.gz"} for number in FILES[part]]

    return {"labels": {"0": "background"}, "training": entries("Tr"), "validation": entries("Va"), "test": []} | more


def test_the_table_is_that_of_the_release() -> None:
    assert LABELS.values == {name: value for value, name in enumerate(RELEASE.split(", "))}
    assert LABELS.regions == {"adrenal_glands": (11, 12)}


def test_cases_and_official_split(complete, note, tmp_path) -> None:
    note("dataset.json", listing(test=["./imagesTs/amos_0002.nii.gz", "./imagesTs/amos_0510.nii.gz"]))
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.kind, dataset.channels, dataset.window) == ("amos", "UNKNOWN", ("CT_or_MR",), None)
    assert [case.id for case in dataset.test] == [name(2), name(510)]
    assert dataset.case(name(8)).label == tmp_path / "labelsVa/amos_0008.nii.gz"
    both, ct, mr = ((split.train, split.val) for split in dataset.splits)
    assert both == (tuple(map(name, FILES["Tr"])), tuple(map(name, FILES["Va"])))
    assert ct == ((name(1), name(4), name(499)), (name(8), name(9)))
    assert mr == ((name(500), name(507)), (name(508),))


@pytest.mark.parametrize(("number", "kind"), [(499, "CT"), (500, "MR")])
def test_one_modality_alone_is_known_by_its_numbers(touch, tmp_path, number, kind) -> None:
    touch(f"imagesTr/{name(number)}.nii.gz", f"labelsTr/{name(number)}.nii.gz")
    dataset = read(tmp_path)
    assert (dataset.kind, dataset.channels, dataset.splits) == (kind, (kind,), ())


def test_a_split_of_ct_alone(touch, tmp_path) -> None:
    touch(*(f"{what}{part}/{name(n)}.nii.gz" for what in ("images", "labels") for part, n in (("Tr", 1), ("Va", 8))))
    assert [(split.train, split.val) for split in read(tmp_path).splits] == [((name(1),), (name(8),))]


def test_validation_scans_without_labels_are_for_testing(complete, tmp_path) -> None:
    for path in (tmp_path / "labelsVa").iterdir():
        path.unlink()
    (tmp_path / "labelsVa").rmdir()
    dataset = read(tmp_path)
    assert [case.id for case in dataset.test] == list(map(name, (2, 510, 8, 9, 508)))
    assert dataset.splits == ()


def test_training_scans_without_the_folder_of_labels(touch, tmp_path) -> None:
    touch(f"imagesTr/{name(1)}.nii.gz")
    with pytest.raises(InputError, match=r"amos_0001: .*has no twin .*/labelsTr/amos_0001"):
        read(tmp_path)


def test_all_problems_come_together(complete, touch, note, tmp_path) -> None:
    (tmp_path / "labelsTr/amos_0001.nii.gz").unlink()
    (tmp_path / "imagesTr/amos_0004.nii.gz").unlink()
    (tmp_path / "labelsVa/amos_0008.nii.gz").unlink()
    (tmp_path / "imagesVa/amos_0009.nii.gz").unlink()
    touch("imagesTr/scan.nii.gz", "imagesTr/amos_0500.nii", "imagesTs/amos_0499.nii.gz")
    note("dataset.json", listing())
    with pytest.raises(InputError, match="problems: 9") as caught:
        read(tmp_path)
    for text in (
        "amos_0001: .*has no twin .*/labelsTr/amos_0001",
        "amos_0004: .*has no twin .*/imagesTr/amos_0004",
        "amos_0008: .*has no twin .*/labelsVa/amos_0008",
        "amos_0009: .*has no twin .*/imagesVa/amos_0009",
        "scan.nii.gz: expected a name such as amos_0001",
        "amos_0500: both",
        "id amos_0499 occurs twice",
        "1 scans of imagesTr that dataset.json lists are not here: amos_0004",
        "1 scans of imagesVa that dataset.json lists are not here: amos_0009",
    ):
        assert caught.match(text)


def test_a_whole_folder_that_was_not_downloaded_is_told(complete, note, tmp_path) -> None:
    for path in (tmp_path / "imagesTs").iterdir():
        path.unlink()
    (tmp_path / "imagesTs").rmdir()
    note("dataset.json", listing(test=[{"image": "./imagesTs/amos_0002.nii.gz"}]))
    with pytest.warns(
        InputWarning, match="SET-01: .*1 scans of imagesTs that dataset.json lists are not here: amos_0002"
    ):
        assert read(tmp_path).test == ()


def test_a_broken_listing(complete, note, tmp_path) -> None:
    note("dataset.json", "{")
    with pytest.raises(InputError, match=r"SET-03: .*not valid JSON"):
        read(tmp_path)
    note("dataset.json", {"training": "all", "validation": [7, {"label": "a"}]})
    assert len(read(tmp_path).train) == 8


def test_it_goes_before_general_layouts_but_leaves_converted_folders_to_them(touch, note, complete, tmp_path) -> None:
    note("dataset.json", listing())
    assert recognising(tmp_path) == ["amos"]
    for path in tmp_path.glob("images*/*"):
        path.rename(path.with_name(path.name.replace(".nii.gz", "_0000.nii.gz")))
    note("dataset.json", {"channel_names": {"0": "CT"}, "labels": {"background": 0, "spleen": 1}})
    assert not recognises(tmp_path)
    assert recognising(tmp_path) == ["nnunet"]


def test_nothing_there(tmp_path) -> None:
    assert not recognises(tmp_path)
    with pytest.raises(InputError, match=r"no cases; expected AMOS 2022"):
        read(tmp_path)
