"""DICOM segmentations of images made here; real ones are in ``test_dicom_seg_shared``."""

import copy
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pydicom.config
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.eulerangles import euler2mat
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, LegacyConvertedEnhancedCTImageStorage, generate_uid
from pydicom.valuerep import format_number_as_ds

from voxelsam import checks, formats
from voxelsam.errors import (
    FormatError,
    GeometryError,
    InputWarning,
    LabelError,
    MissingExtra,
    OutputError,
    VoxelSamError,
)
from voxelsam.formats import _dicom_seg_frames, dicom_seg
from voxelsam.formats._dicom_seg_frames import Frames
from voxelsam.space.grid import Grid
from voxelsam.volumes import LabelMap, Labels, Source, Volume
from voxelsam.volumes.labels import Code

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
TABLE = Labels({"background": 0, "left_kidney": 2, "liver": 7, "spleen": 9})
SHAPE = (9, 6, 5)


@dataclass(frozen=True)
class Header:
    """What the reader of images gives its images."""

    datasets: tuple[Dataset, ...]
    frames: tuple[int, ...] = ()
    resampled: bool = False


@dataclass(frozen=True)
class Scan:
    grid: Grid
    source: Source

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        return self.source.header.datasets


def affine_of(
    angles: tuple[float, float, float] = (0.3, -0.2, 0.1),
    spacing: tuple[float, float, float] = (0.7, 0.9, 2.5),
    origin: tuple[float, float, float] = (-31.25, 14.5, 102.125),
    tilt: float = 0.0,
) -> np.ndarray:
    """RAS affine whose third axis goes along the normal of DICOM, or is tilted away from it by a slope."""
    affine = np.eye(4)
    affine[:3, :3] = euler2mat(*angles) @ np.diag(spacing)
    affine[:3, 2] += tilt * spacing[2] * affine[:3, 1] / spacing[1]
    affine[:3, 3] = origin
    return affine


def digits(values: Any) -> list[str]:
    return [format_number_as_ds(float(value)) for value in values]


def patient_and_study() -> Dataset:
    data = Dataset()
    data.PatientName, data.PatientID, data.PatientSex, data.PatientBirthDate = "Müller^Jörg", "4711", "M", "19600102"
    data.SpecificCharacterSet = "ISO_IR 100"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = (generate_uid() for _ in range(3))
    data.StudyID, data.AccessionNumber, data.StudyDate, data.StudyTime = "1", "2", "20200304", "101112"
    data.ReferringPhysicianName, data.PositionReferenceIndicator = "", ""
    data.SeriesNumber, data.Modality, data.Manufacturer = 3, "CT", "nobody"
    return data


def scan(shape: tuple[int, int, int] = SHAPE, affine: np.ndarray | None = None) -> Scan:
    """A classic series of one file per slice."""
    grid = Grid(shape, affine_of() if affine is None else affine)
    lps = LPS @ grid.affine
    common = patient_and_study()
    datasets = []
    for k in range(shape[2]):
        data = Dataset()
        data.update(common)
        data.SOPClassUID, data.SOPInstanceUID, data.InstanceNumber = CTImageStorage, generate_uid(), k + 1
        data.Columns, data.Rows = shape[:2]
        data.PixelSpacing = digits([grid.spacing[1], grid.spacing[0]])
        data.SliceThickness = format_number_as_ds(grid.spacing[2])
        turn = [*(lps[:3, 0] / grid.spacing[0]), *(lps[:3, 1] / grid.spacing[1])]
        data.ImageOrientationPatient = digits(turn)
        data.ImagePositionPatient = digits(lps[:3, 3] + k * lps[:3, 2])
        datasets.append(data)
    return Scan(grid, Source((Path("series"),), "dicom", Header(tuple(datasets))))


def enhanced(frames: tuple[int, ...], copies: int = 1, shape: tuple[int, int, int] = SHAPE) -> Scan:
    """One multi-frame file that has ``copies`` frames at each position, upside down; ``frames`` are the scan's."""
    classic = scan(shape)
    data = patient_and_study()
    data.SOPClassUID, data.SOPInstanceUID = LegacyConvertedEnhancedCTImageStorage, generate_uid()
    data.Columns, data.Rows = shape[:2]
    positions = [image.ImagePositionPatient for image in reversed(classic.datasets)] * copies
    data.NumberOfFrames = len(positions)
    groups = []
    for position in positions:
        group, orientation, place, measures = Dataset(), Dataset(), Dataset(), Dataset()
        orientation.ImageOrientationPatient = classic.datasets[0].ImageOrientationPatient
        place.ImagePositionPatient = position
        measures.PixelSpacing = classic.datasets[0].PixelSpacing
        measures.SliceThickness = classic.datasets[0].SliceThickness
        group.PlaneOrientationSequence, group.PlanePositionSequence = [orientation], [place]
        group.PixelMeasuresSequence = [measures]
        groups.append(group)
    data.PerFrameFunctionalGroupsSequence = groups
    return Scan(classic.grid, Source((Path("enhanced.dcm"),), "dicom", Header((data,), frames)))


