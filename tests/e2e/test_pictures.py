"""The main job on colour pictures with nested regions: folder in, masks of the same size and family out, scores."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from voxelsam.cli.app import app

QUICK = ("stack.size=[64,96]", "train.epochs=14", "train.validate_every=7", "train.device=cpu")


def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A reddish patch with a bright core, off centre, in a picture of 60 × 90 pixels; and its label."""
    random = np.random.default_rng(seed)
    top, left = random.integers(2, 20), random.integers(4, 30)
    label = np.zeros((60, 90), np.uint8)
    label[top : top + 30, left : left + 40] = 1
    label[top + 15 : top + 28, left + 3 : left + 20] = 2
    colours = np.array([[40, 60, 50], [200, 60, 50], [250, 240, 200]])[label]
    return (colours + random.normal(0, 10, colours.shape)).clip(0, 255).astype(np.uint8), label


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    for folder in ("imagesTr", "labelsTr", "new", "truth"):
        (root / folder).mkdir(parents=True)
    for number in range(12):
        picture, label = draw(number)
        images, labels = ("imagesTr", "labelsTr") if number < 8 else ("new", "truth")
        Image.fromarray(picture).save(root / images / f"p{number:02}_0000.png")
        Image.fromarray(label).save(root / labels / f"p{number:02}.png")
    table = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, "disc": [1, 2], "cup": 2},
        "regions_class_order": [1, 2],
        "file_ending": ".png",
    }
    (root / "dataset.json").write_text(json.dumps(table))
    return root


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:SET-01")  # two of the made-up masks are alike
def test_pictures_are_learnt_and_their_masks_lie_on_them(data_set: Path, tmp_path: Path) -> None:
    run("train", data_set, "-o", tmp_path / "run", *(word for setting in QUICK for word in ("--set", setting)))
    run("predict", "-m", tmp_path / "run" / "best", "-i", data_set / "new", "-o", tmp_path / "masks")
    assert sorted(path.name for path in (tmp_path / "masks").glob("*.png")) == [f"p{n:02}.png" for n in range(8, 12)]
    for path in (data_set / "new").iterdir():
        with Image.open(path) as picture, Image.open(tmp_path / "masks" / path.name.replace("_0000", "")) as mask:
            assert (mask.size, mask.mode) == (picture.size, "L")
    run("evaluate", "-i", tmp_path / "masks", "-r", data_set / "truth", "-o", tmp_path / "scores")
    mean = json.loads((tmp_path / "scores" / "summary.json").read_text())["mean"]
    assert {key: row["name"] for key, row in mean.items()} == {"1": "disc_only", "2": "cup", "(1, 2)": "disc"}
    assert mean["(1, 2)"]["Dice"] > 0.8
