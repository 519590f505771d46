"""DICOM images that were made up here: each thing that can be odd about a series, one at a time."""

import io
import logging
import sys
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    RTStructureSetStorage,
    SegmentationStorage,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)

from voxelsam import checks, formats
from voxelsam.errors import (
    FormatError,
    GeometryError,
    InputError,
    InputWarning,
    LabelError,
    MissingExtra,
    OutputError,
    VoxelSamError,
)
from voxelsam.formats import _dicom_files, dicom
from voxelsam.formats._dicom_codec import stream_size
from voxelsam.volumes import Labels, Volume

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
ODD = "1.2.840.99.1"
FRAME_OF_REFERENCE = "1.2.840.99.2"

Edit = Callable[[int, Dataset], None]


def plain(pixels: np.ndarray, modality: str = "CT", sop: str = CTImageStorage) -> FileDataset:
    """A valid image without geometry."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = sop, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID, data.Modality = "1.2.840.99.0", ODD, modality
    data.SeriesDescription, data.InstanceNumber = "made up", 1
    data.Rows, data.Columns = pixels.shape[-2:] if pixels.ndim < 4 else pixels.shape[-3:-1]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = pixels.dtype.itemsize * 8
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes()
    return data


def coloured(pixels: np.ndarray, modality: str, interpretation: str = "RGB") -> FileDataset:
    """A valid colour image (rows columns 3)."""
    data = plain(pixels[..., 0], modality)
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, interpretation, 0
    data.PixelData = pixels.tobytes()
    return data


def series(
    folder: Path,
    volume: np.ndarray,
    *,
    cosines: tuple[float, ...] = AXIAL,
    spacing: tuple[float, float] = (2.0, 0.5),
    start: tuple[float, ...] = (-10.0, 20.0, 30.0),
    step: tuple[float, ...] = (0.0, 0.0, 3.0),
    positions: list[tuple[float, ...]] | None = None,
    modality: str = "CT",
    edit: Edit | None = None,
    first: int = 0,
) -> Path:
    """Writes a series: ``volume`` is k j i; spacing is that of rows, then that of columns, as in DICOM."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, pixels in enumerate(volume):
        data = plain(pixels, modality, CTImageStorage if modality == "CT" else MRImageStorage)
        data.FrameOfReferenceUID = FRAME_OF_REFERENCE
        data.ImageOrientationPatient = [f"{value:.8g}" for value in cosines]
        place = positions[k] if positions else tuple(np.asarray(start) + k * np.asarray(step))
        data.ImagePositionPatient = [f"{value:.8g}" for value in place]
        data.PixelSpacing = [f"{value:.8g}" for value in spacing]
        if modality == "CT":
            data.RescaleSlope, data.RescaleIntercept = "1", "-1024"
        data.InstanceNumber = first + k + 1
        if edit:
            edit(k, data)
        store(folder / f"{first + k:03}.dcm", data)
    return folder


def store(path: Path, data: FileDataset) -> Path:
    """Writes a data set in the transfer syntax that its meta header names, and tidies nothing."""
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        fresh = Dataset()
        fresh.update({element.tag: element for element in data})
        fresh.file_meta, fresh.preamble = data.file_meta, data.preamble
        pydicom.dcmwrite(path, fresh, enforce_file_format=False)
    return path


def scan(depth: int = 4, dtype: type = np.int16, low: int = 0, high: int = 900) -> np.ndarray:
    """k j i, of sizes that cannot be mixed up."""
    return np.random.default_rng(depth).integers(low, high, (depth, 6, 5)).astype(dtype)


def look(path: Path, *accept: str, **asked: Any) -> tuple[Volume, dict[str, str]]:
    """A volume, and the last message of each code that was noticed."""
    with warnings.catch_warnings(), checks.watching(accept=accept) as watch:
        warnings.simplefilter("ignore")
        volume = dicom.read(path, **asked)
    return volume, {finding.code: finding.message for finding in watch.findings}


def silent(path: Path, **asked: Any) -> Volume:
    """A volume about which there is nothing to say."""
    volume, found = look(path, **asked)
    assert not found
    return volume


def refused(path: Path, error: type[InputError], code: str, message: str, **asked: Any) -> None:
    with pytest.raises(error, match=message) as caught:
        look(path, **asked)
    assert caught.value.code == code
    assert str(path) in str(caught.value)


def set_(**values: Any) -> Edit:
    """Gives every slice the same values."""

    def edit(k: int, data: Dataset) -> None:
        for keyword, value in values.items():
            setattr(data, keyword, value)

    return edit


def each(**values: list[Any]) -> Edit:
    """Gives slice k the k-th of each list."""

    def edit(k: int, data: Dataset) -> None:
        for keyword, value in values.items():
            setattr(data, keyword, value[k])

    return edit


def without(*keywords: str) -> Edit:
    def edit(k: int, data: Dataset) -> None:
        for keyword in keywords:
            del data[keyword]

    return edit


def turns() -> Iterator[np.ndarray]:
    """The 24 rotations that permute axes: columns are the directions of columns, rows and slices."""
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        matrix = np.zeros((3, 3))
        matrix[list(order), range(3)] = signs
        if np.linalg.det(matrix) > 0:
            yield matrix


ROTATIONS = tuple(turns())


