"""Blocks that are computed again instead of kept: the same loss and gradients, less kept, refused by other networks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from voxelsam import adapt, backbones
from voxelsam.adapt import Adaptation
from voxelsam.errors import ConfigError
from voxelsam.model import Segmenter
from voxelsam.train.job import start
from voxelsam.train.recipe import parse

Settings = dict[str, dict[str, Any]]


def segmenter(name: str) -> Segmenter:
    backbone, _ = backbones.obtain("sam-tiny", None, (32, 32))
    torch.manual_seed(0)
    options = {"rank": 4, "width": 16, "init": "official", "dropout": 0.3} if name == "ma_sam" else {}
    return Segmenter(backbone, adapt.build(name, options, backbone, 3)).train()


def passed(network: Segmenter) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients; drop-out is drawn from the same stream each time."""
    images = torch.rand(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    loss = network(images).square().mean()
    network.zero_grad()
    loss.backward()
    own = network.adaptation.named_parameters()
    return loss.detach(), {name: one.grad.clone() for name, one in own if one.grad is not None}


@pytest.mark.parametrize("name", ["ma_sam", "med_sa", "adalora", "full", "decoder_only"])
def test_loss_and_gradients_are_the_same(name: str) -> None:
    network = segmenter(name)
    loss, gradients = passed(network)
    network.recompute()
    again, others = passed(network)
    assert torch.equal(loss, again)
    assert gradients.keys() == others.keys()
    assert any(gradient.abs().max() > 0 for gradient in gradients.values())
    for gradient_name, gradient in gradients.items():
        assert torch.allclose(gradient, others[gradient_name], rtol=1e-5, atol=1e-9), gradient_name


def kept(call: Callable[[], Tensor]) -> int:
    """Bytes that the graph of a result holds."""
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = call()
    assert result.requires_grad
    return sum(held.values())


def test_much_less_is_kept() -> None:
    network = segmenter("ma_sam")
    images = torch.rand(2, 3, 3, 32, 32)
    before = kept(lambda: network.encode(images))
    network.recompute()
    assert kept(lambda: network.encode(images)) < 0.4 * before


def test_without_gradients_nothing_is_computed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    from voxelsam.nn import vit

    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("computed again")

    network = segmenter("ma_sam")
    network.recompute()
    monkeypatch.setattr(vit, "checkpoint", never)
    with torch.no_grad():
        network(torch.rand(1, 3, 3, 32, 32))


def test_a_frozen_encoder_keeps_no_graph() -> None:
    images = torch.rand(1, 3, 3, 32, 32)
    assert not segmenter("decoder_only").encode(images).requires_grad
    network = segmenter("ma_sam")
    assert network.encode(images).requires_grad
    assert not network.backbone.image_encoder.patch_embed(images.flatten(0, 1)).requires_grad


def test_a_network_that_cannot_is_refused(phantom: Path, small: Settings, tmp_path: Path) -> None:
    known = segmenter("decoder_only")
    other = Adaptation(
        known.adaptation.encoder,
        known.adaptation.decoder,
        image_encoder=nn.Conv2d(3, 3, 1),
        starts_as_backbone=False,
        origin=known.adaptation.origin,
    )
    with pytest.raises(ConfigError, match=r"Conv2d cannot compute its blocks again.*train\.accumulate"):
        Segmenter(known.backbone, other).recompute()


@pytest.mark.parametrize("blocks", [1, 3])
def test_some_blocks_keep_loss_and_gradients_and_save_in_between(blocks: int) -> None:
    network = segmenter("ma_sam")
    loss, gradients = passed(network)
    images = torch.rand(2, 3, 3, 32, 32)
    sizes = []
    for count in (0, blocks, None):
        network.recompute(count)
        sizes.append(kept(lambda: network.encode(images)))
    assert sizes[0] > sizes[1] > sizes[2]
    network.recompute(blocks)
    again, others = passed(network)
    assert torch.equal(loss, again)
    assert all(torch.allclose(one, others[name], rtol=1e-5, atol=1e-9) for name, one in gradients.items())


def test_only_the_first_blocks_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from voxelsam.nn import vit

    again: list[int] = []

    def counted(block: Callable[..., Tensor], *given: Any, use_reentrant: bool) -> Tensor:
        again.append(given[0])
        return block(*given)

    monkeypatch.setattr(vit, "checkpoint", counted)
    network = segmenter("ma_sam")
    network.recompute(2)
    network.encode(torch.rand(1, 3, 3, 32, 32))
    assert again == [0, 1]


@pytest.mark.parametrize("blocks", [-1, 5])
def test_blocks_that_are_not_there_are_refused(blocks: int) -> None:
    with pytest.raises(ConfigError, match=rf"0 to 4, the blocks of this image encoder, but {blocks} came"):
        segmenter("ma_sam").recompute(blocks)


@pytest.mark.parametrize("name", ["ma_sam", "med_sa", "lora", "adalora"])
def test_nothing_before_the_first_adaptation_point_is_in_the_graph(name: str) -> None:
    network = segmenter(name)
    seen: dict[int, Tensor] = {}
    own = network.adaptation.encoder.before_attention

    def noted(block: int, x: Tensor, stack: Any) -> Tensor:
        seen[block] = x
        return own(block, x, stack)

    network.adaptation.encoder.before_attention = noted  # type: ignore[method-assign]
    features = network.encode(torch.rand(1, 3, 3, 32, 32))
    assert seen[0].grad_fn is None
    assert seen[1].grad_fn is not None
    assert features.requires_grad


@pytest.mark.parametrize(("stated", "expected"), [(True, None), (False, 0), (3, 3), (1, 1), (0, 0), ("auto", 0)])
def test_the_recipe_takes_a_number_a_truth_and_auto(stated: Any, expected: int | None) -> None:
    recipe = parse({"data": {"root": "x"}, "train": {"checkpointing": stated}})
    assert recipe.train.checkpointing == stated
    assert type(recipe.train.checkpointing) is type(stated)
    assert recipe.train.recomputed == expected


@pytest.mark.parametrize("stated", [-1, "some", 1.5, None])
def test_other_settings_are_refused(stated: Any) -> None:
    with pytest.raises(ConfigError, match=r"train(\.checkpointing|: Value error, checkpointing)"):
        parse({"data": {"root": "x"}, "train": {"checkpointing": stated}})


def test_a_recipe_asks_for_it(phantom: Path, small: Settings, tmp_path: Path) -> None:
    asked = [small | {"train": small["train"] | {"checkpointing": one}} for one in (False, True, 2, "auto")]
    encoders = [start(phantom, tmp_path / "run", one).segmenter.backbone.image_encoder for one in asked]
    assert [encoder.checkpointing for encoder in encoders] == [0, 4, 2, 0]
