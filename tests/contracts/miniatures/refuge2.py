"""Three photographs to train on, one to validate on, one to test on; masks as BMP and as PNG."""

from pathlib import Path

import numpy as np
from PIL import Image

FILES = {"train": ("g0001", "n0001", "n0002"), "val": ("V0001",), "test": ("T0001",)}


def make(root: Path) -> None:
    for side, names in FILES.items():
        (root / side / "images").mkdir(parents=True)
        (root / side / "mask").mkdir()
        for number, name in enumerate(names):
            random = np.random.default_rng([number, len(side)])
            photograph = random.integers(0, 256, (20, 24, 3), np.uint8)
            Image.fromarray(photograph).save(root / side / "images" / f"{name}.jpg")
            drawn = np.full((20, 24), 255, np.uint8)
            drawn[4:16, 6 + number : 18], drawn[8:12, 10:14] = 128, 0
            Image.fromarray(drawn).save(root / side / "mask" / f"{name}.{'bmp' if side == 'train' else 'png'}")
