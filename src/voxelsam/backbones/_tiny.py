"""Weights of sam-tiny: random, but made so that a frozen encoder keeps what is in the image.

Its patch embedding is never trained, so every detail of a patch must reach the features. Therefore:

* A token starts as 128 coefficients: 64 Walsh patterns of the grey patch (all that 8 × 8 pixels hold), 32 coarse
  patterns of two colour contrasts, 32 triangle waves of the position. They share no channel, and an orthogonal matrix
  then spreads them over all channels. The mean of a patch, by far the largest coefficient of any picture, is scaled
  down to the size of the details. For pixels of 0..1 the image part is larger than the position, or training would
  first have to dig it out.
* The residual branches are small against the stream; queries and keys are of unit size, so attention is not flat.
* The neck mixes channels orthogonally and takes mostly the central token.

Numbers come from uniform draws and from whole numbers, never from normal draws, decompositions or rounded sums, whose
last digits differ between processors: the tensors, and hence their SHA-256, are the same everywhere.
"""

import hashlib
import math

import torch
from jaxtyping import Float
from torch import Tensor

from voxelsam.nn.backbone import Backbone, Variant

GREY, COLOUR, POSITION = 64, 32, 32
"""Coefficients of a token."""

IMAGE_GAIN, POSITION_GAIN, BRANCH_STD, NEIGHBOUR_STD, BIAS_STD = 12.0, 1.5, 0.02, 0.01, 0.04

LEARNT_VECTORS = (
    "no_mask_embed.weight",
    "not_a_point_embed.weight",
    "iou_token.weight",
    "mask_tokens.weight",
    "positional_encoding_gaussian_matrix",
)


def tiny_tensors(variant: Variant, seed: int) -> dict[str, Tensor]:
    """All tensors at the variant's own image size, each drawn from a generator of its own.

    Args:
        variant: sam-tiny: patches of 8 pixels, 128 channels of tokens, and of features a power of two, 128 or more.
        seed: Another set of tensors for every number.
    """
    with torch.device("meta"):
        expected = Backbone(variant).state_dict()
    channels = _signed_hadamard(_Draw(f"{seed}:channels"), GREY + COLOUR + POSITION)
    tensors = {}
    for name, tensor in sorted(expected.items()):
        draw = _Draw(f"{seed}:{name}")
        if name.startswith("image_encoder."):
            tensors[name] = _encoder_tensor(name, tuple(tensor.shape), channels, draw)
        else:
            tensors[name] = _head_tensor(name, tuple(tensor.shape), draw)
    return tensors


class _Draw:
    """Uniform numbers of a given standard deviation, from a generator seeded by a text."""

    def __init__(self, text: str) -> None:
        start = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little", signed=True)
        self.generator = torch.Generator("cpu").manual_seed(start)

    def __call__(self, shape: tuple[int, ...], std: float) -> Tensor:
        unit = torch.rand(shape, generator=self.generator, device="cpu")
        return (2 * unit - 1) * (math.sqrt(3) * std)


