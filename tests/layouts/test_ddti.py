"""DDTI: contours in XML become masks on the pictures."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from voxelsam.errors import InputError, InputWarning, LabelError
from voxelsam.layouts import open_dataset, read_label
from voxelsam.layouts.ddti import read, recognises

SQUARE = ((10, 5), (19, 5), (19, 14), (10, 14))
TRIANGLE = ((0, 0), (6, 0), (0, 6))


def shapes(*polygons: tuple[tuple[float, float], ...]) -> str:
    return json.dumps([{"points": [{"x": x, "y": y} for x, y in one], "regionType": "freehand"} for one in polygons])


def write(root: Path, patient: str, marks: dict[str, str], pictures: int = 1) -> None:
    for number in range(1, pictures + 1):
        Image.effect_noise((30, 20), 40).save(root / f"{patient}_{number}.jpg")
    listed = "".join(f"<mark><image>{number}</image><svg>{svg}</svg></mark>" for number, svg in marks.items())
    (root / f"{patient}.xml").write_text(f'<?xml version="1.0"?><case><number>{patient}</number>{listed}</case>')


def test_pictures_of_a_patient_are_one_group(tmp_path: Path) -> None:
    write(tmp_path, "2", {"1": shapes(SQUARE), "2": shapes(TRIANGLE)}, pictures=2)
    write(tmp_path, "10", {"1": shapes(SQUARE)})
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.kind) == ("ddti", "PICTURE")
    assert [(case.id, case.group) for case in dataset.train] == [("2_1", "2"), ("2_2", "2"), ("10_1", "10")]


def test_contours_are_filled_at_their_place(tmp_path: Path) -> None:
    write(tmp_path, "1", {"1": shapes(SQUARE, TRIANGLE)})
    dataset = read(tmp_path)
    label = read_label(dataset.train[0], dataset.labels)
    assert label.data.shape == (30, 20, 1)
    expected = np.zeros((30, 20), bool)
    expected[10:20, 5:15] = True
    i, j = np.indices((30, 20))
    expected |= i + j <= 6
    assert np.array_equal(label.data[:, :, 0] == 1, expected)


def test_marks_of_one_picture_add_up(tmp_path: Path) -> None:
    write(tmp_path, "1", {"1": shapes(SQUARE)})
    text = (tmp_path / "1.xml").read_text()
    more = f"<mark><image>1</image><svg>{shapes(TRIANGLE)}</svg></mark></case>"
    (tmp_path / "1.xml").write_text(text.replace("</case>", more))
    dataset = read(tmp_path)
    assert read_label(dataset.train[0], dataset.labels).data.sum() == 100 + 28


@pytest.mark.parametrize("svg", ["", "[]"])
def test_a_picture_without_a_contour_is_a_test_case(tmp_path: Path, svg: str) -> None:
    write(tmp_path, "1", {"1": shapes(SQUARE), "2": svg}, pictures=3)
    with pytest.warns(InputWarning, match=r"LAB-03: .*no.* contour on 2 pictures \(1_2, 1_3\)"):
        dataset = read(tmp_path)
    assert [case.id for case in dataset.train] == ["1_1"]
    assert [(case.id, case.label) for case in dataset.test] == [("1_2", None), ("1_3", None)]


def test_a_contour_beside_the_picture(tmp_path: Path) -> None:
    write(tmp_path, "1", {"1": shapes(tuple((x + 100, y) for x, y in SQUARE))})
    dataset = read(tmp_path)
    with pytest.raises(LabelError, match=r"no contour lies on 1_1\.jpg \(30 × 20 pixels\)"):
        read_label(dataset.train[0], dataset.labels)


def test_problems_come_together(tmp_path: Path) -> None:
    write(tmp_path, "1", {"1": shapes(SQUARE), "7": shapes(SQUARE)})
    write(tmp_path, "2", {"1": shapes(SQUARE[:2])})
    write(tmp_path, "3", {}, pictures=0)
    Image.new("L", (4, 4)).save(tmp_path / "4_1.jpg")
    (tmp_path / "5.xml").write_text("<case>")
    Image.new("L", (4, 4)).save(tmp_path / "5_1.jpg")
    with pytest.raises(InputError, match="problems: 5") as caught:
        read(tmp_path)
    for text in (
        "contours of 1_7.jpg",
        "LAB-01: .*2.xml, picture '1': expected contours",
        "3.xml has no picture 3_1.jpg",
        "4_1.jpg has no 4.xml",
        "SET-03: .*5.xml: not valid XML",
    ):
        assert re.search(text, str(caught.value)), text


@pytest.mark.parametrize("svg", ["[{}]", "3", "[3]", "no JSON", '{"points": []}', '[{"points": [{"x": 1}]}]'])
def test_contours_that_are_none(tmp_path: Path, svg: str) -> None:
    write(tmp_path, "1", {"1": svg})
    with pytest.raises(InputError, match=r"LAB-01: .*expected contours") as caught:
        read(tmp_path)
    assert caught.value.code == "LAB-01"


BOMB = """<?xml version="1.0"?>
<!DOCTYPE case [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;">]>
<case><number>&c;</number></case>"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_refused(tmp_path: Path, encoding: str) -> None:
    write(tmp_path, "1", {"1": shapes(SQUARE)})
    (tmp_path / "1.xml").write_bytes(BOMB.replace('"1.0"', f'"1.0" encoding="{encoding}"').encode(encoding))
    with pytest.raises(InputError, match=r"SET-03: .*1\.xml: refused as XML: it declares a document type"):
        read(tmp_path)


def test_huge_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "1", {"1": shapes(SQUARE)})
    monkeypatch.setattr("voxelsam.layouts._xml.LARGEST", 100)
    with pytest.raises(InputError, match="bytes are too many"):
        read(tmp_path)


def test_other_folders_are_not_recognised(tmp_path: Path) -> None:
    (tmp_path / "1.xml").touch()
    assert not recognises(tmp_path)
    (tmp_path / "1_1.png").touch()
    assert not recognises(tmp_path)
    (tmp_path / "1_1.JPG").touch()
    assert recognises(tmp_path)
