"""Official files of Med-SA: whole checkpoints of both releases, adapters alone, and every way one does not fit."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from voxelsam import adapt
from voxelsam.adapt import Adaptation
from voxelsam.adapt._med_sa_file import our_name
from voxelsam.adapt.med_sa import Config, read_official
from voxelsam.errors import WeightsError
from voxelsam.nn.backbone import Backbone, Variant

KINDS = {"space_adapters": "Space_Adapter", "mlp_adapters": "MLP_Adapter", "depth_adapters": "Depth_Adapter"}
LAYERS = {"down": "D_fc1", "up": "D_fc2"}


@pytest.fixture
def adaptation(backbone: Backbone) -> Adaptation:
    """As if trained by the official code."""
    torch.manual_seed(8)
    result = adapt.build("med_sa", {"variant": "released"}, backbone, 2)
    with torch.no_grad():
        for parameter in result.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return result


def official_name(name: str) -> str:
    """The inverse of what the reader does, for the first release."""
    if match := re.fullmatch(r"encoder\.(\w+)\.(\d+)\.(\w+)\.(\w+)", name):
        kind, block, layer, part = match.groups()
        return f"image_encoder.blocks.{block}.{KINDS[kind]}.{LAYERS[layer]}.{part}"
    return f"mask_{name}"


def checkpoint(adaptation: Adaptation, backbone: Backbone) -> dict[str, Tensor]:
    """A whole one of the first release."""
    frozen = {name: t.clone() for name, t in backbone.state_dict().items() if not name.startswith("mask_decoder.")}
    return frozen | {official_name(name): tensor.clone() for name, tensor in adaptation.state_dict().items()}


def adapters_alone(adaptation: Adaptation, backbone: Backbone) -> dict[str, Tensor]:
    return {name: t for name, t in checkpoint(adaptation, backbone).items() if "_Adapter" in name}


def later(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With the names and the void tables of the newest release."""

    def name_of(name: str) -> str:
        name = name.replace(".attn.rel_pos_", ".attn.rel_")
        if name.startswith("mask_decoder."):
            name = name.replace(".mlp.lin1.", ".mlp.layers.0.0.").replace(".mlp.lin2.", ".mlp.fc.")
        return name

    return {name_of(name): torch.zeros_like(t) if ".rel_pos_" in name else t for name, t in tensors.items()}


def saved(content: object, folder: Path) -> Path:
    torch.save(content, folder / "official.pth")
    return folder / "official.pth"


def assert_same(ours: Adaptation, theirs: Adaptation, start: str = "") -> None:
    expected = {name: t for name, t in theirs.state_dict().items() if name.startswith(start)}
    assert all(torch.equal(ours.state_dict()[name], tensor) for name, tensor in expected.items())


def test_names_come_back(adaptation: Adaptation) -> None:
    assert all(our_name(official_name(name)) == name for name in adaptation.state_dict())


def test_a_whole_checkpoint_is_read(backbone: Backbone, adaptation: Adaptation, tmp_path: Path) -> None:
    other, report = read_official(saved(checkpoint(adaptation, backbone), tmp_path), backbone)
    assert_same(other, adaptation)
    assert len(report.loaded) == len(adaptation.state_dict())
    frozen = [name for name in backbone.state_dict() if not name.startswith("mask_decoder.")]
    assert sorted(report.same) == sorted(frozen)
    assert (report.ignored, report.classes, report.config.width, report.config.variant) == ((), 2, 4, "released")
    assert "width 4, 2 classes with the background" in report.lines()[0]
    assert not any(note.startswith("decoder") for note in report.notes)


def test_the_record_of_a_training_and_several_devices_are_seen_through(
    backbone: Backbone, adaptation: Adaptation, tmp_path: Path
) -> None:
    tensors = {f"module.{name}": tensor for name, tensor in checkpoint(adaptation, backbone).items()}
    record = {"epoch": 7, "model": "sam", "state_dict": tensors, "optimizer": {"state": {}}, "best_tol": 0.5}
    other, _ = read_official(saved(record, tmp_path), backbone)
    assert_same(other, adaptation)


