"""Fixtures for every test."""

import os
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from voxelsam.bundle import Bundle

REPOSITORY = Path(__file__).resolve().parents[1]


def shared_folder() -> Path:
    """Where the shared data lies, whether it is there or not."""
    return (REPOSITORY / os.environ.get("VOXELSAM_SHARED", "../shared")).resolve()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared data; without it the test is skipped, in CI it fails."""
    folder = shared_folder()
    if (folder / "data").is_dir():
        return folder
    reason = f"the shared data is not at {folder} (set VOXELSAM_SHARED)"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small phantom CT data set in nnU-Net layout: three cases with folds of one each, and one test case."""
    from voxelsam.data.phantom import make

    folder = tmp_path_factory.mktemp("phantom")
    return make(folder, cases=3, test_cases=1, folds=3, shape=(40, 36, 9), spacing=(3.8, 3.8, 12.0))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in process; gives exit code, standard output and standard error, which never has a traceback."""
    from voxelsam.cli import app as command

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["voxelsam", *map(str, arguments)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        code = 0
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("default")
                command.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        written = capsys.readouterr()
        assert "Traceback" not in written.err
        return code, written.out, written.err

    return call


SMALL = {
    "stack": {"size": [32, 32], "depth": 3},
    "adapt": {"name": "ma_sam", "rank": 4, "width": 16},
    "train": {"epochs": 2, "stacks_per_epoch": 6, "warmup": 2, "seed": 5, "device": "cpu"},
}
"""A recipe that trains in seconds."""


@pytest.fixture(scope="session")
def small() -> dict[str, dict[str, object]]:
    """Settings of a recipe that trains in seconds."""
    return {name: dict(section) for name, section in SMALL.items()}


@pytest.fixture(scope="session")
def trained(phantom: Path, small: dict[str, dict[str, object]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run on the phantom."""
    from voxelsam.train.run import train

    folder = tmp_path_factory.mktemp("runs") / "run"
    train(phantom, folder, settings=small)
    return folder


@pytest.fixture(scope="session")
def learnt() -> "Callable[..., Bundle]":
    """Makes bundles that say which prompts they learnt; their networks are random, so they answer without sense."""
    import torch

    from voxelsam import adapt, backbones, bundle
    from voxelsam.model import Segmenter
    from voxelsam.stacks.intensity import Intensity
    from voxelsam.stacks.plan import StackPlan

    options = {"rank": 4, "width": 16, "init": "official"}
    four = {"background": 0, "spleen": 1, "kidney": 2, "liver": 4, "aorta": 7}
    backbone, report = backbones.obtain("sam-tiny", None, (32, 32))

    @cache
    def segmenter(classes: int) -> Segmenter:
        torch.manual_seed(2)
        return Segmenter(backbone, adapt.build("ma_sam", options, backbone, classes))

    def make(
        kinds: tuple[str, ...] = ("point", "box", "cuboid", "mask"),
        free: bool = True,
        quality: bool = True,
        labels: dict[str, int] = four,
    ) -> "Bundle":
        return bundle.describe(
            segmenter(len(labels)),
            labels=labels,
            channels=("CT",),
            kind="CT",
            stack=StackPlan(depth=3, size=(32, 32), plane="axial"),
            intensity=Intensity("window", low=-100, high=200),
            adapt={"name": "ma_sam", **options},
            prompts=bundle.PromptsLearnt(free, kinds, quality),
            backbone=bundle.BackboneIdentity("sam-tiny", report.sha256),
        )

    return make
