import runpy
from pathlib import Path

SCANS = runpy.run_path(str(Path(__file__).with_name("_scans.py")))


def make(root: Path) -> None:
    for number in range(4):
        part = "TrainingData" if number < 3 else "ValidationData"
        case = root / f"RSNA_ASNR_MICCAI_BraTS2021_{part}" / f"BraTS2021_{number:05}"
        for suffix in ("flair", "t1", "t1ce", "t2"):
            SCANS["write_scan"](case / f"{case.name}_{suffix}.nii.gz", number)
        if part == "TrainingData":
            SCANS["write_mask"](case / f"{case.name}_seg.nii.gz", number, (0, 1, 2, 4))
