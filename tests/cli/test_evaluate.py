"""The command that scores: what it shows, and what its options change."""

import json

import numpy as np
import pytest

from voxelsam.formats import write_labels
from voxelsam.space.grid import Grid
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.volume import LabelMap

LABELS = Labels({"background": 0, "liver": 1, "tumour": 7})
GRID = Grid((12, 10, 6), np.diag([1.0, 1.0, 4.0, 1.0]))


@pytest.fixture
def folders(tmp_path):
    """Two cases; the tumour of the second is missed. The set is described above the folder of references."""
    truth = np.zeros(GRID.shape, np.uint8)
    truth[2:7, 2:7, 1:4], truth[9:11, 6:9, 2:4] = 1, 7
    shifted = np.roll(truth, 1, 2)
    for name, guess in (("a", truth), ("b", np.where(shifted == 7, 0, shifted))):
        for folder, data in (("truth", truth), ("guess", guess)):
            (tmp_path / folder).mkdir(exist_ok=True)
            write_labels(tmp_path / folder / f"{name}.nii.gz", LabelMap(data.astype(np.uint8), GRID, LABELS))
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": LABELS.to_json()}))
    return "-i", tmp_path / "guess", "-r", tmp_path / "truth"


@pytest.mark.filterwarnings("ignore::voxelsam.errors.InputWarning")
def test_distances_are_shown_and_what_they_leave_out(run, folders):
    code, shown, told = run("evaluate", *folders)
    assert code == 0
    for words in ("HD95 mm", "NSD at", "ASSD mm", "RVE %", "VD ml", "in one"):
        assert words in shown
    assert "tumour: HD95, ASSD of 1 of 2 cases is undefined and in no mean" in told
    assert "--penalty diagonal" in told
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.filterwarnings("ignore::voxelsam.errors.InputWarning")
def test_a_penalty_leaves_nothing_out(run, folders):
    code, _, told = run("evaluate", *folders, "--penalty", "diagonal")
    assert code == 0
    assert "undefined" not in told


@pytest.mark.filterwarnings("ignore::voxelsam.errors.InputWarning")
def test_choices_reach_the_summary(run, folders, tmp_path):
    options = ("--metric", "hd", "--metric", "nsd", "--tolerance", "4.5", "--units", "voxel", "--empty", "one")
    code, shown, _ = run("evaluate", *folders, *options, "-o", tmp_path / "s.json")
    assert code == 0
    summary = json.loads((tmp_path / "s.json").read_text())
    assert summary["preset"] | {"metrics": ["HD", "NSD"], "tolerance": 4.5, "empty": "one"} == summary["preset"]
    assert summary["metric_per_case"][1]["metrics"]["1"]["HD"] == 1
    assert summary["units"] == "voxel"
    assert summary["empty"]["rule"] == "one"
    assert "HD voxel" in shown
    assert "HD95" not in summary["mean"]["1"]
    record = json.loads((tmp_path / "run.json").read_text())
    assert "HD" in json.dumps(record)


@pytest.mark.filterwarnings("ignore::voxelsam.errors.InputWarning")
def test_a_preset_by_name_as_json(run, folders):
    code, shown, _ = run("evaluate", *folders, "--preset", "left_atrium", "--json")
    assert code == 0
    summary = json.loads(shown)
    assert summary["preset"]["name"] == "left_atrium"
    assert {"ASD", "HD95_pooled"} <= summary["mean"]["1"].keys()


@pytest.mark.filterwarnings("ignore::voxelsam.errors.InputWarning")
def test_lesions(run, folders):
    code, shown, _ = run("evaluate", *folders, "--metric", "lesions", "--smallest-lesion", "1", "--json")
    assert code == 0
    lesions = json.loads(shown)["mean"]["7"]["lesions"]
    assert (lesions["sensitivity"], lesions["n_ref"]) == (0.5, 1)


@pytest.mark.filterwarnings("ignore::voxelsam.errors.InputWarning")
def test_every_metric_at_once_can_be_read(run, folders):
    names = ("HD", "HD95", "HD95_pooled", "ASSD", "ASD", "NSD", "RVE", "RAVD", "VD", "lesions")
    code, shown, _ = run("evaluate", *folders, *(word for name in names for word in ("--metric", name)))
    assert code == 0
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--preset", "medsam"), "no preset 'medsam'"),
        (("--metric", "hausdorff"), "no metric 'hausdorff'"),
        (("--tolerance", "-1"), "tolerance"),
        (("--workers", "0"), "workers: at least 1"),
    ],
)
def test_wrong_choices_end_without_a_trace(run, folders, option, message):
    code, shown, told = run("evaluate", *folders, *option)
    assert (code, shown) == (2, "")
    assert message in told
