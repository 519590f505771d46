"""Every DICOM image of the shared collection of odd files reaches the verdict that its index asks for."""

import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from voxelsam import checks, formats
from voxelsam.errors import FormatError, GeometryError, InputError, VoxelSamError
from voxelsam.formats import dicom
from voxelsam.volumes import Volume

pytestmark = pytest.mark.shared

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])

EVEN = (
    "mr_sagittal_uncompressed",
    "mr_sagittal_compressed_default",
    "mr_sagittal_jpeg",
    "mr_sagittal_jpeg2000",
    "mr_sagittal_jpegls",
    "mr_sagittal_rle",
    "non_square_pixels",
    "two_slices_only",
    "dcmqi_ct_with_seg/23x38x3/image",
    "dcmqi_ct_with_seg/24x38x3/image",
)
"""Series that a second reader reads right."""


@pytest.fixture(scope="module")
def odd(shared: Path) -> Path:
    return shared / "data" / "bad_input" / "dicom"


def look(path: Path, *accept: str, **asked: Any) -> tuple[Volume, dict[str, str]]:
    """A volume, and the last message of each code that was noticed."""
    with warnings.catch_warnings(), checks.watching(accept=accept) as watch:
        warnings.simplefilter("ignore")
        volume = formats.read(path, **asked)
    return volume, {finding.code: finding.message for finding in watch.findings}


def refused(path: Path, error: type[InputError], code: str, message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        look(path)
    assert caught.value.code == code
    assert str(path) in str(caught.value)


def headers(folder: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(folder.rglob("*.dcm"))]


def place(header: pydicom.Dataset) -> np.ndarray:
    """RAS position of the first pixel, by hand."""
    return LPS_TO_RAS @ np.array(header.ImagePositionPatient, float)


@pytest.mark.parametrize("name", EVEN)
def test_a_second_reader_agrees(odd, name) -> None:
    import SimpleITK

    files = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(odd / name))
    image = SimpleITK.ReadImage(files)
    ours, _ = look(odd / name)
    theirs = SimpleITK.GetArrayFromImage(image).T
    np.testing.assert_allclose(ours.data[0], theirs, atol=1)
    for index in np.ndindex(2, 2, 2):
        corner = [int(at * (size - 1)) for at, size in zip(index, ours.grid.shape, strict=True)]
        world = LPS_TO_RAS @ np.array(image.TransformIndexToPhysicalPoint(corner))
        np.testing.assert_allclose(ours.grid.to_world(np.array([corner]))[0], world, atol=0.1)


@pytest.mark.parametrize("name", EVEN[:7])
def test_a_third_reader_agrees(odd, name) -> None:
    import highdicom

    series = [pydicom.dcmread(path) for path in sorted((odd / name).glob("*.dcm"))]
    for number, dataset in enumerate(series):
        dataset.FrameOfReferenceUID = "1.2.3"
        dataset.InstanceNumber = number
    volume = highdicom.get_volume_from_series(series)
    ours, _ = look(odd / name)
    other = np.array([volume.map_indices_to_reference(np.array([[k, j, i]]))[0] for k, j, i in ((0, 0, 0), (2, 5, 7))])
    if not np.allclose(LPS_TO_RAS @ other[0], ours.grid.to_world(np.zeros((1, 3)))[0], atol=0.1):
        last = volume.shape[0] - 1
        other = np.array(
            [volume.map_indices_to_reference(np.array([[last - k, j, i]]))[0] for k, j, i in ((0, 0, 0), (2, 5, 7))]
        )
    np.testing.assert_allclose(ours.grid.to_world(np.array([(0, 0, 0), (7, 5, 2)])), other @ LPS_TO_RAS, atol=0.1)


def test_the_tilt_is_told_and_lies_where_the_headers_say(odd) -> None:
    folder = odd / "ct_gantry_tilt_4"
    volume, found = look(folder)
    assert "14 degrees" in found["DCM-02"]
    ordered = sorted(headers(folder), key=lambda header: header.ImagePositionPatient[2])
    for k, header in enumerate(ordered):
        row, column = np.reshape(np.array(header.ImageOrientationPatient, float), (2, 3))
        down, across = (float(value) for value in header.PixelSpacing)
        for i, j in ((0, 0), (511, 0), (0, 511), (100, 300)):
            wanted = place(header) + LPS_TO_RAS @ (row * across * i + column * down * j)
            np.testing.assert_allclose(volume.grid.to_world(np.array([(i, j, k)]))[0], wanted, atol=1e-3)
    assert volume.grid.shear == pytest.approx(np.sin(np.radians(14)), abs=1e-3)


