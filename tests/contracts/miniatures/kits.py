import runpy
from pathlib import Path

SCANS = runpy.run_path(str(Path(__file__).with_name("_scans.py")))


def make(root: Path) -> None:
    for number in (0, 1, 400):
        case = root / "dataset" / f"case_{number:05}"
        SCANS["write_scan"](case / "imaging.nii.gz", number)
        SCANS["write_mask"](case / "segmentation.nii.gz", number, (0, 1, 2, 3))
        (case / "instances").mkdir()
