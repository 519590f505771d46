import pytest

from voxelsam.errors import InputError, InputWarning
from voxelsam.layouts import Split, open_dataset
from voxelsam.layouts.nnunet import read, recognises

TABLE = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"}
TWO = {**TABLE, "channel_names": {"0": "T2", "1": "ADC"}}
CASES = ("imagesTr/a_0000.nii.gz", "imagesTr/b_0000.nii.gz", "labelsTr/a.nii.gz", "labelsTr/b.nii.gz")


@pytest.fixture
def small(touch, note):
    touch(*CASES)
    note("dataset.json", TABLE)


class TestCases:
    def test_version_2(self, small, tmp_path) -> None:
        dataset = open_dataset(tmp_path)
        assert (dataset.layout, dataset.kind, dataset.channels, dataset.splits) == ("nnunet", "CT", ("CT",), ())
        assert dataset.labels.to_json() == TABLE["labels"]
        assert [(case.id, case.group) for case in dataset.train] == [("a", "a"), ("b", "b")]
        assert dataset.case("b").images == (tmp_path / "imagesTr/b_0000.nii.gz",)
        assert dataset.case("b").label == tmp_path / "labelsTr/b.nii.gz"

    def test_version_1(self, small, note, tmp_path) -> None:
        listed = [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in "ab"]
        note(
            "dataset.json",
            {"name": "Liver", "modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver"}, "training": listed},
        )
        dataset = open_dataset(tmp_path)
        assert (dataset.layout, dataset.name, dataset.kind) == ("nnunet", "Liver", "CT")
        assert dataset.labels.names == ("liver",)

    def test_several_channels_in_their_order(self, touch, note, tmp_path) -> None:
        note("dataset.json", TWO)
        touch("imagesTr/a_0001.nii.gz", "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
        dataset = read(tmp_path)
        assert dataset.channels == ("T2", "ADC")
        assert dataset.kind == "MR"
        assert [path.name for path in dataset.case("a").images] == ["a_0000.nii.gz", "a_0001.nii.gz"]

    def test_test_cases_may_have_labels(self, small, touch, tmp_path) -> None:
        touch("imagesTs/c_0000.nii.gz", "imagesTs/d_0000.nii.gz", "labelsTs/d.nii.gz")
        dataset = read(tmp_path)
        assert [(case.id, case.label) for case in dataset.test] == [("c", None), ("d", tmp_path / "labelsTs/d.nii.gz")]

    def test_listed_paths(self, touch, note, tmp_path) -> None:
        touch("x/t2.nii.gz", "x/adc.nii.gz", "y/truth.nii.gz")
        entry = {"images": ["x/t2.nii.gz", "x/adc.nii.gz"], "label": "y/truth.nii.gz"}
        note("dataset.json", {**TWO, "dataset": {"p1": entry}})
        case = open_dataset(tmp_path).case("p1")
        assert case.images == (tmp_path / "x/t2.nii.gz", tmp_path / "x/adc.nii.gz")
        assert case.label == tmp_path / "y/truth.nii.gz"

    def test_pictures_are_of_their_own_kind_whatever_their_channels_are_called(self, touch, note, tmp_path) -> None:
        touch("imagesTr/a_0000.tif", "labelsTr/a.tif")
        note("dataset.json", {**TABLE, "file_ending": ".tif"})
        assert read(tmp_path).kind == "PICTURE"

    def test_regions(self, small, note, tmp_path) -> None:
        nested = {"background": 0, "disc": [1, 2], "cup": 2}
        note("dataset.json", {**TABLE, "labels": nested, "regions_class_order": [1, 2]})
        labels = read(tmp_path).labels
        assert (labels.names, labels.regions) == (("disc_only", "cup"), {"disc": (1, 2)})

    def test_instances_lie_beside_the_labels(self, small, touch, tmp_path) -> None:
        assert read(tmp_path).case("a").instances is None
        touch("instancesTr/a.nii.gz", "instancesTr/b.nii.gz")
        assert read(tmp_path).case("a").instances == tmp_path / "instancesTr/a.nii.gz"

    def test_instances_of_some_cases_only_or_of_none_are_told(self, small, touch, tmp_path) -> None:
        touch("instancesTr/a.nii.gz", "instancesTr/c.nii.gz")
        with pytest.raises(InputError) as caught:
            read(tmp_path)
        assert "SET-01: b: " in str(caught.value)
        assert "no file of the same name in instancesTr" in str(caught.value)
        assert "instancesTr/c.nii.gz has no file of the same name in labelsTr" in str(caught.value)

    def test_a_colour_picture_holds_all_its_channels(self, touch, note, tmp_path) -> None:
        touch("imagesTr/a_0000.png", "labelsTr/a.png")
        colours = {"channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": TABLE["labels"], "file_ending": ".png"}
        note("dataset.json", colours)
        assert len(read(tmp_path).case("a").images) == 1

    def test_the_ignore_label(self, small, note, tmp_path) -> None:
        note("dataset.json", {**TABLE, "labels": {**TABLE["labels"], "ignore": 2}})
        labels = read(tmp_path).labels
        assert (labels.ignore, labels.names) == (2, ("liver",))

    def test_patients_keep_their_cases_together(self, small, note, tmp_path) -> None:
        note("dataset.json", {**TABLE, "groups": {"a": "p1", "b": "p1"}})
        assert {case.group for case in read(tmp_path).train} == {"p1"}

    def test_hidden_and_foreign_files_are_left_alone(self, small, touch, tmp_path) -> None:
        touch("imagesTr/.DS_Store", "imagesTr/._a_0000.nii.gz", "imagesTr/README.txt", "labelsTr/notes.md")
        assert len(read(tmp_path).train) == 2


class TestSplits:
    @pytest.mark.parametrize("name", ["splits.json", "splits_final.json"])
    def test_folds(self, small, note, tmp_path, name) -> None:
        note(name, [{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}])
        dataset = read(tmp_path)
        assert dataset.splits == (Split(("a",), ("b",)), Split(("b",), ("a",)))
        train, val = dataset.split(1)
        assert (train[0].id, val[0].id) == ("b", "a")

    def test_both_files_must_agree(self, small, note, tmp_path) -> None:
        note("splits.json", [{"train": ["a"], "val": ["b"]}])
        note("splits_final.json", [{"train": ["a"], "val": ["b"]}])
        assert len(read(tmp_path).splits) == 1
        note("splits.json", [{"train": ["b"], "val": ["a"]}])
        with pytest.raises(InputError, match="differ"):
            read(tmp_path)

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ([{"train": ["a"], "val": ["b", "z"]}], "SET-01: .*fold 0: val names .*: z"),
            ([{"train": ["a", "b"], "val": ["b"]}], "SET-02: .*both sides: b"),
            ([{"train": ["a"], "val": []}], "SET-01: .*no case in val"),
            ([{"train": ["a", "a"], "val": ["b"]}], "SET-01: .*twice: a"),
            ([{"train": ["a"]}], "expected a list of folds"),
            ({"train": ["a"], "val": ["b"]}, "expected a list of folds"),
            ([{"train": "a", "val": "b"}], "expected a list of folds"),
            ("[{", "SET-03: .*not valid JSON"),
        ],
    )
    def test_splits_that_cannot_be(self, small, note, tmp_path, value, message) -> None:
        note("splits.json", value)
        with pytest.raises(InputError, match=message):
            read(tmp_path)

    def test_a_patient_on_both_sides(self, small, note, tmp_path) -> None:
        note("dataset.json", {**TABLE, "groups": {"a": "p1", "b": "p1"}})
        note("splits.json", [{"train": ["a"], "val": ["b"]}])
        with pytest.raises(InputError, match=r"SET-02: .*p1 is on both sides \(a, b\)") as caught:
            read(tmp_path)
        assert caught.value.code == "SET-02"


