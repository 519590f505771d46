"""EndoVis 2018, robotic scene segmentation: ``seq_1/left_frames/frame000.png`` with ``seq_1/labels/frame000.png``.

The folder holds the organisers' releases as they were unpacked, or the sequences themselves. Labels are pictures in
colours; ``labels.json`` beside the sequences says which colour is which class, and where every release has its own,
they add up. A case is one frame of the left camera, a group is one sequence. Sequences below a folder whose name holds
``test`` are for testing. Masks in a folder ``repairs`` (``seq_1_frame042.png``) go before those of the training
sequences.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from voxelsam.errors import InputError, LabelError
from voxelsam.layouts._dataset import TABLE_FILE, Case, Dataset, Problems, Split, channels_in, read_json, visible
from voxelsam.layouts._pictures import bare, by_name, paired
from voxelsam.volumes import Labels
from voxelsam.volumes.labels import Encoding

EXPECTS = "seq_1/left_frames/frame000.png, seq_1/labels/frame000.png in colours, and labels.json with the colours"
VALIDATION = ("seq_2", "seq_5", "seq_9", "seq_15")
"""Training sequences that most papers validate on; the challenge itself names none."""

_SEQUENCE = re.compile(r"seq_\d+")
_HOLDER = re.compile(r"seq_\d|challenge|release|train|test", re.IGNORECASE)
_REPAIR = re.compile(r"(seq_\d+)_(frame\d+)")
_DEPTH = 4

Colour = tuple[int, int, int]


def recognises(root: Path) -> bool:
    """Whether there is a sequence with frames of the left camera, at most four folders down."""
    return next(_sequences(root), None) is not None


def read(root: Path) -> Dataset:
    """The data set in a folder.

    Where the training sequences 2, 5, 9 and 15 are all there beside others, they make the validation side of the split.

    Raises:
        InputError: all that is wrong, at once: SET-01 frames without a label, labels without a frame, a sequence that
            is there twice, no labels.json; SET-03 a labels.json that cannot be read; LAB-02 one that is no table of
            classes; LAB-04 tables that contradict each other.
    """
    problems = Problems(root)
    sequences = list(_sequences(root))
    labels, encoding = _table(root, sequences, problems)
    repaired = _repairs(root)
    train: list[Case] = []
    test: list[Case] = []
    homes: dict[str, Path] = {}
    for folder in sequences:
        tested = any("test" in part.lower() for part in folder.relative_to(root).parts)
        name = f"test_{folder.name}" if tested else folder.name
        if name in homes:
            problems.add("SET-01", f"{name}: both {homes[name]} and {folder} hold this sequence")
            continue
        homes[name] = folder
        frames, masks = (by_name(folder / part, problems) for part in ("left_frames", "labels"))
        if tested and not masks:
            test += bare(frames, group=name, prefix=f"{name}_")
            continue
        masks |= {} if tested else {frame: repaired[name, frame] for frame in frames if (name, frame) in repaired}
        cases = paired(frames, masks, encoding, problems, group=name, prefix=f"{name}_")
        (test if tested else train).extend(cases)
    if not train and not test:
        problems.add("SET-01", f"no cases; expected {EXPECTS}")
    problems.check_ids((*train, *test))
    problems.stop()
    channels, kind = channels_in((*train, *test), ("image",))
    return Dataset(root, "endovis18", "EndoVis 2018", labels, channels, kind, tuple(train), tuple(test), _splits(train))


def _sequences(folder: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """Folders of sequences in the order of their names; what a Mac leaves in archives is passed over."""
    if depth == 0 or not folder.is_dir():
        return
    for child in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))):
        if _SEQUENCE.fullmatch(child.name) and (child / "left_frames").is_dir():
            yield child
        elif _HOLDER.search(child.name):
            yield from _sequences(child, depth - 1)


def _splits(train: list[Case]) -> tuple[Split, ...]:
    groups = {case.group for case in train}
    if not set(VALIDATION) < groups:
        return ()
    return (
        Split(
            tuple(case.id for case in train if case.group not in VALIDATION),
            tuple(case.id for case in train if case.group in VALIDATION),
        ),
    )


def _repairs(root: Path) -> dict[tuple[str, str], Path]:
    found = {}
    for folder in (root / "repairs", root / "repairs" / "repairs"):
        for path in visible(folder):
            if match := _REPAIR.fullmatch(path.stem):
                found[match[1], match[2]] = path
    return found


def _table(root: Path, sequences: list[Path], problems: Problems) -> tuple[Labels | None, Encoding]:
    """The classes of all tables together, and the colour of each."""
    homes = {place for folder in sequences for place in folder.parents if place == root or root in place.parents}
    files = sorted(place / TABLE_FILE for place in homes if (place / TABLE_FILE).is_file())
    classes: dict[str, tuple[int, Colour]] = {}
    for source in files:
        try:
            entries = _entries(read_json(source), source, problems)
        except InputError as error:
            problems.add(error.code, str(error))
            continue
        for name, said in entries.items():
            if classes.setdefault(name, said) != said:
                problems.add("LAB-04", f"{source}: {name} is {said} here, but {classes[name]} in another {TABLE_FILE}")
    if not files and sequences:
        problems.add("SET-01", f"no {TABLE_FILE}: it says which colour is which class")
    colours = {colour: value for value, colour in classes.values()}
    if len(colours) < len(classes):
        problems.add("LAB-04", f"{len(classes)} classes share {len(colours)} colours in {', '.join(map(str, files))}")
    try:
        labels = Labels({name: value for name, (value, _) in classes.items()}) if classes else None
    except LabelError as error:
        problems.add("LAB-02", f"{', '.join(map(str, files))}: {error}")
        labels = None
    return labels, Encoding(colours=colours or {(0, 0, 0): 0})


def _entries(content: Any, source: Path, problems: Problems) -> dict[str, tuple[int, Colour]]:
    """Value and colour of each class; the test release has its list under ``classes`` and colours with alpha."""
    listed = content.get("classes") if isinstance(content, dict) else content
    if not isinstance(listed, list) or not all(_is_class(entry) for entry in listed):
        problems.add(
            "LAB-02",
            f'{source}: expected a list of {{"name": "thread", "classid": 6, "color": [187, 155, 25]}}, one per class',
        )
        return {}
    return {entry["name"]: (entry["classid"], (*entry["color"][:3],)) for entry in listed}


def _is_class(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        return False
    colour, value = entry.get("color"), entry.get("classid")
    whole = isinstance(colour, list) and len(colour) in (3, 4) and all(type(part) is int for part in colour)
    return whole and type(value) is int