def drawn(image: Scan, labels: Labels = TABLE, author: str = "") -> LabelMap:
    """Labels that no turn or flip maps onto themselves; the middle slice and the spleen stay empty."""
    data = np.zeros(image.grid.shape, np.uint8)
    data[1:4, 2:4, 0] = 7
    data[5:8, 0:2, -1] = 2
    data[2, 3, -1] = 7
    return LabelMap(data, image.grid, labels, author=author)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "seg.dcm"


@pytest.fixture
def written(target: Path) -> Path:
    image = scan()
    dicom_seg.write_labels(target, drawn(image), image.source)
    return target


def edited(path: Path, change: Any) -> Path:
    """The file again, with its data set changed behind highdicom's back."""
    data = pydicom.dcmread(path)
    change(data)
    data.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_labels_come_back(target: Path, kind: Any) -> None:
    image = scan()
    label_map = drawn(image, author="voxelsam 0.1.0 (MA-SAM)")
    dicom_seg.write_segmentation(target, label_map, image.source, kind=kind)
    again = formats.read_labels(target, TABLE)
    np.testing.assert_array_equal(again.data, label_map.data)
    assert again.grid.displacement(image.grid) < 1e-4
    assert again.author == "voxelsam (MA-SAM) 0.1.0"
    assert again.source is not None
    assert again.source.format == "dicom_seg"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(("kind", "values"), [("binary", (1, 2, 3)), ("labelmap", (2, 7, 9))])
def test_without_a_table_the_file_names_and_numbers_its_segments(target: Path, kind: Any, values: Any) -> None:
    image = scan()
    dicom_seg.write_segmentation(target, drawn(image), image.source, kind=kind)
    again = dicom_seg.read_labels(target)
    assert again.labels.values == dict(zip(("background", *TABLE.names), (0, *values), strict=True))
    assert (again.data == again.labels.values["liver"]).sum() == 7
    assert again.labels.codes["left_kidney"] == Code("64033007", "SCT", "Kidney", "left")
    np.testing.assert_array_equal(dicom_seg.read_numbers(target).data[0], again.data)


angles = st.floats(-3.1, 3.1)
sizes = st.floats(0.3, 6.0)
places = st.floats(-500, 500)


@settings(max_examples=30, deadline=timedelta(seconds=5))
@given(
    turn=st.tuples(angles, angles, angles),
    spacing=st.tuples(sizes, sizes, sizes),
    origin=st.tuples(places, places, places),
    tilt=st.sampled_from([0.0, 0.0, 0.27]),
    landmark=st.tuples(st.integers(0, SHAPE[0] - 1), st.integers(0, SHAPE[1] - 1), st.integers(0, SHAPE[2] - 1)),
    name=st.sampled_from(TABLE.names),
    kind=st.sampled_from(["binary", "labelmap"]),
)
def test_a_landmark_returns_to_its_millimetre_and_name(
    tmp_path_factory: pytest.TempPathFactory,
    turn: Any, spacing: Any, origin: Any, tilt: float, landmark: Any, name: str, kind: Any,
) -> None:  # fmt: skip
    image = scan(affine=affine_of(turn, spacing, origin, tilt))
    data = np.zeros(SHAPE, np.uint8)
    data[landmark] = TABLE.values[name]
    far = tuple(size - 1 - index for size, index in zip(SHAPE, landmark, strict=True))
    data[far] = TABLE.values["liver"] if data[far] == 0 else data[far]
    path = tmp_path_factory.mktemp("landmark") / "seg.dcm"
    dicom_seg.write_segmentation(path, LabelMap(data, image.grid, TABLE), image.source, kind=kind)
    again = dicom_seg.read_labels(path)
    names = {value: key for key, value in again.labels.values.items()}
    index = again.grid.to_index(image.grid.to_world(np.array([landmark])))[0]
    np.testing.assert_allclose(index, np.rint(index), atol=1e-3)
    assert names[int(again.data[tuple(np.rint(index).astype(int))])] == name
    assert (again.data != 0).sum() == (data != 0).sum()


def test_highdicom_finds_every_segment_on_its_source_slice(target: Path) -> None:
    image = scan()
    label_map = drawn(image)
    dicom_seg.write_labels(target, label_map, image.source)
    judge = highdicom.seg.segread(target)
    identifiers = [data.SOPInstanceUID for data in image.datasets]
    pixels = judge.get_pixels_by_source_instance(
        identifiers, combine_segments=False, ignore_spatial_locations=False, assert_missing_frames_are_empty=True
    )
    for number, name in enumerate(TABLE.names, 1):
        assert judge.get_segment_description(number).segment_label == name
        expected = (label_map.data == TABLE.values[name]).transpose(2, 1, 0)
        np.testing.assert_array_equal(pixels[..., number - 1], expected)


