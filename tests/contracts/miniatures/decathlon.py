"""Three scans, listed in dataset.json."""

import json
import runpy
from pathlib import Path

SCANS = runpy.run_path(str(Path(__file__).with_name("_scans.py")))
NAMES = ("case_a", "case_b", "case_c")


def make(root: Path) -> None:
    for number, name in enumerate(NAMES):
        SCANS["write_scan"](root / "imagesTr" / f"{name}.nii.gz", number)
        SCANS["write_mask"](root / "labelsTr" / f"{name}.nii.gz", number, (0, 1, 4))
    listed = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in NAMES]
    labels = {"0": "background", "1": "first", "4": "second"}
    table = {"modality": {"0": "CT"}, "labels": labels, "training": listed, "test": []}
    (root / "dataset.json").write_text(json.dumps(table))
