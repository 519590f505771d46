"""Methods beside one another: the same data, split and time for each, and one table of what came out.

    python benchmarks/methods.py run DATA [DATA ...] -o runs --minutes 4 [--method ma_sam ...] [--seed 1 ...]
    python benchmarks/methods.py table DATA [DATA ...] -o runs

Every training is a process of its own with one thread, so that its memory can be read, and gets as many stacks as fit
its minutes of processor time, which other work on the machine does not shorten: short trainings before tell how long a
stack takes. The learning rate runs through its whole course in every one. What is there already is kept; a run that
was stopped begins again.
"""

import argparse
import copy
import csv
import json
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from voxelsam.train.job import Job

EPOCHS = 10
VALIDATIONS = 5
"""Of a run, whatever its epochs."""
FEW, MORE = 8, 112
"""Stacks of the short trainings before: one to warm up, and one again with the same and one with at most so many more,
whose difference tells how long a stack takes."""
ENOUGH = 20
"""Processor seconds after which more stacks tell nothing new."""

METHODS: dict[str, dict[str, object]] = {
    "ma_sam": {"adapt": {"name": "ma_sam"}},
    "med_sa": {"adapt": {"name": "med_sa"}},
    "samed": {"adapt": {"name": "lora"}},
    "decoder_only": {"adapt": {"name": "decoder_only"}},
    "full": {"adapt": {"name": "full"}},
    "dynunet": {"adapt": {"name": "dynunet"}},
    "swin_unetr": {"adapt": {"name": "swin_unetr"}},
}
ABLATIONS: dict[str, dict[str, object]] = {
    "no_fact": {"adapt": {"name": "ma_sam", "parts": ["first", "second"]}},
    "no_first_adapter": {"adapt": {"name": "ma_sam", "parts": ["fact", "second"]}},
    "no_second_adapter": {"adapt": {"name": "ma_sam", "parts": ["fact", "first"]}},
    "no_adapters": {"adapt": {"name": "ma_sam", "parts": ["fact"]}},
    "sam_decoder": {"adapt": {"name": "ma_sam", "upsampling": "sam"}},
    "depth_1": {"adapt": {"name": "ma_sam"}, "stack": {"depth": 1}, "train": {"batch": 10}},
    "depth_3": {"adapt": {"name": "ma_sam"}, "stack": {"depth": 3}, "train": {"batch": 4}},
    "depth_7": {"adapt": {"name": "ma_sam"}, "stack": {"depth": 7}, "train": {"batch": 2}},
}


def settings_of(method: str, data: Path) -> dict[str, object]:
    """What a method states of the recipe; pictures come one by one, so a batch holds more of them."""
    from voxelsam import config
    from voxelsam.layouts import open_dataset

    images = open_dataset(data).train[0].images
    pictures = images[0].suffix in (".png", ".jpg", ".bmp")
    settings = config.merge({"train": {"batch": 8 if pictures else 2, "device": "cpu"}}, (METHODS | ABLATIONS)[method])
    place = Path(__file__).with_name("methods.json")
    extra = json.loads(place.read_text("utf-8")).get(data.name.partition("_")[0], {})
    for wanted in ("all", method):
        settings = config.merge(settings, extra.get(wanted, {}))
    return settings


