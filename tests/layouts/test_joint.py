"""Several data sets from one YAML file: names, values, groups, splits, and what does not fit together."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from voxelsam.errors import InputError, InputWarning
from voxelsam.formats import write_labels, write_volume
from voxelsam.layouts import Split, open_dataset, read_label
from voxelsam.layouts.joint import read, recognises
from voxelsam.space.grid import Grid
from voxelsam.volumes import LabelMap, Labels, Volume

GRID = Grid((4, 5, 3), np.diag([-1.0, 1.5, 2.0, 1.0]))


def member(
    root: Path,
    table: dict[str, object],
    names: str = "ab",
    channels: tuple[str, ...] = ("CT",),
    split: bool = True,
    groups: dict[str, str] | None = None,
) -> None:
    """An nnU-Net folder whose label files hold every value of its table, one after the other."""
    for part in ("imagesTr", "labelsTr"):
        (root / part).mkdir(parents=True)
    labels = Labels.from_json(table)
    every = [*labels.values.values(), *([] if labels.ignore is None else [labels.ignore])]
    values = np.resize(every, GRID.shape).astype(np.uint8)
    for name in names:
        for number in range(len(channels)):
            data = np.arange(60, dtype=np.int16).reshape(1, *GRID.shape)
            write_volume(root / "imagesTr" / f"{name}_{number:04}.nii.gz", Volume(data, GRID))
        write_labels(root / "labelsTr" / f"{name}.nii.gz", LabelMap(values, GRID, labels))
    said = {"channel_names": dict(enumerate(channels)), "labels": table, "groups": groups or {}}
    (root / "dataset.json").write_text(json.dumps(said))
    if split:
        (root / "splits_final.json").write_text(json.dumps([{"train": [names[0]], "val": list(names[1:])}]))


def joint(root: Path, *sets: str, labels: str = "{background: 0, liver: 1, spleen: 2}", more: str = "") -> Path:
    lines = [f"labels: {labels}", more, "sets:", *(f"  - {one}" for one in sets)]
    (root / "both.yaml").write_text("\n".join(lines))
    return root / "both.yaml"


@pytest.fixture
def two(tmp_path: Path) -> Path:
    member(tmp_path / "BTCV", {"background": 0, "liver": 6, "spleen": 1})
    member(tmp_path / "LiTS", {"background": 0, "liver": 1, "tumour": 2})
    return tmp_path


LITS = "{root: LiTS, labels: {liver: liver, tumour: liver}}"


def counts(dataset, id_: str) -> dict[int, int]:
    values, found = np.unique(read_label(dataset.case(id_), dataset.labels).data, return_counts=True)
    return dict(zip(values.tolist(), found.tolist(), strict=True))


def test_ids_groups_and_values_are_ours(two: Path) -> None:
    dataset = open_dataset(joint(two, "{root: BTCV}", LITS))
    assert (dataset.layout, dataset.name, dataset.channels, dataset.kind) == ("joint", "both", ("CT",), "CT")
    assert [(case.id, case.group) for case in dataset.train] == [
        (name, name) for name in ("BTCV_a", "BTCV_b", "LiTS_a", "LiTS_b")
    ]
    assert counts(dataset, "BTCV_a") == {0: 20, 1: 20, 2: 20}
    assert counts(dataset, "LiTS_a") == {0: 20, 1: 40}


def test_what_a_set_does_not_map_was_not_looked_for(two: Path) -> None:
    dataset = read(joint(two, "{root: BTCV}", LITS))
    assert [case.unlabelled for case in dataset.train] == [(), (), ("spleen",), ("spleen",)]


def test_splits_are_joined_fold_by_fold(two: Path) -> None:
    assert read(joint(two, "{root: BTCV}", LITS)).splits == (Split(("BTCV_a", "LiTS_a"), ("BTCV_b", "LiTS_b")),)
    (two / "LiTS" / "splits_final.json").unlink()
    assert read(joint(two, "{root: BTCV}", LITS)).splits == ()


def test_the_rest_may_be_background(two: Path) -> None:
    member(two / "MR", {"background": 0, "spleen": 1, "kidney": 2, "aorta": 3})
    asked = "{root: MR, labels: {spleen: spleen}"
    with pytest.raises(InputError, match=r"LAB-04: MR: not mapped: kidney, aorta") as caught:
        read(joint(two, "{root: BTCV}", asked + "}"))
    assert caught.value.code == "LAB-04"
    for path in (
        joint(two, "{root: BTCV}", asked + ", rest: background}"),
        joint(two, "{root: BTCV}", asked + "}", more="rest: background"),
    ):
        dataset = read(path)
        assert counts(dataset, "MR_a") == {0: 45, 2: 15}
        assert dataset.case("MR_a").unlabelled == ("liver",)


def test_their_background_stays_background(two: Path) -> None:
    said = "{root: LiTS, labels: {liver: liver, tumour: liver, background: %s}}"
    with pytest.raises(InputError, match="LAB-04: LiTS: 'background' is its background and cannot become 'liver'"):
        read(joint(two, "{root: BTCV}", said % "liver"))
    dataset = read(joint(two, "{root: BTCV}", said % "background"))
    assert counts(dataset, "LiTS_a") == {0: 20, 1: 40}


def test_names_and_groups_as_declared(two: Path) -> None:
    member(two / "again", {"background": 0, "liver": 1}, names="cd", split=False, groups={"c": "b"})
    dataset = read(joint(two, "{root: BTCV, name: First}", "{root: again}", more="group_prefix: false"))
    assert dataset.case("First_b").group == dataset.case("again_c").group == "b"
    dataset = read(joint(two, "{root: BTCV}", "{root: again, group_prefix: true}", more="group_prefix: false"))
    assert (dataset.case("BTCV_b").group, dataset.case("again_c").group) == ("b", "again_b")


def test_a_patient_of_both_sets_is_not_torn(two: Path) -> None:
    path = joint(two, "{root: BTCV}", LITS, more="group_prefix: false")
    assert read(path).splits
    (two / "LiTS" / "splits_final.json").write_text(json.dumps([{"train": ["b"], "val": ["a"]}]))
    with pytest.raises(InputError, match=r"SET-02: .*a is on both sides \(BTCV_a, LiTS_a\)"):
        read(path)


def test_regions_of_theirs_and_of_ours(two: Path) -> None:
    member(two / "eyes", {"background": 0, "disc": [1, 2], "cup": 2})
    ours = "{background: 0, whole: [1, 2], rim: 1, hollow: 2}"
    dataset = read(joint(two, "{root: eyes, labels: {disc: rim, cup: hollow}}", labels=ours))
    assert counts(dataset, "eyes_a") == {0: 20, 1: 20, 2: 20}
    assert dataset.labels is not None
    assert dict(dataset.labels.regions) == {"whole": (1, 2)}
    with pytest.raises(InputError, match="'disc' cannot become 'whole', a region"):
        read(joint(two, "{root: eyes, labels: {disc: whole}}", labels=ours))


def test_ignore_values_need_one_of_ours(two: Path) -> None:
    member(two / "scribbles", {"background": 0, "liver": 1, "ignore": 9})
    with pytest.raises(InputError, match="our table needs one as well"):
        read(joint(two, "{root: scribbles}"))
    dataset = read(joint(two, "{root: scribbles}", labels="{background: 0, liver: 7, ignore: 255}"))
    assert counts(dataset, "scribbles_a") == {0: 20, 7: 20, 255: 20}


def test_encodings_of_files_are_composed(tmp_path: Path) -> None:
    for part in ("image", "mask"):
        (tmp_path / "thyroid" / part).mkdir(parents=True)
    Image.effect_noise((6, 4), 50).save(tmp_path / "thyroid" / "image" / "1.PNG")
    drawn = np.zeros((4, 6), np.uint8)
    drawn[0] = 255
    Image.fromarray(drawn).save(tmp_path / "thyroid" / "mask" / "1.PNG")
    (tmp_path / "thyroid" / "train.csv").write_text("ID,CATE\n1.PNG,0\n")
    ours = "{background: 0, cyst: 3, lump: 5}"
    dataset = read(joint(tmp_path, "{root: thyroid, labels: {nodule: lump}}", labels=ours))
    assert counts(dataset, "thyroid_1") == {0: 18, 5: 6}


def test_labels_that_only_their_layout_reads(tmp_path: Path) -> None:
    (tmp_path / "ddti").mkdir()
    Image.effect_noise((20, 10), 50).save(tmp_path / "ddti" / "1_1.jpg")
    Image.effect_noise((20, 10), 50).save(tmp_path / "ddti" / "1_2.jpg")
    points = [{"x": x, "y": y} for x, y in ((2, 2), (5, 2), (5, 4), (2, 4))]
    mark = f"<mark><image>1</image><svg>{json.dumps([{'points': points}])}</svg></mark>"
    (tmp_path / "ddti" / "1.xml").write_text(f"<case>{mark}</case>")
    ours = "{background: 0, lump: 5, cyst: 6}"
    with pytest.warns(InputWarning, match="LAB-03"):
        dataset = read(joint(tmp_path, "{root: ddti, labels: {nodule: lump}}", labels=ours))
    (case,) = dataset.train
    assert (case.reader, case.group, case.unlabelled) == ("joint", "ddti_1", ("cyst",))
    assert counts(dataset, "ddti_1_1") == {0: 188, 5: 12}
    assert [(other.id, other.label) for other in dataset.test] == [("ddti_1_2", None)]


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["{root: BTCV, labels: {livr: liver, spleen: spleen}}"], r"no structure 'livr' \(did you mean 'liver'\?\)"),
        (["{root: BTCV, labels: {liver: Liver, spleen: spleen}}"], r"become 'Liver', not .* mean 'liver'\?\)"),
        (["{root: BTCV, labels: {liver: brain, spleen: spleen}}"], r"become 'brain', not in our table$"),
        (["{root: Cap}"], r"not mapped: Liver \(did you mean 'liver'\?\), spleeen \(did you mean 'spleen'\?\)"),
        (["{root: BTCV, colour: red}"], "sets.0.colour: unknown key"),
        (["{labels: {}}"], "sets.0.root: missing"),
        (["{root: BTCV, rest: ignore}"], "sets.0.rest"),
        (["{root: gone}"], "gone: no such folder"),
        (["{root: BTCV, layout: nothing}"], "no plug-in 'nothing'"),
        (["{root: BTCV}", "{root: deeper/BTCV}"], "several sets are called BTCV"),
        (["{root: BTCV}", "{root: BTCV, name: More}"], "file .*a_0000.nii.gz occurs twice"),
        (["{root: BTCV}", "{root: both.yaml}"], "list of data sets itself"),
        (["{root: BTCV}", "{root: PET}"], r"VAL-06: PET has 2 channels \(CT, PET\), but there should be 1 \(CT\)"),
        (["{root: BTCV}", "{root: MR}"], r"VAL-06: MR calls its channels MRI, .*channels: \[CT\]"),
        ([], "sets: Input should be a valid tuple"),
    ],
)
def test_problems(two: Path, sets: list[str], message: str) -> None:
    member(two / "Cap", {"background": 0, "Liver": 1, "spleeen": 2})
    member(two / "PET", {"background": 0, "liver": 1}, channels=("CT", "PET"))
    member(two / "MR", {"background": 0, "liver": 1}, channels=("MRI",))
    member(two / "deeper" / "BTCV", {"background": 0, "liver": 1})
    with pytest.raises(InputError, match=rf"(?m){message}"):
        read(joint(two, *sets))


def test_problems_come_together(two: Path) -> None:
    path = joint(two, "{root: BTCV, labels: {livr: liver}}", "{root: LiTS}", "{root: gone}")
    with pytest.raises(InputError, match="problems: 4") as caught:
        read(path)
    for text in ("'livr'", "not mapped: spleen, liver;", "not mapped: tumour;", "gone: no such folder"):
        assert text in str(caught.value)


def test_channels_of_another_name_may_be_declared_the_same(two: Path) -> None:
    member(two / "plain", {"background": 0, "liver": 1}, channels=("image",))
    dataset = read(joint(two, "{root: BTCV}", "{root: plain}", more="channels: [CT]"))
    assert (dataset.channels, dataset.kind) == (("CT",), "UNKNOWN")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sets:\n  - [", r"^\S+both\.yml is not valid YAML"),
        ("sets: {}\nlabels: {background: 0}", "sets"),
        ("sets: []", "labels: missing"),
        ("sets: []\nlabels: {liver: 1}", "LAB-02: labels: .*background"),
        ("sets: []\nlabels: {background: 0}", "SET-01: no sets"),
    ],
)
def test_files_that_are_no_such_list(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "both.yml").write_text(text)
    assert recognises(tmp_path / "both.yml")
    with pytest.raises(InputError, match=message):
        open_dataset(tmp_path / "both.yml")


@pytest.mark.parametrize(("name", "text"), [("both.txt", "sets: []"), ("recipe.yaml", "data: {sets: 3}")])
def test_other_files_are_not_recognised(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert not recognises(tmp_path / name)
    assert not recognises(tmp_path)
