"""AMOS 2022, abdominal CT and MR with 15 organs, as it is downloaded.

``imagesTr/amos_0001.nii.gz`` with ``labelsTr``, ``imagesVa`` with ``labelsVa``, unlabelled ``imagesTs``, and a
``dataset.json`` that lists them; what it lists must be there. Numbers below 500 are CT, the others MR. Labels of
``imagesVa`` came with the release after the challenge; without the folder ``labelsVa`` these scans are for testing.

Folds: 0 trains on ``imagesTr`` and validates on ``imagesVa``; where both CT and MR are on both sides, 1 is CT alone and
2 is MR alone. The table is that of the release's ``dataset.json``; ``adrenal_glands`` is a region, so that scores
compare with MA-SAM's classes, which has both glands as one. No window is published, and CT and MR would not share it.
Every scan counts as another patient; the release does not say otherwise.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from voxelsam import checks
from voxelsam.errors import InputError
from voxelsam.layouts._dataset import Case, Dataset, Problems, Split, read_table, some, stem, visible
from voxelsam.layouts._official import check_twins, numbered
from voxelsam.volumes import Kind, Labels

EXPECTS = "AMOS 2022: imagesTr/amos_0001.nii.gz, labelsTr/amos_0001.nii.gz, imagesVa, labelsVa, imagesTs, dataset.json"
SPECIALISES = ("decathlon", "nnunet")

LABELS = Labels(
    {
        "background": 0,
        "spleen": 1,
        "right_kidney": 2,
        "left_kidney": 3,
        "gallbladder": 4,
        "oesophagus": 5,
        "liver": 6,
        "stomach": 7,
        "aorta": 8,
        "inferior_vena_cava": 9,
        "pancreas": 10,
        "right_adrenal_gland": 11,
        "left_adrenal_gland": 12,
        "duodenum": 13,
        "bladder": 14,
        "prostate_uterus": 15,
    },
    regions={"adrenal_glands": (11, 12)},
)
FIRST_MR = 500

_FILE = re.compile(r"(amos_\d{4})\.nii(\.gz)?")
_LISTS = {"training": "Tr", "validation": "Va", "test": "Ts"}


def recognises(root: Path) -> bool:
    """Whether a folder holds scans named ``amos_0001``, without the channel numbers of nnU-Net."""
    return any(_FILE.fullmatch(path.name) for part in _LISTS.values() for path in visible(root / f"images{part}"))


def read(root: Path) -> Dataset:
    """The data set in a folder.

    Raises:
        InputError: all that is wrong, at once: SET-01 missing partners, scans that ``dataset.json`` lists but that were
            not downloaded, unexpected names; SET-03 unreadable JSON.
    """
    problems = Problems(root)
    training = _cases(root, "Tr", problems)
    validation = _cases(root, "Va", problems)
    test = _cases(root, "Ts", problems)
    _compare_lists(root, (*training, *validation, *test), problems)
    train = (*training, *(case for case in validation if case.label))
    test = (*test, *(case for case in validation if not case.label))
    if not train and not test:
        problems.add("SET-01", f"no cases; expected {EXPECTS}")
    problems.check_ids((*train, *test))
    problems.stop()
    kinds = {_kind(case) for case in (*train, *test)}
    kind: Kind = kinds.pop() if len(kinds) == 1 else "UNKNOWN"
    channel = "CT_or_MR" if kind == "UNKNOWN" else kind
    splits = _splits(training, [case for case in validation if case.label])
    return Dataset(root, "amos", "AMOS 2022", LABELS, (channel,), kind, train, test, splits)


def _cases(root: Path, part: str, problems: Problems) -> tuple[Case, ...]:
    folders = [root / f"{what}{part}" for what in ("images", "labels")]
    images, labels = (numbered(folder, _FILE, "amos_0001.nii.gz", problems) for folder in folders)
    if part == "Tr" or labels:
        check_twins(images, labels, (f"{folders[0]}/{{}}.nii.gz", f"{folders[1]}/{{}}.nii.gz"), problems)
    return tuple(Case(name, (path,), labels.get(name)) for name, path in images.items())


def _compare_lists(root: Path, cases: tuple[Case, ...], problems: Problems) -> None:
    """Notes scans that dataset.json lists and that are not there; folders left out whole are only warned of."""
    source = root / "dataset.json"
    if not source.is_file():
        return
    try:
        values = read_table(source)
    except InputError as error:
        problems.add(error.code, str(error))
        return
    here = {case.id for case in cases}
    for key, part in _LISTS.items():
        absent = sorted(_listed(values.get(key)) - here)
        message = f"{len(absent)} scans of images{part} that dataset.json lists are not here: {some(absent)}"
        if absent and (part == "Tr" or (root / f"images{part}").is_dir()):
            problems.add("SET-01", f"{message}; download them")
        elif absent:
            checks.notice("SET-01", f"{root}: {message}", stacklevel=4)


def _listed(entries: Any) -> set[str]:
    """Ids in one of the lists of dataset.json, whose entries are file names or name an image."""
    listed = entries if isinstance(entries, list) else []
    files = [entry.get("image") if isinstance(entry, dict) else entry for entry in listed]
    return {stem(Path(file)) for file in files if isinstance(file, str)}


def _kind(case: Case) -> Kind:
    return "MR" if int(case.id.removeprefix("amos_")) >= FIRST_MR else "CT"


def _splits(training: Sequence[Case], validation: Sequence[Case]) -> tuple[Split, ...]:
    splits = [Split(tuple(case.id for case in training), tuple(case.id for case in validation), "imagesTr, imagesVa")]
    for kind in ("CT", "MR"):
        train = tuple(case.id for case in training if _kind(case) == kind)
        val = tuple(case.id for case in validation if _kind(case) == kind)
        splits.append(Split(train, val, f"imagesTr, imagesVa, {kind} alone"))
    complete = [split for split in splits if split.train and split.val]
    return tuple(complete if len(complete) == len(splits) else complete[:1])
