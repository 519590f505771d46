"""The engine gives what the plain way gives, while every slice is prepared once and little is held."""

import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from voxelsam import adapt, backbones, bundle
from voxelsam.bundle import AugmentLearnt, Bundle
from voxelsam.errors import ConfigError
from voxelsam.infer import engine
from voxelsam.infer import predictor as module
from voxelsam.infer.ensemble import Ensemble
from voxelsam.infer.predictor import Predictor, filling
from voxelsam.model import Segmenter
from voxelsam.nn.decoder import Scores
from voxelsam.space.grid import Grid
from voxelsam.stacks.cut import cut
from voxelsam.stacks.frame import scores_to_slice
from voxelsam.stacks.intensity import Intensity
from voxelsam.stacks.merge import Merger
from voxelsam.stacks.plan import StackPlan
from voxelsam.volumes.volume import Volume

THREE = {"background": 0, "spleen": 1, "kidney": 2, "liver": 7}
SIZE = (32, 48)

METHODS: dict[str, dict[str, Any]] = {
    "ma_sam": {"rank": 4, "width": 16, "init": "official"},
    "med_sa": {"width": 8, "init": "default"},
    "lora": {"rank": 2},
    "decoder_only": {},
    "ux_net": {"depth": 3, "feature_size": 4, "depths": (1, 1, 1, 1)},
}


@cache
def made(
    method: str = "ma_sam", quality: bool = False, channels: int = 1, scope: str = "volume", **plan: Any
) -> Bundle:
    """A model of random weights, none of them zero, in whose answers every place differs."""
    whole = not adapt.needs_backbone(method)
    backbone, report = backbones.obtain("none" if whole else "sam-tiny", None, SIZE)
    torch.manual_seed(1)
    segmenter = Segmenter(backbone, adapt.build(method, METHODS[method], backbone, len(THREE)))
    with torch.no_grad():
        for parameter in segmenter.adaptation.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    settings = {"depth": 3, "size": SIZE, "plane": "axial", "channels": "copy" if channels == 1 else "mean"}
    return bundle.describe(
        segmenter,
        labels=THREE,
        channels=tuple("abcd"[:channels]),
        kind="CT",
        stack=StackPlan(**settings | plan),
        intensity=Intensity("window", low=-100, high=200, scope=scope),  # type: ignore[arg-type]
        adapt={"name": method, **METHODS[method]},
        prompts=bundle.PromptsLearnt(quality=quality),
        backbone=bundle.BackboneIdentity(backbone.variant.name, report.sha256),
    )


def scan(slices: int = 7, channels: int = 1) -> Volume:
    data = np.random.default_rng(slices).normal(40, 70, (channels, 20, 24, slices)).astype(np.float32)
    return Volume(data, Grid((20, 24, slices), np.diag([2.0, 2.0, 4.0, 1.0])), "CT")


