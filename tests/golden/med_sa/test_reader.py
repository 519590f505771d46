"""The reader of Med-SA's cases lets nothing pass: no unknown kind, no changed file, nothing that nobody reads."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a case of two tensors, with changes to its manifest."""

    def written(**changes: object) -> Path:
        file = tmp_path / "case.safetensors"
        save_file({"a": torch.ones(2, 6), "b": torch.zeros(3)}, file)
        manifest = {
            "note": "text describes",
            "revision": None,
            "config": {"size": 6},
            "loss": {"kind": "text too", "value": 0.5, "terms": {"dice": [0.25]}},
            "file": file.name,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "suggested_tolerance": {"rtol": 1e-2, "atol": 1e-3},
            "tensors": {"a": {"shape": [2, 6], "dtype": "float32"}, "b": {"shape": [3], "dtype": "float32"}},
        }
        (tmp_path / "case.json").write_text(json.dumps(manifest | changes))
        return tmp_path / "case.json"

    return written


@pytest.fixture
def case(write: Callable[..., Path], case_of: Callable[[Path], Any]) -> Any:
    return case_of(write())


def read_all(case: Any) -> None:
    assert case.tensors["a"].sum() + case.tensors["b"].sum() == 12
    assert case.manifest["loss"]["value"] + case.manifest["loss"]["terms"]["dice"][0] == 0.75


def test_reading_everything_passes(case: Any) -> None:
    read_all(case)
    case.compare("a", torch.full((2, 6), 1.0109), case.tensors["a"])
    case.compare("b", torch.full((3,), -0.0009), case.tensors["b"])
    case.compare("loss", 0.5, case.manifest["loss"]["value"])
    case.done()


@pytest.mark.parametrize(
    ("ours", "message"),
    [
        (torch.full((2, 6), 1.0112), "a: largest error"),
        (torch.ones(2, 6).index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(0.98)), "a: largest error"),
        (torch.full((2, 6), float("nan")), "a: largest error nan"),
        (torch.ones(2, 5), "a: shape"),
    ],
)
def test_errors_above_the_tolerance_are_failures(case: Any, ours: torch.Tensor, message: str) -> None:
    read_all(case)
    case.compare("a", ours, case.tensors["a"])
    with pytest.raises(AssertionError, match=message):
        case.done()


def test_a_tensor_that_nobody_reads_is_a_failure(case: Any) -> None:
    read_all(case)
    case.tensors.unread.add("b")
    with pytest.raises(AssertionError, match="'b'"):
        case.done()


def test_asking_whether_a_tensor_is_there_does_not_read_it(case: Any) -> None:
    assert "a" in case.tensors
    assert "c" not in case.tensors
    assert case.tensors.unread == {"a", "b"}


def test_entries_that_nobody_reads_are_failures(case: Any) -> None:
    assert case.manifest.unread() == ["loss"]
    assert "value" in case.manifest["loss"]
    assert case.manifest.unread() == ["loss.terms", "loss.value"]
    assert case.manifest["loss"]["terms"]["dice"] == [0.25]
    assert case.manifest.unread() == ["loss.value"]
    with pytest.raises(AssertionError, match=r"loss\.value"):
        case.done()


def test_state_strips_the_prefix_and_reads(case: Any) -> None:
    assert list(case.state("a")) == [""]
    assert case.tensors.unread == {"b"}


def test_a_changed_file_is_a_failure(write: Callable[..., Path], case_of: Callable[[Path], Any]) -> None:
    path = write()
    save_file({"a": torch.zeros(2, 6), "b": torch.zeros(3)}, path.with_suffix(".safetensors"))
    with pytest.raises(AssertionError, match="not the file that the manifest lists"):
        case_of(path)


def test_other_tensors_than_listed_are_a_failure(write: Callable[..., Path], case_of: Callable[[Path], Any]) -> None:
    with pytest.raises(AssertionError, match="does not hold what the manifest lists"):
        case_of(write(tensors={"a": {"shape": [2, 6], "dtype": "float32"}}))


@pytest.mark.parametrize(("listed", "fails"), [("case", True), ("another", False)])
def test_the_index_is_compared_where_it_lists_the_case(
    write: Callable[..., Path], case_of: Callable[[Path], Any], listed: str, fails: bool
) -> None:
    path = write()
    path.with_name("INDEX.json").write_text(json.dumps({"cases": [{"case": listed, "sha256": "0"}]}))
    if fails:
        with pytest.raises(AssertionError, match="not the file that INDEX"):
            case_of(path)
    else:
        assert case_of(path).name == "case"


@pytest.mark.shared
def test_every_case_is_of_a_known_kind_and_whole(golden: Path, kinds: tuple[str, ...]) -> None:
    names = {
        suffix: {path.stem for path in golden.glob(f"*{suffix}")} - {"INDEX"} for suffix in (".json", ".safetensors")
    }
    assert names[".json"], f"{golden} holds no cases"
    assert names[".json"] == names[".safetensors"]
    assert [name for name in sorted(names[".json"]) if not name.startswith(kinds)] == []
