"""EndoVis 2018: sequences in releases, colours from tables, repairs, and what may be wrong with them."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from voxelsam.errors import InputError, LabelError
from voxelsam.layouts import open_dataset, read_label
from voxelsam.layouts.endovis18 import read, recognises

COLOURS = {"background-tissue": (0, 0, 0), "shaft": (0, 255, 0), "wrist": (125, 255, 12)}


def frame(root: Path, sequence: str, number: int, label: bool = True) -> None:
    for part in ("left_frames", "labels") if label else ("left_frames",):
        (root / sequence / part).mkdir(parents=True, exist_ok=True)
        colours = np.zeros((4, 6, 3), np.uint8)
        colours[1:3, 2:5] = (0, 255, 0)
        Image.fromarray(colours).save(root / sequence / part / f"frame{number:03}.png")


def table(path: Path, *names: str, **changed: object) -> None:
    entries = [{"name": n, "color": list(COLOURS[n]), "classid": list(COLOURS).index(n), **changed} for n in names]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    for sequence in ("seq_1", "seq_3"):
        frame(tmp_path, sequence, 0)
        frame(tmp_path, sequence, 1)
    table(tmp_path / "labels.json", *COLOURS)
    return tmp_path


def test_a_frame_is_a_case_and_a_sequence_a_group(small: Path) -> None:
    dataset = open_dataset(small)
    assert (dataset.layout, dataset.kind, dataset.channels) == ("endovis18", "PICTURE", ("red", "green", "blue"))
    assert [(case.id, case.group) for case in dataset.train] == [
        ("seq_1_frame000", "seq_1"),
        ("seq_1_frame001", "seq_1"),
        ("seq_3_frame000", "seq_3"),
        ("seq_3_frame001", "seq_3"),
    ]
    assert dataset.labels is not None
    assert dataset.labels.to_json() == {"background-tissue": 0, "shaft": 1, "wrist": 2}
    label = read_label(dataset.train[0], dataset.labels)
    assert label.data.shape == (6, 4, 1)
    assert (label.data[2:5, 1:3] == 1).all()
    assert label.data.sum() == 6


def test_releases_add_up_and_the_test_part_stays_apart(small: Path) -> None:
    frame(small / "miccai_challenge_release_2", "seq_5", 0)
    table(small / "miccai_challenge_release_2" / "labels.json", "background-tissue", "wrist")
    frame(small / "test_data" / "test_data" / "seq_1-2019-001", "seq_1", 0)
    frame(small / "test_data", "seq_2", 0, label=False)
    dataset = open_dataset(small)
    assert {case.group for case in dataset.train} == {"seq_1", "seq_3", "seq_5"}
    assert sorted((case.id, case.label is not None) for case in dataset.test) == [
        ("test_seq_1_frame000", True),
        ("test_seq_2_frame000", False),
    ]


def test_the_usual_sequences_are_held_out_where_all_are_there(small: Path) -> None:
    for sequence in ("seq_2", "seq_5", "seq_9"):
        frame(small, sequence, 0)
    assert read(small).splits == ()
    frame(small, "seq_15", 0)
    (split,) = read(small).splits
    assert {name.rpartition("_")[0] for name in split.val} == {"seq_2", "seq_5", "seq_9", "seq_15"}
    assert {name.rpartition("_")[0] for name in split.train} == {"seq_1", "seq_3"}


def test_repaired_masks_go_before_the_others(small: Path) -> None:
    (small / "repairs").mkdir()
    Image.new("RGB", (6, 4), (125, 255, 12)).save(small / "repairs" / "seq_3_frame001.png")
    dataset = read(small)
    means = [read_label(case, dataset.labels).data.mean() for case in dataset.train]
    assert means == [0.25, 0.25, 0.25, 2.0]


def test_what_a_mac_leaves_behind_is_passed_over(small: Path) -> None:
    shadow = small / "__MACOSX" / "seq_1" / "left_frames"
    shadow.mkdir(parents=True)
    (shadow / "._frame000.png").write_bytes(b"\0")
    assert len(read(small).train) == 4


def test_a_colour_that_no_class_has_is_refused(small: Path) -> None:
    Image.new("RGB", (6, 4), (1, 2, 3)).save(small / "seq_1" / "labels" / "frame000.png")
    dataset = read(small)
    with pytest.raises(LabelError, match=r"\(1, 2, 3\): 24 pixels") as caught:
        read_label(dataset.train[0], dataset.labels)
    assert caught.value.code == "LAB-02"


def test_problems_come_together(small: Path) -> None:
    (small / "seq_1" / "labels" / "frame000.png").unlink()
    (small / "seq_3" / "left_frames" / "frame001.png").unlink()
    shutil.copytree(small / "seq_1", small / "release_4" / "seq_1")
    table(small / "release_4" / "labels.json", "wrist", classid=7)
    with pytest.raises(InputError, match="problems: 4") as caught:
        read(small)
    for text in ("frame000.png has no mask", "frame001.png has no picture", "hold this sequence", "LAB-04: .*wrist"):
        assert re.search(text, str(caught.value))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "LAB-02: .*expected a list of"),
        ('[{"name": "shaft", "color": [0, 255], "classid": 1}]', "LAB-02: .*expected a list of"),
        ('[{"name": "shaft", "color": [0, 255, 0], "classid": "1"}]', "LAB-02: .*expected a list of"),
        ('[{"name": "shaft", "color": [0, 255, 0], "classid": 1}]', "LAB-02: .*needs a background"),
        ("[", "SET-03: .*not valid JSON"),
        (
            '[{"name": "a", "color": [0, 0, 0], "classid": 0}, {"name": "b", "color": [0, 0, 0], "classid": 1}]',
            "LAB-04: 2 classes share 1 colours",
        ),
    ],
)
def test_tables_that_are_none(small: Path, content: str, message: str) -> None:
    (small / "labels.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read(small)


def test_without_a_table_no_colour_means_anything(small: Path) -> None:
    (small / "labels.json").unlink()
    with pytest.raises(InputError, match=r"SET-01: no labels\.json"):
        read(small)


def test_other_folders_are_not_recognised(tmp_path: Path) -> None:
    assert not recognises(tmp_path / "gone")
    (tmp_path / "seq_1").mkdir()
    assert not recognises(tmp_path)
    (tmp_path / "scans" / "seq_1" / "left_frames").mkdir(parents=True)
    assert not recognises(tmp_path)
    (tmp_path / "seq_1" / "left_frames").mkdir()
    assert recognises(tmp_path)
    with pytest.raises(InputError, match="no cases"):
        read(tmp_path)
