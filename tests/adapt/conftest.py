"""A backbone of two small blocks, one windowed with padding and one global."""

import pytest
import torch

from voxelsam.nn.backbone import Backbone, Variant

SMALL = Variant(
    "small",
    dim=16,
    depth=2,
    heads=2,
    global_blocks=(1,),
    window=3,
    patch=8,
    image_size=(32, 40),
    decoder_dim=32,
    decoder_heads=2,
    decoder_mlp=24,
    iou_hidden=8,
)


@pytest.fixture
def variant() -> Variant:
    return SMALL


@pytest.fixture
def backbone() -> Backbone:
    torch.manual_seed(0)
    result = Backbone(SMALL)
    with torch.no_grad():
        for name, parameter in result.named_parameters():
            if "pos" in name:
                parameter += 0.1 * torch.randn(parameter.shape)
    return result


@pytest.fixture
def tokens() -> torch.Tensor:
    """Two stacks of three slices."""
    return torch.randn(6, 4, 5, 16, generator=torch.Generator().manual_seed(4))
