import pytest

from voxelsam.errors import InputError
from voxelsam.layouts import Split, open_dataset
from voxelsam.layouts.table import read, recognises

FULL = """id,image,image_2,label,group,split,age
a,x/a_t1.nii,x/a_t2.nii,y/a.nii,p1,train,50
b,x/b_t1.nii,x/b_t2.nii,y/b.nii,p2,val,51
c,x/c_t1.nii,x/c_t2.nii,,p3,test,52
"""


@pytest.fixture
def files(touch, note):
    touch(*(f"x/{case}_{channel}.nii" for case in "abc" for channel in ("t1", "t2")), "y/a.nii", "y/b.nii")
    note("labels.json", {"background": 0, "organ": 1})


@pytest.mark.parametrize("change", [lambda t: t, lambda t: t.replace(",", ";"), lambda t: "\ufeff" + t + "\n , \n"])
def test_every_column(files, note, tmp_path, change) -> None:
    (tmp_path / "cases.csv").write_text(change(FULL), encoding="utf-8")
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.name, dataset.channels) == ("table", "cases", ("image", "image_2"))
    assert [(case.id, case.group) for case in dataset.train] == [("a", "p1"), ("b", "p2")]
    assert dataset.case("a").images == (tmp_path / "x/a_t1.nii", tmp_path / "x/a_t2.nii")
    assert [(case.id, case.label) for case in dataset.test] == [("c", None)]
    assert dataset.splits == (Split(("a",), ("b",)),)


def test_the_two_columns_that_are_needed(files, note, tmp_path) -> None:
    note("cases.csv", "image,label\nx/a_t1.nii,y/a.nii\nx/c_t1.nii,\n")
    dataset = open_dataset(tmp_path / "cases.csv")
    assert [(case.id, case.group) for case in dataset.train] == [("a_t1", "a_t1")]
    assert [case.id for case in dataset.test] == ["c_t1"]
    assert dataset.splits == ()


def test_absolute_paths(files, note, tmp_path) -> None:
    note("cases.csv", f"image,label\n{tmp_path}/x/a_t1.nii,{tmp_path}/y/a.nii\n")
    assert read(tmp_path).train[0].images == (tmp_path / "x/a_t1.nii",)


def test_without_labels_there_is_no_table(files, note, tmp_path) -> None:
    (tmp_path / "labels.json").unlink()
    note("cases.csv", "image,label\nx/a_t1.nii,\n")
    dataset = read(tmp_path)
    assert dataset.labels is None
    assert dataset.train == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label\nx/gone.nii,y/gone.nii\n", "line 2: gone: .*x/gone.nii does not exist(.|\n)*y/gone.nii"),
        ("image,label\nx/a_t1.nii,y/a.nii\nx/a_t1.nii,y/a.nii\n", "id a_t1 occurs twice(.|\n)*file .*a_t1.nii"),
        ("id,image,label\n,x/a_t1.nii,y/a.nii\n../b,x/b_t1.nii,y/b.nii\n", "plain file name"),
        ("image,image_2,label\nx/a_t1.nii,,y/a.nii\n", "VAL-06: line 2: 1 images for 2 columns"),
        ("image,image_3,label\nx/a_t1.nii,x/a_t2.nii,y/a.nii\n", "VAL-06: columns of images"),
        ("image,label,split\nx/a_t1.nii,y/a.nii,fold1\n", "split is 'fold1', but must be"),
        ("image,label,split\nx/a_t1.nii,,val\nx/b_t1.nii,y/b.nii,train\n", "a_t1 is for val, but has no label"),
        ("image,label,split\nx/a_t1.nii,y/a.nii,val\n", "no case in train"),
        ("image,label,split\nx/a_t1.nii,y/a.nii,train\nx/b_t1.nii,y/b.nii,\n", "without a side.*b_t1"),
        (
            "image,label,group,split\nx/a_t1.nii,y/a.nii,p1,train\nx/b_t1.nii,y/b.nii,p1,val\n",
            r"SET-02: .*p1 is on both sides \(a_t1, b_t1\)",
        ),
        ("image,label\n", "no rows"),
        ("image,label\n,y/a.nii\n", "line 2: 0 images"),
    ],
)
def test_problems(files, note, tmp_path, text, message) -> None:
    note("cases.csv", text)
    with pytest.raises(InputError, match=message):
        read(tmp_path)


def test_problems_come_together(files, note, tmp_path) -> None:
    note("cases.csv", "image,label,split\nx/gone.nii,y/a.nii,train\nx/b_t1.nii,,train\nx/c_t1.nii,,odd\n")
    with pytest.raises(InputError, match="problems: 3"):
        read(tmp_path)


def test_only_tables_with_the_right_columns_count(files, note, tmp_path) -> None:
    note("patients.csv", "patient,age\n1,50\n")
    (tmp_path / "noise.csv").write_bytes(b"\xff\xfe\x00image")
    assert not recognises(tmp_path)
    note("cases.csv", "Image, Label\nx/a_t1.nii,y/a.nii\n")
    assert len(open_dataset(tmp_path).train) == 1
    note("more.csv", "image,label\nx/a_t1.nii,y/a.nii\n")
    with pytest.raises(InputError, match=r"there is cases.csv, more.csv; name the file"):
        read(tmp_path)
    assert len(read(tmp_path / "more.csv").train) == 1


def test_tables_in_another_encoding_are_refused(tmp_path) -> None:
    (tmp_path / "cases.csv").write_bytes("image,label\nKöln.nii,a.nii\n".encode("latin-1"))
    with pytest.raises(InputError, match="cannot be read as CSV"):
        read(tmp_path)
