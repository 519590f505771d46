"""Small networks with weights that are all non-zero."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from voxelsam.nn.vit import SamEncoder


def redraw(module: nn.Module, seed: int = 0, std: float = 0.3) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * std)
    return module


@pytest.fixture(name="redraw")
def redraw_fixture() -> Callable[..., nn.Module]:
    return redraw


@pytest.fixture
def make_encoder() -> Callable[..., SamEncoder]:
    """An encoder of three blocks, the middle one global, windows of 3 tokens, patches of 4 pixels."""

    def make(grid: tuple[int, int] = (5, 4), **changes: object) -> SamEncoder:
        sizes = {"dim": 16, "depth": 3, "heads": 2, "patch": 4, "window": 3, "global_blocks": (1,), "out_channels": 8}
        sizes |= {"image_size": (4 * grid[0], 4 * grid[1])} | changes
        return redraw(SamEncoder(**sizes)).requires_grad_(False)

    return make


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(7)
