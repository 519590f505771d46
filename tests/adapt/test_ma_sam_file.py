"""The official checkpoint file: written and read back, and every way in which one does not fit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from voxelsam import adapt
from voxelsam.adapt import Adaptation
from voxelsam.adapt.ma_sam import Config, read_official, write_official
from voxelsam.errors import WeightsError
from voxelsam.nn.backbone import Backbone, Variant

CONFIG = Config("released", rank=3, width=5)


@pytest.fixture
def adaptation(backbone: Backbone) -> Adaptation:
    return adapt.build("ma_sam", CONFIG, backbone, 4)


@pytest.fixture
def path(adaptation: Adaptation, tmp_path: Path) -> Path:
    write_official(adaptation, tmp_path / "adapted.pth")
    return tmp_path / "adapted.pth"


def edited(path: Path, edit: Callable[[dict[str, Tensor]], object]) -> Path:
    tensors = torch.load(path, weights_only=True)
    edit(tensors)
    torch.save(tensors, path)
    return path


def test_what_is_written_is_read_back(backbone: Backbone, adaptation: Adaptation, path: Path) -> None:
    other, report = read_official(path, backbone)
    own = adaptation.state_dict()
    assert own.keys() == other.state_dict().keys()
    assert all(torch.equal(tensor, own[name]) for name, tensor in other.state_dict().items())
    assert (report.config, report.classes, report.ignored) == (CONFIG, 4, ())
    assert len(report.loaded) == len(own)
    assert "rank 3, width 5, 4 classes" in report.lines()[0]


def test_nothing_is_left_beside_the_file(path: Path) -> None:
    assert [entry.name for entry in path.parent.iterdir()] == ["adapted.pth"]


def test_safetensors_are_read_too(backbone: Backbone, path: Path, tmp_path: Path) -> None:
    save_file(torch.load(path, weights_only=True), tmp_path / "adapted.safetensors")
    other, _ = read_official(tmp_path / "adapted.safetensors", backbone)
    expected, _ = read_official(path, backbone)
    assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in other.state_dict().items())


def test_the_configuration_gives_what_the_file_does_not_tell(backbone: Backbone, path: Path) -> None:
    adaptation, report = read_official(path, backbone, classes=4, config=Config("paper", 3, scale=0.5, width=5))
    assert (adaptation.encoder.fact.scale, report.config.variant) == (0.5, "paper")


def test_further_tensors_are_reported(backbone: Backbone, path: Path) -> None:
    _, report = read_official(edited(path, lambda t: t.update(more=torch.zeros(1))), backbone)
    assert report.ignored == ("more",)
    assert report.lines()[-1] == "ignored (1): more"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 3}, "classes: expected 3, the file has 4"),
        ({"config": replace(CONFIG, rank=32)}, "rank: expected 32, the file has 3"),
        ({"config": replace(CONFIG, width=None)}, "width: expected 16, the file has 5"),
    ],
)
def test_other_sizes_are_refused(backbone: Backbone, path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_official(path, backbone, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 24}, "channels: expected 24, the file has 16"),
        ({"depth": 3}, "blocks: expected 3, the file has 2"),
        ({"decoder_dim": 64}, "decoder channels: expected 64, the file has 32"),
        ({"patch": 4, "image_size": (16, 20)}, "missing: mask_decoder.output_upscaling.4.weight|shape: mask_decoder"),
        ({"decoder_mlp": 20}, r"shape: mask_decoder\.transformer\.layers\.0\.mlp\.lin1\.weight \(24, 32\) instead of"),
    ],
)
def test_other_backbones_are_refused(variant: Variant, path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_official(path, Backbone(replace(variant, **change)))


def test_missing_tensors_are_named(backbone: Backbone, path: Path) -> None:
    broken = edited(path, lambda t: t.pop("prompt_encoder.no_mask_embed.weight"))
    with pytest.raises(WeightsError, match=r"missing: prompt_encoder\.no_mask_embed\.weight"):
        read_official(broken, backbone)


def test_a_broken_file_changes_nothing_and_names_a_few_of_many(backbone: Backbone, path: Path) -> None:
    def without_adapters(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if "adapter_" in name and ".0." not in name]:
            del tensors[name]

    with pytest.raises(WeightsError, match="and 2 more"):
        read_official(edited(path, without_adapters), backbone)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"image_encoder.patch_embed.proj.weight": torch.zeros(1)}, "checkpoint of SAM itself"),
        ({"sam.mask_decoder.iou_token.weight": torch.zeros(1)}, "state of a whole model"),
        ({"something": torch.zeros(1)}, "it has something"),
    ],
)
def test_other_checkpoints_are_recognised(
    backbone: Backbone, tmp_path: Path, tensors: dict[str, Tensor], message: str
) -> None:
    torch.save(tensors, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=message):
        read_official(tmp_path / "other.pth", backbone)


@pytest.mark.parametrize(
    "content", [b"", b"<!doctype html>", b"version https://git-lfs.github.com/spec/v1", b"\x80\x02"]
)
def test_files_that_are_no_checkpoint_are_refused(backbone: Backbone, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "page.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=rf"page\.pth \({len(content)} bytes"):
        read_official(tmp_path / "page.pth", backbone)


def test_a_file_that_is_absent_or_cut_off_is_refused(backbone: Backbone, path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(WeightsError, match=r"adapted\.pth \(5000 bytes.*damaged"):
        read_official(path, backbone)
    with pytest.raises(WeightsError, match=r"cannot read the checkpoint .*absent\.pth: No such file"):
        read_official(path.with_name("absent.pth"), backbone)


@pytest.mark.parametrize("content", [Path("code"), {"tensor": torch.zeros(1), "epoch": 3}, [torch.zeros(1)]])
def test_other_things_than_tensors_are_refused_and_not_run(backbone: Backbone, tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"other\.pth .*(without running code|holds other things)"):
        read_official(tmp_path / "other.pth", backbone)


def test_only_a_whole_ma_sam_has_an_official_file(backbone: Backbone, adaptation: Adaptation, tmp_path: Path) -> None:
    for other in (adapt.build("lora", {}, backbone, 3), adapt.merged(adaptation, backbone)):
        with pytest.raises(WeightsError, match="only a whole MA-SAM adaptation"):
            write_official(other, tmp_path / "other.pth")
    assert list(tmp_path.iterdir()) == []
