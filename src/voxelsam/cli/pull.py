"""``voxelsam pull``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from voxelsam.cli import screen
from voxelsam.errors import ConfigError

Header = Annotated[
    list[str] | None, typer.Option("--header", help="Sent with every request, 'Name: value'; may be given repeatedly.")
]
Token = Annotated[
    str | None,
    typer.Option("--token", envvar="VOXELSAM_DICOMWEB_TOKEN", help="Bearer token; better given by the environment."),
]


def pull(
    url: Annotated[str, typer.Argument(help="DICOMweb service, https://host/dicom-web.")],
    study: Annotated[str | None, typer.Option(help="Identifier of the study.")] = None,
    series: Annotated[str | None, typer.Option(help="Identifier of the series; without it, series are listed.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="New or empty folder for the files.")] = None,
    modality: Annotated[str | None, typer.Option(help="List only series of this kind, e.g. CT.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="List at most so many series.")] = 100,
    patients: Annotated[bool, typer.Option("--patients", help="List patients and dates, too.")] = False,
    header: Header = None,
    token: Token = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Bring a DICOM series from a server into a folder, or list what is there."""
    from voxelsam import dicomweb, record

    sent = headers_of(header or (), token)
    if series is None:
        found = dicomweb.search(url, study=study, modality=modality, limit=limit, patient=patients, headers=sent)
        _show(found, as_json)
        return
    if study is None or output is None:
        raise ConfigError("a series is brought by --study, --series and --output together")
    with record.recording("pull") as run:
        with screen.bars() as bar:
            folder = dicomweb.fetch(url, study, series, output, headers=sent, progress=bar(series))
        run.path = record.path_for(output, folder=False)
        run.case(series, "done", sha256=record.digest([folder]))
        run.save("done")
    screen.outcomes([{"id": series, "output": folder, "status": "fetched"}], as_json)


def headers_of(lines: Sequence[str], token: str | None) -> dict[str, str]:
    """Headers from ``Name: value`` lines and a bearer token.

    Raises:
        ConfigError: a line has no name or no value; its text is not shown, it may be secret.
    """
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    for number, line in enumerate(lines, 1):
        name, colon, value = (part.strip() for part in line.partition(":"))
        if not (name and colon and value):
            raise ConfigError(f"a header is written 'Name: value', but the {number}. one is not")
        headers[name] = value
    return headers


def _show(found: Sequence[object], as_json: bool) -> None:
    rows: list[Mapping[str, object]] = [vars(series) for series in found]
    if as_json:
        screen.emit(rows)
        return
    columns = ["series", "study", "modality", "files", "description"]
    who = [list((row["patient"] or {}).values()) for row in rows]  # type: ignore[attr-defined]
    extra = ["patient", "name", "date"] if any(who) else []
    lines = [
        ["–" if row[column] is None else str(row[column]) for column in columns] + patient
        for row, patient in zip(rows, who, strict=True)
    ]
    screen.table([*columns, *extra], lines)
