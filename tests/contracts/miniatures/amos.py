import json
import runpy
from pathlib import Path

SCANS = runpy.run_path(str(Path(__file__).with_name("_scans.py")))


def make(root: Path) -> None:
    for part, numbers in {"Tr": (1, 4, 507), "Va": (8, 508), "Ts": (2,)}.items():
        for number in numbers:
            SCANS["write_scan"](root / f"images{part}" / f"amos_{number:04}.nii.gz", number)
            if part != "Ts":
                SCANS["write_mask"](root / f"labels{part}" / f"amos_{number:04}.nii.gz", number, tuple(range(16)))
    entries = [
        {"image": f"./images{part}/amos_{n:04}.nii.gz", "label": f"./labels{part}/amos_{n:04}.nii.gz"}
        for part, numbers in {"Tr": (1, 4, 507), "Va": (8, 508)}.items()
        for n in numbers
    ]
    table = {
        "name": "AMOS",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "spleen"},
        "training": entries[:3],
        "validation": entries[3:],
        "test": [{"image": "./imagesTs/amos_0002.nii.gz"}],
    }
    (root / "dataset.json").write_text(json.dumps(table))
