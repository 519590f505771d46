"""nnU-Net's raw layout, versions 1 and 2.

``imagesTr/CASE_0000.nii.gz`` (one file per channel: ``_0000``, ``_0001`` …; a colour picture is one file with all
channels), ``labelsTr/CASE.nii.gz``, optionally ``imagesTs`` and ``labelsTs``; ``dataset.json`` names labels, channels
and file ending, or lists the files of each case under ``dataset``. Splits are read from ``splits_final.json`` or
``splits.json``. Ours are the key ``groups`` (case to patient) and the folders ``instancesTr`` and ``instancesTs``: in
each of their files the objects of a label file have numbers.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voxelsam import checks
from voxelsam.errors import InputError
from voxelsam.formats import picture
from voxelsam.layouts import decathlon
from voxelsam.layouts._dataset import (
    Case,
    Dataset,
    Problems,
    Split,
    channels_of,
    kind_of,
    labels_of,
    read_json,
    read_table,
    visible,
)
from voxelsam.layouts._split import declared_splits

EXPECTS = "dataset.json with channel_names and labels, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz"
_NUMBERED = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
_SPLIT_FILES = ("splits_final.json", "splits.json")


def recognises(root: Path) -> bool:
    """Whether a folder has a dataset.json and looks like nnU-Net's rather than the Decathlon's."""
    if not (root / "dataset.json").is_file() or decathlon.recognises(root):
        return False
    try:
        values = read_table(root / "dataset.json")
    except InputError:
        values = {}
    return (root / "imagesTr").is_dir() or bool({"channel_names", "modality", "dataset"} & set(values))


def read(root: Path) -> Dataset:
    """The data set in a folder.

    Raises:
        InputError: all that is wrong, at once: SET-01 missing or surplus files, SET-02 splits that leak, VAL-06
            channels, LAB-02 label table, SET-03 unreadable JSON.
    """
    source = root / "dataset.json"
    values = read_table(source)
    problems = Problems(root)
    labels = labels_of(values, source, problems)
    channels = channels_of(values, source, problems)
    groups = _groups(values, source, problems)
    ending = str(values.get("file_ending", ".nii.gz"))
    if "dataset" in values:
        train = _listed(root, values["dataset"], len(channels), groups, problems)
        test: tuple[Case, ...] = ()
    else:
        train = _cases(root, "Tr", ending, len(channels), groups, problems)
        test = _cases(root, "Ts", ending, len(channels), groups, problems)
    if not train and not test:
        problems.add("SET-01", f"no cases; expected {EXPECTS}")
    problems.check_ids((*train, *test))
    splits = _splits(root, train, problems)
    problems.stop()
    _compare_count(source, values, len(train))
    pictures = all(picture.named_so(path) for case in (*train, *test) for path in case.images)
    kind = "PICTURE" if pictures else kind_of(channels)
    return Dataset(root, "nnunet", str(values.get("name", root.name)), labels, channels, kind, train, test, splits)


def _cases(
    root: Path, part: str, ending: str, channels: int, groups: Mapping[str, str], problems: Problems
) -> tuple[Case, ...]:
    images: dict[str, dict[int, Path]] = {}
    for path in visible(root / f"images{part}"):
        bare = path.name.removesuffix(ending)
        match = _NUMBERED.fullmatch(bare)
        if match and bare != path.name:
            images.setdefault(match["case"], {})[int(match["channel"])] = path
        elif bare != path.name:
            problems.add("SET-01", f"{path}: no channel number; expected CASE_0000{ending}")
        elif re.search(r"_\d{4}\.", path.name):
            problems.add("SET-01", f"{path}: does not end with {ending}, as dataset.json says files do")
    labels, instances = (_by_case(root / f"{what}{part}", ending) for what in ("labels", "instances"))
    for case, files in images.items():
        if not (list(files) == [0] and picture.named_so(files[0])):
            _compare_channels(case, sorted(files), channels, problems)
        if part == "Tr" and case not in labels:
            problems.add("SET-01", f"{case}: {root / f'labels{part}' / (case + ending)} does not exist")
    for case in sorted(set(labels) - set(images)):
        problems.add("SET-01", f"{case}: {labels[case]} has no image {case}_0000{ending} in images{part}")
    for case in sorted(set(instances) ^ set(labels)) if instances else ():
        lone, other = (instances[case], "labels") if case in instances else (labels[case], "instances")
        problems.add("SET-01", f"{case}: {lone} has no file of the same name in {other}{part}")
    return tuple(
        Case(
            case,
            tuple(files[channel] for channel in sorted(files)),
            labels.get(case),
            groups.get(case, case),
            instances.get(case),
        )
        for case, files in sorted(images.items())
    )


def _by_case(folder: Path, ending: str) -> dict[str, Path]:
    return {path.name.removesuffix(ending): path for path in visible(folder) if path.name.endswith(ending)}


def _compare_channels(case: str, found: list[int], channels: int, problems: Problems) -> None:
    if channels and found != list(range(channels)):
        expected = ", ".join(f"{channel:04}" for channel in range(channels))
        came = ", ".join(f"{channel:04}" for channel in found)
        problems.add("VAL-06", f"{case}: expected the channels {expected}, but there are {came}")


def _listed(root: Path, entries: Any, channels: int, groups: Mapping[str, str], problems: Problems) -> tuple[Case, ...]:
    if not isinstance(entries, dict):
        problems.add("SET-01", f"dataset.json: 'dataset' must list cases, but is a {type(entries).__name__}")
        return ()
    cases = []
    for name, entry in sorted(entries.items()):
        if not isinstance(entry, dict) or not isinstance(entry.get("images"), list) or "label" not in entry:
            problems.add("SET-01", f'{name}: expected {{"images": [files], "label": file}}, but it is {entry!r}')
            continue
        images = tuple(root / str(path) for path in entry["images"])
        whole = len(images) == 1 and picture.named_so(images[0])
        if channels and len(images) != channels and not whole:
            problems.add("VAL-06", f"{name}: expected {channels} images, one per channel, but {len(images)} are listed")
        problems.missing((*images, root / str(entry["label"])), name)
        cases.append(Case(name, images, root / str(entry["label"]), groups.get(name, name)))
    return tuple(cases)


def _groups(values: Mapping[str, Any], source: Path, problems: Problems) -> dict[str, str]:
    groups = values.get("groups", {})
    if not isinstance(groups, dict):
        problems.add("SET-02", f"{source}: 'groups' must map cases to patients, but is a {type(groups).__name__}")
        return {}
    return {str(case): str(group) for case, group in groups.items()}


def _splits(root: Path, train: tuple[Case, ...], problems: Problems) -> tuple[Split, ...]:
    contents = {}
    for name in _SPLIT_FILES:
        if (root / name).is_file():
            try:
                contents[name] = read_json(root / name)
            except InputError as error:
                problems.add("SET-03", str(error))
    if len(contents) == 2 and contents[_SPLIT_FILES[0]] != contents[_SPLIT_FILES[1]]:
        problems.add("SET-02", f"{' and '.join(_SPLIT_FILES)} differ; keep one of them")
    for name, value in contents.items():
        return declared_splits(value, str(root / name), train, problems)
    return ()


def _compare_count(source: Path, values: Mapping[str, Any], found: int) -> None:
    declared = values.get("numTraining", found)
    if declared != found:
        checks.notice(
            "SET-01",
            f"{source}: numTraining is {declared}, but there are {found} training cases; is the data set complete?",
            stacklevel=3,
        )