def test_highdicom_sees_the_same_millimetres(target: Path) -> None:
    image = scan()
    label_map = drawn(image)
    dicom_seg.write_labels(target, label_map, image.source)
    volume = highdicom.seg.segread(target).get_volume(combine_segments=True)
    for value, name in ((1, "left_kidney"), (2, "liver")):
        seen = np.argwhere(volume.array == value) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
        meant = image.grid.to_world(np.argwhere(label_map.data == TABLE.values[name])) * LPS.diagonal()[:3]
        np.testing.assert_allclose(sorted(seen.tolist()), sorted(meant.tolist()), atol=1e-3)


@pytest.fixture
def dciodvfy() -> Any:
    if shutil.which("dciodvfy") is None:
        reason = "dciodvfy is not installed (Debian's dicom3tools)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)

    def errors(path: Path) -> list[str]:
        answer = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=False)  # noqa: S607
        lines = (answer.stdout + answer.stderr).splitlines()
        assert lines
        return [line for line in lines if line.startswith("Error")]

    return errors


@pytest.mark.parametrize(
    "image", [scan(), scan((9, 6, 1)), scan(affine=affine_of(tilt=0.3)), enhanced((4, 3, 2, 1, 0))]
)
@pytest.mark.parametrize("empty", [False, True])
def test_an_outside_judge_finds_no_error(target: Path, dciodvfy: Any, image: Scan, empty: bool) -> None:
    label_map = drawn(image)
    dicom_seg.write_labels(target, replace(label_map, data=label_map.data * (not empty)), image.source)
    assert dciodvfy(target) == []


def test_the_outside_judge_would_complain(written: Path, dciodvfy: Any) -> None:
    def change(data: Any) -> None:
        del data.SegmentSequence[0].SegmentLabel
        data.PatientSex = "X"

    assert len(dciodvfy(edited(written, change))) >= 2