class TestPlace:
    @given(
        turn=st.sampled_from(ROTATIONS),
        angles=st.tuples(*[st.floats(-0.4, 0.4)] * 3),
        rows=st.floats(0.3, 7),
        columns=st.floats(0.3, 7),
        step=st.floats(0.2, 9),
        tilt=st.tuples(st.floats(-0.6, 0.6), st.floats(-0.6, 0.6)),
        marked=st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 3)),
        backwards=st.booleans(),
    )
    @settings(max_examples=60, deadline=None, derandomize=True)
    def test_a_marked_voxel_lies_where_its_header_says(
        self, tmp_path_factory, turn, angles, rows, columns, step, tilt, marked, backwards
    ) -> None:
        i, j, k = marked
        axes = turned(*angles) @ turn
        shift = axes @ (tilt[0], tilt[1], 1.0) * step
        volume = np.zeros((4, 6, 5), np.int16)
        volume[k, j, i] = 500
        places = [tuple(np.array((-12.5, 40.25, 7.75)) + n * shift) for n in range(4)]
        files = series(
            tmp_path_factory.mktemp("series"),
            volume[::-1] if backwards else volume,
            cosines=(*axes[:, 0], *axes[:, 1]),
            spacing=(rows, columns),
            positions=places[::-1] if backwards else places,
        )
        read, _ = look(files)
        found = np.argwhere(read.data[0] == 500 - 1024)
        assert found.tolist() == [[i, j, k]]
        world = read.grid.to_world(found)[0]
        lps = np.array(places[k]) + i * columns * axes[:, 0] + j * rows * axes[:, 1]
        np.testing.assert_allclose(world, lps * (-1, -1, 1), atol=1e-4)
        assert read.data.shape == (1, 5, 6, 4)

    def test_the_third_axis_runs_along_the_normal_whatever_the_instance_numbers(self, tmp_path) -> None:
        volume = scan()
        down = series(tmp_path / "down", volume, step=(0, 0, -3))
        read = silent(down)
        np.testing.assert_array_equal(read.data[0], volume[::-1].T - 1024)
        np.testing.assert_allclose(read.grid.affine[:3, 3], (10, -20, 21))
        assert [header.InstanceNumber for header in read.source.header.datasets] == [4, 3, 2, 1]

    def test_spacing_comes_rows_first(self, tmp_path) -> None:
        assert silent(series(tmp_path, scan())).grid.spacing == pytest.approx((0.5, 2.0, 3.0))

    def test_a_tilt_is_told_and_kept(self, tmp_path) -> None:
        files = series(tmp_path, scan(), step=(0, 0.5, 3))
        read, found = look(files)
        assert set(found) == {"DCM-02"}
        assert "tilt" in found["DCM-02"]
        assert "1.5 mm" in found["DCM-02"]
        np.testing.assert_allclose(read.grid.affine[:3, 2], (0, -0.5, 3))

    def test_a_rounding_of_positions_is_no_tilt(self, tmp_path) -> None:
        silent(series(tmp_path, scan(), step=(0, 0.01, 3)))

    def test_a_single_slice_takes_its_depth_from_the_header(self, tmp_path) -> None:
        edits = {
            1.0: None,
            4.0: set_(SliceThickness="4"),
            6.5: set_(SliceThickness="4", SpacingBetweenSlices="6.5"),
        }
        for depth, edit in edits.items():
            read = silent(series(tmp_path / str(depth), scan(1), edit=edit))
            assert read.data.shape == (1, 5, 6, 1)
            np.testing.assert_allclose(read.grid.affine[:3, 2], (0, 0, depth))
            assert read.grid.along_k == "space"

    def test_cosines_of_another_length_are_made_unit_ones(self, tmp_path) -> None:
        read, found = look(series(tmp_path, scan(), cosines=(1.1, 0, 0, 0, 0.95, 0)))
        assert "unit vectors" in found["DCM-09"]
        assert "4 files" in found["DCM-09"]
        assert read.grid.spacing == pytest.approx((0.5, 2.0, 3.0))

    @pytest.mark.parametrize("cosines", [(0, 0, 0, 0, 0, 0), (1, 0, 0, 1, 0, 0), (1, 0, 0, 0.5, 0.5, 0)])
    def test_directions_that_are_none_are_refused(self, tmp_path, cosines) -> None:
        refused(series(tmp_path, scan(1), cosines=cosines), GeometryError, "DCM-09", "two directions at right angles")

    def test_commas_in_numbers_are_read_and_told(self, tmp_path) -> None:
        files = series(tmp_path, scan())
        for path in files.iterdir():
            path.write_bytes(path.read_bytes().replace(b"DS\x06\x002\\0.5 ", b"DS\x06\x002\\0,5 "))
        assert b"2\\0,5 " in (files / "000.dcm").read_bytes()
        read, found = look(files)
        assert "PixelSpacing is malformed" in found["DCM-09"]
        assert read.grid.spacing == pytest.approx((0.5, 2.0, 3.0))

    def test_numbers_that_are_none_count_as_missing(self, tmp_path) -> None:
        files = series(tmp_path, scan())
        for path in files.iterdir():
            path.write_bytes(path.read_bytes().replace(b"DS\x06\x002\\0.5 ", b"DS\x06\x002\\x.5 "))
        refused(files, GeometryError, "DCM-08", "no PixelSpacing")

    def test_nothing_says_where_slices_lie(self, tmp_path) -> None:
        lost = without("ImagePositionPatient")
        files = series(tmp_path / "many", scan(), edit=lost)
        refused(files, GeometryError, "DCM-08", "no ImagePositionPatient.*in 4 images.*instance numbers")
        read, found = look(files, "DCM-08")
        np.testing.assert_array_equal(read.data[0], scan().T - 1024)
        assert read.grid.along_k == "space"
        one, found = look(series(tmp_path / "one", scan(1), edit=lost))
        assert "no ImagePositionPatient" in found["DCM-08"]
        assert one.grid.along_k == "single"

    def test_positions_without_spacing_are_refused(self, tmp_path) -> None:
        files = series(tmp_path, scan(), edit=without("PixelSpacing"))
        refused(files, GeometryError, "DCM-08", "no PixelSpacing.*1 mm apart")
        assert look(files, "DCM-08")[0].grid.spacing == pytest.approx((1, 1, 3))

    def test_a_missing_frame_of_reference_is_told(self, tmp_path) -> None:
        _, found = look(series(tmp_path, scan(), edit=without("FrameOfReferenceUID")))
        assert "FrameOfReferenceUID" in found["DCM-08"]


def turned(a: float, b: float, c: float) -> np.ndarray:
    from nibabel.eulerangles import euler2mat

    return np.asarray(euler2mat(a, b, c))


class TestSteps:
    def places(self, *heights: float, sideways: float = 0.0) -> list[tuple[float, ...]]:
        return [(0.0, sideways * (n == 1), height) for n, height in enumerate(heights)]

    def test_a_gap_is_refused_and_named(self, tmp_path) -> None:
        files = series(tmp_path, scan(), positions=self.places(0, 3, 6, 12))
        refused(files, GeometryError, "DCM-01", "gap: 6 mm between .*002.dcm and .*003.dcm, elsewhere 3 mm")

    def test_an_accepted_gap_is_filled_so_that_millimetres_stay_right(self, tmp_path) -> None:
        heights = (0, 3, 6, 12, 15)
        ramp = np.zeros((5, 6, 5), np.int16) + np.array([10 * height for height in heights])[:, None, None]
        files = series(tmp_path, ramp.astype(np.int16), positions=self.places(*heights))
        read, found = look(files, "DCM-01")
        assert "resampled linearly onto 6 slices" in found["DCM-01"]
        np.testing.assert_allclose(read.data[0, 2, 3], np.arange(6) * 30 - 1024, atol=1e-3)
        np.testing.assert_allclose(read.grid.affine[:3, 2], (0, 0, 3))
        header = read.source.header
        assert header.resampled
        assert len(header.datasets) == 5

    def test_uneven_steps_are_refused_and_resampled_if_accepted(self, tmp_path) -> None:
        heights = (0, 2, 4.4, 6, 8)
        ramp = np.broadcast_to(np.array([round(100 * h) for h in heights], np.int16)[:, None, None], (5, 6, 5))
        files = series(tmp_path, np.array(ramp), positions=self.places(*heights))
        refused(files, GeometryError, "DCM-01", "irregular step: slices are 1.6 to 2.4 mm apart")
        read, _ = look(files, "DCM-01")
        np.testing.assert_allclose(read.data[0, 0, 0], np.arange(5) * 200 - 1024, atol=1e-2)

    def test_slightly_uneven_steps_are_told(self, tmp_path) -> None:
        read, found = look(series(tmp_path, scan(), positions=self.places(0, 3.05, 6, 9)))
        assert "irregular step" in found["DCM-01"]
        assert read.grid.spacing[2] == pytest.approx(3)

    def test_rounded_positions_are_even(self, tmp_path) -> None:
        silent(series(tmp_path, scan(), positions=self.places(0, 3.004, 6, 9)))

    def test_slices_shifted_sideways_are_no_volume(self, tmp_path) -> None:
        files = series(tmp_path, scan(), positions=self.places(0, 3, 6, 9, sideways=2))
        refused(files, GeometryError, "DCM-01", "shifted sideways.*2 mm")

    def test_a_stray_slice_far_away_is_not_filled_up_to(self, tmp_path) -> None:
        files = series(tmp_path, scan(), positions=self.places(0, 3, 6, 9000))
        with checks.watching(accept=("DCM-01",)), pytest.raises(GeometryError, match="separate the slices"):
            dicom.read(files)

    def test_thickness_against_the_real_step(self, tmp_path) -> None:
        read, found = look(series(tmp_path / "a", scan(), edit=set_(SliceThickness="5")))
        assert "SliceThickness is 5 mm, but slices are 3 mm apart" in found["DCM-01"]
        assert read.grid.spacing[2] == pytest.approx(3)
        silent(series(tmp_path / "b", scan(), edit=set_(SliceThickness="5", SpacingBetweenSlices="3")))
        silent(series(tmp_path / "c", scan(), edit=set_(SliceThickness="3")))
        _, found = look(series(tmp_path / "d", scan(), edit=set_(SpacingBetweenSlices="1.5")))
        assert "SpacingBetweenSlices is 1.5 mm" in found["DCM-01"]

    def test_copies_are_refused_and_dropped_if_accepted(self, tmp_path) -> None:
        volume = scan()
        again = volume[[0, 1, 1, 2, 3]]
        files = series(tmp_path, again, positions=self.places(0, 3, 3, 6, 9))
        refused(files, GeometryError, "DCM-01", "duplicate: 1 of.*001.dcm and .*002.dcm")
        read, _ = look(files, "DCM-01")
        np.testing.assert_array_equal(read.data[0], volume.T - 1024)

    def test_a_series_copied_whole_is_told_from_time_points(self, tmp_path) -> None:
        volume = scan()
        files = series(tmp_path, volume)
        series(tmp_path, volume, first=4)
        refused(files, GeometryError, "DCM-01", "duplicate: 4 of")
        assert look(files, "DCM-01")[0].data.shape == (1, 5, 6, 4)

    def test_several_images_at_one_position_are_no_volume(self, tmp_path) -> None:
        files = series(tmp_path / "a", scan(3), step=(0, 0, 0))
        refused(files, GeometryError, "DCM-03", "no volume: 3 different images at one")
        film = series(tmp_path / "b", scan(3), step=(0, 0, 0), edit=each(TriggerTime=["0", "40", "80"]))
        refused(film, InputError, "VAL-05", "there are 3")
        np.testing.assert_array_equal(look(film, frame=2)[0].data[0, ..., 0], scan(3)[2].T - 1024)


