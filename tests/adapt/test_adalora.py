"""AdaLoRA: the increments, the importance and the schedule by hand, and a whole run."""

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from voxelsam import adapt
from voxelsam.adapt.adalora import LAYERS, AdaLoraEncoder, Allocator, Config, Triplets
from voxelsam.errors import ConfigError
from voxelsam.nn.backbone import Backbone
from voxelsam.nn.seam import SINGLE

MATRICES = 6
"""Three layers in two blocks."""


@pytest.fixture
def make(backbone: Backbone) -> Callable[..., AdaLoraEncoder]:
    """A fresh encoder adaptation with settings."""

    def made(**settings: object) -> AdaLoraEncoder:
        torch.manual_seed(3)
        return adapt.build("adalora", settings, backbone, 3).encoder

    return made


def shaken(encoder: AdaLoraEncoder) -> AdaLoraEncoder:
    """As after some training."""
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
    return encoder


def matrix(triplets: Triplets, block: int, number: int) -> Tensor:
    """The increment of a layer, written out."""
    return sum(
        triplets.e[block][i] * torch.outer(triplets.b[block][:, i], triplets.a[block][i])
        for i in range(len(triplets.e[block]))
    ) / (number + 1e-5)


def used(encoder: AdaLoraEncoder) -> int:
    """Values that are in use."""
    return sum(int(triplets.kept.sum()) for triplets in encoder.triplets.values())


def values(encoder: AdaLoraEncoder) -> int:
    """Values that are not zero."""
    return sum(int((e != 0).sum()) for triplets in encoder.triplets.values() for e in triplets.e)


