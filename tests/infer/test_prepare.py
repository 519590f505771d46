"""A prepared network computes what the plain one does: every method, grids that windows do not divide."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed

from voxelsam import adapt
from voxelsam.adapt._whole import Input, Whole, adaptation
from voxelsam.cost import Meter
from voxelsam.errors import ConfigError
from voxelsam.infer import prepare as module
from voxelsam.infer.prepare import Autocast, prepare, products
from voxelsam.model import Segmenter
from voxelsam.nn import attention, chunked, prepared
from voxelsam.nn import products as ways
from voxelsam.nn.backbone import Backbone, Variant
from voxelsam.nn.no_backbone import NoBackbone
from voxelsam.nn.products import Packed, Plain, Product, Quantised
from voxelsam.nn.prompt_encoder import PromptBatch

VARIANT = Variant(
    "narrow",
    dim=48,
    depth=3,
    heads=3,
    global_blocks=(1,),
    window=4,
    patch=8,
    image_size=(56, 72),
    decoder_dim=32,
    decoder_heads=2,
    decoder_mlp=24,
    iou_hidden=8,
)
"""7 × 9 tokens; windows of 4 do not divide them; 16 channels per head."""

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "ma_sam": ("ma_sam", {"rank": 4, "width": 16, "init": "official"}),
    "ma_sam-fact": ("ma_sam", {"rank": 4, "width": 16, "parts": ["fact"]}),
    "med_sa": ("med_sa", {"pad_order": "sam", "width": 12}),
    "med_sa-filled-first": ("med_sa", {"variant": "released"}),
    "med_sa-line": ("med_sa", {"layout": "line", "activation": "relu", "relative_positions": False}),
    "lora": ("lora", {"targets": ["query", "value", "mlp"]}),
    "adalora": ("adalora", {}),
    "decoder_only": ("decoder_only", {}),
    "full": ("full", {}),
}


@cache
def segmenter(name: str, **changes: Any) -> Segmenter:
    """All tensors are drawn anew, so that nothing is zero: tables, biases, factors of increments."""
    method, options = METHODS[name]
    backbone = Backbone(replace(VARIANT, **changes))
    result = Segmenter(backbone, adapt.build(method, options, backbone, 3))
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for key, tensor in result.named_parameters():
            spread = 0.3 if tensor.dim() < 2 or "rel_pos" in key else 1 / tensor[0].numel() ** 0.5
            tensor.copy_(torch.randn(tensor.shape, generator=draw) * spread)
    return result.eval()


def stacks(of: Segmenter, batch: int = 2, depth: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(batch, depth, 3, *of.backbone.image_size, generator=torch.Generator().manual_seed(seed))


def off(value: Tensor, exact: Tensor) -> float:
    """Relative error."""
    return float((value.double() - exact.double()).norm() / exact.double().norm())


@pytest.fixture(params=METHODS)
def plain(request: pytest.FixtureRequest) -> Segmenter:
    return segmenter(request.param)


@pytest.fixture(params=[Plain, Packed], ids=["plain", "packed"])
def product(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both outcomes of the trial, whatever this machine prefers."""
    monkeypatch.setattr(module, "fastest", lambda *_: request.param)
    return str(request.param.called)


@torch.inference_mode()
def test_in_single_precision_it_is_the_same(plain: Segmenter, product: str) -> None:
    made, images = prepare(plain), stacks(plain)
    assert products(made) == [product]
    assert off(made.encode(images), plain.encode(images)) < 1e-5
    assert off(made(images), plain(images)) < 1e-5