class TestTime:
    def test_time_points_are_chosen_never_mixed(self, tmp_path) -> None:
        early, late = scan(4), scan(4) + 1000
        series(tmp_path, early, edit=set_(AcquisitionNumber=1))
        files = series(tmp_path, late, edit=set_(AcquisitionNumber=2), first=40)
        assert dicom.frames(files) == 2
        refused(files, InputError, "VAL-05", "2 .*frame=0 to frame=1")
        refused(files, InputError, "VAL-05", "frame 2 was asked for", frame=2)
        for number, wanted in enumerate((early, late)):
            np.testing.assert_array_equal(silent(files, frame=number).data[0], wanted.T - 1024)
        (listed,) = dicom.list_series(files)
        assert (listed.slices, listed.frames) == (4, 2)

    def test_blank_slices_that_are_alike_are_no_copies(self, tmp_path) -> None:
        early, late = scan(4), scan(4) + 1
        early[0] = late[0] = 0
        series(tmp_path, early, edit=set_(AcquisitionNumber=1))
        files = series(tmp_path, late, edit=set_(AcquisitionNumber=2), first=40)
        assert dicom.frames(files) == 2

    def test_incomplete_time_points_are_refused(self, tmp_path) -> None:
        series(tmp_path, scan(4))
        files = series(tmp_path, scan(3), first=40)
        refused(files, GeometryError, "DCM-03", "4 positions, but 1 to 2 different images")

    def test_a_volume_has_one_frame(self, tmp_path) -> None:
        assert dicom.frames(series(tmp_path, scan())) == 1


class TestSeries:
    def two(self, folder: Path) -> Path:
        series(folder / "deep" / "a", scan(4))
        return series(folder / "b", scan(3), edit=set_(SeriesInstanceUID="1.2.840.99.77"), modality="MR").parent

    def test_several_series_are_listed_and_one_is_chosen(self, tmp_path) -> None:
        folder = self.two(tmp_path)
        refused(
            folder,
            InputError,
            "DCM-03",
            r"there are 2; choose.*\n  1: 1.2.840.99.77, MR, 3 slices, 5 x 6 pixels, axial",
        )
        listed = dicom.list_series(folder)
        assert [(s.key, s.number, s.modality, s.slices, s.size) for s in listed] == [
            ("1.2.840.99.77", 1, "MR", 3, (5, 6)),
            (ODD, 2, "CT", 4, (5, 6)),
        ]
        assert listed[0].description == "made up"
        for choice in ("1", "1.2.840.99.77", "99.77", ".77"):
            assert silent(folder, series=choice).data.shape[3] == 3
        assert silent(folder, series="2").data.shape[3] == 4
        assert formats.read(folder, series="2").kind == "CT"

    def test_a_choice_that_fits_none_or_several_lists_them(self, tmp_path) -> None:
        folder = self.two(tmp_path)
        for choice in ("9.9.9", "3", ""):
            refused(folder, InputError, "DCM-03", r"choose one.*\n  1: .*\n  2: ", series=choice)

    def test_a_single_series_need_not_be_chosen_but_may_not_be_another(self, tmp_path) -> None:
        files = series(tmp_path, scan())
        silent(files, series=ODD)
        refused(files, InputError, "DCM-03", "choose one", series="7.7")

    def test_orientations_of_one_series_are_parts(self, tmp_path) -> None:
        series(tmp_path, scan(3))
        series(tmp_path, scan(4), cosines=(0, 1, 0, 0, 0, -1), step=(3, 0, 0), first=10)
        files = series(tmp_path, scan(2), cosines=(1, 0, 0, 0, 0, -1), step=(0, 3, 0), first=20)
        assert [(s.key, s.orientation, s.slices) for s in dicom.list_series(files)] == [
            (f"{ODD}#1", "axial", 3),
            (f"{ODD}#2", "sagittal", 4),
            (f"{ODD}#3", "coronal", 2),
        ]
        refused(files, InputError, "DCM-03", "there are 3")
        assert silent(files, series="#2").data.shape[3] == 4
        refused(files, InputError, "DCM-03", "no single one", series=ODD)

    @pytest.mark.parametrize(
        ("first", "second", "note"),
        [
            ({"EchoTime": "10"}, {"EchoTime": "80"}, "echo time 10"),
            ({"DiffusionBValue": 0.0}, {"DiffusionBValue": 800.0}, "b-value 0"),
            ({"ImageType": ["ORIGINAL", "PRIMARY", "M"]}, {"ImageType": ["ORIGINAL", "PRIMARY", "P"]}, "image type M"),
        ],
    )
    def test_echoes_b_values_and_kinds_are_parts(self, tmp_path, first, second, note) -> None:
        series(tmp_path, scan(4), edit=set_(**first), modality="MR")
        files = series(tmp_path, scan(4) + 50, edit=set_(**second), first=10, modality="MR")
        listed = dicom.list_series(files)
        assert [s.slices for s in listed] == [4, 4]
        assert listed[0].note == note
        np.testing.assert_array_equal(silent(files, series="2").data[0], scan(4).T + 50)

    def test_an_echo_time_that_drifts_along_the_slices_splits_nothing(self, tmp_path) -> None:
        files = series(tmp_path, scan(4), edit=each(EchoTime=["10", "10.1", "10.2", "10.3"]), modality="MR")
        assert len(dicom.list_series(files)) == 1

    def test_other_sizes_and_spacings_are_parts(self, tmp_path) -> None:
        series(tmp_path, scan(3))
        series(tmp_path, scan(3), spacing=(1, 1), first=10)
        files = series(tmp_path, scan(3)[:, :4], first=20)
        assert [s.size for s in dicom.list_series(files)] == [(5, 6), (5, 6), (5, 4)]

    def test_files_of_other_kinds_lie_about(self, tmp_path) -> None:
        files = series(tmp_path, scan())
        (files / "notes.txt").write_text("patient was late")
        (files / ".DS_Store").write_bytes(b"\0" * 300)
        (files / "empty").write_bytes(b"")
        store(files / "rt.dcm", other(RTStructureSetStorage, "RTSTRUCT"))
        assert silent(files).data.shape[3] == 4

    def test_an_object_that_is_no_image_is_named(self, tmp_path) -> None:
        path = store(tmp_path / "sr.dcm", other("1.2.840.10008.5.1.4.1.1.88.11", "SR"))
        refused(path, FormatError, "DCM-03", "expected a DICOM image, but this is Basic Text SR Storage")

    def test_a_damaged_slice_stops_its_folder(self, tmp_path) -> None:
        files = series(tmp_path, scan())
        path = files / "001.dcm"
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(FormatError, match=r"001.dcm: .*cut off or damaged") as caught:
            dicom.read(files)
        assert caught.value.code == "SET-03"


