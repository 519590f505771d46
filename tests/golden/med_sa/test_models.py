"""Med-SA against the official code: every recorded step of the networks, losses, gradients, one step of Adam.

Reference numbers: SuperMedIntel/Medical-SAM-Adapter at commits b5cd427 (``v0_*``) and 0add836 (``head_*``), see the
manifest of each case. Two kinds are not official: ``derived_3d_slicewise*`` is the first release with the windows
of a slice kept apart from its depth, ``derived_hyp_adapter*`` is HyP-Adpt as it is specified here.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor, nn

from voxelsam.adapt import Adaptation, med_sa
from voxelsam.adapt._hyper_prompt import Hyper, pooled
from voxelsam.adapt._med_sa_file import our_name
from voxelsam.model import Segmenter
from voxelsam.nn.backbone import Backbone, Variant
from voxelsam.nn.decoder import Scores
from voxelsam.nn.layers import LayerNorm2d, from_windows
from voxelsam.nn.prompt_encoder import EncodedPrompts, PromptBatch
from voxelsam.nn.seam import DecoderAdaptation
from voxelsam.nn.two_way import TwoWayBlock
from voxelsam.train.losses import bce, sigmoid_dice_ce

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "BCEWithLogitsLoss(pos_weight=2)": lambda logits, target: bce(logits, target, 2.0),
    "monai DiceCELoss(sigmoid=True, squared_pred=True, reduction=mean)": sigmoid_dice_ce,
}
"""By how the manifest calls them."""

STEP = "value_after_one_adam_step_lr1e-4"
SETTINGS = ("pixel_mean", "pixel_std", "patch_size", "adapter")
EPS = {"layer_norm_eps_encoder": nn.LayerNorm, "layer_norm_eps_decoder": nn.LayerNorm, "layernorm2d_eps": LayerNorm2d}


@pytest.mark.shared
def test_v0_2d(v0_2d_case: Any, tmp_path: Path) -> None:
    check(v0_2d_case, tmp_path, grouping="official", pixels="unit")


@pytest.mark.shared
def test_v0_3d(v0_3d_case: Any, tmp_path: Path) -> None:
    check(v0_3d_case, tmp_path, grouping="official", pixels="unit")


@pytest.mark.shared
def test_derived_3d_slicewise(derived_3d_slicewise_case: Any, tmp_path: Path) -> None:
    check(derived_3d_slicewise_case, tmp_path, grouping="slices", pixels="unit")


@pytest.mark.shared
def test_head_2d(head_2d_case: Any, tmp_path: Path) -> None:
    check(head_2d_case, tmp_path, grouping="official", pixels="sam")


@pytest.mark.shared
def test_head_3d(head_3d_case: Any, tmp_path: Path) -> None:
    check(head_3d_case, tmp_path, grouping="official", pixels="sam")


@pytest.mark.shared
def test_derived_hyp_adapter(derived_hyp_adapter_case: Any) -> None:
    case, sizes = derived_hyp_adapter_case, derived_hyp_adapter_case.config
    case.equal("pooling", sizes["prompt_pool"], "mean")
    adapter = Hyper(sizes["C"], sizes["P"], sizes["r"], sizes["L"], sizes["T"])
    adapter.load_state_dict(case.state())
    case.equal("eps", {norm.eps for norm in adapter.norm}, {sizes["eps"]})
    seen: dict[str, Tensor] = {}
    adapter.down.register_forward_hook(lambda _module, _inputs, y: seen.__setitem__("act.e_down0", y))
    adapter.prompt_down.register_forward_hook(lambda _module, _inputs, y: seen.__setitem__("act.e_prompt", y))
    for layer in range(sizes["T"]):
        keep(adapter.hyper[layer], seen, f"act.w_prompt{layer}", lambda y: y.reshape(-1, sizes["r"], sizes["r"]))
        keep(adapter.norm[layer], seen, f"act.e_down{layer + 1}", torch.relu)
    sparse = case.tensors["in.sparse_prompt"]
    real = torch.ones(sparse.shape[:2], dtype=torch.bool)
    prompts = EncodedPrompts(sparse, real, torch.zeros(len(sparse), 1, 1, 1))
    seen["out.tokens"] = adapter(case.tensors["in.tokens"], pooled(prompts, torch.zeros(sizes["P"])))
    for name in [name for name in case.tensors if name.startswith(("act.", "out."))]:
        case.compare(name, seen[name], case.tensors[name])
    case.done()


def check(case: Any, folder: Path, *, grouping: str, pixels: str) -> None:
    """The whole way, from pixels to the loss after a step of Adam."""
    backbone, adaptation = build(case, folder, grouping=grouping, pixels=pixels)
    images = case.tensors["in.image"] / (255 if pixels == "sam" else 1)
    seen, scores = run(case, backbone, adaptation, images)
    compare_activations(case, backbone, seen, grouping)
    tokens = shown_tokens(case)
    case.compare("out.low_res_masks", scores.logits[:, tokens], case.tensors["out.low_res_masks"])
    case.compare("out.iou", scores.quality[:, tokens], case.tensors["out.iou"])
    if "loss" in case.manifest:
        case.compare("out.pred", prediction(case, scores), case.tensors["out.pred"])
        check_training(case, backbone, adaptation, scores, images)
    case.done()


class LaterBlock(TwoWayBlock):
    """A layer of the two-way transformer in the newest release, which is EfficientSAM's and not part of the product.

    Self-attention always has a residual, and in all layers but the first its values and the residual carry positions.
    It stands in for ours so that the gradients of the encoder can be compared, which come through it.
    """

    def forward(
        self,
        layer: int,
        tokens: Tensor,
        image: Tensor,
        token_pe: Tensor,
        image_pe: Tensor,
        prompts: EncodedPrompts,
        adaptation: DecoderAdaptation,
    ) -> tuple[Tensor, Tensor]:
        tokens = tokens if self.first else tokens + token_pe
        tokens = self.norm1(tokens + self.self_attn(tokens, tokens, tokens))
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_pe, image + image_pe, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        seen = self.cross_attn_image_to_token(image + image_pe, tokens + token_pe, tokens)
        return tokens, self.norm4(image + seen)


def build(case: Any, folder: Path, *, grouping: str, pixels: str) -> tuple[Backbone, Adaptation]:
    """The model of a case, the trained part read through the product's reader of official files."""
    state, config = case.state(), case.config
    mean, std, patch, adapter = (case.manifest[name] for name in SETTINGS)
    variant = Variant(
        name="golden",
        dim=config["dim"],
        depth=config["depth"],
        heads=config["heads"],
        global_blocks=tuple(config["globals"]),
        window=config["window"],
        patch=patch,
        image_size=(config["img"], config["img"]),
        mlp_ratio=config["mlp_ratio"],
        decoder_dim=config["prompt_dim"],
        decoder_depth=config["decoder_depth"],
        decoder_heads=config["dec_heads"],
        decoder_mlp=config["dec_mlp"],
        iou_hidden=config["iou_head_hidden"],
        masks=len(state["mask_decoder.mask_tokens.weight"]),
        mask_channels=config["mask_in_chans"],
        pixel_mean=tuple(mean),
        pixel_std=tuple(std),
    )
    backbone = Backbone(variant)
    backbone.load_state_dict(sam_state(state, backbone.image_encoder.grid))
    check_eps(case, backbone)
    tables = [value for name, value in state.items() if ".attn.rel_" in name]
    chosen = med_sa.Config(
        "released",
        width=adapter["hidden"],
        scale=adapter["mlp_branch_scale"],
        layout="grid" if config.get("thd") else "none",
        grouping=grouping,
        relative_positions=any(bool(table.any()) for table in tables),
        pixels=pixels,
    )
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "official.safetensors")
    adaptation, report = med_sa.read_official(
        folder / "official.safetensors", backbone, classes=variant.masks + 1, config=chosen
    )
    not_read = {name for name in report.ignored if "Depth_Adapter" not in name or config.get("thd")}
    resized = state["image_encoder.pos_embed"].shape[1:3] != backbone.image_encoder.grid
    case.equal("left over in the file", not_read, {"image_encoder.pos_embed"} if resized else set())
    loaded = adaptation.state_dict()
    case.equal("everything is loaded", {our_name(name) for name in report.loaded}, set(loaded))
    case.equal(
        "tensors that changed",
        [name for name in report.loaded if not torch.equal(state[name], loaded[our_name(name)])],
        [],
    )
    if any("EfficientSAM" in note for note in report.notes):
        for layer in adaptation.decoder.transformer.layers:
            layer.__class__ = LaterBlock
    return backbone, adaptation.eval()


