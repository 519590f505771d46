"""The seam's own values."""

import pytest
import torch

from voxelsam.errors import InputError
from voxelsam.nn.seam import SINGLE, EncoderAdaptation, Stack


def test_a_stack_has_at_least_one_slice():
    assert SINGLE.depth == Stack().depth == 1
    with pytest.raises(InputError, match="depth=0"):
        Stack(0)


def test_the_default_of_each_point_is_to_do_nothing():
    nothing, x, qkv = EncoderAdaptation(), torch.randn(1, 2, 2, 4), torch.randn(1, 2, 2, 12)
    assert nothing.before_attention(0, x, SINGLE) is x
    assert nothing.before_mlp(0, x, SINGLE) is x
    assert nothing.qkv(0, qkv, x) is qkv
    assert torch.equal(nothing.attention(0, torch.neg, x, SINGLE), -x)
    assert torch.equal(nothing.mlp(0, torch.neg, x, SINGLE), -x)
    assert not nothing.state_dict()