def other(sop: str, modality: str) -> FileDataset:
    data = plain(scan(1)[0], modality, sop)
    for keyword in ("PixelData", "Rows", "Columns"):
        del data[keyword]
    return data


class TestRecognises:
    def by(self, path: Path) -> str | None:
        return formats.family(path)

    def test_files_folders_and_archives_with_images(self, tmp_path) -> None:
        files = series(tmp_path / "a" / "b", scan())
        (tmp_path / "a" / "readme.txt").write_text("x")
        assert self.by(files / "000.dcm") == "dicom"
        assert self.by(files) == "dicom"
        assert self.by(tmp_path / "a") == "dicom"
        assert self.by(packed(tmp_path / "a.zip", files)) == "dicom"

    def test_labels_belong_to_others(self, tmp_path) -> None:
        for sop, modality in ((SegmentationStorage, "SEG"), (RTStructureSetStorage, "RTSTRUCT")):
            path = store(tmp_path / f"{modality}.dcm", other(sop, modality))
            assert not dicom.recognises(path, path.read_bytes()[:4096])
        assert not dicom.recognises(tmp_path, b"")

    def test_headerless_files(self, tmp_path) -> None:
        for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian):
            data = plain(scan(1)[0].astype(">i2" if syntax == ExplicitVRBigEndian else "<i2"))
            bare = Dataset()
            bare.update({element.tag: element for element in data if element.tag.group > 2})
            stream = io.BytesIO()
            pydicom.dcmwrite(
                stream, bare, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian,
                enforce_file_format=False,
            )  # fmt: skip
            path = tmp_path / f"{syntax}.bin"
            path.write_bytes(stream.getvalue())
            assert self.by(path) == "dicom"
            np.testing.assert_array_equal(look(path)[0].data[0, ..., 0], scan(1)[0].T)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\x08\x00\x05\x00CS\n\x00ISO_IR 100",
            b"\x08\x00" * 400,
            b"\x02\x00\x00\x00" + b"\0" * 400,
            b"\x00\x08" * 400,
            b"BM" + b"\0" * 500,
            b"\x89PNG\r\n\x1a\n" + b"\0" * 500,
            b"\0" * 128 + b"DICK" + b"\0" * 300,
            b"PK\x03\x04 but no archive",
        ],
    )
    def test_other_files_are_left_alone(self, tmp_path, content) -> None:
        path = tmp_path / "file.dcm"
        path.write_bytes(content)
        assert not dicom.recognises(path, content[:4096])

    @given(st.sampled_from([b"\x08\x00", b"\x00\x08", b"\x02\x00", b""]), st.binary(max_size=200))
    @settings(max_examples=200, deadline=None, derandomize=True)
    def test_noise_is_left_alone(self, start, noise) -> None:
        assert not dicom.recognises(Path("noise"), start + noise)

    def test_a_folder_without_images_is_left_alone_soon(self, tmp_path) -> None:
        for number in range(200):
            (tmp_path / f"{number}.nii").write_bytes(b"x")
        looked = []
        original = _dicom_files.Entry.head
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_dicom_files.Entry, "head", lambda self: looked.append(1) or original(self))
            assert not dicom.recognises(tmp_path, b"")
        assert len(looked) <= 50


