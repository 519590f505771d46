"""LoRA and AdaLoRA of Med-SA's code inside SAM's image encoder, up to the neck: activations, loss, gradients.

Reference numbers: SuperMedIntel/Medical-SAM-Adapter, see the manifest of each case. There the tables of positions are
those of 1024 pixels and stretched in every pass, here once, when a checkpoint is read.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from voxelsam.adapt.adalora import AdaLoraEncoder
from voxelsam.adapt.adalora import Config as AdaLora
from voxelsam.adapt.lora import LoraEncoder
from voxelsam.nn.attention import resize_table
from voxelsam.nn.layers import to_windows
from voxelsam.nn.seam import EncoderAdaptation, Stack
from voxelsam.nn.vit import SamEncoder

TRIPLET = re.compile(r"(?:attn|mlp)\.(\w+)\.(?:lora_([AEB])|ranknum)")
LORA = re.compile(r"blocks\.(\d+)\.(attn\.qkv|mlp\.lin1|mlp\.lin2)\.lora_([AB])")


@pytest.mark.shared
def test_head_lora(head_lora_case: Any) -> None:
    case, config, state = head_lora_case, head_lora_case.config, head_lora_case.state()
    factors = {name: value for name, value in state.items() if LORA.fullmatch(name)}
    frozen = {name: value for name, value in state.items() if name not in factors}
    encoder = SamEncoder(
        dim=config["dim"],
        depth=config["depth"],
        heads=config["heads"],
        patch=frozen["patch_embed.proj.weight"].shape[-1],
        window=config["window"],
        global_blocks=config["globals"],
        image_size=(config["img"], config["img"]),
        out_channels=config["prompt_dim"],
        mlp_ratio=len(frozen["blocks.0.mlp.lin1.weight"]) / config["dim"],
    )
    encoder.load_state_dict(fitted(frozen, encoder))
    encoder.requires_grad_(False)
    lora = LoraEncoder(encoder, config["rank"], 1.0 / config["rank"], ("query", "value", "mlp"))
    lora.load_state_dict({ours: value for name, part in factors.items() for ours, value in parts(name, part)})
    seen: dict[str, Tensor] = {}
    for index, block in enumerate(encoder.blocks):
        block.register_forward_hook(lambda _m, _x, y, name=f"act.block{index}": seen.__setitem__(name, y))
    recording = Recording(lora, seen, [spec.window for spec in encoder.blocks_spec])
    seen["act.neck"] = encoder(case.tensors["in.image"], adaptation=recording)
    for name in [name for name in case.tensors if name.startswith("act.")]:
        case.compare(name, seen[name], case.tensors[name])
    check_gradients(case, lora, seen["act.neck"])
    lora.folded(encoder)
    case.compare("act.neck, folded", encoder(case.tensors["in.image"]), case.tensors["act.neck"])
    case.done()


@pytest.mark.shared
def test_head_adalora(head_adalora_case: Any) -> None:
    """One block, its penalty, and the block again with the matrices folded into its weights."""
    case, config, state = head_adalora_case, head_adalora_case.config, head_adalora_case.state()
    encoder = SamEncoder(
        dim=config["dim"],
        depth=1,
        heads=config["heads"],
        patch=1,
        window=config["window"],
        global_blocks=() if config["window"] else (0,),
        image_size=(config["tokens"], config["tokens"]),
        mlp_ratio=len(state["mlp.lin1.weight"]) / config["dim"],
    )
    block: Any = encoder.blocks[0]
    triplets = {name: match for name in state if (match := TRIPLET.fullmatch(name))}
    block.load_state_dict({our_table(name): value for name, value in state.items() if name not in triplets})
    adalora = AdaLoraEncoder(encoder, AdaLora(rank=config["rank"], target=config["rank"], orthogonality=1.0))
    own = adalora.state_dict()
    for name, match in triplets.items():
        ours = own[f"triplets.{match[1]}.{match[2].lower()}.0"] if match[2] else own[f"triplets.{match[1]}.kept"]
        if match[2]:
            ours.copy_(state[name].reshape(ours.shape))
        else:
            case.equal(f"{name}: values in use", ours.sum(), state[name].long().squeeze())
    with torch.no_grad():
        tokens = block(0, case.tensors["in.tokens"], Stack(1), adalora)
        case.compare("out.tokens", tokens, case.tensors["out.tokens"])
        for name in case.manifest:
            if match := re.fullmatch(r"orth_regu_weight([\d.]+)", name):
                case.compare(name, float(match[1]) * adalora.penalty(), case.manifest[name])
        adalora.folded(encoder)
        folded = block(0, case.tensors["in.tokens"], Stack(1), EncoderAdaptation())
        case.compare("out.tokens, folded", folded, case.tensors["out.tokens"])
    case.done()


class Recording(EncoderAdaptation):
    """Passes every call on, and keeps the projections of each block."""

    def __init__(self, inner: EncoderAdaptation, seen: dict[str, Tensor], windows: list[int]) -> None:
        super().__init__()
        self.inner = inner
        self.seen = seen
        self.windows = windows
        self.whole: Tensor | None = None

    def qkv(self, block: int, qkv: Tensor, x: Tensor) -> Tensor:
        """Windows as in the reference: frames come first, then, where windows reach over the edge, their filling."""
        y, window = self.inner.qkv(block, qkv, x), self.windows[block]
        filling = y.flatten() if x.shape[:3] == (1, 1, 1) else None
        if filling is None:
            self.whole = y
        cut = to_windows(self.whole, window, filling) if window else y
        self.seen[f"act.block{block}.qkv"] = rearrange(cut, "frames h w channels -> frames (h w) channels")
        return y

    def mlp(self, block: int, mlp: Any, x: Tensor, stack: Stack) -> Tensor:
        return self.inner.mlp(block, mlp, x, stack)


def our_table(name: str) -> str:
    """The newest release calls tables of relative positions otherwise than SAM."""
    return re.sub(r"attn\.rel_([hw])$", r"attn.rel_pos_\1", name)


def fitted(state: Mapping[str, Tensor], encoder: SamEncoder) -> dict[str, Tensor]:
    """SAM's part of the encoder, its tables of positions stretched to the size of ours."""
    own, result = encoder.state_dict(), {our_table(name): value for name, value in state.items()}
    for name, value in result.items():
        if ".rel_pos_" in name:
            result[name] = resize_table(value, len(own[name]))
    table = rearrange(result["pos_embed"], "1 h w c -> 1 c h w")
    stretched = F.interpolate(table, encoder.grid, mode="bicubic", align_corners=False)
    result["pos_embed"] = rearrange(stretched, "1 c h w -> 1 h w c")
    return result


