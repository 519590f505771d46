"""A bundle: small, whole, and only for the backbone it was trained on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from voxelsam import adapt, backbones, bundle
from voxelsam.errors import OutputError, VoxelSamError, WeightsError
from voxelsam.model import Segmenter
from voxelsam.stacks.intensity import Intensity
from voxelsam.stacks.plan import StackPlan


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained / "best", tmp_path / "bundle"))


def change(folder: Path, **values: object) -> None:
    path = folder / bundle.DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_it_holds_no_pickle_and_no_frozen_tensor(trained: Path) -> None:
    assert {path.name for path in (trained / "best").iterdir()} == {"adaptation.safetensors", "bundle.json", "card.md"}
    names = load_file(trained / "best" / bundle.WEIGHTS).keys()
    assert not any(name.startswith(("backbone", "image_encoder")) for name in names)


def test_what_the_backbone_holds_is_not_stored_again() -> None:
    backbone, report = backbones.obtain("sam-tiny", None, (32, 32))
    segmenter = Segmenter(backbone, adapt.build("med_sa", {}, backbone, 2)).eval()
    described = bundle.describe(
        segmenter,
        labels={"background": 0, "tumour": 1},
        channels=("CT",),
        kind="CT",
        stack=StackPlan(depth=1, size=(32, 32), plane="axial"),
        intensity=Intensity("window", low=-100, high=200),
        adapt={"name": "med_sa"},
        backbone=bundle.BackboneIdentity("sam-tiny", report.sha256),
    )
    transformer = {name for name in segmenter.adaptation.state_dict() if ".transformer." in name}
    assert transformer
    assert not transformer & described.tensors.keys()
    images = torch.rand(1, 1, 3, 32, 32)
    torch.testing.assert_close(described.segmenter()(images), segmenter(images), rtol=0, atol=0)
    fewer = replace(described, description=replace(described.description, from_backbone=()))
    with pytest.raises(WeightsError, match="do not fit"):
        fewer.segmenter()


def test_it_gives_back_the_same_network(trained: Path) -> None:
    loaded = bundle.load(trained / "best")
    first, second = loaded.segmenter(), loaded.segmenter()
    images = torch.rand(1, 3, 3, *loaded.description.stack.size)
    torch.testing.assert_close(first(images), second(images), rtol=0, atol=0)
    assert loaded.labels.names[0] == "spleen"


def test_whoever_may_read_the_description_may_read_the_weights(copy: Path) -> None:
    bundle.load(copy).save(copy)
    assert len({path.stat().st_mode for path in copy.iterdir()}) == 1


def test_save_and_load_undo_each_other(trained: Path, tmp_path: Path) -> None:
    loaded = bundle.load(trained / "best")
    loaded.save(tmp_path / "copy")
    again = bundle.load(tmp_path / "copy")
    assert again.description == loaded.description
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in loaded.tensors.items())


def test_saving_replaces_a_bundle_that_was_there(copy: Path) -> None:
    loaded = bundle.load(copy)
    (copy / "old.txt").write_text("old")
    loaded.save(copy)
    assert not (copy / "old.txt").exists()
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_a_disk_that_fills_up_leaves_the_old_bundle(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = bundle.load(copy)
    before = {path.name: path.read_bytes() for path in copy.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle, "save_file", full)
    with pytest.raises((OSError, OutputError), match="No space left"):
        loaded.save(copy)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_another_backbone_is_refused(copy: Path) -> None:
    record = json.loads((copy / bundle.DESCRIPTION).read_text())
    change(copy, backbone=record["backbone"] | {"sha256": "0" * 64})
    with pytest.raises(WeightsError, match="another checkpoint gives meaningless masks"):
        bundle.load(copy).segmenter()


def test_a_checkpoint_that_has_moved_is_named(copy: Path) -> None:
    record = json.loads((copy / bundle.DESCRIPTION).read_text())
    change(copy, backbone=record["backbone"] | {"name": "sam-vit-b", "weights": "/nowhere/sam_vit_b.pth"})
    with pytest.raises(WeightsError, match=r"/nowhere/sam_vit_b\.pth.*--weights"):
        bundle.load(copy).segmenter()


def test_a_run_folder_points_to_its_bundle(trained: Path) -> None:
    with pytest.raises(WeightsError, match=r"did you mean .*best"):
        bundle.load(trained)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"format": 99}, "update voxelsam"),
        ({"labels": {"liver": 1}}, "damaged"),
        ({"stack": {"depth": 0}}, "depth"),
        ({"surprise": 1}, "surprise: unknown key"),
        ({"weights_sha256": "0" * 64}, "SHA-256 differs"),
    ],
)
def test_a_damaged_description_is_refused(copy: Path, values: dict[str, object], complaint: str) -> None:
    change(copy, **values)
    with pytest.raises(WeightsError, match=complaint):
        bundle.load(copy)


def test_cut_off_files_are_refused(copy: Path) -> None:
    whole = (copy / bundle.WEIGHTS).read_bytes()
    (copy / bundle.WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="cannot be read"):
        bundle.load(copy)
    (copy / bundle.DESCRIPTION).write_text("{")
    with pytest.raises(WeightsError, match="damaged"):
        bundle.load(copy)


def test_tensors_of_another_class_count_are_refused(copy: Path) -> None:
    record = json.loads((copy / bundle.DESCRIPTION).read_text())
    change(copy, labels={"background": 0, "spleen": 1})
    with pytest.raises(VoxelSamError, match="do not fit"):
        bundle.load(copy).segmenter()
    assert record["labels"].keys() > {"background", "spleen"}


def test_missing_tensors_are_named(copy: Path) -> None:
    tensors = load_file(copy / bundle.WEIGHTS)
    name = next(iter(tensors))
    del tensors[name]
    loaded = bundle.load(copy)
    with pytest.raises(WeightsError, match=name):
        bundle.Bundle(loaded.description, tensors).segmenter()


def test_the_card_says_that_the_backbone_is_random(trained: Path) -> None:
    assert "The backbone is random" in (trained / "best" / bundle.CARD).read_text()


@pytest.mark.slow
def test_a_checkpoint_file_is_known_by_its_hash(trained: Path, tmp_path: Path) -> None:
    """A bundle trained on a file goes with that file wherever it lies, and with no other."""
    file, other = tmp_path / "tiny.safetensors", tmp_path / "other.safetensors"
    state = backbones.build("sam-tiny").state_dict()
    save_file(state, file)
    save_file({name: tensor * 1.001 for name, tensor in state.items()}, other)
    loaded = bundle.load(trained / "best")
    _, report = backbones.load(file, "sam-tiny", loaded.description.stack.size)
    identity = bundle.BackboneIdentity("sam-tiny", report.sha256, str(tmp_path / "gone.safetensors"))
    from dataclasses import replace

    moved = bundle.Bundle(replace(loaded.description, backbone=identity), loaded.tensors)
    moved.segmenter(file)
    with pytest.raises(WeightsError, match="another checkpoint"):
        moved.segmenter(other)