@torch.inference_mode()
def plainly(predictor: Predictor, volume: Volume) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Every stack cut, encoded and decoded by itself, one after the other."""
    known = predictor.bundle.description
    plan = replace(known.stack, stride=predictor.plan.stride if predictor.plan.depth > 1 else known.stack.stride)
    data = plan.placement(volume.grid).bring(volume.data)
    scale = known.intensity.measure(data)
    frame = plan.frame((data.shape[2], data.shape[1]))
    mergers = [Merger(data.shape[3], plan) for _ in predictor.views]
    heads = [Merger(data.shape[3], plan) for _ in predictor.views]
    for start in plan.starts(data.shape[3]):
        stack = cut(data, plan, start, scale)[None]
        for view, merger, head in zip(predictor.views, mergers, heads, strict=True):
            scores = predictor.segmenter.decode(predictor.segmenter.encode(view.there(stack)))
            merger.add(start, view.back(scores.logits.softmax(1)[None])[0])
            assert scores.quality is not None or not known.prompts.quality
            head.add(
                start, torch.zeros(plan.depth, 4, 1, 1) if scores.quality is None else scores.quality[..., None, None]
            )
        for slices, estimates in zip(
            zip(*(m.done() for m in mergers), strict=True), zip(*(h.done() for h in heads), strict=True), strict=True
        ):
            mean = torch.stack([maps for _, maps in slices])
            said = torch.stack([estimate[:, 0, 0] for _, estimate in estimates]).mean(0)
            yield scores_to_slice(mean, frame), said if known.prompts.quality else None


def compare(predictor: Predictor, volume: Volume) -> None:
    data = predictor.placement(volume).bring(volume.data)
    pairs = zip(predictor.slices(data), plainly(predictor, volume), strict=True)
    seen = []
    for answer, (maps, said) in pairs:
        torch.testing.assert_close(answer.views, maps, rtol=1e-5, atol=1e-6)
        assert (answer.quality is None) == (said is None)
        if said is not None:
            torch.testing.assert_close(answer.quality, said, rtol=1e-5, atol=1e-6)
        assert torch.equal(answer.views.mean(0).argmax(0), maps.mean(0).argmax(0))
        seen.append(maps)
    assert len(seen) == data.shape[3]
    assert torch.stack(seen).std() > 1e-3


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("edge", ["repeat", "reflect"])
@pytest.mark.parametrize(("depth", "stride"), [(1, 1), (3, 1), (3, 2), (3, 3), (5, 4)])
def test_the_answers_are_those_of_the_plain_way(depth: int, stride: int, edge: str, batch: int) -> None:
    model = made(depth=depth, stride=stride, edge=edge)
    compare(Predictor(model, device="cpu", batch=batch), scan())


@pytest.mark.parametrize("method", METHODS)
def test_so_they_are_for_every_kind_of_method(method: str) -> None:
    compare(Predictor(made(method), device="cpu", batch=2), scan())


@pytest.mark.parametrize("slices", [1, 2, 9])
def test_and_for_any_number_of_slices(slices: int) -> None:
    compare(Predictor(made(depth=5, edge="reflect"), device="cpu"), scan(slices))


@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize("scope", ["volume", "stack"])
def test_and_for_views_channels_and_stretched_stacks(scope: str, tta: bool) -> None:
    model = made("ma_sam", channels=2, scope=scope, quality=True)
    mirrored = replace(model, description=replace(model.description, training_augment=AugmentLearnt("x", ("rows",))))
    compare(Predictor(model, device="cpu", tta=tta, batch=2), scan(channels=2))
    compare(Predictor(mirrored, device="cpu", tta=tta), scan(channels=2))


def test_an_ensemble_is_the_mean_of_plain_answers() -> None:
    members = [Predictor(made(depth=depth), device="cpu") for depth in (3, 5)]
    volume = scan()
    found = Ensemble(members)(volume, probabilities=True).probabilities
    plain = [torch.stack([maps[0] for maps, _ in plainly(member, volume)]) for member in members]
    expected = torch.stack(plain).mean(0).permute(1, 3, 2, 0)[1:] * 255
    assert found is not None
    turned = members[0].placement(volume).bring(found)
    assert np.abs(turned - expected.numpy()).max() <= 0.51


def test_and_where_scores_of_one_slice_fill_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.SCORES, "cpu", 1)
    together, decode = [], Segmenter.decode

    def watched(self: Segmenter, features: Tensor, prompts: None = None) -> Scores:
        together.append(len(features))
        return decode(self, features, prompts)

    monkeypatch.setattr(Segmenter, "decode", watched)
    for stride in (1, 3):
        predictor = Predictor(made(), device="cpu", stride=stride)
        list(predictor.slices(predictor.placement(scan()).bring(scan().data)))
        assert set(together) == {1}
        compare(predictor, scan())
        together.clear()


def test_probabilities_are_not_copied_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take the place of the logits, and a slice that one stack shows, in its own size, is handed through."""
    predictor = Predictor(made(), device="cpu", stride=3)
    places, decode = [], Segmenter.decode

    def kept(self: Segmenter, features: Tensor, prompts: None = None) -> Scores:
        scores = decode(self, features, prompts)
        places.append(scores.logits.untyped_storage().data_ptr())
        return scores

    monkeypatch.setattr(Segmenter, "decode", kept)
    height, width = SIZE
    data = np.random.default_rng(1).normal(40, 70, (1, width, height, 6)).astype(np.float32)
    for answer in predictor.slices(data):
        assert answer.views.untyped_storage().data_ptr() in places
        torch.testing.assert_close(answer.views.sum(1), torch.ones(1, height, width))