def test_two_images_at_one_position_are_no_volume(odd) -> None:
    refused(odd / "not_a_volume", GeometryError, "DCM-03", "no volume: 2 different images at one")


def test_two_slices(odd) -> None:
    volume, _ = look(odd / "two_slices_only")
    assert volume.grid.shape == (256, 256, 2)
    assert volume.grid.spacing == pytest.approx((1, 1, 1))


def test_an_uneven_gap(odd) -> None:
    folder = odd / "uneven_slice_gap"
    refused(folder, GeometryError, "DCM-01", "gap: 10 mm between .*0009-0001.dcm and .*0010-0001.dcm, elsewhere 5 mm")
    volume, found = look(folder, "DCM-01")
    assert "onto 5 slices" in found["DCM-01"]
    ordered = sorted(headers(folder), key=lambda header: header.ImagePositionPatient[2])
    for k, header in zip((0, 1, 2, 4), ordered, strict=True):
        np.testing.assert_allclose(volume.grid.to_world(np.array([(0, 0, k)]))[0], place(header), atol=1e-3)
    whole = [look(Path(header.filename))[0].data[..., 0] for header in ordered]
    np.testing.assert_allclose(volume.data[..., 4], whole[3])
    np.testing.assert_allclose(volume.data[..., 3], (whole[2].astype(float) + whole[3]) / 2, atol=0.01)


@pytest.mark.parametrize("name", EVEN[1:6])
def test_compressed_copies_are_equal(odd, name) -> None:
    """RLE is decoded by other code than the rest; the uncompressed series has the same headers, but other pixels."""
    packed, copy = look(odd / "mr_sagittal_rle")[0], look(odd / name)[0]
    np.testing.assert_array_equal(copy.data, packed.data)
    np.testing.assert_array_equal(copy.grid.affine, look(odd / "mr_sagittal_uncompressed")[0].grid.affine)
    assert copy.data.dtype == np.int16


def test_pixels_that_are_not_square(odd) -> None:
    volume, _ = look(odd / "non_square_pixels")
    assert volume.grid.shape == (64, 28, 4)
    assert volume.grid.spacing == pytest.approx((6.39996, 4.0, 0.5), abs=1e-3)
    ordered = sorted((odd / "non_square_pixels").glob("*.dcm"))
    for k, path in enumerate(ordered):
        header = pydicom.dcmread(path)
        wanted = header.pixel_array * float(header.RescaleSlope) + float(header.RescaleIntercept)
        np.testing.assert_allclose(volume.data[0, ..., k], wanted.T, rtol=1e-5)


@pytest.mark.parametrize("name", ["enhanced_mr_philips", "enhanced_mr_siemens", "multiframe_without_functional_groups"])
def test_multi_frame_objects_lie_where_their_frames_say(odd, name) -> None:
    (path,) = (odd / name).glob("*.dcm")
    volume, _ = look(odd / name)
    object_ = pydicom.dcmread(path)
    header = volume.source.header
    assert sorted(header.frames) == list(range(8))
    for k, frame in enumerate(header.frames):
        groups = object_.PerFrameFunctionalGroupsSequence[frame]
        first = groups.PlanePositionSequence[0]
        np.testing.assert_allclose(volume.grid.to_world(np.array([(0, 0, k)]))[0], place(first), atol=1e-3)
        both = (groups, *object_.get("SharedFunctionalGroupsSequence", ()))
        scale = [
            group.PixelValueTransformationSequence[0] for group in both if "PixelValueTransformationSequence" in group
        ]
        slope, intercept = (scale[0].RescaleSlope, scale[0].RescaleIntercept) if scale else (1, 0)
        wanted = object_.pixel_array[frame] * float(slope) + float(intercept)
        np.testing.assert_allclose(volume.data[0, ..., k], wanted.T, rtol=1e-5)


