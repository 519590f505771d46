"""Med-SA: counts, what starts as SAM, who sees whom along depth, what windows are filled with, what is trained."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxelsam import adapt, backbones
from voxelsam.adapt import Adaptation
from voxelsam.adapt.med_sa import Config, MedSaDecoder, MedSaEncoder, closest_factors
from voxelsam.errors import ConfigError
from voxelsam.model import Segmenter
from voxelsam.nn.backbone import Backbone
from voxelsam.nn.layers import from_windows, to_windows
from voxelsam.nn.prompt_encoder import EncodedPrompts, PromptBatch
from voxelsam.nn.seam import Stack
from voxelsam.nn.vit import BlockAttention

RELEASED = {
    ("sam-vit-b", "none"): (7_100_928, 4_058_340),
    ("sam-vit-b", "grid"): (10_651_392, 4_058_340),
    ("sam-vit-l", "none"): (25_227_264, 4_058_340),
    ("sam-vit-l", "grid"): (37_840_896, 4_058_340),
    ("sam-vit-h", "none"): (52_531_200, 4_058_340),
    ("sam-vit-h", "grid"): (78_796_800, 4_058_340),
}
"""Encoder and decoder of the official code, without and with the depth branch."""

PAPER = {
    ("sam-vit-b", 2): (2_683_584, 626_112),
    ("sam-vit-l", 2): (7_155_072, 626_112),
    ("sam-vit-h", 2): (11_923_968, 626_112),
    ("sam-vit-h", 14): (11_923_968, 2_306_880),
}
"""Encoder and decoder, by classes with the background: what the documentation states."""

WINDOWED, GLOBAL = 0, 1
"""The blocks of the small backbone: 4 × 5 tokens, in windows of 3 or whole."""


@pytest.fixture
def backbone(backbone: Backbone) -> Backbone:
    """With first norms whose bias is not zero, so that it matters when windows are filled."""
    generator = torch.Generator().manual_seed(5)
    for block in backbone.image_encoder.blocks:
        nn.init.normal_(block.norm1.bias, generator=generator)
    return backbone


def on_meta(name: str, classes: int = 2, **options: object) -> tuple[Backbone, Adaptation]:
    with torch.device("meta"):
        backbone = Backbone(backbones.VARIANTS[name])
    return backbone, adapt.build("med_sa", options, backbone, classes)


def encoder(backbone: Backbone, **options: object) -> MedSaEncoder:
    """Default initialisation, so that every adapter does something."""
    torch.manual_seed(3)
    return MedSaEncoder(backbone.image_encoder.blocks_spec, Config(init="default", **options).settled())


def attended(backbone: Backbone, method: MedSaEncoder, block: int, x: Tensor, depth: int) -> Tensor:
    attend = BlockAttention(backbone.image_encoder.blocks[block], block, method)
    with torch.no_grad():
        return method.attention(block, attend, x, Stack(depth))


def along_depth(backbone: Backbone, method: MedSaEncoder, block: int, x: Tensor, depth: int = 3) -> Tensor:
    """What depth adds."""
    return attended(backbone, method, block, x, depth) - attended(backbone, method, block, x, 1)


@pytest.mark.parametrize(("name", "layout"), RELEASED)
def test_released_counts_are_those_of_the_official_code(name: str, layout: str) -> None:
    backbone, adaptation = on_meta(name, variant="released", layout=layout)
    assert tuple(adaptation.counts().values()) == RELEASED[name, layout]
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


@pytest.mark.parametrize(("name", "classes"), PAPER)
def test_paper_counts_are_those_of_the_documentation(name: str, classes: int) -> None:
    _, adaptation = on_meta(name, classes)
    assert tuple(adaptation.counts().values()) == PAPER[name, classes]


def test_paper_trains_two_percent_of_the_largest_sam() -> None:
    backbone, adaptation = on_meta("sam-vit-h")
    share = sum(adaptation.counts().values()) / sum(parameter.numel() for parameter in backbone.parameters())
    assert share == pytest.approx(0.02, abs=0.001)


def test_factors_are_as_close_as_they_can_be_without_being_equal() -> None:
    for number in range(2, 300):
        a, b = closest_factors(number)
        assert a * b == number
        assert a < b
        assert not any(number % other == 0 and other * other < number for other in range(a + 1, number))


@pytest.mark.parametrize(("number", "factors"), [(1, (1, 1)), (4, (1, 4)), (6, (2, 3)), (7, (1, 7)), (36, (4, 9))])
def test_factors_of_some_numbers(number: int, factors: tuple[int, int]) -> None:
    assert closest_factors(number) == factors


PROMPTS: dict[str, Callable[[], PromptBatch | None]] = {
    "nothing": lambda: None,
    "points": lambda: PromptBatch(torch.tensor([[[3.0, 7], [30, 20]]] * 2), torch.tensor([[1, 0], [1, -1]])),
    "box": lambda: PromptBatch(torch.zeros(2, 0, 2), torch.zeros(2, 0).long(), torch.tensor([[[2.0, 3, 30, 20]]] * 2)),
    "mask": lambda: PromptBatch(torch.zeros(2, 0, 2), torch.zeros(2, 0).long(), masks=torch.randn(2, 1, 16, 20)),
}


@pytest.mark.parametrize("decoder", ["adapters", "full", "frozen"])
@pytest.mark.parametrize("kind", PROMPTS)
def test_a_fresh_single_structure_is_sams_prompted_mask(backbone: Backbone, decoder: str, kind: str) -> None:
    prompts = PROMPTS[kind]()
    segmenter = Segmenter(backbone, adapt.build("med_sa", {"decoder": decoder}, backbone, 2)).eval()
    with torch.no_grad():
        features = segmenter.encode(torch.rand(1, 2, 3, 32, 40))
        ours = segmenter.decode(features, prompts)
        sam = backbone.mask_decoder(
            features, backbone.prompt_encoder.dense_pe(), backbone.prompt_encoder(prompts, frames=2)
        )
    expected = F.interpolate(sam.logits[:, :1], (32, 40), mode="bilinear", align_corners=False)
    torch.testing.assert_close(ours.logits[:, 1:], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.logits.softmax(1)[:, 1:], expected.sigmoid(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.quality[:, 1], sam.quality[:, 0], atol=1e-5, rtol=1e-5)
    assert ours.quality[:, 0].abs().max() == 0


@pytest.mark.parametrize(
    ("options", "starts"),
    [
        ({}, True),
        ({"layout": "none", "decoder": "full"}, True),
        ({"init": "default"}, False),
        ({"pad_order": "medsa"}, False),
        ({"relative_positions": False}, False),
        ({"variant": "released"}, False),
        ({"variant": "released", "init": "zero", "pad_order": "sam"}, True),
    ],
)
def test_what_starts_as_the_backbone_says_so(backbone: Backbone, options: dict[str, object], starts: bool) -> None:
    adaptation = adapt.build("med_sa", options, backbone, 3)
    images = torch.randn(3, 3, 32, 40)
    with torch.no_grad():
        adapted = backbone.image_encoder(images, Stack(3), adaptation.encoder)
        same = torch.allclose(adapted, backbone.image_encoder(images), atol=1e-6)
    assert adaptation.starts_as_backbone == same == starts


def test_filling_before_the_norm_starts_as_the_backbone_where_windows_fit(backbone: Backbone) -> None:
    fitting = Backbone(backbone.variant, (24, 48))
    assert adapt.build("med_sa", {"pad_order": "medsa"}, fitting, 2).starts_as_backbone


def test_the_block_is_the_formula(backbone: Backbone, tokens: Tensor) -> None:
    method = encoder(backbone, scale=0.3)
    attend = BlockAttention(backbone.image_encoder.blocks[GLOBAL], GLOBAL, method)
    space, beside = method.space_adapters[GLOBAL], method.mlp_adapters[GLOBAL]
    seen = attend(tokens)
    by_hand = seen + F.gelu(seen @ space.down.weight.T + space.down.bias) @ space.up.weight.T + space.up.bias
    torch.testing.assert_close(method.attention(GLOBAL, attend, tokens, Stack(1)), by_hand, atol=1e-5, rtol=1e-5)
    by_hand = -tokens + 0.3 * (F.gelu(beside.down(tokens)) @ beside.up.weight.T + beside.up.bias)
    torch.testing.assert_close(method.mlp(GLOBAL, torch.neg, tokens, Stack(3)), by_hand, atol=1e-5, rtol=1e-5)


def test_the_activation_can_be_chosen(backbone: Backbone) -> None:
    kinds = {type(module) for module in encoder(backbone, activation="relu").modules()}
    assert nn.ReLU in kinds
    assert nn.GELU not in kinds


@pytest.mark.parametrize("block", [WINDOWED, GLOBAL])
@pytest.mark.parametrize("pad_order", ["sam", "medsa"])
def test_depth_joins_the_same_place_on_all_slices_of_a_stack(
    backbone: Backbone, tokens: Tensor, block: int, pad_order: str
) -> None:
    method = encoder(backbone, pad_order=pad_order)
    changed = tokens.clone()
    changed[0, 2, 3] += 1
    before, after = (along_depth(backbone, method, block, x) for x in (tokens, changed))
    moved = (after - before).abs().amax(-1) > 1e-5
    expected = torch.zeros(6, 4, 5, dtype=torch.bool)
    expected[:3, 2, 3] = True
    assert torch.equal(moved, expected)


def test_the_official_grouping_joins_neighbouring_windows(backbone: Backbone, tokens: Tensor) -> None:
    """4 × 5 tokens make 2 × 2 windows of 3: three consecutive ones of a stack are one line, at each place in them."""
    method = encoder(backbone, grouping="official")
    changed = tokens.clone()
    changed[0, 2, 1] += 1
    before, after = (along_depth(backbone, method, WINDOWED, x) for x in (tokens, changed))
    moved = (after - before).abs().amax(-1) > 1e-5
    expected = torch.zeros(12, 3, 3, 1)
    expected[:3, 2, 1] = 1
    windows = torch.cat((expected, torch.zeros(12, 3, 3, 1)))
    assert torch.equal(moved, from_windows(windows, (4, 5))[..., 0].bool())
    assert moved[0, 2].tolist() == [False, True, False, False, True]
    assert not moved[1:].any()


def test_the_official_grouping_lets_fillings_take_part(backbone: Backbone, tokens: Tensor) -> None:
    zeros, blanks = (
        along_depth(backbone, encoder(backbone, grouping="official", pad_order=order), WINDOWED, tokens)
        for order in ("sam", "medsa")
    )
    assert not torch.allclose(zeros, blanks, atol=1e-4)


def test_groupings_agree_where_a_window_holds_the_slice(backbone: Backbone, tokens: Tensor) -> None:
    for block, x in ((GLOBAL, tokens), (WINDOWED, tokens[:, :3, :3])):
        ours, official = (
            along_depth(backbone, encoder(backbone, grouping=kind), block, x) for kind in ("slices", "official")
        )
        torch.testing.assert_close(ours, official, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("block", [WINDOWED, GLOBAL])
@pytest.mark.parametrize("grouping", ["slices", "official"])
@pytest.mark.parametrize("depth", [1, 2, 3, 5, 6, 7, 9])
def test_stacks_of_any_depth_are_apart(backbone: Backbone, block: int, grouping: str, depth: int) -> None:
    method = encoder(backbone, grouping=grouping, pad_order="medsa")
    x = torch.randn(2 * depth, 4, 5, 16, generator=torch.Generator().manual_seed(depth))
    together = attended(backbone, method, block, x, depth)
    alone = torch.cat([attended(backbone, method, block, half, depth) for half in x.chunk(2)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert together.isfinite().all()


def test_a_line_and_a_picture_of_slices_differ_where_there_are_factors(backbone: Backbone) -> None:
    line, grid = (encoder(backbone, layout=layout) for layout in ("line", "grid"))
    for depth, same in ((5, True), (6, False)):
        x = torch.randn(depth, 4, 5, 16)
        first, second = (along_depth(backbone, method, GLOBAL, x, depth) for method in (line, grid))
        assert torch.allclose(first, second, atol=1e-5) == same


def test_without_a_layout_there_is_no_depth(backbone: Backbone, tokens: Tensor) -> None:
    method = encoder(backbone, layout="none")
    assert method.depth_adapters is None
    assert not any("depth" in name for name in method.state_dict())
    assert along_depth(backbone, method, GLOBAL, tokens).abs().max() == 0


def test_windows_filled_before_the_norm_see_its_bias(backbone: Backbone, tokens: Tensor) -> None:
    block = backbone.image_encoder.blocks[WINDOWED]
    method = encoder(backbone, pad_order="medsa")
    filled = torch.cat((block.norm1(tokens), block.norm1.bias.expand(6, 4, 1, 16)), dim=2)
    filled = torch.cat((filled, block.norm1.bias.expand(6, 2, 6, 16)), dim=1)
    seen = from_windows(block.attn(block.attn.qkv(to_windows(filled, 3)), resample=False), (4, 5))
    expected = seen + method.space_adapters[WINDOWED](seen)
    ours = attended(backbone, method, WINDOWED, block.norm1(tokens), 1)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    zeros = attended(backbone, encoder(backbone, pad_order="sam"), WINDOWED, block.norm1(tokens), 1)
    assert not torch.allclose(ours, zeros, atol=1e-3)


def test_without_relative_positions_depth_has_no_order(backbone: Backbone, tokens: Tensor) -> None:
    """Attention without positions is the same whatever the order of its tokens."""
    for relative, same in ((False, True), (True, False)):
        method = encoder(backbone, relative_positions=relative)
        forth = along_depth(backbone, method, GLOBAL, tokens[:3])
        back = along_depth(backbone, method, GLOBAL, tokens[:3].flip(0)).flip(0)
        assert torch.allclose(forth, back, atol=1e-5) == same


def decoder_inputs(frames: int = 2) -> EncodedPrompts:
    real = torch.ones(frames, 3, dtype=torch.bool)
    return EncodedPrompts(torch.randn(frames, 3, 16), real, torch.zeros(frames, 16, 2, 2))


def test_the_decoders_adapters_are_the_formula() -> None:
    torch.manual_seed(0)
    method = MedSaDecoder(16, 2, Config(init="default", scale=0.3).settled())
    prompts, tokens, image, seen = decoder_inputs(), torch.randn(2, 5, 16), torch.randn(2, 8, 16), torch.randn(2, 8, 16)
    beside, behind = method.mlp_adapters[1], method.image_adapters[1]
    assert torch.equal(method.mlp(1, torch.neg, tokens, prompts), -tokens + 0.3 * beside(tokens))
    total = image + seen
    assert torch.equal(method.to_image(1, image, seen, prompts), total + behind(total))
    steered = method.token_adapters[1](tokens, prompts.sparse.mean(1))
    torch.testing.assert_close(method.from_image(1, tokens, prompts), steered)
    assert (beside.down.weight.shape, beside.up.weight.shape) == ((4, 16), (16, 4))


def test_prompts_may_steer_what_the_image_takes_too() -> None:
    method = MedSaDecoder(16, 2, Config(hyper_image=True).settled())
    assert MedSaDecoder(16, 2, Config().settled()).seen_adapters is None
    for adapter in method.seen_adapters:
        nn.init.normal_(adapter.up.weight)
        nn.init.normal_(adapter.hyper[0].weight)
    image, seen = torch.randn(2, 8, 16), torch.randn(2, 8, 16)
    assert not torch.allclose(
        method.to_image(0, image, seen, decoder_inputs()), method.to_image(0, image, seen, decoder_inputs())
    )


def test_what_the_paper_trains(backbone: Backbone) -> None:
    adaptation = adapt.build("med_sa", {}, backbone, 4)
    trained = {name for name, parameter in adaptation.named_parameters() if parameter.requires_grad}
    decoder = {".".join(name.split(".")[1:3]) for name in trained if name.startswith("decoder.")}
    assert decoder == {
        "mask_tokens.weight",
        *(f"output_hypernetworks_mlps.{structure}" for structure in range(3)),
        *(f"adaptation.{part}" for part in ("no_prompt", "token_adapters", "mlp_adapters", "image_adapters")),
    }
    assert {name.split(".")[1] for name in trained if name.startswith("encoder.")} == {
        "space_adapters",
        "mlp_adapters",
        "depth_adapters",
    }
    assert adaptation.prompt_encoder is adaptation.image_encoder is None


def test_the_quality_head_counts_as_trained_in_the_released_variant_alone(backbone: Backbone) -> None:
    for options, trained in (({"variant": "released"}, True), ({"decoder": "full"}, False), ({}, False)):
        head = adapt.build("med_sa", options, backbone, 2).decoder.iou_prediction_head
        assert {parameter.requires_grad for parameter in head.parameters()} == {trained}


def test_a_frozen_decoder_trains_nothing_and_has_one_structure(backbone: Backbone) -> None:
    adaptation = adapt.build("med_sa", {"decoder": "frozen"}, backbone, 2)
    assert adaptation.counts().keys() == {"encoder"}
    with pytest.raises(ConfigError, match="decoder: frozen has one mask and cannot tell 2 structures apart"):
        adapt.build("med_sa", {"decoder": "frozen"}, backbone, 3)


@pytest.mark.parametrize("decoder", ["adapters", "full"])
def test_there_may_be_more_structures_than_sam_has_masks(backbone: Backbone, decoder: str) -> None:
    segmenter = Segmenter(backbone, adapt.build("med_sa", {"decoder": decoder}, backbone, 8))
    assert segmenter(torch.rand(1, 2, 3, 32, 40)).shape == (1, 2, 8, 32, 40)


def test_the_variant_decides_what_is_left_open() -> None:
    paper, released = Config().settled(), Config(variant="released").settled()
    assert (paper.init, paper.grouping, paper.pad_order, paper.decoder, paper.pixels) == (
        "zero",
        "slices",
        "sam",
        "adapters",
        "sam",
    )
    assert (released.init, released.grouping, released.pad_order, released.decoder, released.pixels) == (
        "default",
        "official",
        "medsa",
        "full",
        "unit",
    )
    assert Config(variant="released", grouping="slices").settled().grouping == "slices"
    assert (Config().width_for(768), Config().width_for(32), Config(width=7).width_for(768)) == (48, 32, 7)
    assert Config(variant="released").width_for(766) == 191


def test_pixels_are_sams_or_stay_between_0_and_1(backbone: Backbone) -> None:
    assert adapt.build("med_sa", {}, backbone, 2).pixel_statistics is None
    statistics = adapt.build("med_sa", {"variant": "released"}, backbone, 2).pixel_statistics
    assert statistics == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width is at least 1"),
        ({"decoder_width": 0}, "decoder_width is at least 1"),
        ({"hyper_layers": 0}, "hyper_layers is at least 1"),
        ({"prompt_width": -3}, "prompt_width is at least 1, but -3 came"),
        ({"scale": 0.0}, "scale is a number above 0"),
        ({"scale": float("nan")}, "scale is a number above 0"),
        ({"variant": "official"}, "variant"),
        ({"layout": "cube"}, "layout"),
        ({"hyper": "multiply"}, "hyper"),
        ({"pad_order": "after"}, "pad_order"),
        ({"decoder": "half"}, "decoder"),
    ],
)
def test_impossible_configurations_are_refused(backbone: Backbone, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        adapt.build("med_sa", options, backbone, 3)
