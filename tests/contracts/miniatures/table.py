"""Three cases of two images each, in a CSV with a side for each."""

import runpy
from pathlib import Path

SCANS = runpy.run_path(str(Path(__file__).with_name("_scans.py")))


def make(root: Path) -> None:
    rows = ["id,image,image_2,label,split"]
    for number, name in enumerate(("case_a", "case_b", "case_c")):
        files = (f"scans/{number}_first.nii.gz", f"scans/{number}_second.nii.gz", f"truth/{number}.nii.gz")
        for file in files[:2]:
            SCANS["write_scan"](root / file, number)
        SCANS["write_mask"](root / files[2], number, (0, 1, 4))
        rows.append(",".join((name, *files, "val" if number else "train")))
    (root / "cases.csv").write_text("\n".join(rows))
