"""``voxelsam doctor``, in process."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from voxelsam.cli.doctor import doctor

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    app = typer.Typer()
    app.command()(doctor)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "scan.nii.gz"
    data = np.random.default_rng(1).integers(0, 99, (9, 9, 9)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), path)
    return path


def test_clean_is_0(run: Run, scan: Path) -> None:
    result = run(scan)
    assert result.exit_code == 0
    assert "image, 1 case, 1 file: 0 errors, 0 warnings" in result.output


def test_a_warning_is_1_and_its_row_says_what_to_do(run: Run, scan: Path) -> None:
    image = nibabel.load(scan)
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), np.diag([1, 1, 9, 1.0])), scan)
    result = run(scan)
    assert result.exit_code == 1
    for text in ("GEO-07", "warning", "scan.nii.gz", "9 times as long", "slices are cut across"):
        assert text in result.output
    assert run(scan, "--ignore", "GEO-07").exit_code == 0


def test_an_error_is_2(run: Run, scan: Path) -> None:
    scan.write_text("<html>[bold]404[/bold]</html>")
    result = run(scan)
    assert result.exit_code == 2
    assert "SET-03" in result.output


def test_json_lists_every_finding(run: Run, scan: Path) -> None:
    scan.write_bytes(b"")
    result = run(scan, "--json")
    assert result.exit_code == 2
    written = json.loads(result.stdout)
    assert [(one["code"], one["severity"], one["where"]) for one in written["findings"]] == [
        ("SET-03", "error", str(scan))
    ]
    assert written["findings"][0]["fix"].startswith("fetch")


def test_findings_of_one_code_share_a_row(run: Run, tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.nii.gz").write_bytes(b"")
    result = run(tmp_path)
    assert result.output.count("SET-03") == 2
    assert "and 3 more" in result.output


def test_places_are_told_from_where_the_user_looks_and_whole(run: Run, tmp_path: Path) -> None:
    deep = tmp_path / "a" / ("long" * 30)
    deep.mkdir(parents=True)
    (deep / "scan.nii.gz").write_bytes(b"")
    result = run(tmp_path)
    assert str(tmp_path) not in result.output
    told = "".join(line.split("│")[3].strip() for line in result.output.splitlines() if line.startswith("│"))
    assert f"a/{'long' * 30}/scan.nii.gz" in told
    assert str(deep / "scan.nii.gz") in run(tmp_path, "--json").output


def test_an_unknown_code_is_an_error_of_ours(run: Run, scan: Path) -> None:
    assert "no check XYZ-01" in str(run(scan, "--ignore", "XYZ-01").exception)


def test_the_python_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import re

    page = (Path(__file__).parents[2] / "docs/how-to/check-your-data.md").read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "check-your-data.md", "exec"), {})  # noqa: S102
