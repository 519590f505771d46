"""Reads the golden cases of Med-SA: discovered by the kind that their name begins with, every size from the manifest.

Each case is a manifest ``<case>.json`` beside its tensors ``<case>.safetensors``.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.golden.reading import GOLDEN, Findings, Record, Tensors, existing, opened, over_cases
from torch import Tensor

FOLDER = GOLDEN / "med_sa"
INDEX = "INDEX.json"
KINDS = {
    f"{kind}_case": kind
    for kind in (
        "v0_2d",
        "v0_3d",
        "derived_3d_slicewise",
        "derived_hyp_adapter",
        "functions",
        "head_2d",
        "head_3d",
        "head_lora",
        "head_adalora",
    )
}
"""Argument of a test → kind of the cases that it runs over."""

READ_BY_THE_READER = ("file", "sha256", "suggested_tolerance", "tensors")
HOW_IT_WAS_MADE = "config"
"""What matters in it shows in the numbers, so a test reads of it what it needs."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    over_cases(metafunc, FOLDER, {argument: list(FOLDER.glob(f"{kind}*.json")) for argument, kind in KINDS.items()})


@pytest.fixture
def golden() -> Path:
    """The folder with the cases."""
    return existing(FOLDER)


@pytest.fixture
def kinds() -> tuple[str, ...]:
    """All kinds that some test reads."""
    return tuple(KINDS.values())


class Entries(Mapping[str, Any]):
    """A part of a manifest; remembers what was never asked for. Text describes, and need not be read."""

    def __init__(self, entries: Mapping[str, Any]) -> None:
        self._entries = {key: Entries(value) if isinstance(value, dict) else value for key, value in entries.items()}
        self._unread = {key for key, value in entries.items() if value is not None and not isinstance(value, str)}

    def __getitem__(self, key: str) -> Any:
        self._unread.discard(key)
        return self._entries[key]

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def unread(self) -> list[str]:
        """Paths of the numbers, lists and parts that nobody asked for."""
        inside = {key: value.unread() for key, value in self._entries.items() if isinstance(value, Entries)}
        paths = [f"{key}.{path}" for key in inside.keys() - self._unread for path in inside[key]]
        return sorted([*self._unread, *paths])


class Case(Findings):
    """One case.

    Attributes:
        name: of the case.
        manifest: what the manifest says; reading marks an entry as dealt with.
        config: how the numbers were made; a plain mapping.
        tensors: everything that is stored; reading marks a tensor as dealt with.
    """

    def __init__(self, path: Path, record: Record) -> None:
        super().__init__(record)
        self.name = path.stem
        plain = json.loads(path.read_text())
        self.config: dict[str, Any] = plain.pop(HOW_IT_WAS_MADE)
        self.manifest = Entries({key: value for key, value in plain.items() if key not in READ_BY_THE_READER})
        self.relative, self.absolute = (float(plain["suggested_tolerance"][key]) for key in ("rtol", "atol"))
        values = load_file(_checked(path.parent / plain["file"], self.name, plain["sha256"]))
        found = {name: (list(value.shape), str(value.dtype).removeprefix("torch.")) for name, value in values.items()}
        listed = {name: (entry["shape"], entry["dtype"]) for name, entry in plain["tensors"].items()}
        assert found == listed, f"{plain['file']} does not hold what the manifest lists"
        self.tensors = Tensors(values)

    def state(self, prefix: str = "sd.") -> dict[str, Tensor]:
        """The stored tensors whose name begins so, without that prefix."""
        return {name.removeprefix(prefix): self.tensors[name] for name in self.tensors if name.startswith(prefix)}

    def compare(self, name: str, ours: Tensor | float, reference: Any) -> None:
        """Notes a problem unless ``|ours - reference| <= atol + rtol · |reference|`` everywhere.

        Args:
            name: how to call it.
            ours: our result.
            reference: the official one, a tensor, a number or a list of numbers.
        """
        ours, reference = (torch.as_tensor(value, dtype=torch.float64).detach() for value in (ours, reference))
        if not self.same_shape(name, ours, reference):
            return
        error = (ours - reference).abs()
        share = float((error / (self.absolute + self.relative * reference.abs())).max()) if error.numel() else 0.0
        self.record(name, (share, float(error.max()) if error.numel() else 0.0))
        if not share <= 1:
            self.problems.append(f"{name}: largest error {float(error.max()):.3g}, {share:.3g} times what is allowed")

    def done(self) -> None:
        """Fails on any problem, on entries of the manifest and on tensors that nobody read."""
        assert (self.problems, self.manifest.unread(), sorted(self.tensors.unread)) == ([], [], [])


def _checked(path: Path, case: str, digest: str) -> Path:
    """The file of a case, if it is the one that its manifest lists, and the index where that lists the case."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found == digest, f"{path} is not the file that the manifest lists"
    index = path.parent / INDEX
    listed = json.loads(index.read_text())["cases"] if index.is_file() else []
    others = [entry["sha256"] for entry in listed if entry["case"] == case and entry["sha256"] != found]
    assert not others, f"{path} is not the file that {INDEX} lists"
    return path


@pytest.fixture
def case_of(request: pytest.FixtureRequest) -> Callable[[Path], Case]:
    """Opens the case of a manifest; its errors become properties of the test, for those who want to see them."""
    return lambda path: Case(path, lambda name, errors: request.node.user_properties.append((name, errors)))


v0_2d_case = opened("v0_2d_case")
v0_3d_case = opened("v0_3d_case")
derived_3d_slicewise_case = opened("derived_3d_slicewise_case")
derived_hyp_adapter_case = opened("derived_hyp_adapter_case")
functions_case = opened("functions_case")
head_2d_case = opened("head_2d_case")
head_3d_case = opened("head_3d_case")
head_lora_case = opened("head_lora_case")
head_adalora_case = opened("head_adalora_case")
