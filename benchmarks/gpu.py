"""The same comparisons on a GPU, within a few minutes, and where the time goes: written as JSON.

    python benchmarks/gpu.py -o gpu.json
    python benchmarks/gpu.py --device cpu --small -o gpu.json     # only to see that everything runs

Times are those of the clock with the device waited for, after a pass to warm up; medians of turns (A B A B). Memory is
PyTorch's account. The profiler then looks at one call of each encoder: the part of the measured time in which no kernel
ran (gaps between launches), the part of the kernels' time in matrix products and in attention, and the names of the
attention kernels. Single precision is that, for convolutions too (no TF32). What does not fit the memory says so; work
that no longer fits the minutes is named under ``left_out``. ``CUDA_VISIBLE_DEVICES`` chooses among several GPUs.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import measure
import models
import official
import peers
import torch
from models import MA_SAM, SAM, Shelf, Wanted
from table import verdict

from voxelsam.backbones import VARIANTS
from voxelsam.bundle import Bundle

PRECISIONS = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}

ATTENTION = ("flash", "fmha", "sdpa", "attention", "efficient", "flex", "softmax")
"""Parts of the names of kernels that attend."""

PRODUCTS = ("gemm", "cutlass", "nvjet", "xmma", "mm_", "::mm", "::addmm", "::bmm", "linear")
"""Parts of the names of other kernels that multiply matrices."""

Ways = dict[str, Callable[[], Any]]


@dataclass(frozen=True)
class Setting:
    """What all pieces of work share."""

    shelf: Shelf
    device: str
    rounds: int
    small: bool
    rates: dict[str, float]

    def wanted(self, letter: str, size: int, method: dict[str, object], **more: Any) -> Wanted:
        variant = "sam-tiny" if self.small else f"sam-vit-{letter.lower()}"
        pixels = size // 16 if self.small else size
        return Wanted(variant, (pixels, pixels), method, **more)

    def precisions(self) -> dict[str, torch.dtype | None]:
        """Those that make sense on the device."""
        return {name: dtype for name, dtype in PRECISIONS.items() if self.device != "cpu" or name != "fp16"}

    def predictor(self, trained: Bundle, precision: str, **settings: Any) -> Any:
        from voxelsam.infer.predictor import Predictor

        return Predictor(trained, device=self.device, precision=precision, **settings)


def timed(setting: Setting, ways: Ways) -> dict[str, dict[str, Any]]:
    """Seconds and peak of each way, and what the first is to it; the first call warms up.

    What the device has no memory for is ``failed``, and the others go on.
    """
    failed = {name for name, way in ways.items() if not fits(way)}
    taken = measure.in_turn(
        {name: way for name, way in ways.items() if name not in failed}, setting.rounds, setting.device
    )
    first = taken.get(next(iter(ways)))
    found: dict[str, dict[str, Any]] = {}
    for name in ways:
        if name in failed:
            found[name] = {"failed": "out of memory"}
            continue
        one = taken[name]
        found[name] = {"seconds": one.time, "peak": one.memory}
        if first is not None:
            found[name]["faster"] = first.time / one.time
            if one is not first and one.result is not None:
                found[name]["difference"] = unlike(first.result, one.result)
    return found


def fits(way: Callable[[], Any]) -> bool:
    """Calls it; whether there was memory enough."""
    try:
        way()
    except torch.OutOfMemoryError:
        return False
    return True


def unlike(expected: Any, found: Any) -> float:
    """Relative difference of features, or the part of labels that differ."""
    if isinstance(expected, torch.Tensor):
        return float((found.double() - expected.double()).norm() / expected.double().norm())
    return float((expected != found).mean())


def encoders(setting: Setting, *, letter: str, size: int, method: dict[str, object]) -> dict[str, Any]:
    """One stack, or one picture of SAM, from pictures to features; then the profile of ours."""
    wanted = setting.wanted(
        letter, size, method, classes=13 if method is MA_SAM else 2, depth=5 if method is MA_SAM else 1
    )
    images = models.stacks(wanted.size, wanted.depth).to(setting.device)
    segmenter = setting.shelf.segmenter(wanted)
    network = official.Network.of(segmenter).to(setting.device)
    ways: Ways = {"official fp32": without_gradients(setting, network.encode, images)}
    ways["official, fp16 autocast" if setting.device != "cpu" else "official, bf16 autocast"] = without_gradients(
        setting, network.encode, images, torch.bfloat16 if setting.device == "cpu" else torch.float16
    )
    if method is SAM and not peers.no_transformers():
        theirs = peers.sam(segmenter.backbone, "sdpa").to(setting.device)
        mean, std = network.pixels
        shown = (images.flatten(0, 1) - mean) / std
        ways["transformers, sdpa fp32"] = without_gradients(setting, theirs.get_image_embeddings, shown)
        ways["transformers, sdpa bf16"] = without_gradients(setting, theirs.get_image_embeddings, shown, torch.bfloat16)
    trained = setting.shelf.bundle(wanted)
    for precision in setting.precisions():
        ways[f"voxelsam {precision}"] = without_gradients(setting, setting.predictor(trained, precision).encode, images)
    found = timed(setting, ways)
    operations = len(images.flatten(0, 1)) * models.encoder_flops(VARIANTS[wanted.variant], wanted.size)
    for name, one in found.items():
        if "failed" in one:
            continue
        rate = setting.rates["fp32" if "fp32" in name else "bf16"]
        one["share_of_matrix_product"] = operations / one["seconds"] / rate
        if name.startswith("voxelsam"):
            one["profile"] = profiled(ways[name], one["seconds"], setting.device)
    return found


def volumes(setting: Setting, *, letter: str, size: int, slices: int) -> dict[str, Any]:
    """Labels of a whole scan; the official loop on a part of it, because its time is in proportion to the slices."""
    wanted = setting.wanted(letter, size, MA_SAM)
    few = max(wanted.depth, slices // 8)
    scan, start = models.scan(wanted.size, slices), models.scan(wanted.size, few)
    network = official.Network.of(setting.shelf.segmenter(wanted)).to(setting.device)
    ways: Ways = {
        "official fp32": lambda: official.predict(network, models.planes(start), models.LOW, models.HIGH, wanted.depth)
    }
    trained = setting.shelf.bundle(wanted)
    for precision in setting.precisions():
        for name, stride in (("", 1), (", overlap 0", wanted.depth)):
            ways[f"voxelsam {precision}{name}"] = answering(setting.predictor(trained, precision, stride=stride), scan)
    found = timed(setting, {name: without_result(way) for name, way in ways.items()})
    plain = found["official fp32"]
    if "failed" not in plain:
        plain["seconds"] *= slices / few
        for one in found.values():
            if "failed" not in one:
                one["faster"] = plain["seconds"] / one["seconds"]
    return found


def steps(setting: Setting, *, letter: str, size: int, only_lean: bool = False) -> dict[str, Any]:
    """A training step of MA-SAM on one stack, with and without computing blocks again."""
    from voxelsam.train.losses import dice_ce

    wanted = setting.wanted(letter, size, MA_SAM)
    segmenter = setting.shelf.segmenter(wanted).train().to(setting.device)
    images = models.stacks(wanted.size, wanted.depth).to(setting.device)
    target = torch.randint(13, (wanted.depth, *wanted.size), generator=torch.Generator().manual_seed(1))
    target = target.to(setting.device)
    optimiser = torch.optim.AdamW([one for one in segmenter.adaptation.parameters() if one.requires_grad], lr=0.0)

    def step(half: torch.dtype | None, blocks: int) -> None:
        segmenter.recompute(blocks)
        optimiser.zero_grad()
        with torch.autocast(setting.device, half, enabled=half is not None):
            logits = segmenter.decode(segmenter.encode(images)).logits
        dice_ce(logits.float(), target)[0].backward()
        optimiser.step()

    ways: Ways = {}
    half = torch.bfloat16 if setting.device == "cpu" else torch.float16
    every = len(segmenter.backbone.image_encoder.blocks)
    if not only_lean:
        network = official.Network.of(segmenter).to(setting.device)
        plain = torch.optim.AdamW(network.trained().values(), lr=0.0)
        ways["official fp32"] = without_result(lambda: official.ma_sam_step(network, plain, images, target))
        ways["official, autocast"] = without_result(lambda: official.ma_sam_step(network, plain, images, target, half))
        ways["voxelsam fp32"] = lambda: step(None, 0)
        ways["voxelsam bf16"] = lambda: step(torch.bfloat16, 0)
    ways["voxelsam bf16, blocks again"] = lambda: step(torch.bfloat16, every)
    found = timed(setting, ways)
    held = sum(one.nbytes for one in segmenter.parameters())
    for one in found.values():
        if one.get("peak") is not None:
            one["peak_with_weights"] = one["peak"] + held
    return found


def clicks(setting: Setting, *, letter: str, size: int) -> dict[str, Any]:
    """A click on a new slice, and the next one."""
    from voxelsam.prompts.prompt import Point, Target

    wanted = setting.wanted(letter, size, SAM, classes=2, depth=1)
    scan = models.scan(wanted.size, 1)
    trained = setting.shelf.bundle(wanted)
    found: dict[str, Any] = {}
    for precision in setting.precisions():
        session = setting.predictor(trained, precision).open(scan)

        def again(session: Any = session) -> None:
            session.reset_interactions()
            session.add(Point((wanted.size[1] / 2, wanted.size[0] / 2, 0), Target("structure_1")))

        def first(session: Any = session) -> None:
            session.set_image(scan)
            again(session)

        told = timed(setting, {"first click": first, "next click": again})
        found |= {f"voxelsam {precision}, {name}": one for name, one in told.items()}
    return found


def without_gradients(
    setting: Setting, call: Callable[..., Any], images: torch.Tensor, half: torch.dtype | None = None
) -> Callable[[], Any]:
    def run() -> Any:
        with torch.no_grad(), torch.autocast(setting.device, half, enabled=half is not None):
            return call(images)

    return run


def without_result(call: Callable[[], Any]) -> Callable[[], None]:
    def run() -> None:
        call()

    return run


def answering(ready: Any, scan: Any) -> Callable[[], Any]:
    return lambda: ready(scan).labels.data


def profiled(call: Callable[[], Any], seconds: float, device: str) -> dict[str, Any]:
    """Where one call, which takes so many seconds without the profiler, spends its time."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device != "cpu" else [])
    with profile(activities=activities) as seen:
        call()
        measure.clock(device)  # waits for the device
    kernels: dict[str, float] = {}
    for event in seen.key_averages():
        spent = event.self_cpu_time_total
        if device != "cpu":  # operators carry the time of their kernels too, which are events of their own
            spent = event.self_device_time_total if event.device_type == DeviceType.CUDA else 0
        if spent:
            kernels[event.key] = kernels.get(event.key, 0.0) + spent / 1e6
    if not kernels:
        return {"failed": "the profiler saw no kernel: it may need more rights on this machine"}
    busy = sum(kernels.values())
    longest = sorted(kernels.items(), key=lambda item: -item[1])
    attention = [name for name, _ in longest if any(word in name.lower() for word in ATTENTION)]
    products = [name for name, _ in longest if any(word in name.lower() for word in PRODUCTS) and name not in attention]
    return {
        "gaps": max(0.0, 1 - busy / seconds),
        "matrix_products": sum(kernels[name] for name in products) / busy,
        "attention": sum(kernels[name] for name in attention) / busy,
        "attention_kernels": attention[:4],
        "longest": [{"kernel": name[:120], "part": spent / busy} for name, spent in longest[:8]],
    }


