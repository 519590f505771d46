import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from voxelsam import config
from voxelsam.errors import ConfigError, InputError
from voxelsam.stacks import (
    CT_ABDOMEN,
    CT_PANCREAS,
    DEFAULTS,
    MR,
    MR_PROSTATE,
    PICTURE,
    Intensity,
    Scale,
    StackPlan,
    to_three,
)

quick = settings(max_examples=60, deadline=None)
EVERY = [
    CT_ABDOMEN,
    MR,
    MR_PROSTATE,
    PICTURE,
    Intensity("minmax"),
    Intensity("zscore"),
    Intensity("zscore", low=-1.0, high=4.0, mean=80.0, std=30.0),
]
volumes = st.one_of(
    arrays.arrays(np.int16, (2, 3, 4, 2)),
    arrays.arrays(np.uint8, (1, 3, 4, 2)),
    arrays.arrays(np.float32, (1, 3, 4, 2), elements=st.floats(-(2.0**127), 2.0**127, width=32)),
    arrays.arrays(np.float64, (1, 3, 2, 2), elements=st.floats(-1e150, 1e150)),
)


@quick
@given(st.sampled_from(EVERY), volumes)
def test_any_volume_becomes_zero_to_one_in_the_same_order(intensity: Intensity, data: np.ndarray) -> None:
    seen = intensity.measure(data).apply(data)
    assert seen.dtype == np.float32
    assert seen.shape == data.shape
    assert seen.min() >= 0
    assert seen.max() <= 1
    for before, after in zip(data, seen, strict=True):
        order = np.argsort(before, axis=None, kind="stable")
        assert (np.diff(after.ravel()[order]) >= 0).all()


@pytest.mark.parametrize("value", [0, 1, -1000, 1e-300, 5e-324, 1e150])
@pytest.mark.parametrize("intensity", [MR, MR_PROSTATE, Intensity("minmax"), Intensity("zscore")])
def test_a_constant_volume_becomes_zero(intensity: Intensity, value: float) -> None:
    data = np.full((2, 3, 3, 3), value)
    assert (intensity.measure(data).apply(data) == 0).all()


def test_a_window_is_the_same_for_every_volume() -> None:
    data = np.array([-1000, -200, 25, 250, 3000], np.int16).reshape(1, 5, 1, 1)
    scale = CT_ABDOMEN.measure(data)
    assert scale == CT_ABDOMEN.measure(data[:, :2])
    np.testing.assert_allclose(scale.apply(data).ravel(), [0, 0, 0.5, 1, 1])
    np.testing.assert_allclose(CT_PANCREAS.measure(data).apply(data).ravel(), [0, 0, 0.3, 1, 1])


def test_percentiles_are_those_of_each_channel() -> None:
    data = np.random.default_rng(0).gamma(2, 50, (2, 9, 8, 7))
    data[1] *= 100
    scale = Intensity("percentile", low=2.0, high=97.0).measure(data)
    for channel in (0, 1):
        assert scale.low[channel] == pytest.approx(np.quantile(data[channel], 0.02))
        assert scale.high[channel] == pytest.approx(np.quantile(data[channel], 0.97))


def test_mr_contrast_and_brightness_of_the_scanner_do_not_matter() -> None:
    data = np.random.default_rng(0).gamma(2, 50, (1, 9, 8, 7))
    other = data * 37 + 400
    np.testing.assert_allclose(MR.measure(data).apply(data), MR.measure(other).apply(other), atol=1e-6)


def test_zscore_measures_the_volume_or_takes_the_data_sets_numbers() -> None:
    data = np.random.default_rng(0).normal(100, 20, (1, 20, 20, 20))
    own = Intensity("zscore").measure(data)
    assert own.low[0] == pytest.approx(data.mean() - 3 * data.std())
    assert own.high[0] == pytest.approx(data.mean() + 3 * data.std())
    fixed = Intensity("zscore", low=-2.0, high=3.0, mean=50.0, std=10.0).measure(data)
    assert (fixed.low, fixed.high) == ((30,), (80,))


def test_pictures_are_divided_by_255() -> None:
    data = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    np.testing.assert_allclose(PICTURE.measure(data).apply(data), data / 255, atol=1e-7)


def test_large_offsets_do_not_cost_precision() -> None:
    data = (1e9 + np.arange(11.0)).reshape(1, 11, 1, 1)
    np.testing.assert_allclose(Intensity("minmax").measure(data).apply(data).ravel(), np.arange(11) / 10, atol=1e-6)


