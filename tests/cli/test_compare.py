"""``voxelsam compare`` and the page of ``voxelsam evaluate``."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def models(phantom: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Predictions of the phantom's training cases: the references, and the same with one slice emptied."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    shutil.copytree(phantom / "labelsTr", good)
    bad.mkdir()
    for path in good.iterdir():
        image = nib.load(path)
        data = np.asarray(image.dataobj).copy()
        data[:, :, data.shape[2] // 2] = 0
        nib.save(nib.Nifti1Image(data, image.affine, image.header), bad / path.name)
    (good / "dataset.json").write_text("{}")  # as in nnU-Net's folder of predictions
    return good, bad


def test_models_are_compared(run: Run, phantom: Path, models: tuple[Path, Path], tmp_path: Path) -> None:
    good, bad = models
    code, out, err = run("compare", f"best={good}", bad, "-r", phantom, "-o", tmp_path / "page")
    assert code == 0
    assert "best − bad" in out
    assert "3/0/0" in out
    assert "too few for a test" in err
    assert {path.name for path in (tmp_path / "page").iterdir()} == {
        "compare.json", "compare.csv", "compare.html", "run.json",
    }  # fmt: skip
    record = (tmp_path / "page" / "run.json").read_text()
    assert str(tmp_path) not in record
    found = json.loads((tmp_path / "page" / "compare.json").read_text())
    assert found["labels"]["1"] in out
    assert all(row["mean"] >= 0 for row in found["differences"])


def test_the_comparison_as_json(run: Run, phantom: Path, models: tuple[Path, Path]) -> None:
    code, out, _ = run("compare", *models, "-r", phantom / "labelsTr", "--json", "--tie", 1)
    assert code == 0
    assert {row["ties"] for row in json.loads(out)["differences"]} <= {3}


def test_nothing_half_done_is_left(run: Run, phantom: Path, models: tuple[Path, Path], tmp_path: Path) -> None:
    good, bad = models
    next(iter(sorted(bad.iterdir()))).unlink()
    code, _, err = run("compare", good, bad, "-r", phantom, "-o", tmp_path / "page")
    assert code == 2
    assert "bad lacks" in err
    assert "--common" in err
    assert not (tmp_path / "page").exists()
    assert run("compare", good, bad, "-r", phantom, "--common", "--json")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("good",), "two models or more"),
        (("good", "good"), "is there twice"),
        (("good", "bad"), "give the references with -r"),
        (("good", "bad", "--metric", "Speed"), "no metric 'Speed'"),
        (("good", "bad", "-o", "good"), "is not empty"),
    ],
)
def test_bad_input_is_one_message(
    run: Run, models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(models[0].parent)
    code, _, err = run("compare", *arguments)
    assert code == 2
    assert words in err


def test_evaluate_writes_a_page_with_pictures(
    run: Run, phantom: Path, models: tuple[Path, Path], tmp_path: Path
) -> None:
    page = tmp_path / "deep" / "page.html"
    code, _, _ = run("evaluate", "-i", models[1], "-r", phantom, "--preset", "nnunet", "--report", page)
    assert code == 0
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 4  # box plots and three cases
    assert "among the worst" in text
    assert "No picture" not in text


@pytest.mark.parametrize("arguments", [("--report", "page.pdf"), ("--report", "p.html", "--interactive")])
def test_a_page_that_cannot_be_is_refused(
    run: Run, phantom: Path, models: tuple[Path, Path], arguments: tuple[str, ...]
) -> None:
    code, _, err = run("evaluate", "-i", models[1], "-r", phantom, *arguments)
    assert code == 2
    assert "report" in err or "interactive" in err
