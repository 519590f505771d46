"""A CT set with liver and spleen, another with a tumour in the liver, and a YAML file that joins them."""

import json
from pathlib import Path

import numpy as np

from voxelsam.formats import write_labels, write_volume
from voxelsam.space.grid import Grid
from voxelsam.volumes import LabelMap, Labels, Volume

SETS = {"Abdomen": {"background": 0, "liver": 6, "spleen": 1}, "Tumours": {"background": 0, "liver": 1, "tumour": 2}}
TEXT = """
name: Both
labels: {background: 0, liver: 1, spleen: 2}
sets:
  - {root: Abdomen, layout: nnunet}
  - {root: Tumours, name: LiTS, labels: {liver: liver, tumour: liver}}
"""


def make(root: Path) -> Path:
    for name, table in SETS.items():
        write_set(root / name, table)
    (root / "both.yaml").write_text(TEXT)
    return root / "both.yaml"


def write_set(root: Path, table: dict[str, int], names: tuple[str, ...] = ("a", "b")) -> None:
    """An nnU-Net folder, one fold."""
    for part in ("imagesTr", "labelsTr"):
        (root / part).mkdir(parents=True)
    labels = Labels.from_json(table)
    for number, name in enumerate(names):
        grid = Grid((5, 6, 3 + number), np.diag([-1.0, 1.5, 2.0, 1.0]))
        random = np.random.default_rng([number, *root.name.encode()])
        data = random.integers(-99, 99, (1, *grid.shape), np.int16)
        values = random.choice(list(labels.values.values()), grid.shape).astype(np.uint8)
        write_volume(root / "imagesTr" / f"{name}_0000.nii.gz", Volume(data, grid))
        write_labels(root / "labelsTr" / f"{name}.nii.gz", LabelMap(values, grid, labels))
    said = {"channel_names": {"0": "CT"}, "labels": table, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(said))
    (root / "splits_final.json").write_text(json.dumps([{"train": names[:1], "val": names[1:]}]))