class TestValues:
    def test_hounsfield_units_stay_small_integers(self, tmp_path) -> None:
        read = silent(series(tmp_path, scan()))
        assert read.data.dtype == np.int16
        assert read.kind == "CT"
        np.testing.assert_array_equal(read.data[0], scan().T - 1024)

    @pytest.mark.parametrize(("slope", "intercept"), [(1, -32768), (-1, 32767), (1, -40000)])
    def test_numbers_of_16_bits_become_others_of_16_bits(self, tmp_path, slope, intercept) -> None:
        stored = scan(3, np.uint16, 8000 if intercept < -32768 else 0, 1 << 16)
        read = silent(series(tmp_path, stored, edit=set_(RescaleSlope=str(slope), RescaleIntercept=str(intercept))))
        assert read.data.dtype == np.int16
        np.testing.assert_array_equal(read.data[0], (stored.astype(np.int64) * slope + intercept).T)

    def test_a_slope_for_each_slice(self, tmp_path) -> None:
        slopes, intercepts = ["1", "0.5", "2", "1.25"], ["-1022.5", "0", "3", "0.25"]
        read = silent(series(tmp_path, scan(), edit=each(RescaleSlope=slopes, RescaleIntercept=intercepts)))
        assert read.data.dtype == np.float32
        for k, pixels in enumerate(scan()):
            wanted = pixels.T * float(slopes[k]) + float(intercepts[k])
            np.testing.assert_allclose(read.data[0, ..., k], wanted, rtol=1e-6)

    def test_integers_that_do_not_fit_become_floats(self, tmp_path) -> None:
        read = silent(series(tmp_path, scan(dtype=np.uint16, high=60000), modality="MR"))
        assert read.data.dtype == np.float32
        np.testing.assert_array_equal(read.data[0], scan(dtype=np.uint16, high=60000).T)

    def test_a_ct_without_intercept_is_told_an_mr_not(self, tmp_path) -> None:
        lost = without("RescaleSlope", "RescaleIntercept")
        read, found = look(series(tmp_path / "ct", scan(), edit=lost))
        assert "RescaleIntercept" in found["DCM-06"]
        np.testing.assert_array_equal(read.data[0], scan().T)
        silent(series(tmp_path / "mr", scan(), modality="MR"))

    def test_inverted_grey_is_turned(self, tmp_path) -> None:
        def edit(k: int, data: Dataset) -> None:
            data.PhotometricInterpretation, data.BitsStored, data.HighBit = "MONOCHROME1", 12, 11

        pixels = scan(dtype=np.uint16, high=4096)
        read, found = look(series(tmp_path, pixels, edit=edit, modality="MR"))
        assert "MONOCHROME1" in found["DCM-07"]
        np.testing.assert_array_equal(read.data[0], 4095 - pixels.T.astype(int))

    def test_padding_becomes_the_smallest_real_value(self, tmp_path) -> None:
        pixels = scan(low=10)
        pixels[:, 0, 0] = -2000
        pixels[2, 0, 1] = 5
        read, found = look(series(tmp_path, pixels, edit=set_(PixelPaddingValue=-2000)))
        assert "PixelPaddingValue" in found["DCM-06"]
        assert read.data.min() == 5 - 1024
        assert (read.data[0, 0, 0] == 5 - 1024).all()
        silent(series(tmp_path / "none", scan(low=10), edit=set_(PixelPaddingValue=-2000)))

    def test_a_range_of_padding(self, tmp_path) -> None:
        pixels = scan(low=10)
        pixels[:, 0, :3] = (-2000, -1990, -1995)
        read, _ = look(series(tmp_path, pixels, edit=set_(PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1990)))
        assert read.data.min() >= 10 - 1024

    def test_padding_in_the_other_sign(self, tmp_path) -> None:
        def edit(k: int, data: Dataset) -> None:
            data.add_new(0x00280120, "US", 65536 - 2000)

        pixels = scan(low=10)
        pixels[:, 0, 0] = -2000
        read, found = look(series(tmp_path, pixels, edit=edit))
        assert "DCM-06" in found
        assert read.data.min() >= 10 - 1024

    def test_padding_of_inverted_grey_stays_dark(self, tmp_path) -> None:
        pixels = scan(dtype=np.uint8, low=5, high=100)
        pixels[:, 0, 0] = 0
        edit = set_(PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=0)
        read, _ = look(series(tmp_path, pixels, edit=edit, modality="MR"))
        assert (read.data[0, 0, 0] == 255 - int(pixels[pixels > 0].max())).all()

    def test_bits_beyond_those_stored_are_ignored(self, tmp_path) -> None:
        def edit(k: int, data: Dataset) -> None:
            data.BitsStored, data.HighBit = 12, 11

        clean = scan(dtype=np.uint16, high=4096)
        read = silent(series(tmp_path, clean | 0x5000, edit=edit, modality="MR"))
        np.testing.assert_array_equal(read.data[0], clean.T)

    def test_bits_stored_at_the_upper_end(self, tmp_path) -> None:
        clean = scan(dtype=np.uint16, high=4096)
        files = series(tmp_path, clean << 4, edit=set_(BitsStored=12, HighBit=15), modality="MR")
        np.testing.assert_array_equal(silent(files).data[0], clean.T)

    def test_short_signed_numbers_keep_their_sign(self, tmp_path) -> None:
        def edit(k: int, data: Dataset) -> None:
            data.BitsStored, data.HighBit = 12, 11

        clean = scan(low=-2000, high=2000)
        read = silent(series(tmp_path, clean & 0x0FFF, edit=edit, modality="MR"))
        np.testing.assert_array_equal(read.data[0], clean.T)

    def test_slices_of_different_signs(self, tmp_path) -> None:
        def edit(k: int, data: Dataset) -> None:
            if k == 1:
                data.PixelRepresentation = 0

        read = silent(series(tmp_path, scan(low=0, high=30000), edit=edit, modality="MR"))
        np.testing.assert_array_equal(read.data[0], scan(low=0, high=30000).T)

    def test_a_missing_modality_is_told(self, tmp_path) -> None:
        read, found = look(series(tmp_path, scan(), edit=without("Modality")))
        assert "no Modality" in found["DCM-09"]
        assert read.kind == "UNKNOWN"

    def test_nothing_to_see_is_told(self, tmp_path) -> None:
        with pytest.warns(UserWarning, match="VAL-02"):
            dicom.read(series(tmp_path, np.full((3, 6, 5), 7, np.int16)))

    @pytest.mark.parametrize(("modality", "kind"), [("XC", "PICTURE"), ("ES", "PICTURE"), ("US", "US")])
    def test_colours_become_channels(self, tmp_path, modality, kind) -> None:
        pixels = np.random.default_rng(1).integers(0, 255, (6, 5, 3)).astype(np.uint8)
        path = store(tmp_path / "a.dcm", coloured(pixels, modality))
        read, found = look(path)
        np.testing.assert_array_equal(read.data[..., 0], np.moveaxis(pixels, (0, 1, 2), (2, 1, 0)))
        assert (read.kind, read.data.dtype, read.grid.along_k) == (kind, np.uint8, "single")
        assert "1 mm apart" in found["DCM-08"]

    def test_ybr_becomes_red_green_blue(self, tmp_path) -> None:
        pixels = np.full((6, 4, 3), (76, 85, 255), np.uint8)
        pixels[0, 0] = (150, 44, 21)
        read, _ = look(store(tmp_path / "a.dcm", coloured(pixels, "US", "YBR_FULL")))
        assert np.abs(read.data[:, 3, 3, 0].astype(int) - (255, 0, 0)).max() <= 2
        assert np.abs(read.data[:, 0, 0, 0].astype(int) - (0, 255, 1)).max() <= 2

    def test_a_palette_becomes_red_green_blue(self, tmp_path) -> None:
        data = plain(np.arange(30, dtype=np.uint8).reshape(6, 5) % 4, "US")
        data.PhotometricInterpretation = "PALETTE COLOR"
        table = np.array([[0, 10, 20, 30], [5, 15, 25, 35], [1, 2, 3, 4]], np.uint16) << 8
        for name, values in zip(("Red", "Green", "Blue"), table, strict=True):
            setattr(data, f"{name}PaletteColorLookupTableDescriptor", [4, 0, 16])
            setattr(data, f"{name}PaletteColorLookupTableData", values.tobytes())
        read, _ = look(store(tmp_path / "a.dcm", data))
        np.testing.assert_array_equal(read.data[:, 2, 0, 0], (20, 25, 3))

    def test_pixel_size_of_an_ultrasound_region(self, tmp_path) -> None:
        region = Dataset()
        region.PhysicalDeltaX, region.PhysicalDeltaY = 0.03, 0.02
        region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
        data = plain(scan(1, np.uint8, high=200)[0], "US")
        data.SequenceOfUltrasoundRegions = Sequence([region])
        assert silent(store(tmp_path / "a.dcm", data)).grid.spacing[:2] == pytest.approx((0.3, 0.2))

    def test_a_mask_stored_as_images(self, tmp_path) -> None:
        mask = (scan(dtype=np.uint8, high=3)).astype(np.uint8)
        files = series(tmp_path / "a", mask, modality="MR")
        labels = Labels({"background": 0, "a": 1, "b": 2})
        np.testing.assert_array_equal(formats.read_labels(files, labels).data, mask.T)
        with pytest.raises(LabelError, match="value"):
            formats.read_labels(files, Labels({"background": 0, "a": 1}))
        halves = series(tmp_path / "b", mask, modality="MR", edit=set_(RescaleSlope="0.5", RescaleIntercept="0"))
        with pytest.raises(LabelError, match="labels must be integers"):
            dicom.read_labels(halves)
        picture = store(tmp_path / "c.dcm", coloured(np.zeros((6, 5, 3), np.uint8), "XC"))
        with pytest.warns(InputWarning, match="DCM-08|VAL-02"), pytest.raises(LabelError, match="holds colours"):
            dicom.read_labels(picture)

    def test_nothing_is_written(self, tmp_path) -> None:
        read = silent(series(tmp_path, scan()))
        with pytest.raises(OutputError, match="NIfTI"):
            dicom.write_volume(tmp_path / "a.dcm", read)
        with pytest.raises(OutputError, match="DICOM SEG"):
            dicom.write_labels(tmp_path / "a.dcm", dicom.read_labels(series(tmp_path / "m", scan(), modality="MR")))


