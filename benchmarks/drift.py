"""What inexact arithmetic changes: image features of ViT-B with random weights, and the masks of trained models.

    python benchmarks/drift.py [--size 256] [--compile]
    python benchmarks/drift.py RUN [RUN ...] [-o drift.json]

Without a run: the relative error of the features, ‖y - exact‖ / ‖exact‖ against the plain network in single precision,
and how many times faster than that network each kind is. With runs: Dice, equal voxels and time against ``fp32``, for
the cases that the training kept from it, as in ``overlap.py``. Time is processor time on one thread, each kind in turn.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overlap import cases_of, models_of, reported

if TYPE_CHECKING:
    from voxelsam.bundle import Bundle
    from voxelsam.infer.predictor import Predictor
    from voxelsam.model import Segmenter

KINDS = ("fp32", "bf16", "int8")
METHODS = {
    "MA-SAM, 5 slices": ({"name": "ma_sam", "init": "official"}, 5),
    "Med-SA, 4 slices": ({"name": "med_sa", "variant": "released"}, 4),
    "SAMed (LoRA), 1 slice": ({"name": "lora"}, 1),
}


def encoders(segmenter: "Segmenter", images: Any, *, compiled: bool) -> "dict[str, Callable[[], Any]]":
    """The plain network as it stands, then under autocast, then every prepared kind."""
    import torch

    from voxelsam.infer.prepare import prepare, products

    def rounded() -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return segmenter.encode(images)

    found: dict[str, Callable[[], Any]] = {"plain network": lambda: segmenter.encode(images), "autocast bf16": rounded}
    for kind in KINDS:
        made = prepare(segmenter, kind)
        found[f"{kind} ({', '.join(products(made))})"] = lambda made=made: made.encode(images)
    if compiled:
        for kind in ("fp32", "bf16"):
            made = prepare(segmenter, kind, compiled=True)
            found[f"{kind} compiled"] = lambda made=made: made.encode(images)
    return found


def features(size: int, rounds: int, *, compiled: bool) -> Iterator[dict[str, Any]]:
    """One row per method and kind."""
    import models
    import torch

    from voxelsam.backbones import VARIANTS

    for name, (method, depth) in METHODS.items():
        segmenter = models.built(VARIANTS["sam-vit-b"], (size, size), method, 13, 0.05).eval().requires_grad_(False)
        images = torch.rand(1, depth, 3, size, size, generator=torch.Generator().manual_seed(1))
        kinds = encoders(segmenter, images, compiled=compiled)
        seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
        exact, errors = None, {}
        with torch.inference_mode():
            for turn in range(rounds + 1):
                for kind, encode in kinds.items():
                    begin = time.process_time()
                    found = encode().double()
                    if turn:  # the first time packs and compiles
                        seconds[kind].append(time.process_time() - begin)
                    exact = found if exact is None else exact
                    errors[kind] = float((found - exact).norm() / exact.norm())
        middle = {kind: statistics.median(some) for kind, some in seconds.items()}
        for kind, error in errors.items():
            yield {"method": name, "kind": kind, "error": error, "faster": middle["plain network"] / middle[kind]}


def kinds_of(trained: "Bundle") -> "dict[str, Predictor]":
    """A trained model in every kind of arithmetic."""
    from voxelsam.infer.predictor import Predictor

    return {kind: Predictor(trained, device="cpu", precision=kind) for kind in KINDS}


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="folders of trainings; none for random weights")
    parser.add_argument("--cases", nargs=2, type=Path, metavar=("IMAGES", "LABELS"), help="labelled cases instead")
    parser.add_argument("--size", type=int, default=256, help="pixels per side, without runs")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each kind, without runs")
    parser.add_argument("--compile", action="store_true", help="also compiled, without runs")
    parser.add_argument("-o", "--output", type=Path, help="JSON with all of it")
    options = parser.parse_args(given)

    import torch

    from voxelsam.errors import VoxelSamError

    torch.set_num_threads(1)
    try:
        models = models_of(options.runs)
        cases = {run: cases_of(run, options.cases) for run in options.runs}
    except VoxelSamError as error:
        parser.error(str(error))
    every: dict[str, Any] = {}
    if not options.runs:
        print(f"ViT-B, {options.size} × {options.size} pixels\n\n| method | arithmetic | error | times faster |")
        print("|---|---|---|---|")
        every["features"] = []
        for row in features(options.size, options.rounds, compiled=options.compile):
            every["features"].append(row)
            print(f"| {row['method']} | {row['kind']} | {row['error']:.1e} | {row['faster']:.2f} |", flush=True)
    for run, trained in models.items():
        every[str(run)] = reported(run, kinds_of(trained), cases[run])
    if options.output is not None:
        options.output.write_text(json.dumps(every, indent=1) + "\n")


if __name__ == "__main__":
    main()
