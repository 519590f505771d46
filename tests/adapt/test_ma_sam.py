"""MA-SAM: formulas by hand, the table of parameter counts, what starts where and what is trained."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from voxelsam import adapt, backbones
from voxelsam.adapt.ma_sam import Config, DepthAdapter, DepthConv, Fact, MaSamEncoder
from voxelsam.errors import ConfigError
from voxelsam.nn.backbone import Backbone, Variant
from voxelsam.nn.seam import BlockSpec, EncoderAdaptation, Stack

TABLE = {
    ("sam-vit-b", 12): (49_152, 24_576, 24_818_688, 5_243_725, 6_220, 30_142_361, 87_278_848, 117_421_209),
    ("sam-vit-l", 12): (65_536, 49_152, 59_099_136, 5_243_725, 6_220, 64_463_769, 305_099_776, 369_563_545),
    ("sam-vit-h", 12): (81_920, 65_536, 91_414_528, 5_243_725, 6_220, 96_811_929, 633_052_928, 729_864_857),
    ("sam-vit-b", 1): (49_152, 24_576, 24_818_688, 3_768_042, 6_220, 28_666_678, 87_278_848, 115_945_526),
    ("sam-vit-l", 1): (65_536, 49_152, 59_099_136, 3_768_042, 6_220, 62_988_086, 305_099_776, 368_087_862),
    ("sam-vit-h", 1): (81_920, 65_536, 91_414_528, 3_768_042, 6_220, 95_336_246, 633_052_928, 728_389_174),
}
"""U and V, Σ, adapters, decoder, prompt encoder, trained, frozen, total: the official code, 512 pixels, rank 32."""


def count(*modules: torch.nn.Module) -> int:
    """Trained numbers."""
    return sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize(("name", "classes"), TABLE)
def test_released_counts_are_those_of_the_official_code(name: str, classes: int) -> None:
    with torch.device("meta"):
        backbone = Backbone(backbones.VARIANTS[name], (512, 512))
    adaptation = adapt.build("ma_sam", {"variant": "released"}, backbone, classes + 1)
    encoder = adaptation.encoder
    frozen = sum(p.numel() for p in backbone.image_encoder.parameters() if not p.requires_grad)
    shared = count(encoder.fact.down, encoder.fact.up)
    sigma = count(encoder.fact.query, encoder.fact.value)
    adapters = count(encoder.before_attention_adapters, encoder.before_mlp_adapters)
    parts = (shared, sigma, adapters, count(adaptation.decoder), count(adaptation.prompt_encoder))
    assert (*parts, sum(parts), frozen, sum(parts) + frozen) == TABLE[name, classes]
    assert sum(adaptation.counts().values()) == sum(parts)


@pytest.mark.parametrize("classes", [2, 8, 11])
def test_released_decoder_grows_by_as_much_per_class(classes: int) -> None:
    with torch.device("meta"):
        backbone = Backbone(backbones.VARIANTS["sam-vit-b"], (512, 512))
    adaptation = adapt.build("ma_sam", {"variant": "released"}, backbone, classes + 1)
    assert count(adaptation.decoder) == {2: 3_902_195, 8: 4_707_113, 11: 5_109_572}[classes]


def test_paper_counts_only_what_gets_gradients() -> None:
    with torch.device("meta"):
        backbone = Backbone(backbones.VARIANTS["sam-vit-b"], (512, 512))
    paper, released = (adapt.build("ma_sam", {"variant": v}, backbone, 13).counts() for v in ("paper", "released"))
    head = sum(p.numel() for p in backbone.mask_decoder.iou_prediction_head.layers[:2].parameters()) + 257 * 13
    assert paper == {
        "encoder": released["encoder"],
        "decoder": released["decoder"] - head,
        "prompt_encoder": 256,
    }


def test_fact_is_the_formula() -> None:
    torch.manual_seed(0)
    fact = Fact(8, blocks=2, rank=3, scale=0.7, dropout=0.5).eval()
    torch.nn.init.normal_(fact.up.weight)
    x = torch.randn(2, 3, 4, 8)
    for block in range(2):
        for increment, sigma, matrix in zip(
            fact(block, x), (fact.query, fact.value), fact.matrices(block), strict=True
        ):
            by_hand = 0.7 * x @ fact.down.weight.T @ sigma[block].weight.T @ fact.up.weight.T
            assert torch.allclose(increment, by_hand, atol=1e-5)
            assert torch.allclose(x.double() @ matrix.T, by_hand.double(), atol=1e-5)


def test_fact_leaves_keys_and_zeros_alone(backbone: Backbone, tokens: Tensor) -> None:
    encoder = MaSamEncoder(backbone.image_encoder.blocks_spec, Config(rank=3)).eval()
    torch.nn.init.normal_(encoder.fact.up.weight)
    qkv = torch.randn(6, 4, 5, 48)
    changed = encoder.qkv(1, qkv.clone(), tokens) - qkv
    query, key, value = changed.chunk(3, dim=-1)
    assert key.abs().max() == 0
    assert min(query.abs().max(), value.abs().max()) > 0.01
    assert not torch.allclose(query, value)
    assert torch.equal(encoder.qkv(1, qkv.clone(), torch.zeros_like(tokens)), qkv)


def test_fact_drops_in_training_only(tokens: Tensor) -> None:
    torch.manual_seed(0)
    fact = Fact(16, blocks=1, rank=3, scale=1.0, dropout=0.5)
    torch.nn.init.normal_(fact.up.weight)
    assert not torch.equal(fact.train()(0, tokens)[0], fact(0, tokens)[0])
    assert torch.equal(fact.eval()(0, tokens)[0], fact(0, tokens)[0])


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_depth_convolution_is_the_three_dimensional_one(depth: int) -> None:
    torch.manual_seed(0)
    conv = DepthConv(6)
    x = torch.randn(2, depth, 3, 4, 6, requires_grad=True)
    expected = F.conv3d(x.permute(0, 4, 1, 2, 3), conv.weight, conv.bias, padding="same").permute(0, 2, 3, 4, 1)
    ours = conv(x)
    assert torch.allclose(ours, expected, atol=1e-5)
    parameters = (x, conv.weight, conv.bias)
    for mine, theirs in zip(
        torch.autograd.grad(ours.sin().sum(), parameters),
        torch.autograd.grad(expected.sin().sum(), parameters),
        strict=True,
    ):
        assert torch.allclose(mine, theirs, atol=1e-4)


def test_adapter_with_one_slice_is_its_centre_tap() -> None:
    torch.manual_seed(0)
    adapter = DepthAdapter(8, 6, starts_at_zero=False)
    x = torch.randn(2, 3, 4, 8)
    narrow = F.layer_norm(x, (8,), adapter.norm.weight, adapter.norm.bias, 1e-6) @ adapter.down.weight.T
    mixed = F.gelu(narrow @ adapter.conv.weight[:, :, 1, 0, 0].T + adapter.conv.bias)
    assert torch.allclose(adapter(x, Stack(1)), x + mixed @ adapter.up.weight.T, atol=1e-5)


def test_adapter_sees_one_slice_to_either_side_of_its_own_stack(tokens: Tensor) -> None:
    adapter = DepthAdapter(16, 6, starts_at_zero=False)
    changed = tokens.clone()
    changed[0, 2, 3] += 1
    moved = (adapter(tokens, Stack(3)) != adapter(changed, Stack(3))).any(dim=-1)
    expected = torch.zeros(6, 4, 5, dtype=torch.bool)
    expected[:2, 2, 3] = True
    assert torch.equal(moved, expected)


def test_frames_that_are_no_stacks_are_refused(tokens: Tensor) -> None:
    with pytest.raises(Exception, match=r"divisible|divide"):
        DepthAdapter(16, 6, starts_at_zero=False)(tokens, Stack(4))


def test_the_variant_decides_how_adapters_start(backbone: Backbone) -> None:
    def start(**options: str) -> tuple[bool, bool]:
        adaptation = adapt.build("ma_sam", options, backbone, 3)
        adapter = adaptation.encoder.before_mlp_adapters[1]
        assert adaptation.encoder.fact.up.weight.abs().max() == 0
        return adapter.up.weight.abs().max() == 0, adaptation.starts_as_backbone

    assert start() == start(variant="paper") == start(variant="released", init="zero") == (True, True)
    assert start(variant="released") == start(init="official") == (False, False)


def test_what_the_decoder_takes_from_sam(backbone: Backbone) -> None:
    paper, released = (adapt.build("ma_sam", {"variant": v}, backbone, 4) for v in ("paper", "released"))
    sam = backbone.mask_decoder.state_dict()
    for adaptation in (paper, released):
        own = adaptation.decoder.state_dict()
        assert all(torch.equal(own[name], sam[name]) for name in adaptation.origin.copied)
        assert {*adaptation.origin.copied, *adaptation.origin.fresh} == own.keys()
        assert {*adaptation.origin.copied, *adaptation.origin.unused} == sam.keys()
    starts = {name.partition(".")[0] for name in paper.origin.copied}
    assert starts == {"transformer", "iou_token", "output_upscaling"}
    extra = set(released.origin.copied) - set(paper.origin.copied)
    assert "mask_tokens.weight" in extra
    assert "output_hypernetworks_mlps.3.layers.1.bias" in extra
    assert "output_hypernetworks_mlps.0.layers.2.weight" in released.origin.fresh
    assert any(line.startswith("fresh (") for line in paper.origin.lines())


def test_the_quality_head_is_trained_in_the_released_variant_only(backbone: Backbone) -> None:
    for variant in ("paper", "released"):
        decoder = adapt.build("ma_sam", {"variant": variant}, backbone, 4).decoder
        head = {parameter.requires_grad for parameter in decoder.iou_prediction_head.parameters()}
        assert head == {variant == "released"}


@pytest.mark.parametrize(
    ("prompts", "trained"),
    [
        ("none", {"no_mask_embed.weight"}),
        ("boxes", {"no_mask_embed.weight", "point_embeddings.2.weight", "point_embeddings.3.weight"}),
    ],
)
def test_training_prompts_decide_what_of_the_prompt_encoder_is_trained(
    backbone: Backbone, prompts: str, trained: set[str]
) -> None:
    prompt_encoder = adapt.build("ma_sam", {"prompts": prompts}, backbone, 2).prompt_encoder
    assert {name for name, p in prompt_encoder.named_parameters() if p.requires_grad} == trained


def test_all_prompts_train_the_whole_prompt_encoder(backbone: Backbone) -> None:
    prompt_encoder = adapt.build("ma_sam", {"prompts": "all"}, backbone, 2).prompt_encoder
    assert all(parameter.requires_grad for parameter in prompt_encoder.parameters())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_an_ablation_lacks_its_part_and_nothing_else(backbone: Backbone) -> None:
    whole = adapt.build("ma_sam", {"init": "official"}, backbone, 3)
    homes = {"fact": "fact.", "first": "before_attention_adapters.", "second": "before_mlp_adapters."}
    frames = torch.rand(3, 3, *backbone.image_size, generator=torch.Generator().manual_seed(1))
    features = {}
    for part, home in homes.items():
        parts = [other for other in homes if other != part]
        lacking = adapt.build("ma_sam", {"init": "official", "parts": parts}, backbone, 3)
        kept = {name for name in whole.encoder.state_dict() if not name.startswith(home)}
        assert lacking.encoder.state_dict().keys() == kept
        assert lacking.decoder.state_dict().keys() == whole.decoder.state_dict().keys()
        state = {name: tensor for name, tensor in whole.encoder.state_dict().items() if name in kept}
        torch.nn.init.normal_(whole.encoder.fact.up.weight, generator=torch.Generator().manual_seed(2))
        lacking.encoder.load_state_dict(
            state | ({"fact.up.weight": whole.encoder.fact.up.weight} if part != "fact" else {})
        )
        with torch.no_grad():
            features[part] = backbone.image_encoder(frames, Stack(3), lacking.eval().encoder)
            without = backbone.image_encoder(frames, Stack(3), whole.eval().encoder)
        assert not torch.allclose(features[part], without, atol=1e-4)
    assert not torch.allclose(features["first"], features["second"], atol=1e-4)


def test_no_part_at_all_is_the_frozen_encoder(backbone: Backbone) -> None:
    nothing = adapt.build("ma_sam", {"parts": [], "init": "official"}, backbone, 3)
    frames = torch.rand(3, 3, *backbone.image_size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(
            backbone.image_encoder(frames, Stack(3), nothing.encoder),
            backbone.image_encoder(frames, Stack(1), EncoderAdaptation()),
        )


def test_sams_decoder_has_two_doublings_and_the_size_of_the_input(backbone: Backbone) -> None:
    adaptation = adapt.build("ma_sam", {"upsampling": "sam"}, backbone, 3)
    features = torch.rand(2, backbone.variant.decoder_dim, *backbone.prompt_encoder.grid)
    with torch.no_grad():
        prompts = adaptation.prompt_encoder(None, frames=2)
        scores = adaptation.decoder(features, adaptation.prompt_encoder.dense_pe(), prompts)
    assert scores.logits.shape == (2, 3, *backbone.image_size)
    doublings = [
        name for name, module in adaptation.decoder.named_modules() if type(module).__name__ == "ConvTranspose2d"
    ]
    assert len(doublings) == 2


@pytest.mark.parametrize(("dim", "width"), [(16, 16), (768, 384), (1280, 384)])
def test_width_is_the_papers_where_the_backbone_is_wide_enough(dim: int, width: int) -> None:
    assert Config().width_for(dim) == width
    assert Config(width=5).width_for(dim) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank is at least 1"),
        ({"width": 0}, "width is at least 1"),
        ({"dropout": 1.0}, "dropout is at least 0 and below 1"),
        ({"variant": "official"}, "variant"),
        ({"prompts": "points"}, "prompts"),
        ({"parts": ["fact", "fact"]}, "names each part once"),
        ({"parts": ["third"]}, "parts"),
        ({"variant": "released", "parts": ["fact"]}, "released code has all parts"),
        ({"variant": "released", "upsampling": "sam"}, "released code has all parts"),
    ],
)
def test_impossible_configurations_are_refused(backbone: Backbone, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        adapt.build("ma_sam", options, backbone, 3)


def test_patches_that_doubling_cannot_reach_are_refused(variant: Variant) -> None:
    backbone = Backbone(replace(variant, patch=12, image_size=(48, 48)))
    with pytest.raises(ConfigError, match="not 12"):
        adapt.build("ma_sam", {}, backbone, 3)


def test_blocks_of_several_widths_are_refused() -> None:
    blocks = [BlockSpec(dim=8, heads=2, grid=(2, 2), window=0), BlockSpec(dim=16, heads=2, grid=(1, 1), window=0)]
    with pytest.raises(ConfigError, match=r"\[8, 16\] channels"):
        MaSamEncoder(blocks, Config())
