"""The seam's own values."""

import pytest
import torch

from voxelsam.errors import InputError
from voxelsam.nn.prompt_encoder import EncodedPrompts
from voxelsam.nn.seam import SINGLE, DecoderAdaptation, EncoderAdaptation, Stack


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


def test_the_default_in_the_decoder_is_the_plain_sum():
    nothing, tokens = DecoderAdaptation(), torch.randn(1, 3, 4)
    prompts = EncodedPrompts(torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.bool), torch.zeros(1, 4, 2, 2))
    image, seen = torch.randn(2, 1, 5, 4)
    assert nothing.from_image(0, tokens, prompts) is tokens
    assert torch.equal(nothing.mlp(0, torch.neg, tokens, prompts), -tokens)
    assert torch.equal(nothing.to_image(0, image, seen, prompts), image + seen)
    assert not nothing.state_dict()