def fit(ready: "Job", folder: Path, stacks: int, epochs: int = EPOCHS) -> tuple[int, float]:
    """Trains a copy of a job in a folder of its own; the prepared cases are shared.

    An epoch shows no stack twice, so a small data set gets more of them.

    Returns:
        Stacks that were shown, and processor seconds.
    """
    import torch

    from voxelsam.data.loader import Stacks
    from voxelsam.train import run

    def settled(per_epoch: int, epochs: int) -> "Job":
        every = max(1, epochs // VALIDATIONS)
        train = replace(ready.recipe.train, stacks_per_epoch=per_epoch, epochs=epochs, validate_every=every)
        return replace(ready, folder=folder, recipe=replace(ready.recipe, train=train), segmenter=segmenter)

    segmenter = copy.deepcopy(ready.segmenter)
    (folder.parent / "cache").mkdir(exist_ok=True)
    counted = replace(settled(stacks, 1), folder=folder.parent / "counted")
    for place in (folder, counted.folder):
        place.mkdir(exist_ok=True)
        if not (place / "cache").exists():
            (place / "cache").symlink_to(folder.parent / "cache")
    there = len(Stacks(run.prepare(counted)[0], replace(ready.recipe.stack, stride=1)))
    per_epoch = min(max(stacks // epochs, 1), there)
    job = settled(per_epoch, max(stacks // per_epoch, 1))
    run.prepare(job)
    torch.manual_seed(job.recipe.train.seed)
    begin = time.process_time()
    run.fit(job)
    return job.recipe.train.epochs * per_epoch, time.process_time() - begin


def one(data: Path, method: str, minutes: float, seed: int, folder: Path) -> None:
    """Measures the speed, trains for the minutes, predicts the validation cases, and notes what it took."""
    import torch

    from voxelsam import bundle, config
    from voxelsam.infer import cohort
    from voxelsam.infer.cases import Task
    from voxelsam.infer.predictor import Predictor
    from voxelsam.layouts import open_dataset
    from voxelsam.train import job

    torch.set_num_threads(1)
    settings = settings_of(method, data)
    ready = job.start(data, folder / "run", config.merge(settings, {"train": {"seed": seed}}))
    fit(ready, folder / "warm", FEW, 1)
    few, short = fit(ready, folder / "few", FEW, 1)
    many, long = fit(ready, folder / "many", few + max(FEW, min(MORE, int(ENOUGH * few / short))), 1)
    stacks = int(minutes * 60 * (many - few) / (long - short))
    shown, seconds = fit(ready, folder / "run", stacks)
    trained = bundle.load(folder / "run" / "best")
    predictor = Predictor(trained, device="cpu")
    begin = time.process_time()
    cases = open_dataset(data).split(0)[1]
    masks = folder / "masks"
    masks.mkdir(exist_ok=True)
    tasks = [Task(case.id, case.images, masks / f"{case.id}{''.join(case.label.suffixes)}") for case in cases]
    failed = [outcome.reason for outcome in cohort.run(predictor, tasks) if outcome.status == "failed"]
    if failed:
        raise SystemExit("\n".join(failed))
    facts = {
        "data": data.name,
        "method": method,
        "seed": seed,
        "minutes": minutes,
        "train_seconds": seconds,
        "stacks": shown,
        "predict_seconds": time.process_time() - begin,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "trained": sum(p.numel() for p in trained.segmenter().adaptation.parameters() if p.requires_grad),
        "settings": settings,
    }
    (folder / "facts.json").write_text(json.dumps(facts, indent=1), "utf-8")


def run(options: argparse.Namespace) -> None:
    """All pairs that are not there yet, one process each."""
    for seed in options.seed:
        for data in options.data:
            for method in options.method:
                folder = options.output / data.name.partition("_")[0] / f"{method}-{seed}"
                if (folder / "facts.json").is_file():
                    continue
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                command = [
                    sys.executable,
                    __file__,
                    "one",
                    str(data),
                    method,
                    str(options.minutes),
                    str(seed),
                    str(folder),
                ]
                with (folder / "log.txt").open("w") as log:
                    done = subprocess.run(command, stdout=log, stderr=log, check=False)  # noqa: S603
                state = "done" if done.returncode == 0 else f"failed, see {folder / 'log.txt'}"
                print(f"{time.strftime('%H:%M:%S')} {data.name} {method} seed {seed}: {state}", flush=True)


def scored(folder: Path, data: Path) -> dict[str, object]:
    """Scores of a run's masks, kept beside them."""
    from voxelsam.evaluate.run import evaluate
    from voxelsam.evaluate.statistics import means
    from voxelsam.layouts import open_dataset

    dataset = open_dataset(data)
    cases = {case.id: case for case in dataset.split(0)[1]}
    report = evaluate(folder / "masks", cases, labels=dataset.labels, out=folder)
    groups = [cases[case.case].group for case in report.cases]
    found: dict[str, object] = {}
    for measure in ("Dice", "HD95"):
        scores = np.array(
            [
                [
                    case.counts[row.value].dice(report.empty)
                    if measure == "Dice"
                    else case.measures[row.value][measure]
                    for row in report.classes
                ]
                for case in report.cases
            ]
        )
        *each, mean = means(scores, groups, [range(scores.shape[1])])
        found[measure] = {row.name: one.value for row, one in zip(report.classes, each, strict=True)}
        found |= {
            f"{measure} mean": (mean.value, mean.low, mean.high),
            f"{measure} without": int(np.isnan(scores).sum()),
        }
    return found


def table(options: argparse.Namespace) -> None:
    """One row per data set and method, as Markdown and as ``methods.csv``."""
    rows = []
    for place in sorted(options.output.glob("*/*/facts.json")):
        facts = json.loads(place.read_text("utf-8"))
        data = next(folder for folder in options.data if folder.name == facts["data"])
        rows.append(facts | scored(place.parent, data))
    together: dict[tuple[str, str], list[dict[str, object]]] = {}
    for row in rows:
        together.setdefault((row["data"], row["method"]), []).append(row)
    head = (
        "data",
        "method",
        "Dice (95 % interval)",
        "HD95",
        "no HD95",
        "trained",
        "stacks",
        "CPU minutes",
        "predict CPU s",
        "MB",
        "seeds",
    )
    lines = [head, ["---"] * len(head)]
    for (data, method), runs in together.items():
        dice, low, high = (fmean(run["Dice mean"][part] for run in runs) for part in range(3))
        lines.append(
            (
                data.partition("_")[2],
                method,
                f"{dice:.3f} ({low:.3f} to {high:.3f})",
                f"{fmean(run['HD95 mean'][0] for run in runs):.1f}",
                str(sum(run["HD95 without"] for run in runs)),
                f"{runs[0]['trained'] / 1e6:.2f} M",
                f"{fmean(run['stacks'] for run in runs):.0f}",
                f"{fmean(run['train_seconds'] for run in runs) / 60:.1f}",
                f"{fmean(run['predict_seconds'] for run in runs):.0f}",
                f"{max(run['peak_mb'] for run in runs):.0f}",
                str(len(runs)),
            )
        )
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))
    with (options.output / "methods.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([head, *lines[2:]])


def main() -> None:
    """Parses and calls."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    runs = verbs.add_parser("run")
    runs.add_argument("data", type=Path, nargs="+")
    runs.add_argument("-o", "--output", type=Path, default=Path("runs"))
    runs.add_argument("--minutes", type=float, default=4)
    runs.add_argument("--method", action="append", choices=[*METHODS, *ABLATIONS])
    runs.add_argument("--seed", type=int, action="append")
    runs.set_defaults(call=run)
    shown = verbs.add_parser("table")
    shown.add_argument("data", type=Path, nargs="+")
    shown.add_argument("-o", "--output", type=Path, default=Path("runs"))
    shown.set_defaults(call=table)
    single = verbs.add_parser("one")
    for name, kind in (("data", Path), ("method", str), ("minutes", float), ("seed", int), ("folder", Path)):
        single.add_argument(name, type=kind)
    single.set_defaults(call=lambda o: one(o.data, o.method, o.minutes, o.seed, o.folder))
    options = parser.parse_args()
    if hasattr(options, "seed") and isinstance(options.seed, list | None):
        options.seed = options.seed or [1]
        options.method = options.method or list(METHODS)
    options.call(options)


if __name__ == "__main__":
    main()