def enhanced(
    volume: np.ndarray, places: Iterable[tuple[float, ...]], *, slopes: list[float] | None = None, **tags: Any
) -> FileDataset:
    """A multi-frame object; orientation and pixel spacing are shared."""
    data = plain(volume, "MR", EnhancedMRImageStorage)
    data.NumberOfFrames, data.FrameOfReferenceUID = len(volume), FRAME_OF_REFERENCE
    shared = Dataset()
    shared.PlaneOrientationSequence = Sequence([Dataset()])
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = list(AXIAL)
    shared.PixelMeasuresSequence = Sequence([Dataset()])
    shared.PixelMeasuresSequence[0].PixelSpacing = [2.0, 0.5]
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for number, place in enumerate(places):
        frame = Dataset()
        frame.PlanePositionSequence = Sequence([Dataset()])
        frame.PlanePositionSequence[0].ImagePositionPatient = list(place)
        frame.FrameContentSequence = Sequence([Dataset()])
        for keyword, values in tags.items():
            setattr(frame.FrameContentSequence[0], keyword, values[number])
        if slopes:
            frame.PixelValueTransformationSequence = Sequence([Dataset()])
            frame.PixelValueTransformationSequence[0].RescaleSlope = slopes[number]
            frame.PixelValueTransformationSequence[0].RescaleIntercept = 0
        frames.append(frame)
    data.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return data


class TestMultiFrame:
    PLACES = ((0.0, 0.0, 9.0), (0.0, 0.0, 3.0), (0.0, 0.0, 6.0), (0.0, 0.0, 0.0))

    def test_frames_are_sorted_by_their_positions(self, tmp_path) -> None:
        slopes = [1.0, 0.5, 2.0, 0.25]
        path = store(tmp_path / "a.dcm", enhanced(scan(), self.PLACES, slopes=slopes))
        read = silent(path)
        order = (3, 1, 2, 0)
        wanted = np.stack([scan()[n].T * slopes[n] for n in order], -1)
        np.testing.assert_allclose(read.data[0], wanted)
        np.testing.assert_allclose(read.grid.spacing, (0.5, 2, 3))
        header = read.source.header
        assert header.frames == order
        (dataset,) = header.datasets
        assert "PixelData" not in dataset
        assert dataset.NumberOfFrames == 4

    def test_too_few_functional_groups_are_refused(self, tmp_path) -> None:
        path = store(tmp_path / "a.dcm", enhanced(scan(), self.PLACES[:3]))
        refused(path, FormatError, "DCM-04", "4 frames, but functional groups of 3")

    @pytest.mark.parametrize("lost", ["PlaneOrientationSequence", "PixelMeasuresSequence"])
    def test_missing_geometry_is_refused(self, tmp_path, lost) -> None:
        data = enhanced(scan(), self.PLACES)
        del data.SharedFunctionalGroupsSequence[0][lost]
        path = store(tmp_path / "a.dcm", data)
        refused(path, FormatError, "DCM-04", "frame 1 of 4 has no position, orientation or pixel spacing")
        (listed,) = dicom.list_series(path)
        assert listed.note == "cannot be read"

    def test_geometry_outside_of_the_groups_is_told(self, tmp_path) -> None:
        data = enhanced(scan(), self.PLACES)
        del data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
        data.PixelSpacing = [2.0, 0.5]
        _, found = look(store(tmp_path / "a.dcm", data))
        assert "PixelSpacing stand outside" in found["DCM-04"]

    def test_gaps_are_found_between_frames_too(self, tmp_path) -> None:
        places = [(0.0, 0.0, float(height)) for height in (0, 3, 6, 12)]
        refused(store(tmp_path / "a.dcm", enhanced(scan(), places)), GeometryError, "DCM-01", "gap: 6 mm")

    def test_time_points_of_frames(self, tmp_path) -> None:
        places = [(0.0, 0.0, 0.0), (0.0, 0.0, 3.0)] * 2
        path = store(tmp_path / "a.dcm", enhanced(scan(), places, TemporalPositionIndex=[2, 2, 1, 1]))
        assert dicom.frames(path) == 2
        read = silent(path, frame=0)
        np.testing.assert_array_equal(read.data[0], scan()[2:].T)
        assert read.source.header.frames == (2, 3)

    def test_one_position_and_a_step_are_taken_with_a_word(self, tmp_path) -> None:
        data = plain(scan(), "MR", MRImageStorage)
        data.NumberOfFrames, data.FrameOfReferenceUID = 4, FRAME_OF_REFERENCE
        data.ImageOrientationPatient, data.ImagePositionPatient = list(AXIAL), [1, 2, 3]
        data.PixelSpacing = [2, 0.5]
        refused(store(tmp_path / "a.dcm", data), FormatError, "DCM-04", "one position and no SpacingBetweenSlices")
        data.SpacingBetweenSlices = "2.5"
        read, found = look(store(tmp_path / "b.dcm", data))
        assert "one position" in found["DCM-04"]
        np.testing.assert_array_equal(read.data[0], scan().T)
        np.testing.assert_allclose(read.grid.affine[:3, 2], (0, 0, 2.5))

    @pytest.mark.parametrize(
        ("tags", "seconds"),
        [
            ({"FrameTime": "40"}, 0.04),
            ({"CineRate": "20"}, 0.05),
            ({"FrameTimeVector": ["0", "50", "50", "50"]}, 0.05),
            ({}, 1.0),
        ],
    )
    def test_a_film_runs_along_k(self, tmp_path, tags, seconds) -> None:
        data = plain(scan(dtype=np.uint8, high=200), "US", UltrasoundMultiFrameImageStorage)
        data.NumberOfFrames, data.PixelSpacing = 4, [2, 0.5]
        for keyword, value in tags.items():
            setattr(data, keyword, value)
        read, found = look(store(tmp_path / "a.dcm", data))
        assert (read.grid.along_k, read.kind, dicom.frames(tmp_path / "a.dcm")) == ("time", "US", 1)
        assert read.grid.spacing == pytest.approx((0.5, 2, seconds))
        np.testing.assert_array_equal(read.data[0], scan(dtype=np.uint8, high=200).T)
        assert read.source.header.frames == (0, 1, 2, 3)
        assert bool(found) == (not tags)

    def test_pictures_in_one_file_are_chosen(self, tmp_path) -> None:
        data = plain(scan(dtype=np.uint8, high=200), "OT")
        data.NumberOfFrames = 4
        path = store(tmp_path / "a.dcm", data)
        assert dicom.frames(path) == 4
        refused(path, InputError, "VAL-05", "there are 4")
        np.testing.assert_array_equal(look(path, frame=2)[0].data[0, ..., 0], scan(dtype=np.uint8, high=200)[2].T)


