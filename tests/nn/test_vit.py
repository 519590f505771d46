"""The encoder against a plain formula, and the five points where a method acts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from voxelsam.errors import InputError, WeightsError
from voxelsam.nn.seam import BlockSpec, EncoderAdaptation, Stack
from voxelsam.nn.vit import SamEncoder, tokens_along

GRIDS = [(5, 4), (3, 6), (2, 2), (7, 1)]


def by_hand(encoder, images):
    """SAM's encoder in plain operations on single windows, from the state dict alone."""
    state = encoder.state_dict()
    spec = encoder.blocks_spec
    x = F.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=4)
    x = x.permute(0, 2, 3, 1) + state["pos_embed"]
    for i, block in enumerate(spec):
        p = {name.removeprefix(f"blocks.{i}."): t for name, t in state.items() if name.startswith(f"blocks.{i}.")}
        y = F.layer_norm(x, (block.dim,), p["norm1.weight"], p["norm1.bias"], 1e-6)
        x = x + torch.stack([attended(frame, block, p) for frame in y])
        y = F.layer_norm(x, (block.dim,), p["norm2.weight"], p["norm2.bias"], 1e-6)
        y = F.gelu(F.linear(y, p["mlp.lin1.weight"], p["mlp.lin1.bias"]))
        x = x + F.linear(y, p["mlp.lin2.weight"], p["mlp.lin2.bias"])
    x = x.permute(0, 3, 1, 2)
    for conv, norm, padding in (("neck.0", "neck.1", 0), ("neck.2", "neck.3", 1)):
        x = F.conv2d(x, state[f"{conv}.weight"], padding=padding).permute(0, 2, 3, 1)
        x = F.layer_norm(x, x.shape[-1:], state[f"{norm}.weight"], state[f"{norm}.bias"], 1e-6).permute(0, 3, 1, 2)
    return x


def attended(frame, block, p):
    height, width = block.grid
    if not block.window:
        return one_window(frame, block, p)
    side, out = block.window, torch.zeros_like(frame)
    for top in range(0, height, side):
        for left in range(0, width, side):
            h, w = min(side, height - top), min(side, width - left)
            window = torch.zeros(side, side, block.dim)
            window[:h, :w] = frame[top : top + h, left : left + w]
            out[top : top + h, left : left + w] = one_window(window, block, p)[:h, :w]
    return out


