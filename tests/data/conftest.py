"""A small data set of colour pictures."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from voxelsam.layouts import Dataset, open_dataset

Pictures = Callable[..., Dataset]


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    """Makes a data set of four pictures, 70 pixels wide and 50 high, with two numbered squares each."""

    def make(dtype: type = np.uint8, size: tuple[int, int] = (50, 70), instances: bool = True) -> Dataset:
        root = tmp_path / "set"
        for folder in ("imagesTr", "labelsTr", *(["instancesTr"] if instances else [])):
            (root / folder).mkdir(parents=True)
        random = np.random.default_rng(3)
        for name in "abcd":
            objects = np.zeros(size, np.uint16)
            objects[5:15, 10:22], objects[20:40, 40:50] = 1, 300
            colours = () if dtype is np.uint16 else (3,)
            noise = random.integers(0, np.iinfo(dtype).max, (*size, *colours), endpoint=True).astype(dtype)
            Image.fromarray(noise).save(root / "imagesTr" / f"{name}_0000.png")
            Image.fromarray((objects > 0).astype(np.uint8)).save(root / "labelsTr" / f"{name}.png")
            if instances:
                Image.fromarray(objects).save(root / "instancesTr" / f"{name}.png")
        channels = ["grey"] if dtype is np.uint16 else ["R", "G", "B"]
        table = {
            "channel_names": {str(number): name for number, name in enumerate(channels)},
            "labels": {"background": 0, "square": 1},
            "file_ending": ".png",
        }
        (root / "dataset.json").write_text(json.dumps(table))
        return open_dataset(root)

    return make
