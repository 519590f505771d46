"""Prediction: the mask lies where the scan lies."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import voxelsam
from voxelsam import bundle, formats
from voxelsam.errors import ConfigError, InputError
from voxelsam.infer.predictor import Predictor
from voxelsam.model import Segmenter
from voxelsam.nn.decoder import Scores
from voxelsam.space.grid import Grid
from voxelsam.volumes.volume import Volume


@pytest.fixture(scope="module")
def scan(phantom: Path) -> Path:
    return next((phantom / "imagesTs").iterdir())


@pytest.fixture(scope="module")
def predictor(trained: Path) -> Predictor:
    return Predictor(bundle.load(trained / "best"), device="cpu")


def threshold(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the network by one that calls bright pixels class 1: what comes out must lie where it went in."""

    def bright(self: Segmenter, images: torch.Tensor, prompts: object = None) -> Scores:
        scores = torch.full((len(images), 7, *images.shape[2:]), -50.0)
        scores[:, 0] = 0.0
        scores[:, 1] = (images[:, 0] - 0.5) * 50
        return Scores(scores)

    monkeypatch.setattr(Segmenter, "embed", lambda self, images: images)
    monkeypatch.setattr(Segmenter, "encode_embedded", lambda self, embedded: embedded.flatten(0, 1))
    monkeypatch.setattr(Segmenter, "decode", bright)


def blob(affine: np.ndarray, shape: tuple[int, int, int]) -> Volume:
    """A scan with one bright box off the centre."""
    data = np.zeros((1, *shape), np.float32) - 100
    low = [size // 5 for size in shape]
    high = [size // 2 for size in shape]
    data[0, low[0] : high[0], low[1] : high[1], low[2] : high[2]] = 200
    return Volume(data, Grid(shape, affine), "CT")


AFFINES = {
    "plain": np.diag([2.0, 2.0, 4.0, 1.0]),
    "flipped": np.diag([-2.0, 2.0, -4.0, 1.0]),
    "sagittal": np.array([[0, 0, 4.0, -20], [2.0, 0, 0, 5], [0, 2.0, 0, 9], [0, 0, 0, 1]]),
    "oblique": np.array([[1.9, 0.3, 0.2, -20], [-0.3, 1.9, 0.4, 5], [-0.1, -0.4, 3.9, 9], [0, 0, 0, 1]]),
}


@pytest.mark.parametrize("name", AFFINES)
def test_the_mask_lies_on_what_is_bright(predictor: Predictor, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    threshold(predictor, monkeypatch)
    volume = blob(AFFINES[name], (40, 36, 12))
    labels = predictor(volume).labels
    assert np.array_equal(labels.grid.affine, volume.grid.affine)
    expected = volume.data[0] > 0
    overlap = 2 * (expected & (labels.data == 1)).sum() / (expected.sum() + (labels.data == 1).sum())
    assert overlap > 0.9


def test_the_same_anatomy_stored_in_another_order_gives_the_same_mask(predictor: Predictor, scan: Path) -> None:
    volume = formats.read(scan)
    image = nib.load(scan)
    turned = nib.as_closest_canonical(image)
    again = Volume(np.asarray(turned.dataobj)[None], Grid(turned.shape, turned.affine), volume.kind)
    first, second = predictor(volume).labels, predictor(again).labels
    assert not np.array_equal(volume.grid.affine, again.grid.affine)
    back = nib.as_closest_canonical(nib.Nifti1Image(first.data.astype(np.uint8), first.grid.affine))
    assert np.array_equal(np.asarray(back.dataobj), second.data)


def test_the_saved_mask_overlays_its_source(predictor: Predictor, scan: Path, tmp_path: Path) -> None:
    prediction = predictor(formats.read(scan))
    prediction.save(tmp_path / "mask.nii.gz")
    mask, source = nib.load(tmp_path / "mask.nii.gz"), nib.load(scan)
    assert mask.shape == source.shape
    assert np.array_equal(mask.affine, source.affine)
    assert np.array_equal(np.asarray(mask.dataobj), prediction.labels.data)


def test_the_one_line_of_the_readme(trained: Path, scan: Path, tmp_path: Path) -> None:
    voxelsam.load(trained / "best")(voxelsam.read(scan)).save(tmp_path / "mask.nii.gz")
    assert voxelsam.read_labels(tmp_path / "mask.nii.gz").grid.same_place(voxelsam.read(scan).grid)


@pytest.mark.parametrize("slices", [1, 2, 7])
def test_any_number_of_slices(predictor: Predictor, slices: int) -> None:
    volume = blob(AFFINES["plain"], (20, 24, slices))
    assert predictor(volume).labels.data.shape == (20, 24, slices)


@pytest.mark.parametrize(("stride", "batch"), [(1, 4), (3, 1), (3, 5)])
def test_batches_do_not_change_the_result(trained: Path, scan: Path, stride: int, batch: int) -> None:
    loaded = bundle.load(trained / "best")
    volume = formats.read(scan)
    one = Predictor(loaded, device="cpu", stride=stride)(volume).labels.data
    many = Predictor(loaded, device="cpu", stride=stride, batch=batch)(volume).labels.data
    assert (one == many).mean() > 0.9999


def test_memory_does_not_grow_with_the_volume(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    from voxelsam.infer import engine as module

    held = []

    class Watched(module.Merger):
        def put(self, scores: torch.Tensor) -> None:
            super().put(scores)
            held.append(self.held)

    monkeypatch.setattr(module, "Merger", Watched)
    predictor(blob(AFFINES["plain"], (16, 16, 40)))
    assert max(held) <= predictor.plan.depth


def test_progress_reaches_the_end(predictor: Predictor) -> None:
    seen: list[tuple[int, int]] = []
    predictor(blob(AFFINES["plain"], (16, 16, 6)), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, 6) for number in range(1, 7)]


def test_low_rank_increments_are_folded(predictor: Predictor, trained: Path, scan: Path) -> None:
    plain = bundle.load(trained / "best").segmenter()
    images = torch.rand(1, 3, 3, *predictor.plan.size)
    with torch.inference_mode():
        torch.testing.assert_close(predictor.segmenter(images), plain(images), rtol=1e-3, atol=1e-4)
    assert predictor.segmenter.adaptation.image_encoder is not None


def test_another_number_of_channels_is_refused(predictor: Predictor) -> None:
    volume = blob(AFFINES["plain"], (16, 16, 4))
    two = Volume(np.concatenate([volume.data, volume.data]), volume.grid, "CT")
    with pytest.raises(InputError, match="takes 1 channel"):
        predictor(two)


def test_an_unknown_device_is_refused(trained: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be used here"):
        Predictor(bundle.load(trained / "best"), device="abacus")


def test_label_values_are_those_of_the_table(trained: Path, phantom: Path, predictor: Predictor, scan: Path) -> None:
    table = json.loads((phantom / "dataset.json").read_text())["labels"]
    assert set(np.unique(predictor(formats.read(scan)).labels.data)) <= set(table.values())
