"""LoRA: the increments by hand, and what is trained, as in SAMed and as in Med-SA's code."""

from itertools import combinations

import pytest
import torch
from torch import Tensor

from voxelsam import adapt, backbones
from voxelsam.adapt.lora import LoraEncoder
from voxelsam.errors import ConfigError
from voxelsam.nn.backbone import Backbone
from voxelsam.nn.seam import SINGLE

ALL = ("query", "value", "mlp")
SUBSETS = [some for number in (1, 2, 3) for some in combinations(ALL, number)]
MED_SA = {"targets": list(ALL), "alpha": 1.0}
COUNTS = {"sam-vit-b": 516_096, "sam-vit-l": 1_376_256, "sam-vit-h": 2_293_760}
"""Numbers in the factors of Med-SA's code, rank 4."""


def shaken(encoder: LoraEncoder) -> LoraEncoder:
    """As after some training."""
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
    return encoder


def product(encoder: LoraEncoder, layer: str, block: int) -> Tensor:
    factors = encoder.get_submodule(layer)
    return factors.up[block].weight @ factors.down[block].weight


def test_increments_are_two_low_rank_products(backbone: Backbone, tokens: Tensor) -> None:
    encoder = LoraEncoder(backbone.image_encoder, 2, 1.5, ("query", "value"))
    for part in (encoder.query, encoder.value):
        torch.nn.init.normal_(part.up[1].weight)
    qkv = torch.randn(6, 4, 5, 48)
    query, key, value = (encoder.qkv(1, qkv, tokens) - qkv).chunk(3, dim=-1)
    for increment, part in ((query, encoder.query), (value, encoder.value)):
        by_hand = 1.5 * tokens @ (part.up[1].weight @ part.down[1].weight).T
        assert torch.allclose(increment, by_hand, atol=1e-4)
    assert key.abs().max() == 0
    assert torch.equal(encoder.qkv(0, qkv, tokens), qkv)


def test_both_layers_of_the_mlp_get_theirs(backbone: Backbone, tokens: Tensor) -> None:
    encoder, mlp = LoraEncoder(backbone.image_encoder, 2, 0.5, ("mlp",)), backbone.image_encoder.blocks[1].mlp
    assert torch.equal(encoder.mlp(1, mlp, tokens, SINGLE), mlp(tokens))
    shaken(encoder)
    first, second = (mlp.get_submodule(layer) for layer in ("lin1", "lin2"))
    hidden = torch.nn.functional.gelu(
        tokens @ (first.weight + 0.5 * product(encoder, "lin1", 1)).T + first.bias, approximate="none"
    )
    by_hand = hidden @ (second.weight + 0.5 * product(encoder, "lin2", 1)).T + second.bias
    assert torch.allclose(encoder.mlp(1, mlp, tokens, SINGLE), by_hand, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("targets", SUBSETS)
def test_only_the_targets_change(backbone: Backbone, tokens: Tensor, targets: tuple[str, ...]) -> None:
    encoder, mlp = shaken(LoraEncoder(backbone.image_encoder, 2, 1.0, targets)), backbone.image_encoder.blocks[0].mlp
    qkv = torch.randn(6, 4, 5, 48)
    moved = {
        name
        for name, part in zip(("query", "key", "value"), (encoder.qkv(0, qkv, tokens) - qkv).chunk(3, -1), strict=True)
        if part.any()
    }
    if not torch.equal(encoder.mlp(0, mlp, tokens, SINGLE), mlp(tokens)):
        moved.add("mlp")
    assert moved == set(targets)
    layers = {"query": {"query"}, "value": {"value"}, "mlp": {"lin1", "lin2"}}
    assert {name for name, _ in encoder.named_children()} == set().union(*(layers[target] for target in targets))


@pytest.mark.parametrize("targets", SUBSETS)
def test_folded_is_the_same(backbone: Backbone, targets: tuple[str, ...]) -> None:
    adaptation = adapt.build("lora", {"targets": list(targets), "rank": 2, "alpha": 1.0}, backbone, 3)
    shaken(adaptation.encoder)
    images = torch.randn(2, 3, *backbone.image_size)
    with torch.no_grad():
        expected = backbone.image_encoder(images, adaptation=adaptation.encoder)
        merged = adapt.merged(adaptation, backbone)
        found = merged.image_encoder(images, adaptation=merged.encoder)
        plain = backbone.image_encoder(images)
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(plain, expected, atol=1e-1)


def test_alpha_is_divided_by_the_rank(backbone: Backbone) -> None:
    assert adapt.build("lora", {}, backbone, 3).encoder.scale == 1.0
    assert adapt.build("lora", {"rank": 8, "alpha": 4.0}, backbone, 3).encoder.scale == 0.5
    assert adapt.build("lora", MED_SA, backbone, 3).encoder.scale == 0.25


def test_the_first_factor_starts_uniform_and_the_second_at_zero(backbone: Backbone) -> None:
    encoder = adapt.build("lora", {"rank": 64, "targets": list(ALL)}, backbone, 3).encoder
    for factors in encoder.children():
        for down, up in zip(factors.down, factors.up, strict=True):
            bound = down.in_features**-0.5
            assert 0.9 * bound < down.weight.abs().max() <= bound
            assert down.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
            assert not up.weight.any()


def test_counts(backbone: Backbone) -> None:
    adaptation = adapt.build("lora", {"rank": 2}, backbone, 3)
    blocks, projections, factors, dim, rank = 2, 2, 2, 16, 2
    assert adaptation.counts()["encoder"] == blocks * projections * factors * dim * rank
    assert adaptation.counts()["prompt_encoder"] == 32
    assert not any(parameter.requires_grad for parameter in adaptation.decoder.iou_prediction_head.parameters())


@pytest.mark.parametrize("name", COUNTS)
def test_counts_of_med_sa(name: str) -> None:
    with torch.device("meta"):
        backbone = Backbone(backbones.VARIANTS[name], (256, 256))
    assert adapt.build("lora", MED_SA, backbone, 2).counts()["encoder"] == COUNTS[name]


def test_names_of_the_defaults_are_those_of_older_files(backbone: Backbone) -> None:
    names = set(adapt.build("lora", {}, backbone, 3).encoder.state_dict())
    expected = {f"{layer}.{side}.{block}.weight" for layer in ALL[:2] for side in ("down", "up") for block in (0, 1)}
    assert names == expected


def test_pixels_are_those_of_the_backbone(backbone: Backbone) -> None:
    assert adapt.build("lora", {}, backbone, 3).pixel_statistics is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rank": 0}, "rank is at least 1"),
        ({"targets": []}, "at least one of query, value, mlp"),
        ({"targets": ["query", "mlp", "query"]}, "each matrix once, but query, mlp, query came"),
        ({"targets": ["key"]}, "targets"),
        ({"targets": "mlp"}, "targets"),
    ],
)
def test_settings_that_make_no_sense_are_refused(backbone: Backbone, config: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        adapt.build("lora", config, backbone, 3)


def test_another_mlp_is_refused(backbone: Backbone, tokens: Tensor) -> None:
    encoder = LoraEncoder(backbone.image_encoder, 2, 1.0, ("mlp",))
    with pytest.raises(ConfigError, match="SAM's MLP of two layers, but Identity came"):
        encoder.mlp(0, torch.nn.Identity(), tokens, SINGLE)
