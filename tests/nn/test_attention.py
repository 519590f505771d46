"""Every form of attention equals the formula, and no fast form holds tokens × tokens numbers."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from voxelsam.errors import WeightsError
from voxelsam.nn import attention
from voxelsam.nn.attention import attend, resize_table

GRIDS = [(3, 5), (7, 7), (1, 4), (6, 1), (1, 1), (9, 12)]


def inputs(grid, batch=2, heads=3, dim=8, *, grad=False):
    shape = (batch, heads, grid[0] * grid[1], dim)
    tensors = [torch.randn(shape) for _ in range(3)] + [torch.randn(2 * size - 1, dim) for size in grid]
    return [tensor.requires_grad_(grad) for tensor in tensors]


class Largest(TorchDispatchMode):
    """Counts the elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return result


def test_plain_is_the_formula_word_by_word():
    height, width = grid = (2, 3)
    q, k, v, rel_h, rel_w = inputs(grid, batch=1, heads=1)
    out = attend(q, k, v, rel_h, rel_w, grid, fused=False)[0, 0]
    for query in range(height * width):
        weights = []
        for key in range(height * width):
            down, right = query // width - key // width, query % width - key % width
            bias = rel_h[down + height - 1] + rel_w[right + width - 1]
            weights.append(math.exp(q[0, 0, query] @ (k[0, 0, key] / math.sqrt(8) + bias)))
        expected = sum(w * v[0, 0, key] for key, w in enumerate(weights)) / sum(weights)
        torch.testing.assert_close(out[query], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("grid", GRIDS)
def test_fast_forms_equal_the_plain_one(grid):
    tensors = inputs(grid)
    plain = attend(*tensors, grid, fused=False)
    assert (attend(*tensors, grid) - plain).abs().max() < 1e-5
    rows, columns = attention._relative_terms(tensors[0], *tensors[3:], grid)
    assert (attention._augmented(*tensors[:3], rows, columns) - plain).abs().max() < 1e-5


@pytest.mark.parametrize("grid", GRIDS)
def test_gradients_equal_those_of_the_plain_form(grid):
    tensors = inputs(grid, grad=True)
    weight = torch.randn(2, 3, grid[0] * grid[1], 8)
    plain = torch.autograd.grad((attend(*tensors, grid, fused=False) * weight).sum(), tensors)
    fused = torch.autograd.grad((attend(*tensors, grid) * weight).sum(), tensors)
    for expected, got in zip(plain, fused, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 100, 257, 1500, 4000])
def test_chunks_of_any_size_give_the_same(monkeypatch, chunk):
    tensors = inputs((5, 3), batch=3)
    monkeypatch.setattr(attention, "CHUNK", chunk)
    assert (attend(*tensors, (5, 3)) - attend(*tensors, (5, 3), fused=False)).abs().max() < 1e-5


def test_no_fast_form_holds_a_matrix_of_tokens_by_tokens():
    grid = (32, 28)
    batch, heads, dim, tokens = 1, 3, 16, 32 * 28
    matrix = batch * heads * tokens**2
    with Largest() as plain:
        attend(*inputs(grid, batch, heads, dim), grid, fused=False)
    assert plain.elements >= matrix, "the measure itself must see the matrix"
    with Largest() as inference:
        attend(*inputs(grid, batch, heads, dim), grid)
    assert inference.elements <= max(attention.CHUNK, batch * heads * tokens * sum(grid)) < matrix
    with Largest() as training:
        attend(*inputs(grid, batch, heads, dim, grad=True), grid).sum().backward()
    assert training.elements <= batch * heads * tokens * (dim + sum(grid) + attention.ALIGNMENT) < matrix / 4


def test_frozen_inputs_are_chunked_even_when_gradients_are_on(monkeypatch):
    monkeypatch.setattr(attention, "_augmented", None)
    attend(*inputs((2, 2)), (2, 2))
    with torch.no_grad():
        attend(*inputs((2, 2), grad=True), (2, 2))
    with pytest.raises(TypeError):
        attend(*inputs((2, 2), grad=True), (2, 2))


@pytest.mark.parametrize("grad", [False, True])
def test_bfloat16_is_finite_and_close(grad):
    tensors = inputs((5, 6))
    low = [tensor.bfloat16().requires_grad_(grad) for tensor in tensors]
    out = attend(*low, (5, 6))
    assert out.dtype == torch.bfloat16
    assert (out.float() - attend(*tensors, (5, 6), fused=False)).abs().max() < 0.15


@pytest.mark.parametrize("table", [0, 1])
def test_a_table_for_another_grid_is_refused(table):
    tensors = inputs((4, 6))
    tensors[3 + table] = torch.randn(9, 8)
    with pytest.raises(WeightsError, match=r"has 9 rows, but [46] tokens need (7|11).*image_size"):
        attend(*tensors, (4, 6))


def test_a_resized_table_keeps_its_direction_and_its_range():
    table = torch.linspace(-1, 1, 27)[:, None] * torch.tensor([1.0, 2.0])
    same, longer, shorter = resize_table(table, 27), resize_table(table, 63), resize_table(table, 9)
    assert same is table
    for resized, rows in ((longer, 63), (shorter, 9)):
        assert resized.shape == (rows, 2)
        assert (resized.diff(dim=0) >= 0).all()
        assert resized[rows // 2].abs().max() < 1e-6
        assert resized.abs().max() <= 2