# What is done once


def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Counts the slices that are cut, embedded, encoded and decoded."""
    counts = dict.fromkeys(("cut", "embed", "encode_embedded", "decode"), 0)
    cut_, plain = engine.pictures, {name: getattr(Segmenter, name) for name in counts if name != "cut"}

    def pictures(data: Any, plan: Any, numbers: Any, scale: Any) -> Tensor:
        counts["cut"] += len(numbers)
        return cut_(data, plan, numbers, scale)

    def watched(name: str) -> Callable[..., Any]:
        def call(self: Segmenter, given: Tensor, *rest: Any) -> Any:
            counts[name] += len(given.flatten(0, 1)) if name == "encode_embedded" else len(given)
            return plain[name](self, given, *rest)

        return call

    monkeypatch.setattr(engine, "pictures", pictures)
    for name in plain:
        monkeypatch.setattr(Segmenter, name, watched(name))
    return counts


@pytest.mark.parametrize(
    ("method", "stride", "encoded"), [("ma_sam", 1, 9 * 3), ("ma_sam", 3, 9), ("lora", 1, 9), ("ux_net", 1, 27)]
)
def test_every_slice_is_cut_and_embedded_once(
    monkeypatch: pytest.MonkeyPatch, method: str, stride: int, encoded: int
) -> None:
    """Slices that never meet are encoded once, too, whatever the overlap."""
    predictor = Predictor(made(method), device="cpu", stride=stride)
    counts = counted(monkeypatch)
    work = predictor(scan(9)).work
    assert counts == {"cut": 9, "embed": 9, "encode_embedded": encoded, "decode": encoded}
    assert work is not None
    assert work.stacks * predictor.plan.depth == encoded
    assert work.repeated == 0


def test_equal_stacks_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blank slices above and below, of different values that all clip to 0."""
    volume = scan(16)
    volume.data[..., :6] = -900
    volume.data[..., 11:] = -1000
    for batch in (1, 4):
        predictor = Predictor(made(), device="cpu", batch=batch)
        with monkeypatch.context() as patch:
            counts = counted(patch)
            work = predictor(volume).work
        assert work is not None
        assert (work.stacks, work.repeated) == (16 - 8, 4 + 4)
        assert counts["encode_embedded"] == 3 * work.stacks
        compare(predictor, volume)


def test_a_film_that_stands_still_is_computed_once() -> None:
    volume = scan(9)
    volume.data[..., 2:8] = volume.data[..., 2:3]
    predictor = Predictor(made(), device="cpu")
    work = predictor(volume).work
    assert work is not None
    assert (work.stacks, work.repeated) == (9 - 3, 3)
    compare(predictor, volume)


def test_slices_that_are_nearly_equal_are_not_taken_for_equal() -> None:
    volume = scan(6)
    volume.data[...] = volume.data[..., :1]
    volume.data[0, 3, 4, 2] += 1e-3
    predictor = Predictor(made(stride=3), device="cpu")
    work = predictor(volume).work
    assert work is not None
    assert work.repeated == 0
    compare(predictor, volume)


def test_a_blank_slice_of_another_value_is_another() -> None:
    volume = scan(12)
    volume.data[..., :6], volume.data[..., 6:] = -900, 900
    predictor = Predictor(made(stride=3), device="cpu")
    work = predictor(volume).work
    assert work is not None
    assert (work.stacks, work.repeated) == (2, 2)
    compare(predictor, volume)


# What is held


def held(predictor: Predictor, slices: int, monkeypatch: pytest.MonkeyPatch) -> int:
    most = [0]

    class Watched(engine._Held):
        def features(self, fresh: Any) -> Any:
            most[0] = max(most[0], len(self._made), len(self._looks))
            return super().features(fresh)

    monkeypatch.setattr(engine, "_Held", Watched)
    predictor(scan(slices))
    return most[0]