def packed(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, f"scan/{file.relative_to(folder)}")
    return path


def lossless_jpeg() -> bytearray:
    """A stream whose markers are right: frame at 2, tables at 15, scan at 38, end."""
    frame = b"\xff\xc3\x00\x0b\x08\x00\x06\x00\x05\x01\x01\x11\x00"
    tables = b"\xff\xc4\x00\x15\x00" + bytes([1, 1] + [0] * 14) + b"\x00\x01"
    scan_ = b"\xff\xda\x00\x08\x01\x01\x00\x01\x00\x00"
    return bytearray(b"\xff\xd8" + frame + tables + scan_ + bytes(30) + b"\xff\xd9")


class TestFiles:
    def test_an_archive_reads_as_its_folder(self, tmp_path) -> None:
        files = series(tmp_path / "a", scan())
        archive = packed(tmp_path / "a.zip", files)
        with zipfile.ZipFile(archive, "a") as more:
            more.writestr("__MACOSX/scan/._000.dcm", (files / "000.dcm").read_bytes())
        folder, read = silent(files), silent(archive)
        np.testing.assert_array_equal(read.data, folder.data)
        np.testing.assert_array_equal(read.grid.affine, folder.grid.affine)
        assert read.source.paths == (archive,)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.zip"]

    def test_bombs_are_not_unpacked(self, tmp_path, monkeypatch) -> None:
        bomb = tmp_path / "bomb.zip"
        with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(series(tmp_path / "a", scan(1)) / "000.dcm", "a.dcm")
            archive.writestr("zeros", bytes(4 << 20))
        silent(bomb)
        monkeypatch.setattr(_dicom_files, "SMALL", 1 << 20)
        refused(bomb, FormatError, "SET-03", "would unpack to")
        monkeypatch.undo()
        monkeypatch.setattr(_dicom_files, "UNPACKED_LIMIT", 1 << 20)
        refused(bomb, FormatError, "SET-03", "would unpack to")

    def test_a_deflated_bomb_is_not_unpacked(self, tmp_path, monkeypatch) -> None:
        data = plain(np.zeros((1000, 1000), np.uint8))
        data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        path = store(tmp_path / "a.dcm", data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert dicom.read(path).data.shape == (1, 1000, 1000, 1)
        monkeypatch.setattr(_dicom_files, "UNPACKED_LIMIT", 1 << 16)
        refused(path, FormatError, "SET-03", "unpacks to more than")

    @pytest.mark.parametrize("cut", [60, 700, -40])
    def test_damaged_archives(self, tmp_path, cut) -> None:
        archive = packed(tmp_path / "a.zip", series(tmp_path / "a", scan()))
        archive.write_bytes(archive.read_bytes()[:cut])
        with pytest.raises(FormatError, match=r"a.zip.*(damaged|cut off or holds no image)"):
            formats.read(archive)
        with pytest.raises(FormatError, match=r"a.zip: damaged zip archive"):
            dicom.read(archive)

    def test_a_member_whose_bytes_changed(self, tmp_path) -> None:
        archive = packed(tmp_path / "a.zip", series(tmp_path / "a", scan()))
        content = bytearray(archive.read_bytes())
        content[200:260] = bytes(60)
        archive.write_bytes(content)
        refused(archive, FormatError, "SET-03", "cannot be read|damaged")

    @pytest.mark.parametrize(
        "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless]
    )
    def test_transfer_syntaxes_hold_the_same_voxels(self, tmp_path, syntax) -> None:
        def edit(k: int, data: Dataset) -> None:
            if syntax == RLELossless:
                data.compress(RLELossless, generate_instance_uid=False)
            elif syntax == ExplicitVRBigEndian:
                data.PixelData = np.frombuffer(data.PixelData, "<i2").astype(">i2").tobytes()
            data.file_meta.TransferSyntaxUID = syntax

        np.testing.assert_array_equal(silent(series(tmp_path, scan(), edit=edit)).data[0], scan().T - 1024)

    def test_compression_that_nothing_decodes_names_itself(self, tmp_path) -> None:
        data = plain(scan(1)[0])
        data.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f" + bytes(40)])
        for syntax, message in (
            ("1.2.840.10008.1.2.4.55", "Process 10 and 12.*1.2.840.10008.1.2.4.55.*uncompressed"),
            ("1.2.840.10008.1.2.4.102", "MPEG-4.*which no known package decodes"),
        ):
            data.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
            data["PixelData"].is_undefined_length = True
            refused(store(tmp_path / f"{syntax}.dcm", data), FormatError, "DCM-05", message)

    def test_a_missing_decoder_is_named_with_its_package(self, tmp_path, monkeypatch) -> None:
        from pydicom.pixels.decoders.base import Decoder

        data = plain(scan(1)[0])
        data.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f" + bytes(40)])
        data.file_meta.TransferSyntaxUID = JPEG2000Lossless
        data["PixelData"].is_undefined_length = True
        path = store(tmp_path / "a.dcm", data)
        refused(path, FormatError, "SET-03", "pixels are cut off or damaged")
        monkeypatch.setattr(Decoder, "is_available", False)
        refused(path, FormatError, "DCM-05", "JPEG 2000.*pip install python-gdcm")

    @pytest.mark.parametrize(
        ("place", "value", "message"),
        [
            (6, 200, "25, 6, 5, 1"),
            (8, 7, "1, 7, 5, 1"),
            (10, 9, "1, 6, 9, 1"),
            (11, 3, "nothing"),
            (2, 0, "nothing"),
            (5, 14, "nothing"),
            (13, 0x21, "nothing"),
            (15, 0, "nothing"),
            (20, 9, "nothing"),
            (20, 0, "nothing"),
            (21, 200, "nothing"),
            (41, 7, "nothing"),
            (45, 0, "nothing"),
            (46, 1, "nothing"),
            (47, 16, "nothing"),
            (-1, 0, "nothing"),
        ],
    )
    def test_streams_that_would_end_the_process_never_reach_the_decoder(
        self, tmp_path, monkeypatch, place, value, message
    ) -> None:
        """Precision, rows, columns, components, sampling, markers, tables, predictor and end of a lossless JPEG."""
        stream = lossless_jpeg()
        stream[place] = value
        data = plain(scan(1, np.uint8, high=200)[0], "MR")
        data.PixelData = pydicom.encaps.encapsulate([bytes(stream)])
        data.file_meta.TransferSyntaxUID = JPEGLosslessSV1
        data["PixelData"].is_undefined_length = True
        path = store(tmp_path / "a.dcm", data)
        monkeypatch.setattr("pydicom.pixels.decoders.gdcm._decode_frame", lambda *_: pytest.fail("was decoded"))
        refused(path, FormatError, "SET-03", f"compressed pixels of frame 0 say .*{message}")

    def test_a_stream_that_is_whole_reaches_the_decoder(self) -> None:
        assert stream_size(bytes(lossless_jpeg())) == (1, 6, 5, 1)
        assert stream_size(bytes(lossless_jpeg()) + b"\0") == (1, 6, 5, 1)

    def test_members_of_one_name_are_files_of_their_own(self, tmp_path) -> None:
        whole = silent(series(tmp_path / "a", scan()))
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for path in sorted((tmp_path / "a").iterdir()):
                archive.writestr("IMG", path.read_bytes())
        np.testing.assert_array_equal(silent(tmp_path / "a.zip").data, whole.data)

    def test_recognising_an_archive_unpacks_no_more_than_beginnings(self, tmp_path) -> None:
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.dcm", bytes(1 << 26))
        tracemalloc.start()
        try:
            assert not dicom.recognises(tmp_path / "a.zip", b"PK\x03\x04")
            assert tracemalloc.get_traced_memory()[1] < 1 << 24
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize("packing", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_damaged_members_however_they_are_packed(self, tmp_path, packing) -> None:
        one = (series(tmp_path / "a", scan(1)) / "000.dcm").read_bytes()
        with zipfile.ZipFile(tmp_path / "a.zip", "w", packing) as archive:
            archive.writestr("a.dcm", one)
        content = bytearray((tmp_path / "a.zip").read_bytes())
        content[44:300] = bytes(256)
        (tmp_path / "a.zip").write_bytes(content)
        assert not dicom.recognises(tmp_path / "a.zip", b"PK\x03\x04")
        with pytest.raises(FormatError) as caught:
            dicom.read(tmp_path / "a.zip")
        assert caught.value.code == "SET-03"

    def test_copies_in_one_file_are_looked_for_in_one_reading(self, tmp_path, monkeypatch) -> None:
        places = [(0.0, 0.0, z) for z in (0.0, 0.0, 3.0, 3.0)]
        path = store(tmp_path / "a.dcm", enhanced(scan(4), places))
        calls = []
        original = _dicom_files.Entry.dataset
        monkeypatch.setattr(
            _dicom_files.Entry,
            "dataset",
            lambda self, *, pixels: calls.append(pixels) or original(self, pixels=pixels),
        )
        assert dicom.frames(path) == 2
        assert calls.count(True) == 1

    def test_a_promise_of_countless_frames_is_refused_at_once(self, tmp_path) -> None:
        data = plain(scan(1)[0], "OT")
        data.NumberOfFrames = 2_000_000_000
        refused(store(tmp_path / "a.dcm", data), FormatError, "SET-03", "promises 2000000000 frames")

    def test_without_the_library_the_extra_is_named(self, tmp_path, monkeypatch) -> None:
        path = series(tmp_path, scan(1)) / "000.dcm"
        monkeypatch.setitem(sys.modules, "pydicom", None)
        assert dicom.recognises(path, path.read_bytes()[:4096])
        with pytest.raises(MissingExtra, match=r"voxelsam\[dicom\]"):
            dicom.read(path)

    def test_an_image_without_pixels(self, tmp_path) -> None:
        refused(series(tmp_path, scan(1), edit=without("PixelData")), FormatError, "SET-03", "without pixels")

    def test_more_pixels_than_a_file_holds(self, tmp_path) -> None:
        files = series(tmp_path, scan(1), edit=set_(Rows=60000, Columns=60000))
        refused(files, FormatError, "SET-03", "header promises 7200000000 bytes")

    def test_what_decoders_need_is_filled_in(self, tmp_path) -> None:
        read, found = look(series(tmp_path, scan(1), edit=without("PhotometricInterpretation", "BitsStored")))
        assert "is missing, taken as" in found["DCM-09"]
        np.testing.assert_array_equal(read.data[0], scan(1).T - 1024)

    def test_the_header_is_kept_without_pixels(self, tmp_path) -> None:
        header = silent(series(tmp_path, scan())).source.header
        assert isinstance(header, dicom.DicomHeader)
        assert header.frames == ()
        assert not any("PixelData" in dataset for dataset in header.datasets)
        assert [float(dataset.ImagePositionPatient[2]) for dataset in header.datasets] == [30, 33, 36, 39]

    def test_the_library_keeps_quiet_and_its_settings(self, tmp_path, caplog, capfd) -> None:
        def state() -> tuple[object, ...]:
            logger = logging.getLogger("pydicom")
            return pydicom.config.settings.reading_validation_mode, logger.propagate, tuple(logger.handlers)

        data = plain(scan(1)[0])
        data.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8" + bytes(40)])
        data.file_meta.TransferSyntaxUID = JPEGLSLossless
        data["PixelData"].is_undefined_length = True
        before = state()
        refused(store(tmp_path / "a.dcm", data), FormatError, "SET-03", "pixels are cut off or damaged")
        assert not caplog.records
        assert not any(capfd.readouterr())
        assert state() == before


SAMPLE = 1500
"""Bytes at the start of a small file that hold its header."""


def sample(folder: Path, kind: str) -> bytes:
    if kind == "classic":
        return (series(folder, scan(1)) / "000.dcm").read_bytes()
    if kind == "enhanced":
        return store(folder / "a.dcm", enhanced(scan(), TestMultiFrame.PLACES)).read_bytes()
    data = plain(scan(1)[0], "US")
    data.compress(RLELossless, generate_instance_uid=False)
    return store(folder / "a.dcm", data).read_bytes()


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> dict[str, bytes]:
    """Small valid files."""
    return {kind: sample(tmp_path_factory.mktemp(kind), kind) for kind in ("classic", "enhanced", "rle")}


class TestNoise:
    """Whatever a damaged file holds, what comes out is a volume or an error of ours."""

    @pytest.mark.parametrize("kind", ["classic", "enhanced", "rle"])
    @given(
        flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255), st.booleans()), max_size=12),
        cut=st.one_of(st.none(), st.floats(0, 1)),
    )
    @settings(
        max_examples=150, deadline=5000, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    def test_bytes_changed_and_cut(self, tmp_path_factory, samples, kind, flips, cut) -> None:
        content = bytearray(samples[kind])
        for place, value, near in flips:
            content[int(place * (min(SAMPLE, len(content)) if near else len(content)) * 0.999)] = value
        if cut is not None:
            content = content[: int(cut * len(content))]
        path = tmp_path_factory.getbasetemp() / "noise.dcm"
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", category=UserWarning)
            try:
                volume = dicom.read(path)
            except VoxelSamError:
                return
        assert volume.data.shape[1:] == volume.grid.shape

    @given(st.binary(max_size=400))
    @settings(max_examples=100, deadline=5000, derandomize=True)
    def test_noise_behind_a_true_start(self, tmp_path_factory, noise) -> None:
        path = tmp_path_factory.getbasetemp() / "start.dcm"
        path.write_bytes(bytes(128) + b"DICM" + noise)
        with pytest.raises(VoxelSamError):
            look(path)

    def test_an_archive_with_flipped_bytes(self, tmp_path) -> None:
        archive = packed(tmp_path / "a.zip", series(tmp_path / "a", scan()))
        content, random = archive.read_bytes(), np.random.default_rng(3)
        for _ in range(60):
            changed = bytearray(content)
            for place in random.integers(0, len(content), 4):
                changed[place] = random.integers(256)
            archive.write_bytes(changed)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    dicom.read(archive)
                except VoxelSamError:
                    continue
                except zlib.error:
                    pytest.fail("a foreign error came out")
