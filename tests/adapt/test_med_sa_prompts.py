"""HyP-Adpt and the plainer adapters: formulas by hand, counts, and what the prompt may and may not do."""

import pytest
import torch
from torch import Tensor, nn

from voxelsam.adapt._hyper_prompt import Hyper, PromptAdapter, pooled, prompt_adapter
from voxelsam.nn.prompt_encoder import EncodedPrompts

MODES = ["hyper", "add", "concat", "none"]


def shaken(adapter: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return adapter


def make(mode: str) -> PromptAdapter:
    return prompt_adapter(mode, dim=12, width=5, prompt_width=4, layers=2)


def encoded(sparse: Tensor, real: Tensor) -> EncodedPrompts:
    return EncodedPrompts(sparse, real, torch.zeros(len(sparse), sparse.shape[2], 1, 1))


def test_hyp_adpt_is_the_formula_item_by_item() -> None:
    adapter = shaken(Hyper(dim=12, prompt_dim=6, width=5, prompt_width=4, layers=3))
    x, prompt = torch.randn(2, 7, 12), torch.randn(2, 6)
    expected = x.clone()
    for frame in range(2):
        z = adapter.prompt_down.weight @ prompt[frame] + adapter.prompt_down.bias
        for token in range(7):
            e = adapter.down.weight @ x[frame, token] + adapter.down.bias
            for hyper, norm in zip(adapter.hyper, adapter.norm, strict=True):
                matrix = (hyper.weight @ z + hyper.bias).reshape(5, 5)
                e = torch.stack([sum(e[i] * matrix[i, o] for i in range(5)) for o in range(5)])
                e = (e - e.mean()) / (e.var(unbiased=False) + 1e-6).sqrt() * norm.weight + norm.bias
                e = e.clamp(min=0)
            expected[frame, token] += adapter.up.weight @ e + adapter.up.bias
    torch.testing.assert_close(adapter(x, prompt), expected, atol=1e-5, rtol=1e-5)


def test_added_and_concatenated_prompts_are_their_formulas() -> None:
    x, prompt = torch.randn(2, 7, 12), torch.randn(2, 12)
    added, joined, plain = (shaken(make(mode)) for mode in ("add", "concat", "none"))
    e = added.down(x) + added.prompt_down(prompt)[:, None]
    torch.testing.assert_close(added(x, prompt), x + added.up(added.norm(e).relu()))
    z = joined.prompt_down(prompt)[:, None].expand(2, 7, 4)
    e = joined.join(torch.cat((joined.down(x), z), dim=-1))
    torch.testing.assert_close(joined(x, prompt), x + joined.up(joined.norm(e).relu()))
    torch.testing.assert_close(plain(x, prompt), x + plain.up(plain.norm(plain.down(x)).relu()))


def test_hyp_adpt_has_as_many_numbers_as_specified() -> None:
    adapter = prompt_adapter("hyper", dim=256, width=64, prompt_width=16, layers=2)
    assert sum(parameter.numel() for parameter in adapter.parameters()) == 176_720


@pytest.mark.parametrize("mode", MODES)
def test_a_fresh_adapter_changes_nothing(mode: str) -> None:
    x = torch.randn(2, 7, 12)
    assert torch.equal(make(mode)(x, torch.randn(2, 12)), x)


def test_matrices_start_near_the_identity() -> None:
    torch.manual_seed(0)
    adapter = Hyper(dim=12, prompt_dim=12, width=32, prompt_width=16, layers=2)
    for hyper in adapter.hyper:
        matrices = hyper(torch.randn(3, 16)).reshape(3, 32, 32)
        assert 0 < (matrices - torch.eye(32)).abs().max() < 0.1
        assert hyper.weight.std().item() == pytest.approx(1e-2 / 4, rel=0.05)


@pytest.mark.parametrize("mode", MODES)
def test_a_prompt_steers_its_own_frame_unless_the_mode_is_none(mode: str) -> None:
    adapter, x, prompt = shaken(make(mode)), torch.randn(2, 7, 12), torch.randn(2, 12)
    other = prompt.clone()
    other[1] += 1
    before, after = adapter(x, prompt), adapter(x, other)
    assert torch.equal(before[0], after[0])
    assert torch.allclose(before[1], after[1], atol=1e-3) == (mode == "none")


def test_the_pooled_prompt_is_the_mean_of_what_is_real() -> None:
    sparse = torch.randn(3, 4, 6)
    real = torch.tensor([[True, True, False, False], [True, True, True, True], [False] * 4])
    nothing = torch.randn(6)
    expected = torch.stack((sparse[0, :2].mean(0), sparse[1].mean(0), nothing))
    torch.testing.assert_close(pooled(encoded(sparse, real), nothing), expected)


def test_without_any_token_the_learnt_vector_stands_in() -> None:
    nothing = torch.randn(6, requires_grad=True)
    vector = pooled(encoded(torch.zeros(2, 0, 6), torch.zeros(2, 0, dtype=torch.bool)), nothing)
    assert torch.equal(vector, nothing.expand(2, 6))
    vector.sum().backward()
    assert (nothing.grad == 2).all()


def test_no_gradient_flows_into_the_prompts() -> None:
    sparse = torch.randn(2, 3, 6, requires_grad=True)
    assert not pooled(encoded(sparse, torch.ones(2, 3, dtype=torch.bool)), torch.zeros(6)).requires_grad