def test_safetensors_are_read_too(backbone: Backbone, adaptation: Adaptation, tmp_path: Path) -> None:
    save_file(checkpoint(adaptation, backbone), tmp_path / "official.safetensors")
    assert_same(read_official(tmp_path / "official.safetensors", backbone)[0], adaptation)


def test_adapters_alone_leave_sams_decoder_and_say_so(
    backbone: Backbone, adaptation: Adaptation, tmp_path: Path
) -> None:
    other, report = read_official(saved(adapters_alone(adaptation, backbone), tmp_path), backbone)
    assert_same(other, adaptation, "encoder.")
    sam = backbone.mask_decoder.state_dict()
    assert all(torch.equal(tensor, sam[name]) for name, tensor in other.decoder.state_dict().items())
    assert len(report.loaded) == 2 * 3 * 4
    assert any(note.startswith("decoder: not in the file") for note in report.lines())


def test_adapters_may_come_without_the_name_of_the_encoder(
    backbone: Backbone, adaptation: Adaptation, tmp_path: Path
) -> None:
    tensors = adapters_alone(adaptation, backbone)
    short = {name.removeprefix("image_encoder."): tensor for name, tensor in tensors.items()}
    assert_same(read_official(saved(short, tmp_path), backbone)[0], adaptation, "encoder.")


def test_the_newest_release_is_read_by_its_names(backbone: Backbone, adaptation: Adaptation, tmp_path: Path) -> None:
    tensors = later(checkpoint(adaptation, backbone))
    assert any(".mlp.layers.0.0." in name for name in tensors)
    other, report = read_official(saved(tensors, tmp_path), backbone)
    assert_same(other, adaptation)
    assert report.config.relative_positions is False
    notes = "\n".join(report.notes)
    assert "decoder: it was trained in the two-way transformer of EfficientSAM" in notes
    assert "relative positions: all tables in the file are zero" in notes
    assert {name for name in report.ignored if ".rel_" not in name} == set()


def test_another_image_size_is_said(backbone: Backbone, adaptation: Adaptation, tmp_path: Path) -> None:
    tensors = checkpoint(adaptation, backbone)
    tensors["image_encoder.pos_embed"] = torch.zeros(1, 64, 64, 16)
    _, report = read_official(saved(tensors, tmp_path), backbone)
    assert report.ignored == ("image_encoder.pos_embed",)
    assert "of another image size, not compared (1): image_encoder.pos_embed" in report.lines()


def test_models_of_single_slices_leave_depth_out(backbone: Backbone, adaptation: Adaptation, tmp_path: Path) -> None:
    path = saved(checkpoint(adaptation, backbone), tmp_path)
    assert any(note.startswith("depth:") for note in read_official(path, backbone)[1].notes)
    other, report = read_official(path, backbone, config=Config("released", width=4, layout="none"))
    assert other.encoder.depth_adapters is None
    assert len(report.ignored) == 2 * 4
    assert all("Depth_Adapter" in name for name in report.ignored)
    assert not any(note.startswith("depth:") for note in report.notes)


def test_without_depth_adapters_the_layout_must_be_none(
    backbone: Backbone, adaptation: Adaptation, tmp_path: Path
) -> None:
    tensors = {name: t for name, t in checkpoint(adaptation, backbone).items() if "Depth_Adapter" not in name}
    path = saved(tensors, tmp_path)
    with pytest.raises(WeightsError, match="it has no depth adapters, read it with the layout none"):
        read_official(path, backbone)
    read_official(path, backbone, config=Config("released", layout="none"))


def test_another_decoder_is_left_out_and_said(backbone: Backbone, adaptation: Adaptation, tmp_path: Path) -> None:
    path = saved(checkpoint(adaptation, backbone), tmp_path)
    other, report = read_official(path, backbone, classes=3, config=Config(width=4))
    assert_same(other, adaptation, "encoder.")
    assert any(note.startswith("decoder: the one in the file is not used") for note in report.notes)
    assert any(name.startswith("mask_decoder.") for name in report.ignored)


