"""The convolution along the depth against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F

from voxelsam.nn.neighbours import along_depth


def inputs(batch=2, depth=4, positions=6, channels=5, dtype=torch.float64):
    shapes = (batch, depth, positions, channels), (channels, channels, 3), (channels,)
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def by_convolution(x, kernel, bias):
    return F.conv2d(x.permute(0, 3, 1, 2), kernel[..., None], bias, padding=(1, 0)).permute(0, 2, 3, 1)


@pytest.mark.parametrize("depth", [1, 2, 3, 7])
@pytest.mark.parametrize("batch", [1, 3])
def test_equals_the_convolution_and_its_gradients(batch, depth):
    given = inputs(batch, depth)
    weight = torch.randn_like(given[0])
    ours, expected = along_depth(*given), by_convolution(*given)
    torch.testing.assert_close(ours, expected, atol=1e-12, rtol=1e-12)
    gradients = [torch.autograd.grad((y * weight).sum(), given) for y in (ours, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


def test_gradients_are_those_of_small_differences():
    assert torch.autograd.gradcheck(along_depth, inputs(1, 3, 2, 3))


def test_slices_see_their_neighbours_and_no_others():
    x, kernel, bias = (tensor.detach() for tensor in inputs(2, 5))
    changed = x.clone()
    changed[0, 4] += 1
    moved = (along_depth(changed, kernel, bias) - along_depth(x, kernel, bias)).abs().amax((2, 3)) > 1e-9
    assert moved.tolist() == [[False, False, False, True, True], [False] * 5]


def test_tokens_with_gaps_are_the_same():
    x, kernel, bias = inputs()
    apart = x.detach().transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(along_depth(apart, kernel, bias), along_depth(x, kernel, bias))


def test_autocast_decides_what_is_computed_in():
    given = inputs(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = along_depth(*given)
    assert out.dtype == torch.bfloat16
    expected = by_convolution(*given)
    assert (out.float() - expected).norm() < 2e-2 * expected.norm()
    gradients = [torch.autograd.grad(y.float().square().sum(), given) for y in (out, expected)]
    for one, other in zip(*gradients, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() < 3e-2 * other.norm()
