"""Reads the golden cases of MA-SAM: discovered by the kind that their name begins with, every size from the manifest.

Each case is a folder.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.golden.reading import GOLDEN, Findings, Record, Tensors, existing, opened, over_cases
from torch import Tensor

FOLDER = GOLDEN / "ma_sam"
KINDS = {
    "auto_case": "auto",
    "bbox_case": "bbox",
    "sam_load_case": "sam_load",
    "real_widths_case": "real_widths",
    "pipeline_case": "btcv_volume_pipeline",
    "loss_case": "loss_and_dice",
    "preparation_case": "prostate_and_endovis_preparation",
}
"""Argument of a test → kind of the cases that it runs over."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    manifests = {argument: FOLDER.glob(f"{kind}*/manifest.json") for argument, kind in KINDS.items()}
    over_cases(metafunc, FOLDER, {argument: [path.parent for path in found] for argument, found in manifests.items()})


@pytest.fixture
def golden() -> Path:
    """The folder with the cases."""
    return existing(FOLDER)


@pytest.fixture
def kinds() -> tuple[str, ...]:
    """All kinds that some test reads."""
    return tuple(KINDS.values())


class Case(Findings):
    """One folder: its manifest, its files, and what came out of comparing with them."""

    def __init__(self, folder: Path, record: Record) -> None:
        super().__init__(record)
        self.folder = folder
        self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
        self.config: dict[str, Any] = self.manifest["config"]
        self._read: dict[str, Tensors] = {}
        self._opened: set[str] = set()
        hint = self.manifest["tolerance_hint"]
        self.relative = float(re.search(r"relative L2 error of every tensor <= ([\d.e+-]+)", hint)[1])
        self.absolute = float(re.search(r"max abs error of logits <= ([\d.e+-]+)", hint)[1])

    def has(self, name: str) -> bool:
        """Whether the manifest lists that file."""
        return name in self.manifest["files"]

    def path(self, name: str) -> Path:
        """A file, checked against its hash in the manifest."""
        path = self.folder / name
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert digest == self.manifest["files"][name]["sha256"], f"{path} is not the file that the manifest lists"
        self._opened.add(name)
        return path

    def tensors(self, name: str) -> Tensors:
        """The tensors of a file, whose shapes and types are as the manifest lists them."""
        if name not in self._read:
            values = load_file(self.path(name))
            entry = self.manifest["files"][name]
            found = {key: (list(value.shape), str(value.dtype).removeprefix("torch.")) for key, value in values.items()}
            listed = {key: (item["shape"], item["dtype"]) for key, item in entry.get("tensors", {}).items()}
            assert found == listed or "tensors" not in entry, f"{name} does not hold what the manifest lists"
            self._read[name] = Tensors(values)
        return self._read[name]

    def meaning(self, file: str, name: str) -> str:
        """What the manifest says about a tensor."""
        return str(self.manifest["files"][file]["tensors"][name].get("meaning", ""))

    def part(self, name: str, full: Tensor) -> Tensor:
        """What is stored of a tensor: all of it, or every so many values along each axis, as the manifest says."""
        if not name.endswith("_strided"):
            return full
        strides = self.manifest.get("strides", {})
        named = [text for words, text in strides.items() if any(word in name for word in words.split(" and "))]
        found = re.search(r"\[(:[:\d, ]*)\]", " ".join([self.meaning("io.safetensors", name), *named]))
        assert found, f"{name} is stored in part, and the manifest does not say which"
        return full[tuple(slice(None, None, int(part.strip(" :") or 1)) for part in found[1].split(","))]

    def recipe(self, name: str, entry: Mapping[str, Any]) -> Tensor:
        """A tensor rebuilt from the recipe of the manifest: splitmix64 of the position, seeded by the name."""
        seed = np.frombuffer(hashlib.sha256(f"{self.config['seed']}:{name}".encode()).digest()[:8], "<u8")[0]
        count = int(np.prod(entry["shape"], dtype=np.int64))
        with np.errstate(over="ignore"):
            z = np.arange(1, count + 1, dtype=np.uint64)
            z *= np.uint64(0x9E3779B97F4A7C15)
            z += seed
            for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
                z ^= z >> np.uint64(shift)
                z *= np.uint64(factor)
            z ^= z >> np.uint64(31)
        unit = ((z >> np.uint64(40)).astype(np.float64) + 0.5) / 2**23 - 1
        return torch.from_numpy((entry["base"] + entry["amp"] * unit).astype(np.float32)).reshape(entry["shape"])

    def compare(self, name: str, ours: Tensor, reference: Tensor, *, logits: bool = False, floor: float = 0.0) -> None:
        """Notes the errors of one tensor, and a problem if they are above the tolerance of the manifest.

        Args:
            name: how to call it.
            ours: our result.
            reference: the official one.
            logits: also held to the limit on absolute errors.
            floor: L2 norm below which a difference counts as rounding, for tensors that are zero in exact arithmetic.
        """
        if not self.same_shape(name, ours, reference):
            return
        difference = ours.detach().double() - reference.double()
        norm, largest = float(reference.double().norm()), float(difference.abs().max())
        distance = float(difference.norm())
        self.record(name, (distance / norm if norm else distance, largest))
        if not distance <= self.relative * norm + floor:
            self.problems.append(f"{name}: relative L2 error {distance / norm if norm else distance:.3g}")
        if logits and not largest <= self.absolute:
            self.problems.append(f"{name}: largest error {largest:.3g}")

    def done(self) -> None:
        """Fails on any problem, on files never opened, and on tensors never read."""
        unread = {name: sorted(tensors.unread) for name, tensors in self._read.items() if tensors.unread}
        unopened = sorted(self.manifest["files"].keys() - self._opened)
        assert (self.problems, unread, unopened) == ([], {}, [])


@pytest.fixture
def case_of(request: pytest.FixtureRequest) -> Callable[[Path], Case]:
    """Opens the case in a folder; its errors become properties of the test, for those who want to see them."""
    return lambda folder: Case(folder, lambda name, errors: request.node.user_properties.append((name, errors)))


auto_case = opened("auto_case")
bbox_case = opened("bbox_case")
sam_load_case = opened("sam_load_case")
real_widths_case = opened("real_widths_case")
pipeline_case = opened("pipeline_case")
loss_case = opened("loss_case")
preparation_case = opened("preparation_case")
