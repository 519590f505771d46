"""The whole main job: train, predict unseen scans, evaluate; the masks must be good, not only there."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from voxelsam import demo
from voxelsam.cli import screen
from voxelsam.train import run

QUICK = [
    "stack.size=[64, 64]",
    "stack.depth=3",
    "train.epochs=5",
    "train.stacks_per_epoch=120",
    "train.device=cpu",
]


@pytest.mark.slow
def test_the_demo_learns_and_its_masks_lie_on_their_scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A random tiny backbone, five short epochs: well above chance is all that can be asked of it."""
    monkeypatch.setattr(
        demo, "PHANTOMS", {"cases": 5, "test_cases": 1, "shape": (40, 36, 15), "spacing": (3.8, 3.8, 8.0)}
    )
    with screen.bars() as bar:
        job = demo.prepare(None, tmp_path / "demo", QUICK, bar)
        run.fit(job)
        lines = list(demo.finish(job, tmp_path / "demo", bar))
    scores = {line.split()[1][:-1]: float(line.split()[2]) for line in lines if line.startswith("  Dice")}
    assert scores["liver"] > 0.7
    assert np.mean(list(scores.values())) > 0.3
    report = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert "random, not pretrained" in report
    assert report.count("data:image/png;base64,") >= 2
    mask = next((tmp_path / "demo" / "masks").iterdir())
    scan = next((job.dataset.root / "imagesTs").glob(f"{mask.name.removesuffix('.nii.gz')}_*"))
    assert nib.load(mask).shape == nib.load(scan).shape
    assert np.array_equal(nib.load(mask).affine, nib.load(scan).affine)