def test_the_outside_judge_only_misses_that_label_maps_exist(target: Path, dciodvfy: Any) -> None:
    image = scan()
    dicom_seg.write_segmentation(target, drawn(image), image.source, kind="labelmap")
    known = ("Information Object Not found", "SegmentNumber not monotonically increasing")
    assert [error for error in dciodvfy(target) if not any(part in error for part in known)] == []


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_every_value_is_as_dicom_demands(target: Path, monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    monkeypatch.setattr(pydicom.config.settings, "_writing_validation_mode", pydicom.config.RAISE)
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
    image = scan()
    dicom_seg.write_segmentation(target, drawn(image), image.source, kind=kind)
    assert sum(1 for _ in pydicom.dcmread(target).iterall()) > 100


def test_patient_study_and_place_are_the_images(written: Path) -> None:
    image = scan()
    dicom_seg.write_labels(written, drawn(image), image.source)
    data, first = pydicom.dcmread(written), image.datasets[0]
    for name in ("PatientName", "PatientID", "PatientSex", "PatientBirthDate", "StudyInstanceUID", "StudyDate"):
        assert data[name].value == first[name].value, name
    assert data.FrameOfReferenceUID == first.FrameOfReferenceUID
    assert data.SeriesInstanceUID != first.SeriesInstanceUID
    assert str(data.PatientName) == "Müller^Jörg"
    referenced = data.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == first.SeriesInstanceUID
    assert {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence} == {
        item.SOPInstanceUID for item in image.datasets
    }


def test_the_headers_of_the_image_stay_as_they_were(target: Path) -> None:
    image = enhanced((4, 3, 2, 1, 0))
    del image.datasets[0].StudyID
    before = image.datasets[0].to_json()
    dicom_seg.write_labels(target, drawn(image), image.source)
    assert image.datasets[0].to_json() == before


def test_segments_say_what_they_are(target: Path) -> None:
    labels = Labels(
        {"background": 0, "right_kidney": 1, "tumour": 2, "Läsion": 3},
        regions={"organ": (1, 2)},
        codes={"Läsion": Code("D1", "99MINE", "Läsion", abnormal=True)},
    )
    image = scan()
    label_map = LabelMap((drawn(image).data != 0).astype(np.uint8), image.grid, labels, author="nnU-Net v2.5 liver")
    dicom_seg.write_labels(target, label_map, image.source)
    kidney, tumour, lesion = pydicom.dcmread(target).SegmentSequence
    assert [item.SegmentLabel for item in (kidney, tumour, lesion)] == list(labels.names)
    kind = kidney.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("64033007", "SCT")
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Right"
    assert kidney.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "91723000"
    assert tumour.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert lesion.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Läsion"
    algorithm = kidney.SegmentationAlgorithmIdentificationSequence[0]
    assert (kidney.SegmentAlgorithmType, algorithm.AlgorithmName) == ("AUTOMATIC", "nnU-Net liver")
    assert algorithm.AlgorithmVersion == "v2.5"
    for value, item in enumerate((kidney, tumour, lesion), 1):
        colour = highdicom.color.CIELabColor.from_dicom_value(tuple(item.RecommendedDisplayCIELabValue)).to_rgb()
        np.testing.assert_allclose(colour, labels.colour(value), atol=1)
    again = dicom_seg.read_labels(target)
    assert again.labels.codes["Läsion"] == labels.codes["Läsion"]
    assert again.labels.codes["right_kidney"].side == "right"


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_empty_structures_are_listed_and_an_empty_map_can_be_written(target: Path, kind: Any) -> None:
    image = scan()
    dicom_seg.write_segmentation(target, drawn(image), image.source, kind=kind)
    assert "spleen" in dicom_seg.read_labels(target).labels.names
    nothing = LabelMap(np.zeros(SHAPE, np.uint8), image.grid, TABLE)
    dicom_seg.write_segmentation(target, nothing, image.source, kind=kind)
    again = dicom_seg.read_labels(target, TABLE)
    assert again.grid.shape == SHAPE
    assert not again.data.any()


def test_slices_without_a_frame_are_filled_and_none_invented_outside(target: Path) -> None:
    image = scan((9, 6, 7))
    data = np.zeros(image.grid.shape, np.uint8)
    data[2, 3, 1], data[4, 1, 4] = 7, 2
    dicom_seg.write_labels(target, LabelMap(data, image.grid, TABLE), image.source)
    assert pydicom.dcmread(target).NumberOfFrames == 2
    again = dicom_seg.read_labels(target, TABLE)
    np.testing.assert_array_equal(again.data, data[:, :, 1:5])
    np.testing.assert_allclose(again.grid.affine[:3, 3], image.grid.to_world(np.array([[0, 0, 1]]))[0], atol=1e-4)
    np.testing.assert_array_equal(dicom_seg.read_labels_on(target, image.grid, TABLE).data, data)


def test_it_lands_on_a_grid_with_other_axes_and_more_slices(written: Path) -> None:
    """As dcm2niix would write the same image, with two slices more."""
    image = scan()
    turned = np.array([[0, 0, -1, 8], [0, 1, 0, 0], [1, 0, 0, -1], [0, 0, 0, 1]], float)
    again = dicom_seg.read_labels_on(written, Grid((7, 6, 9), image.grid.affine @ turned), TABLE)
    expected = np.zeros((7, 6, 9), np.uint8)
    expected[1:6] = drawn(image).data[::-1].transpose(2, 1, 0)
    np.testing.assert_array_equal(again.data, expected)


def test_frames_of_a_multi_frame_image_are_referenced(target: Path) -> None:
    image = enhanced((4, 3, 2, 1, 0))
    label_map = drawn(image)
    dicom_seg.write_labels(target, label_map, image.source)
    assert references(target) == {("liver", 5), ("left_kidney", 1), ("liver", 1)}
    np.testing.assert_array_equal(dicom_seg.read_labels(target, TABLE).data, label_map.data)
    assert dicom_seg.read_labels(target).grid.displacement(image.grid) < 1e-4


@pytest.mark.parametrize("second", [False, True])
def test_frames_of_one_time_of_a_multi_frame_image_are_referenced(target: Path, second: bool) -> None:
    first = (9, 8, 7, 6, 5) if second else (4, 3, 2, 1, 0)
    image = enhanced(first, copies=2)
    label_map = drawn(image)
    for empty in (True, False):
        shown = replace(label_map, data=label_map.data * (not empty))
        dicom_seg.write_labels(target, shown, image.source)
        np.testing.assert_array_equal(dicom_seg.read_labels(target, TABLE).data, shown.data)
    last, start = first[-1] + 1, first[0] + 1
    assert references(target) == {("liver", start), ("left_kidney", last), ("liver", last)}


def references(path: Path) -> set[tuple[str, int]]:
    data = pydicom.dcmread(path)
    names = {item.SegmentNumber: item.SegmentLabel for item in data.SegmentSequence}
    return {
        (
            names[group.SegmentIdentificationSequence[0].ReferencedSegmentNumber],
            int(group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber),
        )
        for group in data.PerFrameFunctionalGroupsSequence
    }


def test_names_decide_the_values(written: Path) -> None:
    table = Labels({"background": 0, "SPLEEN": 1, "Left Kidney": 400, "liver": 3, "stomach": 4})
    again = dicom_seg.read_labels(written, table)
    np.testing.assert_array_equal(again.data == 400, drawn(scan()).data == 2)
    np.testing.assert_array_equal(again.data == 3, drawn(scan()).data == 7)
    assert again.data.dtype == np.uint16


def test_the_same_labels_make_the_same_file_but_for_identifiers_and_time(target: Path) -> None:
    image, texts = scan(), []
    for _ in range(2):
        dicom_seg.write_labels(target, drawn(image), image.source)
        data = pydicom.dcmread(target)
        for element in data.iterall():
            if element.VR in ("DA", "DT", "TM") or element.keyword in (
                "SOPInstanceUID", "SeriesInstanceUID", "DimensionOrganizationUID"
            ):  # fmt: skip
                element.value = None
        texts.append(data.to_json())
    assert texts[0] == texts[1]


def test_it_is_told_by_its_content(written: Path, tmp_path: Path) -> None:
    head = written.read_bytes()[:400]
    assert dicom_seg.recognises(written, head)
    assert formats.family(written) == "dicom_seg"
    assert not dicom_seg.recognises(written, head.replace(b"5.1.4.1.1.66.4", b"5.1.4.1.1.2\0\0\0"))
    assert not dicom_seg.recognises(written, b"")
    assert not dicom_seg.recognises(written, head[:150])
    assert not dicom_seg.recognises(written, b"not DICOM, 1.2.840.10008.5.1.4.1.1.66.4")
    assert dicom_seg.recognises(written.parent, b"")
    assert dicom_seg.read_labels(written.parent, TABLE).data.any()
    (written.parent / "other.dcm").write_bytes(b"x" * 200)
    assert not dicom_seg.recognises(written.parent, b"")


def test_recognising_needs_no_library() -> None:
    code = "import sys; from voxelsam.formats import dicom_seg, dicom_rt; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"highdicom", "SimpleITK", "dicomweb_client"} & set(loaded)


def test_two_segmentations_in_a_folder_are_no_choice(written: Path) -> None:
    shutil.copy(written, written.with_name("again.dcm"))
    with pytest.raises(FormatError, match=r"found 2 \(again.dcm, seg.dcm\); choose one") as caught:
        dicom_seg.read_labels(written.parent)
    assert caught.value.code == "DCM-03"


def fails_to_write(path: Path, label_map: LabelMap, source: Source | None, message: str, code: str = "") -> None:
    path.write_bytes(b"as it was")
    with pytest.raises(OutputError, match=message) as caught:
        dicom_seg.write_labels(path, label_map, source)
    assert caught.value.code == code
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"as it was"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("source", [None, Source((Path("scan.nii.gz"),), "nifti"), Source((Path("x"),), "dicom")])
def test_an_image_that_is_no_dicom_cannot_have_one(target: Path, source: Source | None) -> None:
    fails_to_write(target, drawn(scan()), source, r"belongs to a DICOM image.*write NIfTI \(.nii.gz\) instead")


def test_the_label_maps_own_source_is_good_enough(target: Path) -> None:
    image = scan()
    dicom_seg.write_labels(target, replace(drawn(image), source=image.source))
    assert target.is_file()


def test_without_a_frame_of_reference_there_is_none(target: Path) -> None:
    image = scan()
    del image.datasets[2].FrameOfReferenceUID
    fails_to_write(target, drawn(image), image.source, "frame of reference.*NIfTI", "DCM-08")


def test_without_identifiers_there_is_none(target: Path) -> None:
    image = scan()
    del image.datasets[1].SOPInstanceUID
    fails_to_write(target, drawn(image), image.source, "lacks what DICOM demands .SOPInstanceUID.")


def test_resampled_slices_have_none(target: Path) -> None:
    image = scan()
    header = Header(image.datasets, resampled=True)
    fails_to_write(target, drawn(image), Source((), "dicom", header), "resampled onto an even grid.*NIfTI")


def test_labels_of_another_place_are_refused(target: Path) -> None:
    image = scan()
    moved = Grid(SHAPE, affine_of(origin=(-31.25, 14.5, 105.0)))
    fails_to_write(
        target, replace(drawn(image), grid=moved), image.source,
        "does not read back .*what was written: its voxels must", "GEO-02",
    )  # fmt: skip
    fewer = Source((), "dicom", Header(image.datasets[:4]))
    with pytest.raises(GeometryError, match=r"has \(9, 6, 5\) voxels, but the image .*\(9, 6, 4\)"):
        dicom_seg.write_labels(target, drawn(image), fewer)


def test_labels_of_the_slices_in_another_order_are_refused(target: Path) -> None:
    image = scan()
    fails_to_write(
        target, drawn(image), Source((), "dicom", Header(image.datasets[::-1])), "does not read back as what was"
    )


@pytest.mark.parametrize(
    ("name", "message"), [("x" * 65, "1 to 64 characters"), ("a\\b", "no backslash"), ("  ", "1 to 64 characters")]
)
def test_names_that_dicom_cannot_hold_are_refused(target: Path, name: str, message: str) -> None:
    image = scan()
    labels = Labels({"background": 0, name: 7, "kidney": 2})
    fails_to_write(target, drawn(image, labels), image.source, message)


def test_voxels_that_nobody_labelled_are_refused(target: Path) -> None:
    image = scan()
    labels = Labels({"background": 0, "left_kidney": 2}, ignore=7)
    fails_to_write(target, drawn(image, labels), image.source, "7 voxels are marked as not labelled.*NIfTI")


def test_a_table_without_structures_and_values_outside_of_it_are_refused(target: Path) -> None:
    image = scan()
    nothing = LabelMap(np.zeros(SHAPE, np.uint8), image.grid, Labels({"background": 0}))
    fails_to_write(target, nothing, image.source, "needs a structure")
    with pytest.raises(LabelError, match=r"7 \(7 voxels\)") as caught:
        dicom_seg.write_labels(target, drawn(image, Labels({"background": 0, "kidney": 2})), image.source)
    assert caught.value.code == "LAB-02"


def test_a_header_that_highdicom_refuses_is_one_sentence(target: Path) -> None:
    image = scan()
    for data in image.datasets:
        data.PixelSpacing = None
    fails_to_write(target, drawn(image), image.source, "cannot be made from the headers of the image .*write NIfTI")


def test_odd_headers_are_mended_or_told_without_their_content(target: Path) -> None:
    image = scan()
    for data in image.datasets:
        for name in ("AccessionNumber", "StudyDate", "PatientBirthDate", "ReferringPhysicianName"):
            delattr(data, name)
        data.SpecificCharacterSet, data.PatientSex, data.PatientName, data.SliceThickness = "", "U", "SECRET", None
        data.SeriesNumber = None
    with pydicom.config.disable_value_validation():
        for data in image.datasets:
            del data.StudyID
            data.StudyID = "SECRET, AND TOO LONG"
    with pytest.warns(InputWarning, match="DCM-09: .*seg.dcm: values taken over") as caught:
        dicom_seg.write_labels(target, drawn(image), image.source)
    assert not any("SECRET" in str(warning.message) for warning in caught)
    assert dicom_seg.read_labels(target, TABLE).data.any()


def test_without_the_extra_the_message_says_how_to_get_it(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = scan()
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(MissingExtra, match=r"pip install 'voxelsam\[dicom\]'"):
        dicom_seg.write_labels(target, drawn(image), image.source)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingExtra, match=r"pip install 'voxelsam\[dicom\]'"):
        dicom_seg.read_labels(target)


def fails_to_read(path: Path, kind: type[VoxelSamError], code: str, message: str, labels: Labels | None = None) -> None:
    with pytest.raises(kind, match=message) as caught:
        dicom_seg.read_labels(path, labels)
    assert caught.value.code == code
    assert str(path) in str(caught.value)


def test_segments_outside_the_table_are_named(written: Path) -> None:
    fails_to_read(
        written, LabelError, "LAB-04", r"as in the table \(liver\), but it has 'left_kidney', 'spleen'",
        Labels({"background": 0, "liver": 1}),
    )  # fmt: skip


def test_a_name_that_fits_two_of_the_table_is_not_guessed(written: Path) -> None:
    table = Labels({"background": 0, "Liver": 1, "LIVER": 2, "spleen": 3, "left kidney": 4})
    fails_to_read(written, LabelError, "LAB-04", "but it has 'liver'", table)


@pytest.mark.parametrize("part", [0.2, 0.5, 0.9, 0.99, 0.999])
def test_a_cut_file_is_said_to_be_cut(target: Path, part: float) -> None:
    image = scan((40, 40, 5), affine_of())
    dicom_seg.write_labels(target, drawn(image), image.source)
    content = target.read_bytes()
    target.write_bytes(content[: int(len(content) * part)])
    fails_to_read(target, FormatError, "SET-03", "cut off, broken or no complete DICOM segmentation")


@pytest.mark.parametrize(
    "name",
    ["SegmentSequence", "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence", "PixelData", "Rows",
     "SegmentationType", "NumberOfFrames", "BitsAllocated"],
)  # fmt: skip
def test_a_file_without_a_part_of_it_is_said_to_be_broken(written: Path, name: str) -> None:
    fails_to_read(edited(written, lambda data: delattr(data, name)), FormatError, "SET-03", "no complete DICOM")


def test_fewer_positions_than_frames_are_refused(written: Path) -> None:
    edited(written, lambda data: data.PerFrameFunctionalGroupsSequence.pop())
    fails_to_read(written, FormatError, "SET-03", "3 frames, but positions of 2")


def test_frames_of_a_segment_that_is_not_described_are_refused(written: Path) -> None:
    def change(data: Any) -> None:
        data.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 8

    fails_to_read(edited(written, change), LabelError, "LAB-02", r"segments \[8\], which the file does not describe")


def test_numbers_of_a_label_map_that_are_not_described_are_refused(target: Path) -> None:
    image = scan()
    dicom_seg.write_segmentation(target, drawn(image), image.source, kind="labelmap")
    edited(target, lambda data: data.SegmentSequence.pop(1))
    fails_to_read(target, LabelError, "LAB-02", "no described segment in a frame: 2 .6 voxels")


def test_irregular_slices_make_no_grid_but_find_their_places(written: Path) -> None:
    image = scan((9, 6, 5), affine_of((0, 0, 0)))
    data = np.zeros(SHAPE, np.uint8)
    data[1, 2, (0, 2, 4)] = 7
    dicom_seg.write_labels(written, LabelMap(data, image.grid, TABLE), image.source)

    def change(seg: Any) -> None:
        seg.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0].ImagePositionPatient[2] += 0.4

    edited(written, change)
    fails_to_read(written, GeometryError, "DCM-01", "no multiples of one distance apart.*read_labels_on")
    irregular = Grid((9, 6, 200), image.grid.affine @ np.diag([1, 1, 0.1 / 2.5, 1]))
    assert np.argwhere(dicom_seg.read_labels_on(written, irregular).data)[:, 2].tolist() == [0, 54, 100]


