"""The values of DICOM headers, whatever state they are in: what cannot be read is none, and is remarked upon."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from voxelsam.formats._dicom_files import Entry

Remark = tuple[str, str]
"""Code and text of something worth a notice."""


class Facts:
    """The values of a data set, or of one frame of it, whatever state they are in."""

    def __init__(self, entry: Entry | None, dataset: Any, frame: int | None = None) -> None:
        self.entry, self.dataset, self.frame = entry, dataset, frame
        self.remarks: list[Remark] = []

    def numbers(self, keyword: str, count: int, group: str = "") -> tuple[float, ...] | None:
        """That many finite numbers; None where there are none, or others."""
        for home in self._homes(group):
            values = self._values(home, keyword)
            if not values:
                continue
            try:
                found = tuple(float(str(value).replace(",", ".")) for value in values)
            except (TypeError, ValueError):
                self.remarks.append(("DCM-09", f"{keyword} is no number and is left out"))
                continue
            if len(found) == count and np.isfinite(found).all():
                if any("," in str(value) for value in values):
                    self.remarks.append(("DCM-09", f"{keyword} is malformed: a comma is taken as a point"))
                return found
            self.remarks.append(("DCM-09", f"{keyword} should be {count} finite numbers and is left out"))
        return None

    def number(self, keyword: str, group: str = "") -> float | None:
        """One finite number, or None."""
        found = self.numbers(keyword, 1, group)
        return found[0] if found else None

    def positive(self, keyword: str, group: str = "") -> float | None:
        """One number above zero, or None."""
        found = self.number(keyword, group)
        return found if found is not None and found > 0 else None

    def whole(self, keyword: str) -> int:
        """A count; 0 where there is none."""
        found = self.number(keyword)
        return int(found) if found is not None and 0 < found < 2**31 else 0

    def text(self, keyword: Any, home: Any = None, group: str = "") -> str:
        """A value as text; several joined by backslashes; empty where there is none."""
        for place in [home] if home is not None else self._homes(group):
            if keyword not in place:
                continue
            try:
                element = place.get(keyword)
                value = getattr(element, "value", element)
                several = isinstance(value, Sequence) and not isinstance(value, str | bytes)
                found = "\\".join(map(str, value)) if several else "" if value is None else str(value)
            except Exception:  # noqa: S112
                continue
            if found.strip():
                return found.strip()
        return ""

    def item(self, home: Any, keyword: str, number: int = 0) -> Any:
        """An item of a sequence, or None."""
        try:
            return home.get(keyword)[number]
        except Exception:
            return None

    def length(self, keyword: str) -> int:
        """Items of a sequence; 0 where there is none."""
        try:
            return len(self.dataset.get(keyword) or ())
        except Exception:
            return 0

    def in_groups(self, keyword: str, group: str) -> bool:
        """Whether a value stands in a functional group, rather than in the data set."""
        return any(self._values(home, keyword) for home in self._homes(group)[:-1])

    def _homes(self, group: str) -> list[Any]:
        """Where a value may stand: the frame's functional group, the shared one, the data set."""
        if not group:
            return [self.dataset]
        frame = None
        if self.frame is not None:
            frame = self.item(self.dataset, "PerFrameFunctionalGroupsSequence", self.frame)
        shared = self.item(self.dataset, "SharedFunctionalGroupsSequence")
        groups = [self.item(home, group) for home in (frame, shared) if home is not None]
        return [home for home in (*groups, self.dataset) if home is not None]

    def _values(self, home: Any, keyword: str) -> list[Any]:
        if keyword not in home:
            return []
        try:
            value = home.get(keyword)
        except Exception:
            value = self._raw(home, keyword)
        if isinstance(value, bytes):
            value = value.decode("ascii", "replace")
        if isinstance(value, str):
            value = [text.strip("\0 ") for text in value.split("\\")]
        if value is None:
            return []
        try:
            return [entry for entry in value if entry is not None and entry != ""]
        except TypeError:
            return [value]

    def _raw(self, home: Any, keyword: str) -> Any:
        """The bytes of a value that pydicom cannot make sense of."""
        try:
            return home.get_item(keyword).value
        except Exception:
            return None
