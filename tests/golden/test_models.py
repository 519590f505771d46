"""MA-SAM against the official code: every recorded step of the networks, gradients, checkpoint files.

Reference numbers: cchen-cc/MA-SAM at commit 0c3cd90, see the manifest of each case.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor, nn

from voxelsam import adapt, backbones
from voxelsam.adapt import Adaptation, _ma_sam_file, ma_sam
from voxelsam.evaluate.metrics import dice
from voxelsam.model import Segmenter
from voxelsam.nn.backbone import Backbone, Variant
from voxelsam.nn.layers import to_windows
from voxelsam.nn.prompt_encoder import PromptBatch
from voxelsam.nn.seam import EncoderAdaptation, Stack
from voxelsam.space import Grid, canonical
from voxelsam.stacks import Intensity, Merger, StackPlan, cut
from voxelsam.train.losses import dice_ce
from voxelsam.train.schedule import rate

BASE_RATE, WARMUP, DECAY, POWER = 8e-4, 250, 400 * 126, 7.0
"""Learning rate of the official training on BTCV at 126 steps per epoch."""

FACT = re.compile(
    r"sam\.image_encoder\.ImageEncoderViT\.blocks\.(\d+)\.Block\.attn\.Attention\.qkv\.([qv])_FacTs\.weight"
)


class Recording(EncoderAdaptation):
    """Passes every call on, and keeps what went through the points between modules."""

    def __init__(self, inner: EncoderAdaptation, seen: dict[str, Tensor], windows: list[int]) -> None:
        super().__init__()
        self.inner = inner
        self.seen = seen
        self.windows = windows
        self.whole: Tensor | None = None

    def before_attention(self, block: int, x: Tensor, stack: Stack) -> Tensor:
        y = self.seen[f"act.block_{block:02}.after_adapter_1"] = self.inner.before_attention(block, x, stack)
        return y

    def qkv(self, block: int, qkv: Tensor, x: Tensor) -> Tensor:
        """Windows as in the reference: frames come first, then, where windows reach over the edge, their filling."""
        y, window = self.inner.qkv(block, qkv, x), self.windows[block]
        filling = y.flatten() if x.shape[:3] == (1, 1, 1) else None
        if filling is None:
            self.whole = y
        self.seen[f"act.block_{block:02}.qkv_with_fact"] = to_windows(self.whole, window, filling) if window else y
        return y

    def before_mlp(self, block: int, x: Tensor, stack: Stack) -> Tensor:
        self.seen[f"act.block_{block:02}.after_attn"] = x
        y = self.seen[f"act.block_{block:02}.after_adapter_2"] = self.inner.before_mlp(block, x, stack)
        return y


@pytest.mark.shared
def test_auto(auto_case: Any, tmp_path: Path) -> None:
    backbone, adaptation = build(auto_case, stored_state(auto_case), tmp_path)
    check_names(auto_case, adaptation, tmp_path)
    seen = run(auto_case, backbone, adaptation, images(auto_case), None)
    compare_activations(auto_case, seen)
    auto_case.equal(
        "sparse prompts", list(seen["act.prompt_sparse"].shape[1:]), auto_case.manifest["prompt_sparse_shape"][1:]
    )
    if auto_case.has("train.safetensors"):
        check_training(auto_case, adaptation, seen["out.logits"])
    auto_case.done()


@pytest.mark.shared
def test_bbox(bbox_case: Any, tmp_path: Path) -> None:
    backbone, adaptation = build(bbox_case, stored_state(bbox_case), tmp_path)
    check_names(bbox_case, adaptation, tmp_path)
    boxes = bbox_case.tensors("io.safetensors")["input.boxes"].reshape(-1, 1, 4)
    nothing = torch.zeros(len(boxes), 0)
    prompts = PromptBatch(points=nothing[..., None].expand(-1, -1, 2), point_labels=nothing.long(), boxes=boxes)
    seen = run(bbox_case, backbone, adaptation, images(bbox_case), prompts)
    compare_activations(bbox_case, seen)
    if bbox_case.has("train.safetensors"):
        check_training(bbox_case, adaptation, seen["out.logits"])
    bbox_case.done()


@pytest.mark.shared
@pytest.mark.slow
def test_real_widths(real_widths_case: Any, tmp_path: Path) -> None:
    case = real_widths_case
    state = {name: case.recipe(name, entry) for name, entry in case.manifest["weights_table"].items()}
    backbone, adaptation = build(case, state, tmp_path)
    entry = case.manifest["input"]
    with torch.no_grad():
        seen = run(case, backbone, adaptation, case.recipe(entry["name"], entry), None)
    compare_activations(case, seen)
    counts = seen["out.logits"].argmax(dim=1).flatten().bincount(minlength=case.config["num_classes"] + 1)
    listed = torch.tensor([case.manifest["argmax_histogram"].get(str(i), 0) for i in range(len(counts))])
    moved = int((counts - listed).abs().sum())
    case.equal("voxels with another class", moved <= 1e-5 * int(listed.sum()), True)
    case.done()


@pytest.mark.shared
def test_sam_load(sam_load_case: Any) -> None:
    """SAM's checkpoint of another size, what becomes of each tensor, then the adapted file on top."""
    case, manifest = sam_load_case, sam_load_case.manifest
    pretrained, adapted = case.tensors("sam_pretrained.safetensors"), case.tensors("adapted.safetensors")
    variant = variant_of(case.config, adapted)
    patches = manifest["pretrained_image_size"] // variant.patch
    case.equal("positions", list(pretrained["image_encoder.pos_embed"].shape[1:3]), [patches, patches])
    file = case.path("sam_pretrained.safetensors")
    backbone, report = backbones.load(file, image_size=variant.image_size, variant=variant)
    state = backbone.state_dict()
    case.equal("resized", sorted(report.resized), sorted(manifest["keys_interpolated"]))
    for name, value in pretrained.items():
        case.equal(name, name in report.resized or torch.equal(state[name], value), True)
    for name, value in case.tensors("interpolated.safetensors").items():
        case.compare(name, state[name], value)
    check_start(case, backbone, pretrained)
    adaptation = read(case.config, case.path("adapted.safetensors"), backbone)
    loaded, names = adaptation.state_dict(), _ma_sam_file.official_names(adaptation)
    for name, value in adapted.items():
        case.equal(name, loaded[names[name]], value)
    seen = run(case, backbone, adaptation, images(case), None)
    compare_activations(case, seen)
    case.done()