def test_two_time_points_are_not_mixed(odd) -> None:
    folder = odd / "two_timepoints_one_series"
    refused(folder, InputError, "VAL-05", "there are 2")
    assert formats.frames(folder) == 2
    for frame, numbers in enumerate(((1, 2, 3, 4), (41, 42, 43, 44))):
        volume, _ = look(folder, frame=frame)
        assert sorted(header.InstanceNumber for header in volume.source.header.datasets) == list(numbers)
        for k, header in enumerate(volume.source.header.datasets):
            np.testing.assert_allclose(volume.grid.to_world(np.array([(0, 0, k)]))[0], place(header), atol=0.01)


def test_a_single_slice(odd) -> None:
    volume, _ = look(odd / "single_slice")
    assert volume.grid.shape == (256, 256, 1)


def test_a_missing_slice_is_found(odd) -> None:
    folder = odd / "mr_missing_slice"
    refused(folder, GeometryError, "DCM-01", "gap: 6 mm between .*1-07.dcm and .*1-05.dcm, elsewhere 3 mm")
    volume, found = look(folder, "DCM-01")
    assert "onto 19 slices" in found["DCM-01"]
    assert volume.grid.spacing == pytest.approx((2, 2, 3), abs=1e-3)


def test_planes_of_a_localiser_are_parts(odd) -> None:
    folder = odd / "localizer_three_planes"
    refused(folder, InputError, "DCM-03", "there are 3; choose one")
    listed = dicom.list_series(folder)
    assert [(s.orientation, s.slices) for s in listed] == [("sagittal", 3), ("coronal", 5), ("axial", 5)]
    for part in listed:
        volume, found = look(folder, series=part.key)
        assert volume.grid.spacing == pytest.approx((1.5625, 1.5625, 10.5))
        assert "DCM-01" not in found
        for k, header in enumerate(volume.source.header.datasets):
            np.testing.assert_allclose(volume.grid.to_world(np.array([(0, 0, k)]))[0], place(header), atol=1e-3)


def test_an_image_without_modality(odd) -> None:
    volume, found = look(odd / "ct_without_modality_tag")
    assert "no Modality" in found["DCM-09"]
    assert volume.kind == "UNKNOWN"


@pytest.mark.parametrize("columns", [23, 24])
def test_the_slices_and_the_multi_frame_copy_of_an_image_with_segmentations(odd, columns) -> None:
    folder = odd / "dcmqi_ct_with_seg" / f"{columns}x38x3"
    slices, copy = look(folder / "image")[0], look(folder / "multiframe")[0]
    np.testing.assert_array_equal(slices.data, copy.data)
    np.testing.assert_allclose(slices.grid.affine, copy.grid.affine, atol=1e-4)
    assert slices.grid.shape == (columns, 38, 3)
    assert not dicom.recognises(folder / "seg", b"")
    assert not dicom.recognises(folder / "seg" / "label.seg", (folder / "seg" / "label.seg").read_bytes()[:4096])


def test_images_beside_segmentation_objects(odd) -> None:
    folder = odd / "highdicom_seg_objects"
    images = {path.name: path for path in sorted(folder.glob("*image*.dcm")) if not path.name.startswith("seg")}
    assert len(images) == 10
    for path in images.values():
        assert formats.family(path) == "dicom"
    shown, found = look(images["dx_image.dcm"])
    assert "MONOCHROME1" in found["DCM-07"]
    stored = pydicom.dcmread(images["dx_image.dcm"])
    np.testing.assert_array_equal(shown.data[0, ..., 0], 2**stored.BitsStored - 1 - stored.pixel_array.T)
    slide, _ = look(images["sm_image.dcm"])
    assert (slide.data.shape, slide.kind) == ((3, 50, 50, 1), "PICTURE")
    tiles = pydicom.dcmread(images["sm_image.dcm"]).pixel_array
    for number, tile in enumerate(tiles):
        left, top = number % 5 * 10, number // 5 * 10
        part = slide.data[:, left : left + 10, top : top + 10, 0]
        np.testing.assert_array_equal(part, np.moveaxis(tile, (0, 1, 2), (2, 1, 0)))
    for name in ("sm_image_jpegls.dcm", "sm_image_jpegls_nobot.dcm", "sm_image_numbers.dcm", "ct_image.dcm"):
        look(images[name])
    for path in folder.glob("seg*.dcm"):
        assert not dicom.recognises(path, path.read_bytes()[:4096])


