"""Features that never change: encoded once per slice, equal to what the encoder gives, and only where that is so."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from voxelsam import adapt, backbones
from voxelsam.errors import InputWarning
from voxelsam.model import Segmenter
from voxelsam.stacks.cut import StackBatch
from voxelsam.stacks.frame import FrameMap
from voxelsam.stacks.plan import StackPlan
from voxelsam.train import history
from voxelsam.train.job import start
from voxelsam.train.kept import Kept, leaves_encoder
from voxelsam.train.run import parts, prepare, train

Settings = dict[str, dict[str, Any]]

PLAN = StackPlan(depth=3, size=(32, 32))
SLICES = {"a": 5, "b": 4}


def segmenter(name: str = "decoder_only") -> Segmenter:
    backbone, _ = backbones.obtain("sam-tiny", None, (32, 32))
    torch.manual_seed(0)
    return Segmenter(backbone, adapt.build(name, {}, backbone, 3)).train()


def stacks(*asked: tuple[str, int]) -> StackBatch:
    """Stacks that begin at slices of cases, with pictures that depend on case and slice alone; "" is padding."""
    pictures = {
        (case, number): torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(100 * ord(case) + number))
        for case, slices in SLICES.items()
        for number in range(slices)
    }
    images = [
        torch.stack([pictures[case or "a", number] for number in PLAN.slices(first, SLICES[case or "a"])])
        for case, first in asked
    ]
    frame = FrameMap.fit((32, 32), (32, 32), "pad", "linear")
    names, firsts = zip(*asked, strict=True)
    return StackBatch(torch.stack(images), torch.tensor(firsts), (frame,) * len(asked), names)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Frames of each call of an encoder."""
    made: list[int] = []
    encode = Segmenter.encode

    def counted(self: Segmenter, images: Tensor) -> Tensor:
        made.append(images.shape[0] * images.shape[1])
        return encode(self, images)

    monkeypatch.setattr(Segmenter, "encode", counted)
    return made


def test_kept_features_are_those_of_the_encoder(tmp_path: Path) -> None:
    network = segmenter()
    kept = Kept(network, PLAN, SLICES, tmp_path)
    for asked in ((("a", -1), ("b", 2)), (("b", 3), ("a", 0)), (("a", -1), ("b", 2))):
        batch = stacks(*asked)
        wanted = network.encode(batch.images)
        found = kept(batch)
        assert found.shape == wanted.shape
        assert not found.requires_grad
        assert (found - wanted).norm() < 1e-6 * wanted.norm()


def test_each_slice_is_encoded_once_and_alone(tmp_path: Path, calls: list[int]) -> None:
    kept = Kept(segmenter(), PLAN, SLICES, tmp_path)
    for first in (-1, 0, 1, 2, 3):
        kept(stacks(("a", first), ("b", min(first, 2))))
    assert calls == [1] * (5 + 4)
    assert kept.held == 9


def test_the_bits_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    network = segmenter()
    one, other = (Kept(network, PLAN, SLICES, tmp_path) for _ in range(2))
    one(stacks(("a", 0), ("b", 1)))
    other(stacks(("b", 2)))
    assert torch.equal(one(stacks(("a", 1), ("b", 1))), other(stacks(("a", 1), ("b", 1))))


def test_what_does_not_fit_is_computed_each_time(tmp_path: Path, calls: list[int]) -> None:
    network = segmenter()
    size = network.encode(stacks(("a", 0)).images)[0].nbytes
    calls.clear()
    kept = Kept(network, PLAN, SLICES, tmp_path, room=2 * size)
    first = kept(stacks(("a", 0)))
    assert torch.equal(kept(stacks(("a", 0))), first)
    assert kept.held == 2
    assert calls == [1, 1, 1, 1]


def test_pictures_that_change_go_through_the_encoder_together(tmp_path: Path, calls: list[int]) -> None:
    kept = Kept(segmenter(), PLAN, {"b": 4}, tmp_path)
    for _ in range(2):
        kept(stacks(("a", 0), ("b", 1)))
    assert calls == [6, 6]
    assert kept.held == 0


def test_padding_is_not_kept(tmp_path: Path, calls: list[int]) -> None:
    kept = Kept(segmenter(), PLAN, SLICES, tmp_path)
    for _ in range(2):
        assert kept(stacks(("", -1))).shape[0] == 3
    assert calls == [1] * 6
    assert kept.held == 0


def test_a_full_disk_is_a_warning_and_no_other_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = segmenter()
    kept = Kept(network, PLAN, SLICES, tmp_path)
    before = kept(stacks(("a", 0)))

    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def write(self, content: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    real = kept._file
    monkeypatch.setattr(kept, "_file", Full())
    with pytest.warns(InputWarning, match="No space left.*computed each time"):
        other = kept(stacks(("b", 0)))
    assert torch.equal(kept(stacks(("b", 0))), other)
    assert torch.equal(kept(stacks(("a", 0))), before)
    assert kept.held == 3


def test_nothing_is_left_on_the_disk(tmp_path: Path) -> None:
    Kept(segmenter(), PLAN, SLICES, tmp_path)(stacks(("a", 0)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [("decoder_only", True), ("ma_sam", False), ("med_sa", False), ("lora", False), ("full", False)],
)
def test_methods_that_act_inside_are_told_apart(name: str, expected: bool) -> None:
    assert leaves_encoder(segmenter(name)) is expected


@pytest.mark.parametrize(
    ("change", "cases"),
    [
        ({"augment": {"preset": "none"}}, 3),
        ({"augment": {"preset": "light"}}, 1),
        ({"augment": {"preset": "none"}, "adapt": {"name": "ma_sam", "rank": 4}}, None),
        ({"augment": {"preset": "none"}, "shard": True}, None),
    ],
    ids=["never changed", "augmented", "adapted inside", "sharded"],
)
def test_a_run_keeps_what_never_changes(
    phantom: Path, small: Settings, tmp_path: Path, change: dict[str, Any], cases: int | None
) -> None:
    settings = {**small, "adapt": {"name": "decoder_only"}, **change}
    sharded = settings.pop("shard", False)
    job = start(phantom, tmp_path / "run", settings)
    if sharded:
        object.__setattr__(job.recipe.train, "shard", True)
    module, _, _ = parts(job, *prepare(job))
    assert (len(module.encode.slices) if isinstance(module.encode, Kept) else None) == cases


def test_training_learns_the_same_with_and_without(
    phantom: Path, small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[int]
) -> None:
    settings = {**small, "adapt": {"name": "decoder_only"}, "augment": {"preset": "none"}}
    settings["train"] = small["train"] | {"epochs": 3}
    rows: list[list[dict[str, float]]] = []
    counts = []
    never: Callable[[Segmenter], bool] = lambda segmenter: False  # noqa: E731
    for name, patched in (("kept", leaves_encoder), ("new", never)):
        calls.clear()
        monkeypatch.setattr("voxelsam.train.run.leaves_encoder", patched)
        train(phantom, tmp_path / name, settings=settings)
        rows.append(history.read(tmp_path / name / "metrics.csv"))
        counts.append(sum(calls))
    for one, other in zip(*rows, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    assert counts[0] <= 27
    assert counts[1] == 3 * (6 * 3 + 9)
