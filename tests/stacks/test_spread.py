"""Percentiles and moments, plane by plane, are numpy's."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from voxelsam.stacks.spread import moments, ordered, percentiles

DTYPES = ["uint8", "int8", "uint16", "int16", "int32", "uint32", "int64", "float32", "float64"]


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=12, deadline=None)
@given(data=st.data(), low=st.floats(0, 100), high=st.sampled_from([0.0, 0.5, 50.0, 99.5, 100.0]))
def test_they_are_those_of_numpy_to_the_bit(dtype: str, data: st.DataObject, low: float, high: float) -> None:
    elements = {"allow_nan": False, "allow_infinity": False} if dtype.startswith("float") else {}
    shape = arrays.array_shapes(min_dims=3, max_dims=3, max_side=4)
    values = data.draw(arrays.arrays(dtype, shape, elements=arrays.from_dtype(np.dtype(dtype), **elements)))
    with np.errstate(all="ignore"):
        expected = np.percentile(values, (low, high))
        assert np.array_equal(percentiles(values, (low, high)), expected, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_place_of_a_sorted_scan(dtype: str) -> None:
    random = np.random.default_rng(4)
    values = (random.normal(0, 60, (5, 6, 7)) * (1 if dtype.endswith("8") else 100)).astype(np.int64).astype(dtype)
    if dtype.startswith("float"):
        values[0, 0, :4] = [-0.5, -np.inf, np.inf, 1e-40]
    everything = np.sort(values.ravel())
    assert [ordered(values, {rank})[rank] for rank in range(0, 210, 11)] == everything[::11].tolist()
    assert sorted(ordered(values, {0, 100, 209}).items()) == [(rank, everything[rank]) for rank in (0, 100, 209)]


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_order_in_memory_makes_no_difference(order: str) -> None:
    values = np.asarray(np.random.default_rng(1).normal(size=(9, 4, 6)), np.float32, order=order)[::-1, :, ::2]  # type: ignore[call-overload]
    assert percentiles(values, (3.0, 97.0)) == np.percentile(values, (3.0, 97.0)).tolist()
    assert moments(values) == pytest.approx((values.mean(dtype=float), values.std(dtype=float)), rel=1e-12)


def test_a_value_that_is_no_number_makes_none() -> None:
    values = np.ones((2, 3, 4), np.float32)
    values[1, 2, 3] = np.nan
    assert np.isnan(percentiles(values, (0.5, 99.5))).all()


def test_nothing_as_large_as_the_scan_is_copied() -> None:
    values = np.random.default_rng(2).normal(0, 500, (64, 64, 200)).astype(np.float32, order="F")
    tracemalloc.start()
    percentiles(values, (0.5, 99.5))
    moments(values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < values.nbytes
