"""Whole networks and the frozen one: sizes as published, what is refused, and a run from data to masks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from torch import nn

from voxelsam import adapt, backbones, bundle
from voxelsam.adapt.dynunet import topology
from voxelsam.data.fingerprint import CaseFacts, Fingerprint
from voxelsam.errors import ConfigError
from voxelsam.model import Segmenter
from voxelsam.nn.nnformer import Block, NnFormer, Sizes, WindowAttention
from voxelsam.nn.seam import EncoderAdaptation, Stack
from voxelsam.stacks.plan import StackPlan
from voxelsam.train import history, whole
from voxelsam.train.job import start
from voxelsam.train.recipe import parse
from voxelsam.train.run import train

Settings = dict[str, dict[str, Any]]


def network(name: str, size: tuple[int, int] = (96, 96), classes: int = 2, **options: Any) -> adapt.Adaptation:
    torch.manual_seed(1)
    return adapt.build(name, options, backbones.build("none", size), classes)


@pytest.mark.parametrize(
    ("name", "depth", "size", "classes", "options", "millions"),
    [
        ("swin_unetr", 96, (96, 96), 14, {}, 62.2),  # SwinUNETR's paper and MONAI's page
        ("unetr", 96, (96, 96), 14, {}, 92.8),  # MONAI's page; 92.6 in the paper's table
        ("ux_net", 96, (96, 96), 14, {}, 53.0),  # 3D UX-Net, table 1
        ("nnformer", 64, (128, 128), 14, {}, 149.5),  # 149.3 and 150.5 in published tables
        ("dynunet", 128, (128, 128), 2, {}, 31.2),  # nnU-Net's 3D network of six stages
        ("dynunet", 1, (512, 512), 2, {}, 46.3),  # its 2D network of eight stages
        ("vnet", 96, (96, 96), 2, {}, 45.6),
        ("dynunet", 128, (128, 128), 2, {"filters": 8}, 2.0),
        ("swin_unetr", 96, (96, 96), 14, {"feature_size": 12}, 4.1),
        ("ux_net", 96, (96, 96), 14, {"feature_size": 12}, 3.4),
        ("nnformer", 32, (96, 96), 14, {"width": 24, "heads": [2, 2, 4, 4]}, 2.4),
    ],
)
def test_full_networks_have_the_published_size(
    name: str, depth: int, size: tuple[int, int], classes: int, options: dict[str, Any], millions: float
) -> None:
    with unfilled():
        found = network(name, size, classes, depth=depth, channels=1, **options)
    assert sum(found.counts().values()) / 1e6 == pytest.approx(millions, abs=0.05)
    assert set(found.counts()) == {"image_encoder"}


class unfilled:  # noqa: N801
    """Leaves weights as they are allocated: counting them needs no random numbers."""

    def __enter__(self) -> None:
        self.before = {name: getattr(nn.init, name) for name in self.names}
        for name in self.names:
            setattr(nn.init, name, lambda tensor, *_, **__: tensor)

    def __exit__(self, *_: object) -> None:
        for name, function in self.before.items():
            setattr(nn.init, name, function)

    names = ("kaiming_uniform_", "kaiming_normal_", "uniform_", "normal_", "trunc_normal_", "xavier_uniform_")


def test_the_rule_of_nn_u_net_for_equal_voxels() -> None:
    planned = topology((128, 128, 128), (1.0, 1.0, 1.0))
    assert planned.kernels == ((3, 3, 3),) * 6
    assert planned.strides == ((1, 1, 1), *((2, 2, 2),) * 5)
    assert planned.steps == (32, 32, 32)


def test_thick_slices_are_halved_and_reached_across_later() -> None:
    planned = topology((20, 256, 224), (10.0, 1.5, 1.5))
    assert planned.strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2))[:6]
    assert [kernel[0] for kernel in planned.kernels] == [1, 1, 3, 3, 3, 3]
    assert all(kernel[1:] == (3, 3) for kernel in planned.kernels)


def test_a_last_axis_is_halved_alone_from_twelve_voxels_on() -> None:
    assert topology((4, 16, 48), (1.0, 1.0, 1.0)).strides[-1] == (1, 1, 2)
    assert topology((4, 16, 32), (1.0, 1.0, 1.0)).strides[-1] == (1, 2, 2)


def test_the_bottom_keeps_four_voxels() -> None:
    for side in range(16, 200, 7):
        planned = topology((side, 2 * side), (1.0, 1.0))
        assert all(-(-length // step) >= 4 for length, step in zip((side, 2 * side), planned.steps, strict=True))


def test_images_that_cannot_be_halved_twice_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 16 × 16"):
        network("dynunet", (15, 12))
    assert network("dynunet", (16, 16), filters=2).counts()


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("dynunet", {"filters": 0}, "filters: at least 1"),
        ("dynunet", {"spacing": [0, 1, 1]}, "positive distances"),
        ("dynunet", {"depth": 0}, "at least one slice"),
        ("dynunet", {"channels": 2}, "channels"),
        ("swin_unetr", {"feature_size": 20}, "a multiple of 12"),
        ("unetr", {"hidden_size": 100}, "a multiple of num_heads"),
        ("unetr", {"mlp_dim": 0}, "mlp_dim is at least 1"),
        ("vnet", {"dropout": 1.0}, "from 0 to below 1"),
        ("ux_net", {"depths": [2, 2, 2]}, "depths"),
        ("ux_net", {"feature_size": 0}, "at least 1"),
        ("nnformer", {"heads": [5, 2, 2, 2]}, "divisors"),
        ("nnformer", {"width": 9}, "even number"),
        ("nnformer", {"patch": [2, 3, 4]}, "even along height and width"),
        ("nnformer", {"windows": [0, 4, 4, 4]}, "at least 1"),
        ("frozen", {"rank": 4}, "unknown key"),
    ],
)
def test_options_that_make_no_network_are_refused(name: str, options: dict[str, Any], said: str) -> None:
    backbone = backbones.build("none" if name != "frozen" else "sam-tiny", (64, 64))
    with pytest.raises(ConfigError, match=said):
        adapt.build(name, options, backbone, 2)


@pytest.mark.parametrize("options", [{"depth": 3}, {"depth": 1}])
def test_padding_repeats_the_edge_and_is_cut_off_again(options: dict[str, Any]) -> None:
    """A network that hands its input on: what comes back is the input, and what it saw was padded."""
    seen: list[torch.Tensor] = []

    class Recorder(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return x

    encoder = network("ux_net", (40, 33), feature_size=2, channels=3, **options).image_encoder
    assert encoder is not None
    encoder.network = Recorder()
    frames = torch.rand(6, 3, 40, 33)
    result = encoder(frames, Stack(3), EncoderAdaptation())
    assert torch.equal(result, frames)
    padded = seen[0]
    assert padded.shape == ((2, 3, 16, 48, 48) if options["depth"] > 1 else (6, 3, 48, 48))
    assert torch.equal(padded[..., 40:, 5], padded[..., 39:40, 5].expand_as(padded[..., 40:, 5]))
    if options["depth"] > 1:
        assert torch.equal(padded[1, :, 3:, :40, :33], frames[5][:, None].expand(3, 13, 40, 33))
        assert torch.equal(padded[1, :, 1, :40, :33], frames[4])


@pytest.mark.parametrize("name", ["swin_unetr", "unetr", "vnet", "nnformer", "ux_net"])
def test_three_dimensions_see_other_slices_and_two_do_not(name: str) -> None:
    small: dict[str, dict[str, Any]] = {
        "swin_unetr": {"feature_size": 12},
        "unetr": {"feature_size": 2, "hidden_size": 12, "mlp_dim": 12, "num_heads": 1},
        "nnformer": {"width": 4, "heads": [1, 1, 1, 1]},
        "ux_net": {"feature_size": 2},
    }
    images = torch.rand(1, 2, 3, 32, 32)
    other = images.clone()
    other[0, 0] = 1 - other[0, 0]
    for depth in (1, 2):
        if name == "vnet" and depth == 2:
            continue  # its widths are fixed, and 11 million weights of large kernels are slow
        model = network(name, (32, 32), depth=depth, **small.get(name, {}))
        segmenter = Segmenter(backbones.build("none", (32, 32)), model).eval()
        with torch.no_grad():
            moved = (segmenter(images) - segmenter(other))[0, 1].abs().max()
        assert (moved > 1e-5) == (depth == 2)


def test_one_channel_is_used_where_three_are_copies() -> None:
    grey, colour = (network("dynunet", (32, 32), filters=2, channels=channels) for channels in (1, 3))
    images = torch.rand(1, 1, 3, 32, 32)
    other = images.clone()
    other[:, :, 1:] = 0
    backbone = backbones.build("none", (32, 32))
    with torch.no_grad():
        for model, same in ((grey, True), (colour, False)):
            segmenter = Segmenter(backbone, model).eval()
            assert torch.equal(segmenter(images), segmenter(other)) == same


def test_a_network_with_learnt_positions_refuses_larger_stacks() -> None:
    small = {"feature_size": 2, "hidden_size": 12, "mlp_dim": 12, "num_heads": 1}
    model = network("unetr", (32, 32), depth=2, **small)
    segmenter = Segmenter(backbones.build("none", (32, 32)), model).eval()
    with torch.no_grad():
        assert segmenter(torch.rand(1, 16, 3, 32, 32)).shape == (1, 16, 2, 32, 32)
        with pytest.raises(ConfigError, match="at most 16 × 32 × 32 voxels, but 17 × 32 × 32 came"):
            segmenter(torch.rand(1, 17, 3, 32, 32))


def test_windows_see_themselves_and_nothing_else() -> None:
    """Without shift a token sees its window; with shift the neighbour's half, and never across the image's edge."""
    torch.manual_seed(0)
    for shifted, reach in ((False, {4, 5, 6, 7}), (True, {2, 3, 4, 5})):
        attention = WindowAttention(4, 1, (1, 1, 4), shifted=shifted, crossed=False)
        tokens = torch.rand(1, 1, 1, 10, 4)
        seen = attention(tokens)
        changed = set()
        for place in range(10):
            other = tokens.clone()
            other[..., place, :] += 1
            if not torch.allclose(attention(other)[..., 5, :], seen[..., 5, :]):
                changed.add(place)
        assert changed == reach


def test_filling_is_never_attended_to() -> None:
    """Ten tokens in windows of four: the last window has two, whose answer does not depend on how it is filled."""
    torch.manual_seed(0)
    attention = WindowAttention(4, 1, (1, 1, 4), shifted=False, crossed=False)
    tokens = torch.rand(1, 1, 1, 10, 4)
    attention.positions.data.zero_()
    alone = WindowAttention(4, 1, (1, 1, 4), shifted=False, crossed=False)
    alone.load_state_dict(attention.state_dict())
    assert torch.allclose(attention(tokens)[..., 8:, :], alone(tokens[..., 8:, :]), atol=1e-6)


def test_relative_positions_of_a_window_are_all_different() -> None:
    attention = WindowAttention(2, 1, (2, 2, 2), shifted=False, crossed=False)
    attention.positions.data = torch.arange(27.0).view(1, 3, 3, 3)
    bias = attention._bias((2, 2, 2))[0]
    assert len(set(bias.flatten().tolist())) == 27
    assert set(bias.diagonal().tolist()) == {13.0}
    assert bias[0, 1] != bias[1, 0]


def test_skip_attention_adds_both_and_asks_from_below() -> None:
    torch.manual_seed(0)
    block = Block(4, 1, (1, 2, 2), crossed=True)
    nn.init.zeros_(block.attention.out.weight)
    nn.init.zeros_(block.attention.out.bias)
    nn.init.zeros_(block.mlp[2].weight)
    nn.init.zeros_(block.mlp[2].bias)
    beside, below = torch.rand(1, 1, 4, 4, 4), torch.rand(1, 1, 4, 4, 4)
    assert torch.allclose(block(beside, below), beside + below)


def test_two_dimensions_of_nnformer_have_no_kernel_along_depth() -> None:
    flat = NnFormer(1, 2, Sizes(4, (1, 1, 1, 1), flat=True))
    kernels = {layer.kernel_size[0] for layer in flat.modules() if isinstance(layer, nn.Conv3d)}
    assert kernels == {1}
    assert flat(torch.rand(1, 1, 32, 32)).shape == (1, 2, 32, 32)


def facts(size: tuple[int, int, int], spacing: tuple[float, float, float], **more: Any) -> Fingerprint:
    return Fingerprint((CaseFacts("a", "axial", {"axial": size}, {"axial": spacing}, ((0, 0, 0),), {}, **more),))


def settled(fingerprint: Fingerprint, **settings: Any) -> tuple[dict[str, Any], StackPlan, int | None]:
    given = {"data": {"root": "x"}, "adapt": {"name": "dynunet"}, **settings}
    recipe, _ = whole.settled(parse(given), fingerprint, given)
    return recipe.adapt, recipe.stack, recipe.train.stacks_per_epoch


def test_what_the_stack_decides_is_filled_in() -> None:
    scan = facts((100, 80, 40), (1.0, 1.0, 3.0))
    options, stack, stacks = settled(scan, stack={"depth": 8, "size": [160, 200]})
    assert options == {"name": "dynunet", "depth": 8, "channels": 1, "spacing": [3.0, 0.5, 0.5]}
    assert stack.stride == 4
    assert stacks == 25


def test_a_plan_that_resamples_decides_by_its_own_spacing() -> None:
    scan = facts((100, 80, 40), (1.0, 1.0, 3.0))
    plan = {"depth": 8, "size": [160, 200], "spacing": [2.0, 2.0, 1.0]}
    assert settled(scan, stack=plan)[0]["spacing"] == [1.0, 0.5, 0.5]


def test_what_the_user_states_goes_first() -> None:
    scan = facts((100, 80, 40), (1.0, 1.0, 3.0))
    options, stack, stacks = settled(
        scan,
        adapt={"name": "dynunet", "depth": 1, "channels": 3},
        stack={"depth": 8, "stride": 8, "size": [80, 100]},
        train={"stacks_per_epoch": 7},
    )
    assert (options["depth"], options["channels"], stack.stride, stacks) == (1, 3, 8, 7)


def test_pictures_and_films_have_equal_voxels() -> None:
    picture = facts((100, 80, 1), (1.0, 1.0, 1.0), alone=True)
    options, stack, stacks = settled(picture, stack={"depth": 1, "size": [80, 100], "channels": "rgb"})
    assert options == {"name": "dynunet", "depth": 1, "channels": 3, "spacing": [1.0, 1.0, 1.0]}
    assert (stack.stride, stacks) == (1, 1)
    film = facts((100, 80, 30), (1.0, 1.0, 0.04), kind="VIDEO")
    assert settled(film, stack={"depth": 8, "size": [80, 100]})[0]["spacing"] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"adapt": {"name": "dynunet"}, "backbone": {"name": "sam-tiny"}}, "takes no backbone"),
        ({"adapt": {"name": "dynunet"}, "backbone": {"weights": "sam.pth"}}, "takes no backbone"),
        ({"adapt": {"name": "dynunet"}, "prompts": {"free": 0.5}}, "network without prompts"),
        ({"adapt": {"name": "lora"}, "backbone": {"name": "none"}}, "adapts a SAM backbone"),
        ({"adapt": {"name": "frozen"}, "prompts": {"free": 1.0}}, "answers prompts only"),
    ],
)
def test_recipes_that_ask_for_what_a_method_cannot_give_are_refused(
    phantom: Path, tmp_path: Path, settings: Settings, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        start(phantom, tmp_path / "run", settings)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def dynunet(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the smallest U-Net on the phantom."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    settings: Settings = {
        "adapt": {"name": "dynunet", "filters": 4},
        "stack": {"size": [32, 32]},
        "train": {"epochs": 6, "warmup": 1, "lr": 3e-3, "device": "cpu", "seed": 5, "validate_every": 3},
    }
    train(phantom, folder, settings=settings)
    return folder


def test_training_lowers_the_loss_and_says_that_there_is_no_backbone(dynunet: Path) -> None:
    losses = [row["loss"] for row in history.read(dynunet / "metrics.csv")]
    assert losses[-1] < 0.95 * losses[0]
    recipe = yaml.safe_load((dynunet / "recipe.yaml").read_text())
    assert recipe["backbone"] == {"name": "none", "weights": None}
    assert recipe["adapt"]["depth"] == recipe["stack"]["depth"] == 9
    card = (dynunet / "best" / "card.md").read_text()
    assert card.startswith("# dynunet\n")
    assert "backbone: none" in card
    assert "random" not in card


def test_the_bundle_holds_the_whole_network(dynunet: Path) -> None:
    trained = bundle.load(dynunet / "best")
    assert trained.description.from_backbone == ()
    assert (trained.description.backbone.name, trained.description.backbone.sha256) == ("none", "")
    state = trained.segmenter().adaptation.state_dict()
    assert set(state) == set(trained.tensors)
    assert all(torch.equal(state[name], tensor) for name, tensor in trained.tensors.items())


def test_masks_keep_the_geometry_and_prompts_are_refused(
    dynunet: Path, phantom: Path, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    scan = next((phantom / "imagesTs").iterdir())
    assert run("predict", "-m", dynunet / "best", "-i", scan, "-o", tmp_path / "mask.nii.gz")[0] == 0
    image, mask = nib.load(scan), nib.load(tmp_path / "mask.nii.gz")
    assert np.array_equal(image.affine, mask.affine)
    assert image.shape == mask.shape
    code, _, said = run("evaluate", "--interactive", "-m", dynunet / "best", "-r", phantom, "-o", tmp_path / "study")
    assert code == 2
    assert "prompt" in said
    code, out, _ = run("info", dynunet / "best", "--json")
    assert code == 0
    assert json.loads(out)["backbone"]["name"] == "none"


def test_the_frozen_model_is_ready_at_once_and_answers_prompts(
    phantom: Path, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    settings = ["--set", "adapt.name=frozen", "--set", "stack.size=[32,32]", "--set", "train.device=cpu"]
    assert run("train", phantom, "-o", tmp_path / "run", *settings)[0] == 0
    trained = bundle.load(tmp_path / "run" / "best")
    assert not trained.description.prompts.free
    assert set(trained.description.prompts.kinds) == {"point", "box", "cuboid", "mask"}
    assert sum(trained.segmenter().adaptation.counts().values()) == 0
    scan = next((phantom / "imagesTs").iterdir())
    assert run("predict", "-m", tmp_path / "run" / "best", "-i", scan, "-o", tmp_path / "mask.nii.gz")[0] == 2
    asked = ["--way", "box", "--fold", 0, "--device", "cpu"]
    code, _, said = run(
        "evaluate", "--interactive", "-m", tmp_path / "run" / "best", "-r", phantom, "-o", tmp_path / "s", *asked
    )
    assert code == 0, said
    code, _, said = run("train", phantom, "-o", tmp_path / "dry", *settings, "--dry-run")
    assert code == 2
    assert "trains nothing" in said


def test_a_frozen_structure_answers_as_sam_does() -> None:
    from voxelsam.nn.prompt_encoder import PromptBatch

    backbone = backbones.build("sam-tiny", (64, 64))
    segmenter = Segmenter(backbone, adapt.build("frozen", {}, backbone, 4)).eval()
    prompts = PromptBatch(torch.tensor([[[20.0, 30.0]]]), torch.ones(1, 1, dtype=torch.long))
    images = torch.rand(1, 1, 3, 64, 64)
    one = Segmenter(backbone, adapt.build("frozen", {}, backbone, 2)).eval()
    with torch.no_grad():
        features = segmenter.encode(images)
        encoded = backbone.prompt_encoder(prompts, frames=1)
        sam = backbone.mask_decoder(features, backbone.prompt_encoder.dense_pe(), encoded).logits[:, :1]
        found = one.decode(features, prompts).logits
        several = segmenter.decode(features, prompts).logits
    assert torch.allclose(found[:, 1:], nn.functional.interpolate(sam, (64, 64), mode="bilinear"), atol=1e-5)
    assert torch.equal(several[:, 1], several[:, 2])


@pytest.mark.parametrize("depth", [1, 2])
def test_v_net_drops_channels_and_never_whole_slices(depth: int) -> None:
    for share in (0.5, 0.0):
        network_of = network("vnet", (16, 16), depth=depth, dropout=share).image_encoder
        assert network_of is not None
        layers = [part for part in network_of.modules() if isinstance(part, nn.modules.dropout._DropoutNd)]
        assert {type(layer) for layer in layers} == {nn.Dropout2d if depth == 1 else nn.Dropout3d}
        assert {layer.p for layer in layers} == {share}
