"""Backbone and adaptation together."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from voxelsam import adapt, backbones
from voxelsam.model import Segmenter

SIZE = (32, 48)


@pytest.fixture
def segmenter() -> Segmenter:
    backbone = backbones.build("sam-tiny", SIZE)
    torch.manual_seed(0)
    return Segmenter(backbone, adapt.build("ma_sam", {"rank": 4, "width": 16, "init": "official"}, backbone, 3))


def test_scores_have_the_size_of_the_input(segmenter: Segmenter) -> None:
    assert segmenter.eval()(torch.rand(2, 3, 3, *SIZE)).shape == (2, 3, 3, *SIZE)


def test_training_mode_leaves_the_backbone_alone(segmenter: Segmenter) -> None:
    segmenter.train()
    assert segmenter.adaptation.training
    assert not any(module.training for module in segmenter.backbone.modules())


def test_only_the_adaptation_gets_gradients(segmenter: Segmenter) -> None:
    segmenter.train()(torch.rand(1, 3, 3, *SIZE)).square().mean().backward()
    assert all(parameter.grad is None for parameter in segmenter.backbone.parameters())
    assert any(parameter.grad is not None for parameter in segmenter.adaptation.parameters())


def test_a_stack_never_sees_another_stack(segmenter: Segmenter) -> None:
    images = torch.rand(2, 3, 3, *SIZE)
    alone = segmenter.eval()(images[:1])
    torch.testing.assert_close(segmenter(images)[:1], alone, rtol=1e-4, atol=1e-5)


def test_a_slice_sees_its_neighbours(segmenter: Segmenter) -> None:
    """Two adapters of one slice to either side in each block: the first slice of three sees the last one."""
    images = torch.rand(1, 3, 3, *SIZE)
    other = images.clone()
    other[:, 2] = torch.rand(3, *SIZE)
    with torch.no_grad():
        difference = (segmenter.eval().encode(images) - segmenter.encode(other)).abs().amax((1, 2, 3))
    assert difference[0] > 1e-3
    single = Segmenter(segmenter.backbone, adapt.build("lora", {}, segmenter.backbone, 3)).eval()
    with torch.no_grad():
        alone = (single.encode(images) - single.encode(other)).abs().amax((1, 2, 3))
    assert alone[0] == 0


def test_the_method_decides_about_pixel_statistics() -> None:
    backbone = backbones.build("sam-tiny", SIZE)
    plain = Segmenter(backbone, adapt.build("ma_sam", {}, backbone, 2))
    sam = Segmenter(backbone, adapt.build("lora", {}, backbone, 2))
    assert plain.mean.flatten().tolist() == [0, 0, 0]
    assert sam.mean.flatten().tolist() == pytest.approx([value / 255 for value in backbone.variant.pixel_mean])


def test_the_adaptation_alone_brings_a_model_back(segmenter: Segmenter, tmp_path: object) -> None:
    file = f"{tmp_path}/adaptation.safetensors"
    save_file(segmenter.adaptation.state_dict(), file)
    backbone = backbones.build("sam-tiny", SIZE)
    again = Segmenter(backbone, adapt.build("ma_sam", {"rank": 4, "width": 16}, backbone, 3)).eval()
    again.adaptation.load_state_dict(load_file(file))
    images = torch.rand(1, 2, 3, *SIZE)
    torch.testing.assert_close(again(images), segmenter.eval()(images))
