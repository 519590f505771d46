"""Med-SA (arXiv 2304.12620): adapters in a frozen SAM, attention along depth, and a decoder that prompts steer.

Encoder. Behind the attention of every block stands an adapter with a skip, beside its MLP one that is added with a
fixed scale. SD-Trans runs the block's own frozen attention a second time, along the depth of the stack, and adds what
a third adapter makes of it. A stack of one slice has no depth branch.

Decoder. In every layer of the two-way transformer HyP-Adpt (``_hyper_prompt``) lets the prompt steer what the tokens
take from the image, one adapter stands beside the MLP, and one behind the image's look at the tokens. The background
is the constant logit 0, so that a fresh model with a single structure answers a prompt exactly as SAM does.

``variant="paper"`` is that. ``variant="released"`` is the published code: a quarter of the channels inside the
adapters, default initialisation, no adapter in the decoder, which is trained as a whole, pixels between 0 and 1, and
two deviations from SAM that its weights expect: windows are filled up before the first norm (``pad_order``), and
windowed blocks attend along neighbouring windows instead of slices (``grouping``).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from voxelsam.adapt import Adaptation
from voxelsam.adapt import _med_sa_file as official
from voxelsam.adapt._decoders import ForegroundDecoder, sams_tokens, single_mask_tokens
from voxelsam.adapt._hyper_prompt import Mode, pooled, prompt_adapter
from voxelsam.adapt._origin import Origin
from voxelsam.config import STRICT
from voxelsam.errors import ConfigError, WeightsError
from voxelsam.nn.backbone import Backbone
from voxelsam.nn.layers import from_windows, to_windows
from voxelsam.nn.prompt_encoder import EncodedPrompts
from voxelsam.nn.seam import (
    Asking,
    Attend,
    BlockSpec,
    DecoderAdaptation,
    EncoderAdaptation,
    Meeting,
    Pixels,
    Stack,
    Tokens,
)

WIDTH = 48
"""Channels inside the encoder's adapters of the paper: with the decoder 12.6 million numbers, 2 % of SAM ViT-H."""

VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {
        "init": "zero",
        "grouping": "slices",
        "pad_order": "sam",
        "decoder": "adapters",
        "pixels": "sam",
    },
    "released": {
        "init": "default",
        "grouping": "official",
        "pad_order": "medsa",
        "decoder": "full",
        "pixels": "unit",
    },
}
"""What stands for None in a configuration."""

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}


@dataclass(frozen=True)
class Config:
    """What can be chosen about Med-SA; None follows the variant."""

    __pydantic_config__ = STRICT

    variant: Literal["paper", "released"] = "paper"
    """The sound reading of the paper, or the published code."""
    width: int | None = None
    """Channels inside the encoder's adapters; None: 48, or the channels of the backbone where they are fewer (paper);
    a quarter of those (released)."""
    decoder_width: int | None = None
    """Channels inside the decoder's adapters; None: a quarter of its channels, which makes 64."""
    activation: Literal["gelu", "relu"] = "gelu"
    """Inside the adapters: exact GELU as in the published code, or ReLU as in the paper."""
    init: Literal["zero", "default"] | None = None
    """How adapters start: as if they were not there, or with PyTorch's defaults."""
    scale: float = 0.5
    """Factor of the adapters beside the MLPs."""
    layout: Literal["grid", "line", "none"] = "grid"
    """How the depth of a stack is laid out for the block's attention, whose relative positions are made for a picture:
    as a picture, as one line, or not at all (no depth branch, no depth adapters)."""
    grouping: Literal["slices", "official"] | None = None
    """What windowed blocks see along depth: the same place on all slices, or what lies there in the published code."""
    pad_order: Literal["sam", "medsa"] | None = None
    """Whether windows are filled up after the first norm, or before it."""
    relative_positions: bool = True
    """False: without them, as the published code has run since its loader stopped to find SAM's tables (2024)."""
    decoder: Literal["adapters", "full", "frozen"] | None = None
    """Adapters in SAM's frozen decoder, SAM's decoder trained as a whole, or SAM's decoder as it is."""
    hyper: Mode = "hyper"
    """How prompts get into the decoder's adapters: HyP-Adpt, added, concatenated, or not at all."""
    hyper_layers: int = 2
    """Matrices that each HyP-Adpt makes from the prompt."""
    prompt_width: int = 16
    """Channels of the reduced prompt in ``hyper`` and ``concat``."""
    hyper_image: bool = False
    """Whether prompts also steer what the image takes from the tokens."""
    pixels: Literal["sam", "unit"] | None = None
    """Pixels as SAM wants them, or between 0 and 1 as the published code fed them until 2025."""

    def __post_init__(self) -> None:
        for name in ("width", "decoder_width", "hyper_layers", "prompt_width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is at least 1, but {value} came")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale is a number above 0, but {self.scale} came")

    def settled(self) -> "Config":
        """The same with every None that follows the variant replaced, except for the widths."""
        return replace(self, **{k: v for k, v in VARIANTS[self.variant].items() if getattr(self, k) is None})

    def width_for(self, dim: int) -> int:
        """Channels inside the adapters of an encoder with ``dim`` channels."""
        if self.width is not None:
            return self.width
        return min(WIDTH, dim) if self.variant == "paper" else dim // 4


