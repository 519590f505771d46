"""XML from outside: small, and without entities, which can grow without bounds or read other files."""

from pathlib import Path
from xml.etree import ElementTree as ET

from voxelsam.errors import InputError

LARGEST = 64 << 20
"""Bytes; the annotations of the largest scan of LIDC-IDRI are a few megabytes."""


class _Builder(ET.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """Refuses the declaration that entities need.

        Raises:
            InputError: always.
        """
        raise InputError(f"it declares a document type ({name}), which annotations have no use for", code="SET-03")


def parse(path: Path) -> ET.Element:
    """The root of an XML file; names of elements lose their namespace.

    Raises:
        InputError: SET-03, the file cannot be read, is no XML, is too large, or declares a document type.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(f"{path.stat().st_size} bytes are too many for annotations", code="SET-03")
        parser = ET.XMLParser(target=_Builder())  # noqa: S314 - the builder refuses doctypes
        parser.feed(path.read_bytes())
        root: ET.Element = parser.close()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})", code="SET-03") from None
    except (ET.ParseError, ValueError, LookupError) as error:
        raise InputError(f"{path}: not valid XML ({error})", code="SET-03") from None
    except InputError as error:
        raise InputError(f"{path}: refused as XML: {error}", code="SET-03") from None
    for element in root.iter():
        if isinstance(element.tag, str):
            element.tag = element.tag.rpartition("}")[2]
    return root
