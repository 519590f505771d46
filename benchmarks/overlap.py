"""What it costs and gains to let fewer stacks vote on a slice: Dice and time of trained models by their overlap.

    python benchmarks/overlap.py RUN [RUN ...] [-o overlap.json]
    python benchmarks/overlap.py RUN --cases imagesTs labelsTs

Every run segments the cases that its training kept from it, or those of two folders, once for each overlap of its
stacks and, where the method can, in a single pass. Each case goes through all ways in turn, so that what else the
machine does meets all of them; time is processor time on one thread, with reading and writing left out. Dice is the
mean over structures of the mean over cases that show the structure in the reference or the mask; differences are in
points (hundredths) against the largest overlap, of which the smallest and the greatest of a single case are given too.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from voxelsam.bundle import Bundle
    from voxelsam.infer.predictor import Predictor
    from voxelsam.volumes.labels import Labels


def models_of(runs: list[Path]) -> "dict[Path, Bundle]":
    """The model of each training, or the bundle itself.

    Raises:
        ConfigError: one has no answer without prompts.
        WeightsError: one is neither.
    """
    from voxelsam import bundle as bundles
    from voxelsam.errors import ConfigError

    found = {run: bundles.load(run / "best" if (run / "best").is_dir() else run) for run in runs}
    for run, trained in found.items():
        if not trained.description.prompts.free:
            raise ConfigError(
                f"{run} was trained with prompts only, and these are ways to segment whole scans without prompts: "
                "leave it out, or take a model that was trained with prompts.free above 0"
            )
    return found


def ways(trained: "Bundle") -> "dict[str, Predictor]":
    """The model for every overlap, from that of the papers downwards, and in a single pass."""
    from voxelsam.errors import ConfigError
    from voxelsam.infer.predictor import Predictor

    depth = trained.description.stack.depth
    strides = sorted({1, 2, 3, 4, 5, 6, 8, 12, 16, 24, depth} & set(range(1, depth + 1)))
    found = {f"overlap {depth - stride}": Predictor(trained, device="cpu", stride=stride) for stride in strides}
    try:
        found["single pass"] = Predictor(trained, device="cpu", single_pass=True)
    except ConfigError as error:
        print(f"no single pass: {error}")
    return found


def cases_of(run: Path, folders: list[Path] | None) -> list[tuple[tuple[Path, ...], Path]]:
    """Image files and label file of every case."""
    from voxelsam.train import job

    if folders is None:
        return [(case.images, case.label) for case in job.finished(run).validation if case.label is not None]
    images, labels = folders
    return [
        (tuple(sorted(images.glob(f"{path.name.removesuffix('.nii.gz')}*.nii.gz"))), path)
        for path in sorted(labels.glob("*.nii.gz"))
    ]


def dice(found: "np.ndarray[Any, Any]", truth: "np.ndarray[Any, Any]", labels: "Labels") -> dict[str, float]:
    """Of every structure that is in one of the two."""
    told = {}
    for name in labels.names:
        one, other = found == labels.values[name], truth == labels.values[name]
        if total := int(one.sum()) + int(other.sum()):
            told[name] = 2 * int((one & other).sum()) / total
    return told


def measured(models: "dict[str, Predictor]", cases: list[tuple[tuple[Path, ...], Path]]) -> dict[str, Any]:
    """Seconds, Dice and equal voxels of every way, per case; voxels are compared with the first way's."""
    from voxelsam import formats

    told: dict[str, Any] = {name: {"seconds": [], "dice": [], "equal": []} for name in models}
    for images, label in cases:
        first = next(iter(models.values()))
        volume = formats.read_channels(images, len(first.channels))
        truth = formats.read_labels(label).data
        reference = None
        for name, model in models.items():
            begin = time.process_time()
            mask = model(volume).labels.data
            told[name]["seconds"].append(time.process_time() - begin)
            told[name]["dice"].append(dice(mask, truth, model.labels))
            reference = mask if reference is None else reference
            told[name]["equal"].append(float((mask == reference).mean()))
    return told


def summary(told: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per way."""
    base = next(iter(told.values()))
    names = sorted({name for case in base["dice"] for name in case})
    rows = []
    for way, one in told.items():
        means = [statistics.fmean(case[name] for case in one["dice"] if name in case) for name in names]
        each = [
            100 * (statistics.fmean(case.values()) - statistics.fmean(before.values()))
            for case, before in zip(one["dice"], base["dice"], strict=True)
            if case and before
        ]
        rows.append(
            {
                "way": way,
                "dice": statistics.fmean(means),
                "points": statistics.fmean(each),
                "worst": min(each),
                "best": max(each),
                "faster": sum(base["seconds"]) / sum(one["seconds"]),
                "equal": statistics.fmean(one["equal"]),
                "cases": len(one["seconds"]),
            }
        )
    return rows


def reported(run: Path, models: "dict[str, Predictor]", cases: list[tuple[tuple[Path, ...], Path]]) -> dict[str, Any]:
    """Measures the ways of a run and prints their table; gives the rows and what they were made of."""
    told = measured(models, cases)
    rows = summary(told)
    show(run, rows)
    return {"rows": rows, "cases": told}


def show(run: Path, rows: list[dict[str, Any]]) -> None:
    """Prints the table of a run."""
    print(f"\n{run}, {rows[0]['cases']} cases\n")
    print("| way | Dice | points | of a case | times faster | equal voxels |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['way']} | {row['dice']:.4f} | {row['points']:+.2f} | {row['worst']:+.2f} … {row['best']:+.2f} "
            f"| {row['faster']:.2f} | {100 * row['equal']:.2f} % |",
            flush=True,
        )


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of trainings, or bundles with --cases")
    parser.add_argument("--cases", nargs=2, type=Path, metavar=("IMAGES", "LABELS"), help="labelled cases instead")
    parser.add_argument("-o", "--output", type=Path, help="JSON with all of it")
    options = parser.parse_args(given)

    import torch

    from voxelsam.errors import VoxelSamError

    torch.set_num_threads(1)
    every = {}
    try:
        models = models_of(options.runs)
        cases = {run: cases_of(run, options.cases) for run in options.runs}
    except VoxelSamError as error:
        parser.error(str(error))
    for run, trained in models.items():
        every[str(run)] = reported(run, ways(trained), cases[run])
        if options.output is not None:
            options.output.write_text(json.dumps(every, indent=1) + "\n")


if __name__ == "__main__":
    main()
