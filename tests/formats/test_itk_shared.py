"""Every NRRD and MetaImage of the shared collection of odd files reaches the verdict that its index asks for."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from voxelsam.errors import FormatError, InputError, InputWarning
from voxelsam.formats import read, read_labels, write_labels
from voxelsam.volumes import LabelMap, Labels, Volume, check_pair

pytestmark = pytest.mark.shared

BALL = "BallBinary30x30x30"
PYNRRD = {
    f"{BALL}.nhdr": None,
    f"{BALL}.nrrd": None,
    f"{BALL}_bz2.nrrd": None,
    f"{BALL}_byteskip_minus_five.nhdr": "the least byte skip is -1",
    f"{BALL}_byteskip_minus_one.nhdr": None,
    f"{BALL}_byteskip_minus_one_nifti.nhdr": None,
    f"{BALL}_gz.nrrd": None,
    f"{BALL}_gz_byteskip_minus_one.nrrd": None,
    f"{BALL}_gz_lineskip.nrrd": None,
    f"{BALL}_nifti.nhdr": "its header is not its own .*more are there",
    "test1d_ascii.nrrd": "1 axes through space are no image",
    "test2d_ascii.nrrd": "",
    "test_customFields.nrrd": "1 axes through space are no image",
    "test_simple4d_raw.nrrd": "",
}
"""What is refused with which words; loads with a warning (empty) or without (None)."""


@pytest.fixture
def folder(shared: Path) -> Path:
    return shared / "data" / "bad_input"


def loads(path: Path) -> Volume:
    """Reads, and judges array and affine by SimpleITK."""
    volume = read(path)
    image = SimpleITK.ReadImage(str(path))
    np.testing.assert_array_equal(volume.data[0], SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0))
    turn = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    np.testing.assert_allclose(np.diag([-1, -1, 1]) @ volume.grid.affine[:3, :3], turn, atol=1e-12)
    np.testing.assert_allclose(np.diag([-1, -1, 1]) @ volume.grid.affine[:3, 3], image.GetOrigin(), atol=1e-12)
    return volume


def test_the_entries_are_known(folder: Path) -> None:
    names = {entry["name"] for entry in json.loads((folder / "index.json").read_text())}
    known = {"nrrd/pynrrd_test_data", "nrrd/breast_tumour", "nrrd/prostate_phantom", "mha/mr_2d"}
    assert {name for name in names if name.startswith(("nrrd", "mha"))} == known
    files = {path.name for path in (folder / "nrrd/pynrrd_test_data").iterdir() if "nrrd" in path.suffix}
    assert files | {path.name for path in (folder / "nrrd/pynrrd_test_data").glob("*.nhdr")} == set(PYNRRD)


@pytest.mark.parametrize("name", PYNRRD)
def test_pynrrd_test_data(folder: Path, name: str) -> None:
    path, verdict = folder / "nrrd/pynrrd_test_data" / name, PYNRRD[name]
    if verdict:
        with pytest.raises(FormatError, match=verdict) as caught:
            read(path)
        assert caught.value.code == "SET-03"
    elif verdict is None:
        plain = read(folder / f"nrrd/pynrrd_test_data/{BALL}.nrrd")
        assert set(np.unique(plain.data)) == {0, 257}
        np.testing.assert_array_equal(read(path).data, plain.data)
        np.testing.assert_array_equal(read(path).grid.affine, np.diag([-1, -1, 1, 1]))
    else:
        with pytest.warns(InputWarning):
            assert read(path).data.size == {"test2d_ascii.nrrd": 27, "test_simple4d_raw.nrrd": 1}[name]


def test_breast_tumour(folder: Path, tmp_path: Path) -> None:
    image = loads(folder / "nrrd/breast_tumour/breast1_image.nrrd")
    label = read_labels(folder / "nrrd/breast_tumour/breast1_label.nrrd", Labels({"background": 0, "tumour": 1}))
    check_pair(image, label)
    assert label.data.any()
    write_labels(tmp_path / "a.seg.nrrd", label, like=image)
    again = read_labels(tmp_path / "a.seg.nrrd")
    assert again.labels == label.labels
    np.testing.assert_array_equal(again.data, label.data)
    np.testing.assert_array_equal(again.grid.affine, image.grid.affine)


def test_prostate_phantom(folder: Path) -> None:
    image = loads(folder / "nrrd/prostate_phantom/prostate_phantom_subvolume.nrrd")
    label = read_labels(folder / "nrrd/prostate_phantom/prostate_phantom_subvolume-label.nrrd")
    check_pair(image, label)
    assert image.grid.axes == "RAS"


def test_a_flat_metaimage_is_one_slice(folder: Path, tmp_path: Path) -> None:
    path = folder / "mha/mr_2d/2DMRI-T1_brain.mha"
    with pytest.warns(InputWarning, match="GEO-05: .*axial slice"):
        image = read(path)
    assert (image.data.shape, image.grid.spacing) == ((1, 256, 256, 1), (1, 1, 1))
    np.testing.assert_array_equal(image.data[0, ..., 0].T, SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))))
    brain = LabelMap(
        (image.data[0] > image.data.mean()).astype(np.uint8), image.grid, Labels({"background": 0, "a": 1})
    )
    write_labels(tmp_path / "mask.mha", brain, like=image)
    assert SimpleITK.ReadImage(str(tmp_path / "mask.mha")).GetSize() == (256, 256)


def test_segmentations_beside_dicom(folder: Path) -> None:
    files = sorted((folder / "dicom/dcmqi_ct_with_seg").rglob("*.nrrd"))
    assert len(files) == 13
    for path in files:
        loads(path)
        assert read_labels(path).data.any()


def test_cut_off_in_the_middle(folder: Path, tmp_path: Path) -> None:
    for name in ("nrrd/breast_tumour/breast1_image.nrrd", "mha/mr_2d/2DMRI-T1_brain.mha"):
        content = (folder / name).read_bytes()
        for size in (60, 450, len(content) // 2, len(content) - 1):
            path = tmp_path / Path(name).name
            path.write_bytes(content[:size])
            with pytest.raises(InputError) as caught:
                read(path)
            assert caught.value.code == "SET-03"
