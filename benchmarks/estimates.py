"""How far the estimates of ``voxelsam plan`` and ``voxelsam predict --dry-run`` are from what is measured.

Every shape is trained for a few steps, or predicts a small scan, with random weights, in a process of its own. Memory
is the growth of the process on a processor (the peak that the system saw), and PyTorch's own account on a GPU. Time is
the shortest step; on a processor it is processor time on one thread, so that other programs count less. The last
columns say by how much the estimate is too high (+) or too low (-).

    python benchmarks/estimates.py
    python benchmarks/estimates.py --device cuda --only vit
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))

if TYPE_CHECKING:
    from voxelsam.cost import Setup

MA_SAM = {"name": "ma_sam"}
STEPS: dict[str, dict[str, Any]] = {
    "tiny 128, 5 slices": {"variant": "sam-tiny", "size": (128, 128), "depth": 5},
    "tiny 128, 5 slices, batch 4": {"variant": "sam-tiny", "size": (128, 128), "depth": 5, "batch": 4},
    "tiny 128, 5 slices, blocks again": {"variant": "sam-tiny", "size": (128, 128), "depth": 5, "checkpointing": None},
    "vit-b 256, 1 slice": {"variant": "sam-vit-b", "size": (256, 256), "depth": 1},
    "vit-b 256, 3 slices": {"variant": "sam-vit-b", "size": (256, 256), "depth": 3},
    "vit-b 256, 5 slices": {"variant": "sam-vit-b", "size": (256, 256), "depth": 5},
    "vit-b 256, 5 slices, 6 blocks again": {
        "variant": "sam-vit-b", "size": (256, 256), "depth": 5, "checkpointing": 6,
    },
    "vit-b 256, 5 slices, blocks again": {
        "variant": "sam-vit-b", "size": (256, 256), "depth": 5, "checkpointing": None,
    },
    "vit-b 192, 2 slices, lora": {
        "variant": "sam-vit-b", "size": (192, 192), "depth": 2, "method": {"name": "lora"},
    },
    "vit-b 512, 2 slices": {"variant": "sam-vit-b", "size": (512, 512), "depth": 2},
    "dynunet 128, 16 slices": {
        "variant": "none", "size": (128, 128), "depth": 16, "method": {"name": "dynunet", "depth": 16},
    },
}  # fmt: skip
"""Training steps that are measured."""

SCANS: dict[str, dict[str, Any]] = {
    "tiny 128, 5 slices": {"variant": "sam-tiny", "size": (128, 128), "slices": 40},
    "tiny 128, 5 slices, 50 classes": {"variant": "sam-tiny", "size": (128, 128), "slices": 20, "classes": 50},
    "vit-b 256, 5 slices": {"variant": "sam-vit-b", "size": (256, 256), "slices": 4},
    "vit-b 256, 5 slices, stride 5": {"variant": "sam-vit-b", "size": (256, 256), "slices": 10, "stride": 5},
    "vit-b 512, 5 slices, stride 5": {"variant": "sam-vit-b", "size": (512, 512), "slices": 5, "stride": 5},
    "vit-b 1024, 1 slice": {"variant": "sam-vit-b", "size": (1024, 1024), "slices": 2, "depth": 1},
}
"""Scans that are predicted; pictures are as large as the slices."""

CLASSES, ROUNDS = 14, 3


def main() -> None:
    options = arguments()
    rows = []
    print(f"{'shape':44} {'memory':>10} {'estimate':>10} {'error':>7} {'time':>9} {'estimate':>10} {'error':>7}")
    for what, shapes in (("step", STEPS), ("scan", SCANS)):
        for name in shapes:
            if options.only not in f"{what} {name}":
                continue
            row = measured_and_estimated(f"{what} {name}", options.device, options.precision)
            rows.append(row)
            print(line(row), flush=True)
    for key, aim in (("memory", 0.15), ("seconds", 0.30)):
        errors = [abs(row[f"{key}_estimate"] / row[key] - 1) for row in rows]
        if errors:
            within = sum(error <= aim for error in errors)
            print(f"{key}: median error {statistics.median(errors):.0%}, {within} of {len(errors)} within {aim:.0%}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


def line(row: dict[str, Any]) -> str:
    memory, seconds = (row[f"{key}_estimate"] / row[key] - 1 for key in ("memory", "seconds"))
    return (
        f"{row['shape']:44} {row['memory'] / 1e6:7.0f} MB {row['memory_estimate'] / 1e6:7.0f} MB {memory:+7.0%} "
        f"{row['seconds']:7.2f} s {row['seconds_estimate']:8.2f} s {seconds:+7.0%}"
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--precision", default="fp32", help="fp32 or bf16")
    parser.add_argument("--only", default="", help="shapes with this in their name (step ..., scan ...)")
    parser.add_argument("--json", type=Path, help="also write the numbers into this file")
    return parser.parse_args()


def measured_and_estimated(shape: str, device: str = "cpu", precision: str = "fp32") -> dict[str, Any]:
    """Seconds and bytes of one of the shapes, ``step ...`` or ``scan ...``, and what is estimated of it."""
    what, name = shape.split(" ", 1)
    given = name, device, precision
    if what == "step":
        return {"shape": shape, **apart(step, *given)}
    with tempfile.TemporaryDirectory() as folder:
        apart(shelve, name, folder)
        return {"shape": shape, **apart(scan, *given, folder)}


def apart(work: Callable[..., Any], *given: Any) -> Any:
    """What a function gives in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, given)


