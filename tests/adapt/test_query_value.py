"""Increments on queries and values of the fused projection."""

import torch

from voxelsam.adapt._query_value import increase


def test_queries_and_values_are_increased_and_keys_are_not():
    qkv, query, value = torch.randn(2, 3, 4, 15), torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    q, k, v = qkv.clone().chunk(3, dim=-1)
    torch.testing.assert_close(increase(qkv, query, value), torch.cat((q + query, k, v + value), dim=-1))


def test_the_sum_takes_the_place_of_the_projection():
    qkv = torch.randn(2, 3, 4, 15)
    assert increase(qkv, torch.ones(2, 3, 4, 5), torch.ones(2, 3, 4, 5)).data_ptr() == qkv.data_ptr()


def test_all_three_have_their_gradients():
    x, query, value = (torch.randn(2, 1, 1, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    weight = torch.randn(12, 4, dtype=torch.float64)
    torch.autograd.gradcheck(lambda x, q, v: increase(x @ weight.T, q, v).sin(), (x, query, value))
