"""One prompt set per frame, all mask tokens out, steps that can be looked at."""

import pytest
import torch
from torch import nn

from voxelsam.nn.decoder import MaskDecoder
from voxelsam.nn.prompt_encoder import EncodedPrompts

SIZES = {"dim": 16, "heads": 2, "mlp_dim": 24, "iou_hidden": 12}


@pytest.fixture
def make_decoder(redraw):
    return lambda **changes: redraw(MaskDecoder(**(SIZES | {"upscale": (8, 4)} | changes)), std=0.2)


def inputs(frames=3, n=2, grid=(3, 5)):
    return (
        torch.randn(frames, 16, *grid),
        torch.randn(1, 16, *grid),
        encoded(torch.randn(frames, n, 16), torch.randn(frames, 16, *grid)),
    )


def encoded(sparse, dense):
    return EncodedPrompts(sparse, torch.ones(sparse.shape[:2], dtype=torch.bool), dense)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_each_frame_is_decoded_with_its_own_prompts(make_decoder, n):
    decoder = make_decoder()
    features, pe, prompts = inputs(n=n)
    together = decoder(features, pe, prompts)
    for frame in range(3):
        own = encoded(prompts.sparse[frame, None], prompts.dense[frame, None])
        alone = decoder(features[frame, None], pe, own)
        torch.testing.assert_close(together.logits[frame], alone.logits[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.quality[frame], alone.quality[0], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together.logits[0], together.logits[1], atol=1e-2)


@pytest.mark.parametrize(("upscale", "factor"), [((8, 4), 4), ((8, 4, 2, 2), 16), ((4,), 2)])
@pytest.mark.parametrize("masks", [1, 4, 13])
def test_all_mask_tokens_are_returned_at_the_size_of_the_up_sampling(make_decoder, upscale, factor, masks):
    scores = make_decoder(upscale=upscale, masks=masks)(*inputs())
    assert scores.logits.shape == (3, masks, 3 * factor, 5 * factor)
    assert scores.quality.shape == (3, masks)


def test_the_steps_compose_to_the_whole(make_decoder):
    decoder, (features, pe, prompts) = make_decoder(), inputs()
    tokens, image = decoder.attend_tokens(features, pe, prompts)
    assert tokens.shape == (3, 1 + 4 + 2, 16)
    upscaled, hyper = decoder.upscale(image, (3, 5)), decoder.hypernetworks(tokens[:, 1:5])
    scores = decoder(features, pe, prompts)
    for frame in range(3):
        for mask in range(4):
            expected = sum(hyper[frame, mask, c] * upscaled[frame, c] for c in range(4))
            torch.testing.assert_close(scores.logits[frame, mask], expected, atol=1e-5, rtol=1e-5)
            own = decoder.output_hypernetworks_mlps[mask](tokens[frame, 1 + mask])
            torch.testing.assert_close(hyper[frame, mask], own)
    torch.testing.assert_close(scores.quality, decoder.iou_prediction_head(tokens[:, 0]))


def test_the_tokens_are_quality_then_masks_then_prompts(make_decoder):
    decoder, seen = make_decoder(), []
    decoder.transformer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments))
    features, pe, prompts = inputs()
    decoder(features, pe, prompts)
    image, _, tokens, *_ = seen[0]
    assert torch.equal(tokens[1, 0], decoder.iou_token.weight[0])
    assert torch.equal(tokens[1, 1:5], decoder.mask_tokens.weight)
    assert torch.equal(tokens[:, 5:], prompts.sparse)
    assert torch.equal(image, features + prompts.dense)


def test_norm_follows_every_up_sampling_but_the_last(make_decoder):
    names = [type(layer).__name__ for layer in make_decoder(upscale=(8, 4, 2)).output_upscaling]
    step = ["ConvTranspose2d", "LayerNorm2d", "GELU"]
    assert names == [*step, *step, "ConvTranspose2d", "GELU"]


def test_everything_gets_a_gradient(make_decoder):
    decoder = make_decoder()
    scores = decoder(*inputs())
    (scores.logits.square().sum() + scores.quality.square().sum()).backward()
    assert all(tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in decoder.parameters())


def test_prompts_for_another_number_of_frames_are_not_repeated(make_decoder):
    features, pe, prompts = inputs()
    with pytest.raises(RuntimeError):
        make_decoder()(features, pe, encoded(prompts.sparse[:2], prompts.dense))


def test_the_default_is_the_published_decoder():
    with torch.device("meta"):
        decoder = MaskDecoder()
    assert sum(tensor.numel() for tensor in decoder.parameters()) == 4_058_340
    assert len(decoder.state_dict()) == 120
    assert isinstance(decoder.transformer.layers[0].mlp.act, nn.ReLU)


@pytest.mark.slow
def test_the_whole_graph_is_captured(make_decoder):
    decoder, arguments = make_decoder(masks=1).requires_grad_(False), inputs()
    compiled = torch.compile(decoder, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*arguments).logits, decoder(*arguments).logits)
