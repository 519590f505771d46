from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from voxelsam.stacks import Merger, StackPlan
from voxelsam.stacks.merge import Weights, stack_weights

quick = settings(max_examples=40, deadline=None)
plans = st.integers(1, 7).flatmap(
    lambda depth: st.builds(
        StackPlan, depth=st.just(depth), stride=st.integers(1, depth), edge=st.sampled_from(["repeat", "reflect"])
    )
)
weightings = st.sampled_from(["mean", "hann", "centre"])


def merge(plan: StackPlan, slices: int, stacks: dict[int, Tensor], weights: Weights) -> tuple[dict[int, Tensor], int]:
    """Streams all stacks; also the largest number of slices that were held after a stack's slices were taken."""
    merger = Merger(slices, plan, weights)
    merged: dict[int, Tensor] = {}
    most = 0
    for start, stack in stacks.items():
        merger.add(start, stack)
        most = max(most, merger.held)
        merged.update(merger.done())
    assert merger.complete
    assert merger.held == 0
    return merged, most


def brute_force(plan: StackPlan, slices: int, stacks: dict[int, Tensor], weights: tuple[float, ...]) -> Tensor:
    shape = next(iter(stacks.values())).shape[1:]
    sums, counts = torch.zeros(slices, *shape, dtype=torch.float64), torch.zeros(slices, 1, 1, 1, dtype=torch.float64)
    for (start, stack), place in product(stacks.items(), range(plan.depth)):
        if 0 <= start + place < slices:
            sums[start + place] += stack[place].double() * weights[place]
            counts[start + place] += weights[place]
    return sums / counts


@quick
@given(plans, st.integers(1, 25), weightings)
def test_merged_ones_are_ones(plan: StackPlan, slices: int, weights: Weights) -> None:
    merged, _ = merge(plan, slices, {s: torch.ones(plan.depth, 2, 3, 3) for s in plan.starts(slices)}, weights)
    assert list(merged) == list(range(slices))
    for scores in merged.values():
        torch.testing.assert_close(scores, torch.ones(2, 3, 3))


@quick
@given(plans, st.integers(1, 25), weightings)
def test_merging_equals_brute_force(plan: StackPlan, slices: int, weights: Weights) -> None:
    torch.manual_seed(slices)
    stacks = {start: torch.rand(plan.depth, 2, 3, 4) for start in plan.starts(slices)}
    merged, _ = merge(plan, slices, stacks, weights)
    expected = brute_force(plan, slices, stacks, stack_weights(plan, weights))
    for index in range(slices):
        torch.testing.assert_close(merged[index].double(), expected[index])


@quick
@given(plans, st.integers(1, 60), weightings)
def test_no_more_than_depth_slices_are_ever_held(plan: StackPlan, slices: int, weights: Weights) -> None:
    _, most = merge(plan, slices, {s: torch.zeros(plan.depth, 1, 1, 1) for s in plan.starts(slices)}, weights)
    assert most <= min(plan.depth, slices)


@pytest.mark.parametrize(("slices", "votes"), [(6, [3, 4, 5, 5, 4, 3]), (2, [2, 2]), (1, [1])])
def test_votes_per_slice_are_the_published_ones(slices: int, votes: list[int]) -> None:
    """The n-th stack scores 1, all others 0: its share of each slice is one vote."""
    plan = StackPlan(depth=5)
    starts = plan.starts(slices)
    for chosen in starts:
        stacks = {start: torch.full((5, 1, 1, 1), float(start == chosen)) for start in starts}
        merged, _ = merge(plan, slices, stacks, "mean")
        for index, count in enumerate(votes):
            expected = 1 / count if chosen <= index < chosen + 5 else 0
            assert merged[index].item() == pytest.approx(expected)


def test_slices_come_as_soon_as_no_later_stack_touches_them() -> None:
    plan = StackPlan(depth=5, stride=1)
    merger = Merger(6, plan)
    seen = []
    for start in plan.starts(6):
        merger.add(start, torch.ones(5, 1, 1, 1))
        seen.append([index for index, _ in merger.done()])
    assert seen == [[], [], [0], [1], [2], [3, 4, 5]]


def test_everything_may_be_taken_at_the_end() -> None:
    plan = StackPlan(depth=3, stride=2)
    merger = Merger(7, plan)
    for start in plan.starts(7):
        merger.add(start, torch.ones(3, 1, 2, 2))
    assert [index for index, _ in merger.done()] == list(range(7))
    assert list(merger.done()) == []


@pytest.mark.parametrize("depth", range(1, 8))
def test_centre_takes_each_slice_from_one_stack_only(depth: int) -> None:
    for stride in range(1, depth + 1):
        plan = StackPlan(depth=depth, stride=stride)
        stacks = {s: torch.full((depth, 1, 1, 1), float(n)) for n, s in enumerate(plan.starts(11))}
        merged, _ = merge(plan, 11, stacks, "centre")
        assert [scores.item() for scores in merged.values()] == [index // stride for index in range(11)]


@pytest.mark.parametrize("depth", range(1, 8))
def test_hann_weights_are_positive_even_and_highest_in_the_middle(depth: int) -> None:
    weights = np.array(stack_weights(StackPlan(depth=depth), "hann"))
    assert (weights > 0).all()
    np.testing.assert_allclose(weights, weights[::-1])
    assert weights.argmax() in (depth // 2, (depth - 1) // 2)


def test_the_given_scores_are_left_alone() -> None:
    plan = StackPlan(depth=3)
    stack = torch.rand(3, 2, 4, 4)
    before = stack.clone()
    merger = Merger(4, plan)
    for start in plan.starts(4):
        merger.add(start, stack)
    list(merger.done())
    assert torch.equal(stack, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_are_summed_in_full_precision(dtype: torch.dtype) -> None:
    plan = StackPlan(depth=7)
    merger = Merger(9, plan)
    for start in plan.starts(9):
        merger.add(start, torch.full((7, 1, 1, 1), 0.1, dtype=dtype))
    for _, scores in merger.done():
        assert scores.dtype == torch.float32
        assert scores.item() == pytest.approx(torch.tensor(0.1, dtype=dtype).item(), rel=1e-6)


@pytest.mark.parametrize("order", [(0,), (-2, 0), (-2, -2), (-2, -1, 0, 1, 1), (-2, -1, 0, 1, 2)])
def test_stacks_out_of_order_are_refused(order: tuple[int, ...]) -> None:
    merger = Merger(4, StackPlan(depth=5))
    for start in order[:-1]:
        merger.add(start, torch.ones(5, 1, 1, 1))
    with pytest.raises(ValueError, match=r"in the order of plan\.starts"):
        merger.add(order[-1], torch.ones(5, 1, 1, 1))


def test_a_stack_of_another_depth_is_refused() -> None:
    with pytest.raises(ValueError, match="5 slices, but 3 came"):
        Merger(4, StackPlan(depth=5)).add(-2, torch.ones(3, 1, 1, 1))


def test_a_volume_without_slices_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one slice"):
        Merger(0, StackPlan())


def test_a_slice_of_one_stack_is_given_out_without_a_copy() -> None:
    merger = Merger(3, StackPlan(depth=3, stride=3))
    stack = torch.rand(3, 2, 4, 5)
    merger.add(0, stack)
    for index, scores in merger.done():
        assert scores.data_ptr() == stack[index].data_ptr()
