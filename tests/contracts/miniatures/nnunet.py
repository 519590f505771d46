"""Three scans of two channels, one fold."""

import json
import runpy
from pathlib import Path

SCANS = runpy.run_path(str(Path(__file__).with_name("_scans.py")))
NAMES = ("case_a", "case_b", "case_c")
LABELS = {"background": 0, "first": 1, "second": 4}


def make(root: Path) -> None:
    for number, name in enumerate(NAMES):
        SCANS["write_scan"](root / "imagesTr" / f"{name}_0000.nii.gz", number)
        SCANS["write_scan"](root / "imagesTr" / f"{name}_0001.nii.gz", number)
        SCANS["write_mask"](root / "labelsTr" / f"{name}.nii.gz", number, (0, 1, 4))
    table = {"channel_names": {"0": "T1", "1": "T2"}, "labels": LABELS, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(table))
    (root / "splits_final.json").write_text(json.dumps([{"train": NAMES[:2], "val": NAMES[2:]}]))
