"""Checkpoint files: find, recognise by content, read tensors without running anything.

Convention: PyTorch files are read with ``weights_only``, so a pickle that wants to call something is refused, never
executed. Big files are mapped into memory, not copied.
"""

import hashlib
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from voxelsam.errors import WeightsError

IN_A_FOLDER = ("model.safetensors", "pytorch_model.bin")
"""What a download from the Hugging Face hub calls its weights, the preferred one first."""

OLD_PYTORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How PyTorch's format before the archive begins: a pickle of its magic number."""

NESTED = ("model", "state_dict", "model_state_dict")
"""Keys under which training scripts put the tensors."""


def checkpoint_file(path: Path) -> Path:
    """The file itself, or the weights in a folder.

    Raises:
        WeightsError: there is no such file, or the folder holds no weights under a known name.
    """
    if path.is_file():
        return path
    if not path.exists():
        raise WeightsError(f"there is no checkpoint {path}; give a .pth or .safetensors file or a downloaded folder")
    for name in IN_A_FOLDER:
        if (path / name).is_file():
            return path / name
    inside = sorted(entry.name for entry in path.iterdir())
    split = (
        "; weights split over several files are not supported" if any("index.json" in name for name in inside) else ""
    )
    raise WeightsError(
        f"the folder {path} holds none of {', '.join(IN_A_FOLDER)}, but {', '.join(inside[:8]) or 'nothing'}{split}"
    )


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_tensors(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """All tensors of a file by name, and the names of what stood beside them.

    Raises:
        WeightsError: the file is not a checkpoint, is cut off, or would have to run code.
    """
    with path.open("rb") as file:
        head = file.read(1024)
    size = path.stat().st_size
    if not head:
        raise WeightsError(f"{path} is empty; download it again")
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path} is a Git LFS pointer, not the weights; run `git lfs pull` where it came from")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise WeightsError(f"{path} is a web page, not weights: the download met a login, error or consent page")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < max(size, 1 << 27):
        return _read_safetensors(path, size, 8 + int.from_bytes(head[:8], "little")), ()
    if head.startswith(b"PK\x03\x04"):
        _check_archive(path, size)
        return _tensors_in(_load(path, mmap=True), path)
    if head.startswith(OLD_PYTORCH):
        return _tensors_in(_load(path, mmap=False), path)
    if head.startswith(b"\x80"):
        raise WeightsError(f"{path} is a Python pickle, not a PyTorch file; it was refused and nothing in it was run")
    raise WeightsError(
        f"{path} ({size} bytes) is neither a PyTorch nor a safetensors file; it begins with {head[:16]!r}"
    )


def _read_safetensors(path: Path, size: int, header: int) -> dict[str, Tensor]:
    if header > size:
        raise WeightsError(f"{path} is cut off: its table of contents needs {header} bytes and {size} are there")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    except SafetensorError as error:
        raise WeightsError(f"{path} is damaged or cut off ({size} bytes): {error}; download it again") from None


def _check_archive(path: Path, size: int) -> None:
    if not zipfile.is_zipfile(path):
        raise WeightsError(f"{path} is cut off: a PyTorch file of which only {size} bytes are there; download it again")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any("/code/" in name for name in names):
        raise WeightsError(f"{path} is a TorchScript program; give the file with the model's tensors instead")
    if not any(name.endswith("data.pkl") for name in names):
        raise WeightsError(f"{path} is an archive, but not a PyTorch one; unpack it and give the checkpoint inside")


def _load(path: Path, *, mmap: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        what = f"holds Python objects besides tensors ({wanted[1]})" if wanted else "holds more than plain tensors"
        raise WeightsError(
            f"{path} {what}; it was refused and nothing in it was run. "
            "Save the model's state dict alone and give that file"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise WeightsError(f"{path} is damaged or cut off: {error or 'it ends too early'}; download it again") from None


def _tensors_in(content: Any, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    beside: tuple[str, ...] = ()
    if isinstance(content, dict):
        for key in NESTED:
            if isinstance(content.get(key), dict):
                beside = tuple(str(name) for name in content if name != key)
                content = content[key]
                break
    if not isinstance(content, dict) or not content:
        raise WeightsError(f"{path} holds no tensors by name, but a {type(content).__name__}")
    wrong = [str(name) for name, value in content.items() if not isinstance(name, str) or not isinstance(value, Tensor)]
    if wrong:
        raise WeightsError(f"{path} holds other things than tensors: {', '.join(wrong[:8])}; give the state dict alone")
    return dict(content), beside