def test_several_structures_are_the_first_mask_tokens(
    backbone: Backbone, adaptation: Adaptation, tmp_path: Path
) -> None:
    path = saved(checkpoint(adaptation, backbone), tmp_path)
    assert read_official(path, backbone, classes=5)[0].decoder.classes == 5
    with pytest.raises(WeightsError, match="mask tokens: expected 5, the file has 4"):
        read_official(path, backbone, classes=6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 24}, "channels: expected 24, the file has 16"),
        ({"depth": 3}, "blocks: expected 3, the file has 2"),
        ({"mlp_ratio": 2.0}, "trained on another SAM than this small: 6 frozen tensors differ"),
        ({"decoder_mlp": 20}, r"shape: mask_decoder\.transformer\.layers\.0\.mlp\.lin1\.weight \(24, 32\) instead of"),
    ],
)
def test_other_backbones_are_refused(
    backbone: Backbone,
    adaptation: Adaptation,
    variant: Variant,
    tmp_path: Path,
    change: dict[str, object],
    message: str,
) -> None:
    path = saved(checkpoint(adaptation, backbone), tmp_path)
    other = Backbone(replace(variant, **change))
    if "dim" not in change and "depth" not in change:
        state, given = other.state_dict(), backbone.state_dict()
        other.load_state_dict({n: given[n] if given[n].shape == t.shape else t for n, t in state.items()})
    with pytest.raises(WeightsError, match=message):
        read_official(path, other)


def test_another_sam_of_the_same_size_is_refused(
    backbone: Backbone, adaptation: Adaptation, variant: Variant, tmp_path: Path
) -> None:
    torch.manual_seed(77)
    with pytest.raises(WeightsError, match=r"was trained on another SAM than this small: \d+ frozen tensors differ"):
        read_official(saved(checkpoint(adaptation, backbone), tmp_path), Backbone(variant))


@pytest.mark.parametrize(
    ("config", "edit", "message"),
    [
        (Config("released", width=5), dict, "width: expected 5, the file has 4"),
        (Config(), dict, "width: expected 16, the file has 4"),
        (Config("released"), later, "trained without relative positions: read it with relative_positions false"),
    ],
)
def test_other_configurations_are_refused(
    backbone: Backbone,
    adaptation: Adaptation,
    tmp_path: Path,
    config: Config,
    edit: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    message: str,
) -> None:
    path = saved(edit(checkpoint(adaptation, backbone)), tmp_path)
    with pytest.raises(WeightsError, match=message):
        read_official(path, backbone, config=config)


def test_missing_tensors_are_named_and_the_first_of_many(
    backbone: Backbone, adaptation: Adaptation, tmp_path: Path
) -> None:
    tensors = checkpoint(adaptation, backbone)
    del tensors["mask_decoder.iou_token.weight"]
    with pytest.raises(WeightsError, match=r"missing: decoder\.iou_token\.weight"):
        read_official(saved(tensors, tmp_path), backbone)
    few = {name: t for name, t in tensors.items() if "MLP_Adapter" not in name and "transformer" not in name}
    with pytest.raises(WeightsError, match=r"… and \d+ more"):
        read_official(saved(few, tmp_path), backbone)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"image_encoder.patch_embed.proj.weight": torch.zeros(1)}, "checkpoint of SAM itself"),
        ({"something": torch.zeros(1)}, "it has something"),
        ({}, "it has no tensors"),
        ({"state_dict": {"a": 3}}, "holds other things"),
        ([torch.zeros(1)], "holds other things"),
        (Path("code"), "without running code"),
    ],
)
def test_other_files_are_refused(backbone: Backbone, tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_official(saved(content, tmp_path), backbone)


def test_files_that_are_no_checkpoint_are_refused(backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / "page.pth").write_bytes(b"<!doctype html>")
    with pytest.raises(WeightsError, match=r"page\.pth \(15 bytes"):
        read_official(tmp_path / "page.pth", backbone)
    with pytest.raises(WeightsError, match="cannot read the checkpoint"):
        read_official(tmp_path / "absent.pth", backbone)
