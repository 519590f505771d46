"""A model trained with prompts follows them: it segments the object that was clicked, and no other one like it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import voxelsam
from voxelsam.infer.predictor import Predictor
from voxelsam.train.run import train

SIZE = 48
"""Pixels of each side."""

DISKS = ((12, 14), (36, 10), (30, 36))
"""Column and row of three equal disks on the picture that is asked about."""


def picture(rng: np.random.Generator, centres: list[tuple[int, int]], radius: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Bright disks on a dark ground, and their numbers."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    numbers = np.zeros((SIZE, SIZE), np.uint8)
    for number, (column, row) in enumerate(centres, 1):
        numbers[(rows - row) ** 2 + (columns - column) ** 2 <= radius**2] = number
    grey = np.where(numbers > 0, 170, 60) + rng.normal(0, 12, numbers.shape)
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2), numbers


def apart(rng: np.random.Generator) -> list[tuple[int, int]]:
    """Three places whose disks do not touch."""
    found: list[tuple[int, int]] = []
    while len(found) < 3:
        place = (int(rng.integers(7, SIZE - 7)), int(rng.integers(7, SIZE - 7)))
        if all(np.hypot(place[0] - x, place[1] - y) > 15 for x, y in found):
            found.append(place)
    return found


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """Trained for a minute on pictures of three disks, one of which is asked for."""
    root = tmp_path_factory.mktemp("disks")
    rng = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr", "instancesTr"):
        (root / folder).mkdir()
    cases = [f"disks_{number:02}" for number in range(26)]
    for case in cases:
        grey, numbers = picture(rng, apart(rng))
        Image.fromarray(grey).save(root / "imagesTr" / f"{case}_0000.png")
        Image.fromarray((numbers > 0).astype(np.uint8)).save(root / "labelsTr" / f"{case}.png")
        Image.fromarray(numbers).save(root / "instancesTr" / f"{case}.png")
    description = {"channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": {"background": 0, "disk": 1}}
    (root / "dataset.json").write_text(json.dumps(description | {"numTraining": 26, "file_ending": ".png"}))
    (root / "splits.json").write_text(json.dumps([{"train": cases[:24], "val": cases[24:]}]))
    settings = {
        "stack": {"size": [SIZE, SIZE]},
        "prompts": {"free": 0.0, "kinds": ["point", "box"], "per": "instance", "objects": 3, "points": 1},
        "train": {"epochs": 32, "batch": 6, "validate_every": 32, "warmup": 10, "device": "cpu"},
    }
    return voxelsam.load(train(root, root / "run", settings=settings))


@pytest.fixture(scope="module")
def asked() -> tuple[np.ndarray, np.ndarray]:
    return picture(np.random.default_rng(5), list(DISKS))


def answer(predictor: Predictor, folder: Path, grey: np.ndarray, at: tuple[int, int]) -> np.ndarray:
    Image.fromarray(grey).save(folder / "asked.png")
    session = predictor.open(folder / "asked.png")
    session.add_point_interaction((at[0], at[1], 0), "disk")
    return session.result().labels.data[:, :, 0].T > 0


@pytest.mark.slow
def test_the_mask_is_the_object_that_was_clicked(
    predictor: Predictor, asked: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    grey, numbers = asked
    for number, place in enumerate(DISKS, 1):
        mask = answer(predictor, tmp_path, grey, place)
        wanted = numbers == number
        assert 2 * (mask & wanted).sum() / (mask.sum() + wanted.sum()) > 0.6, place
        others = (numbers > 0) & ~wanted
        assert (mask & others).sum() < 0.2 * others.sum(), place


@pytest.mark.slow
def test_a_transposed_click_would_be_noticed(
    predictor: Predictor, asked: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    grey, numbers = asked
    column, row = DISKS[1]
    mask = answer(predictor, tmp_path, grey, (row, column))  # (10, 36) lies on none of the disks
    assert (mask & (numbers == 2)).sum() < 0.2 * (numbers == 2).sum()


@pytest.mark.slow
def test_boxes_choose_an_object_too(predictor: Predictor, asked: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    grey, numbers = asked
    Image.fromarray(grey).save(tmp_path / "asked.png")
    session = predictor.open(tmp_path / "asked.png")
    for number, (column, row) in enumerate(DISKS, 1):
        session.reset_interactions()
        session.add_bbox_interaction((column - 6, row - 6, 0), (column + 7, row + 7, 1), "disk")
        mask = session.result().labels.data[:, :, 0].T > 0
        wanted = numbers == number
        assert 2 * (mask & wanted).sum() / (mask.sum() + wanted.sum()) > 0.8
