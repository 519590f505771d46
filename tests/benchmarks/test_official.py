"""The plain restatement of the official codes computes what voxelsam computes, in all that is compared by time."""

import models
import numpy as np
import official
import pytest
import torch

from voxelsam.infer.predictor import Predictor
from voxelsam.nn.backbone import Variant
from voxelsam.nn.prompt_encoder import PromptBatch
from voxelsam.train.losses import bce, dice_ce

SMALL = Variant(
    "small", dim=32, depth=3, heads=4, global_blocks=(1,), window=3, decoder_dim=64, decoder_mlp=64, iou_hidden=16
)
SIZE = (80, 64)
"""5 × 4 tokens: windows of 3 reach over both edges."""

METHODS = {
    "sam": models.SAM,
    "ma_sam": {**models.MA_SAM, "rank": 4, "width": 8},
    "med_sa": models.MED_SA,
}


def made(method: str, classes: int = 4):
    segmenter = models.built(SMALL, SIZE, METHODS[method], classes, spread=0.3)
    return segmenter, official.Network.of(segmenter)


def clicked(points):
    return PromptBatch(points[:, None], torch.ones(len(points), 1, dtype=torch.long))


@pytest.mark.parametrize(("method", "depth"), [("sam", 1), ("ma_sam", 1), ("ma_sam", 5), ("med_sa", 1), ("med_sa", 6)])
@torch.no_grad()
def test_features_are_the_same(method, depth):
    segmenter, network = made(method)
    images = models.stacks(SIZE, depth, batch=2)
    expected = network.encode(images)
    assert expected.std() > 0.1
    torch.testing.assert_close(segmenter.eval().encode(images), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("method", list(METHODS))
@torch.no_grad()
def test_every_tensor_of_the_method_counts(method):
    """Otherwise the restatement could leave a part out, and would be faster than the official code."""
    _, network = made(method)
    images = models.stacks(SIZE, 1 if method == "sam" else 6)
    features = network.encode(images)
    for name, tensor in network.tensors.items():
        if name.startswith(("image_encoder.", "encoder.")):
            kept = tensor.clone()
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
            assert (network.encode(images) - features).abs().max() > 1e-5, name
            tensor.copy_(kept)


@torch.no_grad()
def test_logits_without_prompts_are_the_same():
    segmenter, network = made("ma_sam")
    images = models.stacks(SIZE, 3)
    expected = network.decode(network.encode(images))
    assert expected.shape == (3, 4, *SIZE)
    torch.testing.assert_close(segmenter.eval()(images)[0], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", ["sam", "med_sa"])
@torch.no_grad()
def test_logits_of_a_click_are_the_same(method):
    segmenter, network = made(method, classes=2)
    images, points = models.stacks(SIZE, 1, batch=2), torch.tensor([[3.0, 70.0], [40.5, 12.0]])
    features = network.encode(images)
    expected = network.decode(features, points)
    assert (expected - network.decode(features, points.flip(0))).abs().max() > 1e-3
    logits = segmenter.eval().decode(features, clicked(points)).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


def compare_gradients(segmenter, network, loss, expected):
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-5, atol=1e-6)
    own = {
        f"{part}.{name}": p.grad
        for part, m in segmenter.adaptation.named_children()
        for name, p in m.named_parameters()
    }
    compared = 0
    for name, tensor in network.trained().items():
        if tensor.grad is None:
            assert own[name] is None or not own[name].any(), name
        else:
            scale = tensor.grad.abs().max()
            assert (own[name] - tensor.grad).abs().max() <= 2e-4 * scale + 1e-7, name
            compared += bool(scale > 0)
    assert compared > 30


def test_a_step_of_ma_sam_has_the_same_loss_and_gradients():
    segmenter, network = made("ma_sam")
    segmenter.train()
    images, target = models.stacks(SIZE, 3), torch.randint(4, (3, *SIZE), generator=torch.Generator().manual_seed(2))
    loss = dice_ce(segmenter.decode(segmenter.encode(images)).logits, target)[0]
    loss.backward()
    optimiser = torch.optim.SGD(network.trained().values(), lr=0.0)
    compare_gradients(segmenter, network, loss, official.ma_sam_step(network, optimiser, images, target))


def test_a_step_of_med_sa_has_the_same_loss_and_gradients():
    segmenter, network = made("med_sa", classes=2)
    segmenter.train()
    images, points = models.stacks(SIZE, 1, batch=2), torch.tensor([[3.0, 70.0], [40.5, 12.0]])
    target = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(2)).round()
    loss = bce(segmenter.decode(segmenter.encode(images), clicked(points)).logits[:, 1:], target[:, None])
    loss.backward()
    optimiser = torch.optim.SGD(network.trained().values(), lr=0.0)
    compare_gradients(segmenter, network, loss, official.med_sa_step(network, optimiser, images, points, target))


def test_the_labels_of_a_volume_are_the_same(tmp_path):
    shelf = models.Shelf(tmp_path)
    wanted = models.Wanted("sam-tiny", (64, 48), {**models.MA_SAM, "rank": 4, "width": 16}, classes=4)
    volume = models.scan(wanted.size, 7)
    network = official.Network.of(shelf.segmenter(wanted))
    expected = official.predict(network, models.planes(volume), models.LOW, models.HIGH)
    found = Predictor(shelf.bundle(wanted), device="cpu")(volume).labels.data
    assert len(np.unique(expected)) > 1
    assert (found.transpose(2, 1, 0) == expected).mean() > 0.9999
