"""The whole frozen model."""

import pytest
import torch

from voxelsam.errors import WeightsError
from voxelsam.nn.backbone import Backbone, Variant

SMALL = Variant(
    "small",
    dim=16,
    depth=2,
    heads=2,
    global_blocks=(1,),
    window=3,
    patch=8,
    image_size=(32, 48),
    decoder_dim=16,
    decoder_heads=2,
    decoder_mlp=16,
    iou_hidden=8,
)


def test_it_stays_frozen_and_in_evaluation_mode():
    backbone = Backbone(SMALL)
    around = torch.nn.Sequential(backbone).train()
    assert around.training
    assert not any(module.training for module in backbone.modules())
    assert not any(tensor.requires_grad for tensor in backbone.parameters())


def test_it_can_be_built_for_another_image_size():
    backbone = Backbone(SMALL, (40, 24))
    assert backbone.image_size == backbone.prompt_encoder.image_size == (40, 24)
    assert backbone.image_encoder.grid == backbone.prompt_encoder.grid == (5, 3)
    features = backbone.image_encoder(torch.randn(2, 3, 40, 24))
    prompts = backbone.prompt_encoder(None, 2)
    scores = backbone.mask_decoder(features, backbone.prompt_encoder.dense_pe(), prompts)
    assert scores.logits.shape == (2, 4, 20, 12)


def test_an_image_that_does_not_divide_is_refused():
    with pytest.raises(WeightsError, match="30 × 24 pixels does not divide"):
        Backbone(SMALL, (30, 24))


@pytest.mark.parametrize(
    ("dim", "depth", "heads", "blocks", "frozen", "tensors"),
    [
        (768, 12, 12, (2, 5, 8, 11), 87_278_848, 314),
        (1024, 24, 16, (5, 11, 17, 23), 305_099_776, 482),
        (1280, 32, 16, (7, 15, 23, 31), 633_052_928, 594),
    ],
)
def test_counts_are_those_of_the_official_code_at_512_pixels(dim, depth, heads, blocks, frozen, tensors):
    """Frozen encoder counts: the official MA-SAM code at 512 px, counted by instantiation."""
    with torch.device("meta"):
        backbone = Backbone(Variant("any", dim, depth, heads, blocks), (512, 512))
    assert sum(tensor.numel() for tensor in backbone.image_encoder.parameters()) == frozen
    assert sum(tensor.numel() for tensor in backbone.prompt_encoder.parameters()) == 6_220
    assert len(backbone.state_dict()) == tensors
