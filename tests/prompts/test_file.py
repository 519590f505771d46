"""Prompt files and prompts as they are typed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from voxelsam.errors import FormatError, OutputError, PromptError
from voxelsam.prompts import LIMIT, Box, Mask, Point, Prompt, Prompts, Scribble, Target, file
from voxelsam.space import Grid
from voxelsam.volumes import LabelMap, Labels

Make = Callable[..., Grid]
LIVER, SPLEEN = Target("liver"), Target("spleen", 2)
DOCS = Path(__file__).resolve().parents[2] / "docs/reference"
SHAPE = (12, 10, 8)


def blob() -> np.ndarray:
    data = np.zeros(SHAPE, bool)
    data[3:6, 2:9, 4:6] = True
    return data


ALL: tuple[Prompt, ...] = (
    Point((1.25, 2, 1 / 3), LIVER, inside=False),
    Point((41, -88, 20), SPLEEN, space="ras"),
    Box((1, 2, 3), (4, 5, 6.5), SPLEEN),
    Box((-50, 80, 16), (-40, 88, 20), LIVER, "lps"),
    Scribble(((1, 2, 3), (4, 5, 6)), LIVER),
    Scribble(((1, 2, 3),), LIVER, inside=False),
    Mask(blob(), SPLEEN),
)


def same(prompts: Prompts, expected: Prompts) -> bool:
    def key(prompt: Prompt) -> object:
        if isinstance(prompt, Mask):
            return prompt.target, prompt.data.shape, prompt.data.tobytes()
        return prompt

    return [key(prompt) for prompt in prompts.items] == [key(prompt) for prompt in expected.items]


def saved(path: Path, values: object) -> Path:
    path.write_text(values if isinstance(values, str) else json.dumps(values), encoding="utf-8")
    return path


def refused(path: Path, values: object, grid: Grid, **options: Any) -> PromptError:
    with pytest.raises(PromptError) as caught:
        file.read(saved(path / "prompts.json", values), grid, **options)
    return caught.value


POINT = {"type": "point", "at": [1, 2, 3], "label": "liver"}


# there and back


def test_what_is_written_is_read(tmp_path: Path, scan: Make) -> None:
    path, grid = tmp_path / "new" / "prompts.json", scan(turn=20)
    file.write(path, Prompts(ALL), "/data/somewhere/ct.nii.gz", grid)
    assert same(file.read(path, grid), Prompts(ALL))
    assert same(file.read(path, grid, image="elsewhere/ct.nii.gz"), Prompts(ALL))
    assert [entry.name for entry in path.parent.iterdir()] == ["prompts.json"]
    text = path.read_text(encoding="utf-8")
    assert "/data" not in text
    assert text.count("\n") == 5 + len(ALL) + 3


numbers = st.floats(allow_nan=False, allow_infinity=False)
vectors = st.tuples(numbers, numbers, numbers)
targets = st.builds(Target, st.text(min_size=1), st.integers(1, 10**6))
spaces = st.sampled_from(["voxel", "ras", "lps"])


def a_box(one: tuple[float, ...], target: Target, space: Any) -> Box:
    return Box(tuple(-abs(x) - 1 for x in one), tuple(abs(x) + 1 for x in one), target, space)  # type: ignore[arg-type]


prompts_ = st.lists(
    st.one_of(
        st.builds(Point, vectors, targets, st.booleans(), spaces),
        st.builds(Scribble, st.lists(vectors, min_size=1, max_size=4).map(tuple), targets, st.booleans(), spaces),
        st.builds(a_box, vectors, targets, spaces),
        st.builds(Mask, arrays(bool, (2, 3, 4)).filter(np.any), targets),
    ),
    max_size=5,
).map(lambda items: Prompts(tuple(items)))


@settings(max_examples=30, deadline=None)
@given(prompts_, st.text())
def test_any_prompts_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, prompts: Prompts, image: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    grid = Grid((2, 3, 4), np.array([[0, 0, 1 / 3, 1e5], [1e-7, 0, 0, 3], [0, -2 / 7, 0, -9e-9], [0, 0, 0, 1]]))
    file.write(path, prompts, image, grid)
    assert same(file.read(path, grid, image=image), prompts)


def test_several_scans_in_one_file(tmp_path: Path, scan: Make) -> None:
    path, other = tmp_path / "cohort.json", scan((5, 6, 7))
    small = Prompts((Point((1, 1, 1), LIVER),))
    file.write_cohort(path, {"a": (Prompts(ALL), "a.nii.gz", scan()), "b": (small, "b.nii.gz", other)})
    loaded = file.load(path)
    assert loaded.cases == ("a", "b")
    assert same(loaded.prompts(scan(), case="a"), Prompts(ALL))
    assert same(file.read(path, other, case="b", image="b.nii.gz"), small)
    with pytest.raises(PromptError, match=r"case b is about another scan .*\n.*5 × 6 × 7 voxels, but") as caught:
        loaded.prompts(scan(), case="b")
    assert caught.value.code == "PRM-08"
    with pytest.raises(PromptError, match=r"nothing about the case 'c'; its cases are a, b"):
        loaded.prompts(scan(), case="c")
    with pytest.raises(PromptError, match="several cases, and none was chosen; its cases are a, b"):
        loaded.prompts(scan())


def test_a_file_about_one_scan_knows_no_cases(tmp_path: Path, scan: Make) -> None:
    error = refused(tmp_path, {"version": 1, "prompts": [POINT]}, scan(), case="a")
    assert "is about one scan and knows no cases, but 'a' was asked for" in str(error)


def test_what_is_left_out_takes_its_default(tmp_path: Path, scan: Make) -> None:
    values = {
        "version": 1,
        "prompts": [POINT, {"type": "box", "low": [1, 2, 3], "high": [2, 3, 4.5], "label": "spleen"}],
    }
    read = file.read(saved(tmp_path / "a.json", values), scan(), image="any.nii.gz")
    assert read.items == (Point((1, 2, 3), LIVER), Box((1, 2, 3), (2, 3, 4.5), Target("spleen")))
    bom = tmp_path / "b.json"
    bom.write_text("\ufeff" + json.dumps(values), encoding="utf-8")
    assert file.read(bom, scan()) == read


# masks


def test_runs_by_value(tmp_path: Path) -> None:
    """i runs fastest: voxels (1, 0, 0), (0, 1, 0) and (2, 2, 1) of 3 × 3 × 2."""
    data = np.zeros((3, 3, 2), bool)
    data[1, 0, 0] = data[0, 1, 0] = data[2, 2, 1] = True
    grid = Grid((3, 3, 2), np.eye(4))
    file.write(tmp_path / "a.json", Prompts((Mask(data, LIVER),)), "", grid)
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["prompts"][0]["runs"] == [1, 1, 1, 1, 13, 1]
    assert record["image"] is None


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 4)])
def test_a_mask_may_begin_with_true(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    grid = Grid(shape, np.eye(4))
    prompts = Prompts((Mask(np.ones(shape, bool), LIVER),))
    file.write(tmp_path / "a.json", prompts, "", grid)
    assert json.loads((tmp_path / "a.json").read_text())["prompts"][0]["runs"] == [0, np.prod(shape)]
    assert same(file.read(tmp_path / "a.json", grid), prompts)


@pytest.mark.parametrize("runs", [[], [5], [900, 100], [0, 10**30]])
def test_runs_that_do_not_cover_the_scan_are_refused(tmp_path: Path, scan: Make, runs: list[int]) -> None:
    values = {"version": 1, "prompts": [POINT, {"type": "mask", "runs": runs, "label": "liver"}]}
    error = refused(tmp_path, values, scan())
    assert error.code == "PRM-06"
    assert "prompt 2 (mask of liver): its runs cover" in str(error)
    assert "12 × 10 × 8 = 960" in str(error)


def test_a_mask_in_a_label_file(tmp_path: Path, scan: Make) -> None:
    asked = []

    def reader(path: Path) -> LabelMap:
        asked.append(path)
        return LabelMap(np.where(blob(), 3, 1).astype(np.uint8), scan(), Labels({"background": 0, "a": 1, "b": 3}))

    values = {"version": 1, "prompts": [{"type": "mask", "file": "sub/seg.nii", "value": 3, "label": "liver"}]}
    path = saved(tmp_path / "a.json", values)
    assert same(file.read(path, scan(), read_mask=reader), Prompts((Mask(blob(), LIVER),)))
    assert asked == [tmp_path / "sub/seg.nii"]


def test_label_files_that_cannot_be_used_are_told_together(tmp_path: Path, scan: Make) -> None:
    def reader(path: Path) -> LabelMap:
        if path.name == "none.nii":
            raise FormatError("none.nii does not exist", code="SET-01")
        return LabelMap(np.ones((10, 12, 8), np.uint8), scan((10, 12, 8)), Labels({"background": 0, "a": 1}))

    items = [{"type": "mask", "file": name, "value": 1, "label": "liver"} for name in ("none.nii", "other.nii")]
    error = refused(tmp_path, {"version": 1, "prompts": items}, scan(), read_mask=reader)
    lines = str(error).splitlines()
    assert "masks cannot be used (problems: 2)" in lines[0]
    assert lines[1] == "  SET-01: prompt 1 (mask of liver): none.nii does not exist"
    assert lines[2].startswith("  GEO-01: prompt 2 (mask of liver): other.nii has (10, 12, 8) voxels")
    error = refused(tmp_path, {"version": 1, "prompts": items}, scan())
    assert "PRM-07: prompt 2 (mask of liver): it names the label file other.nii, but" in str(error)


def test_masks_that_do_not_fit_are_not_written(tmp_path: Path, scan: Make) -> None:
    prompts = Prompts((ALL[0], Mask(np.ones((2, 3, 4), bool), LIVER), Mask(np.zeros(SHAPE, bool), SPLEEN)))
    with pytest.raises(PromptError, match=r"problems: 2\):\n  PRM-06: prompt 2 \(mask of liver\).*\n.*prompt 3"):
        file.write(tmp_path / "a.json", prompts, "ct", scan())
    with pytest.raises(PromptError, match=r"PRM-06: case x, prompt 2 \(mask of liver\)"):
        file.write_cohort(tmp_path / "a.json", {"x": (prompts, "ct", scan())})
    with pytest.raises(PromptError, match="needs a name"):
        file.write_cohort(tmp_path / "a.json", {"": (Prompts(), "ct", scan())})
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_told(tmp_path: Path, scan: Make) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        file.write(tmp_path / "taken" / "a.json", Prompts(ALL), "ct", scan())


# which scan


def about(grid: Grid, image: str = "ct.nii.gz") -> dict[str, Any]:
    return {"version": 1, "image": image, "shape": list(grid.shape), "affine": grid.affine.tolist(), "prompts": [POINT]}


def test_a_file_for_another_scan_is_refused(tmp_path: Path, scan: Make) -> None:
    grid = scan()
    affine = grid.affine.copy()
    affine[:3, 3] += (0.6, 0, 0)
    for values, option, words in (
        (about(scan((12, 10, 9))), None, "written for 12 × 10 × 9 voxels, but the scan has 12 × 10 × 8"),
        (about(Grid(grid.shape, affine)), None, "corners lie 0.6 voxels apart"),
        (about(scan(turn=15)), None, "in another place"),
        (about(grid), "folder/mr.nii.gz", "written for ct.nii.gz, but mr.nii.gz came"),
        ({**about(Grid(grid.shape, affine)), "shape": None}, None, "voxels apart"),
        ({**about(scan((12, 10, 9))), "affine": None}, None, "12 × 10 × 9 voxels"),
    ):
        error = refused(tmp_path, values, grid, image=option)
        assert error.code == "PRM-08"
        assert "is about another scan" in str(error)
        assert words in str(error)


def test_all_differences_are_told(tmp_path: Path, scan: Make) -> None:
    error = refused(tmp_path, about(scan((12, 10, 9))), scan(), image="mr.nii.gz")
    assert "problems: 2" in str(error)


def test_rounding_and_folders_make_no_other_scan(tmp_path: Path, scan: Make) -> None:
    grid = scan(turn=20)
    rounded = Grid(grid.shape, grid.affine.round(2))
    path = saved(tmp_path / "a.json", about(rounded, "/home/me/ct.nii.gz, /home/me/t2.nii.gz"))
    assert len(file.read(path, grid, image="ct.nii.gz, t2.nii.gz").items) == 1


def test_the_affine_is_written_with_enough_digits(tmp_path: Path) -> None:
    affine = np.diag([0.61234567891, -0.61234567891, 1.23456789123, 1.0])
    affine[:3, 3] = -312.456789123, 1045.98765432, -98765.4321
    grid = Grid((2048, 2048, 1500), affine)
    path = tmp_path / "a.json"
    file.write(path, Prompts((Point((1, 1, 1), LIVER),)), "", grid)
    written = Grid(grid.shape, np.array(json.loads(path.read_text(encoding="utf-8"))["affine"]))
    assert np.abs(grid.to_index(written.corners()) - grid.to_index(grid.corners())).max() < 1e-3
    assert len(file.read(path, grid).items) == 1


def test_tiny_voxels_are_told_apart(tmp_path: Path) -> None:
    """A thousandth of a millimetre is a whole voxel in a microscope."""
    near, far = (np.diag([1e-3, 1e-3, 1e-3, 1.0]) for _ in range(2))
    far[0, 3] = 1e-3
    file.write(tmp_path / "a.json", Prompts((Point((1, 1, 1), LIVER),)), "", Grid(SHAPE, near))
    with pytest.raises(PromptError, match="corners lie 1 voxels apart"):
        file.read(tmp_path / "a.json", Grid(SHAPE, far))


# bad files


def test_everything_that_is_wrong_is_told_with_its_path(tmp_path: Path, scan: Make) -> None:
    values = {
        "version": 1,
        "colour": "red",
        "affine": [[0, 0, 0, 0]] * 4,
        "shape": [12, 0, 8],
        "prompts": [
            {**POINT, "size": 3, "at": [1, 2]},
            {**POINT, "type": "circle"},
            {"at": [1, 2, 3]},
            {"type": "box", "low": [1, 2, 3], "high": [4, 5, 3], "label": "liver"},
            {"type": "box", "low": [1, 2, 3], "high": [0, 5, 5], "label": "liver"},
            {"type": "mask", "label": "liver"},
            {"type": "mask", "label": "liver", "runs": [1], "file": "a.nii", "value": 1},
            {"type": "mask", "label": "liver", "file": "a.nii"},
            {**POINT, "at": [1, "2", 3], "label": "", "instance": 0, "space": "RAS", "inside": 1},
            {"type": "scribble", "points": [], "label": "liver"},
            {"type": "mask", "label": "liver", "runs": [1, -1]},
            7,
        ],
    }
    expected = {
        "colour": "unknown key",
        "affine": "last row",
        "shape.2": "greater than or equal to 1",
        "prompts.1.size": "unknown key",
        "prompts.1.at.3": "missing",
        "prompts.2.type": "one of point, box, scribble, mask",
        "prompts.3.type": "one of point, box, scribble, mask",
        "prompts.4": "no size along an axis",
        "prompts.5": "low must lie below high",
        "prompts.6": "either runs, or both file and value",
        "prompts.7": "either runs, or both file and value",
        "prompts.8": "either runs, or both file and value",
        "prompts.9.at.2": "valid number (got '2')",
        "prompts.9.label": "at least 1 character",
        "prompts.9.instance": "(got 0)",
        "prompts.9.space": "(got 'RAS')",
        "prompts.9.inside": "(got 1)",
        "prompts.10.points": "at least 1",
        "prompts.11.runs.2": "(got -1)",
        "prompts.12": "(got 7)",
    }
    for wrong, prefix in ((values, ""), ({"version": 1, "cases": {"prompts": values}}, "cases.prompts.")):
        error = refused(tmp_path, wrong, scan(), case="prompts" if prefix else "")
        assert error.code == "PRM-07"
        lines = [line for line in str(error).splitlines()[1:] if "cases.prompts.version" not in line]
        assert sorted(line.split(": ")[1] for line in lines) == sorted(prefix + path for path in expected)
        for line in lines:
            path = line.split(": ")[1].removeprefix(prefix)
            assert expected[path] in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "but holds a list"),
        ("3", "but holds a int"),
        ("{}", "version: missing"),
        ('{"version": 1}', "prompts: missing"),
        ('{"version": 2, "prompts": []}', "version 2 of the format, which is newer than 1"),
        ('{"version": "1", "prompts": []}', "version: Input should be 1"),
        ('{"version": 1, "prompts": [], "cases": {}}', "prompts: unknown key"),
        ('{"version": 1, "cases": {"a": {"prompts": []}, "a": {"prompts": []}}}', "the key a occurs twice"),
        ('{"version": 1, "prompts": [{"type": "point", "at": [1, 2, NaN], "label": "a"}]}', "NaN is no number"),
        ('{"version": 1, "prompts": [{"type": "point", "at": [1, 2, 1e999], "label": "a"}]}', "finite number"),
    ],
)
def test_files_that_are_none_are_refused(tmp_path: Path, scan: Make, text: str, words: str) -> None:
    error = refused(tmp_path, text, scan())
    assert error.code == "PRM-07"
    assert words in str(error)
    assert "prompts.json" in str(error)


def test_a_missing_or_binary_file_is_refused(tmp_path: Path, scan: Make) -> None:
    with pytest.raises(PromptError, match=r"cannot read the prompts .*No such file"):
        file.read(tmp_path / "none.json", scan())
    (tmp_path / "picture.json").write_bytes(b"\x89PNG\xff\xfe\x00")
    with pytest.raises(PromptError, match="not valid JSON"):
        file.read(tmp_path / "picture.json", scan())


def test_more_prompts_than_the_limit_are_refused(tmp_path: Path, scan: Make) -> None:
    error = refused(tmp_path, {"version": 1, "prompts": [POINT] * (LIMIT + 1)}, scan())
    assert f"at most {LIMIT} items" in str(error)
    assert len(str(error)) < 400


# the published description


def test_the_published_schema_is_current() -> None:
    assert json.loads((DOCS / "prompts.schema.json").read_text(encoding="utf-8")) == file.schema()


def blocks(language: str) -> list[str]:
    page = (DOCS / "prompts.md").read_text(encoding="utf-8")
    return [block.split("```")[0] for block in page.split(f"```{language}\n")[1:]]


def test_the_documented_files_are_valid(tmp_path: Path, labels: Labels) -> None:
    examples = blocks("json")
    assert len(examples) == 2
    affine = np.array([[-0.8, 0, 0, 180], [0, -0.8, 0, 120], [0, 0, 5, -40], [0, 0, 0, 1]])
    grid = Grid((320, 260, 40), affine)

    def reader(path: Path) -> LabelMap:
        return LabelMap(np.ones(grid.shape, np.uint8), grid, Labels({"background": 0, "spleen": 1}))

    for text in examples:
        loaded = file.load(saved(tmp_path / "a.json", text))
        for case in loaded.cases or ("",):
            prompts = loaded.prompts(grid, case=case, read_mask=reader)
            assert prompts.items
            prompts.check(grid, labels)
    kinds = {type(item) for item in file.read(saved(tmp_path / "a.json", examples[0]), grid, read_mask=reader).items}
    assert kinds == {Point, Box, Scribble, Mask}


def test_the_documented_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    exec(compile(code, "prompts.md", "exec"), {})  # noqa: S102


def test_the_documented_codes_and_limits_are_those_of_the_code() -> None:
    page = (DOCS / "prompts.md").read_text(encoding="utf-8")
    source = "".join(path.read_text(encoding="utf-8") for path in Path(file.__file__).parent.glob("*.py"))
    for number in range(1, 9):
        assert f"| PRM-0{number} |" in page
        assert f'"PRM-0{number}"' in source
    assert "PRM-09" not in source
    assert f"{LIMIT} prompts" in page


# on the command line


@pytest.mark.parametrize(
    ("text", "at", "label"),
    [
        ("1,2,3,liver", (1, 2, 3), "liver"),
        (" 1.5 , -2e0, .5 , left, upper lobe ", (1.5, -2, 0.5), "left, upper lobe"),
        ("1,2,3,4", (1, 2, 3), "4"),
        ("1,2,3,nan", (1, 2, 3), "nan"),
    ],
)
def test_points_as_they_are_typed(
    text: str, at: tuple[float, float, float], label: str, scan: Make, labels: Labels
) -> None:
    assert file.point_of(text, labels, scan()) == Point(at, Target(label))
    negative = file.point_of(text, labels, scan(), space="ras", inside=False)
    assert negative == Point(at, Target(label), inside=False, space="ras")


def test_boxes_as_they_are_typed(scan: Make, labels: Labels) -> None:
    assert file.box_of("1,2,3,4,5,6,spleen", labels, scan()) == Box((1, 2, 3), (4, 5, 6), Target("spleen"))
    assert file.box_of("1,2,3,4,5,6,liver", labels, scan(), space="lps").space == "lps"


def test_the_only_structure_need_not_be_named(scan: Make) -> None:
    one = Labels({"background": 0, "tumour": 1})
    assert file.point_of("1,2,3", one, scan()).target == Target("tumour")
    assert file.box_of("1,2,3,4,5,6", one, scan()).target == Target("tumour")


def test_two_coordinates_are_enough_in_a_picture(scan: Make, labels: Labels) -> None:
    picture = scan((12, 10, 1), along_k="single")
    assert file.point_of("1,2,liver", labels, picture) == Point((1, 2, 0), LIVER)
    assert file.point_of("1,2,0,liver", labels, picture) == Point((1, 2, 0), LIVER)
    assert file.box_of("1,2,4,5,liver", labels, picture) == Box((1, 2, 0), (4, 5, 1), LIVER)
    assert file.box_of("1,2,0,4,5,1,liver", labels, picture) == Box((1, 2, 0), (4, 5, 1), LIVER)


@pytest.mark.parametrize(
    "text", ["", "liver", "1,liver", "1,2,liver", "1;2;3", "a,b,c,liver", "1,2,,liver", "inf,2,3,liver"]
)
def test_text_that_is_no_point_is_refused(text: str, scan: Make, labels: Labels) -> None:
    with pytest.raises(PromptError, match=r"a point here is x,y,z\[,label\], but") as caught:
        file.point_of(text, labels, scan())
    assert caught.value.code == "PRM-01"
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["1,2,3,liver", "1,2,3,4,5,liver", "1,2,4,5,liver", "1,2,x,4,5,6,liver"])
def test_text_that_is_no_box_is_refused(text: str, scan: Make, labels: Labels) -> None:
    with pytest.raises(PromptError, match=r"a box here is x0,y0,z0,x1,y1,z1\[,label\], but"):
        file.box_of(text, labels, scan())


def test_typed_text_is_refused_for_what_it_means(scan: Make, labels: Labels) -> None:
    picture = scan((12, 10, 1), along_k="single")
    with pytest.raises(PromptError, match=r"two coordinates are enough in a single picture and in voxels only"):
        file.point_of("1,2,liver", labels, scan())
    with pytest.raises(PromptError, match=r"two coordinates are enough in a single picture and in voxels only"):
        file.point_of("1,2,liver", labels, picture, space="ras")
    with pytest.raises(PromptError, match=r"x,y\[,label\] or x,y,z\[,label\]"):
        file.point_of("1,liver", labels, picture)
    with pytest.raises(PromptError, match="no size along an axis"):
        file.box_of("1,2,3,4,5,3,liver", labels, scan())
    with pytest.raises(PromptError, match="low must lie below high"):
        file.box_of("4,2,3,1,5,6,liver", labels, scan())
    with pytest.raises(
        PromptError, match=r"say which structure is meant, as x,y,z,label with one of liver, spleen"
    ) as e:
        file.point_of("1,2,3", labels, scan())
    assert e.value.code == "PRM-03"
    with pytest.raises(PromptError, match=r"as x0,y0,x1,y1,label with"):
        file.box_of("1,2,3,4", labels, picture)
