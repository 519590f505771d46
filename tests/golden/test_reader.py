"""The reader of golden cases lets nothing pass: no unknown kind, no changed file, no tensor that nobody reads."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file


@pytest.fixture
def case(tmp_path: Path, case_of: Callable[[Path], Any]) -> Any:
    """A case of two tensors."""
    save_file({"a": torch.ones(2, 6), "b": torch.zeros(3)}, tmp_path / "io.safetensors")
    listed = {"a": {"shape": [2, 6], "dtype": "float32", "meaning": "every other, taken at [:, ::2]"}}
    listed["b"] = {"shape": [3], "dtype": "float32"}
    digest = hashlib.sha256((tmp_path / "io.safetensors").read_bytes()).hexdigest()
    manifest = {
        "tolerance_hint": "relative L2 error of every tensor <= 1e-4 and max abs error of logits <= 1e-3",
        "config": {"seed": "s"},
        "files": {"io.safetensors": {"sha256": digest, "tensors": listed}},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return case_of(tmp_path)


def test_reading_everything_passes(case: Any) -> None:
    tensors = case.tensors("io.safetensors")
    case.compare("a", torch.ones(2, 6) + 5e-5, tensors["a"], logits=True)
    case.equal("b", tensors["b"], torch.zeros(3))
    case.done()


def test_a_tensor_that_nobody_reads_is_a_failure(case: Any) -> None:
    assert case.tensors("io.safetensors")["a"].sum() == 12
    with pytest.raises(AssertionError, match="'b'"):
        case.done()


def test_a_file_that_nobody_opens_is_a_failure(case: Any) -> None:
    with pytest.raises(AssertionError, match=r"io\.safetensors"):
        case.done()


def test_a_changed_file_is_a_failure(case: Any) -> None:
    save_file({"a": torch.ones(2, 6), "b": torch.ones(3)}, case.folder / "io.safetensors")
    with pytest.raises(AssertionError, match="not the file that the manifest lists"):
        case.tensors("io.safetensors")


@pytest.mark.parametrize(
    ("ours", "logits"),
    [
        (torch.ones(2, 6) + 2e-4, False),
        (torch.ones(2, 5), False),
        (torch.full((2, 6), float("nan")), False),
        (torch.ones(2, 6).index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(1.0011)), True),
    ],
)
def test_errors_above_the_tolerance_are_failures(case: Any, ours: torch.Tensor, logits: bool) -> None:
    tensors = case.tensors("io.safetensors")
    case.compare("a", ours, tensors["a"], logits=logits)
    case.equal("b", tensors["b"], torch.zeros(3))
    with pytest.raises(AssertionError, match="a: "):
        case.done()


def test_strides_come_from_the_manifest(case: Any) -> None:
    case.manifest["files"]["io.safetensors"]["tensors"]["a_strided"] = {"meaning": "[n, m] taken at [:, ::2]"}
    assert torch.equal(case.part("a_strided", torch.arange(12).reshape(2, 6)), torch.tensor([[0, 2, 4], [6, 8, 10]]))


def test_the_recipe_is_splitmix64(case: Any) -> None:
    def finalised(z: int) -> int:
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z = ((z ^ z >> shift) * factor) % 2**64
        return z ^ z >> 31

    seed = int.from_bytes(hashlib.sha256(b"s:name").digest()[:8], "little")
    words = [finalised((seed + (i + 1) * 0x9E3779B97F4A7C15) % 2**64) for i in range(6)]
    expected = [2 + 0.5 * (((word >> 40) + 0.5) / 2**23 - 1) for word in words]
    assert torch.equal(
        case.recipe("name", {"shape": [2, 3], "base": 2.0, "amp": 0.5}), torch.tensor(expected).reshape(2, 3)
    )


def test_every_case_is_of_a_known_kind(golden: Path, kinds: tuple[str, ...]) -> None:
    folders = sorted(path.name for path in golden.iterdir() if path.is_dir())
    assert folders, f"{golden} holds no cases"
    assert [name for name in folders if not name.startswith(kinds)] == []
    assert [name for name in folders if not (golden / name / "manifest.json").is_file()] == []
