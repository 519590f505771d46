"""How far the estimates of ``voxelsam plan`` are from what is measured.

Every shape is trained for a few steps with random weights, in a process of its own. Memory is the growth of the
process on a processor (the peak that the system saw), and PyTorch's own account on a GPU. Time is the shortest step; on
a processor it is processor time on one thread, so that other programs count less. The last columns say by how much the
estimate is too high (+) or too low (-).

    python benchmarks/estimates.py
    python benchmarks/estimates.py --device cuda --only vit
"""

import argparse
import gc
import json
import multiprocessing
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from voxelsam.train.cost import Setup

MA_SAM = {"name": "ma_sam"}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny 128, 5 slices": {"variant": "sam-tiny", "size": (128, 128), "depth": 5},
    "tiny 128, 5 slices, batch 4": {"variant": "sam-tiny", "size": (128, 128), "depth": 5, "batch": 4},
    "tiny 128, 5 slices, blocks again": {"variant": "sam-tiny", "size": (128, 128), "depth": 5, "checkpointing": True},
    "vit-b 256, 1 slice": {"variant": "sam-vit-b", "size": (256, 256), "depth": 1},
    "vit-b 256, 3 slices": {"variant": "sam-vit-b", "size": (256, 256), "depth": 3},
    "vit-b 256, 5 slices": {"variant": "sam-vit-b", "size": (256, 256), "depth": 5},
    "vit-b 256, 5 slices, blocks again": {
        "variant": "sam-vit-b", "size": (256, 256), "depth": 5, "checkpointing": True,
    },
    "vit-b 192, 2 slices, lora": {
        "variant": "sam-vit-b", "size": (192, 192), "depth": 2, "method": {"name": "lora"},
    },
    "dynunet 128, 16 slices": {
        "variant": "none", "size": (128, 128), "depth": 16, "method": {"name": "dynunet", "depth": 16},
    },
}  # fmt: skip
"""What is measured."""

CLASSES, STEPS = 14, 3


def main() -> None:
    options = arguments()
    rows = []
    print(f"{'shape':36} {'memory':>10} {'estimate':>10} {'error':>7} {'step':>8} {'estimate':>9} {'error':>7}")
    for name in SHAPES:
        if options.only not in name:
            continue
        row = measured_and_estimated(name, options)
        rows.append(row)
        memory, seconds = (row[f"{key}_estimate"] / row[key] - 1 for key in ("memory", "seconds"))
        print(
            f"{row['shape']:36} {row['memory'] / 1e6:7.0f} MB {row['memory_estimate'] / 1e6:7.0f} MB {memory:+7.0%} "
            f"{row['seconds']:6.2f} s {row['seconds_estimate']:7.2f} s {seconds:+7.0%}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--precision", default="fp32", help="fp32 or bf16")
    parser.add_argument("--only", default="", help="shapes with this in their name")
    parser.add_argument("--json", type=Path, help="also write the numbers into this file")
    return parser.parse_args()


def measured_and_estimated(name: str, options: argparse.Namespace) -> dict[str, Any]:
    with multiprocessing.get_context("spawn").Pool(1) as apart:
        return apart.apply(one, (name, options.device, options.precision))


def one(name: str, device: str, precision: str) -> dict[str, Any]:
    """Measures a shape, then estimates it."""
    import torch

    from voxelsam.train import cost

    torch.set_num_threads(1)
    shape = dict(SHAPES[name])
    batch, method = shape.pop("batch", 1), shape.pop("method", MA_SAM)
    setup = cost.Setup(method=json.dumps(method), classes=CLASSES, precision=precision, **shape)
    memory, seconds = train(setup, batch, device)
    work, sizes, fast = cost.training_step(setup, batch), cost.networks(setup), cost.speed(device, precision)
    return {
        "shape": name,
        "memory": memory,
        "memory_estimate": cost.resident(work, device, again=setup.checkpointing)
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

    from voxelsam import adapt, backbones
    from voxelsam.model import Segmenter
    from voxelsam.train.cost import HALF
    from voxelsam.train.losses import dice_ce

    options = json.loads(setup.method)
    backbone = backbones.build(setup.variant, setup.size)
    segmenter = Segmenter(backbone, adapt.build(options.pop("name"), options, backbone, setup.classes)).train()
    if setup.checkpointing:
        segmenter.recompute()
    segmenter.to(device)
    optimiser = torch.optim.AdamW([one for one in segmenter.parameters() if one.requires_grad])
    images = torch.rand(batch, setup.depth, 3, *setup.size, device=device)
    target = torch.randint(setup.classes, (batch * setup.depth, *setup.size), device=device)
    half = HALF.get(setup.precision)
    gc.collect()
    before = begin_memory(device)
    taken = []
    for _ in range(STEPS):
        begin = clock(device)
        optimiser.zero_grad()
        with torch.autocast(device, dtype=half, enabled=half is not None):
            logits = segmenter.decode(segmenter.encode(images)).logits
        dice_ce(logits.float(), target)[0].backward()
        del logits
        optimiser.step()
        taken.append(clock(device) - begin)
    return peak_memory(device) - before, min(taken)


def clock(device: str) -> float:
    """Seconds: of the processor, or of the wall where a GPU works."""
    if device == "cpu":
        return time.process_time()
    import torch

    torch.cuda.synchronize()
    return time.perf_counter()


def begin_memory(device: str) -> int:
    """Begins to watch the peak; gives what is held already, 0 on a GPU, where the weights count."""
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5", "ascii")
        return status("VmRSS")
    import torch

    torch.cuda.reset_peak_memory_stats()
    return 0


def peak_memory(device: str) -> int:
    """The most that was held since."""
    if device == "cpu":
        return status("VmHWM")
    import torch

    return int(torch.cuda.max_memory_allocated())


def status(key: str) -> int:
    """A number of bytes that Linux knows of this process."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


if __name__ == "__main__":
    main()