def parts(name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """An official factor under our names; that of the fused projection is ours of queries above that of values."""
    block, layer, kind = LORA.fullmatch(name).groups()
    side = {"A": "down", "B": "up"}[kind]
    if layer == "attn.qkv":
        for ours, half in zip(("query", "value"), value.chunk(2), strict=True):
            yield f"{ours}.{side}.{block}.weight", half
    else:
        yield f"{layer.removeprefix('mlp.')}.{side}.{block}.weight", value


def check_gradients(case: Any, lora: LoraEncoder, neck: Tensor) -> None:
    """The loss, and the norms of the gradients that it gives."""
    case.equal("kind of loss", case.manifest["loss"]["kind"], "mean(neck**2)")
    loss = neck.square().mean()
    case.compare("loss", loss, case.manifest["loss"]["value"])
    loss.backward()
    own = dict(lora.named_parameters())
    norms, gradients = case.manifest["trainable_param_grad_norms"], {}
    for name in norms:
        gradients[name] = torch.cat([own.pop(ours).grad for ours, _ in parts(name, torch.zeros(2, 1))])
        case.compare(f"norm of the gradient of {name}", gradients[name].norm(), norms[name])
    case.equal("parameters that the reference does not train", sorted(own), [])
    for name, gradient in case.state("grad.").items():
        case.compare(f"gradient of {name}", gradients[name], gradient)
