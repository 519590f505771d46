"""The prepared decoder against the plain one: few tokens and many, odd grids, methods that act inside, masks."""

import copy

import pytest
import torch
from torch import nn

from voxelsam.nn import prepared_decoder
from voxelsam.nn.decoder import MaskDecoder, Scores
from voxelsam.nn.prepared_decoder import Doubling, ReadySlimAttention, order, ready_decoder, ready_prompt_encoder
from voxelsam.nn.prompt_encoder import EncodedPrompts, PromptEncoder
from voxelsam.nn.seam import DecoderAdaptation
from voxelsam.nn.two_way import SlimAttention

GRID = (5, 7)
CHANNELS = 32


def drawn(seed=0, **changes):
    """A decoder whose heads have 8 channels inside cross attention, so that 7 tokens are few and 8 are not."""
    sizes = {"dim": CHANNELS, "heads": 2, "mlp_dim": 24, "iou_hidden": 12, "upscale": (8, 4)}
    decoder = MaskDecoder(**(sizes | changes))
    generator = torch.Generator().manual_seed(seed)
    for tensor in decoder.state_dict().values():
        spread = 0.3 if tensor.dim() < 2 else tensor[0].numel() ** -0.5
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * spread)
    return decoder.eval().requires_grad_(False)


def asked(frames=2, n=2, grid=GRID):
    sparse, dense = torch.randn(frames, n, CHANNELS), torch.randn(frames, CHANNELS, *grid)
    prompts = EncodedPrompts(sparse, torch.ones(frames, n, dtype=torch.bool), dense)
    return torch.randn(frames, CHANNELS, *grid), torch.randn(1, CHANNELS, *grid), prompts


def made(decoder):
    result = copy.deepcopy(decoder)
    ready_decoder(result)
    return result


def off(ours: Scores, plain: Scores) -> float:
    pairs = ((ours.logits, plain.logits), (ours.quality, plain.quality))
    return max(float((one - other).norm() / other.norm()) for one, other in pairs)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 12, 60])
@pytest.mark.parametrize("tokens", [1, 10**6])
def test_it_is_the_same_for_any_number_of_prompts(monkeypatch, n, tokens):
    """Beside the decoder's own five, up to 2 are few; with 60 there are more tokens than pixels."""
    monkeypatch.setattr(prepared_decoder, "TOKENS", tokens)
    decoder, given = drawn(), asked(n=n)
    assert off(made(decoder)(*given), decoder(*given)) < 1e-5


@pytest.mark.parametrize(("upscale", "masks"), [((4,), 1), ((8, 4), 13), ((16, 8, 4, 2), 3)])
def test_and_for_any_up_sampling(upscale, masks):
    decoder, given = drawn(upscale=upscale, masks=masks), asked(frames=3, grid=(3, 9))
    assert off(made(decoder)(*given), decoder(*given)) < 1e-5


class Inside(DecoderAdaptation):
    """Acts at every point, and gives what it was given where it can."""

    def from_image(self, layer, seen, prompts):
        return seen + 0.3 * layer + prompts.sparse.mean()

    def mlp(self, layer, mlp, tokens, prompts):
        return mlp(tokens) - 0.2 * tokens

    def to_image(self, layer, image, seen, prompts):
        return seen if layer else image * 0.5 + seen


def test_a_method_acts_inside():
    decoder = drawn()
    decoder.adaptation = Inside()
    given = asked()
    ours = made(decoder)(*given)
    assert off(ours, decoder(*given)) < 1e-5
    decoder.adaptation = None
    assert off(ours, decoder(*given)) > 1e-2


def test_what_was_given_stays_as_it_is():
    decoder, given = drawn(), asked()
    before = copy.deepcopy((given[0], given[1], given[2].sparse, given[2].dense, list(decoder.state_dict().values())))
    made(decoder)(*given)
    after = (given[0], given[1], given[2].sparse, given[2].dense, list(decoder.state_dict().values()))
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_the_transformer_leaves_the_image_as_it_is():
    features, positions, prompts = asked()
    before = features.clone()
    made(drawn()).transformer(features, positions, torch.randn(2, 4, CHANNELS), prompts)
    assert torch.equal(features, before)


def test_a_second_answer_does_not_change_the_first():
    ready, given = made(drawn()), asked()
    first = ready(*given)
    kept = first.logits.clone()
    ready(*asked())
    assert torch.equal(first.logits, kept)


def test_pixels_are_not_projected_for_few_tokens(monkeypatch):
    """Projecting them is what costs time."""
    seen = []
    attention = ReadySlimAttention(SlimAttention(CHANNELS, 2, 2))
    plain = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: seen.append(x.shape[1]) or plain(self, x))
    few, many = torch.randn(1, 7, CHANNELS), torch.randn(1, 50, CHANNELS)
    attention(few, many, many)
    attention(many, few, few)
    assert set(seen) == {7}


def test_children_follow_one_another_until_they_are_put_in_their_places():
    torch.manual_seed(4)
    convolution = nn.ConvTranspose2d(3, 2, kernel_size=2, stride=2)
    image = torch.randn(1, 3, 4, 5)
    children = Doubling(convolution)(image[0].flatten(1).T)
    placed = children[order(4, 5, 1, image.device)].T.view(1, 2, 8, 10)
    torch.testing.assert_close(placed, convolution(image), rtol=1e-5, atol=1e-6)


def test_positions_are_worked_out_once(monkeypatch):
    prompt_encoder = PromptEncoder(16, (3, 5), (24, 40)).requires_grad_(False)
    expected = prompt_encoder.dense_pe()
    ready_prompt_encoder(prompt_encoder)
    monkeypatch.setattr(prompt_encoder.pe_layer, "forward", lambda points: pytest.fail("worked out again"))
    assert torch.equal(prompt_encoder.dense_pe(), expected)
