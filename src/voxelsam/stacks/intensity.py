"""From Hounsfield units, MR intensities or pixel values to 0…1 in three channels.

CT values mean the same in every scan, so CT wants a fixed window (or mean and standard deviation of a whole data set);
MR values do not, so each volume is measured. Nothing here ever turns numbers into NaN: what is constant becomes 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Shaped
from torch import Tensor

from voxelsam.config import STRICT
from voxelsam.errors import InputError
from voxelsam.stacks.spread import moments, percentiles
from voxelsam.types import Pixels

Channels = Literal["copy", "rgb", "first3", "mean"]
"""One channel three times · exactly three as they are · the first three of several · the mean of all, three times."""

Method = Literal["window", "percentile", "minmax", "zscore", "unit"]
Scope = Literal["volume", "stack"]

_NOTHING: tuple[float | None, float | None] = (None, None)
_LIMITS: Mapping[Method, tuple[float | None, float | None]] = MappingProxyType(
    {"window": _NOTHING, "percentile": (0.5, 99.5), "minmax": _NOTHING, "zscore": (-3.0, 3.0), "unit": (0.0, 255.0)}
)


@dataclass(frozen=True)
class Scale:
    """The values of each channel that become 0 and 1, as measured for one volume."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    scope: Scope = "volume"

    def apply(self, data: Shaped[np.ndarray, "channels ..."]) -> Float32[np.ndarray, "channels ..."]:
        """Values clipped and scaled to 0…1, channel by channel; a channel without a range becomes 0.

        Raises:
            InputError: the number of channels is not the measured one, or there are NaN values.
        """
        if len(data) != len(self.low):
            raise InputError(f"the intensities of {len(self.low)} channels were measured, but {len(data)} came")
        result = np.zeros(data.shape, np.float32)
        for values, out, low, high in zip(data, result, self.low, self.high, strict=True):
            span = high / 2 - low / 2  # halves, because the difference of two large numbers may overflow
            if span > 0:
                clipped = np.clip(values, low, high, dtype=np.float64)
                out[...] = (clipped / 2 - low / 2) / span
        if np.isnan(result).any():
            raise InputError("the image has NaN values; replace them in the file first", code="VAL-01")
        return result

    def finish(
        self, stack: Float[Tensor, "depth channels height width"]
    ) -> Float[Tensor, "depth channels height width"]:
        """The last step, on the resized slices of one stack: 0…1 again where resizing overshot.

        With the scope ``stack``, the lowest and highest value of each channel in the stack become 0 and 1 (released
        MA-SAM); a constant channel becomes 0.
        """
        if self.scope == "volume":
            return stack.clamp(0, 1)
        low = stack.amin((0, 2, 3), keepdim=True)
        span = stack.amax((0, 2, 3), keepdim=True) - low
        return (stack - low) / span.where(span > 0, 1)


