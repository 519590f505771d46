"""What every method promises, whatever it does: runs over all plug-ins.

Methods that adapt a backbone run on two tiny ones, whole networks with small widths on images that they have to pad, in
two dimensions and, where that is quick, in three.
"""

import copy
import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from voxelsam import adapt, backbones, config, plugins
from voxelsam.adapt import Adaptation
from voxelsam.errors import ConfigError
from voxelsam.model import Segmenter
from voxelsam.nn.backbone import Backbone
from voxelsam.nn.prompt_encoder import PromptBatch
from voxelsam.nn.seam import Stack
from voxelsam.train.losses import dice_ce

CLASSES = 3
SIZES = {"square": (64, 64), "padded": (40, 72)}
"""Pixels (height, width); the second makes 5 × 9 tokens, which windows of 8 do not divide."""

SMALL: dict[str, tuple[dict[str, Any], ...]] = {
    "dynunet": ({"filters": 4}, {"filters": 4, "depth": 3, "spacing": (5.0, 1.0, 1.0)}),
    "nnformer": ({"width": 8, "heads": [1, 2, 2, 4]}, {"width": 8, "heads": [1, 2, 2, 4], "depth": 3}),
    "swin_unetr": ({"feature_size": 12},),
    "unetr": ({"feature_size": 4, "hidden_size": 12, "mlp_dim": 16, "num_heads": 2},),
    "ux_net": ({"feature_size": 4}, {"feature_size": 4, "depth": 3}),
    "vnet": ({},),
}
"""Options of whole networks."""


@dataclasses.dataclass(frozen=True)
class Case:
    method: str
    options: dict[str, Any]
    backbone: str
    size: tuple[int, int]

    @property
    def whole(self) -> bool:
        return self.backbone == "none"


CASES = [
    Case(name, {}, "sam-tiny", size) for name in plugins.names("adapt") if name not in SMALL for size in SIZES.values()
]
CASES += [Case(name, given, "none", SIZES["padded"]) for name, options in SMALL.items() for given in options]


@cache
def made(name: str, size: tuple[int, int]) -> Backbone:
    return backbones.build(name, size)


def named(case: Case) -> str:
    return f"{case.method}-{'depth' if 'depth' in case.options else case.size[0]}"


@pytest.fixture(params=CASES, ids=named)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture
def backbone(case: Case) -> Backbone:
    return made(case.backbone, case.size)


@pytest.fixture(params=plugins.names("adapt"))
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def adaptation(case: Case, backbone: Backbone) -> Adaptation:
    torch.manual_seed(1)
    return adapt.build(case.method, case.options, backbone, CLASSES)


def test_the_cases_are_all_methods() -> None:
    assert {case.method: not case.whole for case in CASES} == {
        name: adapt.needs_backbone(name) for name in plugins.names("adapt")
    }


