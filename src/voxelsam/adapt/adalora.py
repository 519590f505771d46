"""AdaLoRA (arXiv 2303.10512) on the linear layers of every block, and a trained decoder.

The fused projection and both layers of the MLP of a block have weights W + alpha·B·diag(E)·A / (n + 1e-5). B has
``rank`` columns, A as many rows, and n of the ``rank`` values in E are in use. E starts at zero. A triplet is a value
with its row and column.

Of all triplets of the encoder together, the important ones keep their values and the others lose them; the number
that is kept falls from ``rank`` to ``target`` per matrix. First all are kept (warm-up), then ever fewer are chosen
every ``interval`` steps, and what loses its value may win it back until the next choice, and at last the choice stays
as it is (final phase). Steps are those of the optimiser, over the whole run. Importance of a number w is the product
of the sensitivity |w · gradient| and of its uncertainty, both smoothed over the steps; that of a triplet is the sum of
its value's, the mean of its row's and the mean of its column's.

The division by n and the matrices are those of the code of Med-SA (arXiv 2304.12620, ``sam_adalora``), which forgets
its smoothed values with every batch. The decoder is that of ``lora``. Slices are seen one by one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from voxelsam.adapt import Adaptation
from voxelsam.adapt._decoders import full_size, prompt_free
from voxelsam.adapt._linear import Layer, fold, sizes, two_layers
from voxelsam.config import STRICT
from voxelsam.nn.backbone import Backbone
from voxelsam.nn.seam import EncoderAdaptation, Meeting, Projected, Stack, Tokens
from voxelsam.nn.vit import SamEncoder

LAYERS: tuple[Layer, ...] = ("qkv", "lin1", "lin2")
DEVIATION = 0.02
"""Of the normal distribution that A and B start from."""
SPARE = 1e-5
"""Added to the number of values in use, which may be zero."""


@dataclass(frozen=True)
class Config:
    """What can be chosen about AdaLoRA."""

    __pydantic_config__ = STRICT

    rank: int = 6
    """Triplets of each matrix at the start."""
    target: int = 4
    """Triplets per matrix that are kept in the end, on average over the matrices."""
    alpha: float = 1.0
    """Factor of the increments."""
    warmup: float = 0.1
    """Share of the steps before the first choice."""
    final: float = 0.3
    """Share of the steps after the last choice."""
    interval: int = 10
    """Steps from one choice to the next."""
    smoothing: float = 0.85
    """How much of the sensitivity stays from one step to the next, 0 to 1."""
    uncertainty: float = 0.85
    """The same for its uncertainty."""
    orthogonality: float = 0.1
    """Weight of the loss that keeps rows of A, and columns of B, orthonormal."""

    def __post_init__(self) -> None:
        if not 1 <= self.target <= self.rank:
            raise ValueError(f"target is between 1 and rank, but target={self.target} and rank={self.rank} came")
        if self.interval < 1:
            raise ValueError(f"interval is at least 1 step, but {self.interval} came")
        if not (self.warmup >= 0 and self.final >= 0 and self.warmup + self.final < 1):
            raise ValueError(
                f"warmup and final are shares of the run that leave some of it, "
                f"but warmup={self.warmup} and final={self.final} came"
            )
        for name in ("smoothing", "uncertainty"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 0 and below 1, but {getattr(self, name)} came")
        if not self.orthogonality >= 0:
            raise ValueError(f"orthogonality is a weight from 0 on, but {self.orthogonality} came")


class Triplets(nn.Module):
    """The increment of one layer in each block.

    Args:
        sizes: Columns and rows of the layer's weight, for each block.
        rank: Triplets.
    """

    kept: Bool[Tensor, "blocks rank"]
    """Which values are in use."""

    def __init__(self, sizes: list[tuple[int, int]], rank: int) -> None:
        super().__init__()
        self.a = nn.ParameterList(DEVIATION * torch.randn(rank, columns) for columns, _ in sizes)
        self.e = nn.ParameterList(torch.zeros(rank) for _ in sizes)
        self.b = nn.ParameterList(DEVIATION * torch.randn(rows, rank) for _, rows in sizes)
        self.register_buffer("kept", torch.ones(len(sizes), rank, dtype=torch.bool))

    def forward(self, block: int, x: Float[Tensor, "*tokens columns"]) -> Float[Tensor, "*tokens rows"]:
        """The increment for what the layer sees."""
        increment = F.linear(F.linear(x, self.a[block]) * self.e[block], self.b[block])
        return increment / self._divisor(block)

    def matrix(self, block: int) -> Float[Tensor, "rows columns"]:
        """The same as a matrix on column vectors, in double precision."""
        a, e, b = (self.get_parameter(f"{name}.{block}").double() for name in ("a", "e", "b"))
        return (b * e) @ a / self._divisor(block).double()

    def skew(self) -> Float[Tensor, " factors"]:
        """How far the rows of each A, then the columns of each B, are from orthonormal: norm of A·Aᵀ - 1."""
        one = torch.eye(self.kept.shape[1], device=self.kept.device)
        products = [a @ a.T for a in self.a] + [b.T @ b for b in self.b]
        skew: Tensor = torch.linalg.matrix_norm(torch.stack(products) - one)
        return skew

    def _divisor(self, block: int) -> Float[Tensor, ""]:
        return self.kept[block].sum() + SPARE


class Allocator:
    """Chooses the triplets that keep their values, over all layers and blocks.

    Args:
        config: The schedule.
        layers: Triplets of every layer.
    """

    def __init__(self, config: Config, layers: Mapping[Layer, Triplets]) -> None:
        self.config = config
        self.layers = layers
        self.smoothed: dict[str, Tensor] = {}
        """Sensitivity (``….mean``) and uncertainty (``….spread``) of every number."""

    def after_step(self, step: int, steps: int) -> None:
        """Smooths, and chooses where the schedule says so; in the final phase only keeps to the last choice."""
        first, last = self._bounds(steps)
        if step <= last:
            self._smooth()
        if step == last or (first < step < last and (step - first) % self.config.interval == 0):
            self._choose(self.budget(step, steps))
        elif step > last:
            self._apply()

    def budget(self, step: int, steps: int) -> int:
        """How many triplets of the encoder have values after so many of all steps; falls with the third power."""
        matrices = sum(len(triplets.kept) for triplets in self.layers.values())
        most, least = self.config.rank * matrices, self.config.target * matrices
        first, last = self._bounds(steps)
        if step >= last:
            return least
        if step <= first:
            return most
        return least + int((most - least) * (1 - (step - first) / (last - first)) ** 3)

    def scores(self) -> dict[Layer, Float[Tensor, "blocks rank"]]:
        """Importance of every triplet, for each layer."""
        return {
            layer: torch.stack(
                [
                    self._importance(f"{layer}.e.{block}")
                    + self._importance(f"{layer}.a.{block}").mean(dim=1)
                    + self._importance(f"{layer}.b.{block}").mean(dim=0)
                    for block in range(len(triplets.kept))
                ]
            )
            for layer, triplets in self.layers.items()
        }

    def _bounds(self, steps: int) -> tuple[int, int]:
        """The last step of the warm-up, and the step of the last choice."""
        return round(self.config.warmup * steps), max(1, steps - round(self.config.final * steps))

    def _importance(self, name: str) -> Tensor:
        return self.smoothed[f"{name}.mean"] * self.smoothed[f"{name}.spread"]

    @torch.no_grad()
    def _smooth(self) -> None:
        for layer, triplets in self.layers.items():
            for name, parameter in triplets.named_parameters(prefix=layer):
                if parameter.grad is None:
                    continue
                gradient = parameter.grad.nan_to_num(0.0, 0.0, 0.0)  # in half precision, of a step that was left out
                sensitivity = (parameter * gradient).abs()
                mean = self._mixed(f"{name}.mean", sensitivity, self.config.smoothing)
                self._mixed(f"{name}.spread", (sensitivity - mean).abs(), self.config.uncertainty)

    def _mixed(self, name: str, new: Tensor, keep: float) -> Tensor:
        """The smoothed value after a new one; it starts at zero."""
        old = self.smoothed.get(name)
        self.smoothed[name] = (1 - keep) * new if old is None else keep * old.to(new) + (1 - keep) * new
        return self.smoothed[name]

    def _choose(self, number: int) -> None:
        scores = self.scores()
        flat = torch.cat([score.flatten() for score in scores.values()])
        chosen = torch.zeros_like(flat, dtype=torch.bool)
        chosen[flat.topk(number).indices] = True
        parts = torch.split(chosen, [score.numel() for score in scores.values()])
        for triplets, part in zip(self.layers.values(), parts, strict=True):
            triplets.kept.copy_(part.view_as(triplets.kept))
        self._apply()

    @torch.no_grad()
    def _apply(self) -> None:
        for triplets in self.layers.values():
            for value, kept in zip(triplets.e, triplets.kept, strict=True):
                value *= kept


class AdaLoraEncoder(EncoderAdaptation):
    """Triplets of every block, and who chooses among them.

    Args:
        encoder: Gives the sizes.
        config: Everything else.
    """

    def __init__(self, encoder: SamEncoder, config: Config) -> None:
        super().__init__()
        self.config = config
        layers = {layer: Triplets(sizes(encoder, layer), config.rank) for layer in LAYERS}
        self.triplets = nn.ModuleDict({str(layer): triplets for layer, triplets in layers.items()})
        self.allocator = Allocator(config, layers)

    @property
    def meeting(self) -> Meeting:
        """Every token is changed by itself."""
        return "never"

    def qkv(self, block: int, qkv: Projected, x: Tokens) -> Projected:
        """Adds the increment."""
        return qkv + self._increment("qkv", block, x)

    def mlp(self, block: int, mlp: Callable[[Tokens], Tokens], x: Tokens, stack: Stack) -> Tokens:
        """Adds the increments of the two layers."""
        layers = two_layers(mlp)
        hidden = layers.act(layers.lin1(x) + self._increment("lin1", block, x))
        y: Tensor = layers.lin2(hidden) + self._increment("lin2", block, hidden)
        return y

    def folded(self, encoder: SamEncoder) -> EncoderAdaptation:
        """Adds the increments to the weights of ``encoder``, in place; nothing is left to do."""
        for layer, triplets in self.allocator.layers.items():
            for block in range(len(encoder.blocks)):
                fold(encoder, block, layer, self.config.alpha * triplets.matrix(block))
        return EncoderAdaptation()

    def penalty(self) -> Float[Tensor, ""]:
        """Keeps the factors near orthonormal: the mean over all of them of the norm of what they lack."""
        skews = [triplets.skew() for triplets in self.allocator.layers.values()]
        return self.config.orthogonality * torch.cat(skews).mean()

    def after_step(self, step: int, steps: int) -> None:
        """Lets triplets go by the schedule."""
        self.allocator.after_step(step, steps)

    def memory(self) -> dict[str, Tensor]:
        """The smoothed values."""
        return dict(self.allocator.smoothed)

    def remember(self, memory: Mapping[str, Tensor]) -> None:
        """Takes them back."""
        self.allocator.smoothed = dict(memory)

    def _increment(self, layer: Layer, block: int, x: Tensor) -> Tensor:
        increment: Tensor = self.config.alpha * self.triplets[layer](block, x)
        return increment


def build(config: Config, backbone: Backbone, classes: int) -> Adaptation:
    """A fresh AdaLoRA; it starts as the frozen image encoder."""
    with torch.device(backbone.image_encoder.pos_embed.device):
        encoder = AdaLoraEncoder(backbone.image_encoder, config)
    decoder, origin = full_size(backbone, classes)
    return Adaptation(encoder, decoder, prompt_free(backbone), starts_as_backbone=True, origin=origin)
