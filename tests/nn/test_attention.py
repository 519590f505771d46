"""Every form of attention equals the formula, and no fast form holds tokens × tokens numbers."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from voxelsam.errors import WeightsError
from voxelsam.nn import attention, chunked
from voxelsam.nn.attention import attend, resize_table
from voxelsam.nn.positions import Beyond

GRIDS = [(3, 5), (7, 7), (1, 4), (6, 1), (1, 1), (9, 12)]
CUT_OFF = [((2, 3), (4, 3)), ((2, 3), (2, 5)), ((2, 3), (4, 5)), ((1, 1), (3, 3)), ((7, 1), (7, 7)), ((4, 6), (7, 7))]
"""The valid part of a window, and the window."""
PLACES = [(grid, grid) for grid in GRIDS] + CUT_OFF


def inputs(grid, window=None, batch=2, heads=3, dim=8, *, dtype=torch.float32, grad=False):
    """Queries, keys, values, both tables; where the window is larger, key and value of what fills it."""
    window = window or grid
    tokens, shared = (batch, heads, grid[0] * grid[1], dim), (heads, dim)
    sizes = [tokens] * 3 + [(2 * size - 1, dim) for size in window] + [shared] * (2 if window != grid else 0)
    return [torch.randn(size, dtype=dtype).requires_grad_(grad) for size in sizes]


def attended(tensors, grid, window=None, *, fused=True):
    beyond = Beyond(*tensors[5:], window) if tensors[5:] else None
    return attend(*tensors[:5], grid, beyond=beyond, fused=fused)


def forced(monkeypatch, form):
    """From now on attention is computed in this form, and differentiated as it is."""
    monkeypatch.setattr(attention, "_fast", getattr(attention, form))
    monkeypatch.setattr(attention, "_recomputes", lambda *_, grid: False)


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


@pytest.mark.parametrize(("grid", "window"), PLACES)
@pytest.mark.parametrize("form", ["chunked", "_augmented"])
def test_fast_forms_equal_the_plain_one(monkeypatch, form, grid, window):
    tensors = inputs(grid, window, dtype=torch.float64)
    forced(monkeypatch, form)
    plain = attended(tensors, grid, window, fused=False)
    assert (attended(tensors, grid, window) - plain).abs().max() < 1e-12


@pytest.mark.parametrize(("grid", "window"), PLACES)
def test_single_precision_is_good_to_a_hundred_thousandth(grid, window):
    tensors = inputs(grid, window)
    plain = attended(tensors, grid, window, fused=False)
    assert (attended(tensors, grid, window) - plain).norm() < 1e-5 * plain.norm()


def test_the_extra_key_is_a_window_of_filling_tokens():
    """The whole window, every filling token in its place, and the queries of the valid part."""
    grid, (rows, columns) = (2, 3), (4, 5)
    q, k, v, rel_h, rel_w, key, value = tensors = inputs(grid, (rows, columns), batch=1)
    place = torch.arange(rows * columns).view(rows, columns)[:2, :3].flatten()
    filled = [token[None, :, None].repeat(1, 1, rows * columns, 1) for token in (value, key, value)]
    for whole, valid in zip(filled, (q, k, v), strict=True):
        whole[:, :, place] = valid
    expected = attend(*filled, rel_h, rel_w, (rows, columns), fused=False)[:, :, place]
    torch.testing.assert_close(attended(tensors, grid, (rows, columns)), expected, atol=1e-5, rtol=1e-5)
    without = attend(q, k, v, rel_h[2:5], rel_w[2:7], grid)
    assert (expected - without).abs().max() > 0.1, "what fills the window matters"


@pytest.mark.parametrize(("grid", "window"), PLACES)
@pytest.mark.parametrize("form", [None, "_augmented"])
def test_gradients_equal_those_of_the_plain_form(monkeypatch, form, grid, window):
    tensors = inputs(grid, window, dtype=torch.float64, grad=True)
    weight = torch.randn_like(tensors[0])
    plain = torch.autograd.grad((attended(tensors, grid, window, fused=False) * weight).sum(), tensors)
    if form:
        forced(monkeypatch, form)
    fused = torch.autograd.grad((attended(tensors, grid, window) * weight).sum(), tensors)
    for expected, got in zip(plain, fused, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("chunk", [1, 100])
@pytest.mark.parametrize(("grid", "window"), [((2, 3), (2, 3)), ((2, 1), (3, 2))])
def test_gradients_are_those_of_small_differences(monkeypatch, chunk, grid, window):
    monkeypatch.setitem(chunked.CHUNK, "cpu", chunk)
    tensors = inputs(grid, window, dtype=torch.float64, grad=True)
    assert torch.autograd.gradcheck(lambda *given: attended(given, grid, window), tensors)


@pytest.mark.parametrize("trained", range(7))
def test_each_input_may_be_the_only_one_with_a_gradient(trained):
    grid, window = (2, 3), (4, 5)
    tensors = inputs(grid, window, dtype=torch.float64)
    tensors[trained].requires_grad_()
    plain, fused = (
        torch.autograd.grad(attended(tensors, grid, window, fused=fused).square().sum(), tensors[trained])
        for fused in (False, True)
    )
    torch.testing.assert_close(fused, plain, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("chunk", [1, 100, 257, 1500, 4000])
@pytest.mark.parametrize("window", [(5, 3), (6, 6)])
def test_chunks_of_any_size_give_the_same(monkeypatch, chunk, window):
    tensors = inputs((5, 3), window, batch=3, dtype=torch.float64, grad=True)
    plain = attended(tensors, (5, 3), window, fused=False)
    expected = torch.autograd.grad(plain.square().sum(), tensors)
    monkeypatch.setitem(chunked.CHUNK, "cpu", chunk)
    fused = attended(tensors, (5, 3), window)
    assert (fused - plain).abs().max() < 1e-12
    for one, other in zip(expected, torch.autograd.grad(fused.square().sum(), tensors), strict=True):
        torch.testing.assert_close(other, one, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("window", [(3, 4), (5, 5)])
def test_queries_keys_and_values_may_lie_side_by_side(window):
    """As the projection gives them; heads of the result lie side by side as well."""
    packed = torch.randn(2, 12, 3, 3, 8, dtype=torch.float64, requires_grad=True)
    rest = inputs((3, 4), window, dtype=torch.float64)[3:]
    views = [*packed.permute(2, 0, 3, 1, 4), *rest]
    copies = [x.contiguous() for x in views]
    ours, expected = (attended(x, (3, 4), window) for x in (views, copies))
    assert torch.equal(ours, expected)
    assert ours.transpose(1, 2).is_contiguous()
    gradients = [torch.autograd.grad(y.square().sum(), packed)[0] for y in (ours, expected)]
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=1e-12)


def test_no_fast_form_holds_a_matrix_of_tokens_by_tokens(monkeypatch):
    monkeypatch.setitem(chunked.CHUNK, "cpu", 1 << 16)
    grid = (32, 28)
    heads, dim, tokens = 3, 16, 32 * 28
    matrix, terms = heads * tokens**2, heads * tokens * (2 * sum(grid) - 2)
    with Largest() as plain:
        attend(*inputs(grid, None, 1, heads, dim), grid, fused=False)
    assert plain.elements >= matrix, "the measure itself must see the matrix"
    with Largest() as inference:
        attend(*inputs(grid, None, 1, heads, dim), grid)
    with Largest() as training:
        attend(*inputs(grid, None, 1, heads, dim, grad=True), grid).sum().backward()
    assert max(inference.elements, training.elements) <= max(1 << 16, heads * tokens * dim) < matrix / 30
    low = [tensor.bfloat16() for tensor in inputs(grid, None, 1, heads, dim)]
    with Largest() as half:
        attend(*low, grid)
    assert half.elements <= terms < matrix / 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_backward_pass_keeps_queries_keys_and_values_only(dtype):
    q, k, v, rel_h, rel_w = (tensor.to(dtype) for tensor in inputs((9, 12), heads=3, dim=8))
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attend(*(x.requires_grad_() for x in (q, k, v)), rel_h, rel_w, (9, 12))
    tables = (17 + 23) * 8 * q.element_size()
    assert sum(kept.values()) == 3 * q.numel() * q.element_size() + tables


def test_nothing_is_kept_where_nothing_is_differentiated():
    for tensors, on in ((inputs((2, 2)), True), (inputs((2, 2), grad=True), False)):
        with torch.set_grad_enabled(on):
            assert attended(tensors, (2, 2)).grad_fn is None
    assert attended(inputs((2, 2), grad=True), (2, 2)).grad_fn.name() == "RecomputedBackward"


def test_very_wide_heads_are_recomputed_wherever_they_are():
    query = torch.empty(1, 1, 1, 64, device="meta", requires_grad=True)
    assert attention._recomputes(query, grid=(100, 200))
    assert not attention._recomputes(query, grid=(64, 64))


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("window", [(5, 6), (7, 7)])
def test_bfloat16_is_finite_and_close(grad, window):
    low = [tensor.bfloat16().requires_grad_(grad) for tensor in inputs((5, 6), window)]
    high = [tensor.detach().double().requires_grad_(grad) for tensor in low]
    out, expected = attended(low, (5, 6), window), attended(high, (5, 6), window, fused=False)
    assert out.dtype == torch.bfloat16
    assert (out.double() - expected).norm() < 1e-2 * expected.norm()
    if grad:
        ours, right = (torch.autograd.grad(y.square().sum(), x) for y, x in ((out, low), (expected, high)))
        for one, other in zip(ours, right, strict=True):
            assert (one.double() - other).norm() < 3e-2 * other.norm()


def test_autocast_decides_what_is_computed_in():
    tensors = inputs((3, 4), (5, 5))
    with torch.autocast("cpu", torch.bfloat16):
        out = attended(tensors, (3, 4), (5, 5))
    assert out.dtype == torch.bfloat16


@pytest.mark.parametrize("table", [0, 1])
def test_a_table_for_another_grid_is_refused(table):
    tensors = inputs((4, 6))
    tensors[3 + table] = torch.randn(9, 8)
    with pytest.raises(WeightsError, match=r"has 9 rows, but [46] tokens need (7|11).*image_size"):
        attend(*tensors, (4, 6))
    tensors = inputs((4, 6), (7, 7))
    tensors[3 + table] = torch.randn(9, 8)
    with pytest.raises(WeightsError, match="has 9 rows, but 7 tokens need 13"):
        attended(tensors, (4, 6), (7, 7))


def test_a_resized_table_keeps_its_direction_and_its_range():
    table = torch.linspace(-1, 1, 27)[:, None] * torch.tensor([1.0, 2.0])
    same, longer, shorter = resize_table(table, 27), resize_table(table, 63), resize_table(table, 9)
    assert same is table
    for resized, rows in ((longer, 63), (shorter, 9)):
        assert resized.shape == (rows, 2)
        assert (resized.diff(dim=0) >= 0).all()
        assert resized[rows // 2].abs().max() < 1e-6
        assert resized.abs().max() <= 2
