"""``voxelsam push``."""

from pathlib import Path
from typing import Annotated

import typer

from voxelsam.cli import screen
from voxelsam.cli.pull import Header, Token, headers_of


def push(
    url: Annotated[str, typer.Argument(help="DICOMweb service, https://host/dicom-web.")],
    files: Annotated[list[Path], typer.Argument(help="DICOM files, or folders of them.")],
    header: Header = None,
    token: Token = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Send DICOM files, such as segmentations, to a server."""
    from voxelsam import dicomweb

    with screen.bars() as bar:
        stored = dicomweb.store(url, files, headers=headers_of(header or (), token), progress=bar("push"))
    screen.outcomes([{"id": path.name, "output": path, "status": "stored"} for path in stored], as_json)