def test_images_of_a_structure_set(odd) -> None:
    folder = odd / "rtstruct_phantom"
    volume, _ = look(folder / "oriented_data")
    for k, header in enumerate(volume.source.header.datasets):
        np.testing.assert_allclose(volume.grid.to_world(np.array([(0, 0, k)]))[0], place(header), atol=1e-3)
    assert look(folder / "mock_data")[0].grid.shape == (512, 512, 2)
    assert not dicom.recognises(folder / "empty", b"")


class TestTransferSyntaxes:
    NEAR = ("2", "2.1", "2.1.99", "2.2", "2.4.57", "2.4.70", "2.4.80", "2.4.90", "2.4.91", "2.5")

    def test_lossless_copies_are_equal(self, odd) -> None:
        folder = odd / "one_ct_slice_many_transfer_syntaxes"
        reference, _ = look(folder / "CTImage.dcm")
        ends = {f"_1.2.840.10008.1.{syntax}.dcm": syntax for syntax in self.NEAR}
        copies = {ends[end]: path for end in ends for path in folder.glob(f"CTImage.dcm_*{end}")}
        assert len(copies) == len(self.NEAR)
        for syntax, path in copies.items():
            copy, _ = look(path)
            np.testing.assert_array_equal(copy.grid.affine, reference.grid.affine)
            if syntax == "2.4.91":
                assert np.abs(copy.data.astype(float) - reference.data).mean() < 5
            else:
                np.testing.assert_array_equal(copy.data, reference.data, err_msg=path.name)

    def test_every_file_reads_or_says_why_not(self, odd) -> None:
        files = [path for path in (odd / "one_ct_slice_many_transfer_syntaxes").rglob("*") if path.is_file()]
        assert len(files) == 27
        failed = set()
        for path in files:
            try:
                look(path)
            except FormatError as error:
                failed.add(error.code)
        assert failed == {"DCM-05", "SET-03"}

    @pytest.mark.parametrize(
        ("part", "message"),
        [
            ("10_12", "Process 10 and 12.*which no known package decodes"),
            ("6_8", "Process 6 and 8.*which no known package decodes"),
            ("JPEGProcess2_4", "JPEG Extended.*pip install pylibjpeg pylibjpeg-libjpeg"),
            ("fragmented", "JPEG Extended.*pip install pylibjpeg pylibjpeg-libjpeg"),
        ],
    )
    def test_what_nothing_installed_decodes(self, odd, part, message) -> None:
        (path,) = (odd / "one_ct_slice_many_transfer_syntaxes").glob(f"*{part}*")
        refused(path, FormatError, "DCM-05", message)

    @pytest.mark.parametrize(("part", "off"), [("4.81", 10), ("4.50", 60)])
    def test_lossy_copies_are_near(self, odd, part, off) -> None:
        folder = odd / "one_ct_slice_many_transfer_syntaxes"
        (path,) = folder.glob(f"CTImage.dcm_*{part}.dcm")
        reference, lossy = look(folder / "CTImage.dcm")[0].data, look(path)[0].data
        assert np.abs(lossy - reference.astype(float)).mean() < off

    def test_colours_of_a_test_pattern(self, odd) -> None:
        folder = odd / "one_ct_slice_many_transfer_syntaxes"
        pictures = {path.name: look(path)[0].data for path in folder.glob("TestPattern*")}
        assert len(pictures) == 6
        plain = pictures["TestPattern_JPEG-Lossless_RGB.dcm"].astype(int)
        np.testing.assert_array_equal(pictures["TestPattern_JPEG-LS-Lossless.dcm"], plain)
        for name, picture in pictures.items():
            assert picture.shape == (3, 640, 400, 1)
            assert np.abs(picture.astype(int) - plain).mean() < 6, name


