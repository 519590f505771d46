import pytest

from voxelsam.errors import InputError, InputWarning
from voxelsam.layouts import open_dataset, recognising
from voxelsam.layouts.btcv import LABELS, PUBLISHED, read, recognises
from voxelsam.stacks.intensity import CT_ABDOMEN

MA_SAM_ORDER = (
    "spleen, right_kidney, left_kidney, gallbladder, oesophagus, liver, stomach, aorta, inferior_vena_cava, "
    "portal_and_splenic_veins, pancreas, right_adrenal_gland, left_adrenal_gland"
)


def pair(number: int, images: str = "RawData/Training/img", labels: str = "RawData/Training/label") -> tuple[str, str]:
    return f"{images}/img{number:04}.nii.gz", f"{labels}/label{number:04}.nii.gz"


def every(**where: str) -> list[str]:
    return [file for name in PUBLISHED for file in pair(int(name[3:]), **where)]


def test_the_table_is_that_of_the_papers() -> None:
    assert LABELS.values == {"background": 0} | {name: value for value, name in enumerate(MA_SAM_ORDER.split(", "), 1)}
    assert LABELS.regions == {"adrenal_glands": (12, 13)}


def test_thirty_scans_two_splits_and_the_window(touch, tmp_path) -> None:
    touch(*every(), "RawData/Testing/img/img0061.nii.gz", "RawData/Training/img/.DS_Store")
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.kind, dataset.channels) == ("btcv", "CT", ("CT",))
    assert dataset.window == (-200, 250) == (CT_ABDOMEN.low, CT_ABDOMEN.high)
    assert len(dataset.train) == 30
    assert [(case.id, case.label) for case in dataset.test] == [("img0061", None)]
    assert dataset.case("img0021").label == tmp_path / "RawData/Training/label/label0021.nii.gz"
    assert [(len(split.train), len(split.val)) for split in dataset.splits] == [(24, 6), (18, 12)]
    ma_sam, transunet = dataset.splits
    assert ma_sam.val == ("img0035", "img0036", "img0037", "img0038", "img0039", "img0040")
    assert [int(name[3:]) for name in transunet.val] == [1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38]
    for split in dataset.splits:
        assert {*split.train, *split.val} == set(PUBLISHED)
        assert not set(split.train) & set(split.val)


@pytest.mark.parametrize("above", ["Abdomen/RawData/Training/", "Abdomen/Training/", "Training/", ""])
def test_any_folder_of_the_download_will_do(touch, tmp_path, above) -> None:
    touch(*every(images=f"{above}img", labels=f"{above}label"))
    assert recognising(tmp_path) == ["btcv"]
    assert len(read(tmp_path).train) == 30


def test_the_arrangement_of_tutorials(touch, note, tmp_path) -> None:
    touch(*every(images="imagesTr", labels="labelsTr"), "imagesTs/img0061.nii.gz")
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, len(dataset.train), len(dataset.test)) == ("btcv", 30, 1)
    note("dataset.json", {"training": []})
    assert not recognises(tmp_path)


def test_scans_that_were_not_downloaded_are_told(touch, tmp_path) -> None:
    touch(*(file for number in (1, 5, 35) for file in pair(number)))
    with pytest.warns(InputWarning, match="SET-01: .*27 of 30 published training scans of BTCV .*img0002, .* 17 more"):
        dataset = read(tmp_path)
    assert [(split.train, split.val) for split in dataset.splits] == [
        (("img0001", "img0005"), ("img0035",)),
        (("img0005",), ("img0001", "img0035")),
    ]


def test_a_split_without_one_of_its_sides_is_none(touch, tmp_path) -> None:
    touch(*pair(5), *pair(6))
    with pytest.warns(InputWarning, match="SET-01"):
        assert read(tmp_path).splits == ()


def test_all_problems_come_together(touch, tmp_path) -> None:
    touch(pair(1)[0], pair(2)[1], *pair(3), "RawData/Training/img/img3.nii.gz", "RawData/Training/label/img0003.nii.gz")
    touch("RawData/Training/img/img0003.nii", "RawData/Testing/img/scan.nii.gz")
    with pytest.raises(InputError, match=r"problems: 6") as caught:
        read(tmp_path)
    for text in (
        "img0001: .*img0001.nii.gz has no twin .*label/label0001.nii.gz",
        "img0002: .*label0002.nii.gz has no twin .*img/img0002.nii.gz",
        "img3.nii.gz: expected a name such as img0001",
        "label/img0003.nii.gz: expected a name such as label0001",
        "img0003: both .*img0003.nii and .*img0003.nii.gz",
        "scan.nii.gz: expected a name such as img0061",
    ):
        assert caught.match(text)
    assert caught.value.code == "SET-01"


def test_testing_scans_cannot_be_training_scans(touch, tmp_path) -> None:
    touch(*every(), "RawData/Testing/img/img0001.nii.gz")
    with pytest.raises(InputError, match="id img0001 occurs twice"):
        read(tmp_path)


@pytest.mark.parametrize(
    "name", ["scan0001.nii.gz", "img001.nii.gz", "img0001_0000.nii.gz", "img00011.nii.gz", "img0001.png"]
)
def test_other_names_are_another_layout(touch, tmp_path, name) -> None:
    touch(f"img/{name}", f"label/{name}")
    assert not recognises(tmp_path)
    assert recognising(tmp_path) == ["pairs"]


def test_nothing_there(tmp_path) -> None:
    assert not recognises(tmp_path)
    with pytest.raises(InputError, match=r"no cases; expected BTCV: RawData/Training/img/img0001"):
        read(tmp_path)
