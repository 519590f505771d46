"""A running average of the weights, which predicts more steadily than the weights of the last step.

After every step of the optimiser ``average ← d · average + (1 - d) · weights`` (Polyak averaging). So that the start
does not weigh for long, d rises with the steps n as ``min(decay, (1 + n) / (10 + n))``, the rule of TensorFlow's
``ExponentialMovingAverage``. Only trained parameters are averaged; buffers are those of the network as it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn


class Averaged(Callback):
    """Keeps the average; the network holds it during validation, and inside ``applied``.

    Args:
        network: whose trained parameters are averaged.
        decay: share that the average keeps at each step once the start is over.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = network
        self.decay = decay
        self.steps = 0
        """Of the optimiser, that are in the average."""
        self.average: dict[str, Tensor] = {}
        """By the names of the parameters; empty before the start."""
        self._weights: dict[str, Tensor] = {}

    def on_fit_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Begins with the weights as they are, or puts a restored average onto their device."""
        own = self._parameters()
        self.average = {name: self.average.get(name, tensor).detach().to(tensor) for name, tensor in own.items()}
        self.average = {name: tensor.clone() for name, tensor in self.average.items()}

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Takes the weights in, if the batch ended with a step of the optimiser."""
        if trainer.global_step > self.steps:
            self.take(trainer.global_step)

    def on_validation_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Puts the average into the network."""
        self._put_in()

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Puts the weights back."""
        self._put_back()

    def on_exception(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Puts the weights back, should validation have broken off."""
        self._put_back()

    def take(self, steps: int) -> None:
        """Adds the weights to the average.

        Args:
            steps: of the optimiser so far, this one included.
        """
        self.steps = steps
        kept = min(self.decay, (1 + steps) / (10 + steps))
        with torch.no_grad():
            for name, parameter in self._parameters().items():
                self.average[name].lerp_(parameter, 1 - kept)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The network holds the average inside the block, and exactly the weights of before after it."""
        self._put_in()
        try:
            yield
        finally:
            self._put_back()

    def state_dict(self) -> dict[str, Any]:
        """What an interrupted run needs to go on."""
        return {"steps": self.steps, "average": self.average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it back."""
        self.steps, self.average = state_dict["steps"], dict(state_dict["average"])

    def _parameters(self) -> dict[str, nn.Parameter]:
        return {name: tensor for name, tensor in self.network.named_parameters() if tensor.requires_grad}

    def _put_in(self) -> None:
        own = self._parameters()
        self._weights = {name: tensor.detach().clone() for name, tensor in own.items()}
        self._fill(self.average)

    def _put_back(self) -> None:
        self._fill(self._weights)
        self._weights = {}

    def _fill(self, values: dict[str, Tensor]) -> None:
        own = self._parameters()
        with torch.no_grad():
            for name, tensor in values.items():
                own[name].copy_(tensor)
