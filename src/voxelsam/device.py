"""Which device to compute on, by name."""

import torch

from voxelsam.errors import ConfigError


def find(name: str = "auto") -> torch.device:
    """The device of that name; ``auto`` takes CUDA, then MPS, then the CPU.

    Raises:
        ConfigError: the name is unknown, or there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device {name!r} cannot be used here ({reason}); use auto, cpu, cuda, cuda:N or mps"
        ) from None
    return device
