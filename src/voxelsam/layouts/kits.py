"""KiTS, kidney tumours in CT: the challenges of 2019, 2021 and 2023, as they are downloaded.

A folder per scan, ``case_00000/imaging.nii.gz`` with its label, in the folder itself or in ``data`` (2019),
``kits21/data`` or ``data`` (2021), ``dataset`` (2023) below it. The year follows from the files:

* 2021: the label is ``aggregated_MAJ_seg.nii.gz``, the majority of three annotations;
* 2023: the label is ``segmentation.nii.gz``, and beside it lies ``instances``, or the set has ``kits23.json`` or
  numbers from 400 on;
* 2019: the label is ``segmentation.nii.gz`` and nothing speaks for 2023; ``case_00210`` to ``case_00299`` are
  unlabelled.

In 2019 a cyst is kidney, so its table ends with 2; from 2021 on cysts are 3. The regions are those that the challenge
scores. The years share patients under the same numbers and cannot be mixed. No year declares a split or a window, and
each case counts as another patient.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from voxelsam.layouts._dataset import Case, Dataset, Problems, folders, some
from voxelsam.volumes import Labels

EXPECTS = "KiTS: case_00000/imaging.nii.gz with segmentation.nii.gz (2019, 2023) or aggregated_MAJ_seg.nii.gz (2021)"

LABELS_2019 = Labels(
    {"background": 0, "kidney": 1, "tumour": 2},
    regions={"kidney_and_tumour": (1, 2)},
)
LABELS = Labels(
    {"background": 0, "kidney": 1, "tumour": 2, "cyst": 3},
    regions={"kidney_and_masses": (1, 2, 3), "masses": (2, 3)},
)
UNLABELLED_2019 = range(210, 300)

_HOMES = (".", "data", "dataset", "kits21/data", "kits19/data", "kits23/dataset")
_CASE = re.compile(r"case_(\d{5})")
_IMAGE = "imaging.nii.gz"
_LABEL_FILES = {"2021": "aggregated_MAJ_seg.nii.gz", "2019": "segmentation.nii.gz", "2023": "segmentation.nii.gz"}


def recognises(root: Path) -> bool:
    """Whether a folder holds folders named ``case_00000`` with a file of KiTS in them."""
    files = (_IMAGE, *_LABEL_FILES.values())
    return any((case / file).is_file() for case in _folders(root).values() for file in files)


def read(root: Path) -> Dataset:
    """The data set in a folder.

    Raises:
        InputError: all that is wrong, at once: SET-01 scans or labels that were not downloaded, no cases at all; SET-02
            files of several years.
    """
    problems = Problems(root)
    found = _folders(root)
    year = _year(found, problems)
    images = {name: folder for name, folder in found.items() if (folder / _IMAGE).is_file()}
    labels = {name: folder for name, folder in found.items() if (folder / _LABEL_FILES[year]).is_file()}
    if absent := sorted(found.keys() - images.keys()):
        problems.add("SET-01", f"{_IMAGE} is missing in {len(absent)} cases ({some(absent)}); download the scans")
    open_cases = {name for name in found if year == "2019" and _number(name) in UNLABELLED_2019}
    if absent := sorted(found.keys() - labels.keys() - open_cases):
        problems.add("SET-01", f"{_LABEL_FILES[year]} is missing in {len(absent)} cases ({some(absent)})")
    if not found:
        problems.add("SET-01", f"no cases; expected {EXPECTS}")
    problems.stop()
    cases = [
        Case(name, (folder / _IMAGE,), folder / _LABEL_FILES[year] if name in labels else None)
        for name, folder in found.items()
    ]
    return Dataset(
        root,
        "kits",
        f"KiTS {year}",
        LABELS_2019 if year == "2019" else LABELS,
        ("CT",),
        "CT",
        tuple(case for case in cases if case.label is not None),
        tuple(case for case in cases if case.label is None),
    )


def _folders(root: Path) -> dict[str, Path]:
    """Folder of each case."""
    for home in _HOMES:
        found = {path.name: path for path in folders(root / home) if _CASE.fullmatch(path.name)}
        if found:
            return found
    return {}


def _number(name: str) -> int:
    return int(name.removeprefix("case_"))


def _year(found: Mapping[str, Path], problems: Problems) -> str:
    plain = [name for name, folder in found.items() if (folder / _LABEL_FILES["2019"]).is_file()]
    majority = [name for name, folder in found.items() if (folder / _LABEL_FILES["2021"]).is_file()]
    if plain and majority:
        problems.add(
            "SET-02",
            f"labels of several years: {_LABEL_FILES['2021']} of 2021 in {some(majority)}, {_LABEL_FILES['2019']} of "
            f"2019 or 2023 in {some(plain)}; the years show the same patients, so keep one of them",
        )
    if majority:
        return "2021"
    homes = {folder.parent for folder in found.values()}
    later = (
        any((home / "kits23.json").is_file() for home in homes)
        or any((folder / "instances").is_dir() for folder in found.values())
        or any(_number(name) >= UNLABELLED_2019.stop for name in found)
        or any(_number(name) in UNLABELLED_2019 for name in plain)
    )
    return "2023" if later else "2019"
