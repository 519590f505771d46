"""Trains the same run again and again, each time killed at another place, and lets it go on; see ``test_killed.py``.

Every training is a fork of this process, so that the libraries are loaded once. A killed one ends by SIGKILL, as if the
machine had lost its power.

Arguments: data set, folder for the runs, recipe as JSON.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from voxelsam import bundle
from voxelsam.data.augment import Augment, AugmentConfig
from voxelsam.train import state
from voxelsam.train.job import go_on, start
from voxelsam.train.module import TrainingModule
from voxelsam.train.progress import Picture
from voxelsam.train.run import fit


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, when: Callable[..., bool]) -> None:
    """Dies at the beginning of a call of a method or function, if the condition holds for its arguments."""
    original = getattr(owner, name)

    def dying(*arguments: Any, **named: Any) -> Any:
        if when(*arguments):
            die()
        return original(*arguments, **named)

    setattr(owner, name, dying)


def in_training(module: TrainingModule, batch: Any, index: int) -> bool:
    return module.current_epoch == 1 and index == 3


def in_validation(module: TrainingModule, batch: Any, index: int) -> bool:
    return module.current_epoch == 0 and index == 1


def half_way(trainer: Any, path: Path) -> bool:
    return trainer.current_epoch == 0 and trainer.fit_loop.epoch_loop.batch_progress.current.ready == 2


def second_at(place: Path) -> Callable[..., bool]:
    """Whether this is the second time that something lands at a place."""
    times = []

    def found(source: Path, target: Path) -> bool:
        if Path(target) == place:
            times.append(source)
        return Path(target) == place and len(times) == 2

    return found


def put_half(new: Path, place: Path) -> bool:
    """Whether the new bundle of the second epoch is about to follow the old one, which has been moved away."""
    if place.name == "last" and place.exists():
        place.rename(new.with_name(new.name + ".old"))
        die()
    return False


def begun(folder: Path, module: TrainingModule, index: int) -> bool:
    """Writes down with which epoch and batch a run went on; kills nothing."""
    if not (folder / "begun").exists():
        (folder / "begun").write_text(f"{module.current_epoch} {index}")
    return False


POINTS: dict[str, Callable[[Path], None]] = {
    "in an epoch": lambda folder: before(TrainingModule, "training_step", in_training),
    "in validation": lambda folder: before(TrainingModule, "validation_step", in_validation),
    "before a state inside of an epoch": lambda folder: before(state, "save", half_way),
    "before the state is in its place": lambda folder: before(Path, "replace", second_at(folder / "state.ckpt")),
    "before the history is in its place": lambda folder: before(Path, "replace", second_at(folder / "metrics.csv")),
    "between the renames of a bundle": lambda folder: before(bundle, "_put", put_half),
    "while a bundle is written": lambda folder: before(bundle, "card", lambda known: known.training.get("epoch") == 1),
}
"""Where a run of two epochs is killed."""


def forked(work: Callable[[], Any]) -> int:
    """Runs something in a fork, and gives its exit status as ``os.waitpid`` does."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def main(data: Path, runs: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    job = start(data, runs / "whole", recipe)
    told: dict[str, Any] = {"whole": forked(lambda: fit(job))}
    for name, arm in POINTS.items():
        folder = runs / name.replace(" ", "_")

        def killed(folder: Path = folder, arm: Callable[[Path], None] = arm) -> None:
            arm(folder)
            fit(replace(job, folder=folder))

        def gone_on(folder: Path = folder) -> None:
            before(TrainingModule, "training_step", lambda module, batch, index: begun(folder, module, index))
            fit(go_on(folder))

        first = forked(killed)
        left = sorted(path.name for path in folder.iterdir())
        told[name] = {"killed": os.WTERMSIG(first) if os.WIFSIGNALED(first) else 0, "left": left, "on": forked(gone_on)}
    return told


if __name__ == "__main__":
    torch.set_num_threads(1)
    Augment(AugmentConfig())  # loads MONAI here, and not again in every fork
    Picture.draw = lambda *_: None  # type: ignore[method-assign]  # drawing takes longer than training here
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))) + "\n")