class TestProblems:
    def test_all_are_told_at_once(self, touch, note, tmp_path) -> None:
        note("dataset.json", {**TWO, "labels": {"liver": 1}})
        touch("imagesTr/a_0000.nii.gz", "imagesTr/b_0000.nii.gz", "imagesTr/b_0001.nii.gz", "imagesTr/b_0002.nii.gz")
        touch("imagesTr/plain.nii.gz", "imagesTr/c_0000.nii", "labelsTr/a.nii.gz", "labelsTr/z.nii.gz")
        note("splits.json", [{"train": ["a", "b"], "val": ["q"]}])
        with pytest.raises(InputError) as caught:
            read(tmp_path)
        text = str(caught.value)
        assert "problems: 8" in text
        for line in (
            "LAB-02: .*background",
            "VAL-06: a: expected the channels 0000, 0001, but there are 0000",
            "VAL-06: b: expected the channels 0000, 0001, but there are 0000, 0001, 0002",
            "SET-01: b: .*labelsTr/b.nii.gz does not exist",
            "SET-01: .*plain.nii.gz: no channel number",
            "SET-01: .*c_0000.nii: does not end with .nii.gz",
            "SET-01: z: .*labelsTr/z.nii.gz has no image",
            "SET-01: .*q",
        ):
            with pytest.raises(InputError, match=line):
                raise caught.value

    def test_a_channel_gap(self, touch, note, tmp_path) -> None:
        note("dataset.json", TWO)
        touch("imagesTr/a_0001.nii.gz", "imagesTr/a_0002.nii.gz", "labelsTr/a.nii.gz")
        with pytest.raises(InputError, match="but there are 0001, 0002") as caught:
            read(tmp_path)
        assert caught.value.code == "VAL-06"

    @pytest.mark.parametrize("channels", [{"1": "CT"}, {}, None, ["CT"], {"0": "a", "2": "b"}])
    def test_channels_that_are_not_numbered(self, small, note, tmp_path, channels) -> None:
        note("dataset.json", {**TABLE, "channel_names": channels})
        with pytest.raises(InputError, match=r"VAL-06: .*number the channels from 0"):
            read(tmp_path)

    @pytest.mark.parametrize("text", ["{", "[]", '"text"'])
    def test_a_table_that_is_none(self, small, note, tmp_path, text) -> None:
        note("dataset.json", text)
        with pytest.raises(InputError, match=r"dataset.json: (not valid JSON|expected keys and values)") as caught:
            open_dataset(tmp_path)
        assert caught.value.code == "SET-03"

    @pytest.mark.parametrize(
        ("entry", "message"),
        [
            ({"images": ["gone.nii.gz"], "label": "gone too.nii.gz"}, "gone.nii.gz does not exist(.|\n)*gone too"),
            ({"images": ["a.nii.gz", "b.nii.gz"], "label": "c.nii.gz"}, "expected 1 images, .* but 2"),
            ({"images": "a.nii.gz", "label": "c.nii.gz"}, "expected {"),
            ({"images": ["a.nii.gz"]}, "expected {"),
            ("a.nii.gz", "expected {"),
        ],
    )
    def test_listed_cases_that_cannot_be(self, touch, note, tmp_path, entry, message) -> None:
        touch("a.nii.gz", "b.nii.gz", "c.nii.gz")
        note("dataset.json", {**TABLE, "dataset": {"p1": entry}})
        with pytest.raises(InputError, match=message):
            read(tmp_path)
        note("dataset.json", {**TABLE, "dataset": [entry]})
        with pytest.raises(InputError, match="'dataset' must list cases"):
            read(tmp_path)

    def test_the_same_image_under_two_names(self, touch, note, tmp_path) -> None:
        touch("a.nii.gz", "c.nii.gz")
        entry = {"images": ["a.nii.gz"], "label": "c.nii.gz"}
        note("dataset.json", {**TABLE, "dataset": {"p1": entry, "p2": entry}})
        with pytest.raises(InputError, match=r"a.nii.gz occurs twice \(cases p1 and p2\)"):
            read(tmp_path)

    def test_ids_that_would_lead_out_of_a_folder(self, touch, note, tmp_path) -> None:
        touch("a.nii.gz", "c.nii.gz")
        note("dataset.json", {**TABLE, "dataset": {"../p1": {"images": ["a.nii.gz"], "label": "c.nii.gz"}}})
        with pytest.raises(InputError, match="plain file name"):
            read(tmp_path)

    def test_a_case_in_training_and_test(self, small, touch, tmp_path) -> None:
        touch("imagesTs/a_0000.nii.gz")
        with pytest.raises(InputError, match="id a occurs twice"):
            read(tmp_path)

    def test_no_cases_and_no_labels(self, note, tmp_path) -> None:
        note("dataset.json", {"channel_names": {"0": "CT"}})
        with pytest.raises(InputError, match=r"no label table(.|\n)*no cases"):
            open_dataset(tmp_path)

    @pytest.mark.parametrize("groups", [["p1"], "p1"])
    def test_groups_map_cases(self, small, note, tmp_path, groups) -> None:
        note("dataset.json", {**TABLE, "groups": groups})
        with pytest.raises(InputError, match="'groups' must map"):
            read(tmp_path)

    def test_fewer_cases_than_declared_are_told(self, small, note, tmp_path) -> None:
        note("dataset.json", {**TABLE, "numTraining": 3})
        with pytest.warns(InputWarning, match="numTraining is 3, but there are 2"):
            read(tmp_path)


def test_other_folders_are_not_recognised(touch, note, tmp_path) -> None:
    assert not recognises(tmp_path)
    touch("imagesTr/a_0000.nii.gz")
    assert not recognises(tmp_path)
    note("dataset.json", {"homepage": "elsewhere"})
    assert recognises(tmp_path)
    (tmp_path / "imagesTr" / "a_0000.nii.gz").unlink()
    (tmp_path / "imagesTr").rmdir()
    assert not recognises(tmp_path)
