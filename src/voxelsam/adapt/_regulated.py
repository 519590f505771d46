"""What training has to know of methods that do more than follow gradients."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Regulated(Protocol):
    """An encoder adaptation with a loss of its own, which also changes itself after every step of the optimiser."""

    def penalty(self) -> Float[Tensor, ""]:
        """Is added to the loss."""

    def after_step(self, step: int, steps: int) -> None:
        """Follows every step of the optimiser, while the gradients of that step are still there.

        Args:
            step: how many steps of the optimiser are done, 1 after the first.
            steps: how many the whole run has.
        """

    def memory(self) -> dict[str, Tensor]:
        """What an interrupted run needs beyond the state dict to go on as if nothing had happened."""

    def remember(self, memory: Mapping[str, Tensor]) -> None:
        """Takes it back."""
