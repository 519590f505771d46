"""Every layout goes through the whole house: examined, repaired, split, measured, prepared for training, scored."""

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from voxelsam.cli.fix import fix
from voxelsam.data import fingerprint
from voxelsam.data.cache import Store
from voxelsam.doctor import diagnose
from voxelsam.errors import InputError
from voxelsam.evaluate import run
from voxelsam.formats import write_labels
from voxelsam.layouts import Case, Dataset, default_split, kfold, open_dataset, read_label
from voxelsam.stacks.intensity import Intensity
from voxelsam.stacks.plan import StackPlan

TINY = {"GEO-07", "SET-01"}
"""Warnings that come from miniatures being small: few slices, and labels drawn alike."""


def labelled(dataset: Dataset) -> list[Case]:
    return [case for case in (*dataset.train, *dataset.test) if case.label is not None]


def copied(case: Case, dataset: Dataset, folder: Path) -> Path:
    """The label of a case as a mask in a file of its own."""
    place = folder / f"{case.id}.nii.gz"
    write_labels(place, read_label(case, dataset.labels))
    return place


def test_prepared_cases_hold_the_label_in_classes(dataset: Dataset, tmp_path: Path) -> None:
    assert dataset.labels is not None
    store = Store(tmp_path / "cache", dataset.labels, dataset.channels, StackPlan(size=(32, 32)), Intensity())
    for case in labelled(dataset):
        prepared = store.open(case)
        truth = dataset.labels.to_classes(read_label(case, dataset.labels).data)
        assert prepared.image.shape[0] == len(dataset.channels)
        assert np.isfinite(prepared.image).all()
        assert np.array_equal(np.bincount(prepared.label.ravel()), np.bincount(truth.ravel()))
        marked = () if prepared.unlabelled is None else np.array(list(dataset.labels.values))[prepared.unlabelled]
        assert set(marked) == set(case.unlabelled)


def test_the_fingerprint_counts_the_labelled_voxels(dataset: Dataset) -> None:
    assert dataset.labels is not None
    cases = labelled(dataset)
    measured = fingerprint.measure(cases, dataset.labels, dataset.channels, kind=dataset.kind, depth=1)
    for case, facts in zip(cases, measured.cases, strict=True):
        truth = read_label(case, dataset.labels).data
        wanted = {name: int((truth == dataset.labels.values[name]).sum()) for name in dataset.labels.names}
        assert facts.voxels == wanted
        assert len(facts.intensity) == len(dataset.channels)


def test_the_reference_itself_scores_one(dataset: Dataset, tmp_path: Path) -> None:
    assert dataset.labels is not None
    for case in labelled(dataset):
        scored = run.score(case.id, copied(case, dataset, tmp_path), case, dataset.labels)
        looked_for = set(dataset.labels.names) - set(case.unlabelled)
        assert looked_for
        for name in dataset.labels.names:
            counts = scored.counts.get(dataset.labels.values[name])
            assert (counts is not None) == (name in looked_for)
            assert counts is None or counts.dice("one") == 1


@pytest.mark.parametrize("quick", [False, True])
def test_the_doctor_finds_nothing_odd(dataset: Dataset, quick: bool) -> None:
    diagnosis = diagnose(dataset.root, quick=quick)
    assert diagnosis.cases == len(dataset.train) + len(dataset.test)
    assert [finding for finding in diagnosis.findings if finding.code not in TINY] == []
    assert not diagnosis.errors


def test_folds_keep_a_patient_on_one_side(dataset: Dataset) -> None:
    group = {case.id: case.group for case in dataset.train}
    for split in (default_split(dataset.train, 1), *kfold(dataset.train, 2, 1)):
        assert not {group[name] for name in split.train} & {group[name] for name in split.val}
        assert {*split.train, *split.val} == set(group)


def test_a_copy_with_repairs_is_the_same_data_set(dataset: Dataset, tmp_path: Path) -> None:
    command = typer.Typer()
    command.command()(fix)
    result = CliRunner().invoke(command, [str(dataset.root), "-o", str(tmp_path / "copy"), "--json"])
    if dataset.root.is_file():
        assert isinstance(result.exception, InputError)
        assert "the folder of each data set" in str(result.exception)
        return
    assert result.exit_code == 0, result.output
    files = [entry["file"] for entry in json.loads(result.stdout)]
    assert len(set(files)) == len(files)
    copy = open_dataset(tmp_path / "copy")
    assert (copy.layout, copy.labels, copy.splits) == (dataset.layout, dataset.labels, dataset.splits)
    for mine, theirs in zip(copy.train, dataset.train, strict=True):
        assert (mine.id, mine.group) == (theirs.id, theirs.group)
        assert np.array_equal(read_label(mine, copy.labels).data, read_label(theirs, dataset.labels).data)
