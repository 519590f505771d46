"""The command, in process (starting Python anew costs seconds); what needs a real process says so."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("verb", ["train", "predict", "evaluate", "info", "demo"])
def test_every_verb_explains_itself(run: Run, verb: str) -> None:
    code, out, _ = run(verb, "--help")
    assert code == 0
    assert "Usage" in out


def test_version(run: Run) -> None:
    import voxelsam

    assert run("--version")[1].strip() == f"voxelsam {voxelsam.__version__}"


def test_train_dry_run_writes_nothing(run: Run, phantom: Path, tmp_path: Path) -> None:
    code, out, _ = run("train", phantom, "-o", tmp_path / "run", "--dry-run", "--json", "--set", "stack.depth=3")
    assert code == 0
    assert json.loads(out)["recipe"]["stack"]["depth"] == 3
    assert not (tmp_path / "run").exists()


def test_train_says_why_it_chose_what(run: Run, phantom: Path, tmp_path: Path) -> None:
    _, out, _ = run("train", phantom, "-o", tmp_path / "run", "--dry-run")
    assert "plane axial" in out
    assert "random, not pretrained" in out


def test_predict_then_evaluate(run: Run, trained: Path, phantom: Path, tmp_path: Path) -> None:
    masks, summary = tmp_path / "masks", tmp_path / "summary.json"
    code, out, _ = run(
        "predict", "-m", trained / "best", "-i", phantom / "imagesTs", "-o", masks, "--overlap", 0, "--json"
    )
    assert code == 0
    assert [case["status"] for case in json.loads(out)] == ["done"]
    code, out, _ = run("evaluate", "-i", masks, "-r", phantom / "labelsTs", "-o", summary)
    assert code == 0
    assert "kidney_left" in out
    assert json.loads(summary.read_text())["metric_per_case"][0]["metrics"]["1"]["n_ref"] > 0


def test_predict_continues(run: Run, trained: Path, phantom: Path, tmp_path: Path) -> None:
    arguments = ("predict", "-m", trained / "best", "-i", phantom / "imagesTs", "-o", tmp_path / "m", "--overlap", 0)
    assert run(*arguments)[0] == 0
    mask = next(path for path in (tmp_path / "m").iterdir() if path.suffix == ".gz")
    before = mask.stat().st_mtime_ns
    assert run(*arguments)[0] == 2
    code, out, _ = run(*arguments, "--continue")
    assert code == 0
    assert "kept" in out
    assert mask.stat().st_mtime_ns == before


def test_predict_lists_what_it_would_do(run: Run, trained: Path, phantom: Path, tmp_path: Path) -> None:
    code, out, _ = run("predict", "-m", trained / "best", "-i", phantom / "imagesTs", "-o", tmp_path / "m", "--dry-run")
    assert code == 0
    assert "planned" in out
    assert "9 slices, about" in out
    assert "in all about" in out
    assert not (tmp_path / "m").exists()
    _, out, _ = run(
        "predict", "-m", trained / "best", "-i", phantom / "imagesTs", "-o", tmp_path / "m", "--dry-run", "--json"
    )
    (case,) = json.loads(out)
    assert case["status"] == "planned"
    assert case["estimate"]["slices"] == 9
    assert case["estimate"]["seconds"] > 0
    assert case["estimate"]["memory"] > 400 * 10**6
    assert not (tmp_path / "m").exists()


def test_one_bad_scan_gives_exit_code_1_and_the_rest_is_done(
    run: Run, trained: Path, phantom: Path, tmp_path: Path
) -> None:
    import shutil

    source = Path(shutil.copytree(phantom / "imagesTs", tmp_path / "in"))
    (source / "zzz.nii.gz").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    code, out, _ = run("predict", "-m", trained / "best", "-i", source, "-o", tmp_path / "m", "--overlap", 0, "--json")
    outcomes = {case["id"]: case for case in json.loads(out)}
    assert code == 1
    assert outcomes["zzz"]["status"] == "failed"
    assert "LFS" in outcomes["zzz"]["reason"]
    assert sorted(case["status"] for case in outcomes.values()) == ["done", "failed"]
    assert not (tmp_path / "m" / "zzz.nii.gz").exists()


def test_evaluate_refuses_masks_in_another_place(run: Run, phantom: Path, tmp_path: Path) -> None:
    reference = next((phantom / "labelsTs").iterdir())
    image = nib.load(reference)
    moved = image.affine.copy()
    moved[0, 3] += 3
    (tmp_path / "m").mkdir()
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), moved), tmp_path / "m" / reference.name)
    code, _, err = run("evaluate", "-i", tmp_path / "m", "-r", phantom / "labelsTs")
    assert code == 1
    assert "GEO-02" in err


def test_evaluate_a_fold(run: Run, phantom: Path, tmp_path: Path) -> None:
    import shutil

    held_out = json.loads((phantom / "splits.json").read_text())[0]["val"]
    (tmp_path / "m").mkdir()
    for case in held_out:
        shutil.copy(phantom / "labelsTr" / f"{case}.nii.gz", tmp_path / "m")
    code, out, _ = run("evaluate", "-i", tmp_path / "m", "-r", phantom, "--fold", 0, "--json")
    assert code == 0
    assert json.loads(out)["foreground_mean"]["Dice"] == 1


def test_info_knows_what_things_are(run: Run, trained: Path, phantom: Path) -> None:
    scan = next((phantom / "imagesTs").iterdir())
    kinds = {trained / "best": "bundle", trained: "run", phantom: "data set", scan: "volume"}
    for path, kind in kinds.items():
        code, out, _ = run("info", path, "--json")
        assert code == 0
        assert json.loads(out)["what"] == kind


def test_info_of_a_checkpoint(run: Run, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from voxelsam import backbones

    save_file(backbones.build("sam-tiny").state_dict(), tmp_path / "tiny.safetensors")
    assert json.loads(run("info", tmp_path / "tiny.safetensors", "--json")[1])["variant"] == "sam-tiny"


WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "no data set": (("train", "{tmp}/nowhere", "-o", "{tmp}/run"), "nowhere"),
    "no data set named": (("train", "-o", "{tmp}/run"), "which data set"),
    "unknown keys": (("train", "{phantom}", "-o", "{tmp}/run", "--set", "train.epoch=3"), "train.epoch: unknown key"),
    "no recipe": (("train", "{phantom}", "-o", "{tmp}/run", "--config", "{tmp}/r.yaml"), "r.yaml"),
    "no checkpoint": (("train", "{phantom}", "-o", "{tmp}/run", "--set", "backbone.weights=x.pth"), "x.pth"),
    "settings of a run that goes on": (("train", "-o", "{trained}", "--continue", "--set", "a.b=1"), "keeps its own"),
    "no bundle": (("predict", "-m", "{tmp}", "-i", "{phantom}/imagesTs", "-o", "{tmp}/m"), "not a bundle"),
    "no scans": (("predict", "-m", "{trained}/best", "-i", "{tmp}", "-o", "{tmp}/m"), "no image of a known format"),
    "no masks": (("evaluate", "-i", "{tmp}", "-r", "{phantom}/labelsTr"), "no label file"),
    "no device": (
        ("predict", "-m", "{trained}/best", "-i", "{phantom}/imagesTs", "-o", "{tmp}/m", "--device", "cuda:77"),
        "cannot be used here",
    ),
    "nothing known": (("info", "{tmp}"), "no known layout"),
    "nothing there": (("info", "{tmp}/nothing"), "there is no"),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_are_one_message_and_exit_code_2(
    run: Run, trained: Path, phantom: Path, tmp_path: Path, name: str
) -> None:
    arguments, complaint = WRONG[name]
    places = {"tmp": tmp_path, "phantom": phantom, "trained": trained}
    code, _, err = run(*(argument.format(**places) for argument in arguments))
    assert code == 2
    assert complaint in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_an_interrupted_training_says_how_to_go_on(
    run: Run, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from voxelsam.train.module import TrainingModule

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainingModule, "training_step", interrupted)
    code, _, err = run("train", phantom, "-o", tmp_path / "run", "--set", "stack.size=[32,32]")
    assert code == 130
    assert "--continue" in err


def test_a_full_disk_is_no_traceback(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from voxelsam import inspect

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device", "mask.nii.gz")

    monkeypatch.setattr(inspect, "inspect", full)
    code, _, err = run("info", tmp_path)
    assert code == 2
    assert "No space left on device: mask.nii.gz" in err


def test_help_of_the_real_process_loads_no_torch() -> None:
    script = "import sys; sys.argv = ['voxelsam', '--help']; from voxelsam.cli import app\n"
    script += "try: app.main()\nexcept SystemExit: pass\nprint('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip().endswith("False")
