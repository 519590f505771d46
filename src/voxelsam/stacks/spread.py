"""Percentiles and moments of a whole scan, looking at one plane at a time: nothing as large as the scan is copied."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped

Array = np.ndarray[Any, Any]

_BITS = 16
"""Of the numbers that are counted in one look at the scan."""


def percentiles(channel: Shaped[np.ndarray, "i j k"], percents: Sequence[float]) -> list[float]:
    """The same as ``numpy.percentile``: linear between the two values that a percentile lies between.

    Args:
        channel: real numbers; with a NaN among them every percentile is NaN.
        percents: 0 to 100.
    """
    if channel.dtype.kind not in "iuf" or np.isnan(channel.min()):
        return [float(value) for value in np.percentile(channel, percents)]
    places = [(channel.size - 1) * (percent / 100) for percent in percents]
    ranks = {rank for place in places for rank in (math.floor(place), math.ceil(place))}
    found = ordered(channel, ranks)
    between = [np.array([found[math.floor(p)], found[math.ceil(p)]], channel.dtype) for p in places]
    return [float(np.quantile(pair, [p - math.floor(p)])[0]) for pair, p in zip(between, places, strict=True)]


def moments(channel: Shaped[np.ndarray, "i j k"]) -> tuple[float, float]:
    """Mean and standard deviation of all values, in double precision."""
    mean = float(channel.mean(dtype=np.float64))
    squares = sum(float(np.square(plane.astype(np.float64) - mean).sum()) for plane in _planes(channel))
    return mean, math.sqrt(squares / channel.size)


def ordered(channel: Shaped[np.ndarray, "i j k"], ranks: set[int]) -> dict[int, Any]:
    """The values that would stand at some places if all were sorted; there is no NaN.

    Values are turned into unsigned numbers of the same order, whose upper bits are counted first. A second look counts
    the next bits of those that share the upper bits of a value that is looked for, and so on.

    Args:
        channel: integers or floating-point numbers.
        ranks: places, 0 for the smallest value.
    """
    width = 8 * channel.dtype.itemsize
    known = {rank: (0, rank) for rank in ranks}
    """By rank the upper bits found so far, and the rank among the values that share them."""
    for shift in range(max(width - _BITS, 0), -1, -_BITS):
        counts = {upper: np.zeros(1 << min(width, _BITS), np.int64) for upper, _ in known.values()}
        for plane in _planes(channel):
            keys = _keys(plane)
            for upper, count in counts.items():
                alike = keys if shift + _BITS >= width else keys[keys >> keys.dtype.type(shift + _BITS) == upper]
                bits = (alike >> keys.dtype.type(shift)) & keys.dtype.type(len(count) - 1)
                count += np.bincount(bits.astype(np.intp), minlength=len(count))
        for rank, (upper, left) in known.items():
            below = counts[upper].cumsum()
            bits = int(below.searchsorted(left, side="right"))
            known[rank] = (upper << min(width, _BITS)) | bits, left - (int(below[bits - 1]) if bits else 0)
    return {rank: _value(upper, channel.dtype) for rank, (upper, _) in known.items()}


def _planes(channel: Shaped[np.ndarray, "i j k"]) -> Iterator[Array]:
    """Planes that lie apart in memory as little as can be, each as one row."""
    far = int(np.argmax(np.abs(channel.strides)))
    for plane in np.moveaxis(channel, far, 0):
        yield plane.ravel(order="K")


def _keys(values: Array) -> Array:
    """Unsigned numbers in the order of the values."""
    unsigned: Array = values.view(np.dtype(f"u{values.dtype.itemsize}"))
    top = unsigned.dtype.type(1 << (8 * values.dtype.itemsize - 1))
    if values.dtype.kind == "u":
        return unsigned
    if values.dtype.kind == "i":
        return np.asarray(unsigned ^ top)
    return np.asarray(np.where(unsigned & top, ~unsigned, unsigned | top))


def _value(key: int, dtype: np.dtype[Any]) -> Any:
    """The value of such a number."""
    top = 1 << (8 * dtype.itemsize - 1)
    if dtype.kind == "f":
        key = key ^ top if key & top else ~key & (2 * top - 1)
    elif dtype.kind == "i":
        key ^= top
    return np.array(key, np.dtype(f"u{dtype.itemsize}")).view(dtype)[()]
