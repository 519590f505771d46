"""Prompts against SAM's rules, written out with numbers."""

import math

import pytest
import torch

from voxelsam.errors import InputError
from voxelsam.nn.prompt_encoder import PromptBatch, PromptEncoder

GRID, SIZE, DIM = (3, 5), (24, 40), 8


@pytest.fixture
def encoder(redraw):
    return redraw(PromptEncoder(DIM, GRID, SIZE, mask_channels=8)).requires_grad_(False)


def batch(points=(), labels=(), boxes=None, masks=None, frames=2):
    points = torch.tensor(points, dtype=torch.float32).reshape(1, -1, 2).repeat(frames, 1, 1)
    labels = torch.tensor(labels, dtype=torch.int64).reshape(1, -1).repeat(frames, 1)
    if boxes is not None:
        boxes = torch.tensor(boxes, dtype=torch.float32).reshape(1, -1, 4).repeat(frames, 1, 1)
    return PromptBatch(points, labels, boxes, masks)


def placed(encoder, x, y):
    """Fourier features of the centre of pixel (x, y)."""
    across, down = 2 * (x + 0.5) / SIZE[1] - 1, 2 * (y + 0.5) / SIZE[0] - 1
    matrix = encoder.pe_layer.positional_encoding_gaussian_matrix
    phases = [2 * math.pi * (across * matrix[0, i].item() + down * matrix[1, i].item()) for i in range(DIM // 2)]
    return torch.tensor([math.sin(p) for p in phases] + [math.cos(p) for p in phases])


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prompts", [None, batch(), batch(boxes=())])
def test_no_prompt_gives_no_token_and_one_constant_vector(encoder, prompts):
    encoded = encoder(prompts, 2)
    assert encoded.sparse.shape == (2, 0, DIM)
    assert encoded.real.shape == (2, 0)
    assert encoded.dense.shape == (2, DIM, *GRID)
    assert torch.equal(encoded.dense[1, :, 2, 4], encoder.no_mask_embed.weight[0])


def test_points_carry_their_kind_and_a_filling_point_follows(encoder):
    encoded = encoder(batch([(3, 7), (30, 2), (9, 9)], [1, 0, -1]), 2)
    sparse = encoded.sparse
    kinds = encoder.point_embeddings
    close(sparse[1, 0], placed(encoder, 3, 7) + kinds[1].weight[0])
    close(sparse[1, 1], placed(encoder, 30, 2) + kinds[0].weight[0])
    close(sparse[1, 2], encoder.not_a_point_embed.weight[0])
    close(sparse[1, 3], encoder.not_a_point_embed.weight[0])
    assert sparse.shape[1] == 4
    assert encoded.real.tolist() == 2 * [[True, True, False, False]]


def test_boxes_are_two_corners_and_need_no_filling_point(encoder):
    boxes = [(1, 2, 30, 20), (5, 6, 7, 8)]
    kinds = encoder.point_embeddings
    for points, labels in (((), ()), ([(3, 7)], [1])):
        encoded = encoder(batch(points, labels, boxes), 2)
        sparse = encoded.sparse
        assert sparse.shape[1] == len(labels) + 4
        assert encoded.real.shape == sparse.shape[:2]
        assert encoded.real.all()
        corners = sparse[0, len(labels) :]
        close(corners[0], placed(encoder, 1, 2) + kinds[2].weight[0])
        close(corners[1], placed(encoder, 30, 20) + kinds[3].weight[0])
        close(corners[2], placed(encoder, 5, 6) + kinds[2].weight[0])


def test_frames_keep_their_own_prompts(encoder):
    points = torch.tensor([[[1.0, 2.0]], [[30.0, 20.0]]])
    sparse = encoder(PromptBatch(points, torch.tensor([[1], [0]])), 2).sparse
    for frame in range(2):
        alone = encoder(PromptBatch(points[frame, None], torch.tensor([[1 - frame]])), 1)
        close(sparse[frame], alone.sparse[0])


def test_masks_are_reduced_to_the_grid(encoder):
    masks = torch.randn(2, 1, 12, 20)
    dense = encoder(batch(masks=masks), 2).dense
    close(dense, encoder.mask_downscaling(masks))
    assert dense.shape == (2, DIM, *GRID)


def test_dense_positions_are_the_centres_of_the_patches(encoder):
    pe = encoder.dense_pe()
    assert pe.shape == (1, DIM, *GRID)
    for row, column in ((0, 0), (2, 4), (1, 3)):
        close(pe[0, :, row, column], placed(encoder, 8 * column + 3.5, 8 * row + 3.5))


def test_positions_are_exact_under_autocast(encoder):
    prompts = batch([(3, 7)], [1], [(1, 2, 30, 20)])
    expected = encoder(prompts, 2).sparse
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoder(prompts, 2).sparse, expected)


def test_low_precision_is_finite(encoder):
    encoded = encoder.bfloat16()(batch([(3, 7)], [1]), 2)
    assert encoded.sparse.dtype == encoded.dense.dtype == torch.bfloat16
    assert encoded.sparse.isfinite().all()


def test_the_whole_graph_is_captured(encoder):
    prompts = batch([(3, 7)], [1], [(1, 2, 30, 20)])
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")
    close(compiled(prompts, 2).sparse, encoder(prompts, 2).sparse)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"points": torch.zeros(2, 3, 3)}, "points are frames × n × 2"),
        ({"point_labels": torch.zeros(2, 2, dtype=torch.int64)}, "point_labels frames × n"),
        ({"point_labels": torch.full((2, 3), 2)}, r"-1, 0 or 1, but \[2\] came"),
        ({"boxes": torch.zeros(2, 4)}, "boxes are 2 frames × m × 4"),
        ({"boxes": torch.zeros(1, 1, 4)}, "boxes are 2 frames × m × 4"),
        ({"masks": torch.zeros(2, 12, 20)}, "masks are 2 frames × 1"),
    ],
)
def test_prompts_of_wrong_shape_are_refused(fields, message):
    good = {"points": torch.zeros(2, 3, 2), "point_labels": torch.zeros(2, 3, dtype=torch.int64)}
    with pytest.raises(InputError, match=message):
        PromptBatch(**(good | fields))


def test_prompts_must_be_for_these_frames_and_masks_of_this_size(encoder):
    with pytest.raises(InputError, match="for 3 frames were expected, but 2 came"):
        encoder(batch(), 3)
    with pytest.raises(InputError, match="mask prompts are 12 × 20"):
        encoder(batch(masks=torch.zeros(2, 1, 20, 12)), 2)