class Bottleneck(nn.Module):
    """``up(act(down(x)))``, without a skip."""

    def __init__(self, dim: int, width: int, config: Config) -> None:
        super().__init__()
        self.down = nn.Linear(dim, width)
        self.act = ACTIVATIONS[config.activation]()
        self.up = nn.Linear(width, dim)
        if config.init == "zero":
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)

    def forward(self, x: Float[Tensor, "*tokens channels"]) -> Float[Tensor, "*tokens channels"]:
        """The increment."""
        y: Tensor = self.up(self.act(self.down(x)))
        return y


class MedSaEncoder(EncoderAdaptation):
    """Three adapters per block; the third, of the depth branch, only where the layout is not ``none``.

    Args:
        blocks: The blocks of the encoder.
        config: Settled.
    """

    def __init__(self, blocks: Sequence[BlockSpec], config: Config) -> None:
        super().__init__()
        self.scale, self.layout = config.scale, config.layout
        self.relative = config.relative_positions
        self.fills_before_norm = config.pad_order == "medsa"
        self.windows = [block.window if config.grouping == "official" else 0 for block in blocks]

        def adapters() -> nn.ModuleList:
            return nn.ModuleList(Bottleneck(block.dim, config.width_for(block.dim), config) for block in blocks)

        self.space_adapters = adapters()
        self.mlp_adapters = adapters()
        self.depth_adapters = None if config.layout == "none" else adapters()

    @property
    def meeting(self) -> Meeting:
        """Attention along depth lays a stack of a given length out as a picture, or as a line of that length."""
        return "never" if self.depth_adapters is None else "stack"

    def attention(self, block: int, attend: Attend, x: Tokens, stack: Stack) -> Tokens:
        """The block's attention and its adapter, and the depth branch where there is depth."""
        seen = attend(x, filling=self._filling(attend), relative=self.relative)
        y: Tensor = seen + self.space_adapters[block](seen)
        if self.depth_adapters is None or stack.depth == 1:
            return y
        return y + self._depth_branch(block, attend, x, stack, self.depth_adapters[block])

    def mlp(self, block: int, mlp: Callable[[Tokens], Tokens], x: Tokens, stack: Stack) -> Tokens:
        """The MLP and its adapter, side by side."""
        y: Tensor = mlp(x) + self.scale * self.mlp_adapters[block](x)
        return y

    def _depth_branch(self, block: int, attend: Attend, x: Tokens, stack: Stack, adapter: nn.Module) -> Tokens:
        """The block's own attention along depth, then the depth adapter.

        Attention is per place, so windows matter for the official grouping only: there the windows of a slice follow
        one another along the first axis, and as many as the stack is deep are taken for its slices. Elsewhere the
        tokens are those of the image, which are projected once for both.
        """
        window, grid = self.windows[block], (x.shape[1], x.shape[2])
        rows, columns = closest_factors(stack.depth) if self.layout == "grid" else (1, stack.depth)
        lines = partial(
            rearrange, pattern="(n rows columns) h w c -> (n h w) rows columns c", rows=rows, columns=columns
        )
        if window:
            seen = attend(lines(to_windows(x, window, self._filling(attend))), window=0, relative=self.relative)
        else:
            seen = attend(x, window=0, relative=self.relative, arrange=lines)
        height, width = (window, window) if window else grid
        seen = rearrange(adapter(seen), "(n h w) rows columns c -> (n rows columns) h w c", h=height, w=width)
        return from_windows(seen, grid) if window else seen

    def _filling(self, attend: Attend) -> Float[Tensor, " channels"] | None:
        return attend.blank if self.fills_before_norm else None


