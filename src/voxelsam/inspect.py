"""What is this file or folder? A bundle, a run, results, a data set, a checkpoint, an image, a film or a label map."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from voxelsam import backbones, bundle, config, formats, layouts, record
from voxelsam.errors import InputError
from voxelsam.formats import dicom, dicom_seg
from voxelsam.formats._video_folder import SIDECAR
from voxelsam.space.grid import Grid

CHECKPOINTS = (".pth", ".pt", ".safetensors", ".bin")
SEGMENTS = ".seg.nrrd"
"""Ending of label maps that name their segments."""


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


def _results(path: Path) -> dict[str, Any]:
    runs = [
        {
            "command": run.get("command"),
            "status": run.get("status"),
            "started": run.get("started"),
            "cases": _counted([case.get("status") for case in run.get("cases", {}).values()]),
            "checks": ", ".join(run.get("checks", {}).get("found", {})),
        }
        for run in record.read(path / record.FILE)["runs"]
    ]
    return {"what": "results", "path": str(path), "runs": runs}


def _counted(names: Sequence[str]) -> str:
    return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))


def _dicom(path: Path) -> dict[str, Any]:
    """A volume, or what can be chosen where there is more than one."""
    series = dicom.list_series(path)
    if len(series) == 1:
        return _volume(path)
    rows = [
        {
            "number": one.number,
            "series": one.key,
            "modality": one.modality,
            "slices": one.slices,
            "frames": one.frames,
            "size": " x ".join(map(str, one.size)),
            "orientation": one.orientation,
            "note": one.note,
        }
        for one in series
    ]
    return {"what": "several DICOM series", "path": str(path), "choose": "--series NUMBER", "series": rows}


def _volume(path: Path) -> dict[str, Any]:
    volume = formats.read(path)
    data = volume.data
    return {
        "what": "film" if volume.grid.along_k == "time" else "volume",
        "path": str(path),
        "channels": volume.channels,
        **_lattice(volume.grid),
        "type": str(data.dtype),
        "range": [float(data.min()), float(data.max())],
        "affine": volume.grid.affine.tolist(),
    }


def _lattice(grid: Grid) -> dict[str, Any]:
    i, j, k = (round(step, 6) for step in grid.spacing)
    if grid.along_k == "time":
        return {"shape": grid.shape, "seconds_per_frame": k}
    return {"shape": grid.shape, "spacing_mm": [i, j, k], "axes": grid.axes}


def _segmentation(path: Path) -> dict[str, Any]:
    """Segments by themselves: in DICOM they may overlap."""
    segments = dicom_seg.read_segments(path)
    grid = segments[0].grid
    rows = [_structure(one.number, one.name, int(one.mask.sum()), grid) for one in segments]
    return {"what": "segmentation", "path": str(path), **_lattice(grid), "structures": rows}


def _label_map(path: Path) -> dict[str, Any]:
    found = formats.read_labels(path)
    counts = dict(zip(*(part.tolist() for part in np.unique(found.data, return_counts=True)), strict=True))
    rows = [
        _structure(found.labels.values[name], name, counts.get(found.labels.values[name], 0), found.grid)
        for name in found.labels.names
    ]
    return {"what": "label map", "path": str(path), **_lattice(found.grid), "structures": rows}


def _structure(number: int, name: str, voxels: int, grid: Grid) -> dict[str, Any]:
    facts: dict[str, Any] = {"number": number, "name": name, "voxels": voxels}
    if grid.along_k != "time":
        facts["millilitres"] = round(voxels * abs(float(np.linalg.det(grid.affine[:3, :3]))) / 1000, 3)
    return facts


def _unknown_folder(path: Path) -> dict[str, Any]:
    if not any(path.iterdir()):
        raise InputError(f"{path}: an empty folder, no known layout of a data set", code="SET-03")
    return _data_set(path) if formats.family(path) is None else _volume(path)


def _family(path: Path) -> str | None:
    """Name of the format; what is wrong with a damaged file is told by its reader."""
    try:
        return formats.family(path)
    except InputError:
        return None


def _holds_checkpoint(path: Path) -> bool:
    return (path.is_file() and path.suffix in CHECKPOINTS) or any((path / name).is_file() for name in backbones.FILES)


KNOWN: tuple[tuple[Callable[[Path], bool], Callable[[Path], dict[str, Any]]], ...] = (
    (lambda path: (path / bundle.DESCRIPTION).is_file(), _bundle),
    (lambda path: (path / "recipe.yaml").is_file(), _run),
    (_holds_checkpoint, _checkpoint),
    (lambda path: bool(layouts.recognising(path)), _data_set),
    (lambda path: (path / record.FILE).is_file(), _results),
    (lambda path: _family(path) == "dicom", _dicom),
    (lambda path: _family(path) == "dicom_seg", _segmentation),
    (lambda path: path.name.lower().endswith(SEGMENTS) or (path / SIDECAR).is_file(), _label_map),
    (Path.is_dir, _unknown_folder),
    (Path.is_file, _volume),
)