def test_a_distance_that_is_far_too_small_is_not_believed(written: Path) -> None:
    def change(data: Any) -> None:
        data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices = 0.0001

    assert dicom_seg.read_labels(edited(written, change)).grid.shape[2] == 2


@pytest.mark.parametrize(
    ("move", "message"),
    [
        ((0.3, 0, 0), "voxels beside them"),
        ((0, 0, 0.5), "voxels beside them"),
        ((0, 0, 1), "reach from voxel .*the image's"),
    ],
)
def test_frames_between_or_outside_the_voxels_of_a_grid_are_refused(written: Path, move: Any, message: str) -> None:
    affine = scan().grid.affine.copy()
    affine[:3, 3] = scan().grid.to_world(np.array([move]))[0]
    with pytest.raises(GeometryError, match=message) as caught:
        dicom_seg.read_labels_on(written, Grid(SHAPE, affine))
    assert caught.value.code == "GEO-02"
    with pytest.raises(GeometryError, match="voxels beside them"):
        dicom_seg.read_labels_on(written, Grid(SHAPE, affine_of((0.4, -0.2, 0.1))))


def test_slices_of_two_orientations_are_refused(written: Path) -> None:
    def change(data: Any) -> None:
        shared = data.SharedFunctionalGroupsSequence[0]
        for number, group in enumerate(data.PerFrameFunctionalGroupsSequence):
            own = Dataset()
            own.ImageOrientationPatient = [1, 0, 0, 0, 1, 0] if number else [0, 1, 0, 0, 0, 1]
            group.PlaneOrientationSequence = [own]
        del shared.PlaneOrientationSequence

    fails_to_read(edited(written, change), GeometryError, "DCM-03", "several orientations")


