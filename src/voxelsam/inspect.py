"""What is this file or folder? A bundle, a run, a data set, a checkpoint or a volume."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from voxelsam import backbones, bundle, config, formats, layouts
from voxelsam.errors import InputError

CHECKPOINTS = (".pth", ".pt", ".safetensors", ".bin")


def inspect(path: Path) -> dict[str, Any]:
    """Facts about a path as plain values; ``what`` says what it is.

    Raises:
        InputError: there is nothing there, or nothing that is known.
        VoxelSamError: it is known, but damaged.
    """
    if not path.exists():
        raise InputError(f"there is no {path}")
    return next(describe for is_one, describe in KNOWN if is_one(path))(path)


def _bundle(path: Path) -> dict[str, Any]:
    loaded = bundle.load(path)
    numbers = sum(tensor.numel() for tensor in loaded.tensors.values())
    return {"what": "bundle", "path": str(path), "trained_numbers": numbers} | config.plain(loaded.description)


def _run(path: Path) -> dict[str, Any]:
    found = [name for name in ("best", "last") if (path / name / bundle.DESCRIPTION).is_file()]
    return {"what": "run", "path": str(path), "bundles": found, "recipe": config.read(path / "recipe.yaml")}


def _data_set(path: Path) -> dict[str, Any]:
    dataset = layouts.open_dataset(path)
    return {
        "what": "data set",
        "path": str(path),
        "name": dataset.name,
        "layout": dataset.layout,
        "kind": dataset.kind,
        "channels": dataset.channels,
        "labels": dataset.labels.to_json() if dataset.labels else None,
        "cases": {"labelled": len(dataset.train), "test": len(dataset.test)},
        "folds": [
            ({"name": split.name} if split.name else {}) | {"train": len(split.train), "val": len(split.val)}
            for split in dataset.splits
        ],
    }


def _checkpoint(path: Path) -> dict[str, Any]:
    variant = backbones.variant_of(None, path)
    return {"what": "checkpoint", "path": str(path), "variant": variant.name, "image_size": variant.image_size}


def _volume(path: Path) -> dict[str, Any]:
    volume = formats.read(path)
    grid, data = volume.grid, volume.data
    return {
        "what": "volume",
        "path": str(path),
        "shape": grid.shape,
        "channels": volume.channels,
        "spacing_mm": [round(step, 6) for step in grid.spacing],
        "axes": grid.axes,
        "type": str(data.dtype),
        "range": [float(data.min()), float(data.max())],
        "affine": grid.affine.tolist(),
    }


def _holds_checkpoint(path: Path) -> bool:
    return (path.is_file() and path.suffix in CHECKPOINTS) or any((path / name).is_file() for name in backbones.FILES)


KNOWN: tuple[tuple[Callable[[Path], bool], Callable[[Path], dict[str, Any]]], ...] = (
    (lambda path: (path / bundle.DESCRIPTION).is_file(), _bundle),
    (lambda path: (path / "recipe.yaml").is_file(), _run),
    (_holds_checkpoint, _checkpoint),
    (lambda path: bool(layouts.recognising(path)), _data_set),
    (lambda path: path.is_dir() and formats.family(path) == "dicom", _volume),
    (Path.is_dir, _data_set),
    (Path.is_file, _volume),
)
