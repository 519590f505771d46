"""Many volumes: names, refusals, failures."""

import csv
import json
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event, active_count

import nibabel as nib
import numpy as np
import pytest

from voxelsam import bundle, checks, formats, record
from voxelsam.errors import ConfigError, InputError, OutputError
from voxelsam.infer import cases, cohort
from voxelsam.infer.prediction import Prediction
from voxelsam.infer.predictor import Predictor
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.volume import LabelMap, Volume


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def test_one_channel_files_keep_their_names(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a_0000.nii.gz", "scan_2023.nii", "notes.txt")
    found = cases.tasks(source, tmp_path / "out", 1)
    assert {task.id: task.output.name for task in found} == {"a": "a.nii.gz", "scan_2023": "scan_2023.nii.gz"}


def test_channels_of_a_case_belong_together_in_order(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a_0001.nii.gz", "a_0000.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz")
    found = cases.tasks(source, tmp_path / "out", 2)
    assert [[path.name for path in task.images] for task in found] == [
        ["a_0000.nii.gz", "a_0001.nii.gz"],
        ["b_0000.nii.gz", "b_0001.nii.gz"],
    ]


def test_a_picture_holds_all_channels_and_its_mask_is_a_picture(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a_0000.png", "b.JPG", "film_0001.png", "film_0002.png", ".hidden.png", "notes.txt")
    found = cases.tasks(source, tmp_path / "out", 3)
    assert {task.id: ([path.name for path in task.images], task.output.name) for task in found} == {
        "a": (["a_0000.png"], "a.png"),
        "b": (["b.JPG"], "b.png"),
        "film_0001": (["film_0001.png"], "film_0001.png"),
        "film_0002": (["film_0002.png"], "film_0002.png"),
    }


def test_pictures_that_are_one_channel_each_belong_together(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", *(f"{case}_{channel:04}.tif" for case in "ab" for channel in range(2)))
    found = cases.tasks(source, tmp_path / "out", 2)
    assert {task.id: [path.name for path in task.images] for task in found} == {
        "a": ["a_0000.tif", "a_0001.tif"],
        "b": ["b_0000.tif", "b_0001.tif"],
    }


def test_grey_pictures_are_cases_like_other_files(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a_0000.png", "b_0001.png", "c.nii.gz")
    found = cases.tasks(source, tmp_path / "out", 1)
    assert {task.id: task.output.name for task in found} == {"a": "a.png", "b_0001": "b_0001.png", "c": "c.nii.gz"}


def test_a_mask_is_never_a_jpeg(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a.jpg") / "a.jpg"
    with pytest.raises(OutputError, match=r"cannot be written as \.jpg; take \.png"):
        cases.tasks(source, tmp_path / "mask.jpg", 3)


def test_one_file_may_name_its_mask(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a.nii.gz") / "a.nii.gz"
    assert cases.tasks(source, tmp_path / "mask.nii", 1)[0].output == tmp_path / "mask.nii"


@pytest.mark.parametrize(
    ("names", "channels", "output", "complaint"),
    [
        ((), 1, "out", "no image of a known format"),
        (("a.txt",), 1, "out", "no image of a known format"),
        (("a_0000.nii.gz",), 2, "out", "a: a_0000.nii.gz"),
        (("a.nii", "a.nii.gz"), 1, "out", "one file per case"),
        (("a.nii.gz", "b.nii.gz"), 1, "mask.nii.gz", "give a folder"),
        (("a.png", "b.png"), 3, "mask.png", "give a folder"),
        (("a.png", "a.jpg"), 3, "out", "CASE_0000"),
        (("a_0000.png", "a.nii.gz"), 1, "out", "one file per case"),
    ],
)
def test_what_cannot_be_assigned_is_refused(
    tmp_path: Path, names: tuple[str, ...], channels: int, output: str, complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        cases.tasks(touch(tmp_path / "in", *names), tmp_path / output, channels)


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        cases.tasks(tmp_path / "nowhere", tmp_path / "out", 1)


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    todo = cases.tasks(touch(tmp_path / "in", "a.nii.gz"), tmp_path / "out", 1)
    touch(tmp_path / "out", "precious.txt")
    with pytest.raises(OutputError, match="not empty"):
        cohort.check_output(todo, tmp_path / "out", {}, go_on=False)
    cohort.check_output(todo, tmp_path / "out", {}, go_on=True)


def test_masks_of_two_models_are_never_mixed(tmp_path: Path) -> None:
    todo = cases.tasks(touch(tmp_path / "in", "a.nii.gz"), tmp_path / "out", 1)
    with record.recording("predict") as run:
        run.made_by, run.path = {"model": "one"}, cohort.place(todo, tmp_path / "out")
        run.save("done")
    cohort.check_output(todo, tmp_path / "out", {"model": "one"}, go_on=True)
    with pytest.raises(OutputError, match="another model"):
        cohort.check_output(todo, tmp_path / "out", {"model": "two"}, go_on=True)


def test_an_existing_mask_file_is_not_replaced(tmp_path: Path) -> None:
    todo = cases.tasks(touch(tmp_path / "in", "a.nii.gz") / "a.nii.gz", tmp_path / "mask.nii.gz", 1)
    (tmp_path / "mask.nii.gz").write_bytes(b"")
    with pytest.raises(OutputError, match="exists already"):
        cohort.check_output(todo, tmp_path / "mask.nii.gz", {}, go_on=False)


def test_a_bad_case_stops_nothing_else(trained: Path, phantom: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(phantom / "imagesTs", tmp_path / "in"))
    (source / "aaa_0000.nii.gz").write_bytes(b"<html>sorry</html>")
    predictor = Predictor(bundle.load(trained / "best"), device="cpu", stride=3)
    todo = cases.tasks(source, tmp_path / "out", 1)
    outcomes = list(cohort.run(predictor, todo))
    assert [outcome.status for outcome in outcomes] == ["failed", "done"]
    assert "aaa_0000.nii.gz" in outcomes[0].reason
    assert [path.name for path in (tmp_path / "out").iterdir()] == [outcomes[1].output.name]
    assert [outcome.status for outcome in cohort.run(predictor, todo[1:])] == ["kept"]


def test_the_record_names_cases_and_no_paths(trained: Path, phantom: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(phantom / "imagesTs", tmp_path / "in"))
    (source / "aaa_0000.nii.gz").write_bytes(b"<html>sorry</html>")
    todo = cases.tasks(source, tmp_path / "out", 1)
    with record.recording("predict", {"stride": 3}) as run:
        run.path = cohort.place(todo, tmp_path / "out")
        list(cohort.run(Predictor(bundle.load(trained / "best"), device="cpu", stride=3), todo, noted=run))
    text = (tmp_path / "out" / record.FILE).read_text()
    assert str(tmp_path) not in text
    (entry,) = json.loads(text)["runs"]
    assert entry["status"] == "done"
    assert entry["cases"]["aaa"]["status"] == "failed"
    assert entry["cases"][todo[1].id]["sha256"] == record.digest(todo[1].images)


def test_a_run_that_makes_no_mask_leaves_nothing(trained: Path, tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a.nii.gz")
    todo = cases.tasks(source, tmp_path / "out", 1)
    with record.recording("predict") as run:
        run.path = cohort.place(todo, tmp_path / "out")
        outcomes = list(cohort.run(Predictor(bundle.load(trained / "best"), device="cpu"), todo, noted=run))
    assert [outcome.status for outcome in outcomes] == ["failed"]
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_stopped_says_so(trained: Path, phantom: Path, tmp_path: Path) -> None:
    todo = cases.tasks(phantom / "imagesTr", tmp_path / "out", 1)
    with record.recording("predict") as run:
        run.path = cohort.place(todo, tmp_path / "out")
        going = cohort.run(Predictor(bundle.load(trained / "best"), device="cpu", stride=3), todo, noted=run)
        next(going)
        going.close()
    assert record.read(run.path)["runs"][0]["status"] == "interrupted"


def test_previews_and_probabilities_lie_in_folders_of_their_own(trained: Path, phantom: Path, tmp_path: Path) -> None:
    todo = cases.tasks(phantom / "imagesTs", tmp_path / "out", 1)
    predictor = Predictor(bundle.load(trained / "best"), device="cpu", stride=3)
    extras = cohort.Extras(preview=True, probabilities=True)
    assert [outcome.status for outcome in cohort.run(predictor, todo, extras=extras)] == ["done"]
    (case,) = todo
    mask = formats.read_labels(case.output, predictor.bundle.labels)
    maps = []
    for name in predictor.bundle.labels.names:
        volume = formats.read(tmp_path / "out" / "probabilities" / f"{case.id}_{name}.nii.gz")
        assert volume.grid.same_place(mask.grid)
        maps.append(volume.data[0])
    every = np.stack([1 - np.sum(maps, axis=0), *maps])
    first, second = np.sort(every, axis=0)[[-1, -2]]
    sure = first - second > 0.03
    values = np.array([0, *(predictor.bundle.labels.values[name] for name in predictor.bundle.labels.names)])
    assert sure.mean() > 0.1
    assert every[1:].max() > 0.05
    assert (mask.data[sure] == values[every.argmax(0)][sure]).all()
    assert (tmp_path / "out" / "previews" / f"{case.id}.png").is_file()


def test_probabilities_that_nobody_asked_for_are_not_there(trained: Path, phantom: Path, tmp_path: Path) -> None:
    predictor = Predictor(bundle.load(trained / "best"), device="cpu", stride=3)
    prediction = predictor(formats.read(next((phantom / "imagesTs").iterdir())))
    with pytest.raises(OutputError, match="no probabilities"):
        prediction.save_probabilities(tmp_path / "case")


@pytest.mark.parametrize(
    ("ending", "output", "expected"), [(".nii", "out", "a.nii"), (None, "out", "a.nii.gz"), (".nii", "b.nii", "b.nii")]
)
def test_the_ending_of_masks_can_be_chosen(tmp_path: Path, ending: str | None, output: str, expected: str) -> None:
    source = touch(tmp_path / "in", "a.nii.gz") / "a.nii.gz"
    (task,) = cases.tasks(source, tmp_path / output, 1, ending=ending)
    assert task.output.name == expected


@pytest.mark.parametrize(("ending", "output"), [(".docx", "out"), (".nii.gz", "b.nii")])
def test_an_ending_that_cannot_be_is_refused(tmp_path: Path, ending: str, output: str) -> None:
    source = touch(tmp_path / "in", "a.nii.gz") / "a.nii.gz"
    with pytest.raises(OutputError):
        cases.tasks(source, tmp_path / output, 1, ending=ending)


def test_one_series_is_not_for_several_cases(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one case"):
        cases.tasks(touch(tmp_path / "in", "a.nii.gz", "b.nii.gz"), tmp_path / "out", 1, series="2")


def test_files_that_cannot_be_hashed_stop_nothing(
    trained: Path, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(record, "digest", locked)
    todo = cases.tasks(phantom / "imagesTr", tmp_path / "out", 1)
    predictor = Predictor(bundle.load(trained / "best"), device="cpu", stride=3)
    with record.recording("predict") as noted:
        noted.path = cohort.place(todo, tmp_path / "out")
        outcomes = list(cohort.run(predictor, todo, noted=noted))
    assert [outcome.status for outcome in outcomes] == ["done"] * len(todo)
    assert "sha256" not in record.read(noted.path)["runs"][0]["cases"][todo[0].id]


def test_a_first_failure_leaves_no_record_but_a_later_one_does(
    trained: Path, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Prediction.save
    calls: list[Path] = []

    def sometimes(self: Prediction, path: Path) -> None:
        calls.append(path)
        if len(calls) != 2:
            raise OutputError(f"{path}: no")
        save(self, path)

    monkeypatch.setattr(Prediction, "save", sometimes)
    todo = cases.tasks(phantom / "imagesTr", tmp_path / "out", 1)
    predictor = Predictor(bundle.load(trained / "best"), device="cpu", stride=3)
    with record.recording("predict") as noted:
        noted.path = cohort.place(todo, tmp_path / "out")
        going = cohort.run(predictor, todo, extras=cohort.Extras(preview=True), noted=noted)
        assert next(going).status == "failed"
        assert not (tmp_path / "out").exists()
        assert [outcome.status for outcome in going] == ["done", "failed"]
    assert sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file()) == [
        todo[1].output.name,
        f"{todo[1].id}.png",
        cohort.TABLE,
        record.FILE,
    ]


def test_numbered_films_of_colours_are_cases(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number in (1, 2):
        (source / f"clip_{number:04}.mp4").write_bytes(b"\0\0\0\x18ftypisom")
    found = cases.tasks(source, tmp_path / "out", 3)
    assert [(task.id, task.output.name) for task in found] == [("clip_0001", "clip_0001"), ("clip_0002", "clip_0002")]


@pytest.mark.parametrize("overlap", [None, 0, 2])
def test_an_overlap_within_the_stacks(overlap: int | None) -> None:
    cohort.check_overlap(overlap, 3)


@pytest.mark.parametrize("overlap", [-1, 3])
def test_an_overlap_of_all_slices_or_fewer_than_none_is_refused(overlap: int) -> None:
    with pytest.raises(ConfigError, match="0 to 2"):
        cohort.check_overlap(overlap, 3)


def test_the_quality_of_every_mask_stands_in_record_and_table(trained: Path, phantom: Path, tmp_path: Path) -> None:
    todo = cases.tasks(phantom / "imagesTr", tmp_path / "out", 1)
    predictor = Predictor(bundle.load(trained / "best"), device="cpu", stride=3)
    with record.recording("predict") as noted:
        noted.path = cohort.place(todo, tmp_path / "out")
        first, *_ = cohort.run(predictor, todo[:2], noted=noted)
    kept = (tmp_path / "out" / cohort.TABLE).read_text()
    with record.recording("predict") as noted:
        noted.path = cohort.place(todo, tmp_path / "out")
        list(cohort.run(predictor, todo, noted=noted))
    rows = list(csv.DictReader((tmp_path / "out" / cohort.TABLE).read_text("utf-8").splitlines()))
    assert (tmp_path / "out" / cohort.TABLE).read_text().startswith(kept)
    assert {row["case"] for row in rows} == {task.id for task in todo}
    assert {row["structure"] for row in rows} - {""} == set(predictor.labels.names)
    entries = record.read(tmp_path / "out" / record.FILE)["runs"][0]["cases"]
    assert first.quality is not None
    assert entries[first.id]["quality"] == json.loads(json.dumps(first.quality.to_json()))
    assert entries[first.id]["quality"]["ranges"] == "known"
    assert {flag.code for flag in first.flags} <= {finding["code"] for finding in entries[first.id].get("findings", [])}
    assert "message" not in json.dumps(entries[first.id])


def test_the_table_of_a_single_mask_has_its_name(tmp_path: Path) -> None:
    assert cohort.table(tmp_path / "mask.run.json") == tmp_path / "mask.quality.csv"
    assert cohort.table(tmp_path / "run.json") == tmp_path / "quality.csv"


# Reading, segmenting and writing at the same time


class Quick:
    """Segments at once, and notes what happens in which order."""

    channels, kind, depth = ("CT",), "CT", 1
    labels = Labels({"background": 0, "liver": 1})

    def __init__(self) -> None:
        self.hooks: dict[tuple[str, str], Callable[[], object]] = {}
        self.events: list[tuple[str, str]] = []

    def check_prompt_free(self) -> None:
        pass

    def happens(self, what: str, case: str) -> None:
        self.events.append((what, case))
        self.hooks.get((what, case), lambda: None)()

    def __call__(self, volume: Volume, progress: object = None, *, probabilities: bool = False) -> Prediction:
        assert volume.source is not None
        case = volume.source.paths[0].name[0]
        self.happens("segment", case)
        values = np.full(volume.grid.shape, 1, np.uint8)
        return Prediction(LabelMap(values, volume.grid, self.labels), volume)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Quick:
    model = Quick()
    read, save = cases.Task.read, Prediction.save

    def reading(task: cases.Task, channels: int) -> Volume:
        model.happens("read", task.id)
        return read(task, channels)

    def saving(prediction: Prediction, path: Path) -> None:
        model.happens("write", path.name[0])
        save(prediction, path)

    monkeypatch.setattr(cases.Task, "read", reading)
    monkeypatch.setattr(Prediction, "save", saving)
    return model


@pytest.fixture
def three(tmp_path: Path) -> tuple[cases.Task, ...]:
    (tmp_path / "in").mkdir()
    data = np.random.default_rng(0).integers(-100, 200, (8, 9, 4)).astype(np.int16)
    for name in "abc":
        image = nib.Nifti1Image(data, np.diag([2.0, 2.0, 4.0, 1.0]))
        nib.save(image, tmp_path / "in" / f"{name}.nii.gz")
    return cases.tasks(tmp_path / "in", tmp_path / "out", 1)


def test_the_next_case_is_read_and_the_last_one_written_while_one_is_segmented(
    quick: Quick, three: tuple[cases.Task, ...]
) -> None:
    """Segmenting ``b`` ends only after ``c`` was read, and after ``a`` is being written."""
    read, written = Event(), Event()
    quick.hooks = {
        ("read", "c"): read.set,
        ("write", "a"): written.set,
        ("segment", "b"): lambda: None if read.wait(20) and written.wait(20) else pytest.fail("one after the other"),
    }
    assert [(one.id, one.status) for one in cohort.run(quick, three)] == [(name, "done") for name in "abc"]
    for what in ("read", "segment", "write"):
        assert [case for happened, case in quick.events if happened == what] == ["a", "b", "c"]


def test_nothing_of_a_later_case_is_written_before_the_outcome_is_told(
    quick: Quick, three: tuple[cases.Task, ...]
) -> None:
    going = cohort.run(quick, three)
    assert next(going).id == "a"
    assert ("segment", "b") in quick.events
    assert ("write", "b") not in quick.events
    going.close()
    assert ("write", "b") not in quick.events
    assert [path.name for path in three[0].output.parent.iterdir()] == ["a.nii.gz"]


@pytest.mark.parametrize("part", ["read", "segment", "write"])
def test_a_failure_in_any_part_stops_nothing_else(quick: Quick, three: tuple[cases.Task, ...], part: str) -> None:
    def fail() -> None:
        raise InputError("no luck", code="VAL-05")

    quick.hooks = {(part, "b"): fail}
    with record.recording("predict") as noted:
        noted.path = cohort.place(three, three[0].output.parent)
        outcomes = list(cohort.run(quick, three, noted=noted))
    assert [one.status for one in outcomes] == ["done", "failed", "done"]
    assert (outcomes[1].reason, outcomes[1].code) == ("no luck", "VAL-05")
    entries = record.read(noted.path)["runs"][0]["cases"]
    assert list(entries) == ["a", "b", "c"]
    assert "sha256" in entries["b"]


def test_findings_belong_to_their_case_and_come_in_order(quick: Quick, three: tuple[cases.Task, ...]) -> None:
    quick.hooks = {
        (part, case): partial(checks.notice, code, f"{part} {case}")
        for part, case, code in (("read", "b", "VAL-03"), ("write", "a", "GEO-03"), ("segment", "c", "VAL-03"))
    }
    with warnings.catch_warnings(), checks.watching() as watch:
        warnings.simplefilter("ignore")
        outcomes = list(cohort.run(quick, three))
    found = [(finding.where, finding.message) for finding in watch.findings]
    assert found == [("a", "write a"), ("b", "read b"), ("c", "segment c")]
    assert [[finding.message for finding in one.findings] for one in outcomes] == [
        ["write a"],
        ["read b"],
        ["segment c"],
    ]


def test_an_interruption_finishes_the_mask_that_is_being_written(quick: Quick, three: tuple[cases.Task, ...]) -> None:
    written = Event()

    def stop() -> None:
        written.wait(20)
        raise KeyboardInterrupt

    quick.hooks = {("write", "a"): written.set, ("segment", "b"): stop}
    threads = active_count()
    with record.recording("predict") as noted:
        noted.path = cohort.place(three, three[0].output.parent)
        with pytest.raises(KeyboardInterrupt):
            list(cohort.run(quick, three, noted=noted))
    (entry,) = record.read(noted.path)["runs"]
    assert (entry["status"], list(entry["cases"])) == ("interrupted", ["a"])
    assert formats.read_labels(three[0].output).data.all()
    assert not three[1].output.exists()
    assert active_count() == threads


def test_what_was_computed_stands_in_record_and_json(trained: Path, phantom: Path, tmp_path: Path) -> None:
    todo = cases.tasks(phantom / "imagesTs", tmp_path / "out", 1)
    with record.recording("predict") as noted:
        noted.path = cohort.place(todo, tmp_path / "out")
        (outcome,) = cohort.run(Predictor(bundle.load(trained / "best"), device="cpu", stride=3), todo, noted=noted)
    entry = record.read(noted.path)["runs"][0]["cases"][outcome.id]
    assert entry["work"] == outcome.to_json()["work"] == {"stacks": 3, "repeated": 0}
