"""What training takes, counted without computing: work, memory, disk."""

import json
from dataclasses import replace
from typing import Any

import pytest

from voxelsam.cost import PROGRAM, Setup, Speed, networks, passes
from voxelsam.data.fingerprint import CaseFacts
from voxelsam.stacks.plan import StackPlan
from voxelsam.train import cost
from voxelsam.train.cost import Data
from voxelsam.train.recipe import parse

MA_SAM = json.dumps({"name": "ma_sam", "rank": 4, "width": 16})
SETUP = Setup("sam-tiny", MA_SAM, classes=3, size=(32, 32), depth=3)


GROWING = [
    {"depth": 4},
    {"size": (64, 64)},
    {"classes": 9},
    {"method": json.dumps({"name": "ma_sam", "rank": 4, "width": 64})},
]


@pytest.mark.parametrize("change", GROWING, ids=lambda change: next(iter(change)))
def test_more_of_anything_takes_more(change: dict[str, Any]) -> None:
    less, more = (cost.training_step(setup, 1) for setup in (SETUP, replace(SETUP, **change)))
    assert more.peak > less.peak
    assert more.flops > less.flops
    fast = Speed(1e9, 1e9, 1e-6)
    assert fast.seconds(more) > fast.seconds(less)


def test_a_batch_grows_evenly() -> None:
    one, two, four = (cost.training_step(SETUP, batch) for batch in (1, 2, 4))
    assert one.peak < two.peak < four.peak
    assert four.flops == pytest.approx(4 * one.flops, rel=0.01)


def test_prediction_takes_less_than_training() -> None:
    asked, learnt = passes(SETUP).stack(3), cost.training_step(SETUP, 1)
    assert asked.peak < learnt.peak / 2
    assert asked.flops < learnt.flops / 2


def test_blocks_computed_again_save_memory_and_cost_time() -> None:
    again = replace(SETUP, checkpointing=None)
    assert cost.training_step(again, 4).peak < 0.8 * cost.training_step(SETUP, 4).peak
    assert cost.training_step(again, 4).flops > cost.training_step(SETUP, 4).flops


def test_prompts_cost_answers() -> None:
    asked = replace(SETUP, answers=2)
    more = replace(SETUP, answers=4)
    assert cost.training_step(asked, 1).peak < cost.training_step(more, 1).peak


@pytest.mark.parametrize("name", ["lora", "med_sa", "decoder_only", "full", "adalora"])
def test_every_method_is_counted(name: str) -> None:
    found = cost.training_step(replace(SETUP, method=json.dumps({"name": name})), 1)
    assert found.peak > 0
    assert found.flops > 0


def facts(slices: int, itemsize: int = 2) -> CaseFacts:
    size, spacing = (40, 30, slices), (1.0, 1.0, 4.0)
    return CaseFacts("a", "axial", {"axial": size}, {"axial": spacing}, ((0, 1, 2),), {}, itemsize=itemsize)


def test_disk_is_voxels_times_bytes() -> None:
    data = Data.of(StackPlan(depth=3), [facts(10), facts(20)], [facts(30)], channels=2)
    assert data.prepared == 40 * 30 * 60 * (2 * 2 + 1)
    assert (data.training, data.validation, data.stacks) == ((10, 20), (30,), 30)


def test_another_spacing_makes_other_volumes() -> None:
    data = Data.of(StackPlan(depth=3, spacing=(None, None, 2.0)), [facts(10)], [], channels=1)
    assert data.training == (20,)
    assert data.prepared == 40 * 30 * 20 * (4 + 1)


def test_an_estimate_adds_up() -> None:
    given = {"data": {"root": "x"}, "stack": {"size": [32, 32], "depth": 3}, "adapt": json.loads(MA_SAM)}
    recipe = parse(given | {"train": {"epochs": 3, "batch": 2}})
    data = Data((10, 20), (30,), 10**6, 10**5, 1, 2)
    found = cost.estimate(recipe, SETUP, data, "gpu", Speed(1e9, 1e9, 1e-6))
    assert found.steps == 3 * 15
    assert found.memory == pytest.approx(found.weights + found.optimiser + found.activations, rel=0.05)
    assert found.seconds is not None
    assert found.seconds_per_epoch is not None
    assert found.seconds_per_step is not None
    assert found.seconds == pytest.approx(3 * found.seconds_per_epoch)
    assert found.seconds_per_epoch > 15 * found.seconds_per_step
    here = cost.estimate(recipe, SETUP, data, "cpu", None)
    assert here.memory >= found.memory + PROGRAM
    assert here.seconds is None


def test_an_encoder_that_is_left_alone_runs_once_per_slice_where_pictures_stay_the_same() -> None:
    alone = replace(SETUP, method=json.dumps({"name": "decoder_only"}))
    fast, data = Speed(1e9, 1e9, 1e-6), Data((10, 20), (30,), 10**6, 10**5, 1, 2)
    found = {}
    for preset in ("light", "none"):
        given = {"data": {"root": "x"}, "stack": {"size": [32, 32], "depth": 3}, "augment": {"preset": preset}}
        recipe = parse(given | {"train": {"epochs": 50}})
        found[preset] = cost.estimate(recipe, alone, data, "gpu", fast)
        changed = cost.estimate(recipe, SETUP, data, "gpu", fast)
        assert found[preset].cache - changed.cache == (30 if preset == "light" else 60) * 256 * 4 * 4 * 4
    encoded = fast.seconds(cost.encoding(alone))
    seconds = [found[preset].seconds for preset in ("light", "none")]
    assert None not in seconds
    saved = 50 * 30 * 3 * encoded - 30 * encoded
    assert seconds[0] - seconds[1] == pytest.approx(saved, rel=0.05)  # type: ignore[operator]


def test_the_running_average_and_added_gradients_take_memory() -> None:
    given = {"data": {"root": "x"}, "stack": {"size": [32, 32], "depth": 3}, "adapt": json.loads(MA_SAM)}
    plain, averaged, added = (
        cost.memory(parse(given | {"train": train}), SETUP, "gpu") for train in ({}, {"ema": 0.9}, {"accumulate": 2})
    )
    own = 4 * networks(SETUP).trained
    assert averaged == plain + 2 * own
    assert added == plain + own
