import runpy
from pathlib import Path

SCANS = runpy.run_path(str(Path(__file__).with_name("_scans.py")))
NUMBERS = {
    "RUNMC": (0, 3, 8, 12, 15, 18, 26),
    "BMC": (3, 8, 12, 15, 18, 26, 29),
    "I2CVB": (3, 8, 13, 15, 18),
    "UCL": (1, 32, 34, 36),
    "BIDMC": (0, 4, 9, 10),
    "HK": (37, 38, 41, 46),
}


def make(root: Path) -> None:
    for place, (site, numbers) in enumerate(NUMBERS.items()):
        for number in numbers:
            scan = 100 * place + number
            SCANS["write_scan"](root / site / f"Case{number:02}.nii.gz", scan)
            values = (0, 1, 2) if number % 2 else (0, 1)
            SCANS["write_mask"](root / site / f"Case{number:02}_segmentation.nii.gz", scan, values)