@pytest.mark.parametrize(
    ("turn", "code"), [([0, 0, 0, 0, 1, 0], "GEO-05"), ([1, 0, 0, 1, 0, 0], "GEO-03"), ([1, 0, 0, 0.2, 1, 0], "GEO-03")]
)
def test_directions_that_are_none_are_refused(written: Path, turn: Any, code: str) -> None:
    def change(data: Any) -> None:
        data.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient = turn

    fails_to_read(edited(written, change), GeometryError, code, "directions of rows|right angles")


def test_one_slice_without_a_thickness_has_no_grid_of_its_own(target: Path) -> None:
    image = scan((9, 6, 1))
    data = drawn(image).data
    dicom_seg.write_labels(target, LabelMap(data, image.grid, TABLE), image.source)
    assert dicom_seg.read_labels(target).grid.displacement(image.grid) < 1e-4

    def change(seg: Any) -> None:
        measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        measures.SliceThickness = None
        measures.pop("SpacingBetweenSlices", None)

    fails_to_read(edited(target, change), GeometryError, "GEO-05", "without a thickness.*grid of its image")
    np.testing.assert_array_equal(dicom_seg.read_labels_on(target, image.grid, TABLE).data, data)


def test_without_a_frame_of_reference_it_has_no_place(written: Path) -> None:
    edited(written, lambda data: delattr(data, "FrameOfReferenceUID"))
    fails_to_read(written, GeometryError, "DCM-08", "without a frame of reference or positions")


