"""Our networks equal transformers' SamModel on random weights, for every kind of prompt.

The weights are drawn anew: transformers starts a vision encoder at a standard deviation of 1e-10, on which every test
would pass.
"""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from voxelsam import backbones
from voxelsam.nn.backbone import Backbone, Variant
from voxelsam.nn.prompt_encoder import PromptBatch

pytestmark = pytest.mark.parity
transformers = pytest.importorskip("transformers")

TINY = Variant(
    "parity",
    dim=48,
    depth=4,
    heads=3,
    global_blocks=(1, 3),
    window=3,
    image_size=(128, 128),
    decoder_dim=32,
    decoder_mlp=64,
    iou_hidden=24,
)
FRAMES = 3


@pytest.fixture(scope="module")
def theirs():
    config = transformers.SamConfig(
        vision_config={
            "hidden_size": TINY.dim,
            "output_channels": TINY.decoder_dim,
            "num_hidden_layers": TINY.depth,
            "num_attention_heads": TINY.heads,
            "image_size": TINY.image_size[0],
            "patch_size": TINY.patch,
            "window_size": TINY.window,
            "global_attn_indexes": list(TINY.global_blocks),
            "num_pos_feats": TINY.decoder_dim // 2,
            "mlp_dim": 4 * TINY.dim,
        },
        prompt_encoder_config={
            "hidden_size": TINY.decoder_dim,
            "image_size": TINY.image_size[0],
            "patch_size": TINY.patch,
        },
        mask_decoder_config={
            "hidden_size": TINY.decoder_dim,
            "mlp_dim": TINY.decoder_mlp,
            "num_attention_heads": TINY.decoder_heads,
            "iou_head_hidden_dim": TINY.iou_hidden,
        },
    )
    model = transformers.SamModel(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(2)
    for name, tensor in model.state_dict().items():
        offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        tensor.copy_(offset + 0.15 * torch.randn(tensor.shape, generator=generator))
    matrix = torch.randn(2, TINY.decoder_dim // 2, generator=generator)
    for name, tensor in model.state_dict().items():
        if name.endswith("positional_embedding"):
            tensor.copy_(matrix)
    return model


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("hub")
    theirs.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def ours(folder):
    return backbones.load(folder, variant=TINY)[0]


@pytest.fixture(scope="module")
def images():
    return torch.randn(FRAMES, 3, 128, 128, generator=torch.Generator().manual_seed(4))


def decode(backbone, features, prompts):
    encoded = backbone.prompt_encoder(prompts, FRAMES)
    return backbone.mask_decoder(features, backbone.prompt_encoder.dense_pe(), encoded)


def prompts_of(kind):
    generator = torch.Generator().manual_seed(6)
    points = 127 * torch.rand(FRAMES, 3, 2, generator=generator)
    labels = torch.tensor([[1, 0, -1], [0, 1, 1], [1, 1, 0]])
    corners = 60 * torch.rand(FRAMES, 1, 2, generator=generator)
    boxes = torch.cat((corners, corners + 50), dim=-1)
    masks = torch.randn(FRAMES, 1, 32, 32, generator=generator)
    if "points" not in kind:
        points, labels = points[:, :0], labels[:, :0]
    return PromptBatch(points, labels, boxes if "boxes" in kind else None, masks if "mask" in kind else None)


def test_the_encoder_is_the_same(theirs, ours, images):
    expected = theirs.get_image_embeddings(images)
    assert expected.std() > 0.1
    torch.testing.assert_close(ours.image_encoder(images), expected, atol=1e-5, rtol=1e-5)


def test_dense_positions_are_the_same(theirs, ours):
    torch.testing.assert_close(
        ours.prompt_encoder.dense_pe(), theirs.get_image_wide_positional_embeddings(), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("kind", ["nothing", "points", "boxes", "points boxes", "mask", "points mask", "boxes mask"])
def test_the_masks_are_the_same(theirs, ours, images, kind):
    prompts = prompts_of(kind)
    features = ours.image_encoder(images)
    expected = theirs(
        image_embeddings=features,
        input_points=prompts.points[:, None] if "points" in kind else None,
        input_labels=prompts.point_labels[:, None] if "points" in kind else None,
        input_boxes=prompts.boxes,
        input_masks=prompts.masks,
        multimask_output=True,
    )
    scores = decode(ours, features, prompts)
    assert expected.pred_masks.std() > 1e-3
    torch.testing.assert_close(scores.logits[:, 1:], expected.pred_masks[:, 0], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(scores.quality[:, 1:], expected.iou_scores[:, 0], atol=1e-5, rtol=1e-4)
    single = theirs(
        image_embeddings=features,
        input_points=prompts.points[:, None] if "points" in kind else None,
        input_labels=prompts.point_labels[:, None] if "points" in kind else None,
        input_boxes=prompts.boxes,
        input_masks=prompts.masks,
        multimask_output=False,
    )
    torch.testing.assert_close(scores.logits[:, :1], single.pred_masks[:, 0], atol=2e-5, rtol=1e-4)


def test_every_tensor_of_the_folder_is_accounted_for(folder, theirs, tmp_path):
    _, report = backbones.load(folder, variant=TINY)
    with torch.device("meta"):
        assert set(report.loaded) == set(Backbone(TINY).state_dict())
    assert not report.ignored
    tied = "prompt_encoder.shared_embedding.positional_embedding"
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    _, report = backbones.load(tmp_path, variant=TINY)
    assert len(report.ignored) == 1
    assert report.ignored[0] in (tied, "shared_image_embedding.positional_embedding")
    one = {name: tensor.clone() for name, tensor in theirs.state_dict().items() if name != tied}
    save_file(one, tmp_path / "model.safetensors")
    assert not backbones.load(tmp_path, variant=TINY)[1].ignored


def test_the_same_tensors_under_metas_names_give_the_same_bits(folder, ours, images, tmp_path):
    renamed = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        renamed[META.get(name) or meta_name(name)] = tensor
    torch.save(renamed, tmp_path / "meta.pth")
    again, report = backbones.load(tmp_path / "meta.pth", variant=TINY)
    assert not report.ignored
    features = ours.image_encoder(images)
    assert torch.equal(again.image_encoder(images), features)
    prompts = prompts_of("points boxes mask")
    assert torch.equal(decode(again, features, prompts).logits, decode(ours, features, prompts).logits)


def test_their_model_at_another_size_is_ours_after_resizing_its_tables(theirs, folder, images):
    """With tables resized by hand, transformers at 96 pixels equals our loader's resizing."""
    size = (96, 96)
    backbone, report = backbones.load(folder, variant=TINY, image_size=size)
    assert len(report.resized) == 5
    config = theirs.config
    small = transformers.SamConfig.from_dict(config.to_dict())
    small.vision_config.image_size = small.prompt_encoder_config.image_size = size[0]
    small.prompt_encoder_config.image_embedding_size = size[0] // TINY.patch
    model = transformers.SamModel(small).eval().requires_grad_(False)
    state = dict(theirs.state_dict())
    for name in report.resized:
        key = name.replace("image_encoder.blocks", "vision_encoder.layers").replace("image_encoder", "vision_encoder")
        state[key] = backbone.state_dict()[name]
    model.load_state_dict(state)
    frames = images[..., :96, :96]
    torch.testing.assert_close(backbone.image_encoder(frames), model.get_image_embeddings(frames), atol=1e-5, rtol=1e-5)


def test_a_wider_window_than_the_image_is_the_same(theirs, images):
    variant = replace(TINY, window=14)
    config = transformers.SamConfig.from_dict(theirs.config.to_dict())
    config.vision_config.window_size = 14
    model = transformers.SamModel(config).eval().requires_grad_(False)
    for tensor in model.state_dict().values():
        tensor.copy_(0.15 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(tensor.numel())))
    backbone = Backbone(variant)
    names = {META.get(name) or meta_name(name): tensor for name, tensor in model.state_dict().items()}
    backbone.load_state_dict(names)
    torch.testing.assert_close(backbone.image_encoder(images), model.get_image_embeddings(images), atol=1e-5, rtol=1e-5)


META = {
    "shared_image_embedding.positional_embedding": "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    "prompt_encoder.shared_embedding.positional_embedding": (
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
    ),
}
"""Written independently of the loader's table: name by name for what moves as a whole."""


def meta_name(name: str) -> str:
    """Meta's name of one of transformers' tensors, by cutting it up."""
    part, *path, kind = name.split(".")
    if part == "vision_encoder":
        path = ["blocks" if word == "layers" else word for word in path]
        if path[:1] == ["neck"]:
            path[1] = str(["conv1", "layer_norm1", "conv2", "layer_norm2"].index(path[1]))
        path = ["proj" if word == "projection" else word for word in path]
        part = "image_encoder"
    elif path[0] in ("mask_embed", "point_embed"):
        places = {"conv1": "0", "layer_norm1": "1", "conv2": "3", "layer_norm2": "4", "conv3": "6"}
        path = [{"mask_embed": "mask_downscaling", "point_embed": "point_embeddings"}[path[0]], *path[1:]]
        path[1] = places.get(path[1], path[1])
    elif path[0].startswith("upscale"):
        path = ["output_upscaling", {"upscale_conv1": "0", "upscale_layer_norm": "1", "upscale_conv2": "3"}[path[0]]]
    elif path[0] in ("output_hypernetworks_mlps", "iou_prediction_head"):
        number = {"proj_in": "0", "layers": "1", "proj_out": "2"}
        at = 2 if path[0] == "output_hypernetworks_mlps" else 1
        path = [*path[:at], "layers", number[path[at]]]
    path = [word.replace("layer_norm", "norm") for word in path]
    return ".".join((part, *path, kind))