def sam_state(state: Mapping[str, Tensor], grid: tuple[int, int]) -> dict[str, Tensor]:
    """SAM's part of an official checkpoint; the newest release stretches its table of positions in every pass."""
    own = {our_name(name): value for name, value in state.items()}
    sam = {name: value for name, value in own.items() if not name.startswith(("encoder.", "decoder."))}
    sam |= {f"mask_{name}": value for name, value in own.items() if name.startswith("decoder.")}
    table = sam["image_encoder.pos_embed"]
    if tuple(table.shape[1:3]) != grid:
        stretched = F.interpolate(table.permute(0, 3, 1, 2), grid, mode="bicubic", align_corners=False)
        sam["image_encoder.pos_embed"] = stretched.permute(0, 2, 3, 1)
    return sam


def check_eps(case: Any, backbone: Backbone) -> None:
    """Each kind of norm has the eps that the manifest names."""
    parts = (backbone.image_encoder, backbone.mask_decoder, backbone.image_encoder)
    for (name, kind), part in zip(EPS.items(), parts, strict=True):
        found = {module.eps for module in part.modules() if isinstance(module, kind)}
        case.equal(name, found, {case.manifest[name]})


def prompts_of(case: Any) -> PromptBatch:
    """The prompts of a case, one set per frame."""
    frames = len(case.tensors["in.image"])
    points, labels = torch.zeros(frames, 0, 2), torch.zeros(frames, 0, dtype=torch.long)
    if "in.points" in case.tensors:
        points, labels = case.tensors["in.points"].float(), case.tensors["in.point_labels"].long()
    boxes = case.tensors["in.boxes"].reshape(frames, 1, 4) if "in.boxes" in case.tensors else None
    return PromptBatch(points, labels, boxes)


