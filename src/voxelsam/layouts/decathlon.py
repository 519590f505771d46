"""The layout of the Medical Segmentation Decathlon: ``dataset.json`` lists the files of each case under ``training``.

``labels`` and ``modality`` are numbered from "0". Several modalities are volumes of one 4-D file, so that a case may
have fewer files than the data set has channels. MONAI's additions ``fold`` (per case) and ``validation`` (a list) are
read as splits.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from voxelsam.errors import InputError
from voxelsam.layouts._dataset import (
    Case,
    Dataset,
    Problems,
    Split,
    channels_of,
    kind_of,
    labels_of,
    read_table,
    stem,
    visible,
)
from voxelsam.layouts._split import check_splits

EXPECTS = 'dataset.json with "training": [{"image": "imagesTr/CASE.nii.gz", "label": "labelsTr/CASE.nii.gz"}, …]'
_TEST_KEYS = ("test", "testing")


def recognises(root: Path) -> bool:
    """Whether a dataset.json lists training pairs, under the names that the files have.

    nnU-Net 1 wrote the same keys, but its listed images do not exist: the real ones carry a channel number.
    """
    source = root / "dataset.json"
    if not source.is_file():
        return False
    try:
        training = read_table(source).get("training")
    except InputError:
        return False
    if not isinstance(training, list):
        return False
    listed = [root / path for entry in training if isinstance(entry, dict) for path in _paths(entry.get("image"))]
    numbered = any(stem(path)[-5:-4] == "_" and stem(path)[-4:].isdecimal() for path in visible(root / "imagesTr"))
    return any(path.is_file() for path in listed) or not numbered


def read(root: Path) -> Dataset:
    """The data set in a folder.

    Raises:
        InputError: all that is wrong, at once: SET-01 missing files and wrong entries, SET-02 splits that leak, VAL-06
            channels, LAB-02 label table, SET-03 unreadable JSON.
    """
    source = root / "dataset.json"
    values = read_table(source)
    problems = Problems(root)
    labels = labels_of(values, source, problems)
    channels = channels_of(values, source, problems)
    training = _entries(values, "training", problems)
    validation = _entries(values, "validation", problems)
    train = [_case(root, entry, len(channels), problems, labelled=True) for entry in (*training, *validation)]
    tests = [entry for key in _TEST_KEYS for entry in _entries(values, key, problems)]
    test = [_case(root, entry, len(channels), problems, labelled=False) for entry in tests]
    if not train and not test:
        problems.add("SET-01", f"no cases; expected {EXPECTS}")
    problems.check_ids((*train, *test))
    splits = _splits(training, train, problems)
    check_splits(splits, str(source), train, problems)
    problems.stop()
    return Dataset(
        root,
        "decathlon",
        str(values.get("name", root.name)),
        labels,
        channels,
        kind_of(channels),
        tuple(train),
        tuple(test),
        splits,
    )


def _entries(values: dict[str, Any], key: str, problems: Problems) -> list[dict[str, Any]]:
    """Entries of a list; a bare file name stands for an image without a label."""
    entries = values.get(key, [])
    if not isinstance(entries, list):
        problems.add("SET-01", f"dataset.json: {key!r} must be a list, but is a {type(entries).__name__}")
        return []
    full = [{"image": entry} if isinstance(entry, str) else entry for entry in entries]
    good = [entry for entry in full if isinstance(entry, dict) and _paths(entry.get("image"))]
    if len(good) < len(full):
        problems.add("SET-01", f'dataset.json: {len(full) - len(good)} entries of {key!r} name no "image"')
    return good


def _case(root: Path, entry: dict[str, Any], channels: int, problems: Problems, *, labelled: bool) -> Case:
    images = tuple(root / path for path in _paths(entry["image"]))
    name = stem(images[0])
    label = root / str(entry["label"]) if entry.get("label") else None
    if labelled and label is None:
        problems.add("SET-01", f"{name}: listed for training without a label")
    if channels and len(images) not in (1, channels):
        problems.add("VAL-06", f"{name}: expected 1 or {channels} images, but {len(images)} are listed")
    problems.missing((*images, *([label] if label else [])), name)
    return Case(name, images, label, str(entry.get("group", name)))


def _splits(training: Sequence[dict[str, Any]], train: Sequence[Case], problems: Problems) -> tuple[Split, ...]:
    """Splits from ``validation``, else from ``fold``; ``train`` begins with the cases of ``training``."""
    ids = [case.id for case in train]
    if len(train) > len(training):
        return (Split(tuple(ids[: len(training)]), tuple(ids[len(training) :])),)
    folds = [entry["fold"] for entry in training if isinstance(entry.get("fold"), int)]
    if not any("fold" in entry for entry in training):
        return ()
    if len(folds) < len(training):
        problems.add("SET-02", "dataset.json: 'fold' must be an integer in every entry of 'training', or in none")
        return ()
    return tuple(
        Split(
            tuple(name for name, fold in zip(ids, folds, strict=True) if fold != number),
            tuple(name for name, fold in zip(ids, folds, strict=True) if fold == number),
        )
        for number in sorted(set(folds))
    )


def _paths(value: Any) -> list[str]:
    paths = value if isinstance(value, list) else [value]
    return [path for path in paths if isinstance(path, str) and path]
