"""``voxelsam prompt``, in process."""

import json
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from voxelsam import formats
from voxelsam.bundle import Bundle
from voxelsam.cli import app as command
from voxelsam.infer.predictor import Predictor
from voxelsam.prompts import file
from voxelsam.prompts.prompt import Box, Point, Prompts, Target

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``voxelsam prompt``; gives exit code, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["voxelsam", "prompt", *map(str, arguments)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        try:
            with warnings.catch_warnings():
                command.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        written = capsys.readouterr()
        return code, written.out, written.err

    return call


@pytest.fixture(scope="module")
def model(learnt: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "prompted"
    learnt().save(folder)
    return folder


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans of different sizes."""
    folder = tmp_path_factory.mktemp("scans")
    for seed, name in enumerate(("a", "b")):
        data = np.random.default_rng(seed).normal(50, 60, (20 + seed, 24, 6)).astype(np.float32)
        nib.save(nib.Nifti1Image(data, np.diag([-2.0, 2.0, 4.0, 1.0])), folder / f"{name}.nii.gz")
    return folder


PROMPTS = Prompts((Point((6, 9, 2), Target("spleen")), Box((4, 7, 1), (16, 20, 5), Target("liver"))))


@pytest.fixture
def prompts(scans: Path, tmp_path: Path) -> Path:
    """A file for scan a."""
    path = tmp_path / "prompts.json"
    file.write(path, PROMPTS, "a.nii.gz", formats.read(scans / "a.nii.gz").grid)
    return path


def test_it_explains_itself(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert "--propagate" in out


def test_one_scan_is_what_a_session_says(run: Run, model: Path, scans: Path, prompts: Path, tmp_path: Path) -> None:
    from voxelsam import bundle

    mask = tmp_path / "mask.nii.gz"
    code, _, err = run("-m", model, "-i", scans / "a.nii.gz", "-o", mask, "-p", prompts)
    assert code == 0, err
    session = Predictor(bundle.load(model), device="cpu").open(scans / "a.nii.gz")
    session.add(*PROMPTS.items)
    expected = session.result().labels.data
    assert expected.any()
    assert np.array_equal(np.asarray(nib.load(mask).dataobj), expected)
    assert np.array_equal(nib.load(mask).affine, nib.load(scans / "a.nii.gz").affine)


def test_prompts_one_by_one_are_those_of_a_file(
    run: Run, model: Path, scans: Path, prompts: Path, tmp_path: Path
) -> None:
    scan = scans / "a.nii.gz"
    assert run("-m", model, "-i", scan, "-o", tmp_path / "1.nii.gz", "-p", prompts)[0] == 0
    single = ("--point", "6,9,2,spleen", "--box", "4, 7, 1, 16, 20, 5, liver")
    assert run("-m", model, "-i", scan, "-o", tmp_path / "2.nii.gz", *single)[0] == 0
    first, second = (np.asarray(nib.load(tmp_path / f"{n}.nii.gz").dataobj) for n in (1, 2))
    assert np.array_equal(first, second)


def test_millimetres(run: Run, model: Path, scans: Path, tmp_path: Path) -> None:
    scan = scans / "a.nii.gz"
    points = {"voxel": "6,9,2,spleen", "ras": "-12,18,8,spleen", "lps": "12,-18,8,spleen"}
    for space, point in points.items():
        code, _, err = run(
            "-m", model, "-i", scan, "-o", tmp_path / f"{space}.nii.gz", "--point", point, "--space", space
        )
        assert code == 0, err
    masks = [np.asarray(nib.load(tmp_path / f"{space}.nii.gz").dataobj) for space in points]
    assert np.array_equal(masks[0], masks[1])
    assert np.array_equal(masks[0], masks[2])


def test_a_click_beside_and_propagation(run: Run, model: Path, scans: Path, tmp_path: Path) -> None:
    scan = scans / "a.nii.gz"
    start = ("-m", model, "-i", scan, "--point", "6,9,2,spleen")
    assert run(*start, "-o", tmp_path / "1.nii.gz")[0] == 0
    assert run(*start, "-o", tmp_path / "2.nii.gz", "--beside", "15,20,2,spleen")[0] == 0
    assert run(*start, "-o", tmp_path / "3.nii.gz", "--propagate", "spleen")[0] == 0
    one, beside, carried = (np.asarray(nib.load(tmp_path / f"{n}.nii.gz").dataobj) for n in (1, 2, 3))
    assert not np.array_equal(one, beside)
    assert np.array_equal(one[:, :, 2], carried[:, :, 2])
    assert (carried > 0).any((0, 1)).sum() > 1


def test_the_cache_is_used(
    run: Run, model: Path, scans: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from voxelsam.model import Segmenter

    start = ("-m", model, "-i", scans / "a.nii.gz", "-p", prompts, "--cache", tmp_path / "cache")
    assert run(*start, "-o", tmp_path / "1.nii.gz")[0] == 0
    monkeypatch.setattr(Segmenter, "encode", None)
    assert run(*start, "-o", tmp_path / "2.nii.gz")[0] == 0
    assert (tmp_path / "1.nii.gz").read_bytes() == (tmp_path / "2.nii.gz").read_bytes()


def test_a_dry_run_writes_nothing(run: Run, model: Path, scans: Path, prompts: Path, tmp_path: Path) -> None:
    code, out, _ = run(
        "-m", model, "-i", scans / "a.nii.gz", "-o", tmp_path / "m", "-p", prompts, "--dry-run", "--json"
    )
    assert code == 0
    assert [case["status"] for case in json.loads(out)] == ["planned"]
    assert not (tmp_path / "m").exists()


def test_a_dry_run_finds_prompts_that_do_not_fit(run: Run, model: Path, scans: Path, tmp_path: Path) -> None:
    code, out, _ = run(
        "-m", model, "-i", scans / "a.nii.gz", "-o", tmp_path / "m", "--point", "50,9,2,spleen", "--dry-run"
    )
    assert code == 2
    assert "50" in out
    assert not (tmp_path / "m").exists()


def test_masks_of_other_prompts_are_not_mixed(run: Run, model: Path, scans: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(scans, tmp_path / "in"))
    (folder / "b.nii.gz").unlink()
    start = ("-m", model, "-i", folder, "-o", tmp_path / "m", "--continue")
    assert run(*start, "--point", "6,9,2,spleen")[0] == 0
    code, out, _ = run(*start, "--point", "6,9,2,spleen")
    assert code == 0
    assert "kept" in out
    code, _, err = run(*start, "--point", "6,9,3,spleen")
    assert code == 2
    assert "another model or setting" in err


WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "no prompt": ((), "no prompt"),
    "too few numbers": (("--point", "1,2,spleen"), "x,y,z[,label]"),
    "no numbers": (("--box", "1,2,3,spleen"), "x0,y0,z0,x1,y1,z1"),
    "not finite": (("--point", "nan,2,3,spleen"), "x,y,z[,label]"),
    "no structure": (("--point", "1,2,3"), "which structure"),
    "an unknown structure": (("--point", "1,2,3,tail"), "'tail'"),
    "propagation of what is unknown": (("--point", "1,2,3,spleen", "--propagate", "tail"), "tail"),
    "outside of the scan": (("--point", "1,2,30,spleen"), "30"),
    "an inverted box": (("--box", "9,9,3,4,4,1,spleen"), "9"),
    "no such file": (("-p", "{tmp}/nowhere.json"), "nowhere.json"),
    "no JSON": (("-p", "{scans}/a.nii.gz"), "a.nii.gz"),
    "an unknown space": (("--point", "1,2,3,spleen", "--space", "mm"), "mm"),
    "no scan": (("-i", "{tmp}/nowhere", "--point", "1,2,3,spleen"), "nowhere"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_one_message_exit_code_2_and_nothing_written(
    run: Run, model: Path, scans: Path, tmp_path: Path, name: str
) -> None:
    arguments, complaint = WRONG[name]
    places = {"tmp": tmp_path, "scans": scans}
    code, out, err = run(
        "-m", model, "-i", scans / "a.nii.gz", "-o", tmp_path / "m", *(text.format(**places) for text in arguments)
    )
    assert code == 2
    assert complaint in out + err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_single_prompts_are_for_one_scan(run: Run, model: Path, scans: Path, tmp_path: Path) -> None:
    code, _, err = run("-m", model, "-i", scans, "-o", tmp_path / "m", "--point", "6,9,2,spleen")
    assert code == 2
    assert "for one scan" in err
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("learns", "options", "complaint"),
    [
        ({"kinds": ()}, (), "trained without prompts"),
        ({"free": False}, ("--base", "free"), "prompts only"),
    ],
)
def test_a_model_that_cannot_is_refused(
    run: Run,
    learnt: Callable[..., Bundle],
    scans: Path,
    tmp_path: Path,
    learns: dict[str, object],
    options: tuple[str, ...],
    complaint: str,
) -> None:
    learnt(**learns).save(tmp_path / "model")
    for more in ((), ("--dry-run",)):
        code, _, err = run(
            "-m", tmp_path / "model", "-i", scans, "-o", tmp_path / "m", "--point", "6,9,2,spleen", *options, *more
        )
        assert code == 2
        assert complaint in err
        assert not (tmp_path / "m").exists()


def test_predict_refuses_a_model_that_needs_prompts(
    run: Run,
    learnt: Callable[..., Bundle],
    scans: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    learnt(free=False).save(tmp_path / "model")
    words = ["voxelsam", "predict", "-m", tmp_path / "model", "-i", scans, "-o", tmp_path / "m"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with pytest.raises(SystemExit) as stop:
        command.main()
    assert stop.value.code == 2
    assert "voxelsam prompt" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_a_cohort_goes_by_names_and_one_case_stops_no_other(run: Run, model: Path, scans: Path, tmp_path: Path) -> None:
    grids = {name: formats.read(scans / f"{name}.nii.gz").grid for name in "ab"}
    file.write_cohort(tmp_path / "p.json", {"b": (PROMPTS, "b.nii.gz", grids["b"])})
    start = ("-m", model, "-p", tmp_path / "p.json", "--json")
    code, out, _ = run(*start, "-i", scans, "-o", tmp_path / "m")
    outcomes = {case["id"]: case for case in json.loads(out)}
    assert code == 1
    assert outcomes["b"]["status"] == "done"
    assert (outcomes["a"]["status"], outcomes["a"]["code"]) == ("failed", "PRM-08")
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["b.nii.gz", "run.json"]
    code, _, _ = run(*start, "-i", scans / "b.nii.gz", "-o", tmp_path / "b.nii.gz")
    assert code == 0
    assert (tmp_path / "b.nii.gz").read_bytes() == (tmp_path / "m" / "b.nii.gz").read_bytes()


def test_a_file_of_one_scan_is_not_for_several(
    run: Run, model: Path, scans: Path, prompts: Path, tmp_path: Path
) -> None:
    code, _, err = run("-m", model, "-i", scans, "-o", tmp_path / "m", "-p", prompts)
    assert code == 2
    assert "several cases" in err
    assert not (tmp_path / "m").exists()


def test_a_file_for_another_scan_is_refused(run: Run, model: Path, scans: Path, prompts: Path, tmp_path: Path) -> None:
    code, out, _ = run("-m", model, "-i", scans / "b.nii.gz", "-o", tmp_path / "m", "-p", prompts)
    assert code == 2
    assert "another scan" in out
    assert not (tmp_path / "m").exists()
