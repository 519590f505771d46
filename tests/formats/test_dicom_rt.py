"""RT structure sets are told apart and refused, with what is missing."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from voxelsam import formats
from voxelsam.errors import FormatError, OutputError
from voxelsam.formats import dicom_rt
from voxelsam.space.grid import Grid
from voxelsam.volumes import LabelMap, Labels, Volume


@pytest.fixture
def phantom_rt(shared: Path) -> Path:
    return shared / "data" / "bad_input" / "dicom" / "rtstruct_phantom"


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "structures", "images", "there"),
    [
        ("empty/dummy_rt.dcm", 4, 5, 0),
        ("mock_data/invalid_reference_rt.dcm", 4, 5, 2),
        ("mock_data/non_existent_reference_rt.dcm", 4, 3, 2),
        ("mock_data/rt.dcm", 1, 2, 2),
    ],
)
def test_the_message_counts_the_images_that_are_missing(
    phantom_rt: Path, name: str, structures: int, images: int, there: int
) -> None:
    path = phantom_rt / name
    for reader in (dicom_rt.read, dicom_rt.read_labels, dicom_rt.read_numbers, dicom_rt.frames):
        with pytest.raises(FormatError, match="RT structure set") as caught:
            reader(path)
        message = str(caught.value)
        assert caught.value.code == "SET-03"
        assert f"{path}: this is an RT structure set ({structures} structures)" in message
        assert f"refer to {images} images, of which {there} lie beside it" in message
        assert "convert it together with its images" in message


@pytest.mark.shared
def test_reading_it_as_labels_never_succeeds(phantom_rt: Path) -> None:
    for path in sorted(phantom_rt.rglob("*rt.dcm")):
        with pytest.raises(FormatError, match=r"(?i)RT structure set"):
            formats.read_labels(path)


@pytest.mark.shared
def test_it_is_told_by_its_content(phantom_rt: Path, tmp_path: Path) -> None:
    for path in phantom_rt.rglob("*.dcm"):
        assert dicom_rt.recognises(path, path.read_bytes()[:4096]) == path.name.endswith("rt.dcm"), path
    assert dicom_rt.recognises(phantom_rt / "empty", b"")
    assert not dicom_rt.recognises(phantom_rt / "mock_data", b"")
    assert not dicom_rt.recognises(tmp_path, b"")


@pytest.mark.shared
def test_a_cut_structure_set_is_said_to_be_cut(phantom_rt: Path, tmp_path: Path) -> None:
    content = (phantom_rt / "mock_data" / "rt.dcm").read_bytes()
    for part in (300, 700, len(content) - 7):
        (tmp_path / "rt.dcm").write_bytes(content[:part])
        with pytest.raises(FormatError, match=r"rt.dcm: .*(structure set)") as caught:
            dicom_rt.read_labels(tmp_path / "rt.dcm")
        assert caught.value.code == "SET-03"


@pytest.mark.shared
def test_a_folder_of_it_and_other_files_beside_it_are_no_trouble(phantom_rt: Path, tmp_path: Path) -> None:
    shutil.copy(phantom_rt / "mock_data" / "rt.dcm", tmp_path / "rt.dcm")
    with pytest.raises(FormatError, match="2 images, of which 0 lie beside it"):
        dicom_rt.read_labels(tmp_path)
    (tmp_path / "notes.txt").write_text("no DICOM")
    with pytest.raises(FormatError, match="2 images, of which 0 lie beside it"):
        dicom_rt.read_labels(tmp_path / "rt.dcm")


def test_none_is_written(tmp_path: Path) -> None:
    grid = Grid((2, 2, 2), np.eye(4))
    with pytest.raises(OutputError, match="RT structure sets are not written; write a DICOM segmentation"):
        dicom_rt.write_labels(tmp_path / "a.dcm", LabelMap(np.zeros((2, 2, 2), int), grid, Labels({"background": 0})))
    with pytest.raises(OutputError, match="hold no images"):
        dicom_rt.write_volume(tmp_path / "a.dcm", Volume(np.zeros((1, 2, 2, 2)), grid))
    assert not list(tmp_path.iterdir())