def keep(
    module: nn.Module, seen: dict[str, Tensor], name: str, pick: Callable[[Any], Tensor] = lambda y: y
) -> torch.utils.hooks.RemovableHandle:
    """Keeps what a module gives, or a part of it."""
    return module.register_forward_hook(lambda _module, _inputs, y: seen.__setitem__(name, pick(y)))


def run(case: Any, backbone: Backbone, adaptation: Adaptation, images: Tensor) -> tuple[dict[str, Tensor], Scores]:
    """One pass, everything that the reference names by its names, and the scores at a quarter of the size."""
    seen: dict[str, Tensor] = {}
    handles = list(hooks(backbone, adaptation, seen))
    try:
        scores = decoded(case, backbone, adaptation, images)
    finally:
        for handle in handles:
            handle.remove()
    return seen, scores


def decoded(case: Any, backbone: Backbone, adaptation: Adaptation, images: Tensor) -> Scores:
    """The scores of a case at a quarter of the size; channel 0 is the background."""
    depth = case.config["chunk"] if case.config.get("thd") else 1
    stacks = rearrange(images, "(batch depth) c h w -> batch depth c h w", depth=depth)
    features = Segmenter(backbone, adaptation).eval().encode(stacks)
    encoded = backbone.prompt_encoder(prompts_of(case), len(images))
    return adaptation.decoder.small(features, backbone.prompt_encoder.dense_pe(), encoded)


def hooks(backbone: Backbone, adaptation: Adaptation, seen: dict[str, Tensor]) -> Any:
    """Forward hooks on the modules whose results the reference names."""
    encoder, prompt_encoder, decoder = backbone.image_encoder, backbone.prompt_encoder, adaptation.decoder
    yield encoder.register_forward_pre_hook(lambda _module, x: seen.__setitem__("act.preprocessed", x[0]))
    yield keep(encoder.patch_embed, seen, "act.patch_embed")
    for index, block in enumerate(encoder.blocks):
        name = f"act.block{index}"
        yield keep(block, seen, name)
        yield block.attn.register_forward_hook(
            lambda _module, _inputs, y, name=name: seen.__setitem__(
                f"{name}.attn_{'depth' if f'{name}.attn_space' in seen else 'space'}", y
            )
        )
        yield adaptation.encoder.space_adapters[index].register_forward_hook(
            lambda _module, x, y, name=name: seen.__setitem__(f"{name}.Space_Adapter", x[0] + y)
        )
        yield keep(adaptation.encoder.mlp_adapters[index], seen, f"{name}.MLP_Adapter")
        if adaptation.encoder.depth_adapters is not None:
            yield keep(adaptation.encoder.depth_adapters[index], seen, f"{name}.Depth_Adapter")
    yield keep(encoder, seen, "act.neck")
    yield keep(prompt_encoder, seen, "act.sparse", lambda y: y.sparse)
    yield keep(prompt_encoder, seen, "act.dense", lambda y: y.dense[:1])
    yield keep(prompt_encoder, seen, "act.dense_pe", lambda _y: prompt_encoder.dense_pe())
    for index, layer in enumerate(decoder.transformer.layers):
        yield keep(layer, seen, f"act.dec.layer{index}.queries", lambda y: y[0])
        yield keep(layer, seen, f"act.dec.layer{index}.keys", lambda y: y[1])
    yield keep(decoder.transformer, seen, "act.dec.tokens", lambda y: y[0])
    yield keep(decoder.transformer, seen, "act.dec.image", lambda y: y[1])
    yield keep(decoder.output_upscaling, seen, "act.dec.upscaled")


