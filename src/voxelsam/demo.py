"""The whole main job on a small data set: train, predict, evaluate, report.

Without a data set of the user it makes phantoms. The backbone is the embedded tiny one with random weights, unless
the settings name a checkpoint.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from voxelsam import bundle, config
from voxelsam.data import phantom
from voxelsam.errors import OutputError
from voxelsam.evaluate.report import page
from voxelsam.evaluate.run import evaluate
from voxelsam.infer import cohort
from voxelsam.infer.cases import Task
from voxelsam.infer.predictor import Predictor
from voxelsam.layouts import Case
from voxelsam.train import history, run
from voxelsam.train.job import Job, start

SETTINGS: dict[str, Any] = {
    "train": {"epochs": 8, "stacks_per_epoch": 140, "warmup": 50, "ema": None},
    "augment": {"preset": "light"},
}
"""Small enough for two CPU cores and a few minutes."""

PHANTOM_SETTINGS: dict[str, Any] = {"stack": {"size": [96, 96]}}
"""The phantoms' slices are small; a larger input would only cost time."""

PHANTOMS: dict[str, Any] = {"cases": 14, "test_cases": 4}
"""Ten for training, two or three of the fourteen for validation, four that training never sees."""

Bar = Callable[[str], Callable[[int, int], None]]


def prepare(data: Path | None, folder: Path, settings: Sequence[str], bar: Bar) -> Job:
    """The data set, made or checked, and a training run that is ready to start.

    Args:
        data: the user's data set; None makes phantoms.
        folder: where everything goes.
        settings: of the recipe, ``section.key=value``; they go before the demo's own.
        bar: gives a progress callback of that name.

    Raises:
        OutputError: the folder is not empty.
        VoxelSamError: the data cannot be used, or a setting is wrong.
    """
    if folder.exists() and any(folder.iterdir()):
        raise OutputError(f"{folder} is not empty: remove it, or give another folder")
    root = data or phantom.make(folder / "data", **PHANTOMS)
    base = SETTINGS if data else config.merge(SETTINGS, PHANTOM_SETTINGS)
    job = start(root, folder / "run", config.override(base, settings), bar("reading cases"))
    run.prepare(job, bar("preparing cases"))
    return job


def finish(job: Job, folder: Path, bar: Bar) -> Iterator[str]:
    """After the training: masks of unseen volumes, their scores, the report; says after each step what came of it.

    Args:
        job: whose training is over.
        folder: where everything goes.
        bar: gives a progress callback of that name.
    """
    tested = tuple(case for case in job.dataset.test if case.label)
    unseen = tested or job.validation
    predict(job.folder / "best", unseen, folder / "masks", bar)
    yield f"segmented {len(unseen)} {'unseen' if tested else 'validation'} volumes: {folder / 'masks'}"
    references = {case.id: case for case in unseen}
    report = evaluate(folder / "masks", references, labels=job.labels, out=folder / "summary.json")
    yield from (f"  Dice {row.name}: {row.dice:.3f}" for row in report.classes)
    yield f"  mean Dice: {report.mean_dice:.3f}"
    notes = advice(random=job.recipe.backbone.weights is None, phantoms=job.folder.parent in job.dataset.root.parents)
    if not tested and job.recipe.train.keep == "best":
        notes.insert(0, "Scored on the validation cases, which also chose the best epoch: a little too good.")
    page(
        folder / "report.html",
        report,
        images={case.id: case.images for case in unseen},
        title=f"{job.dataset.name}: {job.recipe.adapt['name']} on {job.report.variant}",
        facts=facts(job),
        curve=history.curve(job.folder / run.METRICS),
        notes=notes,
        groups={case.id: case.group for case in unseen},
        references=references,
    )
    yield f"report: {folder / 'report.html'}"
    yield from notes


def predict(trained: Path, cases: Sequence[Case], folder: Path, bar: Bar) -> None:
    """A mask for each case, named after it.

    Raises:
        OutputError: a case could not be segmented.
    """
    todo = [Task(case.id, case.images, folder / f"{case.id}.nii.gz") for case in cases]
    for outcome in cohort.run(Predictor(bundle.load(trained)), todo, progress=lambda task: bar(task.id)):
        if outcome.status == "failed":
            raise OutputError(f"{outcome.id}: {outcome.reason}")


def advice(*, random: bool, phantoms: bool) -> list[str]:
    """What the result is worth, and what to do next."""
    lines = []
    if random:
        lines += [
            "The backbone is tiny and random, not pretrained: this shows that the pipeline works, not what SAM can do.",
            "With a SAM checkpoint: voxelsam train DATA -o run --set backbone.weights=sam_vit_b_01ec64.pth",
        ]
    if phantoms:
        lines.append("The scans are made up. With your own: make demo DATA=FOLDER, or voxelsam train FOLDER -o run")
    return lines


def facts(job: Job) -> dict[str, str]:
    """What the report says about the run."""
    recipe, stack = job.recipe, job.recipe.stack
    counts = job.segmenter.adaptation.counts()
    return {
        "cases": f"{len(job.train)} for training, {len(job.validation)} for validation",
        "method": f"{recipe.adapt['name']}, {sum(counts.values()):,} trained numbers ({', '.join(counts)})",
        "backbone": " · ".join(job.report.lines()),
        "stacks": f"{stack.depth} {stack.plane} slices of {stack.size[0]} × {stack.size[1]} pixels",
        "training": f"{recipe.train.epochs} epochs, batch {recipe.train.batch} × {recipe.train.accumulate}",
    } | {what: why for what, _, why in (reason.partition(": ") for reason in job.reasons)}