def works() -> dict[str, Callable[[Setting], dict[str, Any]]]:
    """By name, what has a goal first."""
    found: dict[str, Callable[[Setting], dict[str, Any]]] = {}

    def encoder(name: str, letter: str, size: int, method: dict[str, object]) -> None:
        found[f"encoder, {name} ViT-{letter}, {size} px"] = partial(encoders, letter=letter, size=size, method=method)

    encoder("SAM", "H", 1024, SAM)
    encoder("SAM", "B", 1024, SAM)
    found["volume, MA-SAM ViT-B, 512 px, 80 slices"] = lambda setting: volumes(
        setting, letter="B", size=512, slices=10 if setting.small else 80
    )
    found["training step, MA-SAM ViT-H, 512 px"] = partial(steps, letter="H", size=512, only_lean=True)
    encoder("MA-SAM", "B", 512, MA_SAM)
    found["training step, MA-SAM ViT-B, 512 px"] = partial(steps, letter="B", size=512)
    encoder("MA-SAM", "H", 512, MA_SAM)
    found["clicks, SAM ViT-B, 1024 px"] = partial(clicks, letter="B", size=1024)
    return found


def goals(done: dict[str, Any]) -> dict[str, str]:
    """What the GPU should reach, and what it did."""

    def share(work: str) -> float | None:
        return done.get(work, {}).get("voxelsam bf16", {}).get("share_of_matrix_product")

    volume = done.get("volume, MA-SAM ViT-B, 512 px, 80 slices", {}).get("voxelsam bf16", {}).get("faster")
    step = done.get("training step, MA-SAM ViT-H, 512 px", {}).get("voxelsam bf16, blocks again", {})
    reached = {
        "ViT-H at 1024 px: 45 % of the bf16 matrix product": (share("encoder, SAM ViT-H, 1024 px"), 0.45),
        "ViT-B at 1024 px: 30 % of the bf16 matrix product": (share("encoder, SAM ViT-B, 1024 px"), 0.30),
        "volume in bf16: 10 times the official loop": (volume, 10.0),
    }
    told = {
        words: "not measured" if value is None else verdict(value >= bar, f"{value:.2f}")
        for words, (value, bar) in reached.items()
    }
    memory = step.get("peak_with_weights")
    words = "a training step of ViT-H in 16 GB"
    told[words] = verdict(memory <= 16e9, f"{memory / 1e9:.1f} GB") if memory else "not measured"
    return told


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu.json"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=8.0, help="no work begins after so many")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="tiny networks: only to see that everything runs")
    parser.add_argument("--only", default="", help="work with this in its name")
    options = parser.parse_args(given)
    if options.device != "cpu" and not torch.cuda.is_available():
        parser.error("there is no GPU that PyTorch can use; --device cpu --small shows that everything runs")
    if not any(options.only in name for name in works()):
        parser.error(f"no work has {options.only!r} in its name; there are:\n  " + "\n  ".join(works()))
    torch.backends.cudnn.allow_tf32 = False
    begin = time.monotonic()
    told: dict[str, Any] = {"measured": measure.machine(options.device), "works": {}, "left_out": [], "failed": {}}
    told["matrix_product"] = measure.matrix_rates(options.device)
    with tempfile.TemporaryDirectory(prefix="voxelsam_gpu_") as folder:
        setting = Setting(Shelf(Path(folder)), options.device, options.rounds, options.small, told["matrix_product"])
        for name, work in works().items():
            if options.only not in name:
                continue
            if time.monotonic() - begin > 60 * options.minutes:
                told["left_out"].append(name)
            else:
                try:
                    told["works"][name] = work(setting)
                except Exception as error:  # one piece of work must not take the others with it
                    told["failed"][name] = f"{type(error).__name__}: {error}".splitlines()[0]
                print(f"{time.monotonic() - begin:6.0f} s  {name}  {told['failed'].get(name, '')}", flush=True)
            told["goals"] = goals(told["works"])
            options.output.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", "utf-8")
    for words, said in told.get("goals", {}).items():
        print(f"{words}: {said}")
    return int(bool(told["failed"]))


if __name__ == "__main__":
    sys.exit(main())
