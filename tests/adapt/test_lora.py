"""SAMed: the increments by hand, and what is trained."""

import pytest
import torch
from torch import Tensor

from voxelsam import adapt
from voxelsam.adapt.lora import LoraEncoder
from voxelsam.errors import ConfigError
from voxelsam.nn.backbone import Backbone


def test_increments_are_two_low_rank_products(backbone: Backbone, tokens: Tensor) -> None:
    encoder = LoraEncoder(backbone.image_encoder.blocks_spec, rank=2, scale=1.5)
    for part in (encoder.query, encoder.value):
        torch.nn.init.normal_(part.up[1].weight)
    qkv = torch.randn(6, 4, 5, 48)
    query, key, value = (encoder.qkv(1, qkv, tokens) - qkv).chunk(3, dim=-1)
    for increment, part in ((query, encoder.query), (value, encoder.value)):
        by_hand = 1.5 * tokens @ (part.up[1].weight @ part.down[1].weight).T
        assert torch.allclose(increment, by_hand, atol=1e-4)
    assert key.abs().max() == 0
    assert torch.equal(encoder.qkv(0, qkv, tokens), qkv)


def test_alpha_is_divided_by_the_rank(backbone: Backbone) -> None:
    assert adapt.build("lora", {}, backbone, 3).encoder.scale == 1.0
    assert adapt.build("lora", {"rank": 8, "alpha": 4.0}, backbone, 3).encoder.scale == 0.5


def test_counts(backbone: Backbone) -> None:
    adaptation = adapt.build("lora", {"rank": 2}, backbone, 3)
    blocks, projections, factors, dim, rank = 2, 2, 2, 16, 2
    assert adaptation.counts()["encoder"] == blocks * projections * factors * dim * rank
    assert adaptation.counts()["prompt_encoder"] == 32
    assert not any(parameter.requires_grad for parameter in adaptation.decoder.iou_prediction_head.parameters())


def test_pixels_are_those_of_the_backbone(backbone: Backbone) -> None:
    assert adapt.build("lora", {}, backbone, 3).pixel_statistics is None


def test_a_rank_below_one_is_refused(backbone: Backbone) -> None:
    with pytest.raises(ConfigError, match="rank is at least 1"):
        adapt.build("lora", {"rank": 0}, backbone, 3)
