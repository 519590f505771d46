"""sam-tiny: the same everywhere, sane in size, and the image survives its frozen encoder."""

import pytest
import torch
from einops import rearrange

from voxelsam import backbones
from voxelsam.backbones.sam import VARIANTS, tiny

SHA256 = "a81b62d6524d3ca413a3c343cf25060f84fe3ef85f3f5b802249055fb0a162e4"
"""Of the tensors at 128 × 128 pixels; a change of it makes every bundle on sam-tiny unreadable."""


def pictures(count):
    generator = torch.Generator().manual_seed(11)
    coarse = torch.rand(count, 1, 8, 8, generator=generator)
    image = torch.nn.functional.interpolate(coarse, size=(128, 128), mode="bicubic")
    return (image + 0.05 * torch.randn(image.shape, generator=generator)).clamp(0, 1).expand(-1, 3, -1, -1)


def explained(features, target):
    """Share of the variance of each column that a linear map of the features explains, on data it was not fitted to."""
    features = torch.cat((features, torch.ones(len(features), 1)), dim=1).double()
    half, target = len(features) // 2, target.double()
    weights = torch.linalg.lstsq(features[:half], target[:half]).solution
    return 1 - (features[half:] @ weights - target[half:]).var(0) / target[half:].var(0)


def test_it_is_the_same_whatever_the_global_generator_does():
    torch.manual_seed(1)
    first, drawn = backbones.build("sam-tiny"), torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn), "building must not draw from the global generator"
    second = backbones.build("sam-tiny")
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
    assert backbones.fingerprint(first) == SHA256


def test_another_seed_is_another_model():
    assert backbones.fingerprint(tiny(1)) != SHA256


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (8, 8)])
def test_other_image_sizes_are_the_same_model(size):
    native, other = backbones.build("sam-tiny").state_dict(), backbones.build("sam-tiny", size)
    assert backbones.fingerprint(other) == SHA256
    changed = {name for name, tensor in other.state_dict().items() if not torch.equal(tensor, native[name])}
    assert all("pos_embed" in name or name.split(".")[2] in "13" for name in changed)
    assert other.image_encoder(torch.randn(1, 3, *size)).isfinite().all()


def test_the_fingerprint_of_random_tensors_follows_them():
    backbone = backbones.build("sam-tiny")
    backbone.source_sha256 = ""
    assert backbones.fingerprint(backbone) == SHA256
    backbone.image_encoder.neck[1].bias.data[0] += 1e-6
    assert backbones.fingerprint(backbone) != SHA256


def test_features_are_of_unit_order_everywhere():
    backbone = backbones.build("sam-tiny")
    seen = []
    for block in backbone.image_encoder.blocks:
        block.register_forward_hook(lambda _, __, x: seen.append(x))
    features = backbone.image_encoder(pictures(2))
    for x in [*seen, features]:
        assert 0.5 < x.std() < 3
    assert features.std(dim=(0, 2, 3)).min() > 0.2


def test_no_table_is_zero_and_attention_is_not_flat():
    backbone = backbones.build("sam-tiny")
    for name, tensor in backbone.state_dict().items():
        assert name.endswith("bias") or tensor.abs().max() > 0.01, name
    with_tables = backbone.image_encoder(pictures(1))
    for block in backbone.image_encoder.blocks:
        block.attn.rel_pos_h.zero_()
    assert (backbone.image_encoder(pictures(1)) - with_tables).abs().max() > 1e-3


@pytest.mark.parametrize("statistics", ["its own", "none"])
def test_the_image_can_be_read_back_from_the_features(statistics):
    """Mean and gradients of a patch, linearly from the one feature vector of that patch."""
    variant, images = VARIANTS["sam-tiny"], pictures(24)
    mean, std = (torch.tensor(values)[:, None, None] / 255 for values in (variant.pixel_mean, variant.pixel_std))
    x = (images - mean) / std if statistics == "its own" else images
    features = rearrange(backbones.build("sam-tiny").image_encoder(x), "n c h w -> (n h w) c")
    patches = rearrange(images[:, 0], "n (h a) (w b) -> (n h w) a b", a=8, b=8)
    down = patches[:, 4:].mean((1, 2)) - patches[:, :4].mean((1, 2))
    right = patches[:, :, 4:].mean((1, 2)) - patches[:, :, :4].mean((1, 2))
    share = explained(features, torch.stack((patches.mean((1, 2)), down, right), dim=1))
    assert (share > 0.93).all(), share


def test_the_patch_embedding_loses_no_pixel_of_a_grey_image():
    weight = backbones.build("sam-tiny").image_encoder.patch_embed.proj.weight
    grey = torch.linalg.svdvals(weight.sum(1).flatten(1))
    assert grey.min() > 0.2 * grey.max()


def test_layers_of_the_decoder_have_usual_spreads():
    """Projections of unit spread saturate attention, and a decoder that starts there learns nothing for hours."""
    decoder = backbones.build("sam-tiny").mask_decoder
    for name, weight in decoder.named_parameters():
        if weight.ndim > 1 and not name.endswith(("iou_token.weight", "mask_tokens.weight")):
            assert weight.std() < 0.2, name
