import numpy as np
import pytest

from voxelsam.errors import InputError, LabelError
from voxelsam.formats import write_labels
from voxelsam.layouts import open_dataset, read_label
from voxelsam.layouts.brats import LABELS, LABELS_TREATED, read, recognises
from voxelsam.space.grid import Grid
from voxelsam.volumes import LabelMap, Labels

OLD = ("_t1", "_t1ce", "_t2", "_flair")
NEW = ("-t1n", "-t1c", "-t2w", "-t2f")


@pytest.fixture
def scan(touch):
    def make(folder: str, *, label: bool = True, ending: str = ".nii.gz") -> None:
        name = folder.rpartition("/")[2]
        new = name.startswith("BraTS-")
        label_suffix = ("-seg" if new else "_seg",) if label else ()
        touch(*(f"{folder}/{name}{suffix}{ending}" for suffix in (*(NEW if new else OLD), *label_suffix)))

    return make


def write_mask(path, values: tuple[int, ...]) -> np.ndarray:
    grid = Grid((2, 3, 4), np.eye(4))
    numbers = np.resize(np.array(values, np.uint8), grid.shape)
    write_labels(path, LabelMap(numbers, grid, Labels.of_values({0, *values})))
    return numbers


def test_tables_and_regions() -> None:
    assert LABELS.values == {"background": 0, "necrotic_core": 1, "oedema": 2, "enhancing_tumour": 3}
    assert LABELS.regions == {"whole_tumour": (1, 2, 3), "tumour_core": (1, 3)}
    assert LABELS_TREATED.values == LABELS.values | {"resection_cavity": 4}
    assert LABELS_TREATED.regions == LABELS.regions


@pytest.mark.parametrize(
    ("folder", "edition", "patient"),
    [
        ("HGG/Brats17_2013_10_1", "2017", "Brats17_2013_10"),
        ("HGG/Brats18_CBICA_AAB_1", "2018", "Brats18_CBICA_AAB"),
        ("LGG/BraTS19_TCIA10_103_1", "2019", "BraTS19_TCIA10_103"),
        ("MICCAI_BraTS2020_TrainingData/BraTS20_Training_001", "2020", "BraTS20_Training_001"),
        ("BraTS2021_00000", "2021", "BraTS2021_00000"),
        ("ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData/BraTS-GLI-00002-001", "GLI", "BraTS-GLI-00002"),
        ("a_train/b_brats/BraTS-MEN-00004-000", "MEN", "BraTS-MEN-00004"),
    ],
)
def test_every_year_is_found_with_its_patients(scan, tmp_path, folder, edition, patient) -> None:
    scan(folder)
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.name, dataset.kind) == ("brats", f"BraTS ({edition})", "MR")
    assert dataset.channels == ("t1", "t1ce", "t2", "flair")
    (case,) = dataset.train
    assert (case.id, case.group) == (folder.rpartition("/")[2], patient)
    suffixes = NEW if "-GLI-" in folder or "-MEN-" in folder else OLD
    assert [path.name for path in case.images] == [f"{case.id}{suffix}.nii.gz" for suffix in suffixes]
    assert (dataset.splits, dataset.window) == ((), None)


def test_visits_of_one_patient_stay_together(scan, tmp_path) -> None:
    scan("BraTS-GLI-00005-100")
    scan("BraTS-GLI-00005-101")
    scan("BraTS-GLI-00006-100")
    assert [case.group[-5:] for case in read(tmp_path).train] == ["00005", "00005", "00006"]


def test_until_2021_enhancing_tumour_is_4_in_the_file(scan, tmp_path) -> None:
    scan("BraTS2021_00000")
    case = read(tmp_path).train[0]
    numbers = write_mask(case.label, (0, 1, 2, 4))
    assert np.array_equal(read_label(case, LABELS).data, np.where(numbers == 4, 3, numbers))


def test_from_2023_on_numbers_are_the_values(scan, tmp_path) -> None:
    scan("BraTS-GLI-00000-000")
    case = read(tmp_path).train[0]
    numbers = write_mask(case.label, (0, 1, 2, 3))
    assert np.array_equal(read_label(case, LABELS).data, numbers)


@pytest.mark.parametrize("folder", ["BraTS2021_00000", "BraTS-GLI-00000-000"])
def test_a_file_with_both_3_and_4_is_an_error(scan, tmp_path, folder) -> None:
    scan(folder)
    dataset = read(tmp_path)
    write_mask(dataset.train[0].label, (0, 1, 2, 3, 4))
    with pytest.raises(LabelError, match=r"also holds [34] ") as caught:
        read_label(dataset.train[0], dataset.labels)
    assert caught.value.code == "LAB-02"


def test_but_after_treatment_4_is_the_cavity(scan, tmp_path) -> None:
    scan("BraTS-GLI-00005-100")
    scan("BraTS-GLI-00006-000")
    dataset = read(tmp_path)
    assert dataset.labels == LABELS_TREATED
    numbers = write_mask(dataset.train[0].label, (0, 1, 2, 3, 4))
    assert np.array_equal(read_label(dataset.train[0], dataset.labels).data, numbers)


