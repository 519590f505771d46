"""A study from the user's copy of the data to a row beside the paper's; on a miniature, which is no reproduction."""

import json
import math
from pathlib import Path

import pytest
from tests.contracts.miniatures import btcv

from voxelsam import reproduce
from voxelsam.errors import ConfigError, InputError
from voxelsam.evaluate.statistics import Interval
from voxelsam.evaluate.studies import studies, study_of

SHORT = [
    *("--set", "backbone.name=sam-tiny", "--set", "stack.size=[64,64]", "--set", "adapt.variant=paper"),
    *("--set", "train.epochs=1", "--set", "train.stacks_per_epoch=2", "--set", "train.precision=fp32"),
    *("--set", "train.batch=1", "--set", "train.accumulate=1"),
]


def made(paper: float, ours: tuple[float, float, float], **more: object) -> reproduce.Reproduction:
    row = reproduce.Row("Dice", "mean", paper, Interval(*ours, 6, 6))
    facts = {"changed": (), "backbone": "sam-vit-h", "random": False, "cases": 6} | more
    return reproduce.Reproduction("ma-sam/btcv", "MA-SAM", (row,), **facts)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (made(87.2, (86.3, 86.0, 86.6)), "reproduced"),
        (made(87.2, (85.0, 82.0, 88.0)), "reproduced"),
        (made(87.2, (85.0, 84.0, 86.0)), "not reached"),
        (made(87.2, (87.2, 87.0, 87.4), changed=("train.epochs: 300 -> 1",)), "changed"),
        (made(87.2, (87.2, 87.0, 87.4), random=True), "random backbone"),
        (made(87.2, (math.nan, math.nan, math.nan)), "no figure"),
        (made(None, (80.0, 70.0, 90.0)), "no figure"),
    ],
)
def test_only_what_is_the_papers_experiment_can_reproduce_it(found, verdict) -> None:
    assert found.verdict == verdict


def test_settings_of_ones_own_are_said_and_those_of_the_machine_are_not() -> None:
    own = {"train": {"epochs": 3, "device": "cpu", "lr": 8.0e-4}}
    given, changed = reproduce.settings_of(study_of("ma-sam/btcv"), "MA-SAM", Path("sam.pth"), own)
    assert given["train"]["epochs"] == 3
    assert given["backbone"] == {"name": "sam-vit-h", "weights": "sam.pth"}
    assert changed == ("train.epochs: 300 -> 3",)


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("btcv")
    return btcv.make(folder) or folder


def test_a_study_runs_from_the_data_to_the_table(run, miniature, tmp_path) -> None:
    folder = tmp_path / "out"
    code, said, error = run("reproduce", "ma-sam/btcv", "--data", miniature, "-o", folder, *SHORT)
    assert code == 0, error
    assert "verdict: changed" in said
    found = json.loads((folder / reproduce.FILE).read_text())
    dice = {row["column"]: row for row in found["rows"] if row["measure"] == "Dice"}
    assert dice["spleen"]["paper"] == 96.7
    assert dice["mean"]["paper"] == 87.2
    assert tuple(dice) == (*study_of("ma-sam/btcv").columns, "mean")
    scored = json.loads((folder / "paper" / "summary.json").read_text())
    assert scored["preset"]["name"] == "ma_sam"
    assert dice["mean"]["ours"]["value"] == pytest.approx(100 * scored["foreground_mean"]["Dice"], abs=1e-6)
    entry = next(
        one for one in reproduce.ledger(studies(), [folder]) if (one.study, one.arm) == ("ma-sam/btcv", "MA-SAM")
    )
    assert entry.status.startswith("another experiment (")
    assert "train.epochs: 300 -> 1" in entry.status


def test_the_ledger_claims_nothing_that_was_not_run(run) -> None:
    code, said, _ = run("reproduce", "--list", "--json")
    assert code == 0
    entries = json.loads(said)
    assert len(entries) == sum(max(len(study.arms), 1) for study in studies().values())
    assert {entry["status"] for entry in entries} == {"not attempted"}
    assert all(entry["ours"] == "" and entry["why"] for entry in entries)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "which study? there are ma-sam/btcv"),
        (("ma-sam/cinema",), "there is no study 'ma-sam/cinema'"),
        (("ma-sam/btcv",), "needs its data set: --data FOLDER (Synapse"),
        (("ma-sam/btcv", "--arm", "nnU-Net"), "no arm 'nnU-Net'"),
        (("ma-sam/btcv", "--set", "train.epoch=3"), "train.epoch"),
        (("ma-sam/btcv", "--data", "."), "give its checkpoint with --weights"),
        (("--list", "--result", "nowhere"), "holds no readable reproduction.json"),
    ],
)
def test_what_cannot_be_run_is_refused(run, tmp_path, arguments, message) -> None:
    code, _, said = run("reproduce", *arguments, "-o", tmp_path / "out")
    assert code == 2
    assert message in said
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_left_alone(run, miniature, tmp_path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    code, _, said = run("reproduce", "ma-sam/btcv", "--data", miniature, "-o", tmp_path, *SHORT)
    assert code == 2
    assert "is not empty" in said
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_a_set_without_cases_is_named(miniature) -> None:
    with pytest.raises(ConfigError):
        reproduce.settings_of(study_of("ma-sam/amos-zero-shot"), "", None, {})
    with pytest.raises(InputError, match="readable"):
        reproduce.read(miniature)
