"""The learning rate of every step: a straight warm-up, then a decay (polynomial in MA-SAM).

Steps count from 0. As in MA-SAM's training the rate is renewed after a step, so that the first two steps share the
first rate and the decay lags one step behind.
"""

import math


def rate(step: int, base: float, warmup: int, total: int, power: float) -> float:
    """Learning rate that step number ``step`` uses.

    ``base · max(step, 1) / warmup`` up to and including step ``warmup``, afterwards
    ``base · (1 - (step - 1 - warmup) / total) ** power``, and zero once ``total`` steps of decay are over.

    Args:
        step: number of the step, from 0.
        base: highest rate, reached at the end of the warm-up.
        warmup: steps of the warm-up; 0 for none.
        total: steps that the decay would take to reach zero (MA-SAM: 400 epochs, of which 300 are trained).
        power: exponent of the decay (MA-SAM: 7).

    Raises:
        ValueError: a count is negative, or ``total`` is not positive.
    """
    if step < 0 or warmup < 0 or total < 1:
        raise ValueError(f"needs step >= 0, warmup >= 0 and total >= 1, but got {step}, {warmup} and {total}")
    if step <= warmup and warmup:
        return base * max(step, 1) / warmup
    decayed = max(step - 1 - warmup, 0)
    return base * float(max(1 - decayed / total, 0.0) ** power)


def cosine(step: int, base: float, warmup: int, total: int) -> float:
    """The same warm-up, then half a wave of a cosine down to zero (Loshchilov and Hutter 2017, arXiv 1608.03983).

    Args:
        step: number of the step, from 0.
        base: highest rate.
        warmup: steps of the warm-up; 0 for none.
        total: steps of the decay.

    Raises:
        ValueError: a count is negative, or ``total`` is not positive.
    """
    highest = rate(min(step, warmup), base, warmup, total, 1.0)
    return highest * (1 + math.cos(math.pi * min(max(step - 1 - warmup, 0) / total, 1.0))) / 2


def constant(step: int, base: float, warmup: int) -> float:
    """The same warm-up, then always ``base``.

    Raises:
        ValueError: a count is negative.
    """
    return rate(min(step, warmup), base, warmup, 1, 1.0)


def stepped(step: int, base: float, warmup: int, every: int, factor: float) -> float:
    """The same warm-up; ``base`` is multiplied with ``factor`` after every ``every`` steps.

    Args:
        step: number of the step, from 0.
        base: rate before the first fall.
        warmup: steps of the warm-up; 0 for none.
        every: steps between two falls, counted from step 0.
        factor: of each fall.

    Raises:
        ValueError: a count is negative, or ``every`` is not positive.
    """
    if every < 1:
        raise ValueError(f"needs every >= 1, but got {every}")
    return float(constant(step, base, warmup) * factor ** (step // every))
