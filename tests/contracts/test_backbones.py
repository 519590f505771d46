"""What holds for every backbone plug-in; a new module is tested by these without a word."""

from dataclasses import replace

import pytest
import torch

from voxelsam import backbones, plugins
from voxelsam.errors import ConfigError, WeightsError
from voxelsam.nn.backbone import Variant
from voxelsam.nn.prompt_encoder import PromptBatch
from voxelsam.nn.seam import EncoderAdaptation, Stack

MODULES = plugins.names("backbones")
VARIANTS = list(backbones.VARIANTS)
WITH_WEIGHTS = [name for name in VARIANTS if name != backbones.NONE]


class Recorder(EncoderAdaptation):
    def __init__(self):
        super().__init__()
        self.calls, self.grids = [], []

    def before_attention(self, block, x, stack):
        self.calls.append((block, "before_attention"))
        self.grids.append(tuple(x.shape[1:]))
        return x

    def qkv(self, block, qkv, x):
        self.calls.append((block, "qkv", qkv.shape[-1], x.shape[-1], tuple(x.shape[1:3])))
        return qkv

    def attention(self, block, attend, x, stack):
        self.calls.append((block, "attention"))
        return attend(x)

    def before_mlp(self, block, x, stack):
        self.calls.append((block, "before_mlp"))
        return x

    def mlp(self, block, mlp, x, stack):
        self.calls.append((block, "mlp"))
        return mlp(x)


def slim(name: str, grid: tuple[int, int]) -> tuple[backbones.Backbone, Variant]:
    """The variant with few channels: same blocks, windows and patches."""
    full = backbones.VARIANTS[name]
    variant = replace(full, name="slim", dim=4 * full.heads, decoder_dim=32, decoder_mlp=32, iou_hidden=16)
    size = (grid[0] * full.patch, grid[1] * full.patch)
    owner = next(module for module in map(load, MODULES) if name in module.VARIANTS)
    return owner.build(variant, size), variant


def load(module):
    return plugins.load("backbones", module)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_offers_what_the_folder_asks_for(module):
    offered = load(module)
    assert offered.__doc__
    assert all(name == variant.name for name, variant in offered.VARIANTS.items())
    assert all(callable(rename) for rename in offered.DIALECTS.values())
    assert set(offered.VARIANTS) <= set(backbones.VARIANTS)


def test_names_of_variants_are_unique():
    assert sum(len(load(module).VARIANTS) for module in MODULES) == len(VARIANTS)


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_every_block_spec_is_true(name):
    grid = (3, 5)
    backbone, variant = slim(name, grid)
    recorder, frames = Recorder(), 2
    images = torch.randn(frames, 3, *backbone.image_size)
    features = backbone.image_encoder(images, Stack(frames), recorder)
    assert features.shape == (frames, variant.decoder_dim, *grid)
    specs = backbone.image_encoder.blocks_spec
    assert len(specs) == variant.depth
    for block, (spec, shape) in enumerate(zip(specs, recorder.grids, strict=True)):
        assert shape == (*spec.grid, spec.dim)
        reaches_over = spec.window and any(size % spec.window for size in spec.grid)
        grids = [spec.grid, (1, 1)] if reaches_over else [spec.grid]
        seen = [call for call in recorder.calls if call[:2] == (block, "qkv")]
        assert seen == [(block, "qkv", 3 * spec.dim, spec.dim, grid) for grid in grids]
        side = (spec.window, spec.window) if spec.window else spec.grid
        attention = backbone.image_encoder.blocks[block].attn
        assert [len(attention.rel_pos_h), len(attention.rel_pos_w)] == [2 * size - 1 for size in side]
        assert spec.dim % spec.heads == 0
        assert (spec.window == 0) == (block in variant.global_blocks)


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_the_points_are_called_in_order_once_per_block(name):
    """And once more for the token that fills windows up."""
    backbone, variant = slim(name, (2, 3))
    recorder = Recorder()
    backbone.image_encoder(torch.randn(1, 3, *backbone.image_size), adaptation=recorder)
    expected = []
    for block in range(variant.depth):
        qkv = ("qkv",) if block in variant.global_blocks else ("qkv", "qkv")
        order = ("before_attention", "attention", *qkv, "before_mlp", "mlp")
        expected += [(block, point) for point in order]
    assert [call[:2] for call in recorder.calls] == expected


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_a_backbone_is_frozen_in_evaluation_mode_and_runs_from_image_to_masks(name):
    backbone, variant = slim(name, (2, 3))
    assert not any(tensor.requires_grad for tensor in backbone.parameters())
    assert not any(module.training for module in backbone.train().modules())
    features = backbone.image_encoder(torch.randn(2, 3, *backbone.image_size))
    prompts = backbone.prompt_encoder(None, 2)
    scores = backbone.mask_decoder(features, backbone.prompt_encoder.dense_pe(), prompts)
    assert scores.logits.shape == (2, variant.masks, 8, 12)
    assert scores.logits.isfinite().all()


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_what_is_saved_is_found_again(name, tmp_path):
    backbone, variant = slim(name, (2, 3))
    torch.save(backbone.state_dict(), tmp_path / "x.pth")
    again, report = backbones.load(tmp_path / "x.pth", variant=variant)
    assert again.image_size == backbone.image_size
    assert not report.resized
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in backbone.state_dict().items())


@pytest.mark.parametrize("name", VARIANTS)
def test_pixel_statistics_are_given_for_0_to_255(name):
    variant = backbones.VARIANTS[name]
    assert all(0 <= value < 255 for value in variant.pixel_mean)
    assert all(1 < value <= 255 for value in variant.pixel_std)


def test_no_backbone_has_no_weights_takes_any_size_and_refuses_prompts(tmp_path):
    backbone, report = backbones.obtain("none", None, (31, 17))
    assert backbone.image_size == (31, 17)
    assert dict(backbone.state_dict()) == {}
    assert (report.sha256, report.loaded, report.initialised) == ("", (), ())
    assert report.lines() == ("no backbone: the whole network is trained from scratch",)
    assert backbone.prompt_encoder(None, frames=3).sparse.shape == (3, 0, 0)
    with pytest.raises(ConfigError, match="answers no prompts"):
        backbone.prompt_encoder(PromptBatch(torch.zeros(1, 1, 2), torch.ones(1, 1)), frames=1)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(ConfigError, match="has no weights"):
        backbones.obtain("none", tmp_path / "x.pth")


def test_a_checkpoint_is_never_taken_for_no_backbone(tmp_path):
    torch.save(backbones.build("sam-tiny").state_dict(), tmp_path / "tiny.pth")
    assert backbones.variant_of(None, tmp_path / "tiny.pth").name == "sam-tiny"
    with pytest.raises(WeightsError, match="holds sam-tiny, but medsam was asked for"):
        backbones.load(tmp_path / "tiny.pth", "medsam")