def test_it_is_no_image_and_holds_none(written: Path) -> None:
    with pytest.raises(FormatError, match="expected an image, but this is a DICOM segmentation") as caught:
        formats.read(written)
    assert caught.value.code == "SET-03"
    assert dicom_seg.frames(written) == 1
    image = Volume(np.zeros((1, *SHAPE)), scan().grid)
    with pytest.raises(OutputError, match="not written as DICOM; write NIfTI"):
        dicom_seg.write_volume(written, image)


def overlapping(path: Path) -> Path:
    """Three segments, of which the last covers the first two in part."""
    image = scan()
    masks = np.zeros((*SHAPE[::-1], 3), np.uint8)
    masks[1, 0:3, 0:3, 0] = 1
    masks[1, 2:5, 2:5, 1] = 1
    masks[1, 2:5, 1:8, 2] = 1
    masks[3, 2:5, 1:8, 2] = 1
    kind = highdicom.sr.CodedConcept("10200004", "SCT", "Liver")
    described = [
        highdicom.seg.SegmentDescription(number, name, kind, kind, "MANUAL")
        for number, name in enumerate(("first", "second", "third"), 1)
    ]
    seg = highdicom.seg.Segmentation(
        list(image.datasets), masks, "BINARY", described, generate_uid(), 1, generate_uid(), 1, "m", "m", "1", "1",
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )  # fmt: skip
    seg.save_as(path)
    return path


