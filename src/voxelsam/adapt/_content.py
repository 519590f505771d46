"""What is in a file of tensors, told apart by content; no code in it is run."""

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from voxelsam.errors import WeightsError


def read_content(path: Path) -> object:
    """The object in a ``.pth`` file, or the dictionary of tensors in a ``.safetensors`` file.

    Raises:
        WeightsError: the file cannot be read, is damaged or of another kind, or would have to run code.
    """
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise WeightsError(f"cannot read the checkpoint {path}: {error.strerror}") from None
    pickled = head.startswith((b"PK\x03\x04", b"\x80"))
    try:
        return torch.load(path, map_location="cpu", weights_only=True) if pickled else load_file(path)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path} ({path.stat().st_size} bytes, beginning with {head!r}) is damaged, or no file of tensors that can "
            f"be read without running code: {(str(error) or type(error).__name__).splitlines()[0]}"
        ) from None
