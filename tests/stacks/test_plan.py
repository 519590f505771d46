import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxelsam import config
from voxelsam.errors import ConfigError, GeometryError
from voxelsam.space import PLANES, Grid
from voxelsam.stacks import FrameMap, StackPlan

quick = settings(max_examples=60, deadline=None)
plans = st.integers(1, 7).flatmap(
    lambda depth: st.builds(
        StackPlan, depth=st.just(depth), stride=st.integers(1, depth), edge=st.sampled_from(["repeat", "reflect"])
    )
)


@quick
@given(plans, st.integers(1, 40))
def test_every_slice_is_seen_and_is_in_the_middle_of_exactly_one_stack(plan: StackPlan, slices: int) -> None:
    starts = plan.starts(slices)
    middles = [start + plan.lead + step for start in starts for step in range(plan.stride)]
    assert middles[:slices] == list(range(slices))
    assert len(middles) - slices < plan.stride
    assert plan.lead + plan.stride <= plan.depth
    assert set(range(slices)) <= {place for start in starts for place in range(start, start + plan.depth)}


@pytest.mark.parametrize("depth", range(1, 8))
@pytest.mark.parametrize("slices", [1, 2, 3, 10])
def test_with_stride_one_every_slice_is_once_the_centre(depth: int, slices: int) -> None:
    assert [start + depth // 2 for start in StackPlan(depth=depth).starts(slices)] == list(range(slices))


def test_the_published_windows_repeat_the_edge_slices() -> None:
    plan = StackPlan(depth=5, stride=1)
    windows = [plan.slices(start, 4) for start in plan.starts(4)]
    assert windows == [(0, 0, 0, 1, 2), (0, 0, 1, 2, 3), (0, 1, 2, 3, 3), (1, 2, 3, 3, 3)]


def test_stacks_side_by_side_waste_nothing_at_the_front() -> None:
    assert StackPlan(depth=5, stride=5).starts(12) == (0, 5, 10)
    assert StackPlan(depth=5, stride=3).starts(7) == (-1, 2, 5)


@quick
@given(plans, st.integers(1, 12), st.integers(-20, 20))
def test_edges_agree_with_numpy_padding(plan: StackPlan, slices: int, start: int) -> None:
    mode = "edge" if plan.edge == "repeat" or slices == 1 else "reflect"
    padded = np.pad(np.arange(slices), 40, mode=mode)
    assert plan.slices(start, slices) == tuple(padded[40 + start : 40 + start + plan.depth].tolist())


@pytest.mark.parametrize("slices", [0, -1])
def test_a_volume_without_slices_is_refused(slices: int) -> None:
    with pytest.raises(ValueError, match="at least one slice"):
        StackPlan().starts(slices)
    with pytest.raises(ValueError, match="at least one slice"):
        StackPlan().slices(0, slices)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("depth", 0),
        ("depth", -5),
        ("stride", 0),
        ("stride", 6),
        ("size", [0, 512]),
        ("size", [512]),
        ("spacing", [1, 0, 1]),
        ("spacing", [1, 1]),
        ("spacing", [1, 1, float("nan")]),
        ("plane", "oblique"),
        ("edge", "zero"),
        ("interpolation", "nearest"),
        ("fit", "crop"),
        ("channels", "rgba"),
        ("colour", "blue"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_field(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        config.parse(StackPlan, {field: value})


@pytest.mark.parametrize(
    ("field", "value"), [("depth", 0), ("stride", 9), ("size", (0, 3)), ("spacing", (1.0, -1.0, 1.0))]
)
def test_values_are_checked_without_a_file_too(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        StackPlan(**{field: value})  # type: ignore[arg-type]


def test_a_plan_is_the_same_after_yaml() -> None:
    plan = StackPlan(depth=3, size=(256, 384), spacing=(None, None, 2.5), fit="stretch", interpolation="cubic")
    assert config.parse(StackPlan, config.plain(plan)) == plan


@pytest.mark.parametrize("plane", PLANES)
def test_the_placement_follows_the_plane(plane: str) -> None:
    grid = Grid((6, 7, 8), np.eye(4))
    assert StackPlan(plane=plane).placement(grid).target.axes == PLANES[plane]  # type: ignore[arg-type,index]


def test_the_placement_of_auto_follows_the_volume() -> None:
    grid = Grid((6, 7, 8), np.diag([1.0, 4, 1, 1]))
    assert StackPlan().placement(grid).target.axes == PLANES["coronal"]
    assert StackPlan(spacing=(None, None, 2.0)).placement(grid).target.spacing == pytest.approx((1, 1, 2))


def test_a_film_cannot_be_seen_from_the_side() -> None:
    film = Grid((6, 7, 8), np.diag([-1.0, -1, 1, 1]), "time")
    assert StackPlan().placement(film).target.axes == "LPS"
    with pytest.raises(GeometryError, match="one plane"):
        StackPlan(plane="coronal").placement(film)


def test_the_frame_takes_its_settings_from_the_plan() -> None:
    plan = StackPlan(size=(64, 128), fit="stretch", interpolation="cubic")
    assert plan.frame((30, 40)) == FrameMap.fit((30, 40), (64, 128), "stretch", "cubic")
    assert StackPlan(size=(64, 128)).frame((30, 40)) == FrameMap.fit((30, 40), (64, 128), "pad", "linear")