def _encoder_tensor(
    name: str, shape: tuple[int, ...], channels: Float[Tensor, "channels coefficients"], draw: _Draw
) -> Tensor:
    if name.endswith("patch_embed.proj.weight"):
        return _patch_patterns(channels).reshape(shape)
    if name.endswith("pos_embed"):
        return _positions(channels, (shape[1], shape[2]))
    if name.endswith("neck.0.weight"):
        copies = [_signed_hadamard(draw, shape[1]) for _ in range(shape[0] // shape[1])]
        return (torch.cat(copies) / math.sqrt(shape[1])).float().reshape(shape)
    if name.endswith("neck.2.weight"):
        weight = draw(shape, NEIGHBOUR_STD)
        weight[:, :, 1, 1] = (_signed_hadamard(draw, shape[0]) / math.sqrt(shape[0])).float()
        return weight
    if len(shape) == 1:
        return _norm_or_bias(name, shape)
    if ".rel_pos_" in name:
        return draw(shape, 0.1)
    unit = name.endswith(("attn.qkv.weight", "mlp.lin1.weight"))
    return draw(shape, 1 / math.sqrt(shape[1]) if unit else BRANCH_STD)


def _head_tensor(name: str, shape: tuple[int, ...], draw: _Draw) -> Tensor:
    """Prompt encoder and decoder: PyTorch's usual spreads."""
    if len(shape) == 1:
        return _norm_or_bias(name, shape) if name.endswith("weight") or "norm" in name else draw(shape, BIAS_STD)
    if name.endswith(LEARNT_VECTORS) or "point_embeddings" in name:
        return draw(shape, 1.0)
    return draw(shape, 1 / math.sqrt(3 * math.prod(shape[1:])))


def _norm_or_bias(name: str, shape: tuple[int, ...]) -> Tensor:
    """Norms start at scale 1 and shift 0, biases at 0."""
    return torch.full(shape, 1.0 if name.endswith("weight") else 0.0, device="cpu")


def _hadamard(size: int) -> Float[Tensor, "size size"]:
    """Sylvester's matrix of ±1 with orthogonal rows, in double precision; size is a power of two."""
    matrix = torch.ones(1, 1, dtype=torch.float64, device="cpu")
    while matrix.shape[0] < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    return matrix


def _signed_hadamard(draw: _Draw, size: int) -> Float[Tensor, "size size"]:
    """The same with random signs of its rows."""
    return torch.where(draw((size, 1), 1.0) < 0, -1.0, 1.0).double() * _hadamard(size)


def _patch_patterns(channels: Float[Tensor, "channels coefficients"]) -> Float[Tensor, "channels pixels"]:
    """Weights from an 8 × 8 patch of red, green and blue to all channels.

    Colour weights are whole numbers whose squares sum to 147, 162 and 150, so that all sums below are exact.
    """
    walsh = _hadamard(8)
    walsh = walsh[(walsh.diff(dim=1) != 0).sum(1).argsort()]
    patterns = torch.einsum("ay,bx->abyx", walsh, walsh)
    coarse = patterns[:4, :4].reshape(-1, 64)
    every = 4 * patterns.reshape(-1, 64)
    every[0] /= 4
    grey, red_green, blue_yellow = (
        torch.tensor(weights, dtype=torch.float64, device="cpu") for weights in ((7, 7, 7), (9, -9, 0), (5, 5, -10))
    )
    rows = torch.cat(
        [
            torch.einsum("np,c->ncp", p, colour)
            for p, colour in ((every, grey), (4 * coarse, red_green), (4 * coarse, blue_yellow))
        ]
    )
    whole = channels[:, : GREY + COLOUR] @ rows.flatten(1)
    return (whole * (IMAGE_GAIN / (4 * 8 * math.sqrt(150) * math.sqrt(channels.shape[0])))).float()


def _positions(
    channels: Float[Tensor, "channels coefficients"], grid: tuple[int, int]
) -> Float[Tensor, "1 h w channels"]:
    """Triangle waves along rows and columns: eight periods, from twice the image down to four tokens, in two phases."""
    height, width = grid
    count = torch.arange(1, POSITION // 4 + 1, dtype=torch.float64, device="cpu") / 2
    waves = []
    for size in (height, width):
        turns = (torch.arange(size, dtype=torch.float64, device="cpu")[:, None] + 0.5) / size * count
        turns = torch.cat((turns, turns + 0.25), dim=1)
        waves.append(4 * (turns - (turns + 0.5).floor()).abs() - 1)
    rows = waves[0][:, None].expand(-1, width, -1)
    columns = waves[1][None].expand(height, -1, -1)
    whole = torch.cat((rows, columns), dim=-1) @ channels[:, GREY + COLOUR :].T
    return (whole * (POSITION_GAIN / math.sqrt(channels.shape[0]))).float()[None]
