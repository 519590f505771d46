"""Time of ``voxelsam doctor`` on a data set of 500 files.

250 images of a body with organs and noise (int16) and their label maps are written as NIfTI files in nnU-Net's layout
to a temporary folder. ``voxelsam doctor`` then runs on it in a process of its own; Python's start is counted.

    python benchmarks/doctor.py
    python benchmarks/doctor.py --shape 256 256 96 --jobs 8
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from voxelsam.formats import write_labels, write_volume
from voxelsam.space.grid import Grid
from voxelsam.volumes import LabelMap, Labels, Volume

ORGANS = Labels({"background": 0, "left": 1, "middle": 2, "right": 3})
DIFFERENT = 10
"""Scans that are made; the other cases are these with one voxel changed."""


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="doctor_", dir=options.folder) as name:
        root = Path(name)
        write(root, options.files // 2, tuple(options.shape))
        size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) / 1e6
        command = [sys.executable, "-c", "from voxelsam.cli.app import main; main()", "doctor", str(root), "--json"]
        began = time.perf_counter()
        done = subprocess.run(  # noqa: S603 - our own command
            [*command, "--jobs", str(options.jobs), *(["--quick"] if options.quick else [])],
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - began
    if done.returncode > 1:
        sys.exit(f"{done.stdout}\n{done.stderr}")
    found = json.loads(done.stdout)
    result = {
        "files": found["files"],
        "shape": options.shape,
        "megabytes": round(size),
        "findings": len(found["findings"]),
        "jobs": options.jobs or os.cpu_count(),
        "quick": options.quick,
        "seconds": round(seconds, 1),
        "machine": platform.platform(),
        "cpus": os.cpu_count(),
    }
    print(json.dumps(result, indent=1))
    if seconds >= options.limit:
        sys.exit(f"{seconds:.0f} s were needed, which is not below {options.limit:.0f} s")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=500, help="images and labels together")
    parser.add_argument("--shape", type=int, nargs=3, default=(192, 192, 48), help="voxels along i, j, k")
    parser.add_argument("--jobs", type=int, default=0, help="processes; 0 is one per CPU")
    parser.add_argument("--quick", action="store_true", help="headers only")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds that are too many")
    parser.add_argument("--folder", help="where the temporary folder is made")
    return parser.parse_args()


def write(root: Path, cases: int, shape: tuple[int, int, int]) -> None:
    """A data set; copies of a few scans differ in one voxel, so that no two cases have the same content."""
    grid = Grid(shape, np.diag([-1.5, -1.5, 3.0, 1.0]))
    (root / "imagesTr").mkdir()
    (root / "labelsTr").mkdir()
    for number in range(cases):
        image, label = (root / part / f"case_{number:03}" for part in ("imagesTr", "labelsTr"))
        image, label = image.with_name(f"{image.name}_0000.nii"), label.with_name(f"{label.name}.nii.gz")
        data, classes = scan(shape, number % DIFFERENT)
        if number < DIFFERENT:
            write_labels(label, LabelMap(classes, grid, ORGANS))
            write_volume(image.with_name(f"{image.name}.gz"), Volume(data, grid, "CT"))
            continue
        template = root / "labelsTr" / f"case_{number % DIFFERENT:03}.nii.gz"
        shutil.copy(template, label)
        data[0, 0, 0, 0] = number
        write_volume(image.with_name(f"{image.name}.gz"), Volume(data, grid, "CT"))
    table = {"channel_names": {"0": "CT"}, "labels": ORGANS.to_json(), "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(table))


def scan(shape: tuple[int, int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hounsfield units of a body in air, and three organs in it."""
    random = np.random.default_rng(seed)
    i, j, k = (np.linspace(-1, 1, size, dtype=np.float32) for size in shape)
    i, j, k = i[:, None, None], j[None, :, None], k[None, None, :]
    classes = np.zeros(shape, np.uint8)
    for value, middle in ((1, -0.4), (2, 0.0), (3, 0.4)):
        classes[((i - middle) / 0.15) ** 2 + (j / 0.3) ** 2 + (k / 0.8) ** 2 < 1] = value
    body = np.broadcast_to((i / 0.9) ** 2 + (j / 0.7) ** 2 < 1, shape)
    data = np.where(body, 20 + 40 * classes.astype(np.int16), -1000).astype(np.int16)
    return (data + random.normal(0, 15, shape).astype(np.int16))[None], classes


if __name__ == "__main__":
    main()
