"""The running average of the weights: its rule, where it is used, and that it survives an interruption."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from voxelsam import bundle
from voxelsam.train import history
from voxelsam.train.ema import Averaged
from voxelsam.train.module import TrainingModule
from voxelsam.train.run import train

Settings = dict[str, dict[str, Any]]
Interrupt = Callable[[int, int], None]


def weights(run: Path, name: str = "last") -> dict[str, Tensor]:
    return load_file(run / name / bundle.WEIGHTS)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Interrupt:
    """Makes training stop at an epoch and batch."""
    step = TrainingModule.training_step

    def at(epoch: int, batch: int) -> None:
        def stopping(self: TrainingModule, given: Any, index: int) -> Any:
            if (self.current_epoch, index) == (epoch, batch):
                raise KeyboardInterrupt
            return step(self, given, index)

        monkeypatch.setattr(TrainingModule, "training_step", stopping)

    return at


class TestRule:
    def network(self) -> nn.Module:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        network[0].bias.requires_grad_(False)
        return network

    def test_it_is_the_sum_written_out(self) -> None:
        network = self.network()
        averaged = Averaged(network, 0.6)
        averaged.on_fit_start(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
        weight = network[0].weight
        expected = weight.detach().clone()
        for step in range(1, 12):
            with torch.no_grad():
                weight += 1.0
            averaged.take(step)
            kept = min(0.6, (1 + step) / (10 + step))
            expected = kept * expected + (1 - kept) * weight.detach()
        assert torch.allclose(averaged.average["0.weight"], expected, rtol=1e-5)
        assert not torch.allclose(expected, weight.detach(), atol=0.1)

    def test_only_what_is_trained_is_averaged_and_after_use_all_is_as_before(self) -> None:
        network = self.network()
        averaged = Averaged(network, 0.9)
        averaged.on_fit_start(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
        assert averaged.average.keys() == {"0.weight", "1.weight", "1.bias"}
        with torch.no_grad():
            network[0].weight += 0.1234567
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        with averaged.applied():
            assert torch.equal(network[0].weight, averaged.average["0.weight"])
            assert not torch.equal(network[0].weight, before["0.weight"])
        assert same(before, network.state_dict())


def test_bundles_and_validation_have_the_average_and_training_goes_on_with_the_weights(
    phantom: Path, small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(phantom, tmp_path / "plain", settings=small | {"train": small["train"] | {"ema": None}})
    validated, trained_with = [], []
    validation, training = TrainingModule.validation_step, TrainingModule.training_step

    def first_of(module: TrainingModule) -> Tensor:
        return next(one for one in module.segmenter.adaptation.parameters() if one.requires_grad).detach().clone()

    def validating(self: TrainingModule, batch: Any, index: int) -> None:
        validated.append(first_of(self))
        validation(self, batch, index)

    def stepping(self: TrainingModule, batch: Any, index: int) -> Any:
        trained_with.append(first_of(self))
        return training(self, batch, index)

    monkeypatch.setattr(TrainingModule, "validation_step", validating)
    monkeypatch.setattr(TrainingModule, "training_step", stepping)
    train(phantom, tmp_path / "run", settings=small | {"train": small["train"] | {"ema": 0.9}})
    state = torch.load(tmp_path / "run" / "state.ckpt", weights_only=True)
    average = next(value["average"] for value in state["callbacks"].values() if "average" in value)
    saved = weights(tmp_path / "run")
    for name in average.keys() & saved.keys():
        assert torch.equal(saved[name], average[name]), name
    plain = weights(tmp_path / "plain")
    for name in plain:
        assert torch.equal(state["state_dict"][f"segmenter.adaptation.{name}"], plain[name]), name
    assert any(not torch.equal(saved[name], plain[name]) for name in plain)
    assert all(not torch.equal(seen, used) for seen in validated for used in trained_with[1:])
    losses = [
        [row["loss"] for row in history.read(run / "metrics.csv")] for run in (tmp_path / "run", tmp_path / "plain")
    ]
    assert losses[0] == losses[1]


def test_an_interrupted_run_goes_on_to_the_same_average(
    phantom: Path, small: Settings, tmp_path: Path, interrupt: Interrupt, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small | {"train": small["train"] | {"ema": 0.9}}
    train(phantom, tmp_path / "whole", settings=settings)
    interrupt(1, 1)
    with pytest.raises(KeyboardInterrupt):
        train(phantom, tmp_path / "run", settings=settings)
    monkeypatch.undo()
    train(phantom, tmp_path / "run", resume=True)
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    assert (tmp_path / "run" / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()