@pytest.mark.shared
def test_pipeline(pipeline_case: Any, tmp_path: Path) -> None:
    """A raw CT volume through placement, stacks, model, merging and back."""
    case = pipeline_case
    io, constants = case.tensors("io.safetensors"), case.manifest["constants"]
    volume, labels = (io[name].numpy() for name in ("input.volume_hu_xyz", "input.label_xyz"))
    placement = canonical(Grid(volume.shape, np.eye(4)), "axial")
    canvas, truth = placement.bring(volume[None]), placement.bring_labels(labels)
    if case.config["num_classes"] == 12:
        truth = np.where(truth == 13, 12, truth)
    plan = StackPlan(depth=case.config["slices"], size=(case.config["image_size"],) * 2)
    scale = Intensity("window", scope="stack", low=constants["hu_min"], high=constants["hu_max"]).measure(canvas)
    starts = plan.starts(canvas.shape[3])
    case.equal("slices", len(starts), case.manifest["slices"])
    stacks = torch.stack([cut(canvas, plan, start, scale) for start in starts])
    raw = torch.stack([torch.from_numpy(canvas[0][..., list(plan.slices(start, len(starts)))]) for start in starts])
    sums, votes, merged = merge(case, tmp_path, stacks, plan)
    for place, scores in merged:
        case.compare(f"merged {place}", scores * votes[place + plan.lead], sums[place + plan.lead])
    prediction = settled(torch.stack([scores for _, scores in merged]), io["out.prediction"].long())
    saved = placement.restore(rearrange(prediction.numpy(), "k j i -> i j k"))
    reference = torch.from_numpy(np.ascontiguousarray(rearrange(truth, "i j k -> k j i")))
    windows = rearrange(stacks[:, :, 0], "n d h w -> n h w d")
    ours = {
        "mid.windows_normalised": windows,
        "mid.window_last_normalised": windows[-1],
        "mid.label_used": reference,
        "mid.probability_mean_padded": rearrange(sums / (votes + 1)[:, None, None, None], "n c h w -> n h w c"),
        "mid.vote_count_plus_one": votes + 1,
        "out.prediction": prediction,
        "out.prediction_saved_nifti_array": torch.from_numpy(np.ascontiguousarray(saved)),
        "out.dice_per_class": torch.tensor(
            [
                dice((prediction == c).numpy(), (reference == c).numpy(), empty="ma_sam")
                for c in range(1, case.config["num_classes"] + 1)
            ],
            dtype=torch.float64,
        ),
    } | {f"mid.window_raw_slice{n}": rearrange(raw[n], "i j d -> j i d") for n in range(len(starts))}
    for name, value in io.items():
        if name.startswith("input."):
            continue
        full = name.removesuffix("_strided")
        if full not in ours:
            case.problems.append(f"{name}: nothing of ours has this name")
        elif value.is_floating_point():
            case.compare(name, case.part(name, ours[full]), value)
        else:
            case.equal(name, case.part(name, ours[full]).to(value.dtype), value)
    case.equal("orientation", np.array_equal(saved, io["out.prediction_saved_nifti_array"].numpy()), True)
    case.done()


