"""``voxelsam fix``: what it parses, prints and returns."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from voxelsam.cli.fix import fix
from voxelsam.errors import VoxelSamError

pytestmark = pytest.mark.filterwarnings("ignore::voxelsam.errors.InputWarning")

SHEARED = np.array([[1.0, 0, 0, 5], [0, 1, 0.5, 6], [0, 0, 2, 7], [0, 0, 0, 1]])


def call(*arguments: object) -> tuple[int, str]:
    """Exit code and standard output; an error of ours is code 2 and its message."""
    app = typer.Typer()
    app.command()(fix)
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if isinstance(result.exception, VoxelSamError):
        return 2, str(result.exception)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def save(path: Path, data: np.ndarray, affine: np.ndarray = SHEARED) -> Path:
    image = nib.Nifti1Image(data, affine, dtype=data.dtype)
    image.set_sform(affine, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return save(tmp_path / "scan.nii.gz", np.random.default_rng(0).integers(0, 99, (6, 7, 8)).astype(np.int16))


def test_a_repair_says_what_it_did(scan: Path, tmp_path: Path) -> None:
    code, text = call(scan, "-o", tmp_path / "out.nii.gz", "--fix", "geo-03")
    assert code == 0
    assert "GEO-03  scan.nii.gz: axes turned" in text
    assert "displacement_mm" in text
    assert "files: 1 fixed" in text
    assert (tmp_path / "out.nii.gz").is_file()


def test_what_is_left_is_told_with_its_code(scan: Path, tmp_path: Path) -> None:
    code, text = call(scan, "-o", tmp_path / "out.nii.gz")
    assert code == 0
    assert "left GEO-03" in text
    assert "files: 1 copied" in text


def test_json_is_the_log(scan: Path, tmp_path: Path) -> None:
    code, text = call(scan, "-o", tmp_path / "out.nii.gz", "--resample", "--json")
    assert code == 0
    log = json.loads((tmp_path / "out.fixes.json").read_text())
    assert json.loads(text) == log["files"]


def test_a_dry_run_writes_nothing(scan: Path, tmp_path: Path) -> None:
    code, text = call(scan, "-o", tmp_path / "out.nii.gz", "--resample", "--dry-run")
    assert code == 0
    assert "1 would be fixed" in text
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii.gz"]


def test_values_axes_and_spacing_are_parsed(tmp_path: Path) -> None:
    label = save(tmp_path / "label.nii.gz", np.array([0, 1, 255], np.uint8).reshape(1, 1, 3))
    options = ("--label", "--relabel", "255=2", "--relabel", "1=5", "--axes", "pir", "--spacing", 0.5, 0.6, 3)
    code, _ = call(label, "-o", tmp_path / "out.nii.gz", *options)
    assert code == 0
    image = nib.load(tmp_path / "out.nii.gz")
    assert np.asarray(image.dataobj).ravel().tolist() == [0, 5, 2]
    assert nib.aff2axcodes(image.affine) == ("P", "I", "R")
    np.testing.assert_allclose(image.header.get_zooms(), (0.5, 0.6, 3), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--relabel", "255"), "old=new"),
        (("--relabel", "a=1"), "old=new"),
        (("--relabel", "1.5=1"), "old=new"),
        (("--relabel", "1=2", "--relabel", "1=3"), "two new values"),
        (("--split", "--grey"), "one of the two"),
        (("--fix", "SET-03"), "no repair for SET-03"),
        (("--axes", "up"), "axis string"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    scan: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    code, text = call(scan, "-o", tmp_path / "out.nii.gz", *options)
    assert code == 2
    assert message in text
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii.gz"]


def test_in_place_is_refused(scan: Path) -> None:
    before = scan.read_bytes()
    code, text = call(scan, "-o", scan, "--fix", "GEO-03")
    assert code == 2
    assert "exists already" in text
    assert scan.read_bytes() == before


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for number in range(3):
        save(root / "images" / f"{number}.nii.gz", np.random.default_rng(number).normal(size=(5, 6, 7)))
        save(root / "labels" / f"{number}.nii.gz", np.eye(7, dtype=np.uint8)[:5, :6, None].repeat(7, 2))
    return root


def test_a_data_set_is_repaired(pairs: Path, tmp_path: Path) -> None:
    code, text = call(pairs, "-o", tmp_path / "out", "--resample", "--json")
    assert code == 0
    assert sorted(entry["status"] for entry in json.loads(text)) == ["fixed"] * 6
    assert len(json.loads((tmp_path / "out" / "fixes.json").read_text())["files"]) == 6
    (run,) = json.loads((tmp_path / "out" / "run.json").read_text())["runs"]
    assert (run["command"], run["status"], run["files"]["fixed"]) == ("fix", "done", 6)
    assert str(tmp_path) not in json.dumps(run)


def test_an_unusable_file_is_exit_code_2(pairs: Path, tmp_path: Path) -> None:
    lost = pairs / "images" / "1.nii.gz"
    lost.write_bytes(lost.read_bytes()[:100])
    code, text = call(pairs, "-o", tmp_path / "out")
    assert code == 2
    assert "left SET-03" in text
    assert "1 failed" in text
    assert (tmp_path / "out" / "images" / "2.nii.gz").is_file()


def test_options_of_a_single_file_are_refused_for_a_data_set(pairs: Path, tmp_path: Path) -> None:
    code, text = call(pairs, "-o", tmp_path / "out", "--label")
    assert code == 2
    assert "single file" in text
    code, text = call(tmp_path / "nowhere", "-o", tmp_path / "out")
    assert code == 2
    assert "no such" in text
