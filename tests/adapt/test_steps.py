"""A whole training step in the fast forms against the same step by the plain formula."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxelsam import adapt
from voxelsam.adapt import ma_sam
from voxelsam.model import Segmenter
from voxelsam.nn import vit
from voxelsam.nn.attention import attend
from voxelsam.nn.backbone import Backbone, Variant
from voxelsam.nn.seam import Stack

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "MA-SAM": ("ma_sam", {"rank": 3, "init": "official", "dropout": 0.0}),
    "Med-SA": ("med_sa", {"init": "default"}),
    "Med-SA, released": ("med_sa", {"variant": "released"}),
    "LoRA": ("lora", {"targets": ["query", "value", "mlp"]}),
    "every weight": ("full", {}),
}


def redrawn(module: nn.Module, seed: int) -> None:
    """No number is zero: tables, biases, factors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


def step(backbone: Backbone, name: str, options: dict[str, Any]) -> dict[str, Tensor]:
    """Loss and all gradients of one step on two stacks of three slices."""
    redrawn(backbone.double(), 1)
    adaptation = adapt.build(name, options, backbone, 3).double()
    redrawn(adaptation, 2)
    segmenter = Segmenter(backbone, adaptation).double().train()
    torch.manual_seed(3)
    images, labels = torch.rand(2, 3, 3, 32, 40, dtype=torch.float64), torch.randint(0, 3, (2, 3, 32, 40))
    loss = F.cross_entropy(segmenter(images).movedim(2, 1), labels)
    loss.backward()
    gradients = {name: p.grad for name, p in adaptation.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients}


def by_convolution(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(x.permute(0, 3, 1, 2), kernel[..., None], bias, padding=(1, 0)).permute(0, 2, 3, 1)


@pytest.mark.parametrize("method", METHODS)
def test_loss_and_gradients_are_those_of_the_plain_formula(
    method: str, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = step(backbone, *METHODS[method])
    monkeypatch.setattr(vit, "attend", partial(attend, fused=False))
    monkeypatch.setattr(ma_sam, "along_depth", by_convolution)
    plain = step(backbone, *METHODS[method])
    assert fast.keys() == plain.keys()
    assert len(plain) > 20
    spare = 1e-15 * sum(expected.norm() for expected in plain.values())
    """Some gradients are zero but for rounding: a key's bias changes no weight."""
    for name, expected in plain.items():
        assert (fast[name] - expected).norm() <= 1e-9 * expected.norm() + spare, name


def kept(function: Callable[[], Tensor], parameters: Iterator[Tensor]) -> int:
    """Bytes that the backward pass keeps, without the parameters."""
    own = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    storages = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = function()
    assert result.requires_grad
    return sum(size for place, size in storages.items() if place not in own)


@pytest.mark.parametrize(("method", "most"), [("MA-SAM", 18.1), ("Med-SA", 11.5)])
def test_a_block_keeps_a_known_number_of_token_sized_tensors(
    method: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 768 channels inside, 384 in MA-SAM's adapters, 48 in Med-SA's, as in ViT-B; 8 × 9 tokens in windows of 5."""
    variant = Variant("two blocks", 768, 2, 12, (1,), window=5)
    backbone = Backbone(variant, (128, 144))
    name, options = METHODS[method]
    adaptation = adapt.build(name, options, backbone, 2)
    tokens = torch.randn(3, 8, 9, 768)

    def blocks() -> Tensor:
        return backbone.image_encoder.blocks_of(tokens, Stack(3), adaptation.encoder)

    parameters = [*backbone.parameters(), *adaptation.parameters()]
    per_block = kept(blocks, iter(parameters)) / tokens.untyped_storage().nbytes() / variant.depth
    assert per_block <= most
    monkeypatch.setattr(vit, "attend", partial(attend, fused=False))
    plain = kept(blocks, iter(parameters)) / tokens.untyped_storage().nbytes() / variant.depth
    assert plain > per_block + 1, "the measure itself must see the weights of attention"