def settled(scores: Tensor, reference: Tensor) -> Tensor:
    """The best class of every voxel; the reference's where its score is as good up to rounding."""
    best, prediction = scores.max(dim=1)
    theirs = scores.gather(1, reference[:, None])[:, 0]
    return torch.where(theirs > best - 1e-5, reference, prediction)


def merge(case: Any, folder: Path, stacks: Tensor, plan: StackPlan) -> tuple[Tensor, Tensor, list[tuple[int, Tensor]]]:
    """Sums of probabilities and votes with the slices beyond both ends, and what the merger makes of the same."""
    segmenter = Segmenter(*build(case, stored_state(case), folder)).eval()
    slices, beyond = len(stacks), plan.depth - 1
    merger, merged = Merger(slices, plan), []
    sums = torch.zeros(slices + beyond, case.config["num_classes"] + 1, *plan.size)
    votes = torch.zeros(slices + beyond)
    for start, stack in zip(plan.starts(slices), stacks, strict=True):
        with torch.no_grad():
            probabilities = segmenter(stack[None])[0].softmax(dim=1)
        places = slice(start + plan.lead, start + plan.lead + plan.depth)
        sums[places] += probabilities
        votes[places] += 1
        merger.add(start, probabilities)
        merged += merger.done()
    return sums, votes, merged


def check_start(case: Any, backbone: Backbone, pretrained: Mapping[str, Tensor]) -> None:
    """Which tensors a fresh model takes from SAM: the very list of the released code, and a declared part of it."""
    manifest, frozen = case.manifest, backbone.state_dict()
    verbatim, kept = set(manifest["keys_taken_verbatim"]), set(manifest["keys_kept_from_initialisation"])
    classes, sizes = case.config["num_classes"] + 1, (case.config["rank"], case.config["fact_scale"])
    encoder = {
        name for name in frozen if name.startswith("image_encoder.") and torch.equal(frozen[name], pretrained[name])
    }
    prompts = {name for name in frozen if name.startswith("prompt_encoder.")}
    for variant in ("released", "paper"):
        config = ma_sam.Config(variant, *sizes, case.config["adapter_channels"])
        adaptation = adapt.build("ma_sam", config, backbone, classes)
        own = {f"mask_decoder.{name}": value for name, value in adaptation.decoder.state_dict().items()}
        copied = {f"mask_decoder.{name}" for name in adaptation.origin.copied}
        fresh = {f"mask_decoder.{name}" for name in adaptation.origin.fresh}
        case.equal(
            f"{variant}: copied", {name for name in copied if not torch.equal(own[name], pretrained[name])}, set()
        )
        case.equal(f"{variant}: reported", copied | fresh, set(own))
        if variant == "released":
            adapters = {name for name in kept if ".adapter_" in name}
            case.equal("taken verbatim", copied | encoder | prompts, verbatim)
            case.equal("fresh", fresh | adapters, kept)
            unused = {f"mask_decoder.{name}" for name in adaptation.origin.unused}
            case.equal("ignored", unused, set(manifest["pretrained_keys_ignored"]))
        else:
            case.equal("paper takes a part", copied < verbatim, True)


