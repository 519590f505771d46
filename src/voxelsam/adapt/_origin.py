"""Where the tensors of a new module came from: copied from the backbone, or fresh."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Origin:
    """Names of tensors, in the order of the module's state dict.

    Attributes:
        copied: taken over from the backbone, unchanged.
        fresh: initialised anew.
        unused: tensors of the backbone's module that have no place here or do not fit it.
    """

    copied: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]

    def lines(self) -> list[str]:
        """The same for readers, one kind per line."""
        kinds = {"copied": self.copied, "fresh": self.fresh, "unused": self.unused}
        return [f"{kind} ({len(names)}): {', '.join(names)}" for kind, names in kinds.items() if names]


@torch.no_grad()
def copy_fitting(target: nn.Module, source: nn.Module, wanted: Callable[[str], bool] = lambda name: True) -> Origin:
    """Copies every wanted tensor whose name and shape agree in both modules.

    Args:
        target: is changed in place.
        source: stays as it is.
        wanted: says by its name whether a tensor may be copied.
    """
    given, own = source.state_dict(), target.state_dict()
    copied = [name for name in own if name in given and given[name].shape == own[name].shape and wanted(name)]
    for name in copied:
        own[name].copy_(given[name])
    return Origin(
        copied=tuple(copied),
        fresh=tuple(name for name in own if name not in copied),
        unused=tuple(name for name in given if name not in copied),
    )
