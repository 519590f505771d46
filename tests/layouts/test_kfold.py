"""Cross-validation that keeps patients together, and the command that writes it."""

import json
from collections import Counter
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from voxelsam.cli.split import split
from voxelsam.errors import InputError, OutputError
from voxelsam.layouts import Case, open_dataset
from voxelsam.layouts._split import kfold
from voxelsam.record import digest


def cases_of(groups: list[int]) -> tuple[Case, ...]:
    return tuple(Case(f"c{i}", (Path(f"{i}.nii"),), Path("l.nii"), f"p{group}") for i, group in enumerate(groups))


@given(st.lists(st.integers(0, 12), min_size=2, max_size=40), st.integers(2, 6), st.integers(0, 99))
def test_every_case_is_held_out_once_with_its_patient(groups: list[int], folds: int, seed: int) -> None:
    cases = cases_of(groups)
    if len(set(groups)) < folds:
        with pytest.raises(InputError, match="can make"):
            kfold(cases, folds, seed)
        return
    splits = kfold(cases, folds, seed)
    group = {case.id: case.group for case in cases}
    assert sorted(name for one in splits for name in one.val) == sorted(group)
    for one in splits:
        assert sorted((*one.train, *one.val)) == sorted(group)
        assert one.train
        assert one.val
        assert not {group[name] for name in one.train} & {group[name] for name in one.val}
    sizes = [len(one.val) for one in splits]
    assert max(sizes) - min(sizes) <= max(Counter(groups).values())


@given(st.permutations(range(20)))
def test_the_order_of_the_cases_does_not_matter(order: list[int]) -> None:
    cases = cases_of([i // 2 for i in range(20)])
    shuffled = tuple(cases[i] for i in order)
    assert [set(one.val) for one in kfold(shuffled, 4, 3)] == [set(one.val) for one in kfold(cases, 4, 3)]


def test_the_seed_decides() -> None:
    cases = cases_of(list(range(20)))
    assert kfold(cases, 4, 1) == kfold(cases, 4, 1)
    assert {frozenset(one.val) for one in kfold(cases, 4, 1)} != {frozenset(one.val) for one in kfold(cases, 4, 2)}


def test_a_large_patient_gets_a_fold_and_the_rest_is_level() -> None:
    sizes = sorted(len(one.val) for one in kfold(cases_of([0] * 6 + list(range(1, 10))), 3, 0))
    assert sizes == [4, 5, 6]


def test_known_cases_do_not_change_folds_in_another_process() -> None:
    """Recorded from this function; guards against an order that depends on Python's randomised hashes."""
    assert [one.val for one in kfold(cases_of(list(range(6))), 3, 0)] == [
        ("c0", "c2"),
        ("c3", "c4"),
        ("c1", "c5"),
    ]


@pytest.mark.parametrize("folds", [-1, 0, 1, 4])
def test_folds_that_cannot_be(folds: int) -> None:
    with pytest.raises(InputError, match=f"3 patients can make 2 to 3 folds, but {folds} were") as caught:
        kfold(cases_of([1, 2, 3]), folds, 0)
    assert caught.value.code == "SET-02"


def run(*words: object) -> str:
    app = typer.Typer()
    app.command()(split)
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def test_what_the_command_writes_is_read_as_the_split(touch, note, tmp_path: Path) -> None:
    touch(*(f"{part}/{name}.nii.gz" for name in "abcd" for part in ("imagesTr", "labelsTr")))
    for name in "abcd":
        (tmp_path / "imagesTr" / f"{name}.nii.gz").rename(tmp_path / "imagesTr" / f"{name}_0000.nii.gz")
    table = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "groups": {"a": "p", "d": "p"}}
    note("dataset.json", table)
    written = tmp_path / "splits_final.json"
    run(tmp_path, "--folds", 3, "-o", written, "--seed", 5)
    dataset = open_dataset(tmp_path)
    assert dataset.splits == kfold(dataset.train, 3, 5)
    with pytest.raises(OutputError, match="exists already"):
        run(tmp_path, "-o", written)
    written.unlink()
    assert json.loads(run(tmp_path, "--folds", 2, "-o", written, "--json")) == json.loads(written.read_text())


def test_the_command_leaves_a_record_beside_the_file(touch, note, tmp_path: Path) -> None:
    touch(*(f"{part}/{name}.nii" for name in "abc" for part in ("images", "labels")))
    note("labels.json", {"background": 0, "organ": 1})
    written = tmp_path / "splits.json"
    run(tmp_path, "--folds", 3, "-o", written, "--seed", 5)
    text = (tmp_path / "splits.run.json").read_text()
    (entry,) = json.loads(text)["runs"]
    assert (entry["command"], entry["status"]) == ("split", "done")
    assert entry["settings"] == {"folds": 3, "seed": 5}
    assert (entry["layout"], entry["patients"]) == ("pairs", 3)
    assert entry["sha256"] == digest([written])
    folds = json.loads(written.read_text())
    assert {name: case["fold"] for name, case in entry["cases"].items()} == {
        name: number for number, fold in enumerate(folds) for name in fold["val"]
    }
    assert str(tmp_path) not in text


def test_another_file_in_the_place_of_the_record_stops_before_anything_is_written(touch, note, tmp_path: Path) -> None:
    touch(*(f"{part}/{name}.nii" for name in "ab" for part in ("images", "labels")))
    note("labels.json", {"background": 0, "organ": 1})
    note("splits.run.json", [])
    with pytest.raises(OutputError, match="not a record"):
        run(tmp_path, "--folds", 2, "-o", tmp_path / "splits.json")
    assert not (tmp_path / "splits.json").exists()


def test_nothing_is_written_where_there_are_too_few_patients(touch, note, tmp_path: Path) -> None:
    touch("images/a.nii", "labels/a.nii", "images/b.nii", "labels/b.nii")
    note("labels.json", {"background": 0, "organ": 1})
    with pytest.raises(InputError, match="2 to 2 folds, but 5"):
        run(tmp_path, "-o", tmp_path / "splits.json")
    assert not list(tmp_path.glob("splits*"))