def stored_state(case: Any) -> dict[str, Tensor]:
    """All weights of a case by the official names of the whole model."""
    return dict(case.tensors("full_state.safetensors").items())


def build(case: Any, state: Mapping[str, Tensor], folder: Path) -> tuple[Backbone, Adaptation]:
    """The model of a case, its trained part read through the product's reader of official files."""
    frozen, adapted = split(state)
    backbone = Backbone(variant_of(case.config, adapted))
    backbone.image_encoder.load_state_dict(frozen)
    if case.has("adapted.pth"):
        file = case.path("adapted.pth")
    elif case.has("adapted.safetensors"):
        file = case.path("adapted.safetensors")
        assert case.tensors("adapted.safetensors").keys() == adapted.keys()
        assert all(torch.equal(case.tensors("adapted.safetensors")[name], adapted[name]) for name in adapted)
    else:
        file = folder / "adapted.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in adapted.items()}, file)
    adaptation = read(case.config, file, backbone)
    loaded, names = adaptation.state_dict(), _ma_sam_file.official_names(adaptation)
    assert {name for name in adapted if not torch.equal(loaded[names[name]], adapted[name])} == set()
    return backbone, adaptation


def read(config: Mapping[str, Any], file: Path, backbone: Backbone) -> Adaptation:
    """An official file as the released variant, in evaluation mode, with the pixel statistics of the case."""
    wanted = ma_sam.Config("released", config["rank"], config["fact_scale"], config["adapter_channels"])
    adaptation, report = ma_sam.read_official(file, backbone, classes=config["num_classes"] + 1, config=wanted)
    assert report.ignored == ()
    scale = 255.0 if any(config["pixel_mean"]) else 1.0
    mean, std = (tuple(value / scale for value in config[name]) for name in ("pixel_mean", "pixel_std"))
    adaptation.pixel_statistics = (mean, std)
    return adaptation.eval()


def variant_of(config: Mapping[str, Any], adapted: Mapping[str, Tensor]) -> Variant:
    """The backbone that a manifest describes; the mask branch shows in the weights only."""
    return Variant(
        name="golden",
        dim=config["embed_dim"],
        depth=config["depth"],
        heads=config["num_heads"],
        global_blocks=tuple(config["global_attn_indexes"]),
        window=config["window_size"],
        patch=config["patch_size"],
        image_size=(config["image_size"], config["image_size"]),
        mlp_ratio=config["mlp_ratio"],
        decoder_dim=config["transformer_dim"],
        decoder_depth=config["decoder_depth"],
        decoder_heads=config["decoder_num_heads"],
        decoder_mlp=config["decoder_mlp_dim"],
        iou_hidden=config["iou_head_hidden_dim"],
        mask_channels=len(adapted["prompt_encoder.mask_downscaling.3.bias"]),
    )