class TestOddFiles:
    """The small odd files of pydicom's own tests."""

    def test_every_file_reads_or_says_why_not_and_soon(self, odd) -> None:
        files = [path for path in sorted((odd / "pydicom_test_files").rglob("*")) if path.is_file()]
        assert len(files) == 168
        read = 0
        for path in files:
            begin = time.perf_counter()
            try:
                volume, _ = look(path)
            except VoxelSamError as error:
                assert path.name in str(error)  # noqa: PT017
            else:
                read += volume.source.format == "dicom"
            assert time.perf_counter() - begin < 5, path.name
        assert read >= 74

    @pytest.mark.parametrize(
        "name",
        [
            "MR_small_RLE", "MR_small_bigendian", "MR_small_expb", "MR_small_implicit", "MR_small_jp2klossless",
            "MR_small_jpeg_ls_lossless", "MR_small_padded",
        ],
    )  # fmt: skip
    def test_lossless_copies_are_equal(self, odd, name) -> None:
        folder = odd / "pydicom_test_files"
        plain, copy = look(folder / "MR_small.dcm")[0], look(folder / f"{name}.dcm")[0]
        np.testing.assert_array_equal(copy.data, plain.data)
        np.testing.assert_array_equal(copy.grid.affine, plain.grid.affine)

    @pytest.mark.parametrize(
        ("name", "code", "message"),
        [
            ("MR_truncated", "SET-03", "cut off or damaged.*8130 vs 8192"),
            ("rtplan_truncated", "DCM-03", "RT Plan Storage"),
            ("rtdose", "DCM-03", "RT Dose Storage"),
            ("test-SR", "DCM-03", "Comprehensive SR"),
            ("waveform_ecg", "DCM-03", "12-lead ECG"),
            ("badVR", "DCM-03", "RT Dose Storage"),
            ("ExplVR_BigEndNoMeta", "DCM-03", "RT Ion Plan"),
            ("JPEG-lossy", "DCM-05", "JPEG Extended"),
            ("JPGExtended", "DCM-05", "JPEG Extended"),
            ("JPEG2000-embedded-sequence-delimiter", "SET-03", "damaged"),
            ("priv_SQ", "DCM-03", "MR Image Storage without rows and columns"),
        ],
    )
    def test_what_cannot_be_read_is_named(self, odd, name, code, message) -> None:
        refused(odd / "pydicom_test_files" / f"{name}.dcm", FormatError, code, message)

    @pytest.mark.parametrize(
        "name", ["SC_rgb_rle", "SC_rgb_jpeg_dcmtk", "SC_rgb_gdcm_KY", "SC_ybr_full_422_uncompressed"]
    )
    def test_colours(self, odd, name) -> None:
        folder = odd / "pydicom_test_files"
        picture, _ = look(folder / f"{name}.dcm")
        red = picture.data[:, 50, 5, 0].astype(int)
        assert picture.kind == "PICTURE"
        assert np.abs(red - (255, 0, 0)).max() <= 2
        assert np.abs(picture.data[:, 50, 25, 0].astype(int) - (0, 255, 0)).max() <= 130

    def test_a_film_runs_along_k(self, odd) -> None:
        film, _ = look(odd / "pydicom_test_files" / "examples_ybr_color.dcm")
        assert (film.data.shape, film.kind, film.grid.along_k) == ((3, 320, 240, 30), "US", "time")
        header = pydicom.dcmread(odd / "pydicom_test_files" / "examples_ybr_color.dcm", stop_before_pixels=True)
        assert film.grid.spacing[2] == pytest.approx(float(header.FrameTime) / 1000)

    def test_a_folder_of_many_patients_is_listed(self, odd) -> None:
        folder = odd / "pydicom_test_files" / "dicomdirtests"
        listed = dicom.list_series(folder)
        assert len(listed) == 24
        assert len({series.key for series in listed}) == 24
        refused(folder, InputError, "DCM-03", "there are 24")
        for series in listed[::3]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    assert formats.read(folder, series=series.key).grid.shape[2] == series.slices
                except GeometryError as error:
                    assert error.code in ("DCM-01", "DCM-03")  # noqa: PT017

    def test_no_file_is_claimed_by_two_formats(self, odd) -> None:
        """But for those that are TIFF pictures as well, by what stands before their DICM; DICOM comes first."""
        from voxelsam import plugins
        from voxelsam.formats._files import head_of

        modules = {name: plugins.load("formats", name) for name in plugins.names("formats")}
        for path in sorted(path for path in odd.rglob("*") if path.is_file()):
            try:
                head = head_of(path)
            except FormatError:
                continue
            claimed = [name for name, module in modules.items() if module.recognises(path, head)]
            assert claimed[1:] == (["picture"] if head.startswith(b"II*\0") and len(claimed) > 1 else []), path
