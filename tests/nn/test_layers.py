"""Small layers against their formulas; the window cut and its undoing."""

import pytest
import torch

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


def test_mlp_head_has_relu_between_layers_only():
    head = MlpHead(4, 5, 2, 3)
    x = torch.randn(7, 4)
    a, b, c = head.layers
    torch.testing.assert_close(head(x), c(b(a(x).relu()).relu()))
    assert [layer.weight.shape for layer in head.layers] == [(5, 4), (5, 5), (2, 5)]
    assert (head(x) < 0).any()
