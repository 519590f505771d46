"""A trained network made ready for prediction: the same function, computed faster, without gradients.

Always, and exact to rounding: low-rank increments are folded into the weights of the image encoder, its modules are
replaced by those of ``voxelsam.nn.prepared``, and those of the mask decoder by those of
``voxelsam.nn.prepared_decoder``. By choice, and not exact: ``bf16`` and ``fp16`` (half precision, with single precision
where it matters), and ``int8`` (the image encoder's linear layers in whole numbers of one byte). Whole networks without
SAM's encoder stay as they are; half precision is PyTorch's autocast there.
"""

import copy
from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from voxelsam.errors import ConfigError
from voxelsam.model import Segmenter
from voxelsam.nn.prepared import Arithmetic
from voxelsam.nn.products import TOLERANCE, Plain, Product, Quantised, fastest, tried
from voxelsam.nn.seam import EncoderAdaptation, Stack
from voxelsam.nn.vit import SamEncoder

Precision = Literal["fp32", "bf16", "fp16", "int8"]

NUMBERS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.float32}
"""In which networks compute, as far as they are not quantised."""


def prepare(segmenter: Segmenter, precision: Precision = "fp32", *, compiled: bool = False) -> Segmenter:
    """A frozen copy for prediction on the device where ``segmenter`` is; that one stays as it is.

    The two share tensors that need no change.

    Args:
        segmenter: trained.
        precision: what the networks compute in.
        compiled: whether the image encoder is compiled. That happens when it is first called, and again for another
            number of frames.

    Raises:
        ConfigError: this device or this network cannot compute so.
    """
    result = _sharing(segmenter.folded())
    adaptation, device = result.adaptation, segmenter.mean.device
    encoder = result.image_encoder
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("processors compute fp16 slower than fp32: use bf16 or int8, or fp16 on cuda or mps")
    if not isinstance(encoder, SamEncoder):
        adaptation.image_encoder = _without_sam(encoder, precision, compiled=compiled)
        return result
    result.ready(_arithmetic(precision, encoder, device, compiled=compiled))
    if compiled:
        encoder.blocks_of = _compiled(encoder.blocks_of)  # type: ignore[method-assign]
    result.backbone.image_encoder = encoder  # SAM's own, where the method has a copy, would only take memory
    return result


def products(segmenter: Segmenter) -> list[str]:
    """How a prepared image encoder multiplies, for records (``voxelsam.nn.products``)."""
    return sorted({part.called for part in segmenter.image_encoder.modules() if isinstance(part, Product)})


class Autocast(nn.Module):
    """A whole network in half precision.

    Args:
        network: stands in the place of an image encoder.
        numbers: the half precision.
    """

    def __init__(self, network: nn.Module, numbers: torch.dtype) -> None:
        super().__init__()
        self.network, self.numbers = network, numbers

    def forward(
        self, frames: Float[Tensor, "frames 3 height width"], stack: Stack, adaptation: EncoderAdaptation
    ) -> Float[Tensor, "frames classes height width"]:
        """What the network says."""
        with torch.autocast(frames.device.type, dtype=self.numbers):
            logits: Tensor = self.network(frames, stack, adaptation)
        return logits


def _without_sam(network: nn.Module, precision: Precision, *, compiled: bool) -> nn.Module:
    if precision == "int8" or compiled:
        what = "int8" if precision == "int8" else "--compile"
        raise ConfigError(f"{what} is for methods that adapt SAM, and this model is a whole network: use fp32 or bf16")
    return network if precision == "fp32" else Autocast(network, NUMBERS[precision])


def _arithmetic(precision: Precision, encoder: SamEncoder, device: torch.device, *, compiled: bool) -> Arithmetic:
    """What the image encoder computes in; a compiler chooses products by itself."""
    numbers, width = NUMBERS[precision], encoder.pos_embed.shape[-1]
    if precision != "int8":
        return Arithmetic(numbers, Plain if compiled else fastest(numbers, width, device))
    if compiled or device.type != "cpu":
        raise ConfigError("int8 is for processors, and not compiled: use bf16 on this device or with --compile")
    error = tried(Quantised, numbers, width).error
    if not error <= TOLERANCE[torch.int8]:
        raise ConfigError(
            f"this processor, or this build of PyTorch, cannot multiply in int8 (relative error {error:.1e}): "
            "use fp32, or bf16 where the processor has it"
        )
    return Arithmetic(numbers, Quantised)


def _sharing(segmenter: Segmenter) -> Segmenter:
    """A frozen copy in evaluation mode with modules of its own, whose tensors are those of ``segmenter``."""
    kept: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=False) for parameter in segmenter.parameters()
    }
    kept |= {id(buffer): buffer for buffer in segmenter.buffers()}
    return copy.deepcopy(segmenter, kept).eval()


def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function compiled; want of a compiler is an error of ours."""
    from torch._dynamo.exc import TorchDynamoException

    faster = torch.compile(function, dynamic=False)

    def call(*given: Any) -> Tensor:
        try:
            return faster(*given)
        except TorchDynamoException as error:
            reason = str(getattr(error, "inner_exception", error)).strip().splitlines()[0]
            raise ConfigError(f"--compile does not work here ({reason}): leave it out") from None

    return call