def test_overlaps_are_counted_and_the_last_wins_only_if_accepted(target: Path) -> None:
    overlapping(target)
    fails_to_read(
        target, LabelError, "LAB-05",
        "'first' and 'second' share 1 voxels; 'first' and 'third' share 2 voxels; 'second' and 'third' share 9 voxels",
    )  # fmt: skip
    with checks.watching({"LAB-05"}) as watch:
        again = dicom_seg.read_labels(target)
    assert [finding.code for finding in watch.findings] == ["LAB-05"]
    assert np.bincount(again.data.ravel())[1:].tolist() == [7, 0, 42]


def test_overlaps_of_many_segments_are_found_by_reading_each_frame_once_more(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(data: Any) -> None:
        groups, kinds = data.PerFrameFunctionalGroupsSequence, data.SegmentSequence
        packed = np.unpackbits(np.frombuffer(data.PixelData, np.uint8), bitorder="little")
        frames = packed[: len(groups) * data.Rows * data.Columns].reshape(len(groups), -1)
        pixels = np.concatenate([frames, np.repeat(frames[:1], 40, axis=0)])
        for number in range(4, 44):
            kind, group = copy.deepcopy(kinds[0]), copy.deepcopy(groups[0])
            kind.SegmentNumber, kind.SegmentLabel = number, f"copy {number}"
            group.SegmentIdentificationSequence[0].ReferencedSegmentNumber = number
            kinds.append(kind)
            groups.append(group)
        data.NumberOfFrames = len(groups)
        content = np.packbits(pixels.ravel(), bitorder="little").tobytes()
        data.PixelData = content + bytes(len(content) % 2)

    edited(overlapping(target), change)
    calls: list[int] = []
    original = Frames.frame
    monkeypatch.setattr(Frames, "frame", lambda self, index: calls.append(index) or original(self, index))
    fails_to_read(target, LabelError, "LAB-05", "'first' and 'copy 4' share 9 voxels")
    assert len(calls) <= 2 * 44


def test_a_segmentation_without_a_preamble_is_known_and_read(written: Path) -> None:
    expected = dicom_seg.read_labels(written)
    bare = written.with_name("bare")
    bare.write_bytes(written.read_bytes()[132:])
    assert formats.family(bare) == "dicom_seg"
    np.testing.assert_array_equal(formats.read_labels(bare).data, expected.data)


def test_frames_a_world_apart_are_not_given_room(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(data: Any) -> None:
        groups = data.PerFrameFunctionalGroupsSequence
        turn = data.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
        normal = np.cross(*np.reshape(turn, (2, 3)).astype(float))
        first = np.array(groups[0].PlanePositionSequence[0].ImagePositionPatient, float)
        groups[-1].PlanePositionSequence[0].ImagePositionPatient = digits(first + normal * 2.5 * 19000)

    monkeypatch.setattr(_dicom_seg_frames, "_MOST_VOXELS", 9 * 6 * 1000)
    edited(written, change)
    fails_to_read(written, GeometryError, "DCM-01", "make no grid")


def test_overlapping_segments_are_read_one_by_one(target: Path) -> None:
    first, second, third = dicom_seg.read_segments(overlapping(target))
    assert [s.name for s in (first, second, third)] == ["first", "second", "third"]
    assert [int(s.mask.sum()) for s in (first, second, third)] == [9, 9, 42]
    assert third.grid.shape == (9, 6, 3)
    assert first.code == Code("10200004", "SCT", "Liver")
    assert (second.mask & third.mask).sum() == 9
    lowest = third.grid.to_world(np.argwhere(third.mask)[:1])[0]
    np.testing.assert_allclose(lowest, scan().grid.to_world(np.array([[1, 2, 1]]))[0], atol=1e-3)


def test_overlaps_of_segments_with_one_value_are_no_overlaps(target: Path) -> None:
    def change(data: Any) -> None:
        for item in data.SegmentSequence:
            item.SegmentLabel = "lesion"

    edited(overlapping(target), change)
    again = dicom_seg.read_labels(target, Labels({"background": 0, "lesion": 5}))
    assert np.bincount(again.data.ravel()).nonzero()[0].tolist() == [0, 5]
    fails_to_read(target, LabelError, "LAB-05", "'lesion' and 'lesion' share")
    with checks.watching({"LAB-05"}):
        assert dicom_seg.read_labels(target).labels.names == ("lesion", "lesion 2", "lesion 3")
