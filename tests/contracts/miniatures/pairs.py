"""Three scans and masks of equal names, of different endings."""

import runpy
from pathlib import Path

SCANS = runpy.run_path(str(Path(__file__).with_name("_scans.py")))


def make(root: Path) -> None:
    for number, name in enumerate(("case_a", "case_b", "case_c")):
        SCANS["write_scan"](root / "images" / f"{name}.nii.gz", number)
        SCANS["write_mask"](root / "masks" / f"{name}.nii", number, (0, 1, 4))
