"""MA-SAM (arXiv 2309.08842): a SAM that looks at neighbouring slices.

FacT-TT adds increments to the queries and values of every block; its factors U and V are shared by all blocks, so
that a block adds only two small matrices Σ. Before the attention and before the MLP of every block stands an adapter
whose convolution looks one slice to either side. A progressive decoder doubles the features until they have the size
of the model input and gives one channel per class.

Symbols of the paper: U ``down``, V ``up``, Σ ``query`` and ``value``, s ``scale``, r ``rank``.

``variant="paper"`` starts as the frozen model (up-projections and V are zero) and trains only what gets gradients.
``variant="released"`` is the official code: default initialisation, and prompt encoder and quality head count as
trained although no loss reaches most of them. Both compute the same function of the same weights.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from voxelsam.adapt import Adaptation
from voxelsam.adapt import _ma_sam_file as official
from voxelsam.adapt._decoders import FullSizeDecoder, full_size, progressive, taken_over, with_trained
from voxelsam.adapt._origin import copy_fitting
from voxelsam.adapt._query_value import Projected, Tokens, fold, increase
from voxelsam.config import STRICT
from voxelsam.errors import ConfigError, WeightsError
from voxelsam.nn.backbone import Backbone
from voxelsam.nn.decoder import MaskDecoder
from voxelsam.nn.layers import Plus
from voxelsam.nn.neighbours import along_depth
from voxelsam.nn.seam import BlockSpec, EncoderAdaptation, Meeting, Stack
from voxelsam.nn.vit import SamEncoder

WIDTH = 384
"""Channels inside the adapters of the paper, whatever the backbone."""

TRAINED_PROMPTS = {
    "none": ("no_mask_embed.",),
    "boxes": ("no_mask_embed.", "point_embeddings.2.", "point_embeddings.3."),
    "all": ("",),
}
"""Which tensors of the prompt encoder get gradients, by the prompts that training gives (starts of their names)."""

Part = Literal["fact", "first", "second"]
"""FacT, the depth adapter before the attention, the one before the MLP."""


@dataclass(frozen=True)
class Config:
    """What can be chosen about MA-SAM."""

    __pydantic_config__ = STRICT

    variant: Literal["paper", "released"] = "paper"
    """The sound reading of the paper, or the official code with its initialisation and its list of trained tensors."""
    rank: int = 32
    """Numbers between U and V."""
    scale: float = 1.0
    """Factor of the FacT increments."""
    width: int | None = None
    """Channels inside the adapters; None: 384, or the channels of the backbone where they are fewer."""
    dropout: float = 0.1
    """Share of the numbers between Σ and V that training drops."""
    init: Literal["zero", "official"] | None = None
    """``zero``: adapters start at zero; ``official``: at PyTorch's defaults; None: by the variant."""
    prompts: Literal["none", "boxes", "all"] = "none"
    """What training will prompt with: ``paper`` freezes the prompt embeddings that then get no gradient."""
    parts: tuple[Part, ...] = ("fact", "first", "second")
    """What acts in every block of the image encoder; fewer for the ablations of the paper."""
    upsampling: Literal["progressive", "sam"] = "progressive"
    """The paper's, or SAM's two doublings and a bilinear stretch, for its ablation."""

    def __post_init__(self) -> None:
        if len(set(self.parts)) < len(self.parts):
            raise ValueError(f"parts names each part once, but {', '.join(self.parts)} came")
        if self.variant == "released" and (set(self.parts) != set(get_args(Part)) or self.upsampling != "progressive"):
            raise ValueError("the released code has all parts and the progressive up-sampling: take variant paper")
        if self.rank < 1:
            raise ValueError(f"rank is at least 1, but {self.rank} came")
        if self.width is not None and self.width < 1:
            raise ValueError(f"width is at least 1, or null for the paper's, but {self.width} came")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is at least 0 and below 1, but {self.dropout} came")

    def width_for(self, dim: int) -> int:
        """Channels inside the adapters of a backbone with ``dim`` channels."""
        return min(WIDTH, dim) if self.width is None else self.width

    @property
    def starts_at_zero(self) -> bool:
        """Whether the adapters' up-projections start at zero."""
        return (self.init or ("zero" if self.variant == "paper" else "official")) == "zero"