def test_channels_can_be_chosen(scan, tmp_path) -> None:
    scan("BraTS-GLI-00000-000")
    scan("BraTS-GLI-00001-000", ending=".nii")
    dataset = read(tmp_path).with_channels(["flair", "t1ce"])
    assert [[path.name[-11:] for path in case.images] for case in dataset.train] == [
        ["-t2f.nii.gz", "-t1c.nii.gz"],
        ["000-t2f.nii", "000-t1c.nii"],
    ]


@pytest.mark.parametrize("folder", ["a_ValidationData", "Testing_brats", "brats"])
def test_scans_for_testing(scan, tmp_path, folder) -> None:
    scan("TrainingData/BraTS2021_00000")
    scan(f"{folder}/BraTS2021_00001", label=False)
    dataset = read(tmp_path)
    assert [case.id for case in dataset.test] == ["BraTS2021_00001"]
    assert [case.id for case in dataset.train] == ["BraTS2021_00000"]


def test_in_a_folder_for_testing_some_may_have_labels(scan, tmp_path) -> None:
    scan("ValidationData/BraTS2021_00000")
    scan("ValidationData/BraTS2021_00001", label=False)
    assert [case.id for case in read(tmp_path).test] == ["BraTS2021_00001"]


@pytest.mark.parametrize("folder", ["brats", "latest_brats", "train_a"])
def test_beside_labelled_scans_a_label_is_missing(scan, tmp_path, folder) -> None:
    scan(f"{folder}/BraTS2021_00000")
    scan(f"{folder}/BraTS2021_00001", label=False)
    with pytest.raises(InputError, match=r"label \(seg\) is missing in 1 cases \(BraTS2021_00001\)"):
        read(tmp_path)


def test_case_355_of_2020(scan, touch, tmp_path) -> None:
    scan("BraTS20_Training_355", label=False)
    touch("BraTS20_Training_355/W39_1998.09.19_Segm.nii")
    assert read(tmp_path).train[0].label.name == "W39_1998.09.19_Segm.nii"


def test_what_was_not_downloaded(scan, tmp_path) -> None:
    for number in range(13):
        scan(f"BraTS2021_{number:05}", label=number != 2)
        if number:
            (tmp_path / f"BraTS2021_{number:05}/BraTS2021_{number:05}_flair.nii.gz").unlink()
    (tmp_path / "BraTS2021_00000/BraTS2021_00000_t1.nii.gz").rename(
        tmp_path / "BraTS2021_00000/BraTS2021_00000-t1n.nii.gz"
    )
    with pytest.raises(InputError, match="problems: 3") as caught:
        read(tmp_path)
    for text in (
        r"flair is missing in 12 cases \(BraTS2021_00001, .*BraTS2021_00010 and 2 more\)",
        r"t1 is missing in 1 cases \(BraTS2021_00000\)",
        r"the label \(seg\) is missing in 1 cases \(BraTS2021_00002\)",
    ):
        assert caught.match(text)
    assert caught.value.code == "SET-01"


def test_training_without_any_label(scan, tmp_path) -> None:
    scan("MICCAI_BraTS2020_TrainingData/BraTS20_Training_001", label=False)
    with pytest.raises(InputError, match=r"label \(seg\) is missing in 1 cases"):
        read(tmp_path)


@pytest.mark.parametrize(
    "folders",
    [
        ("Brats18_CBICA_AAB_1", "BraTS19_CBICA_AAB_1"),
        ("BraTS20_Training_001", "BraTS2021_00000"),
        ("BraTS2021_00000", "BraTS-GLI-00000-000"),
    ],
)
def test_years_cannot_be_mixed(scan, tmp_path, folders) -> None:
    for folder in folders:
        scan(folder)
    with pytest.raises(InputError, match=f"SET-02: scans of several years.*{folders[0]}.*{folders[1]}"):
        read(tmp_path)


def test_cohorts_can_be_mixed_if_they_are_known(scan, tmp_path) -> None:
    scan("BraTS-GLI-00000-000")
    scan("BraTS-SSA-00001-000")
    assert read(tmp_path).name == "BraTS (GLI, SSA)"
    scan("BraTS-PED-00002-000")
    with pytest.raises(InputError, match=r"BraTS-PED \(BraTS-PED-00002-000\): what its label values mean is not known"):
        read(tmp_path)


def test_one_scan_in_two_folders(scan, tmp_path) -> None:
    scan("HGG/Brats17_2013_10_1")
    scan("LGG/Brats17_2013_10_1")
    with pytest.raises(InputError, match=r"problems: 1\):\n.*id Brats17_2013_10_1 occurs twice"):
        read(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "BraTS2021_Training_Data/scan_flair.nii.gz",
        "BRATS_001/BRATS_001_flair.nii.gz",
        "cases/BraTS2021_00000/BraTS2021_00000_flair.nii.gz",
        "train/train/train/BraTS2021_00000/BraTS2021_00000_flair.nii.gz",
        "BraTS2021_00000_flair.nii.gz",
    ],
)
def test_other_folders_are_not_recognised(touch, tmp_path, name) -> None:
    touch(name)
    assert not recognises(tmp_path)
    with pytest.raises(InputError, match="no cases; expected BraTS"):
        read(tmp_path)
