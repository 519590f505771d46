"""A run that was killed anywhere goes on to the weights and the history of one that was not, to the last bit."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from voxelsam import bundle
from voxelsam.data.loader import Order, Shares
from voxelsam.errors import TrainingError
from voxelsam.train import state

POINTS = (
    "in an epoch",
    "in validation",
    "before a state inside of an epoch",
    "before the state is in its place",
    "before the history is in its place",
    "between the renames of a bundle",
    "while a bundle is written",
)

RECIPE = {
    "stack": {"size": [32, 32], "depth": 3},
    "adapt": {"name": "ma_sam", "rank": 4, "width": 16, "dropout": 0.2},
    "prompts": {"free": 0.5, "kinds": ["point", "cuboid", "correction"], "quality": 0.1},
    "train": {
        "epochs": 2,
        "stacks_per_epoch": 8,
        "batch": 2,
        "accumulate": 2,
        "save_every": 1,
        "ema": 0.8,
        "warmup": 2,
        "seed": 5,
        "device": "cpu",
    },
}
"""Drop-out, prompts, a running average, and steps of two batches: all that must be restored."""


@pytest.fixture(scope="module")
def killed(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of all runs, and what became of them."""
    runs = tmp_path_factory.mktemp("killed")
    script = Path(__file__).with_name("killing.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, str(script), str(phantom), str(runs), json.dumps(RECIPE)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["whole"] == 0, done.stderr
    return runs, told


def tensors(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / name / bundle.WEIGHTS)


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_a_killed_run_goes_on_to_the_same_bits(killed: tuple[Path, dict[str, Any]], point: str) -> None:
    runs, told = killed
    assert told[point]["killed"] == signal.SIGKILL
    assert told[point]["on"] == 0
    whole, folder = runs / "whole", runs / point.replace(" ", "_")
    for name in ("best", "last"):
        expected, found = tensors(whole, name), tensors(folder, name)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert (folder / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    one, other = (torch.load(path / "state.ckpt", weights_only=True) for path in (whole, folder))
    assert torch.equal(one["random"][0][0], other["random"][0][0])
    assert not [path.name for path in folder.iterdir() if path.name.startswith((".best", ".last", ".metrics"))]


@pytest.mark.slow
def test_the_old_bundle_was_there_all_the_time(killed: tuple[Path, dict[str, Any]]) -> None:
    left = killed[1]["between the renames of a bundle"]["left"]
    assert "last" not in left
    assert [name for name in left if name.startswith(".last.") and name.endswith(".old")]
    assert "last" in killed[1]["in an epoch"]["left"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "begun"),
    [
        ("in an epoch", "1 2"),
        ("in validation", "0 2"),
        ("before a state inside of an epoch", "0 0"),
        ("before the state is in its place", "0 2"),
    ],
)
def test_it_goes_on_from_the_last_state_and_not_from_the_last_epoch(
    killed: tuple[Path, dict[str, Any]], point: str, begun: str
) -> None:
    """Equal weights alone could also come of repeating whole epochs."""
    assert (killed[0] / point.replace(" ", "_") / "begun").read_text() == begun


def items(shares: Shares) -> list[list[tuple[int, int]]]:
    return list(shares)


def test_an_order_goes_on_where_it_stopped() -> None:
    whole, rest = (Shares(Order(11, seed=3), 2) for _ in range(2))
    whole.go_on(4, 0)
    rest.go_on(4, 2)
    expected = items(whole)
    assert items(rest) == expected[2:]
    assert items(rest) == expected  # only the first iteration is shorter
    assert len(rest) == len(whole) == 6


def test_a_state_that_is_cut_off_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.ckpt"
    path.write_bytes(b"PK\x03\x04 half")
    with pytest.raises(TrainingError, match=r"state\.ckpt cannot be read"):
        state.point(path)


class TestBundlesThatWereCutOff:
    def test_the_old_one_is_put_back_and_half_a_new_one_goes(self, trained: Path, tmp_path: Path) -> None:
        import shutil

        shutil.copytree(trained / "best", tmp_path / ".best.0123abcd.old")
        (tmp_path / ".best.0123abcd").mkdir()
        bundle.mend(tmp_path / "best")
        assert [path.name for path in tmp_path.iterdir()] == ["best"]
        assert bundle.load(tmp_path / "best").tensors

    def test_one_that_is_there_stays_and_the_rest_goes(self, trained: Path, tmp_path: Path) -> None:
        import shutil

        shutil.copytree(trained / "best", tmp_path / "best")
        for name in (".best.0123abcd.old", ".best.89abcdef", ".best.mine", ".bestiary"):
            (tmp_path / name).mkdir()
        bundle.load(tmp_path / "best").save(tmp_path / "best")
        assert sorted(path.name for path in tmp_path.iterdir()) == [".best.mine", ".bestiary", "best"]
