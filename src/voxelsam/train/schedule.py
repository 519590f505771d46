"""The learning rate of every step: a straight warm-up, then a polynomial decay.

Steps count from 0. As in MA-SAM's training the rate is renewed after a step, so that the first two steps share the
first rate and the decay lags one step behind.
"""


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
