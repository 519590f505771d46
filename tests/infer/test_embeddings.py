"""Features are computed once, kept exactly, and never taken for another volume's."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from voxelsam.errors import ConfigError, InputWarning
from voxelsam.infer.embeddings import FOLDER, Embeddings, Store
from voxelsam.stacks.cut import cut
from voxelsam.stacks.intensity import Intensity
from voxelsam.stacks.plan import StackPlan

PLAN = StackPlan(depth=3, stride=1, size=(16, 16))
VOLUME = np.random.default_rng(2).random((1, 12, 14, 7)).astype(np.float32)
SCALE = Intensity("minmax").measure(VOLUME)
SLICE = 2 * 4 * 4 * 4
"""Bytes of the features of one slice."""


class Encoder:
    """Features that depend on the whole stack: its pictures, shrunk, and the mean over its slices."""

    def __init__(self) -> None:
        self.stacks = 0

    def __call__(self, stacks: torch.Tensor) -> torch.Tensor:
        self.stacks += len(stacks)
        small = stacks[:, :, :1, ::4, ::4]
        mean = small.mean(1, keepdim=True).expand_as(small)
        return torch.cat((small, mean), 2).flatten(0, 1)


def embeddings(encoder: Encoder, plan: StackPlan = PLAN, **settings: object) -> Embeddings:
    return Embeddings(VOLUME, plan, SCALE, encoder, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("depth", "stride"), [(1, 1), (3, 1), (3, 2), (3, 3), (5, 2), (5, 4)])
def test_each_slice_is_taken_from_the_stack_in_whose_middle_it_lies(depth: int, stride: int) -> None:
    plan = StackPlan(depth=depth, stride=stride, size=(16, 16))
    got = embeddings(Encoder(), plan)(range(7))
    for number in range(7):
        start = number // stride * stride - plan.lead
        assert start in plan.starts(7)
        whole = Encoder()(cut(VOLUME, plan, start, SCALE)[None])
        assert torch.equal(got[number], whole[number - start])


def test_a_stack_is_encoded_once_however_often_it_is_asked_for() -> None:
    encoder = Encoder()
    kept = embeddings(encoder, StackPlan(depth=3, stride=2, size=(16, 16)))
    first = kept([0, 1, 6])
    assert encoder.stacks == 2
    assert torch.equal(kept([6, 1, 0]), first.flip(0))
    assert encoder.stacks == 2
    kept(range(7))
    kept(range(7))
    assert encoder.stacks == 4


@pytest.mark.parametrize("batch", [1, 2, 10])
def test_batches_do_not_change_the_features(batch: int) -> None:
    assert torch.equal(embeddings(Encoder(), batch=batch)(range(7)), embeddings(Encoder())(range(7)))


def test_main_memory_is_bounded_and_the_least_used_goes_first() -> None:
    encoder = Encoder()
    kept = embeddings(encoder, memory=2 * SLICE)
    for number in (0, 1, 0, 2):
        kept([number])
    assert kept.held == 2 * SLICE
    assert encoder.stacks == 3
    kept([0])
    assert encoder.stacks == 3
    kept([1])
    assert encoder.stacks == 4


def test_without_memory_everything_is_still_right() -> None:
    assert torch.equal(embeddings(Encoder(), memory=0)(range(7)), embeddings(Encoder())(range(7)))


def test_progress_reaches_the_end() -> None:
    seen: list[tuple[int, int]] = []
    embeddings(Encoder(), batch=3)(range(7), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 7), (6, 7), (7, 7)]


@pytest.mark.parametrize("number", [-1, 7])
def test_a_slice_that_is_not_there_is_refused(number: int) -> None:
    with pytest.raises(IndexError, match="0 to 6"):
        embeddings(Encoder())([number])


@pytest.mark.parametrize("settings", [{"memory": -1}, {"batch": 0}])
def test_wrong_bounds_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        embeddings(Encoder(), **settings)


KEY = "a" * 64


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_folder_gives_back_the_same_bits(tmp_path: Path, dtype: torch.dtype) -> None:
    features = torch.rand(2, 3, 4, 4).to(dtype)
    Store(tmp_path, KEY).put(5, features)
    again = Store(tmp_path, KEY).get(5)
    assert again is not None
    assert again.dtype == dtype
    assert torch.equal(again, features)


def test_half_precision_takes_half_the_bytes_and_is_rounded_before_any_use(tmp_path: Path) -> None:
    exact = embeddings(Encoder())
    kept = embeddings(Encoder(), half=True, store=Store(tmp_path, "1" * 64))
    first = kept([0, 3])
    assert first.dtype == torch.float32
    assert torch.equal(kept([0, 3]), first)
    assert torch.equal(embeddings(Encoder(), half=True, store=Store(tmp_path, "1" * 64))([0, 3]), first)
    assert kept.held == 2 * SLICE // 2
    error = (first - exact([0, 3])).norm() / exact([0, 3]).norm()
    assert 0 < error < 5e-4


def test_a_slice_of_a_large_picture_takes_two_megabytes_in_half_precision() -> None:
    features = torch.randn(1, 256, 64, 64)
    plan = StackPlan(depth=1, size=(1024, 1024))
    kept = Embeddings(np.zeros((1, 8, 8, 1), np.float32), plan, SCALE, lambda stacks: features, half=True)
    kept([0])
    assert kept.held <= 2.1e6
    assert (kept([0]) - features).norm() < 5e-4 * features.norm()


def test_features_that_are_half_already_stay_as_they_are() -> None:
    features = torch.randn(3, 2, 4, 4).bfloat16()
    kept = Embeddings(VOLUME, PLAN, SCALE, lambda stacks: features, half=True)
    assert torch.equal(kept([0]), features[1:2].float())


def test_a_new_process_finds_what_an_old_one_kept(tmp_path: Path) -> None:
    first, second = Encoder(), Encoder()
    before = embeddings(first, store=Store(tmp_path, KEY))(range(7))
    after = embeddings(second, store=Store(tmp_path, KEY))(range(7))
    assert first.stacks == 7
    assert second.stacks == 0
    assert torch.equal(before, after)


def test_another_key_never_hits(tmp_path: Path) -> None:
    embeddings(Encoder(), store=Store(tmp_path, KEY))([0])
    encoder = Encoder()
    embeddings(encoder, store=Store(tmp_path, "b" * 64))([0])
    assert encoder.stacks == 1


def kept_files(folder: Path) -> list[Path]:
    return sorted((folder / FOLDER).glob("*/*"))


def break_payload(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-10]),
    "empty": lambda path: path.write_bytes(b""),
    "not ours": lambda path: path.write_bytes(b"something else"),
    "one bit": break_payload,
    "without a checksum": lambda path: save_file(load_file(path), path),
    "without features": lambda path: save_file({"other": torch.zeros(1)}, path),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_noticed_and_replaced(tmp_path: Path, name: str) -> None:
    expected = embeddings(Encoder(), store=Store(tmp_path, KEY))([2])
    (path,) = kept_files(tmp_path)
    DAMAGE[name](path)
    encoder = Encoder()
    with pytest.warns(InputWarning, match="damaged"):
        got = embeddings(encoder, store=Store(tmp_path, KEY))([2])
    assert encoder.stacks == 1
    assert torch.equal(got, expected)
    assert Store(tmp_path, KEY).get(2) is not None


def test_the_folder_is_bounded_and_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    import os

    features = torch.zeros(1, 1, 16, 16)
    Store(tmp_path, KEY).put(0, features)
    size = kept_files(tmp_path)[0].stat().st_size
    (tmp_path / "sam.safetensors").write_bytes(b"precious")
    store = Store(tmp_path, KEY, limit=2 * size)
    store.put(1, features)
    for age, path in enumerate(reversed(kept_files(tmp_path))):
        os.utime(path, ns=(10**9 * (age + 1), 10**9 * (age + 1)))
    assert store.get(1) is not None
    store.put(2, features)
    assert [path.stem for path in kept_files(tmp_path)] == ["000001", "000002"]
    Store(tmp_path, "b" * 64, limit=size).put(0, features)
    assert [path.parent.name for path in kept_files(tmp_path)] == ["b" * 64]
    assert (tmp_path / "sam.safetensors").exists()


def test_a_folder_that_cannot_be_written_is_a_warning_not_an_end(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("in the way")
    with pytest.warns(InputWarning, match="cannot be kept"):
        got = embeddings(Encoder(), store=Store(tmp_path, KEY))([2])
    assert torch.equal(got, embeddings(Encoder())([2]))


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    Store(tmp_path, KEY).put(0, torch.zeros(1, 1, 2, 2))
    assert [path.name for path in kept_files(tmp_path)] == ["000000.safetensors"]


def test_a_folder_without_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="room"):
        Store(tmp_path, KEY, limit=0)
