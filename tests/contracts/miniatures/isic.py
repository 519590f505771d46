"""ISIC 2016 with three pictures to train on and one to test on."""

from pathlib import Path

import numpy as np
from PIL import Image

FILES = {"Training": ("ISIC_0000000", "ISIC_0000001", "ISIC_0000002"), "Test": ("ISIC_0000003",)}


def make(root: Path) -> None:
    for part, names in FILES.items():
        images, masks = (root / f"ISBI2016_ISIC_Part1_{part}_{what}" for what in ("Data", "GroundTruth"))
        images.mkdir()
        masks.mkdir()
        for number, name in enumerate(names):
            random = np.random.default_rng([number, len(part)])
            Image.fromarray(random.integers(0, 256, (14, 18, 3), np.uint8)).save(images / f"{name}.jpg")
            drawn = np.zeros((14, 18), np.uint8)
            drawn[3:9, 4 + number : 12] = 255
            Image.fromarray(drawn).save(masks / f"{name}_Segmentation.png")
