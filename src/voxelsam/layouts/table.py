"""A CSV with one row per case.

Columns are ``image`` (``image_2``, ``image_3`` …), ``label``, and optionally ``id``, ``group`` and ``split`` (train,
val or test). Paths are relative to the CSV. Rows without a label are test cases. Other columns are left alone. The
label table is read from ``labels.json`` beside the CSV if there is one, else made from the values in the labels.
"""

import csv
import re
from pathlib import Path

from voxelsam.errors import InputError
from voxelsam.layouts._dataset import Case, Dataset, Problems, Split, channels_in, found_labels, stem
from voxelsam.layouts._split import check_splits

EXPECTS = "one .csv with a column image and a column label"
_IMAGE = re.compile(r"image(_[2-9]|_[1-9]\d+)?")
_SIDES = ("train", "val", "test", "")


def recognises(root: Path) -> bool:
    """Whether a path is such a CSV, or a folder that holds one."""
    return bool(_tables(root))


def read(root: Path) -> Dataset:
    """The data set of a CSV.

    Args:
        root: The CSV, or the folder that holds it.

    Raises:
        InputError: all that is wrong, at once: SET-01 missing files, missing or repeated ids, unknown sides; SET-02
            patients on both sides; VAL-06 rows with fewer images than columns.
    """
    tables = _tables(root)
    if len(tables) != 1:
        names = ", ".join(path.name for path in tables) or "none"
        raise InputError(f"{root}: expected {EXPECTS}, but there is {names}; name the file itself", code="SET-01")
    source = tables[0]
    header, rows = _rows(source)
    columns = sorted((name for name in header if _IMAGE.fullmatch(name)), key=lambda name: (len(name), name))
    problems = Problems(source)
    if columns != ["image", *(f"image_{number}" for number in range(2, len(columns) + 1))]:
        problems.add("VAL-06", f"columns of images must be image, image_2, image_3 …, but are {', '.join(columns)}")
    if not rows:
        problems.add("SET-01", "no rows")
    sides: dict[str, list[Case]] = {side: [] for side in _SIDES}
    for line, row in rows:
        case = _case(source, line, row, columns, problems)
        if case is not None:
            sides[row.get("split", "").lower()].append(case)
    train = [*sides["train"], *sides["val"], *(case for case in sides[""] if case.label is not None)]
    test = [*sides["test"], *(case for case in sides[""] if case.label is None)]
    problems.check_ids((*train, *test))
    unsorted = [case.id for case in sides[""] if case.label is not None]
    if unsorted and (sides["train"] or sides["val"]):
        problems.add("SET-02", f"labelled cases without a side, where others have one: {', '.join(unsorted)}")
    splits = _splits(sides)
    check_splits(splits, source.name, train, problems)
    problems.stop()
    labels = found_labels(source.parent, (*train, *test), problems)
    channels, kind = channels_in((*train, *test), columns)
    return Dataset(root, "table", source.stem, labels, channels, kind, tuple(train), tuple(test), splits)


def _tables(root: Path) -> list[Path]:
    files = [root] if root.is_file() else sorted(root.glob("*.csv"))
    return [path for path in files if path.suffix.lower() == ".csv" and {"image", "label"} <= set(_header(path))]


def _header(path: Path) -> list[str]:
    try:
        with path.open("rb") as stream:
            first = stream.readline().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return []
    return [name.strip().lower() for name in next(csv.reader([first], delimiter=_delimiter(first)), [])]


def _delimiter(line: str) -> str:
    return max(",;\t", key=line.count)


def _rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Column names, and each row with its line number; empty lines are left out."""
    header = _header(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=_delimiter(stream.readline()))
            rows = [(reader.line_num + 1, [cell.strip() for cell in row]) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error})", code="SET-03") from None
    return header, [(line, dict(zip(header, row, strict=False))) for line, row in rows if any(row)]


def _case(source: Path, line: int, row: dict[str, str], columns: list[str], problems: Problems) -> Case | None:
    """The case of a row, or None when the row cannot be one."""
    where = f"line {line}"
    images = tuple(source.parent / row[column] for column in columns if row.get(column))
    side = row.get("split", "").lower()
    if side not in _SIDES:
        problems.add("SET-02", f"{where}: split is {row['split']!r}, but must be train, val or test")
    if len(images) < len(columns):
        problems.add("VAL-06", f"{where}: {len(images)} images for {len(columns)} columns of images")
    if not images or side not in _SIDES:
        return None
    name = row.get("id") or stem(images[0])
    label = source.parent / row["label"] if row.get("label") else None
    if label is None and side in ("train", "val"):
        problems.add("SET-01", f"{where}: {name} is for {side}, but has no label")
    problems.missing((*images, *([label] if label else [])), f"{where}: {name}")
    return Case(name, images, label, row.get("group") or name)


def _splits(sides: dict[str, list[Case]]) -> tuple[Split, ...]:
    if not sides["val"]:
        return ()
    return (Split(tuple(case.id for case in sides["train"]), tuple(case.id for case in sides["val"])),)
