import json
import runpy
from pathlib import Path

SCANS = runpy.run_path(str(Path(__file__).with_name("_scans.py")))


def make(root: Path) -> None:
    names = [f"pancreas_{number:03}.nii.gz" for number in (1, 4, 5)]
    for number, name in enumerate(names):
        SCANS["write_scan"](root / "imagesTr" / name, number)
        SCANS["write_mask"](root / "labelsTr" / name, number, (0, 1, 2))
    SCANS["write_scan"](root / "imagesTs/pancreas_002.nii.gz", 9)
    table = {
        "name": "Pancreas",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "pancreas", "2": "cancer"},
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names],
        "test": ["./imagesTs/pancreas_002.nii.gz"],
    }
    (root / "dataset.json").write_text(json.dumps(table))
