import runpy
from pathlib import Path

from voxelsam.layouts.btcv import PUBLISHED

SCANS = runpy.run_path(str(Path(__file__).with_name("_scans.py")))


def make(root: Path) -> None:
    training = root / "RawData/Training"
    for number, name in enumerate(PUBLISHED):
        SCANS["write_scan"](training / "img" / f"{name}.nii.gz", number)
        SCANS["write_mask"](training / "label" / f"{name.replace('img', 'label')}.nii.gz", number, tuple(range(14)))
    SCANS["write_scan"](root / "RawData/Testing/img/img0061.nii.gz", 61)
