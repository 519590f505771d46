"""BraTS, brain tumours in MR, as it is downloaded: 2017 to 2021, and the cohorts GLI, SSA, MEN, MET from 2023 on.

A folder per scan, in the folder itself or in the folders of the download (``HGG``, ``LGG``, folders that have "brats",
"train" or "valid" in their names, at most two between). Files are named after their folder:

* 2017 to 2021: ``BraTS2021_00000_flair.nii.gz``, ``_t1``, ``_t1ce``, ``_t2``, ``_seg``. Label files hold 1, 2 and 4;
  the 4, enhancing tumour, is 3 in the table, and a 3 in such a file is an error.
* from 2023 on: ``BraTS-GLI-00000-000-t2f.nii.gz``, ``-t1n``, ``-t1c``, ``-t2w``, ``-seg``, where enhancing tumour is
  3. Scans after treatment (GLI of 2024; the last number of the name is 100 or more) also have the resection cavity, 4.
  Without such scans the table has no 4, so that a file with both 3 and 4 is an error everywhere else.

Both namings become the channels ``t1``, ``t1ce``, ``t2``, ``flair``; ``Dataset.with_channels`` chooses among them. The
regions are those that the challenge scores; the third, enhancing tumour, is a value by itself.

The patient is what a name has before the number of the visit (2017 to 2019, and from 2023 on); names of 2020 and 2021
do not tell, so each scan counts as a patient there. The years share patients under different names and cannot be mixed.
Scans without a label are for testing in folders named after validation or testing, and in folders without any label;
the download declares no split, and MR has no window. Other cohorts, such as the children's (PED), are refused, because
their numbers need not be these. Case 355 of 2020 has its label under another name (``W39_1998.09.19_Segm.nii``); it is
found.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from voxelsam.layouts._dataset import Case, Dataset, Problems, folders, some
from voxelsam.volumes import Labels
from voxelsam.volumes.labels import Encoding

EXPECTS = "BraTS: BraTS2021_00000/BraTS2021_00000_flair.nii.gz, _t1, _t1ce, _t2, _seg; or -t2f, -t1n, -t1c, -t2w, -seg"

CHANNELS = ("t1", "t1ce", "t2", "flair")
LABELS = Labels(
    {"background": 0, "necrotic_core": 1, "oedema": 2, "enhancing_tumour": 3},
    regions={"whole_tumour": (1, 2, 3), "tumour_core": (1, 3)},
)
LABELS_TREATED = Labels({**LABELS.values, "resection_cavity": 4}, regions=LABELS.regions)
UNTIL_2021 = Encoding(values={0: 0, 1: 1, 2: 2, 4: 3})
FIRST_TREATED = 100
"""Number of the first visit after treatment, in the last part of a name."""

_OLD_SUFFIXES = ("_t1", "_t1ce", "_t2", "_flair")
_NEW_SUFFIXES = ("-t1n", "-t1c", "-t2w", "-t2f")
_ENDINGS = (".nii.gz", ".nii")
_OLD = re.compile(
    r"brats(?P<year>1[789])_(?P<patient>.+)_\d+|brats(?P<later>20)_\w+_\d{3}|brats(?P<last>2021)_\d{5}", re.IGNORECASE
)
_NEW = re.compile(r"(?P<patient>BraTS-(?P<cohort>[A-Za-z]+)-\d{5})(-(?P<visit>\d{3}))?")
_COHORTS = ("GLI", "SSA", "MEN", "MET")
_ABOVE = re.compile(r"hgg|lgg|.*(brats|train|valid).*", re.IGNORECASE)
_TESTING = re.compile(r"(?<![a-z])(valid|test)", re.IGNORECASE)
_DEPTH = 3


@dataclass(frozen=True)
class _Scan:
    folder: Path
    edition: str
    """The year, or the cohort in the naming of 2023."""
    patient: str
    new: bool
    """Whether its files are named as from 2023 on."""
    treated: bool = False


def recognises(root: Path) -> bool:
    """Whether a folder holds folders of scans named as in BraTS."""
    return bool(_scans(root))


def read(root: Path) -> Dataset:
    """The data set in a folder.

    Raises:
        InputError: all that is wrong, at once: SET-01 missing modalities or labels, cohorts that are not known; SET-02
            several years.
    """
    scans = _scans(root)
    problems = Problems(root)
    _check_editions(scans, problems)
    images = {scan.folder: [_file(scan, suffix) for suffix in _suffixes(scan)] for scan in scans}
    for place, channel in enumerate(CHANNELS):
        if absent := [folder.name for folder, paths in images.items() if paths[place] is None]:
            problems.add("SET-01", f"{channel} is missing in {len(absent)} cases ({some(absent)}); download it")
    labels = {scan.folder: _label(scan) for scan in scans}
    bare = [scan for scan in scans if labels[scan.folder] is None]
    if absent := [scan.folder.name for scan in bare if not _for_test(scan, root, labels)]:
        problems.add("SET-01", f"the label (seg) is missing in {len(absent)} cases ({some(absent)}); download it")
    if not scans:
        problems.add("SET-01", f"no cases; expected {EXPECTS}")
    cases = [
        Case(
            scan.folder.name,
            tuple(path for path in images[scan.folder] if path is not None),
            labels[scan.folder],
            scan.patient,
            encoding=None if scan.new else UNTIL_2021,
        )
        for scan in scans
    ]
    problems.check_ids(cases)
    problems.stop()
    return Dataset(
        root,
        "brats",
        f"BraTS ({', '.join(sorted({scan.edition for scan in scans}))})",
        LABELS_TREATED if any(scan.treated for scan in scans) else LABELS,
        CHANNELS,
        "MR",
        tuple(case for case in cases if case.label is not None),
        tuple(case for case in cases if case.label is None),
    )


def _scans(root: Path, depth: int = 1) -> list[_Scan]:
    found = []
    for folder in folders(root):
        scan = _scan(folder)
        if scan is not None:
            found.append(scan)
        elif depth < _DEPTH and _ABOVE.fullmatch(folder.name):
            found += _scans(folder, depth + 1)
    return found


def _scan(folder: Path) -> _Scan | None:
    """What the name of a folder says; None if it is no scan of BraTS."""
    if old := _OLD.fullmatch(folder.name):
        year = old["year"] or old["later"] or old["last"]
        patient = folder.name.rpartition("_")[0] if old["patient"] else folder.name
        return _Scan(folder, year if len(year) == 4 else f"20{year}", patient, new=False)
    if new := _NEW.fullmatch(folder.name):
        treated = new["cohort"] == "GLI" and int(new["visit"] or 0) >= FIRST_TREATED
        return _Scan(folder, new["cohort"], new["patient"], new=True, treated=treated)
    return None


def _suffixes(scan: _Scan) -> Sequence[str]:
    return _NEW_SUFFIXES if scan.new else _OLD_SUFFIXES


def _file(scan: _Scan, suffix: str) -> Path | None:
    named = (scan.folder / f"{scan.folder.name}{suffix}{ending}" for ending in _ENDINGS)
    return next((path for path in named if path.is_file()), None)


def _label(scan: _Scan) -> Path | None:
    usual = _file(scan, "-seg" if scan.new else "_seg")
    return usual or next((path for path in sorted(scan.folder.glob("*_Segm.nii*")) if not scan.new), None)


def _for_test(scan: _Scan, root: Path, labels: Mapping[Path, Path | None]) -> bool:
    """Whether a scan may be without a label; the user's name for the whole folder does not count as testing."""
    above = scan.folder.parent
    if _TESTING.search(scan.folder.name) or (above != root and _TESTING.search(above.name)):
        return True
    beside = [label for folder, label in labels.items() if folder.parent == above]
    return "train" not in f"{above.name} {scan.folder.name}".lower() and not any(beside)


def _check_editions(scans: Sequence[_Scan], problems: Problems) -> None:
    by_edition: dict[str, list[str]] = {}
    for scan in scans:
        by_edition.setdefault(scan.edition, []).append(scan.folder.name)
    years = [edition for edition in by_edition if edition.isdecimal()]
    cohorts = [edition for edition in by_edition if not edition.isdecimal()]
    if len(years) > 1 or (years and cohorts):
        listed = "; ".join(f"{edition}: {some(names, 3)}" for edition, names in sorted(by_edition.items()))
        problems.add(
            "SET-02",
            f"scans of several years, which show the same patients under different names ({listed}); keep one year",
        )
    for cohort in sorted(set(cohorts) - set(_COHORTS)):
        problems.add(
            "SET-01",
            f"BraTS-{cohort} ({some(by_edition[cohort], 3)}): what its label values mean is not known here, only of "
            f"{', '.join(_COHORTS)}; describe the scans with a CSV and a labels.json",
        )
