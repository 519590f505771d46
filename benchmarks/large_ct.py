"""Time and memory of ``voxelsam predict`` on a large CT.

A body with organs and noise (int16, 512 × 512 × 600 by default) is written to a temporary folder, beside a bundle of 13
structures on the tiny backbone that nobody trained. ``voxelsam predict`` then runs in a process of its own, whose peak
memory is read from the system when it ends. Stacks do not overlap: every slice is encoded once.

    python benchmarks/large_ct.py
    python benchmarks/large_ct.py --tilt 15      # slices that lean by 15 degrees, which are resampled
"""

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ORGANS = (
    "spleen", "right_kidney", "left_kidney", "gallbladder", "oesophagus", "liver", "stomach", "aorta", "vena_cava",
    "portal_vein", "pancreas", "right_adrenal", "left_adrenal",
)  # fmt: skip


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="large_ct_", dir=options.folder) as name:
        folder = Path(name)
        apart = multiprocessing.get_context("spawn").Process(target=prepare, args=(folder, options))
        apart.start()  # a process of its own, because a child begins with its parent's peak memory
        apart.join()
        result = {**settings(options), "scan_mb": megabytes(folder / "ct.nii.gz"), **measured(folder, options)}
    print(json.dumps(result, indent=1))
    if result["peak_gb"] >= options.limit:
        sys.exit(f"{result['peak_gb']} GB were used, which is not below {options.limit} GB")


def prepare(folder: Path, options: argparse.Namespace) -> None:
    write_scan(folder / "ct.nii.gz", tuple(options.shape), options.tilt)
    write_bundle(folder / "bundle", options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 600), help="voxels along i, j, k")
    parser.add_argument("--tilt", type=float, default=0.0, help="degrees that the slices lean by, as of a gantry")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 512), help="the model's picture, pixels")
    parser.add_argument("--depth", type=int, default=5, help="slices per stack")
    parser.add_argument("--limit", type=float, default=6.0, help="GB of peak memory that are too many")
    parser.add_argument("--folder", help="where the temporary folder is made")
    return parser.parse_args()


def write_scan(path: Path, shape: tuple[int, int, int], tilt: float) -> None:
    """An ellipse of tissue with brighter organs, in air, with noise; made slice by slice."""
    from voxelsam.formats import write_volume
    from voxelsam.space import Grid
    from voxelsam.volumes import Volume

    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.linspace(-1, 1, shape[0]), np.linspace(-1, 1, shape[1]), indexing="ij")
    body = (x / 0.85) ** 2 + (y / 0.6) ** 2 < 1
    centres = rng.uniform(-0.4, 0.4, (len(ORGANS), 2))
    data = np.empty((1, *shape), np.int16)
    for k in range(shape[2]):
        plane = np.where(body, 40.0, -1000.0)
        for number, (left, up) in enumerate(centres):
            reach = 0.15 * np.sin(np.pi * (k / shape[2] + number / len(ORGANS))) ** 2
            plane[(x - left) ** 2 + (y - up) ** 2 < reach**2] = 60 + 10 * number
        data[0, :, :, k] = plane + rng.normal(0, 12, plane.shape)
    affine = np.diag([-0.75, -0.75, 1.0, 1.0])
    affine[1, 2] = np.tan(np.radians(tilt))
    write_volume(path, Volume(data, Grid(shape, affine), "CT"))


def write_bundle(folder: Path, options: argparse.Namespace) -> None:
    import torch

    from voxelsam import adapt, backbones, bundle
    from voxelsam.model import Segmenter
    from voxelsam.stacks.intensity import CT_ABDOMEN
    from voxelsam.stacks.plan import StackPlan

    torch.manual_seed(0)
    size = (options.size[0], options.size[1])
    backbone, report = backbones.obtain("sam-tiny", None, size)
    adaptation = {"name": "ma_sam", "rank": 4, "width": 16, "init": "official"}
    own = {key: value for key, value in adaptation.items() if key != "name"}
    segmenter = Segmenter(backbone, adapt.build("ma_sam", own, backbone, len(ORGANS) + 1))
    bundle.describe(
        segmenter,
        labels={"background": 0, **{name: number for number, name in enumerate(ORGANS, 1)}},
        channels=("CT",),
        kind="CT",
        stack=StackPlan(depth=options.depth, size=size, plane="axial"),
        intensity=CT_ABDOMEN,
        adapt=adaptation,
        prompts=bundle.PromptsLearnt(True, (), False),
        backbone=bundle.BackboneIdentity("sam-tiny", report.sha256),
    ).save(folder)


def measured(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Runs the command; its own output goes to standard error."""
    command = [
        *(sys.executable, "-c", "from voxelsam.cli.app import main; main()", "predict"),
        *("-m", str(folder / "bundle"), "-i", str(folder / "ct.nii.gz"), "-o", str(folder / "mask.nii.gz")),
        *("--overlap", "0", "--device", "cpu"),
    ]
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=sys.stderr)  # noqa: S603
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - begin
    if process.returncode:
        sys.exit(f"voxelsam predict ended with {process.returncode}")
    most = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": round(seconds), "peak_gb": round(most / 1e9, 2), "mask_mb": megabytes(folder / "mask.nii.gz")}


def settings(options: argparse.Namespace) -> dict[str, object]:
    import torch

    return {
        "shape": list(options.shape),
        "tilt": options.tilt,
        "classes": len(ORGANS),
        "stack": [options.depth, *options.size],
        "overlap": 0,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def megabytes(path: Path) -> float:
    return round(path.stat().st_size / 1e6, 1)


if __name__ == "__main__":
    main()
