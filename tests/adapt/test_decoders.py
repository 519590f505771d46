"""Decoders for classes, and the two methods that do nothing inside the encoder."""

import torch
import torch.nn.functional as F

from voxelsam import adapt
from voxelsam.nn.backbone import Backbone
from voxelsam.nn.decoder import MaskDecoder


def test_full_size_logits_are_those_of_sams_decoder_stretched(backbone: Backbone) -> None:
    decoder = adapt.build("decoder_only", {}, backbone, 3).decoder
    features = torch.randn(2, 32, 4, 5)
    sparse, dense = backbone.prompt_encoder(None, 2)
    inputs = (features, backbone.prompt_encoder.dense_pe(), sparse, dense)
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
