"""Small layers against their formulas; the window cut and its undoing."""

import pytest
import torch

from voxelsam.nn import frozen_mlp
from voxelsam.nn.layers import LayerNorm2d, Mlp, MlpHead, from_windows, to_windows


@pytest.mark.parametrize("grid", [(5, 4), (6, 6), (1, 7), (2, 2)])
@pytest.mark.parametrize("window", [1, 3, 8])
def test_from_windows_undoes_to_windows(grid, window):
    x = torch.randn(2, *grid, 3)
    cut = to_windows(x, window)
    assert cut.shape[1:] == (window, window, 3)
    assert torch.equal(from_windows(cut, grid), x)


def test_windows_go_row_by_row_and_are_filled_with_zeros():
    x = torch.arange(1.0, 21.0).reshape(1, 5, 4, 1)
    a, b, c, d = to_windows(x, 3)[..., 0]
    assert a.tolist() == [[1, 2, 3], [5, 6, 7], [9, 10, 11]]
    assert b.tolist() == [[4, 0, 0], [8, 0, 0], [12, 0, 0]]
    assert c.tolist() == [[13, 14, 15], [17, 18, 19], [0, 0, 0]]
    assert d.tolist() == [[16, 0, 0], [20, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("grid", [(5, 4), (6, 6), (1, 7)])
def test_windows_can_be_filled_with_any_token(grid):
    x, token = torch.randn(2, *grid, 3), torch.tensor([1.0, 2.0, 3.0])
    cut, zeros = to_windows(x, 3, token), to_windows(x, 3)
    filled = to_windows(torch.ones(2, *grid, 1), 3) == 0
    assert torch.equal(cut, torch.where(filled, token, zeros))
    assert torch.equal(from_windows(cut, grid), x)


def test_windows_of_one_frame_lie_together():
    x = torch.stack([torch.zeros(4, 4, 1), torch.ones(4, 4, 1)])
    assert to_windows(x, 2).mean((1, 2, 3)).tolist() == [0] * 4 + [1] * 4


def test_layer_norm_of_a_map_is_over_channels_with_its_eps():
    norm = LayerNorm2d(6)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = 1e-3 * torch.randn(2, 6, 3, 5)
    centred = x - x.mean(1, keepdim=True)
    expected = centred / (centred.pow(2).mean(1, keepdim=True) + 1e-6).sqrt()
    expected = expected * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), expected, atol=1e-5, rtol=1e-5)


def test_mlp_uses_the_exact_gelu():
    mlp = Mlp(4, 8)
    x = torch.randn(3, 4)
    hidden = mlp.lin1(x)
    expected = mlp.lin2(0.5 * hidden * (1 + torch.erf(hidden / 2**0.5)))
    torch.testing.assert_close(mlp(x), expected)


def plain(mlp, x):
    return mlp.lin2(mlp.act(mlp.lin1(x)))


@pytest.mark.parametrize("shape", [(7, 4), (2, 3, 5, 4), (0, 4)])
@pytest.mark.parametrize("at_a_time", [1, 4, 100])
def test_a_frozen_mlp_gives_its_tokens_the_gradient_of_the_formula(monkeypatch, shape, at_a_time):
    monkeypatch.setattr(frozen_mlp, "AT_A_TIME", at_a_time)
    mlp = Mlp(4, 8).double().requires_grad_(False)
    x = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    by_out = torch.randn(*shape, dtype=torch.float64)
    found, expected = mlp(x), plain(mlp, x)
    assert "FrozenMlp" in found.grad_fn.next_functions[0][0].name()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, x, by_out), torch.autograd.grad(expected, x, by_out))


def test_a_frozen_mlp_keeps_what_lies_between_its_layers_and_nothing_else():
    mlp = Mlp(4, 8).requires_grad_(False)
    x, kept = torch.randn(50, 4, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        mlp(x)
    assert sum(tensor.numel() for tensor in kept) == 50 * 8 + 2 * 4 * 8


@pytest.mark.parametrize("trained", ["lin1.weight", "lin1.bias", "lin2.weight", "lin2.bias"])
def test_an_mlp_of_which_anything_is_trained_gives_it_a_gradient(trained):
    mlp = Mlp(4, 8).requires_grad_(False)
    weight = mlp.get_parameter(trained).requires_grad_()
    x = torch.randn(7, 4, requires_grad=True)
    found, expected = (torch.autograd.grad(some.square().sum(), [x, weight]) for some in (mlp(x), plain(mlp, x)))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("activation", [torch.nn.ReLU, lambda: torch.nn.GELU("tanh")])
def test_a_frozen_mlp_with_another_activation_is_computed_with_that(activation):
    mlp = Mlp(4, 8, activation).requires_grad_(False)
    x = torch.randn(7, 4, requires_grad=True)
    torch.testing.assert_close(mlp(x), plain(mlp, x), rtol=0, atol=0)
    torch.testing.assert_close(*(torch.autograd.grad(some.sum(), x) for some in (mlp(x), plain(mlp, x))))


def test_autocast_decides_what_a_frozen_mlp_computes_in():
    mlp = Mlp(16, 32).requires_grad_(False)
    x = torch.randn(7, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = mlp(x), plain(mlp, x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found.float().sum(), x)
    assert gradient.dtype == torch.float32
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.float().sum(), x)[0], rtol=2e-2, atol=2e-2)


def test_mlp_head_has_relu_between_layers_only():
    head = MlpHead(4, 5, 2, 3)
    x = torch.randn(7, 4)
    a, b, c = head.layers
    torch.testing.assert_close(head(x), c(b(a(x).relu()).relu()))
    assert [layer.weight.shape for layer in head.layers] == [(5, 4), (5, 5), (2, 5)]
    assert (head(x) < 0).any()
