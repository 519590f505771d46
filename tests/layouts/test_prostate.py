import numpy as np
import pytest

from voxelsam.errors import InputError, InputWarning, LabelError
from voxelsam.formats import write_labels
from voxelsam.layouts import open_dataset, read_label
from voxelsam.layouts.prostate import LABELS, MA_SAM_TEST, SITES, read, recognises
from voxelsam.space.grid import Grid
from voxelsam.volumes import LabelMap, Labels

PUBLISHED = {
    "A": "3 8 12 15 18 26",
    "B": "3 8 12 15 18 26",
    "C": "3 8 13 15",
    "D": "1 32 34",
    "E": "0 4 9",
    "F": "38 41 46",
}
OTHERS = (50, 51)


def files(site: str, *numbers: int) -> list[str]:
    return [f"{site}/Case{number:02}{what}.nii.gz" for number in numbers for what in ("", "_segmentation")]


@pytest.fixture
def complete(touch):
    for site in SITES:
        touch(*files(site, *MA_SAM_TEST[site], *OTHERS))


def test_the_test_cases_are_those_of_the_readme() -> None:
    assert {letter: " ".join(map(str, MA_SAM_TEST[site])) for letter, site in zip("ABCDEF", SITES, strict=True)} == (
        PUBLISHED
    )


def test_cases_and_kind(complete, tmp_path) -> None:
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.kind, dataset.channels, dataset.window) == ("prostate", "MR", ("T2",), None)
    assert dataset.labels.to_json() == {"background": 0, "prostate": 1}
    assert len(dataset.train) == 25 + 12
    assert dataset.case("UCL_Case01").label == tmp_path / "UCL/Case01_segmentation.nii.gz"
    assert len({case.group for case in dataset.train}) == 37


def test_folds(complete, tmp_path) -> None:
    dataset = read(tmp_path)
    assert len(dataset.splits) == 14
    everything = {case.id for case in dataset.train}
    tests = {f"{site}_Case{number:02}" for site in SITES for number in MA_SAM_TEST[site]}
    assert set(dataset.splits[0].val) == tests
    assert set(dataset.splits[0].train) == everything - tests
    for place, site in enumerate(SITES):
        own = {name for name in everything if name.startswith(f"{site}_")}
        alone, held_out = dataset.splits[1 + place], dataset.splits[7 + place]
        assert (set(alone.val), set(alone.train)) == (own & tests, own - tests)
        assert (set(held_out.val), set(held_out.train)) == (own, everything - own)
        assert site in alone.name
        assert site in held_out.name
    across = dataset.splits[13]
    assert {name.split("_")[0] for name in across.train} == {"RUNMC"}
    assert set(across.train) | set(across.val) == everything


def test_sites_that_are_missing(touch, tmp_path) -> None:
    touch(*files("UCL", *MA_SAM_TEST["UCL"], 30), *files("HK", *MA_SAM_TEST["HK"], 40))
    with pytest.warns(InputWarning, match=r"SET-01: .*4 of 6 published sites .*\(BIDMC, BMC, I2CVB, RUNMC\)"):
        names = [split.name for split in read(tmp_path).splits]
    assert names == [
        "MA-SAM's test cases of all sites held out",
        "site D (UCL) alone, MA-SAM's test cases held out",
        "site F (HK) alone, MA-SAM's test cases held out",
        "site D (UCL) held out",
        "site F (HK) held out",
    ]


def test_test_cases_that_are_missing(complete, tmp_path) -> None:
    for what in ("", "_segmentation"):
        (tmp_path / f"BIDMC/Case09{what}.nii.gz").unlink()
    with pytest.warns(InputWarning, match=r"1 of 25 published test cases of MA-SAM are not here \(BIDMC_Case09\)"):
        read(tmp_path)


@pytest.mark.parametrize(("written", "message"), [((0, 1, 2), None), ((0, 1, 300), r"300 \(\d+ voxels\)")])
def test_zones_are_merged_into_prostate(complete, tmp_path, written, message) -> None:
    grid = Grid((2, 3, 4), np.eye(4))
    numbers = np.resize(np.array(written, np.uint16), grid.shape)
    write_labels(tmp_path / "HK/Case38_segmentation.nii.gz", LabelMap(numbers, grid, Labels.of_values({*written})))
    case = read(tmp_path).case("HK_Case38")
    if message:
        with pytest.raises(LabelError, match=message):
            read_label(case, LABELS)
    else:
        assert np.array_equal(read_label(case, LABELS).data, numbers > 0)


def test_all_problems_come_together(complete, touch, tmp_path) -> None:
    (tmp_path / "BMC/Case03_segmentation.nii.gz").unlink()
    (tmp_path / "BMC/Case08.nii.gz").unlink()
    touch("BMC/Case9.nii.gz", "BMC/case50_Segmentation.nii")
    for path in (tmp_path / "UCL").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="problems: 5") as caught:
        read(tmp_path)
    for text in (
        "BMC_Case03: .*Case03.nii.gz has no twin .*BMC/Case03_segmentation",
        "BMC_Case08: .*Case08_segmentation.nii.gz has no twin .*BMC/Case08.nii.gz",
        "Case9.nii.gz: expected Case00",
        "BMC_Case50: both",
        "UCL: no scans of this site",
    ):
        assert caught.match(text)


def test_capitals_do_not_matter(touch, tmp_path) -> None:
    touch("HK/Case37.nii.gz", "HK/Case37_Segmentation.nii.gz")
    with pytest.warns(InputWarning, match="SET-01"):
        assert [case.label.name for case in read(tmp_path).train] == ["Case37_Segmentation.nii.gz"]


@pytest.mark.parametrize(
    "name", ["OTHER/Case00.nii.gz", "BMC/scan00.nii.gz", "BMC/Case00.png", "BMC/deeper/Case00.nii.gz", "BMC"]
)
def test_other_folders_are_not_recognised(touch, tmp_path, name) -> None:
    touch(name)
    assert not recognises(tmp_path)
    with pytest.raises(InputError, match="SET-01"):
        read(tmp_path)
