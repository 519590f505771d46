"""Loading: every tensor accounted for, resized once, and the variant found from the tensors."""

import hashlib
import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from voxelsam import backbones
from voxelsam.backbones._weights import resize_positions
from voxelsam.errors import ConfigError, InputWarning, WeightsError
from voxelsam.nn.backbone import Backbone, Variant


@pytest.fixture
def checkpoint(tmp_path, state):
    torch.save(state, tmp_path / "small.pth")
    return tmp_path / "small.pth"


def sizes(variant):
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in Backbone(variant).state_dict().items()}


def cheap(variant):
    """Tensors of the right shapes that share one number."""
    return {name: torch.zeros(1).expand(shape) for name, shape in sizes(variant).items()}


def test_tensors_arrive_bit_by_bit(checkpoint, small, state):
    backbone, report = backbones.load(checkpoint, variant=small)
    assert all(torch.equal(tensor, state[name]) for name, tensor in backbone.state_dict().items())
    assert set(report.loaded) == set(state)
    assert (report.resized, report.initialised, report.ignored) == ((), (), ())
    assert report.sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest() == backbones.fingerprint(backbone)
    assert report.image_size == report.file_image_size == (64, 48)


def test_what_is_loaded_is_frozen_and_in_evaluation_mode(checkpoint, small):
    backbone, _ = backbones.load(checkpoint, variant=small, image_size=(32, 32))
    assert not any(tensor.requires_grad or tensor.is_meta for tensor in backbone.state_dict(keep_vars=True).values())
    assert not any(module.training for module in backbone.modules())


