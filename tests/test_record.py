"""The record of a run: what it must hold, and what it must not."""

import json
import warnings
from pathlib import Path

import pytest

from voxelsam import checks, record
from voxelsam.checks import Finding
from voxelsam.errors import ConfigError, OutputError


def test_it_holds_versions_settings_checks_cases_time_and_memory(tmp_path: Path) -> None:
    with record.recording("predict", {"stride": 2}) as run:
        run.path = tmp_path / "out" / record.FILE
        run.case("one", "done", [Finding("GEO-03", "warning", "a message")], seconds=1.5)
        run.save("done")
    (entry,) = json.loads(run.path.read_text())["runs"]
    assert (entry["command"], entry["status"], entry["settings"]) == ("predict", "done", {"stride": 2})
    assert {"python", "voxelsam", "torch", "numpy"} <= set(entry["versions"])
    assert entry["seconds"] >= 0
    assert entry["peak_memory_mb"] > 10
    assert entry["cases"]["one"] == {
        "status": "done",
        "seconds": 1.5,
        "findings": [{"code": "GEO-03", "severity": "warning"}],
    }


def test_what_checks_found_is_counted_by_code_and_case_without_their_messages(tmp_path: Path) -> None:
    with record.recording("predict") as run, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in ("a", "b"):
            with checks.watching(where=case):
                checks.notice("GEO-08", "/somewhere/Doe_John.nii.gz: odd spacing")
        run.path = tmp_path / record.FILE
        run.save()
    text = run.path.read_text()
    assert "Doe" not in text
    found = json.loads(text)["runs"][0]["checks"]["found"]["GEO-08"]
    assert (found["times"], found["cases"]) == (2, ["a", "b"])


def test_what_was_read_twice_was_found_once(tmp_path: Path) -> None:
    with record.recording("train") as run, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            with checks.watching(where="a"):
                checks.notice("GEO-08", "odd spacing")
        run.case("a", "train", run.watch.findings)
        run.path = tmp_path / record.FILE
        run.save()
    (entry,) = record.read(run.path)["runs"]
    assert entry["checks"]["found"]["GEO-08"]["times"] == 1
    assert len(entry["cases"]["a"]["findings"]) == 1


def test_what_was_accepted_stands_in_it(tmp_path: Path) -> None:
    with record.recording("predict", accept=["GEO-02"]) as run:
        checks.refuse("GEO-02", "half a centimetre apart")
        run.path = tmp_path / record.FILE
        run.save()
    entry = json.loads(run.path.read_text())["runs"][0]["checks"]
    assert entry["accepted"] == ["GEO-02"]
    assert entry["found"]["GEO-02"]["times"] == 1


@pytest.mark.parametrize("code", ["GEO-99", "SET-03"])
def test_checks_that_do_not_exist_or_leave_nothing_to_work_with_cannot_be_accepted(code: str) -> None:
    with pytest.raises(ConfigError, match=code), record.recording("predict", accept=[code]):
        pass


def test_a_later_run_is_added_and_a_run_saved_twice_is_not(tmp_path: Path) -> None:
    for _ in range(2):
        with record.recording("predict") as run:
            run.path = tmp_path / record.FILE
            run.save()
            run.save("done")
    runs = record.read(tmp_path / record.FILE)["runs"]
    assert [entry["status"] for entry in runs] == ["done", "done"]
    assert runs[0]["id"] != runs[1]["id"]


def test_a_command_that_makes_nothing_there_leaves_the_maker_alone(tmp_path: Path) -> None:
    for command, made_by in (("predict", {"bundle": "one"}), ("evaluate", None)):
        with record.recording(command) as run:
            run.path, run.made_by = tmp_path / record.FILE, made_by
            run.save("done")
    assert record.read(tmp_path / record.FILE)["made_by"] == {"bundle": "one"}


def test_without_a_place_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with record.recording("predict") as run:
        run.save("done")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["no json", "[]", "{}", '{"runs": [], "format": 99}'])
def test_another_file_of_that_name_is_not_overwritten(tmp_path: Path, content: str) -> None:
    (tmp_path / record.FILE).write_text(content)
    with record.recording("predict") as run:
        run.path = tmp_path / record.FILE
        with pytest.raises(OutputError, match=r"run\.json"):
            run.save()
    assert (tmp_path / record.FILE).read_text() == content


def test_the_digest_is_of_contents_whatever_the_folder_is_called(tmp_path: Path) -> None:
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.dcm").write_bytes(content)
    assert (
        record.digest([tmp_path / "a"]) == record.digest([tmp_path / "b"]) == record.digest([tmp_path / "a" / "x.dcm"])
    )
    assert record.digest([tmp_path / "a"]) != record.digest([tmp_path / "c"])


def test_the_record_of_a_single_mask_lies_beside_it(tmp_path: Path) -> None:
    assert record.path_for(tmp_path / "mask.nii.gz", folder=False) == tmp_path / "mask.run.json"
    assert record.path_for(tmp_path, folder=True) == tmp_path / "run.json"
