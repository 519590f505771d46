"""Prostate MRI (T2) of six sites, as MA-SAM trains on it: the collection that came with SAML.

One folder per site, ``RUNMC/Case00.nii.gz`` with ``RUNMC/Case00_segmentation.nii.gz``. The sites and their letters in
papers: A RUNMC, B BMC, C I2CVB, D UCL, E BIDMC, F HK (116 scans of as many patients; A and B come from NCI-ISBI 2013,
C from I2CVB, D to F from PROMISE12). Some label files tell the zones apart, so every value above 0 becomes prostate, as
in MA-SAM's preparation.

Folds, those of sites that are not there left out (their names tell which are which):

* 0: all sites, with MA-SAM's test cases (its ``dataset_split.md``) held out;
* 1 to 6: the same in one site alone, A to F, as MA-SAM trains;
* 7 to 12: one site held out, A to F;
* 13: trained on A, the others held out (MA-SAM's experiment across sites).
"""

import re
from pathlib import Path

from voxelsam.layouts._dataset import Case, Dataset, Problems, Split, folders, visible
from voxelsam.layouts._official import check_twins, hold_out, note_absent, put
from voxelsam.volumes import Labels
from voxelsam.volumes.labels import Encoding

EXPECTS = "six-site prostate MRI: BIDMC/Case00.nii.gz and BIDMC/Case00_segmentation.nii.gz, likewise BMC, HK and others"

LABELS = Labels({"background": 0, "prostate": 1})
MERGED = Encoding(values={0: 0} | dict.fromkeys(range(1, 256), 1))
SITES = ("RUNMC", "BMC", "I2CVB", "UCL", "BIDMC", "HK")
"""In the order of the letters A to F."""
MA_SAM_TEST = {
    "RUNMC": (3, 8, 12, 15, 18, 26),
    "BMC": (3, 8, 12, 15, 18, 26),
    "I2CVB": (3, 8, 13, 15),
    "UCL": (1, 32, 34),
    "BIDMC": (0, 4, 9),
    "HK": (38, 41, 46),
}

_TEST_IDS = tuple(f"{site}_Case{number:02}" for site in SITES for number in MA_SAM_TEST[site])
_FILE = re.compile(r"(case\d\d)(_segmentation)?\.nii(\.gz)?", re.IGNORECASE)


def recognises(root: Path) -> bool:
    """Whether a folder holds folders of these sites with scans named ``Case00``."""
    return any(_FILE.fullmatch(path.name) for folder in _sites(root).values() for path in visible(folder))


def read(root: Path) -> Dataset:
    """The data set in a folder.

    Raises:
        InputError: SET-01, all missing partners and unexpected names at once, or no scans at all.
    """
    problems = Problems(root)
    sites = {site: _cases(site, folder, problems) for site, folder in _sites(root).items()}
    train = tuple(case for cases in sites.values() for case in cases)
    if not train:
        problems.add("SET-01", f"no cases; expected {EXPECTS}")
    problems.check_ids(train)
    problems.stop()
    note_absent(root, SITES, sites, "sites")
    here = [name for name in _TEST_IDS if name.split("_")[0] in sites]
    note_absent(root, here, [case.id for case in train], "test cases of MA-SAM")
    return Dataset(root, "prostate", "Prostate MRI of six sites", LABELS, ("T2",), "MR", train, (), _splits(sites))


def _sites(root: Path) -> dict[str, Path]:
    """Folder of each site that is there, A to F."""
    found = {path.name: path for path in folders(root)}
    return {site: found[site] for site in SITES if site in found}


def _cases(site: str, folder: Path, problems: Problems) -> tuple[Case, ...]:
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for path in visible(folder):
        match = _FILE.fullmatch(path.name)
        if match is None:
            problems.add("SET-01", f"{path}: expected Case00.nii.gz or Case00_segmentation.nii.gz; move it elsewhere")
            continue
        put(labels if match[2] else images, match[1].capitalize(), path, problems, prefix=f"{site}_")
    twins = f"{folder}/{{}}.nii.gz", f"{folder}/{{}}_segmentation.nii.gz"
    check_twins(images, labels, twins, problems, prefix=f"{site}_")
    if not images:
        problems.add("SET-01", f"{folder}: no scans of this site; download them, or remove the folder")
    return tuple(Case(f"{site}_{name}", (images[name],), labels.get(name), encoding=MERGED) for name in sorted(images))


def _splits(sites: dict[str, tuple[Case, ...]]) -> tuple[Split, ...]:
    every = [case for cases in sites.values() for case in cases]
    named = {site: f"site {letter} ({site})" for site, letter in zip(SITES, "ABCDEF", strict=True)}
    splits = [*hold_out(every, _TEST_IDS, "MA-SAM's test cases of all sites held out")]
    for site, cases in sites.items():
        splits += hold_out(cases, _TEST_IDS, f"{named[site]} alone, MA-SAM's test cases held out")
    for site, cases in sites.items():
        splits += hold_out(every, [case.id for case in cases], f"{named[site]} held out")
    others = [case.id for site, cases in sites.items() if site != SITES[0] for case in cases]
    splits += hold_out(every, others, f"trained on {named[SITES[0]]}, all others held out")
    return tuple(splits)
