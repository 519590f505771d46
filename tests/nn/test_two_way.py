"""The two-way transformer against PyTorch's own attention and the rules of its first block."""

import pytest
import torch
from torch import nn

from voxelsam.nn.two_way import SlimAttention, TwoWayBlock, TwoWayTransformer


def test_attention_equals_that_of_pytorch():
    ours = SlimAttention(12, 3)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True)
    parts = (ours.q_proj, ours.k_proj, ours.v_proj)
    theirs.in_proj_weight.data = torch.cat([part.weight for part in parts]).detach()
    theirs.in_proj_bias.data = torch.cat([part.bias for part in parts]).detach()
    theirs.out_proj.load_state_dict(ours.out_proj.state_dict())
    q, k, v = torch.randn(2, 5, 12), torch.randn(2, 7, 12), torch.randn(2, 7, 12)
    torch.testing.assert_close(ours(q, k, v), theirs(q, k, v)[0], atol=1e-6, rtol=1e-5)


def test_downsampling_narrows_the_inside_only():
    slim = SlimAttention(12, 3, 2)
    assert slim.q_proj.weight.shape == (6, 12)
    assert slim.out_proj.weight.shape == (12, 6)
    assert slim(*(torch.randn(1, n, 12) for n in (5, 7, 7))).shape == (1, 5, 12)


def test_norms_have_the_eps_of_pytorch():
    transformer = TwoWayTransformer(2, 8, 2, 16)
    assert {module.eps for module in transformer.modules() if isinstance(module, nn.LayerNorm)} == {1e-5}


@pytest.mark.parametrize("first", [True, False])
def test_only_the_first_block_replaces_its_tokens(first):
    block = TwoWayBlock(8, 2, 16, 2, first=first)
    for part in (block.self_attn, block.cross_attn_token_to_image):
        nn.init.zeros_(part.out_proj.weight)
        nn.init.zeros_(part.out_proj.bias)
    tokens, image, pe = torch.randn(2, 3, 8), torch.randn(2, 6, 8), torch.randn(2, 6, 8)
    once, _ = block(tokens, image, tokens, pe)
    other, _ = block(2 * tokens.flip(-1), image, tokens, pe)
    assert torch.allclose(once, other) == first


def test_image_positions_are_shared_by_all_frames(redraw):
    transformer = redraw(TwoWayTransformer(2, 8, 2, 16))
    image, pe, tokens = torch.randn(3, 8, 2, 4), torch.randn(1, 8, 2, 4), torch.randn(3, 5, 8)
    together = transformer(image, pe, tokens)
    for frame in range(3):
        alone = transformer(image[frame, None], pe, tokens[frame, None])
        for whole, part in zip(together, alone, strict=True):
            torch.testing.assert_close(whole[frame, None], part, atol=1e-5, rtol=1e-5)
    assert together[1].shape == (3, 8, 8)