def split(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The state of the whole official model as the frozen image encoder (Meta's names) and the adapted file."""
    frozen: dict[str, Tensor] = {}
    adapted: dict[str, Tensor] = {}
    for name, tensor in state.items():
        official = adapted_name(name)
        if official is None:
            frozen[meta_name(name)] = tensor
        else:
            adapted[official] = tensor
    return frozen, adapted


def adapted_name(name: str) -> str | None:
    """Name in the adapted file of a tensor of the whole official model; None for frozen ones."""
    if match := FACT.fullmatch(name):
        return f"{match[2]}_FacTs_{int(match[1]):03}"
    short = name.removeprefix("sam.")
    if short in ("FacTu.weight", "FacTv.weight"):
        return f"image_encoder.{short}"
    trained = (".adapter_", "image_encoder.FacT", "prompt_encoder.", "mask_decoder.")
    return short if any(part in short for part in trained) else None


def meta_name(name: str) -> str:
    """Name of a frozen tensor in SAM's image encoder."""
    short = name.removeprefix("sam.image_encoder.ImageEncoderViT.").replace(".Block.", ".")
    return short.replace("attn.Attention.", "attn.").replace("attn.qkv.qkv.", "attn.qkv.")


def images(case: Any) -> Tensor:
    """Input of a case between 0 and 1."""
    return case.tensors("io.safetensors")["input.image_u8"].float() / 255


def run(
    case: Any, backbone: Backbone, adaptation: Adaptation, stacks: Tensor, prompts: PromptBatch | None
) -> dict[str, Tensor]:
    """One forward pass through the model; everything that the reference names, by its names, not strided."""
    seen: dict[str, Tensor] = {}
    inner = adaptation.encoder
    handles = list(hooks(backbone, adaptation, seen))
    adaptation.encoder = Recording(inner, seen, [spec.window for spec in backbone.image_encoder.blocks_spec])
    try:
        logits = Segmenter(backbone, adaptation).eval()(stacks, prompts)
    finally:
        adaptation.encoder = inner
        for handle in handles:
            handle.remove()
    case.equal("stacks", list(logits.shape[:2]), [case.config["batch"], case.config["slices"]])
    hyper = [seen.pop(f"hyper_{token}") for token in range(logits.shape[2])]
    seen["act.decoder_hyper_in"] = torch.stack(hyper, dim=1)
    seen["out.logits"] = rearrange(logits, "batch depth classes h w -> (batch depth) classes h w")
    return seen


def windowed(window: int, y: Tensor) -> Tensor:
    """Windows as in the reference; where tokens fill them up, for which ours computes nothing, not a number."""
    return to_windows(y, window, torch.full(y.shape[-1:], float("nan"))) if window else y


def hooks(backbone: Backbone, adaptation: Adaptation, seen: dict[str, Tensor]) -> Any:
    """Forward hooks on the modules whose results the reference names."""

    def keep(module: nn.Module, name: str, pick: Callable[[Any], Tensor] = lambda y: y) -> Any:
        return module.register_forward_hook(lambda _module, _inputs, y: seen.__setitem__(name, pick(y)))

    encoder, decoder, prompt_encoder = backbone.image_encoder, adaptation.decoder, adaptation.prompt_encoder
    yield keep(encoder.patch_embed, "act.patch_embed")
    yield encoder.blocks[0].register_forward_pre_hook(
        lambda _module, inputs: seen.__setitem__("act.patch_embed_plus_pos", inputs[1])
    )
    for index, block in enumerate(encoder.blocks):
        yield keep(block, f"act.block_{index:02}")
        yield keep(block.attn, f"act.block_{index:02}.attn_out_windowed", partial(windowed, block.window))
        for number, adapters in enumerate(("before_attention_adapters", "before_mlp_adapters"), start=1):
            conv = getattr(adaptation.encoder, adapters)[index].conv
            name = f"act.block_{index:02}.adapter_{number}_conv_out"
            yield keep(conv, name, lambda y: rearrange(y, "batch depth h w channels -> batch channels depth h w"))
    yield keep(encoder, "act.neck")
    yield keep(prompt_encoder, "act.prompt_sparse", lambda y: y.sparse)
    yield keep(prompt_encoder, "act.prompt_dense_pixel0", lambda y: y.dense[:1, :, 0, 0])
    yield keep(prompt_encoder, "act.dense_pe", lambda _y: prompt_encoder.dense_pe())
    yield keep(decoder.transformer, "act.decoder_tokens", lambda y: y[0])
    yield keep(decoder.transformer, "act.decoder_src", lambda y: y[1])
    yield keep(decoder.output_upscaling, "act.decoder_upscaled")
    yield keep(decoder, "out.iou_predictions", lambda y: y.quality)
    for token, mlp in enumerate(decoder.output_hypernetworks_mlps):
        yield keep(mlp, f"hyper_{token}")


def compare_activations(case: Any, seen: Mapping[str, Tensor]) -> None:
    """Every tensor of the case that is not an input."""
    reference = case.tensors("io.safetensors")
    for name in reference:
        if name.startswith("input."):
            continue
        full = name.removesuffix("_strided")
        if name in ("out.logits_mean", "out.logits_std"):
            ours = getattr(seen["out.logits"], name.rpartition("_")[2])(dim=(2, 3))
        elif full in seen:
            ours = case.part(name, seen[full])
        else:
            case.problems.append(f"{name}: nothing of ours has this name")
            continue
        there = ours.isfinite() if full.endswith("attn_out_windowed") else ...
        case.compare(name, ours[there], reference[name][there], logits=name.startswith("out.logits"))
    case.equal(
        "deviation of the logits",
        seen["out.logits"].detach().std().item(),
        pytest.approx(case.manifest["logits_std"], rel=1e-4),
    )


def check_names(case: Any, adaptation: Adaptation, folder: Path) -> None:
    """Writing gives the official file: its names in its order, and the same tensors."""
    state = case.tensors("full_state.safetensors")
    keys = case.manifest["adapted_checkpoint_keys"]
    ma_sam.write_official(adaptation, folder / "written.pth")
    written = torch.load(folder / "written.pth", weights_only=True)
    case.equal("order of names", list(written), case.manifest["adapted_checkpoint_order"])
    case.equal(
        "shapes", {name: list(value.shape) for name, value in written.items()}, {k: v["shape"] for k, v in keys.items()}
    )
    for name, entry in keys.items():
        case.equal(name, written[name], state[entry["same_as_full_state_key"]])
    if case.has("adapted.pth"):
        theirs = torch.load(case.path("adapted.pth"), weights_only=True)
        case.equal("order in their file", list(written), list(theirs))


def check_training(case: Any, adaptation: Adaptation, logits: Tensor) -> None:
    """Loss, gradients, what is trained, and the learning rates."""
    expected, reference = case.manifest["train"], case.tensors("train.safetensors")
    target = reference["train.labels"].reshape(-1, *logits.shape[2:])
    values = dice_ce(logits, target, expected["dice_weight"], ignore=None)
    for name, value in zip(("loss", "loss_ce", "loss_dice"), values, strict=True):
        case.equal(name, value.item(), pytest.approx(expected[name], rel=1e-5))
    values[0].backward()
    names = _ma_sam_file.official_names(adaptation)
    parameters = dict(adaptation.named_parameters())
    ours = {official: parameters[name] for official, name in names.items() if name in parameters}
    gradients = {name: parameter.grad for name, parameter in ours.items() if parameter.grad is not None}
    for name in reference:
        if name.startswith("grad."):
            case.compare(name, gradients[adapted_name(name.removeprefix("grad."))], reference[name], floor=1e-8)
        elif name != "train.labels":
            case.problems.append(f"{name}: not understood")
    norms = {adapted_name(name): norm for name, norm in expected["grad_l2_norms"].items()}
    case.equal("tensors with gradients", sorted(gradients), sorted(norms))
    for name, norm in norms.items():
        case.equal(f"norm of {name}", float(gradients[name].norm()), pytest.approx(norm, rel=case.relative, abs=1e-7))
    idle = {adapted_name(name) for name in expected["trainable_without_gradient"]}
    case.equal("trained without gradient", {n for n, p in ours.items() if p.requires_grad and n not in gradients}, idle)
    case.equal("all are trained", all(parameter.requires_grad for parameter in ours.values()), True)
    case.equal("frozen", {name for name in expected["frozen_parameters"] if adapted_name(name) is not None}, set())
    for step, listed in expected["learning_rate_used_by_step"].items():
        case.equal(
            f"rate of step {step}", rate(int(step), BASE_RATE, WARMUP, DECAY, POWER), pytest.approx(listed, rel=1e-9)
        )
