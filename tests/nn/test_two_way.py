"""The two-way transformer against PyTorch's own attention and the rules of its first block."""

import pytest
import torch
from torch import nn

from voxelsam.nn.prompt_encoder import EncodedPrompts
from voxelsam.nn.seam import DecoderAdaptation
from voxelsam.nn.two_way import UNADAPTED, SlimAttention, TwoWayBlock, TwoWayTransformer


def no_prompts(frames=2):
    return EncodedPrompts(
        torch.zeros(frames, 0, 8), torch.zeros(frames, 0, dtype=torch.bool), torch.zeros(frames, 8, 2, 4)
    )


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
    once, _ = block(0, tokens, image, tokens, pe, no_prompts(), UNADAPTED)
    other, _ = block(0, 2 * tokens.flip(-1), image, tokens, pe, no_prompts(), UNADAPTED)
    assert torch.allclose(once, other) == first


def test_image_positions_are_shared_by_all_frames(redraw):
    transformer = redraw(TwoWayTransformer(2, 8, 2, 16))
    image, pe, tokens = torch.randn(3, 8, 2, 4), torch.randn(1, 8, 2, 4), torch.randn(3, 5, 8)
    together = transformer(image, pe, tokens, no_prompts(3))
    for frame in range(3):
        alone = transformer(image[frame, None], pe, tokens[frame, None], no_prompts(1))
        for whole, part in zip(together, alone, strict=True):
            torch.testing.assert_close(whole[frame, None], part, atol=1e-5, rtol=1e-5)
    assert together[1].shape == (3, 8, 8)


class Recorder(DecoderAdaptation):
    """Passes on what the default does, and keeps it."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def from_image(self, layer, seen, prompts):
        self.calls.append((layer, "from_image", tuple(seen.shape), prompts))
        return super().from_image(layer, seen, prompts)

    def mlp(self, layer, mlp, tokens, prompts):
        self.calls.append((layer, "mlp", tuple(tokens.shape), prompts))
        return super().mlp(layer, mlp, tokens, prompts)

    def to_image(self, layer, image, seen, prompts):
        self.calls.append((layer, "to_image", tuple(image.shape), prompts))
        assert image.shape == seen.shape
        return super().to_image(layer, image, seen, prompts)


def test_the_points_are_called_in_order_with_the_prompts_and_change_nothing_by_themselves(redraw):
    transformer, prompts, recorder = redraw(TwoWayTransformer(2, 8, 2, 16)), no_prompts(3), Recorder()
    inputs = (torch.randn(3, 8, 2, 4), torch.randn(1, 8, 2, 4), torch.randn(3, 5, 8), prompts)
    for ours, plain in zip(transformer(*inputs, recorder), transformer(*inputs), strict=True):
        assert torch.equal(ours, plain)
    shapes = {"from_image": (3, 5, 8), "mlp": (3, 5, 8), "to_image": (3, 8, 8)}
    assert [call[:3] for call in recorder.calls] == [(n, point, shapes[point]) for n in (0, 1) for point in shapes]
    assert all(call[3] is prompts for call in recorder.calls)


@pytest.mark.parametrize("point", ["from_image", "mlp", "to_image"])
def test_what_a_method_returns_at_a_point_counts(redraw, point):
    transformer = redraw(TwoWayTransformer(2, 8, 2, 16))
    inputs = (torch.randn(3, 8, 2, 4), torch.randn(1, 8, 2, 4), torch.randn(3, 5, 8), no_prompts(3))
    method = DecoderAdaptation()
    default = getattr(method, point)
    setattr(method, point, lambda layer, *rest: default(layer, *rest) + 0.5 * layer * torch.arange(8.0))
    for ours, plain in zip(transformer(*inputs, method), transformer(*inputs), strict=True):
        assert not torch.allclose(ours, plain, atol=1e-2)
