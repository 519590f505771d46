"""Every NIfTI entry and picture of the shared collection of odd files reaches the verdict that its index asks for."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from voxelsam.errors import FormatError, GeometryError, InputError, InputWarning, LabelError
from voxelsam.formats import read, read_labels, write_labels
from voxelsam.layouts import open_dataset
from voxelsam.volumes import LabelMap, Labels, Volume, check_pair

pytestmark = pytest.mark.shared

HIPPOCAMPUS = Labels({"background": 0, "anterior": 1, "posterior": 2})


@dataclass(frozen=True)
class Refused:
    """Reading raises this."""

    error: type[InputError]
    code: str
    message: str


def scan_of(folder: Path) -> Path:
    return folder / "scan.nii.gz"


def loads(path: Path) -> Volume:
    """Reads, and judges array and affine by nibabel."""
    volume = read(path)
    image = nibabel.load(path)
    voxels = np.asanyarray(image.dataobj)
    np.testing.assert_allclose(volume.data[0], voxels.reshape(voxels.shape[:3]), rtol=1e-6)
    np.testing.assert_array_equal(volume.grid.affine, image.affine)
    return volume


def refused(reader: Callable[[Path], object], path: Path, error: type[InputError], code: str, message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        reader(path)
    assert caught.value.code == code
    assert str(path) in str(caught.value)


def twin_keeps_place(path: Path, tmp_path: Path) -> None:
    image = read(path)
    labels = Labels({"background": 0, "a": 1})
    data = (image.data[0] > image.data.mean()).astype(np.uint8)
    write_labels(tmp_path / "out.nii.gz", LabelMap(data, image.grid, labels), like=image)
    again = read_labels(tmp_path / "out.nii.gz", labels)
    np.testing.assert_array_equal(again.grid.affine, image.grid.affine)
    np.testing.assert_array_equal(again.data, data)


def nibabel_test_data(folder: Path, tmp_path: Path) -> None:
    verdicts = {
        "analyze.hdr": Refused(FormatError, "SET-03", "Analyze 7.5"),
        "anatomical.nii": None,
        "example4d.nii.gz": Refused(InputError, "VAL-05", "holds 2"),
        "example_nifti2.nii.gz": Refused(InputError, "VAL-05", "holds 2"),
        "functional.nii": Refused(InputError, "VAL-05", "holds 20"),
        "nifti1.hdr": Refused(FormatError, "SET-03", "352 bytes.*no nifti1.img"),
        "nifti2.hdr": Refused(FormatError, "SET-03", "544 bytes.*no nifti2.img"),
        "reoriented_anat_moved.nii": None,
        "resampled_anat_moved.nii": Refused(InputError, "VAL-01", "153 voxels are not a number"),
        "row_major.dconn.nii": Refused(FormatError, "SET-03", "CIFTI"),
        "standard.nii.gz": None,
    }
    files = {path.name: path for path in folder.iterdir() if path.name.endswith((".nii", ".nii.gz", ".hdr"))}
    assert set(files) == set(verdicts)
    for name, verdict in verdicts.items():
        if verdict is None:
            loads(files[name])
            twin_keeps_place(files[name], tmp_path)
        else:
            refused(read, files[name], verdict.error, verdict.code, verdict.message)
    for name in ("example4d.nii.gz", "example_nifti2.nii.gz", "functional.nii"):
        image = nibabel.load(files[name])
        np.testing.assert_allclose(read(files[name], frame=1).data[0], image.dataobj[..., 1], rtol=1e-6)


def moved_pair(folder: Path, tmp_path: Path) -> None:
    for name in ("anatomical", "reoriented_anat_moved"):
        image, label = loads(folder / f"{name}.nii"), read_labels(folder / f"{name}_label.nii.gz")
        check_pair(image, label)
        assert image.grid.displacement(label.grid) < 1e-3


def four_dimensions(folder: Path, tmp_path: Path) -> None:
    path = folder / "pcasl.nii.gz"
    refused(read, path, InputError, "VAL-05", "holds 10 .*choose one")
    np.testing.assert_array_equal(read(path, frame=3).data[0], nibabel.load(path).dataobj[..., 3])


def spinal_cord(folder: Path, tmp_path: Path) -> None:
    image = loads(folder / "t2s.nii.gz")
    for path in sorted(folder.glob("*_*.nii.gz")):
        check_pair(image, read_labels(path))


def label_of_another_scan(folder: Path, tmp_path: Path) -> None:
    label = folder / "hippocampus_281.nii.gz"
    set_with_it = tmp_path / "set"
    for part in ("imagesTr", "labelsTr"):
        (set_with_it / part).mkdir(parents=True)
    (set_with_it / "labelsTr" / label.name).write_bytes(label.read_bytes())
    table = {"channel_names": {"0": "MRI"}, "labels": dict(HIPPOCAMPUS.values), "file_ending": ".nii.gz"}
    (set_with_it / "dataset.json").write_text(json.dumps(table))
    with pytest.raises(InputError, match=r"hippocampus_281.*has no image"):
        open_dataset(set_with_it)
    image = read(scan_of(folder.parents[1] / "nifti_derived" / "one_slice"))
    with pytest.raises(GeometryError, match=r"hippocampus_281.nii.gz has \(512, 512, 94\) voxels"):
        check_pair(image, read_labels(label))


def sheared(folder: Path, tmp_path: Path) -> None:
    with pytest.warns(InputWarning, match=r"GEO-03: .*scan.nii.gz: .*off by 19 degrees"):
        image = loads(scan_of(folder))
    label_map = LabelMap((image.data[0] > 50).astype(np.uint8), image.grid, Labels({"background": 0, "a": 1}))
    write_labels(tmp_path / "out.nii.gz", label_map, like=image)
    written = nibabel.load(tmp_path / "out.nii.gz")
    assert int(written.header["qform_code"]) == 0
    np.testing.assert_array_equal(written.affine, image.grid.affine)


def sform_wins(folder: Path, tmp_path: Path) -> None:
    with pytest.warns(InputWarning, match=r"GEO-04: .*scan.nii.gz: sform and qform differ by up to 121 mm"):
        volume = loads(scan_of(folder))
    np.testing.assert_array_equal(volume.grid.affine, nibabel.load(scan_of(folder)).header.get_sform())


def no_orientation(folder: Path, tmp_path: Path) -> None:
    with pytest.warns(InputWarning, match=r"GEO-05: .*scan.nii.gz: .*no orientation"):
        loads(scan_of(folder))


def soft_labels(folder: Path, tmp_path: Path) -> None:
    stored = np.asanyarray(nibabel.load(scan_of(folder)).dataobj)
    np.testing.assert_array_equal(read_labels(scan_of(folder), HIPPOCAMPUS).data, np.rint(stored))


def negative_label(folder: Path, tmp_path: Path) -> None:
    """The index says -1; the file holds 255 in its place (the sign was lost when it was made)."""
    assert np.asanyarray(nibabel.load(scan_of(folder)).dataobj).max() == 255
    refused(lambda path: read_labels(path, HIPPOCAMPUS), scan_of(folder), LabelError, "LAB-02", "255")
    with pytest.warns(InputWarning, match=r"LAB-02: .*255"):
        read_labels(scan_of(folder))
    assert read_labels(scan_of(folder), Labels(HIPPOCAMPUS.values, ignore=255)).labels.ignore == 255


def constant(folder: Path, tmp_path: Path) -> None:
    with pytest.warns(InputWarning, match=r"VAL-02: .*scan.nii.gz: every voxel is 7"):
        volume = loads(scan_of(folder))
    assert np.isfinite(volume.data).all()


def singleton(folder: Path, tmp_path: Path) -> None:
    assert loads(scan_of(folder)).data.shape == (1, 35, 51, 35)


def mirrored(folder: Path, tmp_path: Path) -> None:
    """The same scan as its unmirrored twin: two axes are stored backwards, and the affine says so."""
    volume, twin = loads(scan_of(folder)), read(scan_of(folder.parent / "singleton_4d"))
    index = np.argwhere(np.ones(twin.grid.shape))[::97]
    stored = np.rint(volume.grid.to_index(twin.grid.to_world(index))).astype(int)
    assert not np.array_equal(stored, index)
    np.testing.assert_array_equal(volume.data[0][tuple(stored.T)], twin.data[0][tuple(index.T)])
    twin_keeps_place(scan_of(folder), tmp_path)


def colours(folder: Path, tmp_path: Path) -> None:
    volume = read(scan_of(folder))
    stored = np.asanyarray(nibabel.load(scan_of(folder)).dataobj)
    for channel, colour in enumerate("RGB"):
        np.testing.assert_array_equal(volume.data[channel], stored[colour])


def label_loads(folder: Path, tmp_path: Path) -> None:
    stored = np.asanyarray(nibabel.load(scan_of(folder)).dataobj)
    np.testing.assert_array_equal(read_labels(scan_of(folder), HIPPOCAMPUS).data, stored)


def oblique(name: str) -> Callable[[Path, Path], None]:
    def check(folder: Path, tmp_path: Path) -> None:
        loads(folder / name)
        twin_keeps_place(folder / name, tmp_path)

    return check


def plain_gzip_name(folder: Path, tmp_path: Path) -> None:
    assert read(scan_of(folder)).data.shape == (1, 35, 51, 35)


def colours_called_grey(folder: Path, tmp_path: Path) -> None:
    path = folder / "1.tif"
    with pytest.warns(InputWarning, match=r"VAL-05: .*1.tif"):
        volume = read(path)
    assert (volume.data.shape, volume.kind) == ((3, 384, 288, 1), "PICTURE")
    red, _, blue = (float(channel.mean()) for channel in volume.data)
    assert red > 1.5 * blue


def lossy_mask(folder: Path, tmp_path: Path) -> None:
    path = folder / "imgy1.jpg"
    refused(read_labels, path, LabelError, "LAB-01", r"JPEG .* holds 248 values \(0, 1, 2")


def skin(folder: Path, tmp_path: Path) -> None:
    path = next(folder.parent.glob("dermoscopy_image/*.jpg"))
    image = read(path)
    np.testing.assert_array_equal(image.data[..., 0].transpose(2, 1, 0), np.asarray(Image.open(path)))
    mask = next(folder.parent.glob("dermoscopy_mask/*.png"))
    label = read_labels(mask, Labels({"background": 0, "lesion": 255}))
    check_pair(image, label)
    np.testing.assert_array_equal(label.data[..., 0].T, np.asarray(Image.open(mask)))
    refused(lambda path: read_labels(path, Labels({"background": 0, "a": 1})), mask, LabelError, "LAB-02", "0/255 mask")


def gif(folder: Path, tmp_path: Path) -> None:
    for reader in (read, read_labels):
        refused(reader, folder / "21_manual1.gif", FormatError, "SET-03", "begins with b'GIF89a.*can read: .*picture")


VERDICTS: dict[str, Callable[[Path, Path], None] | Refused] = {
    "nifti/nibabel_test_data": nibabel_test_data,
    "nifti/monai_moved_pair": moved_pair,
    "nifti/ct_pitch": oblique("CT_pitch.nii.gz"),
    "nifti/pcasl_4d": four_dimensions,
    "nifti/fmri_pitch": oblique("fmri_pitch.nii.gz"),
    "nifti/spinal_cord_t2s": spinal_cord,
    "nifti/label_of_another_scan": label_of_another_scan,
    "nifti_derived/sheared_sform": sheared,
    "nifti_derived/qform_sform_differ": sform_wins,
    "nifti_derived/no_orientation": no_orientation,
    "nifti_derived/zero_pixdim": Refused(GeometryError, "GEO-05", "no orientation, and voxel sizes"),
    "nifti_derived/int64_labels": label_loads,
    "nifti_derived/float_labels_soft": soft_labels,
    "nifti_derived/negative_label": negative_label,
    "nifti_derived/nan_inf_pixels": Refused(InputError, "VAL-01", "1324 voxels are not a number and 1624 are infinite"),
    "nifti_derived/constant_image": constant,
    "nifti_derived/singleton_4d": singleton,
    "nifti_derived/two_channels_4d": Refused(InputError, "VAL-05", "or split them"),
    "nifti_derived/one_slice": oblique("scan.nii.gz"),
    "nifti_derived/empty_label": label_loads,
    "nifti_derived/mirrored_axes": mirrored,
    "nifti_derived/rgb24": colours,
    "nifti_derived/truncated": Refused(FormatError, "SET-03", "20000 bytes"),
    "nifti_derived/not_gzip": plain_gzip_name,
    "nifti_derived/wrong_suffix_html": Refused(FormatError, "SET-03", "web page"),
    "nifti_derived/git_lfs_pointer": Refused(FormatError, "SET-03", "Git LFS pointer"),
    "image2d/tiff_wrong_photometric_image": colours_called_grey,
    "image2d/jpeg_mask": lossy_mask,
    "image2d/dermoscopy_image": skin,
    "image2d/dermoscopy_mask": skin,
    "image2d/gif_mask": gif,
}


def test_the_table_covers_the_index(shared: Path) -> None:
    index = json.loads((shared / "data" / "bad_input" / "index.json").read_text())
    assert {entry["name"] for entry in index if entry["name"].startswith(("nifti", "image2d"))} == set(VERDICTS)


@pytest.mark.parametrize("name", VERDICTS)
def test_verdict(name: str, shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "bad_input" / name
    verdict = VERDICTS[name]
    if isinstance(verdict, Refused):
        refused(read, scan_of(folder), verdict.error, verdict.code, verdict.message)
    else:
        verdict(folder, tmp_path)
