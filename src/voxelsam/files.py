"""Small text files: whole or not at all."""

import tempfile
from pathlib import Path

from voxelsam.errors import OutputError


def write_text(path: Path, text: str) -> None:
    """Writes a whole file or nothing: beside its place first, then renamed; folders are made.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as work:
            beside = Path(work) / path.name
            beside.write_text(text, encoding="utf-8", newline="")
            beside.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from None