def compare_activations(case: Any, backbone: Backbone, seen: Mapping[str, Tensor], grouping: str) -> None:
    """Every recorded activation."""
    for name in [name for name in case.tensors if name.startswith("act.")]:
        if name not in seen:
            case.problems.append(f"{name}: nothing of ours has this name")
            continue
        case.compare(name, seen[name], whole(case, backbone, name, grouping))


def whole(case: Any, backbone: Backbone, name: str, grouping: str) -> Tensor:
    """A recorded activation; of windows, where ours does not have them any more, what lies on the image."""
    reference, found = case.tensors[name], re.fullmatch(r"act\.block(\d+)\.(\w+)", name)
    if found is None:
        return reference
    spec, part = backbone.image_encoder.blocks_spec[int(found[1])], found[2]
    if spec.window and part in ("attn_space", "Space_Adapter"):
        return from_windows(reference, spec.grid)
    if spec.window and part in ("attn_depth", "Depth_Adapter") and grouping == "slices":
        rows, side = reference.shape[1], spec.window
        windows = rearrange(reference, "(n h w) rows columns c -> (rows columns) n h w c", h=side, w=side)
        slices = torch.stack([from_windows(one, spec.grid) for one in windows])
        return rearrange(slices, "(rows columns) n h w c -> (n h w) rows columns c", rows=rows)
    return reference


def shown_tokens(case: Any) -> slice:
    """Channels of ours that the first release returns: its single mask, or with ``multimask`` the three others."""
    first = 2 if case.config.get("multimask_flag") else 1
    return slice(first, first + case.tensors["out.low_res_masks"].shape[1])


def prediction(case: Any, scores: Scores) -> Tensor:
    """What the loss is taken of: the masks at the size of the decoder, or stretched where the manifest names one."""
    masks, size = scores.logits[:, shown_tokens(case)], case.config.get("out_size")
    return masks if size is None else F.interpolate(masks, (size, size), mode="bilinear", align_corners=False)


def is_ours(case: Any, name: str) -> bool:
    """Whether an official parameter is one of the adaptation here: prompts are frozen, and depth needs depth."""
    absent = ("prompt_encoder.",) if case.config.get("thd") else ("prompt_encoder.", "Depth_Adapter")
    return not any(part in name for part in absent)


def check_training(case: Any, backbone: Backbone, adaptation: Adaptation, scores: Scores, images: Tensor) -> None:
    """Loss, gradients, which parameters get one, and the loss after one step of Adam."""
    expected, target = case.manifest["loss"], case.tensors["in.masks_gt"]
    measure = LOSSES[expected["kind"]]
    loss = measure(prediction(case, scores), target)
    case.compare("loss", loss, expected["value"])
    loss.backward()
    own = {name: parameter for name, parameter in adaptation.named_parameters() if parameter.requires_grad}
    moved = {name: parameter.grad for name, parameter in own.items() if parameter.grad is not None}
    norms = {our_name(name): norm for name, norm in case.manifest["trainable_param_grad_norms"].items()}
    case.equal("parameters with a gradient", sorted(moved), sorted(norms))
    for name, norm in norms.items():
        case.compare(f"norm of the gradient of {name}", moved[name].norm(), norm)
    for name, gradient in case.state("grad.").items():
        case.compare(f"gradient of {name}", moved[our_name(name)], gradient)
    idle = {our_name(name) for name in case.manifest["requires_grad_but_no_grad"] if is_ours(case, name)}
    case.equal("parameters without a gradient", own.keys() - moved.keys(), idle)
    torch.optim.Adam(own.values(), lr=1e-4).step()
    with torch.no_grad():
        after = decoded(case, backbone, adaptation, images)
    case.compare("loss after a step of Adam", measure(prediction(case, after), target), expected[STEP])
