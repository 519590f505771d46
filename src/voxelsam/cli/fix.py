"""``voxelsam fix``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from voxelsam.cli import screen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voxelsam.fix import Fixed


def fix(
    source: Annotated[Path, typer.Argument(help="File, folder of a DICOM series, or data set.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="New file, or new folder for a data set.")],
    codes: Annotated[
        list[str] | None, typer.Option("--fix", help="Make this repair, e.g. GEO-03 or VAL-01; repeatable.")
    ] = None,
    resample: Annotated[bool, typer.Option("--resample", help="GEO-03: resample; do not turn the axes.")] = False,
    keep: Annotated[Literal["sform", "qform"] | None, typer.Option(help="GEO-04: the transform that counts.")] = None,
    spacing: Annotated[
        tuple[float, float, float] | None, typer.Option(help="GEO-05: mm along i, j, k, such as 0.7 0.7 5.")
    ] = None,
    axes: Annotated[
        str | None, typer.Option(help="GEO-05: where i, j, k run to, such as RAS (right, front, head).")
    ] = None,
    relabel: Annotated[
        list[str] | None, typer.Option(help="LAB-02: old=new value of a label, such as 255=1; repeatable.")
    ] = None,
    split: Annotated[bool, typer.Option("--split", help="VAL-05: a file for each channel.")] = False,
    grey: Annotated[bool, typer.Option("--grey", help="VAL-05: brightness in place of colours.")] = False,
    label: Annotated[bool, typer.Option("--label", help="The file is a label map.")] = False,
    image: Annotated[
        Path | None, typer.Option(help="GEO-01, GEO-02: the image that a label map is resampled onto.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Repair into a copy, and log it in fixes.json. Unasked only what loses nothing; the rest by --fix CODE."""
    from voxelsam import formats, layouts, record
    from voxelsam.errors import ConfigError
    from voxelsam.fix import Wishes, fix_dataset, fix_file

    if split and grey:
        raise ConfigError("--split or --grey, one of the two")
    wishes = Wishes(
        codes=frozenset(code.upper() for code in codes or ()),
        resample=resample,
        keep=keep,
        spacing=spacing,
        axes=None if axes is None else axes.upper(),
        relabel=_pairs(relabel or ()),
        channels="split" if split else "grey" if grey else None,
    )
    dataset = bool(layouts.recognising(source)) or (source.is_dir() and formats.family(source) is None)
    if dataset and (label or image is not None):
        raise ConfigError("--label and --image are for a single file; in a data set it is known what is what")
    with record.recording("fix", wishes.to_json()) as run, screen.bars() as bar:
        if dataset:
            results: Sequence[Fixed] = fix_dataset(source, output, wishes, dry_run=dry_run, progress=bar("repairing"))
        else:
            is_label = label or image is not None or bool(wishes.codes & {"LAB-01", "LAB-02"})
            role: Literal["image", "label"] = "label" if is_label else "image"
            results = [fix_file(source, output, wishes, role=role, image=image, dry_run=dry_run)]
        run.facts["files"] = _counted(results)
        if not dry_run:
            run.path = record.path_for(output, folder=dataset)
            run.save("done")
    screen.emit([result.to_json() for result in results]) if as_json else _show(results, dry_run)
    if any(result.broken or result.status == "failed" for result in results):
        raise typer.Exit(2)


def _pairs(texts: "Sequence[str]") -> dict[int, int]:
    from voxelsam.errors import ConfigError

    pairs: dict[int, int] = {}
    for text in texts:
        old, _, new = text.partition("=")
        try:
            value, wanted = int(old), int(new)
        except ValueError:
            raise ConfigError(f"--relabel takes old=new with two whole numbers, such as 255=1, not {text!r}") from None
        if pairs.get(value, wanted) != wanted:
            raise ConfigError(f"--relabel gives {value} two new values: {pairs[value]} and {wanted}")
        pairs[value] = wanted
    return pairs


def _counted(results: "Sequence[Fixed]") -> dict[str, int]:
    return {status: sum(result.status == status for result in results) for status in ("fixed", "copied", "failed")}


def _show(results: "Sequence[Fixed]", dry_run: bool) -> None:
    for result in results:
        for change in result.changes:
            numbers = ", ".join(f"{key} {value}" for key, value in change.numbers.items())
            screen.out.print(f"[green]{change.code}[/]  ", end="")
            screen.out.print(f"{result.file}: {change.what}{f' ({numbers})' if numbers else ''}", markup=False)
        for left in result.left:
            colour = "red" if left.severity == "error" else "yellow"
            screen.out.print(f"[{colour}]left {left.code}[/]  ", end="")
            screen.out.print(left.message, markup=False)
    verb = "would be " if dry_run else ""
    told = ", ".join(f"{count} {verb}{status}" for status, count in _counted(results).items() if count)
    screen.out.print(f"files: {told}", markup=False)
