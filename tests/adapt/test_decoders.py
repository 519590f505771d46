"""Decoders for classes, and the two methods that do nothing inside the encoder."""

import pytest
import torch
import torch.nn.functional as F

from voxelsam import adapt
from voxelsam.adapt._decoders import sams_tokens, single_mask_tokens
from voxelsam.nn.backbone import Backbone
from voxelsam.nn.decoder import MaskDecoder
from voxelsam.nn.prompt_encoder import PromptBatch


def test_full_size_logits_are_those_of_sams_decoder_stretched(backbone: Backbone) -> None:
    decoder = adapt.build("decoder_only", {}, backbone, 3).decoder
    features = torch.randn(2, 32, 4, 5)
    inputs = (features, backbone.prompt_encoder.dense_pe(), backbone.prompt_encoder(None, 2))
    quarter = MaskDecoder.forward(decoder, *inputs)
    assert quarter.logits.shape == (2, 3, 16, 20)
    stretched = F.interpolate(quarter.logits, (32, 40), mode="bilinear", align_corners=False)
    assert torch.equal(decoder(*inputs).logits, stretched)
    assert torch.equal(decoder(*inputs).quality, quarter.quality)


def test_decoders_start_from_sams(backbone: Backbone) -> None:
    origin = adapt.build("decoder_only", {}, backbone, 3).origin
    assert {name.partition(".")[0] for name in origin.copied} == {"transformer", "iou_token", "output_upscaling"}
    assert {name.partition(".")[0] for name in origin.fresh} == {
        "mask_tokens",
        "output_hypernetworks_mlps",
        "iou_prediction_head",
    }


def test_decoder_only_trains_nothing_else(backbone: Backbone) -> None:
    adaptation = adapt.build("decoder_only", {}, backbone, 3)
    assert adaptation.counts().keys() == {"decoder"}
    assert adaptation.image_encoder is adaptation.prompt_encoder is None


def test_full_trains_a_copy_of_the_whole_image_encoder(backbone: Backbone) -> None:
    adaptation = adapt.build("full", {}, backbone, 3)
    whole = sum(parameter.numel() for parameter in backbone.image_encoder.parameters())
    assert adaptation.counts()["image_encoder"] == whole
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    adaptation.image_encoder.pos_embed.data += 1
    assert not torch.equal(adaptation.image_encoder.pos_embed, backbone.image_encoder.pos_embed)


def prompted(backbone: Backbone) -> tuple[object, ...]:
    """What a decoder is called with: two frames, a point each."""
    points = PromptBatch(torch.tensor([[[3.0, 7.0]], [[30.0, 20.0]]]), torch.ones(2, 1, dtype=torch.long))
    features = torch.randn(2, 32, 4, 5, generator=torch.Generator().manual_seed(1))
    return features, backbone.prompt_encoder.dense_pe(), backbone.prompt_encoder(points, 2)


def test_a_fresh_single_structure_is_sams_first_mask_over_a_background_of_zero(backbone: Backbone) -> None:
    inputs = prompted(backbone)
    sam = backbone.mask_decoder(*inputs)
    for make in (sams_tokens, single_mask_tokens):
        scores = make(backbone, 2)[0].small(*inputs)
        assert scores.logits.shape == (2, 2, 16, 20)
        assert scores.logits[:, 0].abs().max() == scores.quality[:, 0].abs().max() == 0
        torch.testing.assert_close(scores.logits[:, 1], sam.logits[:, 0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(scores.quality[:, 1], sam.quality[:, 0], atol=1e-5, rtol=1e-5)


def test_sams_mask_tokens_stand_for_the_structures_in_their_order(backbone: Backbone) -> None:
    inputs = prompted(backbone)
    decoder, origin = sams_tokens(backbone, 4)
    scores, sam = decoder.small(*inputs), backbone.mask_decoder(*inputs)
    assert torch.equal(scores.logits[:, 1:], sam.logits[:, :3])
    assert torch.equal(scores.quality[:, 1:], sam.quality[:, :3])
    assert origin.fresh == origin.unused == ()


def test_more_structures_than_sam_has_mask_tokens_start_fresh(backbone: Backbone) -> None:
    decoder, origin = sams_tokens(backbone, 8)
    assert decoder(*prompted(backbone)).logits.shape == (2, 8, 32, 40)
    parts = {name.partition(".")[0] for name in origin.fresh}
    assert parts == {"mask_tokens", "output_hypernetworks_mlps", "iou_prediction_head"}
    assert "output_hypernetworks_mlps.3.layers.0.weight" in origin.copied


@pytest.mark.parametrize("structures", [1, 3])
def test_single_mask_tokens_and_their_hyper_networks_alone_are_trained(backbone: Backbone, structures: int) -> None:
    decoder, origin = single_mask_tokens(backbone, structures + 1)
    trained = {name.partition(".")[0] for name, p in decoder.named_parameters() if p.requires_grad}
    assert trained == {"mask_tokens", "output_hypernetworks_mlps"}
    scores = decoder.small(*prompted(backbone))
    assert torch.allclose(scores.logits[:, 1:], scores.logits[:, 1:2], atol=1e-5)
    sam = backbone.mask_decoder
    assert torch.equal(decoder.companions.weight, sam.mask_tokens.weight[1:])
    assert torch.equal(decoder.mask_tokens.weight, sam.mask_tokens.weight[:1].repeat(structures, 1))
    assert origin.fresh == ()
    assert {name.split(".")[1] for name in origin.unused} == {"1", "2", "3"}
    assert not any(parameter.requires_grad for parameter in sam.parameters())