def test_the_data_are_left_alone() -> None:
    data = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)
    data.setflags(write=False)
    Intensity("minmax").measure(data).apply(data)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("intensity", [MR, Intensity("minmax"), Intensity("zscore")])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_what_is_no_number_cannot_be_measured(intensity: Intensity, value: float) -> None:
    data = np.random.default_rng(0).normal(size=(1, 4, 4, 4))
    data[0, :, 1, 2] = value
    with pytest.raises(InputError, match="NaN or infinite") as caught:
        intensity.measure(data)
    assert caught.value.code == "VAL-01"


def test_nan_is_refused_behind_a_fixed_window_and_infinity_is_clipped() -> None:
    data = np.array([np.nan, 0, 1, 2]).reshape(1, 4, 1, 1)
    with pytest.raises(InputError, match="NaN"):
        CT_ABDOMEN.measure(data).apply(data)
    data[0, 0] = np.inf
    assert CT_ABDOMEN.measure(data).apply(data)[0, 0] == 1


def test_another_number_of_channels_is_refused() -> None:
    with pytest.raises(InputError, match=r"2 channels were measured, but 1 came"):
        Scale((0.0, 0.0), (1.0, 1.0)).apply(np.zeros((1, 2, 2, 2)))


@quick
@given(arrays.arrays(np.float32, (3, 2, 4, 5), elements=st.floats(-5, 5, width=32)))
def test_stack_scope_stretches_each_channel_of_a_stack(values: np.ndarray) -> None:
    stack = torch.from_numpy(values)
    seen = Scale((0.0, 0.0), (1.0, 1.0), "stack").finish(stack)
    for channel in (0, 1):
        one = stack[:, channel]
        expected = (one - one.min()) / (one.max() - one.min()) if one.max() > one.min() else torch.zeros_like(one)
        torch.testing.assert_close(seen[:, channel], expected)
    assert not seen.isnan().any()


def test_volume_scope_only_cuts_off_what_resizing_overshot() -> None:
    stack = torch.tensor([-0.2, 0.3, 1.2]).reshape(1, 1, 1, 3)
    assert Scale((0.0,), (1.0,)).finish(stack).flatten().tolist() == pytest.approx([0, 0.3, 1])


@pytest.mark.parametrize(
    ("rule", "count", "expected"),
    [("copy", 1, [0, 0, 0]), ("rgb", 3, [0, 1, 2]), ("first3", 4, [0, 1, 2]), ("first3", 3, [0, 1, 2])],
)
def test_channel_rules_pick_channels(rule: str, count: int, expected: list[int]) -> None:
    images = torch.rand(2, count, 4, 5)
    assert torch.equal(to_three(images, rule), images[:, expected])  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_mean_rule_takes_any_number(count: int) -> None:
    images = torch.rand(2, count, 4, 5)
    for channel in (0, 1, 2):
        torch.testing.assert_close(to_three(images, "mean")[:, channel], images.mean(dim=1))


@pytest.mark.parametrize(("rule", "count"), [("copy", 2), ("copy", 3), ("rgb", 1), ("rgb", 4), ("first3", 2)])
def test_a_rule_that_does_not_fit_is_refused_with_the_alternatives(rule: str, count: int) -> None:
    with pytest.raises(InputError, match=f"have {count} channels.*{rule}.*'mean' any number") as caught:
        to_three(torch.rand(1, count, 4, 4), rule)  # type: ignore[arg-type]
    assert caught.value.code == "VAL-06"


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("low", {"kind": "window"}),
        ("low", {"kind": "window", "low": 3}),
        ("high", {"kind": "window", "low": 3, "high": 3}),
        ("high", {"kind": "unit", "high": -1}),
        ("low", {"kind": "minmax", "low": 0}),
        ("low", {"kind": "percentile", "low": -1}),
        ("low", {"kind": "percentile", "high": 101}),
        ("high", {"kind": "percentile", "low": 99.9}),
        ("mean", {"kind": "percentile", "mean": 1, "std": 1}),
        ("std", {"kind": "zscore", "mean": 1}),
        ("std", {"kind": "zscore", "mean": 1, "std": 0}),
        ("kind", {"kind": "histogram"}),
        ("scope", {"scope": "slice"}),
        ("window", {"window": [0, 1]}),
    ],
)
def test_values_that_do_not_go_together_are_refused_by_field(field: str, values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=field):
        config.parse(Intensity, values)


@pytest.mark.parametrize("intensity", EVERY)
def test_an_intensity_is_the_same_after_yaml(intensity: Intensity) -> None:
    assert config.parse(Intensity, config.plain(intensity)) == intensity


def test_ct_is_never_measured_by_default_and_mr_always() -> None:
    assert DEFAULTS["CT"].kind == "window"
    assert DEFAULTS["MR"].kind == "percentile"
    assert {DEFAULTS[kind].kind for kind in ("PICTURE", "VIDEO")} == {"unit"}
    assert StackPlan().channels == "copy"