def test_all_kinds_of_files_give_the_same(tmp_path, checkpoint, small, state, image):
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save({"model": state, "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "nested.pth")
    save_file(state, tmp_path / "wrong_suffix.bin")
    for folder, name in (("a", "model.safetensors"), ("b", "pytorch_model.bin")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes((tmp_path / "wrong_suffix.bin").read_bytes())
    expected = backbones.load(checkpoint, variant=small)[0].image_encoder(image)
    for name in ("old.pth", "nested.pth", "wrong_suffix.bin", "a", "b", "a/model.safetensors"):
        backbone, report = backbones.load(str(tmp_path / name), variant=small)
        assert torch.equal(backbone.image_encoder(image), expected)
        assert report.ignored == (("epoch", "optimizer") if name == "nested.pth" else ())


def test_half_precision_becomes_single(tmp_path, small, state):
    save_file({name: tensor.half() for name, tensor in state.items()}, tmp_path / "half.safetensors")
    backbone, _ = backbones.load(tmp_path / "half.safetensors", variant=small)
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, state[name].half().float())


def test_pixel_statistics_in_a_file_are_ignored_and_named(tmp_path, small, state):
    torch.save(state | {"pixel_mean": torch.zeros(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}, tmp_path / "x.pth")
    assert backbones.load(tmp_path / "x.pth", variant=small)[1].ignored == ("pixel_mean", "pixel_std")


def test_another_image_size_resizes_only_what_depends_on_it(checkpoint, small, state):
    backbone, report = backbones.load(checkpoint, variant=small, image_size=(40, 96))
    tables = tuple(f"image_encoder.blocks.1.attn.rel_pos_{axis}" for axis in "hw")
    assert report.resized == (*tables, "image_encoder.pos_embed")
    assert set(report.loaded) == set(state) - set(report.resized)
    new = backbone.state_dict()
    for name in report.loaded:
        assert torch.equal(new[name], state[name])
    pos = F.interpolate(state[report.resized[2]].permute(0, 3, 1, 2), (5, 12), mode="bilinear", align_corners=False)
    torch.testing.assert_close(new[report.resized[2]], pos.permute(0, 2, 3, 1))
    for name, rows in zip(tables, (9, 23), strict=True):
        table = F.interpolate(state[name].T[None], rows, mode="linear", align_corners=False)[0].T
        torch.testing.assert_close(new[name], table)
    assert backbone.image_encoder(torch.randn(1, 3, 40, 96)).isfinite().all()
    assert report.sha256 == backbones.fingerprint(backbones.load(checkpoint, variant=small)[0])


def test_one_changed_side_resizes_one_table(checkpoint, small):
    _, report = backbones.load(checkpoint, variant=small, image_size=(64, 96))
    assert report.resized == ("image_encoder.blocks.1.attn.rel_pos_w", "image_encoder.pos_embed")


def test_resized_positions_keep_a_ramp():
    ramp = torch.arange(8.0)[None, :, None, None] + 10 * torch.arange(6.0)[None, None, :, None]
    wide = resize_positions(ramp, (16, 12))
    assert (wide.diff(dim=1) >= 0).all()
    assert (wide.diff(dim=2) >= 0).all()
    torch.testing.assert_close(resize_positions(wide, (8, 6))[:, 1:-1, 1:-1], ramp[:, 1:-1, 1:-1])


def test_resizing_equals_the_official_loader(shared):
    """Tensors made by the official MA-SAM loader, see the manifest of each case."""
    cases = sorted((shared / "golden/ma_sam").glob("sam_load_*"))
    assert cases
    for case in cases:
        config = json.loads((case / "manifest.json").read_text())["config"]
        size = (config["image_size"],) * 2
        variant = Variant(
            case.name,
            dim=config["embed_dim"],
            depth=config["depth"],
            heads=config["num_heads"],
            global_blocks=tuple(config["global_attn_indexes"]),
            window=config["window_size"],
            patch=config["patch_size"],
            mlp_ratio=config["mlp_ratio"],
            decoder_dim=config["transformer_dim"],
            decoder_depth=config["decoder_depth"],
            decoder_heads=config["decoder_num_heads"],
            decoder_mlp=config["decoder_mlp_dim"],
            iou_hidden=config["iou_head_hidden_dim"],
        )
        backbone, report = backbones.load(case / "sam_pretrained.safetensors", variant=variant, image_size=size)
        official = load_file(case / "interpolated.safetensors")
        assert set(report.resized) == set(official)
        state = backbone.state_dict()
        for name, tensor in official.items():
            torch.testing.assert_close(state[name], tensor, atol=1e-6, rtol=1e-6)


def test_the_report_speaks_to_people_and_to_json(checkpoint, small):
    _, report = backbones.load(checkpoint, variant=small, image_size=(32, 32))
    text = "\n".join(report.lines())
    assert "small from small.pth" in text
    assert "resized from 64 × 48 to 32 × 32 pixels: image_encoder.blocks.1.attn.rel_pos_h" in text
    assert "ignored" not in text
    values = json.loads(json.dumps(report.to_json()))
    assert values["resized"] == list(report.resized)
    assert values["path"] == str(checkpoint)


def test_a_list_of_many_names_is_cut():
    report = backbones.LoadReport("v", Path("x"), "0" * 64, (1, 1), (1, 1), (), (), ("a",) * 14, ("b",))
    assert report.lines()[1:] == ("initialised: " + ", ".join("a" * 12) + " and 2 more", "ignored: b")


@pytest.mark.parametrize("name", ["sam-vit-b", "sam-vit-l", "sam-vit-h", "sam-tiny"])
def test_the_variant_is_found_from_the_tensors(name):
    tensors = cheap(backbones.VARIANTS[name])
    assert backbones._variant_of(tensors, backbones._module_of(name), Path("x.pth")).name == name


def test_a_file_for_another_image_size_is_found_too(tmp_path):
    tiny = backbones.build("sam-tiny", (64, 96))
    torch.save(tiny.state_dict(), tmp_path / "t.pth")
    backbone, report = backbones.load(tmp_path / "t.pth")
    assert report.variant == "sam-tiny"
    assert report.image_size == backbone.image_size == (64, 96)


def test_a_model_of_unknown_size_is_compared_with_the_closest(checkpoint):
    with pytest.raises(
        WeightsError, match=r"(?s)fits no known variant.*does not fit sam-tiny.*of another shape"
    ) as error:
        backbones.load(checkpoint)
    assert "32 × 3 × 8 × 8 instead of 128 × 3 × 8 × 8" in str(error.value)


def test_another_model_than_asked_for_is_named(tmp_path):
    torch.save(backbones.build("sam-tiny").state_dict(), tmp_path / "t.pth")
    with pytest.raises(WeightsError, match=r"t\.pth holds sam-tiny, but sam-vit-b was asked for"):
        backbones.load(tmp_path / "t.pth", "sam-vit-b")


def test_vit_h_where_vit_b_was_asked_for():
    with pytest.raises(WeightsError, match=r"x\.pth holds sam-vit-h, but sam-vit-b was asked for"):
        backbones._expected("sam-vit-b", cheap(backbones.VARIANTS["sam-vit-h"]), Path("x.pth"))


def test_medsam_must_be_named():
    tensors = cheap(backbones.VARIANTS["medsam"])
    module = backbones._module_of("medsam")
    with pytest.warns(InputWarning, match="say name='medsam'"):
        assert backbones._variant_of(tensors, module, Path("weights/medsam_vit_b.pth")).name == "sam-vit-b"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbones._variant_of(tensors, module, Path("weights/sam_vit_b_01ec64.pth"))
        assert backbones._expected("medsam", tensors, Path("medsam_vit_b.pth")).pixel_std == (255.0,) * 3


def test_an_unknown_name_lists_the_known_ones(checkpoint):
    for call in (lambda: backbones.build("sam-vit-x"), lambda: backbones.load(checkpoint, "sam-vit-x")):
        with pytest.raises(ConfigError, match=r"no backbone 'sam-vit-x'; there are: .*medsam.*sam-tiny"):
            call()


def test_missing_and_unexpected_tensors_are_listed(tmp_path, small, state):
    del state["mask_decoder.iou_token.weight"], state["image_encoder.blocks.2.norm1.bias"]
    torch.save(state | {"extra": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(WeightsError) as error:
        backbones.load(tmp_path / "x.pth", variant=small)
    assert "2 missing: image_encoder.blocks.2.norm1.bias, mask_decoder.iou_token.weight" in str(error.value)
    assert "1 unexpected: extra" in str(error.value)


@pytest.mark.parametrize("blocks", [(), (2,), (1, 2)])
def test_global_blocks_must_be_those_of_the_file(checkpoint, small, blocks):
    """A window table would otherwise be stretched as if it were a global one."""
    with pytest.raises(WeightsError, match=r"of another shape: image_encoder.blocks.[12].attn.rel_pos_h"):
        backbones.load(checkpoint, variant=replace(small, global_blocks=blocks), image_size=(32, 32))


def test_window_tables_are_never_resized(checkpoint, small):
    with pytest.raises(WeightsError, match="rel_pos_h is 5 × 16 instead of 7 × 16"):
        backbones.load(checkpoint, variant=replace(small, window=4))


def test_a_size_that_does_not_divide_is_refused(checkpoint, small):
    with pytest.raises(WeightsError, match="60 × 48 pixels does not divide into patches of 8"):
        backbones.load(checkpoint, variant=small, image_size=(60, 48))


def test_a_file_without_positions_says_so(tmp_path, small, state):
    del state["image_encoder.pos_embed"]
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"1 missing: image_encoder\.pos_embed"):
        backbones.load(tmp_path / "x.pth", variant=small)


def test_a_backbone_is_obtained_from_its_file_or_from_its_seed(tmp_path):
    tiny, report = backbones.obtain("sam-tiny", None, (64, 96))
    assert report.path is None
    assert report.sha256 == backbones.fingerprint(tiny)
    assert set(report.initialised) == set(tiny.state_dict())
    assert "from a seed" in report.lines()[0]
    assert report.to_json()["path"] is None
    torch.save(tiny.state_dict(), tmp_path / "t.pth")
    again, report = backbones.obtain(None, tmp_path / "t.pth")
    assert report.path == tmp_path / "t.pth"
    assert torch.equal(again.image_encoder.pos_embed, tiny.image_encoder.pos_embed)


def test_sizes_are_known_without_building(tmp_path):
    torch.save(backbones.build("sam-tiny").state_dict(), tmp_path / "t.pth")
    tiny = backbones.VARIANTS["sam-tiny"]
    assert backbones.variant_of("sam-tiny", None) == backbones.variant_of(None, tmp_path / "t.pth") == tiny
    assert backbones.variant_of("medsam", tmp_path / "absent.pth").name == "medsam"


@pytest.mark.parametrize("call", [backbones.obtain, backbones.variant_of])
def test_a_public_model_without_its_checkpoint_is_refused(call):
    with pytest.raises(WeightsError, match="sam-vit-b without its checkpoint would be random"):
        call("sam-vit-b", None)
    with pytest.raises(ConfigError, match="which backbone"):
        call(None, None)
    with pytest.raises(ConfigError, match="no backbone 'x'"):
        call("x", None)