def stacks(backbone: Backbone, batch: int = 1, depth: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(batch, depth, 3, *backbone.image_size, generator=torch.Generator().manual_seed(seed))


def logits(backbone: Backbone, adaptation: Adaptation, images: Tensor) -> Tensor:
    with torch.no_grad():
        return Segmenter(backbone, adaptation).eval()(images)


def shaken(adaptation: Adaptation) -> Adaptation:
    """As after some training: no factor is zero any more."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in adaptation.encoder.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return adaptation


def train(segmenter: Segmenter, images: Tensor, steps: int) -> None:
    """Some steps without weight decay, so that only gradients move anything."""
    torch.manual_seed(3)
    optimiser = torch.optim.Adam([p for p in segmenter.parameters() if p.requires_grad], lr=1e-3)
    target = torch.randint(0, CLASSES, (images.shape[0] * images.shape[1], *images.shape[-2:]))
    segmenter.train()
    for _ in range(steps):
        optimiser.zero_grad()
        dice_ce(segmenter(images).flatten(0, 1), target)[0].backward()
        optimiser.step()


def test_starts_as_the_backbone_if_it_says_so(case: Case, backbone: Backbone, adaptation: Adaptation) -> None:
    if case.whole:
        assert not adaptation.starts_as_backbone
        return
    frames, encoder = stacks(backbone)[0], adaptation.image_encoder or backbone.image_encoder
    with torch.no_grad():
        adapted = encoder(frames, Stack(2), adaptation.eval().encoder)
        plain = backbone.image_encoder(frames)
    assert torch.allclose(adapted, plain, atol=1e-6) == adaptation.starts_as_backbone


def test_training_leaves_the_backbone_and_moves_the_rest(
    case: Case, backbone: Backbone, adaptation: Adaptation
) -> None:
    if not adapt.trains(case.method):
        return
    frozen = copy.deepcopy(backbone.state_dict())
    before = copy.deepcopy(dict(adaptation.named_parameters()))
    train(Segmenter(backbone, adaptation), stacks(backbone), steps=3)
    assert [name for name, tensor in backbone.state_dict().items() if not torch.equal(tensor, frozen[name])] == []
    still = {name for name, parameter in adaptation.named_parameters() if torch.equal(parameter, before[name])}
    assert still == {name for name, parameter in adaptation.named_parameters() if not parameter.requires_grad}


def test_counts_are_what_training_moves(case: Case, adaptation: Adaptation) -> None:
    trained = sum(parameter.numel() for parameter in adaptation.parameters() if parameter.requires_grad)
    assert sum(adaptation.counts().values()) == trained
    assert (trained > 0) == adapt.trains(case.method)


def test_saved_and_loaded_is_the_same(case: Case, backbone: Backbone, adaptation: Adaptation, tmp_path: Path) -> None:
    shaken(adaptation)
    save_file(adaptation.state_dict(), tmp_path / "adaptation.safetensors")
    other = adapt.build(case.method, case.options, backbone, CLASSES)
    other.load_state_dict(load_file(tmp_path / "adaptation.safetensors"))
    images = stacks(backbone)
    assert torch.equal(logits(backbone, adaptation, images), logits(backbone, other, images))


@pytest.mark.parametrize("depth", [1, 3])
def test_any_depth_gives_logits_of_the_input_size(backbone: Backbone, adaptation: Adaptation, depth: int) -> None:
    result = logits(backbone, shaken(adaptation), stacks(backbone, depth=depth))
    assert result.shape == (1, depth, CLASSES, *backbone.image_size)
    assert result.isfinite().all()


def test_stacks_do_not_influence_each_other(backbone: Backbone, adaptation: Adaptation) -> None:
    shaken(adaptation)
    both = stacks(backbone, batch=2, depth=3)
    together = logits(backbone, adaptation, both)
    alone = torch.cat([logits(backbone, adaptation, one[None]) for one in both])
    assert torch.allclose(together, alone, atol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


def test_slices_meet_as_the_method_says(backbone: Backbone, adaptation: Adaptation) -> None:
    """A slice is the same in another stack if slices never meet, and in a longer one as far as neighbours reach.

    Two convolutions in each block reach two slices farther.
    """
    meeting = Segmenter(backbone, shaken(adaptation)).meeting
    assert meeting == adaptation.encoder.meeting or meeting == "stack"
    if meeting == "stack":
        return
    reach = 0 if meeting == "never" else 2 * backbone.variant.depth
    long = stacks(backbone, depth=reach + 3)
    whole = logits(backbone, adaptation, long)[0]
    shorter = logits(backbone, adaptation, long[:, : reach + 1])[0]
    torch.testing.assert_close(shorter[0], whole[0], rtol=1e-4, atol=1e-4)
    if meeting == "neighbours":
        assert not torch.allclose(shorter[-1], whole[reach], atol=1e-4)


def test_a_prompt_changes_the_answer_on_its_own_frame_alone(
    case: Case, backbone: Backbone, adaptation: Adaptation
) -> None:
    """Moving a point, or a corner of a box, on one of two frames of a stack; whole networks answer no prompts."""
    segmenter = Segmenter(backbone, shaken(adaptation)).eval()
    height, width = backbone.image_size
    points = torch.tensor([[[8.0, 8.0]], [[20.0, 9.0]]])
    boxes = torch.tensor([[[4.0, 4.0, 20.0, 20.0]], [[6.0, 2.0, 30.0, 30.0]]])
    labels = torch.ones(2, 1, dtype=torch.long)
    with torch.no_grad():
        features = segmenter.encode(stacks(backbone))
        if case.whole:
            with pytest.raises(ConfigError, match="answers no prompts"):
                segmenter.decode(features, PromptBatch(points, labels, boxes))
            return

        def masks(points: Tensor, boxes: Tensor | None) -> Tensor:
            return segmenter.decode(features, PromptBatch(points, labels, boxes)).logits

        moved_point, moved_box = points.clone(), boxes.clone()
        moved_point[1, 0] = torch.tensor([width - 8.0, height - 6.0])
        moved_box[1, 0, 2:] = torch.tensor([width - 1.0, height - 2.0])
        for before, after in (
            (masks(points, None), masks(moved_point, None)),
            (masks(points, boxes), masks(points, moved_box)),
        ):
            assert torch.allclose(before[0], after[0], atol=1e-5)
            assert not torch.allclose(before[1], after[1], atol=1e-4)


def test_the_quality_head_is_trained_on_request_alone(case: Case, adaptation: Adaptation) -> None:
    if case.whole:
        return
    head = list(adaptation.decoder.iou_prediction_head.parameters())
    before = sum(adaptation.counts().values())
    adaptation.train_quality()
    assert all(parameter.requires_grad for parameter in head)
    assert sum(adaptation.counts().values()) == before + sum(parameter.numel() for parameter in head)


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in plugins.names("adapt") if name not in SMALL])
def test_compiles_as_one_graph(method: str) -> None:
    sizes = dataclasses.replace(backbones.VARIANTS["sam-tiny"], name="two blocks", depth=2, global_blocks=(1,))
    backbone = Backbone(sizes, SIZES["padded"])
    segmenter = Segmenter(backbone, shaken(adapt.build(method, {}, backbone, CLASSES))).eval()
    images = stacks(backbone)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(segmenter, backend="eager", fullgraph=True)(images)
    assert torch.allclose(compiled, segmenter(images), atol=1e-4)


def test_half_precision_is_finite(case: Case, backbone: Backbone, adaptation: Adaptation) -> None:
    segmenter = Segmenter(backbone, shaken(adaptation)).train()
    with torch.autocast("cpu", torch.bfloat16):
        result = segmenter(stacks(backbone))
    assert result.isfinite().all()
    if not adapt.trains(case.method):
        return
    result.float().square().mean().backward()
    gradients = [parameter.grad for parameter in adaptation.parameters() if parameter.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_shares_no_tensor_and_repeats_only_the_names_of_copies(backbone: Backbone, adaptation: Adaptation) -> None:
    own, frozen = adaptation.state_dict(), backbone.state_dict()
    places = [tensor.data_ptr() for tensor in (*own.values(), *frozen.values())]
    assert len(set(places)) == len(places)
    assert {name.partition(".")[0] for name in own.keys() & frozen.keys()} <= {"prompt_encoder", "image_encoder"}


def test_merged_is_the_same_model(backbone: Backbone, adaptation: Adaptation) -> None:
    images, encoder = stacks(backbone), shaken(adaptation).encoder
    if not hasattr(encoder, "folded"):
        with pytest.raises(ConfigError, match="nothing to fold"):
            adapt.merged(adaptation, backbone)
        return
    frozen, expected = copy.deepcopy(backbone.state_dict()), logits(backbone, adaptation, images)
    own = copy.deepcopy(adaptation.state_dict())
    merged = adapt.merged(adaptation, backbone)
    result = logits(backbone, merged, images)
    assert (result - expected).norm() <= 1e-5 * expected.norm()
    block = torch.rand(2, 5, 9, 3 * backbone.variant.dim)
    assert merged.encoder.qkv(0, block, block[..., : backbone.variant.dim]) is block
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in backbone.state_dict().items())
    assert all(torch.equal(tensor, own[name]) for name, tensor in adaptation.state_dict().items())
    places = {tensor.data_ptr() for tensor in (*frozen.values(), *adaptation.state_dict().values())}
    assert places.isdisjoint(tensor.data_ptr() for tensor in merged.state_dict().values())
    assert merged.counts() == {}
    assert not merged.training


def test_configuration_goes_through_yaml(method: str) -> None:
    kind = adapt.config_of(method)
    assert dataclasses.is_dataclass(kind)
    default = kind()
    assert config.parse(kind, yaml.safe_load(config.dump(default)) or {}) == default
    with pytest.raises(dataclasses.FrozenInstanceError):
        default.anything = 1


def fitting(method: str) -> Backbone:
    return made("sam-tiny" if adapt.needs_backbone(method) else "none", SIZES["square"])


def test_unknown_keys_and_foreign_configurations_are_refused(method: str) -> None:
    with pytest.raises(ConfigError, match="rnak: unknown key"):
        adapt.build(method, {"rnak": 4}, fitting(method), CLASSES)
    with pytest.raises(ConfigError, match="needs a"):
        adapt.build(method, 4, fitting(method), CLASSES)


def test_background_alone_is_no_task(method: str) -> None:
    with pytest.raises(ConfigError, match="count the background"):
        adapt.build(method, {}, fitting(method), 1)


def test_a_backbone_for_a_whole_network_and_none_for_an_adaptation_are_refused(method: str) -> None:
    other = "none" if adapt.needs_backbone(method) else "sam-tiny"
    with pytest.raises(ConfigError, match=f"{method} .* backbone.*, but {other} came"):
        adapt.build(method, {}, made(other, SIZES["square"]), CLASSES)


@pytest.mark.parametrize("method", [name for name in plugins.names("adapt") if name not in SMALL])
def test_builds_where_the_backbone_is(method: str) -> None:
    with torch.device("meta"):
        backbone = Backbone(backbones.build("sam-tiny").variant)
    adaptation = adapt.build(method, {}, backbone, CLASSES)
    assert {tensor.device.type for tensor in adaptation.state_dict().values()} == {"meta"}


def test_unknown_methods_are_refused() -> None:
    with pytest.raises(ConfigError, match="no plug-in 'ma-sam' in adapt"):
        adapt.build("ma-sam", {}, fitting("ma_sam"), CLASSES)
