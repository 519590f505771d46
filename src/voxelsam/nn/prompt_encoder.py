"""SAM's prompt encoder: points, boxes and masks in model pixels to tokens and maps.

Convention: attribute names are Meta's parameter names. Points are (x, y), x along the width, in pixels of the model's
input; 0 is the centre of the first pixel (Meta's +0.5). One prompt set per frame. What a frame lacks is filled up with
points of label -1.
"""

import math
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from voxelsam.errors import InputError
from voxelsam.nn.layers import LayerNorm2d

PADDING, BACKGROUND, OBJECT = -1, 0, 1
"""Labels of points."""


@dataclass(eq=False)
class PromptBatch:
    """Prompts of a batch of frames, in model pixels, (x, y).

    Raises:
        InputError: shapes do not agree, or a label is none of -1, 0, 1.
    """

    points: Float[Tensor, "frames n 2"]
    """Positions; n may be 0."""
    point_labels: Int[Tensor, "frames n"]
    """1 on the object, 0 on the background, -1 filling."""
    boxes: Float[Tensor, "frames m 4"] | None = None
    """x0 y0 x1 y1."""
    masks: Float[Tensor, "frames 1 height width"] | None = None
    """Logits of an earlier round, at four values per token along each axis."""

    def __post_init__(self) -> None:
        frames = self.points.shape[0]
        if not self.point_labels.is_meta and bool((self.point_labels.abs() > 1).any()):
            raise InputError(
                f"labels of points are -1, 0 or 1, but {sorted(set(self.point_labels.flatten().tolist()))} came"
            )
        if self.points.ndim != 3 or self.points.shape[-1] != 2 or self.point_labels.shape != self.points.shape[:2]:
            raise InputError(
                "points are frames × n × 2 and point_labels frames × n, but "
                f"{tuple(self.points.shape)} and {tuple(self.point_labels.shape)} came"
            )
        if self.boxes is not None and (self.boxes.ndim != 3 or self.boxes.shape[::2] != (frames, 4)):
            raise InputError(f"boxes are {frames} frames × m × 4, but {tuple(self.boxes.shape)} came")
        if self.masks is not None and (self.masks.ndim != 4 or self.masks.shape[:2] != (frames, 1)):
            raise InputError(f"masks are {frames} frames × 1 × height × width, but {tuple(self.masks.shape)} came")


@dataclass(eq=False)
class EncodedPrompts:
    """Prompts as the decoder takes them."""

    sparse: Float[Tensor, "frames n channels"]
    """Tokens of points and of corners of boxes; n may be 0."""
    real: Bool[Tensor, "frames n"]
    """False for tokens that only fill up."""
    dense: Float[Tensor, "frames channels height width"]
    """Maps of masks, added to the features."""


