"""What is counted without computing: work, memory, disk."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from voxelsam.data.fingerprint import CaseFacts
from voxelsam.stacks.plan import StackPlan
from voxelsam.train import cost
from voxelsam.train.cost import Data, Setup, count
from voxelsam.train.recipe import parse

MA_SAM = json.dumps({"name": "ma_sam", "rank": 4, "width": 16})
SETUP = Setup("sam-tiny", MA_SAM, classes=3, size=(32, 32), depth=3)


def meta(*shape: int, grad: bool = False) -> torch.Tensor:
    return torch.empty(*shape, device="meta", requires_grad=grad)


def test_a_product_of_matrices_is_counted_by_hand() -> None:
    found = count(lambda: meta(4, 8) @ meta(8, 16))
    assert found.flops == 2 * 4 * 8 * 16
    assert found.peak == 4 * (4 * 8 + 8 * 16 + 4 * 16)


def test_memory_that_is_let_go_counts_once() -> None:
    x = meta(1000)

    def run() -> None:
        for _ in range(5):
            x.exp()

    assert count(run).peak == 4000


def test_what_the_backward_pass_needs_stays() -> None:
    x = meta(1000, grad=True)
    kept = count(lambda: x.exp().exp().exp().sum())
    with torch.no_grad():
        gone = count(lambda: x.exp().exp().exp().sum())
    assert kept.peak >= 3 * 4000
    assert gone.peak <= 2 * 4000 + 4


def test_views_cost_nothing() -> None:
    x = meta(10, 20)
    found = count(lambda: x.T.reshape(20, 10)[3:])
    assert (found.peak, found.calls, found.moved) == (0, 0, 0)


def test_fused_attention_holds_no_square_of_tokens() -> None:
    q, k, v = (meta(2, 4, 256, 16, grad=True) for _ in range(3))

    def run() -> None:
        torch.autograd.backward(torch.nn.functional.scaled_dot_product_attention(q, k, v).sum())

    found = count(run)
    assert found.peak < 4 * 2 * 4 * 256 * 256
    assert found.flops == 7 * 2 * 2 * 4 * 256 * 256 * 16  # two products there, five back


def test_half_precision_halves_what_products_keep() -> None:
    layers = nn.Sequential(*(nn.Linear(64, 64, bias=False, device="meta") for _ in range(6)))
    x = meta(4096, 64)
    single, half = (count(lambda: layers(x).sum(), precision).peak for precision in ("fp32", "bf16"))
    assert half < 0.7 * single


def test_what_depends_on_values_is_refused() -> None:
    with pytest.raises(cost.UncountableError, match="shape"):
        count(lambda: meta(3).nonzero())


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
    fast = cost.Speed(1e9, 1e9, 1e-6)
    assert fast.seconds(more) > fast.seconds(less)


def test_a_batch_grows_evenly() -> None:
    one, two, four = (cost.training_step(SETUP, batch) for batch in (1, 2, 4))
    assert one.peak < two.peak < four.peak
    assert four.flops == pytest.approx(4 * one.flops, rel=0.01)


def test_prediction_takes_less_than_training() -> None:
    asked, learnt = cost.prediction(SETUP), cost.training_step(SETUP, 1)
    assert asked.peak < learnt.peak / 2
    assert asked.flops < learnt.flops / 2


def test_blocks_computed_again_save_memory_and_cost_time() -> None:
    again = replace(SETUP, checkpointing=True)
    assert cost.training_step(again, 4).peak < 0.8 * cost.training_step(SETUP, 4).peak
    assert cost.training_step(again, 4).flops > cost.training_step(SETUP, 4).flops


def test_prompts_cost_answers() -> None:
    asked = replace(SETUP, answers=2)
    more = replace(SETUP, answers=4)
    assert cost.training_step(asked, 1).peak < cost.training_step(more, 1).peak


def test_the_counted_numbers_are_those_of_the_model() -> None:
    from voxelsam import adapt, backbones

    backbone = backbones.build("sam-tiny", (32, 32))
    adaptation = adapt.build("ma_sam", {"rank": 4, "width": 16}, backbone, 3)
    found = cost.networks(SETUP)
    assert found.trained == sum(adaptation.counts().values())
    assert found.parameters == sum(tensor.numel() for part in (backbone, adaptation) for tensor in part.parameters())


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
    found = cost.estimate(recipe, SETUP, data, "gpu", cost.Speed(1e9, 1e9, 1e-6))
    assert found.steps == 3 * 15
    assert found.memory == pytest.approx(found.weights + found.optimiser + found.activations, rel=0.05)
    assert found.seconds is not None
    assert found.seconds_per_epoch is not None
    assert found.seconds_per_step is not None
    assert found.seconds == pytest.approx(3 * found.seconds_per_epoch)
    assert found.seconds_per_epoch > 15 * found.seconds_per_step
    here = cost.estimate(recipe, SETUP, data, "cpu", None)
    assert here.memory >= found.memory + cost.PROGRAM
    assert here.seconds is None


def test_the_running_average_and_added_gradients_take_memory() -> None:
    given = {"data": {"root": "x"}, "stack": {"size": [32, 32], "depth": 3}, "adapt": json.loads(MA_SAM)}
    plain, averaged, added = (
        cost.memory(parse(given | {"train": train}), SETUP, "gpu") for train in ({}, {"ema": 0.9}, {"accumulate": 2})
    )
    own = 4 * cost.networks(SETUP).trained
    assert averaged == plain + 2 * own
    assert added == plain + own


def test_a_device_has_a_speed() -> None:
    found = cost.speed("cpu")
    assert found.flops > 1e8
    assert found.moved > 1e7
    assert 0 < found.call < 1
    assert cost.speed("cpu") is found