class Fact(nn.Module):
    """FacT-TT: ``q += s·V·drop(Σq·U·x)``, the same for v; V starts at zero, nothing has a bias."""

    def __init__(self, dim: int, blocks: int, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.scale = scale
        self.down = nn.Linear(dim, rank, bias=False)
        self.up = nn.Linear(rank, dim, bias=False)
        self.query = nn.ModuleList(nn.Linear(rank, rank, bias=False) for _ in range(blocks))
        self.value = nn.ModuleList(nn.Linear(rank, rank, bias=False) for _ in range(blocks))
        self.drop = nn.Dropout(dropout)
        nn.init.zeros_(self.up.weight)

    def forward(self, block: int, x: Tokens) -> tuple[Tokens, Tokens]:
        """Increments of queries and values for the normed tokens of a block."""
        down = self.scale * self.down(x)
        return self.up(self.drop(self.query[block](down))), self.up(self.drop(self.value[block](down)))

    def matrices(self, block: int) -> tuple[Float[Tensor, "channels channels"], Float[Tensor, "channels channels"]]:
        """The increments as matrices on column vectors, s·V·Σ·U in double precision."""
        up, down = self.up.weight.double(), self.down.weight.double()
        query, value = (self.get_parameter(f"{name}.{block}.weight").double() for name in ("query", "value"))
        return self.scale * up @ query @ down, self.scale * up @ value @ down


class DepthConv(nn.Conv3d):
    """Kernel (3, 1, 1) along the depth, zeros beyond both ends, for channels-last tokens.

    Neighbours meet only at the same height and width, so all positions of a slice form one axis. On processors that
    makes three products of matrices (``voxelsam.nn.neighbours``). Elsewhere, and for compilers, it is a convolution of
    a channels-last picture of depth times positions, which the tokens already are. No form makes a copy.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, width, kernel_size=(3, 1, 1), padding=(1, 0, 0))

    def forward(self, x: Float[Tensor, "batch depth height width channels"]) -> Tensor:
        """The convolution; the shape stays."""
        height = x.shape[2]
        if x.device.type == "cpu" and not torch.compiler.is_compiling() and self.bias is not None:
            return along_depth(x.flatten(2, 3), self.weight.flatten(2), self.bias).view(x.shape)
        picture = rearrange(x, "batch depth height width channels -> batch channels depth (height width)")
        picture = F.conv2d(picture, self.weight.squeeze(-1), self.bias, padding=(1, 0))
        return rearrange(
            picture, "batch channels depth (height width) -> batch depth height width channels", height=height
        )


class DepthAdapter(nn.Module):
    """``x + up(GELU(conv(down(norm(x)))))``, the convolution along the depth of each stack (paper, eq. 3)."""

    def __init__(self, dim: int, width: int, *, starts_at_zero: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.down = nn.Linear(dim, width, bias=False)
        self.conv = DepthConv(width)
        self.up = nn.Linear(width, dim, bias=False)
        self.plus = Plus()
        if starts_at_zero:
            nn.init.zeros_(self.up.weight)

    def forward(self, x: Tokens, stack: Stack) -> Tokens:
        """The tokens of all frames, each having seen the neighbours in its stack."""
        narrow = rearrange(
            self.down(self.norm(x)),
            "(batch depth) height width channels -> batch depth height width channels",
            depth=stack.depth,
        )
        mixed = rearrange(
            F.gelu(self.conv(narrow)),
            "batch depth height width channels -> (batch depth) height width channels",
        )
        stream: Tokens = self.plus(x, self.up(mixed))
        return stream


class MaSamEncoder(EncoderAdaptation):
    """FacT on every block, and two depth adapters around its attention, as far as the configuration names them.

    ``fact`` is also None once it has been folded into the weights of an encoder.
    """

    def __init__(self, blocks: Sequence[BlockSpec], config: Config) -> None:
        super().__init__()
        dims = {block.dim for block in blocks}
        if len(dims) != 1:
            raise ConfigError(f"MA-SAM shares its factors over all blocks, but theirs have {sorted(dims)} channels")
        dim, zero = dims.pop(), config.starts_at_zero
        width = config.width_for(dim)

        def adapters(part: Part) -> nn.ModuleList | None:
            made = (DepthAdapter(dim, width, starts_at_zero=zero) for _ in blocks)
            return nn.ModuleList(made) if part in config.parts else None

        self.fact = (
            Fact(dim, len(blocks), config.rank, config.scale, config.dropout) if "fact" in config.parts else None
        )
        self.before_attention_adapters = adapters("first")
        self.before_mlp_adapters = adapters("second")

    @property
    def meeting(self) -> Meeting:
        """Slices meet in the adapters' convolutions, and nowhere else."""
        return "neighbours" if self.before_attention_adapters or self.before_mlp_adapters else "never"

    def before_attention(self, block: int, x: Tokens, stack: Stack) -> Tokens:
        """The first adapter."""
        return _adapted(self.before_attention_adapters, block, x, stack)

    def qkv(self, block: int, qkv: Projected, x: Tokens) -> Projected:
        """FacT on queries and values."""
        return qkv if self.fact is None else increase(qkv, *self.fact(block, x))

    def before_mlp(self, block: int, x: Tokens, stack: Stack) -> Tokens:
        """The second adapter."""
        return _adapted(self.before_mlp_adapters, block, x, stack)

    def folded(self, encoder: SamEncoder) -> "MaSamEncoder":
        """Adds FacT to the weights of ``encoder``, in place; returns a copy that has only the adapters left."""
        rest = copy.deepcopy(self)
        if self.fact is not None:
            for block in range(len(encoder.blocks)):
                fold(encoder, block, *self.fact.matrices(block))
            rest.fact = None
        return rest


def _adapted(adapters: nn.ModuleList | None, block: int, x: Tokens, stack: Stack) -> Tokens:
    if adapters is None:
        return x
    adapted: Tensor = adapters[block](x, stack)
    return adapted


def build(config: Config, backbone: Backbone, classes: int) -> Adaptation:
    """A fresh MA-SAM, its decoder started from the backbone's.

    ``paper`` takes over what ``_decoders`` says. ``released`` takes over whatever fits by name and shape, which is
    what the official loader arrives at: parts of four hyper-networks and of the quality head come from SAM as well.

    Raises:
        ConfigError: the patch of the backbone is no power of two, or its blocks differ in width.
    """
    released = config.variant == "released"
    with torch.device(backbone.image_encoder.pos_embed.device):
        encoder = MaSamEncoder(backbone.image_encoder.blocks_spec, config)
    decoder: MaskDecoder
    if config.upsampling == "sam":
        decoder, origin = full_size(backbone, classes)
    else:
        decoder = progressive(backbone, classes)
        origin = copy_fitting(decoder, backbone.mask_decoder, (lambda name: True) if released else taken_over)
        decoder.iou_prediction_head.requires_grad_(released)
    return Adaptation(
        encoder,
        decoder,
        with_trained(backbone.prompt_encoder, TRAINED_PROMPTS["all" if released else config.prompts]),
        pixel_statistics=((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        starts_as_backbone=config.starts_at_zero,
        origin=origin,
    )


@dataclass(frozen=True)
class OfficialReport:
    """What came out of an official checkpoint.

    Attributes:
        config: rank and width as found in the shapes.
        classes: output channels, the background included.
        loaded: names in the file that were used.
        ignored: names in the file that have no place in the model.
    """

    path: Path
    config: Config
    classes: int
    loaded: tuple[str, ...]
    ignored: tuple[str, ...]

    def lines(self) -> list[str]:
        """The same for readers."""
        sizes = f"rank {self.config.rank}, width {self.config.width}, {self.classes} classes with the background"
        ignored = [f"ignored ({len(self.ignored)}): {', '.join(self.ignored)}"] if self.ignored else []
        return [f"{self.path}: {sizes}", f"loaded: {len(self.loaded)} tensors", *ignored]


def read_official(
    path: str | Path, backbone: Backbone, *, classes: int | None = None, config: Config | None = None
) -> tuple[Adaptation, OfficialReport]:
    """A MA-SAM that the official code has trained.

    Args:
        path: its ``.pth`` file, or the same tensors as safetensors.
        backbone: the SAM that it was trained on.
        classes: how many the file must have, the background included; None for any.
        config: must agree with the file in rank and width, and gives what the file does not tell, such as the scale;
            None takes rank and width from the file, and the official scale 1.

    Raises:
        WeightsError: the file is damaged or of another kind, or does not fit the backbone, the classes or the
            configuration.
    """
    path = Path(path)
    tensors = official.read_tensors(path)
    found = official.sizes(tensors, path)
    wanted = {"classes": classes}
    if config is not None:
        wanted |= {"rank": config.rank, "width": config.width_for(backbone.variant.dim)}
    official.check_sizes(found, path, backbone, wanted)
    config = replace(config or Config(variant="released", rank=found.rank), width=found.width)
    adaptation = build(config, backbone, found.classes)
    ignored = official.load_into(adaptation, tensors, path)
    loaded = tuple(name for name in tensors if name not in ignored)
    return adaptation, OfficialReport(path, config, found.classes, loaded, ignored)


def write_official(adaptation: Adaptation, path: str | Path) -> None:
    """Writes a MA-SAM as a ``.pth`` file that the official code loads.

    Raises:
        WeightsError: the adaptation is no MA-SAM with all its parts, or its FacT is folded away.
    """
    encoder = adaptation.encoder
    whole = isinstance(encoder, MaSamEncoder) and len(list(encoder.children())) == len(get_args(Part))
    if not whole or isinstance(adaptation.decoder, FullSizeDecoder):
        raise WeightsError("only a whole MA-SAM adaptation, before merging, has an official file")
    state = adaptation.state_dict()
    tensors = {name: state[ours] for name, ours in official.official_names(adaptation).items()}
    official.write_tensors(tensors, Path(path))
