"""Training in two processes as a whole: the same weights, one who writes, a lost process, and going on with fewer."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from voxelsam import bundle
from voxelsam.errors import ConfigError
from voxelsam.train import history
from voxelsam.train.run import train

pytestmark = pytest.mark.slow

RECIPE: dict[str, Any] = {
    "stack": {"size": [32, 32], "depth": 3},
    "adapt": {"name": "ma_sam", "rank": 4, "width": 16, "dropout": 0.0},
    "prompts": {"free": 0.5, "kinds": ["point", "box", "cuboid", "mask", "correction"], "quality": 0.5},
    "train": {
        "epochs": 2,
        "stacks_per_epoch": 9,
        "batch": 4,
        "save_every": 1,
        "optimiser": "sgd",
        "lr": 0.05,
        "warmup": 1,
        "seed": 5,
        "device": "cpu",
        "devices": 2,
    },
}
"""Nine stacks in batches of four: the last batch has one stack, so that one process has none. Plain descent, because
Adam makes a large step of a gradient that is only rounding."""

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def lone(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in one process."""
    folder = tmp_path_factory.mktemp("lone") / "run"
    train(phantom, folder, settings=RECIPE | {"train": RECIPE["train"] | {"devices": 1}})
    return folder


def same(folder: Path, expected: Path) -> None:
    """Whether two runs have the same weights and the same history, but for the rounding of sums."""
    for name in ("best", "last"):
        one, other = (load_file(path / name / bundle.WEIGHTS) for path in (folder, expected))
        assert one.keys() == other.keys()
        for key, tensor in other.items():
            assert torch.allclose(one[key], tensor, rtol=1e-5, atol=1e-6), (name, key)
    rows, wanted = (history.read(path / "metrics.csv") for path in (folder, expected))
    assert [row.keys() for row in rows] == [row.keys() for row in wanted]
    for row, other in zip(rows, wanted, strict=True):
        assert row == pytest.approx(other, rel=2e-4)
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)


def test_torchrun_trains_to_the_weights_of_one_process(phantom: Path, lone: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--log-dir", str(tmp_path / "log"), "-m", "voxelsam"]
    done = subprocess.run(
        [*command, "train", str(phantom), "-o", str(tmp_path / "run"), "--config", str(tmp_path / "recipe.yaml")],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best bundle:") == 1
    assert done.stdout.count("epoch 1/2") == 1
    assert "Traceback" not in done.stderr
    same(tmp_path / "run", lone)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [run["status"] for run in record["runs"]] == ["done"]
    moved = torch.load(lone / "state.ckpt", weights_only=True)["state_dict"]
    still = {
        key: tensor for key, tensor in moved.items() if key.endswith("decoder.iou_prediction_head.layers.0.weight")
    }
    assert all(tensor.abs().max() > 0 for tensor in still.values())


def test_so_does_a_script_with_the_encoder_divided(phantom: Path, lone: Path, tmp_path: Path) -> None:
    best = train(phantom, tmp_path / "run", settings=RECIPE | {"train": RECIPE["train"] | {"shard": True}})
    assert best == tmp_path / "run" / "best"
    same(tmp_path / "run", lone)


def test_a_lost_process_ends_the_run_and_it_goes_on_with_one(phantom: Path, lone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    script = Path(__file__).with_name("losing.py")
    done = subprocess.run(
        [sys.executable, str(script), str(phantom), str(folder), json.dumps(RECIPE)],
        capture_output=True,
        text=True,
        check=True,
        env=ENVIRONMENT | {"PYTHONWARNINGS": "ignore"},
    )
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["message"].startswith("process 1 of 2 was killed (SIGKILL); the others were ended.")
    assert "--continue" in said["message"]
    assert said["facts"] == {"process": 1, "exit": -9}
    assert "Traceback" not in done.stderr
    assert len(history.read(folder / "metrics.csv")) == 1
    train(phantom, folder, settings={"train": {"devices": 1}}, resume=True)
    same(folder, lone)


def test_a_mistake_is_said_once_and_by_its_own_error(phantom: Path, tmp_path: Path) -> None:
    wrong = RECIPE | {"train": RECIPE["train"] | {"epochs": 0}}
    with pytest.raises(ConfigError, match="epochs must be at least 1"):
        train(phantom, tmp_path / "run", settings=wrong)
    assert not (tmp_path / "run").exists()
