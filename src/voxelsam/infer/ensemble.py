"""Several trained models whose probabilities are averaged: the folds of a cross-validation, or any models of one task.

Members must name the same structures with the same values and take the same channels; the mean is taken on the slices
of the canonical volume, so they must also cut across the same axis at the same spacing. In all else they may differ:
method, backbone, prompts, depth of stacks, size of the model's picture, intensities. All networks are in memory
together.
"""

import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from voxelsam import bundle
from voxelsam.bundle import DESCRIPTION, Bundle
from voxelsam.errors import ConfigError, WeightsError
from voxelsam.infer.average import average
from voxelsam.infer.clean import EVERYTHING, Clean
from voxelsam.infer.prediction import Model, Prediction, Progress
from voxelsam.infer.predictor import Precision, Predictor
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.volume import Kind, Volume

FOLDS = "fold_*"
"""Folders of a cross-validation, each a run with ``best/``."""


class Ensemble:
    """Models that answer together; the order in which they come makes no difference.

    Args:
        members: at least one.
        clean: which parts of a structure stay; the members' own rules do not count.

    Raises:
        ConfigError: there is no member, or they do not agree on labels, channels or slices.
    """

    def __init__(self, members: Sequence[Predictor], clean: Clean = EVERYTHING) -> None:
        check([member.bundle for member in members])
        self.members = tuple(sorted(members, key=lambda member: _order(member.bundle)))
        self.clean = clean

    @property
    def labels(self) -> Labels:
        """Names and values of the structures."""
        return self.members[0].labels

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels that a volume must have, in order."""
        return self.members[0].channels

    @property
    def kind(self) -> Kind:
        """Modality of the training scans."""
        return self.members[0].kind

    @property
    def depth(self) -> int:
        """Slices of a stack; the most that a member has."""
        return max(member.depth for member in self.members)

    @property
    def author(self) -> str:
        """What label maps made by it say of their origin: program, version, beginning of a hash of all members."""
        if len(self.members) == 1:
            return self.members[0].bundle.author
        hashes = "".join(member.bundle.description.weights_sha256 for member in self.members)
        together = hashlib.sha256(hashes.encode()).hexdigest()[:12]
        return f"voxelsam {version('voxelsam')} {together} ({len(self.members)} models)"

    @property
    def arithmetic(self) -> str:
        """Names all that rounding depends on; the same for all members that were built together."""
        return ", ".join(dict.fromkeys(member.arithmetic for member in self.members))

    def check_prompt_free(self) -> None:
        """Refuses members that always need a prompt.

        Raises:
            ConfigError: a member was trained with prompts only.
        """
        for member in self.members:
            member.check_prompt_free()

    def __call__(self, volume: Volume, progress: Progress | None = None, *, probabilities: bool = False) -> Prediction:
        """Segments a volume by the mean of the members' probabilities.

        Args:
            volume: with the channels that the members were trained on, in the same order.
            progress: told after every finished slice.
            probabilities: keep those of each structure too, one byte per voxel; ``clean`` does not touch them.

        Raises:
            ConfigError: a member was trained with prompts only.
            InputError: the volume has another number of channels.
        """
        self.check_prompt_free()
        self.members[0].check(volume)
        return average(self.members, volume, self.author, self.clean, progress, probabilities=probabilities)


def load(
    paths: Sequence[str | Path],
    *,
    weights: Path | None = None,
    device: str = "auto",
    precision: Precision = "fp32",
    stride: int | None = None,
    batch: int | Literal["auto"] = "auto",
    single_pass: bool = False,
    clean: Clean = EVERYTHING,
    tta: bool = False,
) -> Model:
    """One model, or the ensemble of several, from folders; see ``read`` and ``Predictor`` for the arguments.

    Raises:
        WeightsError: a folder is not a bundle, or its backbone is missing or another one.
        ConfigError: the models do not go together.
    """
    return build(
        read(paths),
        weights=weights,
        device=device,
        precision=precision,
        stride=stride,
        batch=batch,
        single_pass=single_pass,
        clean=clean,
        tta=tta,
    )


def read(paths: Sequence[str | Path]) -> tuple[Bundle, ...]:
    """The bundles of some folders, which go together; always in the same order.

    Args:
        paths: bundles, or folders with ``fold_*/best``, whose folds are all taken.

    Raises:
        WeightsError: a folder is not a bundle, or a fold has none yet.
        ConfigError: the models do not go together, or one comes twice.
    """
    folders = [folder for path in paths for folder in _folders(Path(path))]
    if twice := {str(folder) for folder in folders if folders.count(folder) > 1}:
        raise ConfigError(f"{', '.join(sorted(twice))} is given twice: a model can agree with itself only")
    bundles = [bundle.load(folder) for folder in folders]
    check(bundles, [str(folder) for folder in folders])
    return tuple(sorted(bundles, key=_order))


def build(
    bundles: Sequence[Bundle], *, clean: Clean = EVERYTHING, overlap: int | None = None, **settings: Any
) -> Predictor | Ensemble:
    """The model of one bundle, or the ensemble of several.

    Args:
        bundles: from ``read``.
        clean: which parts of a structure stay.
        overlap: slices that neighbouring stacks share, below the depth of every model; in the place of ``stride``.
        **settings: further keyword arguments of ``Predictor``.

    Raises:
        WeightsError: a backbone's checkpoint is missing or is not the one of the training.
        ConfigError: as for ``Predictor``.
    """

    def one(trained: Bundle, **rest: Any) -> Predictor:
        if overlap is not None:
            rest["stride"] = trained.description.stack.depth - overlap
        return Predictor(trained, **settings, **rest)

    if len(bundles) == 1:
        return one(bundles[0], clean=clean)
    return Ensemble([one(trained) for trained in bundles], clean)


def made_by(bundles: Sequence[Bundle]) -> str | list[str]:
    """What tells the masks of these models from all others: the hash of the weights, or those of all members."""
    hashes = [one.description.weights_sha256 for one in bundles]
    return hashes[0] if len(hashes) == 1 else hashes


def identity(bundles: Sequence[Bundle]) -> dict[str, Any]:
    """What a record says of the models."""
    if len(bundles) == 1:
        return dict(bundles[0].identity())
    return {"members": [one.identity() for one in bundles]}


def check(bundles: Sequence[Bundle], names: Sequence[str] | None = None) -> None:
    """Refuses models that cannot be averaged.

    Args:
        bundles: of the models.
        names: how to call each in messages.

    Raises:
        ConfigError: there is none, or they differ in labels, channels, plane or spacing; the message says in what.
    """
    if not bundles:
        raise ConfigError("an ensemble needs at least one model")
    called = names or [f"model {number}" for number in range(1, len(bundles) + 1)]
    wanted = _shared(bundles[0])
    lines = [
        f"  {what}: {called[0]} has {_said(wanted[what])}, {name} has {_said(value)}"
        for name, one in zip(called[1:], bundles[1:], strict=True)
        for what, value in _shared(one).items()
        if value != wanted[what]
    ]
    if lines:
        raise ConfigError(
            "these models cannot be averaged, because they differ in what must be the same:\n" + "\n".join(lines)
        )


def _folders(path: Path) -> list[Path]:
    """The bundles that a folder stands for: itself, or the best of each fold."""
    folds = sorted((fold for fold in path.glob(FOLDS) if fold.is_dir()), key=_number)
    if (path / DESCRIPTION).is_file() or not folds:
        return [path.resolve()]
    if missing := [fold.name for fold in folds if not (fold / "best" / DESCRIPTION).is_file()]:
        raise WeightsError(
            f"{path} holds folds, but {', '.join(missing)} has no best/{DESCRIPTION} yet: finish the training, or name "
            f"the folds to use, such as -m {folds[0] / 'best'}"
        )
    return [(fold / "best").resolve() for fold in folds]


def _number(fold: Path) -> tuple[int, str]:
    end = fold.name.removeprefix("fold_")
    return (int(end), "") if end.isdecimal() else (2**31, end)


def _shared(one: Bundle) -> Mapping[str, Any]:
    """What all members have in common."""
    known = one.description
    return {
        "labels": one.labels.to_json(),
        "channels": list(known.channels),
        "stack.plane": known.stack.plane,
        "stack.spacing": known.stack.spacing and list(known.stack.spacing),
    }


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {number}" for name, number in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value or "the scan's own")


def _order(one: Bundle) -> tuple[str, str]:
    """Members are added up in this order, so that the order in which they are named cannot change a bit."""
    return one.description.weights_sha256, one.description.backbone.sha256
