"""A file that is no checkpoint of ours says what it is instead, and nothing in it is run."""

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from voxelsam import backbones
from voxelsam.backbones._files import read_tensors
from voxelsam.backbones._weights import assemble
from voxelsam.errors import WeightsError


class Bomb:
    """Would make a folder when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def refused(path: Path, message: str, **arguments: object) -> str:
    with pytest.raises(WeightsError, match=message) as error:
        backbones.load(path, **arguments)
    assert str(path) in str(error.value)
    return str(error.value)


def test_no_file(tmp_path):
    refused(tmp_path / "none.pth", "there is no checkpoint .*none.pth")


def test_a_folder_without_weights_lists_what_it_holds(tmp_path):
    assert refused(tmp_path, "holds none of model.safetensors, pytorch_model.bin").endswith("but nothing")
    (tmp_path / "config.json").write_text("{}")
    refused(tmp_path, "but config.json")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    refused(tmp_path, "split over several files")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n <!DOCTYPE html><html><body>Sign in</body></html>", "is a web page"),
        (b"<HTML>404", "is a web page"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 375042383\n", "Git LFS pointer"),
        (b"\x93NUMPY" + bytes(100), r"\(106 bytes\) is neither a PyTorch nor a safetensors file; it begins with"),
        (b"\x80", "is a Python pickle"),
        (b"PK\x03\x04" + bytes(100), "is cut off: a PyTorch file of which only 104 bytes"),
    ],
)
def test_what_is_not_a_checkpoint(tmp_path, content, message):
    (tmp_path / "sam.pth").write_bytes(content)
    refused(tmp_path / "sam.pth", message)


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
def test_a_file_that_was_cut_off(tmp_path, state, kind, share):
    path = tmp_path / "sam.pth"
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: max(64, int(share * len(whole)))])
    refused(path, "cut off")


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_never_run(tmp_path, state, zipped):
    content = state | {"args": Bomb(tmp_path / "made")}
    torch.save(content, tmp_path / "sam.pth", _use_new_zipfile_serialization=zipped)
    text = refused(tmp_path / "sam.pth", "Python objects besides tensors")
    assert "mkdir" in text
    assert "nothing in it was run" in text
    assert not (tmp_path / "made").exists()


def test_a_plain_pickle_is_refused_and_never_run(tmp_path):
    (tmp_path / "sam.pth").write_bytes(pickle.dumps(Bomb(tmp_path / "made")))
    refused(tmp_path / "sam.pth", "is a Python pickle.*refused and nothing in it was run")
    assert not (tmp_path / "made").exists()


def test_a_whole_pickled_model_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "sam.pth")
    refused(
        tmp_path / "sam.pth", r"Python objects besides tensors \(torch.nn.modules.linear.Linear\).*state dict alone"
    )


def test_other_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(tmp_path / "a.zip", "is an archive, but not a PyTorch one")
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as archive:
        archive.writestr("b/code/model.py", "")
        archive.writestr("b/data.pkl", "")
    refused(tmp_path / "b.pt", "is a TorchScript program")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "no tensors by name, but a list"),
        ({}, "no tensors by name, but a dict"),
        ({"image_encoder.pos_embed": torch.zeros(1), "lr": 0.1, "note": "x"}, "other things than tensors: lr, note"),
        ({"model": {"a": 3}}, "other things than tensors: a"),
    ],
)
def test_content_that_is_not_tensors_by_name(tmp_path, content, message):
    torch.save(content, tmp_path / "sam.pth")
    refused(tmp_path / "sam.pth", message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("q_FacTs_000", "MA-SAM trained.*give the SAM checkpoint as the backbone"),
        ("image_encoder.FacTu.weight", "MA-SAM trained"),
        ("sam.image_encoder.ImageEncoderViT.blocks.0.Block.adapter_linear_down.weight", "MA-SAM trained"),
        ("image_encoder.blocks.0.Space_Adapter.D_fc1.weight", "Med-SA trained"),
        ("image_encoder.trunk.pos_embed", "SAM 2 checkpoint"),
        ("memory_attention.layers.0.norm1.weight", "SAM 2 checkpoint"),
        ("mask_decoder.hf_token.weight", "SAM-HQ checkpoint"),
        ("image_encoder.patch_embed.seq.0.c.weight", "MobileSAM checkpoint"),
        ("mask_decoder.final_output_upscaling_layers.0.0.weight", "EfficientSAM checkpoint"),
    ],
)
def test_checkpoints_of_other_models_are_named(tmp_path, state, small, name, message):
    torch.save(state | {name: torch.zeros(1)}, tmp_path / "sam.pth")
    refused(tmp_path / "sam.pth", message, variant=small)
    torch.save({"model": {name: torch.zeros(1)}}, tmp_path / "sam.pth")
    refused(tmp_path / "sam.pth", message)


def test_the_official_adapted_checkpoint_is_named(shared):
    files = sorted((shared / "golden/ma_sam").glob("*/adapted.*"))
    assert files
    for file in files:
        refused(file, "weights that MA-SAM trained")


def test_tensors_of_something_unknown_are_listed(tmp_path):
    torch.save({"conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}, tmp_path / "resnet.pth")
    refused(tmp_path / "resnet.pth", "known backbone .*its 2 tensors are: conv1.weight, fc.bias")


def test_a_position_matrix_that_is_not_the_same_twice(tmp_path):
    names = ["vision_encoder.patch_embed.projection.weight"]
    names += ["shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding"]
    tensors = {name: torch.full((2, 2), float(number)) for number, name in enumerate(names)}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="must be a copy of the other tensor"):
        backbones.load(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs the list of mapped files")
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_files_are_mapped_and_what_is_read_is_not_copied(tmp_path, state, small, kind):
    path = tmp_path / f"sam.{kind}"
    if kind == "pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    before = path.read_bytes()
    tensors, _ = read_tensors(path)
    assert str(path) in Path("/proc/self/maps").read_text()
    backbone, _ = assemble(tensors, small, small.image_size, "the test")
    for name, tensor in backbone.state_dict().items():
        assert tensor.data_ptr() == tensors[name].data_ptr()
    with torch.no_grad():
        backbone.image_encoder.pos_embed.add_(1)
    assert path.read_bytes() == before