@pytest.mark.parametrize(
    ("stride", "edge", "batch", "most"), [(1, "repeat", 1, 5), (5, "repeat", 1, 5), (1, "reflect", 3, 7)]
)
def test_slices_are_held_until_their_last_stack(
    monkeypatch: pytest.MonkeyPatch, stride: int, edge: str, batch: int, most: int
) -> None:
    predictor = Predictor(made(depth=5, edge=edge), device="cpu", stride=stride, batch=batch)
    assert held(predictor, 31, monkeypatch) <= most


@pytest.mark.parametrize("kind", ["window", "percentile"])
def test_memory_does_not_grow_with_the_slices(kind: str) -> None:
    """Beyond the scan and its mask: numpy's arrays, which hold whatever is as large as a volume.

    Most slices are blank, so that long scans take little time; whole scans are looked at in pieces of 4 million voxels.
    """
    model = made(stride=3)
    limits = {"low": -100, "high": 200} if kind == "window" else {}
    intensity = Intensity(kind, **limits)  # type: ignore[arg-type]
    model = replace(model, description=replace(model.description, intensity=intensity))
    predictor = Predictor(model, device="cpu")
    peaks = []
    for slices in (260, 420):
        data = np.full((1, 128, 128, slices), -100, np.int16, order="F")
        data[0, :90, :, 40:44] = 100
        volume = Volume(data, Grid((128, 128, slices), np.diag([2.0, 2.0, 4.0, 1.0])), "CT")
        tracemalloc.start()
        predictor(volume)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    mask = 128 * 128 * (420 - 260)
    assert peaks[1] - peaks[0] < 1.5 * mask


# One pass


@torch.inference_mode()
def test_a_single_pass_is_one_stack_of_all_slices() -> None:
    predictor = Predictor(made(edge="reflect"), device="cpu", single_pass=True)
    volume = scan(9)
    data = predictor.placement(volume).bring(volume.data)
    long = replace(predictor.plan, depth=9, stride=9)
    scale = predictor.bundle.description.intensity.measure(data)
    scores = predictor.segmenter.decode(predictor.segmenter.encode(cut(data, long, 0, scale)[None]))
    found = torch.cat([answer.views for answer in predictor.slices(data)])
    expected = scores_to_slice(scores.logits.softmax(1), long.frame((data.shape[2], data.shape[1])))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    overlapping = torch.cat([maps for maps, _ in plainly(Predictor(made(edge="reflect"), device="cpu"), volume)])
    assert not torch.allclose(found, overlapping, atol=1e-4)


def test_slices_of_a_single_pass_are_given_out_as_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor(made(), device="cpu", single_pass=True, batch=1)
    counts = counted(monkeypatch)
    data = predictor.placement(scan(30)).bring(scan(30).data)
    next(iter(predictor.slices(data)))
    assert counts["encode_embedded"] == 30
    assert counts["decode"] <= 3


@pytest.mark.parametrize("method", ["med_sa", "ux_net"])
def test_a_method_that_was_made_for_its_stacks_takes_no_other(method: str) -> None:
    with pytest.raises(ConfigError, match=rf"single pass: in {method} slices meet"):
        Predictor(made(method), device="cpu", single_pass=True)


def test_stacks_that_are_stretched_by_themselves_make_no_single_pass() -> None:
    with pytest.raises(ConfigError, match=r"intensity\.scope"):
        Predictor(made(scope="stack"), device="cpu", single_pass=True)


def test_slices_that_never_meet_need_no_single_pass() -> None:
    volume = scan()
    alone, single = (Predictor(made("lora"), device="cpu", single_pass=single)(volume) for single in (False, True))
    assert np.array_equal(alone.labels.data, single.labels.data)


def test_a_batch_fills_the_device() -> None:
    cpu = torch.device("cpu")
    assert filling(cpu, StackPlan(depth=5, size=(512, 512))) == 1
    assert filling(cpu, StackPlan(depth=1, size=(256, 256))) == 8
    assert filling(cpu, StackPlan(depth=1, size=(250, 256))) == 8
    assert filling(torch.device("mps"), StackPlan(depth=2, size=(512, 512))) == 4


@pytest.mark.parametrize("stride", [0, 4])
def test_a_stride_that_leaves_slices_out_is_refused(stride: int) -> None:
    for method in ("ma_sam", "lora"):
        with pytest.raises(ValueError, match="stride"):
            Predictor(made(method), device="cpu", stride=stride)