class PositionEncoding(nn.Module):
    """Random Fourier features of positions in the unit square."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, dim // 2))

    def forward(self, points: Float[Tensor, "*shape 2"]) -> Float[Tensor, "*shape channels"]:
        """Sines, then cosines, of points (x, y) in 0..1.

        Products and sums instead of a matrix product, and single precision: autocast would round the phases, which
        reach tens of turns, to a few percent of a turn.
        """
        matrix = self.positional_encoding_gaussian_matrix
        x, y = (2 * points.float() - 1).unbind(-1)
        phase = 2 * math.pi * (x[..., None] * matrix[0].float() + y[..., None] * matrix[1].float())
        return torch.cat((phase.sin(), phase.cos()), dim=-1).to(matrix.dtype)


class PromptEncoder(nn.Module):
    """Prompts to sparse tokens and dense maps.

    Args:
        dim: Channels of tokens and maps.
        grid: Tokens of the image encoder along height and width.
        image_size: Pixels (height, width) of the model's input.
        mask_channels: Inner width of the mask branch.
    """

    def __init__(self, dim: int, grid: tuple[int, int], image_size: tuple[int, int], mask_channels: int = 16) -> None:
        super().__init__()
        self.dim, self.grid, self.image_size = dim, grid, image_size
        self.pe_layer = PositionEncoding(dim)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, dim) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_channels // 4, kernel_size=2, stride=2),
            LayerNorm2d(mask_channels // 4),
            nn.GELU(),
            nn.Conv2d(mask_channels // 4, mask_channels, kernel_size=2, stride=2),
            LayerNorm2d(mask_channels),
            nn.GELU(),
            nn.Conv2d(mask_channels, dim, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, dim)

    def forward(self, prompts: PromptBatch | None, frames: int) -> EncodedPrompts:
        """Tokens of points and boxes, and the map of masks.

        Args:
            prompts: None is the same as an empty batch.
            frames: Number of frames.

        Returns:
            Tokens: the points, one filling point when there are points but no boxes (Meta's rule), two corners per
            box; without points and boxes n is 0. Maps: from the masks, or one constant vector.

        Raises:
            InputError: the prompts are for another number of frames, or the masks have another size.
        """
        if prompts is None:
            nothing = self.no_mask_embed.weight.new_zeros(frames, 0, self.dim)
            return EncodedPrompts(nothing, nothing.new_zeros(frames, 0, dtype=torch.bool), self._no_masks(frames))
        if prompts.points.shape[0] != frames:
            raise InputError(f"prompts for {frames} frames were expected, but {prompts.points.shape[0]} came")
        boxes = prompts.boxes if prompts.boxes is not None and prompts.boxes.shape[1] else None
        sparse, real = self._points(prompts.points, prompts.point_labels, fill=boxes is None)
        if boxes is not None:
            corners = self._boxes(boxes)
            sparse = torch.cat((sparse, corners), dim=1)
            real = torch.cat((real, real.new_ones(corners.shape[:2])), dim=1)
        return EncodedPrompts(
            sparse, real, self._no_masks(frames) if prompts.masks is None else self._masks(prompts.masks)
        )

    def dense_pe(self) -> Float[Tensor, "one channels height width"]:
        """Position of the centre of every token."""
        height, width = self.grid
        device = self.pe_layer.positional_encoding_gaussian_matrix.device
        y = (torch.arange(height, device=device) + 0.5) / height
        x = (torch.arange(width, device=device) + 0.5) / width
        points = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        placed: Tensor = self.pe_layer(points)
        return rearrange(placed, "h w channels -> 1 channels h w")

    def _kinds(self) -> Float[Tensor, "4 channels"]:
        """Vectors of a point on the background, a point on the object, the first and the second corner of a box."""
        return torch.cat([embedding.get_parameter("weight") for embedding in self.point_embeddings])

    def _place(self, points: Float[Tensor, "*shape 2"]) -> Float[Tensor, "*shape channels"]:
        height, width = self.image_size
        placed: Tensor = self.pe_layer((points.float() + 0.5) / points.new_tensor((width, height), dtype=torch.float32))
        return placed

    def _points(
        self, points: Float[Tensor, "frames n 2"], labels: Int[Tensor, "frames n"], *, fill: bool
    ) -> tuple[Float[Tensor, "frames tokens channels"], Bool[Tensor, "frames tokens"]]:
        if fill and points.shape[1]:
            points = torch.cat((points, points.new_zeros(points.shape[0], 1, 2)), dim=1)
            labels = torch.cat((labels, labels.new_full((labels.shape[0], 1), PADDING)), dim=1)
        background, foreground, _, _ = self._kinds()
        placed = self._place(points) + torch.where((labels == OBJECT)[..., None], foreground, background)
        real = labels != PADDING
        return torch.where(real[..., None], placed, self.not_a_point_embed.weight), real

    def _boxes(self, boxes: Float[Tensor, "frames m 4"]) -> Float[Tensor, "frames corners channels"]:
        corners = self._place(rearrange(boxes, "frames m (corner xy) -> frames m corner xy", corner=2))
        return rearrange(corners + self._kinds()[2:], "frames m corner channels -> frames (m corner) channels")

    def _masks(self, masks: Float[Tensor, "frames 1 y x"]) -> Float[Tensor, "frames channels height width"]:
        expected = (4 * self.grid[0], 4 * self.grid[1])
        if tuple(masks.shape[-2:]) != expected:
            raise InputError(f"mask prompts are {expected[0]} × {expected[1]}, but {tuple(masks.shape[-2:])} came")
        dense: Tensor = self.mask_downscaling(masks)
        return dense

    def _no_masks(self, frames: int) -> Float[Tensor, "frames channels height width"]:
        height, width = self.grid
        return repeat(self.no_mask_embed.weight, "1 channels -> frames channels h w", frames=frames, h=height, w=width)