def give_gradients(encoder: AdaLoraEncoder, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in encoder.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def follow(encoder: AdaLoraEncoder, steps: int, start: int = 0, stop: int | None = None) -> list[int]:
    """Some steps of gradient descent on noise; how many values are in use after each."""
    optimiser = torch.optim.SGD(encoder.parameters(), lr=1e-2)
    counts = []
    for step in range(start + 1, (stop or steps) + 1):
        give_gradients(encoder, step)
        optimiser.step()
        encoder.after_step(step, steps)
        counts.append(used(encoder))
    return counts


def test_increments_are_sums_of_triplets(
    backbone: Backbone, tokens: Tensor, make: Callable[..., AdaLoraEncoder]
) -> None:
    encoder, mlp = shaken(make(rank=3, target=2, alpha=0.7)), backbone.image_encoder.blocks[1].mlp
    encoder.triplets["lin2"].kept[1, 0] = False
    qkv, lin1, lin2 = (
        0.7 * matrix(encoder.triplets[layer], 1, number) for layer, number in zip(LAYERS, (3, 3, 2), strict=True)
    )
    projected = torch.randn(6, 4, 5, 48)
    assert torch.allclose(encoder.qkv(1, projected, tokens), projected + tokens @ qkv.T, rtol=1e-4, atol=1e-4)
    hidden = torch.nn.functional.gelu(tokens @ (mlp.lin1.weight + lin1).T + mlp.lin1.bias)
    by_hand = hidden @ (mlp.lin2.weight + lin2).T + mlp.lin2.bias
    assert torch.allclose(encoder.mlp(1, mlp, tokens, SINGLE), by_hand, rtol=1e-4, atol=1e-4)


def test_folded_is_the_same_also_without_any_triplet(backbone: Backbone) -> None:
    adaptation = adapt.build("adalora", {}, backbone, 3)
    shaken(adaptation.encoder)
    lin1 = adaptation.encoder.triplets["lin1"]
    lin1.kept[0] = False
    lin1.e[0].data.zero_()
    images = torch.randn(2, 3, *backbone.image_size)
    with torch.no_grad():
        expected = backbone.image_encoder(images, adaptation=adaptation.encoder)
        merged = adapt.merged(adaptation, backbone)
        found = merged.image_encoder(images, adaptation=merged.encoder)
    assert expected.isfinite().all()
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(backbone.image_encoder(images), expected, atol=1e-1)


def test_counts(make: Callable[..., AdaLoraEncoder]) -> None:
    dim, hidden, rank, blocks = 16, 64, 5, 2
    per_block = rank * ((dim + 3 * dim) + 2 * (dim + hidden) + 3)
    assert sum(p.numel() for p in make(rank=rank).parameters() if p.requires_grad) == blocks * per_block


def test_methods_say_whether_they_are_regulated(backbone: Backbone) -> None:
    regulated = {
        name
        for name in ("adalora", "lora", "ma_sam", "full")
        if isinstance(adapt.build(name, {}, backbone, 3).encoder, adapt.Regulated)
    }
    assert regulated == {"adalora"}


def test_the_penalty_is_the_mean_of_what_factors_lack(make: Callable[..., AdaLoraEncoder]) -> None:
    encoder = shaken(make(rank=3, target=2, orthogonality=0.4))
    skews = []
    for triplets in encoder.triplets.values():
        skews += [(a @ a.T - torch.eye(3)).square().sum().sqrt() for a in triplets.a]
        skews += [(b.T @ b - torch.eye(3)).square().sum().sqrt() for b in triplets.b]
    assert len(skews) == 2 * MATRICES
    assert encoder.penalty().item() == pytest.approx(0.4 * (sum(skews) / len(skews)).item(), rel=1e-5)


def test_orthonormal_factors_cost_nothing_and_descending_leads_there(make: Callable[..., AdaLoraEncoder]) -> None:
    encoder = make(orthogonality=1.0)
    before = encoder.penalty()
    optimiser = torch.optim.Adam(encoder.parameters(), lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        encoder.penalty().backward()
        optimiser.step()
    assert encoder.penalty() < 0.2 * before
    with torch.no_grad():
        for triplets in encoder.triplets.values():
            for a, b in zip(triplets.a, triplets.b, strict=True):
                torch.nn.init.orthogonal_(a)
                torch.nn.init.orthogonal_(b)
    assert encoder.penalty().item() == pytest.approx(0, abs=1e-5)
    assert make(orthogonality=0.0).penalty() == 0


def test_importance_is_smoothed_sensitivity_times_uncertainty(make: Callable[..., AdaLoraEncoder]) -> None:
    encoder = shaken(make(rank=3, target=2, smoothing=0.6, uncertainty=0.3, warmup=0.9, final=0.0))
    lin2 = encoder.triplets["lin2"]
    parts = (lin2.a[1], lin2.e[1], lin2.b[1])
    mean, spread = ([torch.zeros_like(part) for part in parts] for _ in range(2))
    for step in range(1, 4):
        give_gradients(encoder, step)
        encoder.after_step(step, 100)
        for i, part in enumerate(parts):
            sensitivity = (part * part.grad).abs().detach()
            mean[i] = 0.6 * mean[i] + 0.4 * sensitivity
            spread[i] = 0.3 * spread[i] + 0.7 * (sensitivity - mean[i]).abs()
    a, e, b = (m * s for m, s in zip(mean, spread, strict=True))
    assert torch.allclose(encoder.allocator.scores()["lin2"][1], e + a.mean(1) + b.mean(0), rtol=1e-4)


def test_triplets_of_all_layers_and_blocks_compete(make: Callable[..., AdaLoraEncoder]) -> None:
    """One matrix may keep everything, another nothing; what is divided by follows."""
    encoder = shaken(make(rank=3, target=1, warmup=0.0, final=0.0))
    give_gradients(encoder, 0)
    for parameter in encoder.parameters():
        parameter.grad *= 1e-3
    wanted = {("qkv", 0): (0, 1, 2), ("lin2", 1): (0, 2), ("lin1", 0): (1,)}
    for (layer, block), places in wanted.items():
        encoder.triplets[layer].e[block].grad[list(places)] = 100.0
    encoder.after_step(1, 1)
    kept = {
        (layer, block): tuple(row.nonzero().flatten().tolist())
        for layer in LAYERS
        for block, row in enumerate(encoder.triplets[layer].kept)
        if row.any()
    }
    assert kept == wanted
    assert values(encoder) == used(encoder) == MATRICES
    for layer in LAYERS:
        for block in (0, 1):
            number = len(wanted.get((layer, block), ()))
            by_hand = matrix(encoder.triplets[layer], block, number).double()
            assert torch.allclose(encoder.triplets[layer].matrix(block), by_hand, rtol=1e-4)


def test_the_budget_falls_with_the_third_power(make: Callable[..., AdaLoraEncoder]) -> None:
    budget = make(rank=6, target=4, warmup=0.1, final=0.3).allocator.budget
    assert [budget(step, 100) for step in (1, 10)] == [36, 36]
    assert [budget(step, 100) for step in (25, 40, 55)] == [24 + int(12 * (1 - i / 4) ** 3) for i in (1, 2, 3)]
    assert [budget(step, 100) for step in (70, 71, 100)] == [24, 24, 24]


@given(
    steps=st.integers(1, 300),
    rank=st.integers(1, 9),
    data=st.data(),
    warmup=st.floats(0, 0.99),
)
def test_the_budget_never_grows_and_ends_at_the_target(
    steps: int, rank: int, data: st.DataObject, warmup: float
) -> None:
    target = data.draw(st.integers(1, rank))
    final = data.draw(st.floats(0, 0.99 - warmup))
    triplets = Triplets([(1, 1), (1, 1)], rank)
    allocator = Allocator(Config(rank=rank, target=target, warmup=warmup, final=final), {"qkv": triplets})
    budgets = [allocator.budget(step, steps) for step in range(steps + 1)]
    assert budgets == sorted(budgets, reverse=True)
    assert budgets[-1] == 2 * target
    assert budgets[0] <= 2 * rank
    assert all(budget == 2 * rank for budget in budgets[: min(round(warmup * steps), steps - round(final * steps))])


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("shares", [(0.1, 0.3), (0.0, 0.0), (0.0, 0.99), (0.9, 0.0)])
def test_every_run_ends_with_the_target(
    make: Callable[..., AdaLoraEncoder], steps: int, shares: tuple[float, float]
) -> None:
    encoder = shaken(make(rank=3, target=2, warmup=shares[0], final=shares[1]))
    assert follow(encoder, steps)[-1] == values(encoder) == 2 * MATRICES


def test_choices_are_made_every_so_many_steps_after_the_warm_up_and_before_the_end(
    make: Callable[..., AdaLoraEncoder],
) -> None:
    encoder = shaken(make(rank=6, target=1, warmup=0.2, final=0.2, interval=10))
    counts = follow(encoder, 50)
    changes = [step for step in range(2, 51) if counts[step - 1] != counts[step - 2]]
    assert changes == [20, 30, 40]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == MATRICES


def test_between_choices_values_may_come_back_and_in_the_end_they_stay_away(
    make: Callable[..., AdaLoraEncoder],
) -> None:
    encoder = shaken(make(rank=6, target=2, warmup=0.2, final=0.4, interval=4))
    follow(encoder, 20, stop=8)
    assert values(encoder) == used(encoder) < 6 * MATRICES
    follow(encoder, 20, start=8, stop=9)
    assert values(encoder) == 6 * MATRICES > used(encoder)
    follow(encoder, 20, start=9, stop=12)
    chosen = {layer: triplets.kept.clone() for layer, triplets in encoder.triplets.items()}
    for step in range(12, 20):
        follow(encoder, 20, start=step, stop=step + 1)
        assert values(encoder) == used(encoder) == 2 * MATRICES
        assert all(torch.equal(encoder.triplets[layer].kept, kept) for layer, kept in chosen.items())


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(make: Callable[..., AdaLoraEncoder]) -> None:
    settings = {"rank": 6, "target": 2, "interval": 3}
    whole, half = (shaken(make(**settings)) for _ in range(2))
    follow(whole, 30)
    follow(half, 30, stop=11)
    state, memory = copy.deepcopy(half.state_dict()), copy.deepcopy(half.memory())
    resumed = make(**settings)
    resumed.load_state_dict(state)
    resumed.remember(memory)
    follow(resumed, 30, start=11)
    forgetful = make(**settings)
    forgetful.load_state_dict(state)
    follow(forgetful, 30, start=11)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor)
    assert any(not torch.equal(forgetful.triplets[layer].kept, whole.triplets[layer].kept) for layer in LAYERS)


def test_a_copy_chooses_for_itself(make: Callable[..., AdaLoraEncoder]) -> None:
    encoder = shaken(make(rank=6, target=2))
    other = copy.deepcopy(encoder)
    follow(other, 10)
    assert (used(encoder), used(other)) == (6 * MATRICES, 2 * MATRICES)
    assert encoder.memory() == {}


def test_a_step_that_overflowed_does_not_spoil_the_importance(make: Callable[..., AdaLoraEncoder]) -> None:
    encoder = shaken(make(rank=3, target=2))
    give_gradients(encoder, 0)
    for parameter, value in zip(encoder.parameters(), (float("inf"), float("nan")) * MATRICES, strict=False):
        parameter.grad.fill_(value)
    encoder.after_step(1, 10)
    assert all(scores.isfinite().all() for scores in encoder.allocator.scores().values())


def test_a_whole_run_learns_while_triplets_go(backbone: Backbone) -> None:
    """The encoder is to become another one, in which a weight differs by a matrix of rank 2."""
    encoder = adapt.build(
        "adalora", {"rank": 2, "target": 1, "interval": 2, "orthogonality": 0.01}, backbone, 3
    ).encoder
    teacher, images = copy.deepcopy(backbone.image_encoder), torch.randn(8, 3, *backbone.image_size)
    with torch.no_grad():
        weight = teacher.blocks[0].mlp.lin1.weight
        weight += torch.randn(64, 2) @ torch.randn(2, 16)
        truth = teacher(images)
    optimiser = torch.optim.Adam(encoder.parameters(), lr=5e-2)
    errors = []
    for step in range(1, 101):
        optimiser.zero_grad()
        error = (backbone.image_encoder(images, adaptation=encoder) - truth).square().mean()
        (error + encoder.penalty()).backward()
        optimiser.step()
        encoder.after_step(step, 100)
        errors.append(error.item())
    assert errors[-1] < 0.5 * errors[0]
    assert used(encoder) == values(encoder) == MATRICES


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rank": 4, "target": 5}, "target is between 1 and rank, but target=5 and rank=4 came"),
        ({"target": 0}, "target is between 1 and rank"),
        ({"interval": 0}, "at least 1 step"),
        ({"warmup": 0.5, "final": 0.5}, "shares of the run that leave some of it"),
        ({"warmup": -0.1}, "shares of the run"),
        ({"final": float("nan")}, "shares of the run"),
        ({"smoothing": 1.0}, "smoothing is at least 0 and below 1"),
        ({"uncertainty": -0.5}, "uncertainty is at least 0 and below 1"),
        ({"orthogonality": -1.0}, "orthogonality is a weight from 0 on"),
    ],
)
def test_settings_that_make_no_sense_are_refused(backbone: Backbone, config: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        adapt.build("adalora", config, backbone, 3)


def test_another_mlp_is_refused(tokens: Tensor, make: Callable[..., AdaLoraEncoder]) -> None:
    with pytest.raises(ConfigError, match="SAM's MLP of two layers"):
        make().mlp(0, torch.nn.Identity(), tokens, SINGLE)
