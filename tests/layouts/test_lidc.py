"""LIDC-IDRI: what counts as nodule, where outlines lie, and what may be missing."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from voxelsam import checks
from voxelsam.errors import GeometryError, InputError, LabelError
from voxelsam.formats import read_channels
from voxelsam.layouts import _xml, open_dataset, read_label
from voxelsam.layouts.lidc import read, recognises, votes
from voxelsam.volumes import LabelMap

pytest.importorskip("pydicom")


def miniature() -> ModuleType:
    file = Path(__file__).parents[1] / "contracts" / "miniatures" / "lidc.py"
    spec = importlib.util.spec_from_file_location("miniature_of_lidc", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MADE = miniature()
SHAPE = (*MADE.SIZE, MADE.SLICES)
PLACES = {MADE.uid(1, k): k for k in range(MADE.SLICES)}
HEIGHTS = [MADE.height(k) for k in range(MADE.SLICES)]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    MADE.make(tmp_path)
    return tmp_path


def count(tmp_path: Path, text: str) -> np.ndarray:
    (tmp_path / "one.xml").write_text(text)
    return votes(_xml.parse(tmp_path / "one.xml"), SHAPE, PLACES, HEIGHTS, "one.xml")


def test_patients_and_scans(small: Path) -> None:
    dataset = open_dataset(small)
    assert (dataset.layout, dataset.kind, dataset.channels, dataset.splits) == ("lidc", "CT", ("CT",), ())
    assert [(case.id, case.group) for case in dataset.train] == [
        (f"LIDC-IDRI-{n:04}", f"LIDC-IDRI-{n:04}") for n in (1, 2, 3)
    ]
    assert dataset.train[2].label == small / "tcia-lidc-xml" / "157" / "069.xml"


def test_a_voxel_is_nodule_where_two_readers_agree(small: Path) -> None:
    dataset = read(small)
    label = read_label(dataset.train[0], dataset.labels)
    assert isinstance(label, LabelMap)
    expected = np.zeros(SHAPE, bool)
    expected[7:12, 8:13, 1] = True
    assert np.array_equal(label.data == 1, expected)
    image = read_channels(dataset.train[0].images, 1)
    assert label.grid.displacement(image.grid) == 0
    assert label.grid.spacing[2] == pytest.approx(2.5)


def test_two_scans_of_a_patient_are_one_group(small: Path) -> None:
    again = small / "LIDC-IDRI-0002" / "02-02-2001-CT" / "1"
    MADE.write_series(again, 5)
    (again / "070.xml").write_text(MADE.document(5, [{}]))
    cases = [case for case in read(small).train if case.group == "LIDC-IDRI-0002"]
    assert [case.id for case in cases] == ["LIDC-IDRI-0002_1", "LIDC-IDRI-0002_2"]


def test_an_outline_is_not_part_of_its_nodule(tmp_path: Path) -> None:
    counted = count(tmp_path, MADE.document(1, [{2: [MADE.rectangle(4, 5, 12, 13)]}]))
    expected = np.zeros(SHAPE, np.uint8)
    expected[5:12, 6:13, 2] = 1
    assert np.array_equal(counted, expected)


def test_a_reader_counts_once_and_holes_do_not(tmp_path: Path) -> None:
    outline, hole = MADE.rectangle(2, 2, 14, 14), MADE.rectangle(5, 5, 9, 9)
    twice = count(tmp_path, MADE.document(1, [{0: [outline, outline]}, {0: [outline]}]))
    assert twice.max() == 2
    text = MADE.document(1, [{0: [outline, hole]}])
    second = text.rindex("TRUE")
    ringed = count(tmp_path, text[:second] + "FALSE" + text[second + 4 :])
    assert ringed[6:9, 6:9, 0].max() == 0
    assert ringed.sum() == 11 * 11 - 3 * 3


def test_marks_without_an_outline_do_not_count(tmp_path: Path) -> None:
    text = MADE.document(1, [{0: [((5, 5),)], 1: [((5, 5), (6, 6))]}])
    other = "<nonNodule><imageSOP_UID>1</imageSOP_UID><locus><xCoord>1</xCoord></locus></nonNodule></readingSession>"
    assert count(tmp_path, text.replace("</readingSession>", other)).sum() == 0


def test_the_height_tells_the_slice_where_the_uid_does_not(tmp_path: Path) -> None:
    text = MADE.document(1, [{3: [MADE.FIRST]}])
    assert count(tmp_path, text.replace(MADE.uid(1, 3), "1.2.3"))[..., 3].sum() == 49
    with pytest.raises(LabelError, match=r"1\.2\.3 at z = -119\.0, but the series has no such slice") as caught:
        count(tmp_path, text.replace(MADE.uid(1, 3), "1.2.3").replace(str(MADE.height(3)), "-119.0"))
    assert caught.value.code == "SET-01"
    with pytest.raises(LabelError, match="no such slice"):
        count(tmp_path, text.replace(MADE.uid(1, 3), "1.2.3").replace(str(MADE.height(3)), ""))


@pytest.mark.parametrize("point", ["", "4.5", "four"])
def test_points_that_are_no_pixels(tmp_path: Path, point: str) -> None:
    with pytest.raises(LabelError, match="no whole numbers") as caught:
        count(tmp_path, MADE.document(1, [{0: [MADE.FIRST]}]).replace("<xCoord>4<", f"<xCoord>{point}<"))
    assert caught.value.code == "LAB-01"


def test_problems_come_together(small: Path) -> None:
    (small / "tcia-lidc-xml" / "157" / "069.xml").unlink()
    first = small / "LIDC-IDRI-0001" / "01-01-2000-CT" / "1.000000"
    (first / "070.xml").write_text("<LidcReadMessage/>")
    second = small / "LIDC-IDRI-0002" / "01-01-2000-CT" / "2.000000"
    min(second.glob("*.dcm")).write_bytes(b"no DICOM")
    with pytest.raises(InputError, match="problems: 3") as caught:
        read(small)
    for text in ("SET-01: LIDC-IDRI-0001: .* has 069.xml, 070.xml", "SET-03: .*as DICOM", "LIDC-IDRI-0003: .* none"):
        assert re.search(text, str(caught.value)), text


def test_a_document_type_is_refused(small: Path) -> None:
    dataset = read(small)
    assert dataset.train[0].label is not None
    dataset.train[0].label.write_text('<!DOCTYPE a [<!ENTITY b "c">]><LidcReadMessage>&b;</LidcReadMessage>')
    with pytest.raises(InputError, match="declares a document type") as caught:
        read_label(dataset.train[0], dataset.labels)
    assert caught.value.code == "SET-03"


def test_a_missing_slice_cannot_be_passed_over(small: Path) -> None:
    dataset = read(small)
    (dataset.train[0].images[0] / "1-003.dcm").unlink()
    with pytest.raises(GeometryError) as caught:
        read_label(dataset.train[0], dataset.labels)
    assert caught.value.code == "DCM-01"
    with checks.watching(accept={"DCM-01"}), pytest.raises(GeometryError, match="an outline belongs to one slice"):
        read_label(dataset.train[0], dataset.labels)


def test_other_folders_are_not_recognised(tmp_path: Path) -> None:
    (tmp_path / "LIDC-IDRI").mkdir()
    assert not recognises(tmp_path)
    assert not recognises(tmp_path / "gone")
    (tmp_path / "LIDC-IDRI-0001").mkdir()
    assert recognises(tmp_path)
    with pytest.raises(InputError, match="no cases"):
        read(tmp_path)