@torch.inference_mode()
@pytest.mark.parametrize("tokens", [20, 130])
def test_so_it_is_in_parts(plain: Segmenter, product: str, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 tokens are less than a row of windows, which is 36, and than a picture, which is 63; 130 are two pictures."""
    monkeypatch.setattr(prepared, "WIDE", tokens)
    monkeypatch.setattr(prepared, "NARROW", 5)
    made, images = prepare(plain), stacks(plain, batch=1)
    assert off(made.encode(images), plain.encode(images)) < 1e-5


@torch.inference_mode()
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_parts_are_no_other_numbers(precision: module.Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    made, images = prepare(segmenter("ma_sam"), precision), stacks(segmenter("ma_sam"))
    together = made.encode(images)
    monkeypatch.setattr(prepared, "WIDE", 20)
    monkeypatch.setattr(attention, "TOGETHER", 1)
    assert off(made.encode(images), together) < 5e-3


@torch.inference_mode()
@pytest.mark.parametrize(("precision", "most"), [("fp32", 8.5), ("bf16", 10.0)])
def test_little_is_held_beside_the_residual_stream(
    precision: module.Precision, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Itself, queries, keys and values of a picture, what is seen: five times the stream. The rest are the logits of a
    row of tokens, and what fused attention wants of one head."""
    monkeypatch.setattr(module, "fastest", lambda *_: Plain)
    monkeypatch.setattr(prepared, "WIDE", 64)
    monkeypatch.setattr(chunked, "CHUNK", {"cpu": 1 << 12})
    monkeypatch.setattr(attention, "TOGETHER", 1)
    plain = segmenter("lora", image_size=(256, 256))
    made, meter = prepare(plain, precision), Meter()
    tokens = made.embed(stacks(plain, batch=1, depth=1)[0])
    with meter:
        made.encode_embedded(tokens[None])
    assert meter.peak < most * tokens.nbytes


@torch.inference_mode()
def test_so_it_is_at_the_shape_of_vit_b() -> None:
    """256 × 256 pixels: windows of 14 in 16 × 16 tokens."""
    shape = {"dim": 768, "heads": 12, "depth": 2, "window": 14, "patch": 16, "image_size": (256, 256)}
    plain = segmenter("ma_sam", **shape)
    images = stacks(plain, batch=1, depth=2)
    exact = plain.encode(images)
    assert off(prepare(plain).encode(images), exact) < 1e-5
    assert 1e-4 < off(prepare(plain, "bf16").encode(images), exact) < 1e-2


@torch.inference_mode()
def test_prompts_are_answered_the_same() -> None:
    plain = segmenter("med_sa")
    images = stacks(plain, batch=1, depth=2)
    prompts = PromptBatch(torch.tensor([[[20.0, 30.0]], [[40.0, 9.0]]]), torch.tensor([[1], [0]]))
    made = prepare(plain)
    for one, other in zip(*(vars(of.decode(of.encode(images), prompts)).values() for of in (made, plain)), strict=True):
        assert off(one, other) < 1e-5


@torch.inference_mode()
@pytest.mark.parametrize(("precision", "least", "most"), [("bf16", 1e-4, 2e-2), ("int8", 1e-4, 4e-2)])
def test_what_is_not_exact_is_near(plain: Segmenter, precision: module.Precision, least: float, most: float) -> None:
    made, images = prepare(plain, precision), stacks(plain)
    features = made.encode(images)
    assert features.dtype == torch.float32
    assert least < off(features, plain.encode(images)) < most
    assert off(made(images), plain(images)) < 2 * most


@torch.inference_mode()
def test_half_is_nearer_than_autocast() -> None:
    """The residual stream, norms and soft-max stay in single precision."""
    plain = segmenter("ma_sam")
    images = stacks(plain)
    exact = plain.encode(images)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = plain.encode(images)
    assert off(prepare(plain, "bf16").encode(images), exact) < off(rounded, exact)


def test_the_stream_is_in_single_precision_and_linear_layers_are_in_half() -> None:
    made, seen = prepare(segmenter("ma_sam"), "bf16"), []
    block = made.backbone.image_encoder.blocks[1]
    block.norm1.register_forward_hook(lambda _, given, result: seen.append((given[0].dtype, result.dtype)))
    block.register_forward_hook(lambda _, given, result: seen.append((given[1].dtype, result.dtype)))
    block.norm2.register_forward_hook(lambda _, given, result: seen.append((given[0].dtype, result.dtype)))
    with torch.inference_mode():
        made.encode(stacks(made))
    half, single = torch.bfloat16, torch.float32
    assert seen == [(single, half), (single, half), (single, single)]
    assert {part.gives for part in block.modules() if isinstance(part, Product)} == {half}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_stack_has_the_same_answer_in_any_company(precision: module.Precision) -> None:
    """Scales of whole numbers are found per token; what is left are roundings that tip over."""
    made = prepare(segmenter("ma_sam"), precision)
    images = stacks(made, batch=3)
    with torch.inference_mode():
        together = made.encode(images).unflatten(0, (3, 3))
        alone = torch.stack([made.encode(one[None]) for one in images])
    assert off(together, alone) < (1e-5 if precision == "fp32" else 5e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_what_it_is_made_from_stays_as_it_is(plain: Segmenter, precision: module.Precision) -> None:
    before = {name: (tensor.clone(), tensor.dtype) for name, tensor in plain.state_dict().items()}
    wanting = [parameter.requires_grad for parameter in plain.parameters()]
    kinds = [type(part) for part in plain.modules()]
    with torch.inference_mode():
        made = prepare(plain, precision)
        made.encode(stacks(made))
    assert [parameter.requires_grad for parameter in plain.parameters()] == wanting
    assert [type(part) for part in plain.modules()] == kinds
    for name, tensor in plain.state_dict().items():
        assert tensor.dtype == before[name][1]
        assert torch.equal(tensor, before[name][0]), name
    assert not any(parameter.requires_grad for parameter in made.parameters())
    assert not made.training


def test_tokens_that_were_given_are_not_changed(plain: Segmenter) -> None:
    """Overlapping stacks share them."""
    made = prepare(plain)
    with torch.inference_mode():
        tokens = made.embed(stacks(plain)[0])
        before = tokens.clone()
        made.encode_embedded(tokens[None])
    assert torch.equal(tokens, before)


def test_weights_are_kept_once() -> None:
    """SAM's own encoder goes where the method has a copy; what needs no change is shared."""
    plain = segmenter("ma_sam")
    made = prepare(plain)
    assert made.backbone.image_encoder is made.adaptation.image_encoder
    assert made.backbone.prompt_encoder.no_mask_embed.weight.data_ptr() in {
        tensor.data_ptr() for tensor in plain.parameters()
    }


def whole() -> Segmenter:
    torch.manual_seed(3)
    network = Whole(nn.Conv3d(3, 3, 3, padding=1), Input(depth=3), (1, 1, 1), (1, 1, 1))
    return Segmenter(NoBackbone(VARIANT, (32, 40)), adaptation(network)).eval()


@torch.inference_mode()
def test_a_whole_network_stays_as_it_is() -> None:
    plain = whole()
    images = stacks(plain, batch=1)
    assert torch.equal(prepare(plain)(images), plain(images))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = plain(images)
    half = prepare(plain, "bf16")
    assert isinstance(half.adaptation.image_encoder, Autocast)
    assert torch.equal(half(images).float(), rounded.float())
    assert 0 < off(half(images), plain(images)) < 0.1


@pytest.mark.parametrize("settings", [{"precision": "int8"}, {"compiled": True}])
def test_a_whole_network_refuses_what_is_made_for_sam(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="this model is a whole network: use fp32 or bf16"):
        prepare(whole(), **settings)


@pytest.mark.parametrize("made", [whole, lambda: segmenter("lora")])
def test_fp16_is_not_for_processors(made: Callable[[], Segmenter]) -> None:
    with pytest.raises(ConfigError, match="fp16 slower than fp32: use bf16 or int8, or fp16 on cuda"):
        prepare(made(), "fp16")


def test_int8_that_does_not_work_here_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "tried", lambda *_: ways.Trial(0.0, float("inf")))
    with pytest.raises(ConfigError, match="cannot multiply in int8"):
        prepare(segmenter("lora"), "int8")


def test_int8_is_not_compiled() -> None:
    with pytest.raises(ConfigError, match="int8 is for processors, and not compiled"):
        prepare(segmenter("lora"), "int8", compiled=True)


def test_the_blocks_multiply_in_whole_numbers() -> None:
    made = prepare(segmenter("ma_sam"), "int8")
    assert products(made) == ["int8"]
    assert isinstance(made.adaptation.encoder.before_mlp_adapters[0].up, Quantised)
    assert not any(isinstance(part, ways.Product) for part in made.adaptation.decoder.modules())


@torch.inference_mode()
def test_compiled_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced by the compiler's front, without its back, which takes long."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **given: real(function, backend="eager", **given))
    plain = segmenter("ma_sam", depth=1, global_blocks=())
    images = stacks(plain, batch=1, depth=2)
    made = prepare(plain, compiled=True)
    assert off(made.encode(images), plain.encode(images)) < 1e-5


@torch.inference_mode()
def test_want_of_a_compiler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> Tensor:
        raise BackendCompilerFailed(broken, RuntimeError("there is no C++ compiler\nand much more"), None)

    monkeypatch.setattr(torch, "compile", lambda *_, **__: broken)
    made = prepare(segmenter("lora"), compiled=True)
    with pytest.raises(ConfigError, match=r"--compile does not work here \(there is no C\+\+ compiler\): leave it out"):
        made.encode(stacks(made, batch=1, depth=1))