def step(name: str, device: str, precision: str) -> dict[str, Any]:
    """Measures training steps, then estimates one."""
    import torch

    from voxelsam import cost
    from voxelsam.train import cost as of_training

    torch.set_num_threads(1)
    shape = dict(STEPS[name])
    batch, method = shape.pop("batch", 1), shape.pop("method", MA_SAM)
    where = "cpu" if device == "cpu" else "gpu"
    setup = cost.Setup(method=json.dumps(method), classes=CLASSES, precision=precision, device=where, **shape)
    memory, seconds = train(setup, batch, device)
    work, sizes, fast = of_training.training_step(setup, batch), cost.networks(setup), cost.speed(device, precision)
    return {
        "memory": memory,
        "memory_estimate": cost.resident(work, where, again=setup.again)
        + 8 * sizes.trained
        + (sizes.weights if device != "cpu" else 0),
        "seconds": seconds,
        "seconds_estimate": fast.seconds(work),
        "work": [work.peak, work.flops, work.moved, work.calls],
        "speed": [fast.flops, fast.moved, fast.call],
    }


def train(setup: "Setup", batch: int, device: str) -> tuple[int, float]:
    """Bytes of memory that a few steps take, beside the weights on a processor, and seconds of the shortest step."""
    import torch
    from measure import begin, clock, peak

    from voxelsam import adapt, backbones
    from voxelsam.cost import HALF
    from voxelsam.model import Segmenter
    from voxelsam.train.losses import dice_ce

    options = json.loads(setup.method)
    backbone = backbones.build(setup.variant, setup.size)
    segmenter = Segmenter(backbone, adapt.build(options.pop("name"), options, backbone, setup.classes)).train()
    if setup.checkpointing != 0:
        segmenter.recompute(setup.checkpointing)
    segmenter.to(device)
    optimiser = torch.optim.AdamW([one for one in segmenter.parameters() if one.requires_grad])
    images = torch.rand(batch, setup.depth, 3, *setup.size, device=device)
    target = torch.randint(setup.classes, (batch * setup.depth, *setup.size), device=device)
    half = HALF.get(setup.precision)
    before = begin(device) if device == "cpu" else 0 * (begin(device) or 0)
    taken = []
    for _ in range(ROUNDS):
        start = clock(device)
        optimiser.zero_grad()
        with torch.autocast(device, dtype=half, enabled=half is not None):
            logits = segmenter.decode(segmenter.encode(images)).logits
        dice_ce(logits, target)[0].backward()
        del logits
        optimiser.step()
        taken.append(clock(device) - start)
    return (peak(device) or 0) - (before or 0), min(taken)


def shelve(name: str, folder: str) -> None:
    """Leaves a bundle and its checkpoint in a folder."""
    from models import Shelf, Wanted

    shape = {key: value for key, value in SCANS[name].items() if key != "slices"}
    wanted = Wanted(method=MA_SAM, **{"classes": CLASSES, **shape})
    Shelf(Path(folder)).bundle(wanted).save(Path(folder) / "bundle")


def scan(name: str, device: str, precision: str, folder: str) -> dict[str, Any]:
    """Predicts a scan twice, then estimates it; memory is all that the process takes, from its start."""
    import torch
    from measure import clock, peak, status
    from models import scan as body

    from voxelsam import bundle
    from voxelsam.infer.forecast import Forecast
    from voxelsam.infer.predictor import Predictor

    torch.set_num_threads(1)
    shown = body(SCANS[name]["size"], SCANS[name]["slices"])
    trained = bundle.load(Path(folder) / "bundle")
    predictor = Predictor(trained, device=device, precision=precision)
    loaded = status("VmRSS"), status("VmHWM")
    taken = []
    for _ in range(2):
        start = clock(device)
        predictor(shown)
        taken.append(clock(device) - start)
    memory = peak(device) if device != "cpu" else status("VmHWM")
    need = Forecast([trained], device=device, precision=precision)(shown)
    return {
        "memory": memory,
        "memory_estimate": need.memory,
        "seconds": min(taken),
        "seconds_estimate": need.seconds,
        "loaded": loaded,
    }


if __name__ == "__main__":
    main()
