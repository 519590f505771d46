"""Products against double precision, and the trial that chooses among them."""

import pytest
import torch
from torch import Tensor

from voxelsam.nn import products
from voxelsam.nn.products import Packed, Plain, Product, Quantised, Trial, fastest, quantised, tried

CPU = torch.device("cpu")


def exact(x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool) -> Tensor:
    y = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    return y * 0.5 * (1 + torch.erf(y / 2**0.5)) if gelu else y


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(
    ("product", "dtype", "most"),
    [
        (Plain, torch.float32, 1e-6),
        (Packed, torch.float32, 1e-6),
        (Plain, torch.bfloat16, 1e-2),
        (Packed, torch.bfloat16, 1e-2),
        (Quantised, torch.float32, 3e-2),
    ],
)
@torch.inference_mode()
def test_the_product_of_any_tokens(
    product: type[Product], dtype: torch.dtype, most: float, biased: bool, gelu: bool
) -> None:
    weight, bias = torch.randn(40, 24), torch.randn(40) if biased else None
    made = product(weight.to(dtype), None if bias is None else bias.to(dtype), gelu=gelu)
    x = torch.randn(3, 5, 7, 24)
    wanted = exact(x, weight, bias, gelu=gelu)
    y = made(x)
    assert y.shape == (3, 5, 7, 40)
    assert y.dtype == made.gives == dtype
    assert float((y - wanted).norm() / wanted.norm()) < most
    room = made.room(200)
    place = None if room is None else room[:105]
    again = made.at(x.flatten(0, -2), place)
    assert (again is place) == (product is Plain)
    assert float((again - wanted.flatten(0, -2)).norm() / wanted.norm()) < most


@torch.inference_mode()
def test_every_token_has_its_own_scale() -> None:
    """One token of huge numbers takes nothing from the others, nor does a token of zeros."""
    weight = torch.randn(16, 24)
    x = torch.randn(products.ROWS + 3, 24)
    x[1] *= 1e6
    x[2] = 0
    y, wanted = Quantised(weight, None)(x), exact(x, weight, None, gelu=False)
    assert torch.equal(y[2], torch.zeros(16))
    for token in (0, 1, 3, products.ROWS + 2):
        assert float((y[token] - wanted[token]).norm() / wanted[token].norm()) < 3e-2


def test_whole_numbers_give_back_what_came() -> None:
    x = torch.randn(5, 30)
    scale, whole = quantised(x)
    assert whole.dtype == torch.int8
    assert whole.abs().amax(1).tolist() == [127] * 5
    assert ((scale * whole - x).abs() <= scale / 2 * 1.001).all()


class Wrong(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 1.01


class Missing(Plain):
    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError("no such operator here")


def test_a_trial_tells_right_from_wrong() -> None:
    assert tried(Plain, torch.float32, 32).error < 1e-6
    assert tried(Wrong, torch.float32, 32).error == pytest.approx(0.01, rel=1e-3)
    assert tried(Missing, torch.float32, 32) == Trial(0.0, float("inf"))


@pytest.mark.parametrize(
    ("trial", "taken"),
    [
        (Trial(2.0, 1e-7), Packed),
        (Trial(1.05, 1e-7), Plain),
        (Trial(2.0, 1e-2), Plain),
        (Trial(0.0, float("inf")), Plain),
        (Trial(2.0, float("nan")), Plain),
    ],
)
def test_only_what_is_right_and_clearly_faster_is_taken(
    monkeypatch: pytest.MonkeyPatch, trial: Trial, taken: type[Product]
) -> None:
    monkeypatch.setattr(products, "tried", lambda *_: trial)
    assert fastest(torch.float32, 32, CPU) is taken
    assert fastest(torch.float32, 32, torch.device("cuda")) is Plain
    assert fastest(torch.float16, 32, CPU) is Plain
