"""What the readers of all golden folders share: where the cases are, and that nothing of them stays unread.

The folder is ``$VOXELSAM_GOLDEN``, by default ``$VOXELSAM_SHARED/golden``, by default ``../shared/golden`` beside the
repository. Without it the tests are skipped, except in continuous integration, where its absence is a failure.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
SHARED = (ROOT / os.environ.get("VOXELSAM_SHARED", "../shared")).resolve()
GOLDEN = (ROOT / os.environ.get("VOXELSAM_GOLDEN", SHARED / "golden")).resolve()

Record = Callable[[str, object], None]
"""Takes the name and the errors of a comparison."""


def absent(folder: Path) -> str:
    """Why tests that need a folder did not run."""
    return f"no golden cases in {folder}; set VOXELSAM_GOLDEN or VOXELSAM_SHARED"


def existing(folder: Path) -> Path:
    """The folder; without it the test is skipped, in continuous integration it fails."""
    if not folder.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(absent(folder))
        pytest.skip(absent(folder))
    return folder


def over_cases(metafunc: pytest.Metafunc, folder: Path, found: Mapping[str, list[Path]]) -> None:
    """Runs a test over the cases of a kind.

    Args:
        metafunc: the test.
        folder: where the cases are.
        found: argument of a test → its cases.
    """
    for argument in found.keys() & set(metafunc.fixturenames):
        paths = [pytest.param(path, id=path.stem) for path in sorted(found[argument])]
        missing = [] if folder.is_dir() else [pytest.param(folder, id="absent", marks=pytest.mark.skip(absent(folder)))]
        metafunc.parametrize(argument, paths or missing, indirect=True)


def opened(argument: str) -> Callable[..., Any]:
    """The fixture that opens the case of one such argument."""

    def case(request: pytest.FixtureRequest, case_of: Callable[[Path], Any]) -> Any:
        return case_of(request.param)

    return pytest.fixture(name=argument)(case)


class Tensors(Mapping[str, Tensor]):
    """The tensors of a file; remembers which were never asked for."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = dict(tensors)
        self.unread = set(tensors)

    def __getitem__(self, name: str) -> Tensor:
        self.unread.discard(name)
        return self._tensors[name]

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


class Findings:
    """What came out of comparing a case with our results.

    Args:
        record: is told every error, for those who want to see them.
    """

    def __init__(self, record: Record) -> None:
        self.problems: list[str] = []
        self.record = record

    def equal(self, name: str, ours: object, reference: object) -> None:
        """Notes a problem unless both are the same."""
        same = torch.equal(ours, reference) if isinstance(ours, Tensor) else ours == reference
        if not same:
            self.problems.append(f"{name} differs" if isinstance(ours, Tensor) else f"{name}: {ours} != {reference}")

    def same_shape(self, name: str, ours: Tensor, reference: Tensor) -> bool:
        """Notes a problem if the shapes differ."""
        if ours.shape != reference.shape:
            self.problems.append(f"{name}: shape {tuple(ours.shape)} instead of {tuple(reference.shape)}")
        return ours.shape == reference.shape
