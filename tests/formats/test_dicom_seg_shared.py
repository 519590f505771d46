"""Real segmentations of the shared collection of odd files, and images that they belong to."""

import warnings
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK

from voxelsam import checks, formats
from voxelsam.errors import FormatError, GeometryError, InputWarning, LabelError, OutputError
from voxelsam.formats import dicom_seg
from voxelsam.space.grid import Grid
from voxelsam.volumes import LabelMap, Labels, Volume

pytestmark = pytest.mark.shared

LPS = np.array([-1.0, -1.0, 1.0])


@pytest.fixture
def dcmqi(shared: Path) -> Path:
    return shared / "data" / "bad_input" / "dicom" / "dcmqi_ct_with_seg"


@pytest.fixture
def judged(shared: Path) -> Path:
    return shared / "data" / "bad_input" / "dicom" / "highdicom_seg_objects"


def image_of(path: Path) -> Volume:
    """An image; what its reader thinks of it is not the matter here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        return formats.read(path)


def same_as_nrrd(mask: np.ndarray, grid: Grid, nrrd: Path, value: int) -> None:
    """The same voxels, compared by their millimetres as another program reads them."""
    judge = SimpleITK.ReadImage(str(nrrd))
    meant = np.argwhere(SimpleITK.GetArrayFromImage(judge) == value)[:, ::-1]
    assert len(meant) == mask.sum() > 0
    for index in meant[:: max(1, len(meant) // 200)].tolist():
        world = np.array(judge.TransformIndexToPhysicalPoint(index)) * LPS
        found = grid.to_index(world[None])[0]
        np.testing.assert_allclose(found, np.rint(found), atol=1e-3)
        assert mask[tuple(np.rint(found).astype(int))], (nrrd.name, index)


@pytest.mark.parametrize(
    ("seg", "nrrd", "name"),
    [
        ("liver.dcm", "liver_seg.nrrd", "Liver"),
        ("23x38x3/seg/label.seg", "23x38x3/nrrd/label.nrrd", "Liver"),
        ("24x38x3/seg/label.seg", "24x38x3/nrrd/label.nrrd", "Liver"),
        ("sparse-labelmap-noppv.dcm", "sparse_labelmap_noppv_seg.nrrd", "Liver"),
        ("sparse-labelmap-ppv5.dcm", "sparse_labelmap_ppv5_seg.nrrd", "Liver"),
    ],
)
def test_a_segmentation_equals_the_nrrd_beside_it(dcmqi: Path, seg: str, nrrd: str, name: str) -> None:
    again = formats.read_labels(dcmqi / seg)
    same_as_nrrd(again.data == again.labels.values[name], again.grid, dcmqi / nrrd, 1)
    by_name = formats.read_labels(dcmqi / seg, Labels({"background": 0, "liver": 5}))
    np.testing.assert_array_equal(by_name.data == 5, again.data == again.labels.values[name])


@pytest.mark.parametrize("folder", ["23x38x3", "24x38x3"])
@pytest.mark.parametrize("image", ["image", "multiframe/mf.dcm"])
def test_it_lies_on_the_grid_of_its_image(dcmqi: Path, folder: str, image: str) -> None:
    volume = image_of(dcmqi / folder / image)
    again = dicom_seg.read_labels_on(dcmqi / folder / "seg" / "label.seg", volume.grid)
    same_as_nrrd(again.data != 0, volume.grid, dcmqi / folder / "nrrd" / "label.nrrd", 1)
    with pytest.raises(GeometryError, match="reach from voxel") as caught:
        dicom_seg.read_labels_on(dcmqi / folder / "seg" / "label.seg", Grid((20, 38, 3), volume.grid.affine))
    assert caught.value.code == "GEO-02"


def test_a_label_map_with_a_slice_left_out_has_it(dcmqi: Path) -> None:
    path = dcmqi / "sparse-labelmap-noppv.dcm"
    assert pydicom.dcmread(path).NumberOfFrames == 2
    again = formats.read_labels(path)
    assert again.grid.shape == (24, 38, 3)
    assert [bool(again.data[:, :, k].any()) for k in range(3)] == [True, False, True]


def test_overlaps_are_reported_and_every_segment_equals_its_nrrd(dcmqi: Path) -> None:
    path = dcmqi / "partial_overlaps.dcm"
    with pytest.raises(
        LabelError, match=r"'GREEN' and 'ORANGE' share \d+ voxels; 'GREEN' and 'PURPLE' share"
    ) as caught:
        formats.read_labels(path)
    assert caught.value.code == "LAB-05"
    homes = {"GREEN": (1, 1), "ORANGE": (2, 2), "PURPLE": (3, 3), "LIGHT_BLUE": (1, 4), "DARK_BLUE": (1, 5)}
    segments = {segment.name: segment for segment in dicom_seg.read_segments(path)}
    assert set(segments) == set(homes)
    for name, (file, value) in homes.items():
        same_as_nrrd(segments[name].mask, segments[name].grid, dcmqi / f"partial_overlaps-{file}.nrrd", value)
    orange, green = segments["ORANGE"].mask, segments["GREEN"].mask
    assert f"'GREEN' and 'ORANGE' share {(orange & green).sum()} voxels" in str(caught.value)


READABLE = ("ct_binary", "ct_binary_fractional", "ct_binary_single_frame")


@pytest.mark.parametrize("name", READABLE)
def test_highdicom_reads_the_same(judged: Path, name: str) -> None:
    path = judged / f"seg_image_{name}.dcm"
    again = formats.read_labels(path)
    judge = highdicom.seg.segread(path)
    volume = judge.get_volume(combine_segments=False)
    seen = np.argwhere(volume.array[..., 0] != 0) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    found = again.grid.to_world(np.argwhere(again.data != 0)) * LPS
    np.testing.assert_allclose(np.sort(found, axis=0), np.sort(seen, axis=0), atol=1e-3)
    assert len(found) > 100


def test_labels_land_on_the_slice_they_were_drawn_on(judged: Path) -> None:
    volume = image_of(judged / "ct_image.dcm")
    again = dicom_seg.read_labels_on(judged / "seg_image_ct_binary_single_frame.dcm", volume.grid)
    assert again.data.sum() == 1832
    reference = pydicom.dcmread(judged / "seg_image_ct_binary_single_frame.dcm").PerFrameFunctionalGroupsSequence[0]
    source = reference.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
    assert source == pydicom.dcmread(judged / "ct_image.dcm").SOPInstanceUID
    with pytest.raises(GeometryError):
        dicom_seg.read_labels_on(judged / "seg_image_ct_binary.dcm", volume.grid)


@pytest.mark.parametrize(
    ("name", "error", "code", "message"),
    [
        ("ct_true_fractional", LabelError, "LAB-01", "149 voxels of a frame hold a share"),
        ("ct_binary_overlap", LabelError, "LAB-05", "'first segment' and 'second segment' share 16 voxels"),
        ("cr_binary", GeometryError, "DCM-08", "without a frame of reference or positions"),
        *(
            (f"sm_{kind}", FormatError, "SET-03", "a microscope's slide in tiles")
            for kind in (
                "control", "control_labelmap", "control_labelmap_palette_color", "dots", "dots_tiled_full", "numbers"
            )
        ),
    ],
)  # fmt: skip
def test_what_is_no_label_map_is_refused(
    judged: Path, name: str, error: type[Exception], code: str, message: str
) -> None:
    path = judged / f"seg_image_{name}.dcm"
    with pytest.raises(error, match=message) as caught:
        formats.read_labels(path)
    assert caught.value.code == code  # type: ignore[attr-defined]
    assert str(path) in str(caught.value)


def test_every_segmentation_of_the_collection_has_a_verdict(judged: Path) -> None:
    names = {path.stem.removeprefix("seg_image_") for path in judged.glob("seg_image_*")}
    refused = {"ct_true_fractional", "ct_binary_overlap", "cr_binary"}
    assert {name for name in names if not name.startswith("sm_")} == refused | set(READABLE)


def test_shares_become_yes_from_half_on_if_accepted(judged: Path) -> None:
    with checks.watching({"LAB-01"}) as watch:
        again = formats.read_labels(judged / "seg_image_ct_true_fractional.dcm")
    assert {finding.code for finding in watch.findings} == {"LAB-01"}
    assert (again.data != 0).sum() == 638


def test_exactly_half_is_yes_if_accepted(judged: Path, tmp_path: Path) -> None:
    data = pydicom.dcmread(judged / "seg_image_ct_true_fractional.dcm")
    data.MaximumFractionalValue = 128
    data.save_as(tmp_path / "seg.dcm")
    with checks.watching({"LAB-01"}):
        again = formats.read_labels(tmp_path / "seg.dcm")
    assert (again.data != 0).sum() == np.count_nonzero(data.pixel_array >= 64) == 661


def test_only_segmentations_are_taken(judged: Path, dcmqi: Path) -> None:
    for path in [*judged.glob("*.dcm"), *dcmqi.rglob("*.dcm")]:
        expected = str(pydicom.dcmread(path, specific_tags=["SOPClassUID"]).SOPClassUID)[-4:] in ("66.4", "66.7")
        assert dicom_seg.recognises(path, path.read_bytes()[:4096]) == expected, path.name


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_a_real_series_gets_one_and_highdicom_finds_its_slices(dcmqi: Path, tmp_path: Path, kind: str) -> None:
    image = image_of(dcmqi / "ct-3slice")
    labels = Labels({"background": 0, "bone": 4, "air": 9})
    data = np.where(image.data[0] > 300, 4, np.where(image.data[0] < -900, 9, 0)).astype(np.uint8)
    data[:, :, 1] = 0
    path = tmp_path / "seg.dcm"
    assert image.source is not None
    dicom_seg.write_segmentation(path, LabelMap(data, image.grid, labels), image.source, kind=kind)  # type: ignore[arg-type]
    np.testing.assert_array_equal(dicom_seg.read_labels(path, labels).data, data)
    judge = highdicom.seg.segread(path)
    for k, header in enumerate(image.source.header.datasets):
        pixels = judge.get_pixels_by_source_instance(
            [header.SOPInstanceUID], combine_segments=False, assert_missing_frames_are_empty=True
        )
        for place, value in enumerate((4, 9)):
            np.testing.assert_array_equal(pixels[0, ..., place], np.equal(data[:, :, k].T, value))


@pytest.mark.parametrize("name", ["mr_sagittal_uncompressed", "ct_gantry_tilt_4", "rtstruct_phantom/oriented_data"])
def test_images_without_a_frame_of_reference_get_none(shared: Path, tmp_path: Path, name: str) -> None:
    image = image_of(shared / "data" / "bad_input" / "dicom" / name)
    labels = Labels({"background": 0, "a": 1})
    label_map = LabelMap(np.ones(image.grid.shape, np.uint8), image.grid, labels)
    with pytest.raises(OutputError, match=r"frame of reference|resampled") as caught:
        formats.write_labels(tmp_path / "seg.dcm", label_map, like=image)
    assert "NIfTI" in str(caught.value)
    assert not list(tmp_path.iterdir())