def one_window(x, block, p):
    height, width, dim = x.shape
    qkv = F.linear(x, p["attn.qkv.weight"], p["attn.qkv.bias"]).reshape(height * width, 3, block.heads, -1)
    heads = []
    down = torch.tensor([[a // width - b // width for b in range(height * width)] for a in range(height * width)])
    right = torch.tensor([[a % width - b % width for b in range(height * width)] for a in range(height * width)])
    for head in range(block.heads):
        q, k, v = qkv[:, 0, head], qkv[:, 1, head], qkv[:, 2, head]
        bias = p["attn.rel_pos_h"][down + height - 1] + p["attn.rel_pos_w"][right + width - 1]
        logits = q @ k.T / q.shape[-1] ** 0.5 + torch.einsum("qd,qkd->qk", q, bias)
        heads.append(logits.softmax(-1) @ v)
    y = torch.cat(heads, -1).reshape(height, width, dim)
    return F.linear(y, p["attn.proj.weight"], p["attn.proj.bias"])


class Recorder(EncoderAdaptation):
    def __init__(self):
        super().__init__()
        self.calls = []

    def _note(self, point, block, *tensors):
        self.calls.append((block, point, *(tuple(t.shape) for t in tensors)))

    def before_attention(self, block, x, stack):
        self._note("before_attention", block, x)
        return x

    def qkv(self, block, qkv, x):
        self._note("qkv", block, qkv, x)
        return qkv

    def attention(self, block, attend, x, stack):
        self._note("attention", block, x)
        return attend(x)

    def before_mlp(self, block, x, stack):
        self._note("before_mlp", block, x)
        return x

    def mlp(self, block, mlp, x, stack):
        self._note("mlp", block, x)
        return mlp(x)


class Scaled(EncoderAdaptation):
    """Acts at all five points."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.1, 0.5, 5))

    def before_attention(self, block, x, stack):
        return x + self.scale[0] * x

    def qkv(self, block, qkv, x):
        return qkv + self.scale[1] * x.repeat(1, 1, 1, 3)

    def attention(self, block, attend, x, stack):
        return attend(x) + self.scale[2] * attend(x.transpose(0, 1), window=0).transpose(0, 1)

    def before_mlp(self, block, x, stack):
        return x - self.scale[3]

    def mlp(self, block, mlp, x, stack):
        return (1 + self.scale[4]) * mlp(x)


@pytest.mark.parametrize("grid", GRIDS)
def test_equals_the_plain_formula_for_any_grid(make_encoder, grid):
    encoder = make_encoder(grid)
    images = torch.randn(2, 3, 4 * grid[0], 4 * grid[1])
    expected = by_hand(encoder, images)
    assert expected.std() > 0.05
    torch.testing.assert_close(encoder(images), expected, atol=2e-5, rtol=2e-5)


def test_the_eps_of_the_norms_shows_on_small_tokens(make_encoder):
    encoder = make_encoder()
    for tensor in (encoder.patch_embed.proj.weight, encoder.patch_embed.proj.bias, encoder.pos_embed):
        tensor *= 1e-3
    images = torch.randn(2, 3, 20, 16)
    torch.testing.assert_close(encoder(images), by_hand(encoder, images), atol=2e-5, rtol=2e-5)
    assert {module.eps for module in encoder.modules() if hasattr(module, "eps")} == {1e-6}


def test_doing_nothing_at_all_points_changes_no_bit(make_encoder):
    encoder, images = make_encoder(), torch.randn(4, 3, 20, 16)
    assert torch.equal(encoder(images, Stack(2), EncoderAdaptation()), encoder(images))


def test_the_points_come_in_order_once_per_block_and_once_more_for_what_fills_windows(make_encoder):
    recorder = Recorder()
    make_encoder()(torch.randn(2, 3, 20, 16), Stack(2), recorder)
    start, end = ["before_attention", "attention", "qkv"], ["before_mlp", "mlp"]
    orders = [[*start, "qkv", *end], [*start, *end], [*start, "qkv", *end]]
    assert [call[:2] for call in recorder.calls] == [(i, point) for i, order in enumerate(orders) for point in order]


def test_the_qkv_point_sees_whole_frames_then_the_filling_token(make_encoder):
    recorder = Recorder()
    make_encoder()(torch.randn(2, 3, 20, 16), Stack(2), recorder)
    shapes = [call[2:] for call in recorder.calls if call[1] == "qkv"]
    whole, token = ((2, 5, 4, 48), (2, 5, 4, 16)), ((1, 1, 1, 48), (1, 1, 1, 16))
    assert shapes == [whole, token, whole, whole, token]


@pytest.mark.parametrize("grid", [(3, 6), (6, 3)])
def test_there_is_no_filling_token_where_windows_fit(make_encoder, grid):
    recorder = Recorder()
    make_encoder(grid)(torch.randn(2, 3, 4 * grid[0], 4 * grid[1]), Stack(2), recorder)
    assert sum(call[1] == "qkv" for call in recorder.calls) == 3


class Keeping(EncoderAdaptation):
    """Keeps what the qkv point gives."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def qkv(self, block, qkv, x):
        self.seen.append(qkv)
        return qkv


def test_windows_are_filled_after_the_norm(make_encoder):
    method, encoder = Keeping(), make_encoder((4, 4))
    encoder(torch.randn(1, 3, 16, 16), adaptation=method)
    assert (encoder.blocks[0].norm1.bias != 0).all()
    assert torch.equal(method.seen[1].flatten(), encoder.blocks[0].attn.qkv.bias)


@pytest.mark.parametrize("grid", [(5, 4), (2, 7), (8, 8)])
def test_what_is_added_at_the_qkv_point_also_fills_windows(make_encoder, grid):
    """An increment that is not zero at zeros is the same as another bias."""

    class Shifted(EncoderAdaptation):
        def qkv(self, block, qkv, x):
            return qkv + 0.5

    encoder, images = make_encoder(grid), torch.randn(1, 3, 4 * grid[0], 4 * grid[1])
    before, ours = encoder(images), encoder(images, adaptation=Shifted())
    for block in encoder.blocks:
        block.attn.qkv.bias += 0.5
    torch.testing.assert_close(ours, by_hand(encoder, images), atol=2e-5, rtol=2e-5)
    assert not torch.allclose(ours, before, atol=1e-3)


def test_block_specs_tell_what_the_blocks_are(make_encoder):
    encoder = make_encoder((5, 4))
    assert encoder.blocks_spec == tuple(BlockSpec(16, 2, (5, 4), window) for window in (3, 0, 3))
    assert [tuple(b.attn.rel_pos_h.shape) for b in encoder.blocks] == [(5, 8), (9, 8), (5, 8)]
    assert [tuple(b.attn.rel_pos_w.shape) for b in encoder.blocks] == [(5, 8), (7, 8), (5, 8)]


def test_frames_do_not_see_each_other(make_encoder):
    encoder, images = make_encoder(), torch.randn(4, 3, 20, 16)
    alone = torch.cat([encoder(image[None]) for image in images])
    torch.testing.assert_close(encoder(images, Stack(2)), alone, atol=1e-5, rtol=1e-5)


def test_only_the_adaptation_gets_gradients(make_encoder):
    encoder, adaptation = make_encoder(), Scaled()
    encoder(torch.randn(3, 3, 20, 16), Stack(3), adaptation).square().sum().backward()
    assert (adaptation.scale.grad.abs() > 0).all()
    assert all(tensor.grad is None for tensor in encoder.parameters())
    assert encoder.patch_embed(torch.randn(1, 3, 20, 16)).grad_fn is None


def test_attend_works_on_sequences_that_are_not_the_image(make_encoder):
    encoder = make_encoder()
    outputs = []

    class AlongDepth(EncoderAdaptation):
        def attention(self, block, attend, x, stack):
            line = x.permute(1, 2, 0, 3).reshape(20, 1, stack.depth, 16)
            outputs.append(attend(line, window=0))
            return attend(x)

    encoder(torch.randn(5, 3, 20, 16), Stack(5), AlongDepth())
    assert [tuple(y.shape) for y in outputs] == [(20, 1, 5, 16)] * 3


def test_attend_refuses_another_grid_unless_it_is_asked_to_resample(make_encoder):
    class Wrong(EncoderAdaptation):
        def attention(self, block, attend, x, stack):
            return attend(x[:, :2]) if block == 1 else attend(x)

    with pytest.raises(WeightsError, match="rel_h has 9 rows"):
        make_encoder()(torch.randn(1, 3, 20, 16), adaptation=Wrong())


class Asking(EncoderAdaptation):
    """Asks the attention of every block for something."""

    def __init__(self, fill=False, **wishes):
        super().__init__()
        self.fill, self.wishes, self.seen = fill, wishes, []

    def attention(self, block, attend, x, stack):
        return attend(x, filling=attend.blank if self.fill else None, **self.wishes)

    def qkv(self, block, qkv, x):
        self.seen.append(x)
        return qkv


def test_blank_is_what_filling_before_the_norm_gives(make_encoder):
    encoder, method = make_encoder((4, 4)), Asking(fill=True)
    images = torch.randn(1, 3, 16, 16)
    features = encoder(images, adaptation=method)
    bias = encoder.blocks[0].norm1.bias
    assert torch.equal(method.seen[1].flatten(), bias)
    assert torch.equal(bias, encoder.blocks[0].norm1(torch.zeros(16)))
    assert not torch.allclose(features, encoder(images), atol=1e-3)


def test_filling_changes_nothing_where_windows_fit(make_encoder):
    encoder, images = make_encoder((3, 6)), torch.randn(1, 3, 12, 24)
    assert torch.equal(encoder(images, adaptation=Asking(fill=True)), encoder(images))


def test_without_relative_positions_is_with_tables_of_zeros(make_encoder):
    encoder, images = make_encoder(), torch.randn(1, 3, 20, 16)
    ours, before = encoder(images, adaptation=Asking(relative=False)), encoder(images)
    for block in encoder.blocks:
        block.attn.rel_pos_h.zero_()
        block.attn.rel_pos_w.zero_()
    assert torch.equal(ours, encoder(images))
    assert not torch.allclose(ours, before, atol=1e-3)


@pytest.mark.parametrize("grad", [False, True])
def test_bfloat16_is_finite(make_encoder, grad):
    encoder = make_encoder()
    images = torch.randn(2, 3, 20, 16)
    expected = encoder(images)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = encoder(images, Stack(2), Scaled() if grad else None)
    low = encoder.bfloat16()(images.bfloat16())
    assert mixed.isfinite().all()
    assert low.isfinite().all()
    assert F.cosine_similarity(low.float().flatten(), expected.flatten(), dim=0) > 0.99


@pytest.mark.slow
def test_the_whole_graph_is_captured(make_encoder):
    encoder, images = make_encoder(depth=2), torch.randn(2, 3, 20, 16)
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")
    arguments = (images, Stack(2), Scaled())
    torch.testing.assert_close(compiled(*arguments), encoder(*arguments), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("size", [(20, 20), (16, 20), (24, 16)])
def test_images_of_another_size_are_refused(make_encoder, size):
    with pytest.raises(WeightsError, match=r"built for images of 20 × 16.*image_size"):
        make_encoder()(torch.randn(1, 3, *size))


def test_frames_must_divide_into_stacks(make_encoder):
    with pytest.raises(InputError, match="5 frames do not divide into stacks of 2"):
        make_encoder()(torch.randn(5, 3, 20, 16), Stack(2))


def test_contradicting_sizes_are_refused(make_encoder):
    with pytest.raises(WeightsError, match="16 channels do not divide into 3 heads"):
        make_encoder(heads=3)
    with pytest.raises(WeightsError, match=r"global blocks \[1, 3\]"):
        make_encoder(global_blocks=(3, 1))
    for size in ((18, 16), (16, 2), (0, 16)):
        with pytest.raises(WeightsError, match="does not divide into patches of 4 × 4"):
            make_encoder(image_size=size)


def test_tokens_along():
    assert tokens_along((512, 320), 16) == (32, 20)


def test_names_are_those_of_the_published_checkpoints():
    with torch.device("meta"):
        encoder = SamEncoder(dim=8, depth=1, heads=2, patch=4, window=2, global_blocks=(), image_size=(8, 8))
    block = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.lin1", "mlp.lin2"]
    expected = {f"blocks.0.{part}.{kind}" for part in block for kind in ("weight", "bias")}
    expected |= {f"blocks.0.attn.rel_pos_{axis}" for axis in "hw"} | {"pos_embed"}
    expected |= {f"patch_embed.proj.{kind}" for kind in ("weight", "bias")}
    expected |= {"neck.0.weight", "neck.2.weight"} | {f"neck.{n}.{kind}" for n in (1, 3) for kind in ("weight", "bias")}
    assert set(encoder.state_dict()) == expected