@dataclass(frozen=True)
class Intensity:
    """How intensities become 0…1; a section of the configuration.

    Raises:
        ValueError: values do not go together; the message begins with the name of the field.
    """

    __pydantic_config__ = STRICT

    kind: Method = "percentile"
    """``window``: from ``low`` to ``high``, the same for every volume (CT, in HU).
    ``percentile``: from the ``low``-th to the ``high``-th percentile of the volume, 0.5 and 99.5 by default (MR).
    ``minmax``: from the lowest to the highest value of the volume.
    ``zscore``: from ``low`` to ``high`` standard deviations around the mean, -3 and 3 by default; ``mean`` and ``std``
    are the data set's when given, else the volume's.
    ``unit``: the values that pictures and videos have, 0 to 255 by default."""
    scope: Scope = "volume"
    """``stack`` stretches each stack to 0…1 afterwards, as released MA-SAM does (specification 2.2): one slice then has
    different grey values in different stacks."""
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    std: float | None = None

    def __post_init__(self) -> None:
        given = self.low is not None, self.high is not None
        if self.kind == "window" and not all(given):
            raise ValueError("low: a window needs low and high, the values that become black and white")
        if self.kind == "minmax" and any(given):
            raise ValueError("low: minmax takes its limits from the volume; leave low and high out")
        if self.kind != "zscore" and (self.mean, self.std) != _NOTHING:
            raise ValueError(f"mean: only zscore uses mean and std, not {self.kind}")
        if (self.mean is None) != (self.std is None):
            raise ValueError("std: give both mean and std, or neither")
        if self.std is not None and self.std <= 0:
            raise ValueError(f"std: must be positive, not {self.std}")
        low, high = self.limits
        if low is not None and high is not None and not low < high:
            raise ValueError(f"high: must be above low, but {low} to {high} came")
        if self.kind == "percentile" and not ((low or 0) >= 0 and (high or 0) <= 100):
            raise ValueError(f"low: percentiles are 0 to 100, not {low} to {high}")

    @property
    def limits(self) -> tuple[float | None, float | None]:
        """``low`` and ``high``, the defaults of the kind filled in; nothing where they are measured."""
        low, high = _LIMITS[self.kind]
        return low if self.low is None else self.low, high if self.high is None else self.high

    def measure(self, data: Pixels) -> Scale:
        """What becomes 0 and 1 in this volume, for each channel.

        Raises:
            InputError: the volume has values that are no numbers.
        """
        pairs = [self._range(channel) for channel in data]
        if not np.isfinite(pairs).all():
            raise InputError(
                "the intensities cannot be measured because the image has NaN or infinite values; "
                "replace them in the file first",
                code="VAL-01",
            )
        return Scale(tuple(low for low, _ in pairs), tuple(high for _, high in pairs), self.scope)

    def _range(self, channel: Shaped[np.ndarray, "i j k"]) -> tuple[float, float]:
        low, high = self.limits
        if low is None or high is None:
            return float(channel.min()), float(channel.max())
        if self.kind == "percentile":
            low, high = percentiles(channel, (low, high))
            return low, high
        if self.kind == "zscore":
            mean, std = _moments(channel) if self.mean is None or self.std is None else (self.mean, self.std)
            return mean + low * std, mean + high * std
        return low, high


def to_three(
    images: Float[Tensor, "frames channels height width"], rule: Channels
) -> Float[Tensor, "frames 3 height width"]:
    """The model's three channels out of the data's.

    Raises:
        InputError: the rule does not fit the number of channels.
    """
    count = images.shape[1]
    fits = {"copy": count == 1, "rgb": count == 3, "first3": count >= 3, "mean": count >= 1}[rule]
    if not fits:
        raise InputError(
            f"the images have {count} channels, which the rule channels={rule!r} does not fit: 'copy' takes 1, "
            "'rgb' 3, 'first3' 3 or more, 'mean' any number",
            code="VAL-06",
        )
    if rule in ("rgb", "first3"):
        return images[:, :3]
    return images.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)


def _moments(channel: Shaped[np.ndarray, "i j k"]) -> tuple[float, float]:
    if channel.min() == channel.max():  # rounding would give a constant a small deviation
        return float(channel.min()), 0.0
    return moments(channel)


CT_ABDOMEN = Intensity("window", low=-200.0, high=250.0)
"""Abdominal CT, HU; MA-SAM's window for BTCV."""
CT_PANCREAS = Intensity("window", low=-50.0, high=200.0)
"""Pancreas CT, HU; MA-SAM's window for MSD pancreas."""
MR = Intensity("percentile")
"""MR: 0.5th to 99.5th percentile of each volume."""
MR_PROSTATE = Intensity("percentile", low=0.0, high=99.0)
"""Prostate MR as prepared for MA-SAM: from the lowest value to the 0.99 quantile of each volume."""
PICTURE = Intensity("unit")
"""Pictures and videos, 0 to 255."""

DEFAULTS: Mapping[str, Intensity] = MappingProxyType(
    {"CT": CT_ABDOMEN, "MR": MR, "US": MR, "PICTURE": PICTURE, "VIDEO": PICTURE, "UNKNOWN": MR}
)
"""What to use for a kind of volume when nothing better is known; CT of other regions wants its own window."""