class MedSaDecoder(DecoderAdaptation):
    """The decoder's adapters.

    Args:
        dim: Channels of its tokens and of prompts.
        layers: Layers of its two-way transformer.
        config: Settled.
    """

    def __init__(self, dim: int, layers: int, config: Config) -> None:
        super().__init__()
        width = config.decoder_width or max(1, dim // 4)
        self.scale = config.scale

        def steered() -> nn.ModuleList:
            return nn.ModuleList(
                prompt_adapter(config.hyper, dim, width, config.prompt_width, config.hyper_layers)
                for _ in range(layers)
            )

        def plain() -> nn.ModuleList:
            return nn.ModuleList(Bottleneck(dim, width, config) for _ in range(layers))

        self.no_prompt = None if config.hyper == "none" else nn.Parameter(torch.zeros(dim))
        self.token_adapters = steered()
        self.seen_adapters = steered() if config.hyper_image else None
        self.mlp_adapters = plain()
        self.image_adapters = plain()

    def from_image(self, layer: int, seen: Asking, prompts: EncodedPrompts) -> Asking:
        """Steered by the prompt."""
        adapted: Tensor = self.token_adapters[layer](seen, self._prompt(prompts))
        return adapted

    def mlp(self, layer: int, mlp: Callable[[Asking], Asking], tokens: Asking, prompts: EncodedPrompts) -> Asking:
        """The MLP and its adapter, side by side."""
        y: Tensor = mlp(tokens) + self.scale * self.mlp_adapters[layer](tokens)
        return y

    def to_image(self, layer: int, image: Pixels, seen: Pixels, prompts: EncodedPrompts) -> Pixels:
        """The sum and its adapter with a skip."""
        if self.seen_adapters is not None:
            seen = self.seen_adapters[layer](seen, self._prompt(prompts))
        image = image + seen
        y: Tensor = image + self.image_adapters[layer](image)
        return y

    def _prompt(self, prompts: EncodedPrompts) -> Float[Tensor, "frames channels"]:
        if self.no_prompt is None:
            return prompts.sparse.new_zeros(prompts.sparse.shape[0], prompts.sparse.shape[2])
        return pooled(prompts, self.no_prompt)


def closest_factors(number: int) -> tuple[int, int]:
    """(a, b) with a·b = number, a < b and a as large as that allows; (1, 1) for 1.

    A square does not become one: 9 is 1 · 9, as in the published code.
    """
    if number == 1:
        return 1, 1
    a = max(a for a in range(1, math.isqrt(number) + 1) if number % a == 0 and a * a < number)
    return a, number // a


def build(config: Config, backbone: Backbone, classes: int) -> Adaptation:
    """A fresh Med-SA.

    Raises:
        ConfigError: more than one structure for a decoder that is not trained.
    """
    config = config.settled()
    if config.decoder == "frozen" and classes > 2:
        raise ConfigError(
            f"decoder: frozen has one mask and cannot tell {classes - 1} structures apart; use adapters or full"
        )
    blocks = backbone.image_encoder.blocks_spec
    with torch.device(backbone.image_encoder.pos_embed.device):
        encoder = MedSaEncoder(blocks, config)
    decoder, origin = _decoder(config, backbone, classes)
    fills = any(size % block.window for block in blocks if block.window for size in block.grid)
    same_attention = config.relative_positions and not (config.pad_order == "medsa" and fills)
    return Adaptation(
        encoder,
        decoder,
        pixel_statistics=((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)) if config.pixels == "unit" else None,
        starts_as_backbone=config.init == "zero" and same_attention,
        origin=origin,
    )


def _decoder(config: Config, backbone: Backbone, classes: int) -> tuple[ForegroundDecoder, Origin]:
    variant = backbone.variant
    if config.decoder == "full":
        decoder, origin = sams_tokens(backbone, classes)
        decoder.iou_prediction_head.requires_grad_(config.variant == "released")
    elif config.decoder == "frozen":
        decoder, origin = single_mask_tokens(backbone, classes)
        decoder.requires_grad_(False)
    else:
        decoder, origin = single_mask_tokens(
            backbone, classes, lambda: MedSaDecoder(variant.decoder_dim, variant.decoder_depth, config)
        )
    return decoder, origin


@dataclass(frozen=True)
class OfficialReport:
    """What came out of an official file.

    Attributes:
        config: with the width and the use of relative positions as found in the file.
        classes: channels of the result, the background included.
        loaded: names in the file that were used.
        same: names of frozen tensors that are the backbone's.
        ignored: names in the file that were not used.
        notes: what must be known before the model is used.
    """

    path: Path
    config: Config
    classes: int
    loaded: tuple[str, ...]
    same: tuple[str, ...]
    ignored: tuple[str, ...]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """The same for readers."""
        ignored = [f"ignored ({len(self.ignored)}): {', '.join(self.ignored)}"] if self.ignored else []
        return [
            f"{self.path}: width {self.config.width}, {self.classes} classes with the background",
            f"loaded: {len(self.loaded)} tensors; frozen and the same as the backbone's: {len(self.same)}",
            *ignored,
            *self.notes,
        ]


def read_official(
    path: str | Path, backbone: Backbone, *, classes: int = 2, config: Config | None = None
) -> tuple[Adaptation, OfficialReport]:
    """A Med-SA that the official code has trained: a whole checkpoint, or published adapters without a decoder.

    Args:
        path: its ``.pth`` file, or the same tensors as safetensors.
        backbone: the SAM that it was trained on.
        classes: channels of the result, the background included; structures are the first mask tokens of the file.
        config: gives what the file does not tell, such as the pixels; its width must agree with the file. With the
            layout ``none`` the depth adapters are left out, which models of single slices never trained. None: the
            released variant.

    Raises:
        WeightsError: the file is damaged or of another kind, or does not fit the backbone, the classes or the
            configuration.
    """
    found = official.read(Path(path))
    config = config or Config(variant="released", width=found.width, relative_positions=found.relative_positions)
    wanted = {"width": (config.width_for(backbone.variant.dim), found.width)}
    if found.masks:
        wanted["mask tokens"] = (max(backbone.variant.masks, classes - 1), found.masks)
    official.check_sizes(found, backbone, wanted)
    if config.relative_positions and not found.relative_positions:
        raise WeightsError(f"{path} was trained without relative positions: read it with relative_positions false")
    frozen = official.compare_frozen(found, backbone)
    config = replace(config, width=found.width)
    with_decoder = bool(found.masks) and config.settled().decoder == "full"
    adaptation = build(config, backbone, classes)
    loaded = official.load_into(adaptation, found, ("encoder.", "decoder.") if with_decoder else ("encoder.",))
    used = {*loaded, *frozen.same}
    ignored = tuple(name for name in found.given.values() if name not in used)
    notes = tuple(_notes(found, frozen, config, with_decoder=with_decoder))
    return adaptation, OfficialReport(found.path, config, classes, loaded, frozen.same, ignored, notes)


def _notes(found: official.Contents, frozen: official.Frozen, config: Config, *, with_decoder: bool) -> list[str]:
    """What the numbers of a report do not tell."""
    notes = []
    if not found.masks:
        notes.append(
            "decoder: not in the file, which holds adapters only; it is SAM's (or fresh), while these adapters were "
            "trained together with one that is not published: train it before relying on the masks"
        )
    elif not with_decoder:
        notes.append("decoder: the one in the file is not used; the configuration asks for another")
    elif found.later:
        notes.append(
            "decoder: it was trained in the two-way transformer of EfficientSAM, which computes otherwise than SAM's; "
            "its weights are a start for training here, not a trained decoder"
        )
    if not found.relative_positions:
        notes.append(
            "relative positions: all tables in the file are zero, as in the official code since 2024; not used"
        )
    if frozen.resized:
        notes.append(f"of another image size, not compared ({len(frozen.resized)}): {', '.join(frozen.resized)}")
    if config.layout != "none":
        notes.append(
            "depth: the file has depth adapters in any case; if the model was trained on single slices they are "
            "random: read it with the layout none"
        )
    return notes
