"""BTCV, the abdominal CT of "Multi-Atlas Labeling Beyond the Cranial Vault" (Synapse), as it is downloaded.

``RawData/Training/img/img0001.nii.gz`` with ``RawData/Training/label/label0001.nii.gz`` (30 scans: 0001 to 0010 and
0021 to 0040) and, unlabelled, ``RawData/Testing/img/img0061.nii.gz``. The folder may be the one that holds
``Abdomen``, ``RawData`` or ``Training``, or ``Training`` itself. The arrangement of MONAI's tutorials
(``imagesTr/img0001.nii.gz``, ``labelsTr/label0001.nii.gz``, ``imagesTs``) is read as well, unless a ``dataset.json``
describes it.

Folds: 0 holds out 0035 to 0040 as MA-SAM does (its ``dataset_split.md``; Med-SA's 24 and 6 scans have no list of
their own); 1 holds out the 12 scans of TransUNet (its ``lists_Synapse/test_vol.txt``) and trains on the other 18. The
window is MA-SAM's. MA-SAM has twelve classes because it takes both adrenal glands as one: that is the region
``adrenal_glands`` here. Every scan is of another patient, as far as the download says.
"""

import re
from pathlib import Path
from typing import NamedTuple

from voxelsam.layouts._dataset import Case, Dataset, Problems, visible
from voxelsam.layouts._official import check_twins, hold_out, note_absent, numbered
from voxelsam.volumes import Labels

EXPECTS = "BTCV: RawData/Training/img/img0001.nii.gz and RawData/Training/label/label0001.nii.gz, RawData/Testing/img"
SPECIALISES = ("pairs",)

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
        "portal_and_splenic_veins": 10,
        "pancreas": 11,
        "right_adrenal_gland": 12,
        "left_adrenal_gland": 13,
    },
    regions={"adrenal_glands": (12, 13)},
)
WINDOW = (-200.0, 250.0)
PUBLISHED = tuple(f"img{number:04}" for number in (*range(1, 11), *range(21, 41)))
MA_SAM_TEST = tuple(f"img{number:04}" for number in range(35, 41))
TRANSUNET_TEST = tuple(f"img{number:04}" for number in (1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38))

_IMAGE = re.compile(r"img(\d{4})\.nii(\.gz)?")
_LABEL = re.compile(r"label(\d{4})\.nii(\.gz)?")


def recognises(root: Path) -> bool:
    """Whether a folder holds scans named as in BTCV, in one of its arrangements."""
    return _folders(root) is not None


def read(root: Path) -> Dataset:
    """The data set in a folder.

    Raises:
        InputError: SET-01, all missing partners and unexpected names at once, or no scans at all.
    """
    problems = Problems(root)
    found = _folders(root) or _arrangements(root)[0]
    train = _labelled(found, problems)
    tests = numbered(found.tests, _IMAGE, "img0061.nii.gz", problems, "img")
    test = tuple(Case(f"img{number}", (path,)) for number, path in tests.items())
    if not train and not test:
        problems.add("SET-01", f"no cases; expected {EXPECTS}")
    problems.check_ids((*train, *test))
    problems.stop()
    note_absent(root, PUBLISHED, [case.id for case in train], "training scans of BTCV")
    splits = (
        *hold_out(train, MA_SAM_TEST, "MA-SAM's test scans held out"),
        *hold_out(train, TRANSUNET_TEST, "TransUNet's test scans held out"),
    )
    return Dataset(root, "btcv", "BTCV", LABELS, ("CT",), "CT", train, test, splits, WINDOW)


class _Folders(NamedTuple):
    images: Path
    labels: Path
    tests: Path


def _arrangements(root: Path) -> list[_Folders]:
    raw = [root / above for above in ("RawData", "Abdomen/RawData", "Abdomen", ".")]
    official = [_Folders(home / "Training/img", home / "Training/label", home / "Testing/img") for home in raw]
    inside = _Folders(root / "img", root / "label", root / "Testing/img")
    tutorial = _Folders(root / "imagesTr", root / "labelsTr", root / "imagesTs")
    return [*official, inside, *([] if (root / "dataset.json").exists() else [tutorial])]


def _folders(root: Path) -> _Folders | None:
    """Where the scans are; None where there are no scans of such names."""
    for arrangement in _arrangements(root):
        scans = (*visible(arrangement.images), *visible(arrangement.tests))
        if any(_IMAGE.fullmatch(path.name) for path in scans):
            return arrangement
    return None


def _labelled(found: _Folders, problems: Problems) -> tuple[Case, ...]:
    images = numbered(found.images, _IMAGE, "img0001.nii.gz", problems, "img")
    labels = numbered(found.labels, _LABEL, "label0001.nii.gz", problems, "img")
    twins = f"{found.images}/img{{}}.nii.gz", f"{found.labels}/label{{}}.nii.gz"
    check_twins(images, labels, twins, problems, prefix="img")
    return tuple(Case(f"img{number}", (images[number],), labels.get(number)) for number in sorted(images))
