"""What networks need, counted without computing, and how fast a device is."""

import json

import pytest
import torch
from torch import nn

from voxelsam import cost
from voxelsam.cost import Setup, count
from voxelsam.model import Segmenter
from voxelsam.nn.prepared import Arithmetic
from voxelsam.nn.products import Plain

MA_SAM = json.dumps({"name": "ma_sam", "rank": 4, "width": 16})
SETUP = Setup("sam-tiny", MA_SAM, classes=3, size=(32, 32), depth=3)


def meta(*shape: int, grad: bool = False) -> torch.Tensor:
    return torch.empty(*shape, device="meta", requires_grad=grad)


def test_a_product_of_matrices_is_counted_by_hand() -> None:
    found = count(lambda: meta(4, 8) @ meta(8, 16))
    assert found.flops == 2 * 4 * 8 * 16
    assert found.peak == 4 * (4 * 8 + 8 * 16 + 4 * 16)


def test_memory_that_is_let_go_counts_once() -> None:
    x = meta(1000)

    def run() -> None:
        for _ in range(5):
            x.exp()

    assert count(run).peak == 4000


def test_what_the_backward_pass_needs_stays() -> None:
    x = meta(1000, grad=True)
    kept = count(lambda: x.exp().exp().exp().sum())
    with torch.no_grad():
        gone = count(lambda: x.exp().exp().exp().sum())
    assert kept.peak >= 3 * 4000
    assert gone.peak <= 2 * 4000 + 4


def test_views_cost_nothing() -> None:
    x = meta(10, 20)
    found = count(lambda: x.T.reshape(20, 10)[3:])
    assert (found.peak, found.calls, found.moved) == (0, 0, 0)


def test_fused_attention_holds_no_square_of_tokens() -> None:
    q, k, v = (meta(2, 4, 256, 16, grad=True) for _ in range(3))

    def run() -> None:
        torch.autograd.backward(torch.nn.functional.scaled_dot_product_attention(q, k, v).sum())

    found = count(run)
    assert found.peak < 4 * 2 * 4 * 256 * 256
    assert found.flops == 7 * 2 * 2 * 4 * 256 * 256 * 16  # two products there, five back


def test_half_precision_halves_what_products_keep() -> None:
    layers = nn.Sequential(*(nn.Linear(64, 64, bias=False, device="meta") for _ in range(6)))
    x = meta(4096, 64)
    single, half = (count(lambda: layers(x).sum(), precision).peak for precision in ("fp32", "bf16"))
    assert half < 0.7 * single


def test_what_depends_on_values_is_refused() -> None:
    with pytest.raises(cost.UncountableError, match="shape"):
        count(lambda: meta(3).nonzero())


def test_the_counted_numbers_are_those_of_the_model() -> None:
    from voxelsam import adapt, backbones

    backbone = backbones.build("sam-tiny", (32, 32))
    adaptation = adapt.build("ma_sam", {"rank": 4, "width": 16}, backbone, 3)
    found = cost.networks(SETUP)
    assert found.trained == sum(adaptation.counts().values())
    assert found.parameters == sum(tensor.numel() for part in (backbone, adaptation) for tensor in part.parameters())


def test_a_stack_is_its_slices_embedded_then_encoded_then_decoded() -> None:
    found = cost.passes(SETUP)
    whole = found.stack(3)
    assert whole.flops == 3 * found.embed.flops + found.encode.flops + 3 * found.decode.flops
    assert whole.peak == max(found.embed.peak, found.encode.peak, found.decode.peak)
    plain, segmenter = SETUP.segmenter().eval(), SETUP.segmenter().eval()
    segmenter.ready(Arithmetic(torch.float32, Plain))

    def run(network: Segmenter) -> None:
        with torch.no_grad():
            network(torch.empty(1, 3, 3, 32, 32, device="meta")).softmax(2)

    assert whole.flops == pytest.approx(count(lambda: run(segmenter)).flops, rel=0.01)
    assert whole.flops < count(lambda: run(plain)).flops


def test_a_device_has_a_speed() -> None:
    found = cost.speed("cpu")
    assert found.flops > 1e8
    assert found.moved > 1e7
    assert 0 < found.call < 1
    assert cost.speed("cpu") is found
