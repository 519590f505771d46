"""What the official codes of MA-SAM and Med-SA compute, written down plainly: the yardstick of the benchmarks.

It is written from the papers and from descriptions of the released codes (which steps, in which order, with which
buffers), and it is as slow as they are, on purpose: attention with all logits and the whole position bias, windows
filled up and computed with, FacT beside the weights, a batch of one stack, stride 1, two soft-maxes, buffers for the
probabilities and the counts of the whole volume, resizes to the size that is there already. It uses nothing of
voxelsam's networks, so that it stays as it is while they change; it takes their weights, by the names in which bundles
and checkpoints store them. ``tests/benchmarks`` holds it equal to voxelsam.

Tensors are ``frames height width channels`` in the encoder, frames = batch × depth with depth varying fastest.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from voxelsam.model import Segmenter

FACT_SCALE, BESIDE = 1.0, 0.5
"""Factor of MA-SAM's FacT increments, and of Med-SA's adapter beside the MLP; fixed in the released codes."""

MEAN, STD = 50.21997, 68.47154
"""Grey values of BTCV in MA-SAM's loader; the stretch to 0…1 that follows takes them out again."""


@dataclass(frozen=True, eq=False)
class Network:
    """An adapted SAM as plain tensors, in float32.

    Attributes:
        tensors: ``image_encoder.``, ``prompt_encoder.`` and ``decoder.`` under Meta's names, ``encoder.`` the method.
        heads: attention heads of the image encoder.
        windows: tokens per side of the windows of each block, 0 for global attention.
        pixels: mean and standard deviation of the three input channels.
        foreground: structures, where the background is the constant logit 0; 0 where it has a channel of its own.
        dropout: of FacT, in training.
    """

    tensors: dict[str, Tensor]
    heads: int
    windows: tuple[int, ...]
    pixels: tuple[Tensor, Tensor]
    size: tuple[int, int]
    foreground: int = 0
    dropout: float = 0.0

    @classmethod
    def of(cls, segmenter: Segmenter) -> "Network":
        """A copy of the weights of a segmenter that was not prepared for prediction; what it trains, is trained."""
        given, own = segmenter.backbone, segmenter.adaptation
        parts = {
            "image_encoder": segmenter.image_encoder,
            "prompt_encoder": own.prompt_encoder or given.prompt_encoder,
            "encoder": own.encoder,
            "decoder": own.decoder,
        }
        trained = {id(parameter) for parameter in own.parameters() if parameter.requires_grad}
        tensors = {
            f"{part}.{name}": tensor.detach().clone().requires_grad_(id(tensor) in trained)
            for part, module in parts.items()
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]
        }
        blocks = given.image_encoder.blocks_spec
        return cls(
            tensors,
            blocks[0].heads,
            tuple(block.window for block in blocks),
            (segmenter.mean.clone(), segmenter.std.clone()),
            given.image_size,
            own.decoder.classes - 1 if hasattr(own.decoder, "classes") else 0,
        )

    def to(self, device: str | torch.device) -> "Network":
        """The same on another device."""
        moved = {
            name: tensor.detach().to(device).requires_grad_(tensor.requires_grad)
            for name, tensor in self.tensors.items()
        }
        mean, std = self.pixels
        pixels = mean.to(device), std.to(device)
        return Network(moved, self.heads, self.windows, pixels, self.size, self.foreground, self.dropout)

    def trained(self) -> dict[str, Tensor]:
        """The tensors that training changes."""
        return {name: tensor for name, tensor in self.tensors.items() if tensor.requires_grad}

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.tensors[f"{name}.weight"], self.tensors.get(f"{name}.bias"))

    def norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        weight = self.tensors[f"{name}.weight"]
        return F.layer_norm(x, weight.shape, weight, self.tensors[f"{name}.bias"], eps)

    def norm_map(self, name: str, x: Tensor) -> Tensor:
        """Layer norm over the channels of a map, step by step."""
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        return self.tensors[f"{name}.weight"][:, None, None] * x + self.tensors[f"{name}.bias"][:, None, None]

    def mlp(self, name: str, x: Tensor, activation=F.gelu) -> Tensor:
        return self.linear(f"{name}.lin2", activation(self.linear(f"{name}.lin1", x)))

    def encode(self, images: Tensor) -> Tensor:
        """Features "frames channels h w" of stacks "batch depth 3 height width" with values from 0 to 1."""
        depth = images.shape[1]
        x = (images.flatten(0, 1) - self.pixels[0]) / self.pixels[1]
        weight = self.tensors["image_encoder.patch_embed.proj.weight"]
        x = F.conv2d(x, weight, self.tensors["image_encoder.patch_embed.proj.bias"], stride=weight.shape[-1])
        x = x.permute(0, 2, 3, 1) + self.tensors["image_encoder.pos_embed"]
        block = self.block_med_sa if "encoder.space_adapters.0.down.weight" in self.tensors else self.block
        for index, window in enumerate(self.windows):
            x = block(index, x, window, depth)
        x = F.conv2d(x.permute(0, 3, 1, 2), self.tensors["image_encoder.neck.0.weight"])
        x = self.norm_map("image_encoder.neck.1", x)
        x = F.conv2d(x, self.tensors["image_encoder.neck.2.weight"], padding=1)
        return self.norm_map("image_encoder.neck.3", x)

    def block(self, index: int, x: Tensor, window: int, depth: int) -> Tensor:
        """A block of SAM, with MA-SAM's two adapters where there are any."""
        name = f"image_encoder.blocks.{index}"
        x = self.depth_adapter(f"encoder.before_attention_adapters.{index}", x, depth)
        shortcut = x
        x = self.norm(f"{name}.norm1", x, 1e-6)
        grid = x.shape[1:3]
        if window:
            x = cut(x, window)
        x = self.attention(index, x)
        if window:
            x = joined(x, window, grid)
        x = shortcut + x
        x = self.depth_adapter(f"encoder.before_mlp_adapters.{index}", x, depth)
        return x + self.mlp(f"{name}.mlp", self.norm(f"{name}.norm2", x, 1e-6))

    def block_med_sa(self, index: int, x: Tensor, window: int, depth: int) -> Tensor:
        """A block of the released Med-SA: windows are filled up before the norm, and depth runs over windows."""
        name = f"image_encoder.blocks.{index}"
        shortcut, grid = x, x.shape[1:3]
        if window:
            x = cut(x, window)
        y = self.attention(index, self.norm(f"{name}.norm1", x, 1e-6))
        y = y + self.bottleneck(f"encoder.space_adapters.{index}", y)
        if depth > 1:
            rows, columns = closest_numbers(depth)
            height, width = x.shape[1:3]
            lines = x.view(-1, depth, height, width, x.shape[-1]).permute(0, 2, 3, 1, 4)
            lines = self.norm(f"{name}.norm1", lines.reshape(-1, rows, columns, x.shape[-1]), 1e-6)
            lines = self.bottleneck(f"encoder.depth_adapters.{index}", self.attention(index, lines))
            lines = lines.view(-1, height, width, depth, x.shape[-1]).permute(0, 3, 1, 2, 4)
            y = y + lines.reshape(-1, height, width, x.shape[-1])
        if window:
            y = joined(y, window, grid)
        x = shortcut + y
        normed = self.norm(f"{name}.norm2", x, 1e-6)
        beside = BESIDE * self.bottleneck(f"encoder.mlp_adapters.{index}", normed)
        return x + self.mlp(f"{name}.mlp", normed) + beside

    def attention(self, index: int, x: Tensor) -> Tensor:
        """All logits at once, and a position bias as large as they."""
        name = f"image_encoder.blocks.{index}.attn"
        frames, height, width, dim = x.shape
        qkv = self.linear(f"{name}.qkv", x)
        if "encoder.fact.down.weight" in self.tensors:
            qkv = self.fact(index, x, qkv)
        qkv = qkv.reshape(frames, height * width, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.reshape(3, frames * self.heads, height * width, -1).unbind(0)
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        down = looked_up(self.tensors[f"{name}.rel_pos_h"], height)
        across = looked_up(self.tensors[f"{name}.rel_pos_w"], width)
        at = q.reshape(frames * self.heads, height, width, -1)
        rows, columns = torch.einsum("bhwc,hkc->bhwk", at, down), torch.einsum("bhwc,wkc->bhwk", at, across)
        logits = logits.view(-1, height, width, height, width) + rows[..., None] + columns[..., None, :]
        out = logits.view(-1, height * width, height * width).softmax(dim=-1) @ v
        out = out.view(frames, self.heads, height, width, -1).permute(0, 2, 3, 1, 4)
        return self.linear(f"{name}.proj", out.reshape(frames, height, width, dim))

    def fact(self, index: int, x: Tensor, qkv: Tensor) -> Tensor:
        """MA-SAM's increments of queries and values; U is applied twice to the same tokens."""
        dim = x.shape[-1]
        query = self.linear(f"encoder.fact.query.{index}", self.linear("encoder.fact.down", x))
        value = self.linear(f"encoder.fact.value.{index}", self.linear("encoder.fact.down", x))
        query, value = (F.dropout(one, self.dropout, training=self.dropout > 0) for one in (query, value))
        qkv[..., :dim] += self.linear("encoder.fact.up", query) * FACT_SCALE
        qkv[..., -dim:] += self.linear("encoder.fact.up", value) * FACT_SCALE
        return qkv

    def depth_adapter(self, name: str, x: Tensor, depth: int) -> Tensor:
        """MA-SAM's adapter, its convolution along the depth on channels-first data; nothing without one."""
        if f"{name}.down.weight" not in self.tensors:
            return x
        narrow = self.linear(f"{name}.down", self.norm(f"{name}.norm", x, 1e-6))
        frames, height, width, channels = narrow.shape
        narrow = narrow.view(frames // depth, depth, height, width, channels).permute(0, 4, 1, 2, 3)
        kernel, bias = self.tensors[f"{name}.conv.weight"], self.tensors[f"{name}.conv.bias"]
        mixed = F.gelu(F.conv3d(narrow, kernel, bias, padding="same"))
        mixed = mixed.permute(0, 2, 3, 4, 1).reshape(frames, height, width, channels)
        return x + self.linear(f"{name}.up", mixed)

    def bottleneck(self, name: str, x: Tensor) -> Tensor:
        """Med-SA's adapter without its skip."""
        return self.linear(f"{name}.up", F.gelu(self.linear(f"{name}.down", x)))

    def decode(self, features: Tensor, clicks: Tensor | None = None) -> Tensor:
        """Logits "frames classes height width" at the size of the input.

        Args:
            features: of the image encoder.
            clicks: one point on the object per frame, "frames 2", (x, y) in pixels; None: no prompt, and one set of
                tokens for all frames.
        """
        grid = features.shape[-2:]
        own = [self.tensors[f"decoder.{name}.weight"] for name in ("iou_token", "mask_tokens")]
        own += [self.tensors["decoder.companions.weight"]] if "decoder.companions.weight" in self.tensors else []
        tokens = torch.cat(own)[None]
        if clicks is not None:
            tokens = torch.cat((tokens.expand(len(features), -1, -1), self.point(clicks)), dim=1)
        no_mask = self.tensors["prompt_encoder.no_mask_embed.weight"].reshape(1, -1, 1, 1)
        image = (features + no_mask.expand(len(features), -1, *grid)).flatten(2).permute(0, 2, 1)
        tokens, image = self.two_way(tokens, image, self.dense_positions(grid))
        up = image.transpose(1, 2).view(len(features), -1, *grid)
        up = self.upscaled(up)
        heads = range(len(self.tensors["decoder.mask_tokens.weight"]))
        mixing = torch.stack([self.hypernetwork(head, tokens[:, 1 + head]) for head in heads], dim=1)
        masks = (mixing @ up.flatten(2)).view(len(features), -1, *up.shape[-2:])
        if self.foreground:
            masks = F.pad(masks[:, : self.foreground], (0, 0, 0, 0, 1, 0))
        masks = F.interpolate(masks, self.size, mode="bilinear", align_corners=False)
        return F.interpolate(masks, self.size, mode="bilinear", align_corners=False)

    def positions(self, points: Tensor) -> Tensor:
        """Random Fourier features of points in the unit square."""
        points = (2 * points - 1) @ self.tensors["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"]
        points = 2 * math.pi * points
        return torch.cat((points.sin(), points.cos()), dim=-1)

    def dense_positions(self, grid: torch.Size) -> Tensor:
        ones = torch.ones(tuple(grid), device=self.pixels[0].device)
        y, x = (ones.cumsum(0) - 0.5) / grid[0], (ones.cumsum(1) - 0.5) / grid[1]
        return self.positions(torch.stack((x, y), dim=-1)).flatten(0, 1)[None]

    def point(self, clicks: Tensor) -> Tensor:
        """The click's token and the one that fills up."""
        size = clicks.new_tensor(self.size[::-1])
        placed = self.positions((clicks + 0.5) / size) + self.tensors["prompt_encoder.point_embeddings.1.weight"]
        filling = self.tensors["prompt_encoder.not_a_point_embed.weight"].expand(len(clicks), -1)
        return torch.stack((placed, filling), dim=1)

    def two_way(self, tokens: Tensor, image: Tensor, image_pe: Tensor) -> tuple[Tensor, Tensor]:
        token_pe, name = tokens, "decoder.transformer"
        layers = 1 + max(int(key.split(".")[3]) for key in self.tensors if key.startswith(f"{name}.layers."))
        for index in range(layers):
            layer = f"{name}.layers.{index}"
            if index == 0:
                tokens = self.look(f"{layer}.self_attn", tokens, tokens, tokens)
            else:
                placed = tokens + token_pe
                tokens = tokens + self.look(f"{layer}.self_attn", placed, placed, tokens)
            tokens = self.norm(f"{layer}.norm1", tokens, 1e-5)
            seen = self.look(f"{layer}.cross_attn_token_to_image", tokens + token_pe, image + image_pe, image)
            tokens = self.norm(f"{layer}.norm2", tokens + seen, 1e-5)
            tokens = self.norm(f"{layer}.norm3", tokens + self.mlp(f"{layer}.mlp", tokens, F.relu), 1e-5)
            seen = self.look(f"{layer}.cross_attn_image_to_token", image + image_pe, tokens + token_pe, tokens)
            image = self.norm(f"{layer}.norm4", image + seen, 1e-5)
        tokens = tokens + self.look(f"{name}.final_attn_token_to_image", tokens + token_pe, image + image_pe, image)
        return self.norm(f"{name}.norm_final_attn", tokens, 1e-5), image

    def look(self, name: str, q: Tensor, k: Tensor, v: Tensor, heads: int = 8) -> Tensor:
        """Attention of the decoder."""
        q, k, v = (
            self.linear(f"{name}.{kind}_proj", x).unflatten(-1, (heads, -1)).transpose(1, 2)
            for kind, x in (("q", q), ("k", k), ("v", v))
        )
        weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-1)
        return self.linear(f"{name}.out_proj", (weights @ v).transpose(1, 2).flatten(2))

    def upscaled(self, x: Tensor) -> Tensor:
        """Transposed convolutions, a norm and GELU after each; after the last GELU only."""
        name = "decoder.output_upscaling"
        places = sorted({int(key.split(".")[2]) for key in self.tensors if key.startswith(f"{name}.")})
        for place in places:
            weight, bias = self.tensors[f"{name}.{place}.weight"], self.tensors[f"{name}.{place}.bias"]
            if weight.ndim == 1:
                x = F.gelu(self.norm_map(f"{name}.{place}", x))
            else:
                x = F.conv_transpose2d(x, weight, bias, stride=2)
                x = x if place + 1 in places else F.gelu(x)
        return x

    def hypernetwork(self, head: int, token: Tensor) -> Tensor:
        name = f"decoder.output_hypernetworks_mlps.{head}.layers"
        hidden = F.relu(self.linear(f"{name}.1", F.relu(self.linear(f"{name}.0", token))))
        return self.linear(f"{name}.2", hidden)


def cut(x: Tensor, window: int) -> Tensor:
    """Windows of tokens, filled up with zeros at the bottom and at the right."""
    frames, height, width, channels = x.shape
    x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
    x = x.view(frames, x.shape[1] // window, window, x.shape[2] // window, window, channels)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, window, window, channels)


def joined(windows: Tensor, window: int, grid: torch.Size) -> Tensor:
    """The grid of tokens again, without what was filled in."""
    height, width = grid
    rows, columns = -(-height // window), -(-width // window)
    x = windows.view(-1, rows, columns, window, window, windows.shape[-1]).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, rows * window, columns * window, windows.shape[-1])[:, :height, :width].contiguous()


def looked_up(table: Tensor, size: int) -> Tensor:
    """A relative-position table by pairs of positions, made anew in every block and pass, stretched if need be."""
    rows = 2 * size - 1
    if len(table) != rows:
        table = F.interpolate(table.T[None], rows, mode="linear")[0].T
    query, key = torch.arange(size)[:, None], torch.arange(size)[None]
    return table[((query - key) + (size - 1)).to(table.device)]


def closest_numbers(number: int) -> tuple[int, int]:
    """(a, b) with a · b = number and a < b, a as large as that allows."""
    a = max(a for a in range(1, number) if number % a == 0 and a * a < number)
    return a, number // a


@torch.no_grad()
def predict(network: Network, values: np.ndarray, low: float, high: float, depth: int = 5) -> np.ndarray:
    """MA-SAM's inference on a volume: stride 1, one stack after the other, every one of its slices is counted.

    Args:
        network: MA-SAM.
        values: grey values, "slices height width", of the size that the network was made for.
        low: becomes 0.
        high: becomes 1.
        depth: slices of a stack, odd.

    Returns:
        Classes, "slices height width".
    """
    device = network.pixels[0].device
    ends, slices = depth // 2, len(values)
    padded = np.concatenate([values[:1]] * ends + [values] + [values[-1:]] * ends)
    classes = len(network.tensors["decoder.mask_tokens.weight"])
    probabilities = np.zeros((len(padded), *values.shape[1:], classes), np.float32)
    counts = np.ones((len(padded), *values.shape[1:], classes), np.float32)
    for first in range(slices):
        stack = np.clip(padded[first : first + depth].astype(np.float64), low, high)
        stack = ((stack - low) / (high - low) * 255 - MEAN) / STD
        stack = (stack - stack.min()) / (stack.max() - stack.min())
        image = torch.from_numpy(stack.astype(np.float32))[:, None].repeat(1, 3, 1, 1)[None].to(device)
        scores = network.decode(network.encode(image)).softmax(dim=1)
        scores.softmax(dim=1).argmax(dim=1)
        probabilities[first : first + depth] += scores.cpu().permute(0, 2, 3, 1).numpy()
        counts[first : first + depth] += 1
    return (probabilities / counts).argmax(axis=-1)[ends : ends + slices].astype(np.uint8)


def ma_sam_loss(logits: Tensor, target: Tensor) -> Tensor:
    """``0.2 · cross-entropy + 0.8 · Dice``, the Dice class by class, background included."""
    cross_entropy = F.cross_entropy(logits, target)
    probabilities, terms = logits.softmax(dim=1), []
    for number in range(logits.shape[1]):
        p, y = probabilities[:, number], (target == number).float()
        terms.append(1 - (2 * (p * y).sum() + 1e-5) / ((p * p).sum() + (y * y).sum() + 1e-5))
        terms[-1].item()  # each class is read back, which waits for a GPU
    return 0.2 * cross_entropy + 0.8 * sum(terms) / len(terms)


def ma_sam_step(
    network: Network,
    optimiser: torch.optim.Optimizer,
    images: Tensor,
    target: Tensor,
    half: torch.dtype | None = None,
) -> Tensor:
    """A training step of MA-SAM.

    Args:
        network: MA-SAM.
        optimiser: of ``network.trained()``.
        images: stacks "batch depth 3 height width".
        target: classes "frames height width".
        half: of autocast; None computes in float32.
    """
    with torch.autocast(images.device.type, half, enabled=half is not None):
        logits = network.decode(network.encode(images))
    return _descended(optimiser, ma_sam_loss(logits.float(), target))


def med_sa_step(
    network: Network, optimiser: torch.optim.Optimizer, images: Tensor, clicks: Tensor, target: Tensor
) -> Tensor:
    """A training step of Med-SA on pictures, each with one click.

    Args:
        network: Med-SA with one structure.
        optimiser: of ``network.trained()``.
        images: "batch 1 3 height width".
        clicks: a point on the object of each picture, "batch 2", (x, y) in pixels.
        target: 1 on the object, "batch height width".
    """
    logits = network.decode(network.encode(images), clicks)[:, 1]
    weight = logits.new_tensor(2.0)
    return _descended(optimiser, F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight))


def _descended(optimiser: torch.optim.Optimizer, loss: Tensor) -> Tensor:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.detach()
