"""A small model of Meta's names in every kind of file."""

import pytest
import torch

from voxelsam.nn.backbone import Backbone, Variant

SMALL = Variant(
    "small",
    dim=32,
    depth=3,
    heads=2,
    global_blocks=(1,),
    window=3,
    patch=8,
    image_size=(64, 48),
    decoder_dim=32,
    decoder_heads=2,
    decoder_mlp=16,
    iou_hidden=8,
)


@pytest.fixture
def small() -> Variant:
    return SMALL


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    """Tensors of the small model, none of them zero."""
    generator = torch.Generator().manual_seed(3)
    empty = Backbone(SMALL).state_dict()
    return {name: 0.2 * torch.randn(tensor.shape, generator=generator) for name, tensor in empty.items()}


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(5))
