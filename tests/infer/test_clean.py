"""Parts of structures that stay, and what becomes of the others."""

import numpy as np
import pytest

from voxelsam.errors import ConfigError
from voxelsam.infer.clean import Clean
from voxelsam.space import Grid
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.volume import LabelMap

LABELS = Labels({"background": 0, "liver": 1, "spleen": 4})


def scene() -> LabelMap:
    """Two livers of 27 and 2 voxels, two spleens of 4 and 1; voxels of 2 mm³, oblique and left-handed."""
    data = np.zeros((12, 10, 8), np.uint8)
    data[1:4, 1:4, 1:4] = 1
    data[8:10, 8, 6] = 1
    data[6:8, 1:3, 2] = 4
    data[11, 9, 0] = 4
    affine = np.diag([-1.0, 1.0, 2.0, 1.0])
    turn = np.eye(4)
    turn[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    return LabelMap(data, Grid(data.shape, turn @ affine), LABELS)


def counts(label_map: LabelMap) -> dict[int, int]:
    values, numbers = np.unique(label_map.data, return_counts=True)
    return dict(zip(values.tolist(), numbers.tolist(), strict=True))


def test_the_largest_part_of_each_structure_stays() -> None:
    cleaned = Clean(largest=True)(scene())
    assert counts(cleaned)[1] == 27
    assert counts(cleaned)[4] == 4
    assert (cleaned.data[scene().data == 0] == 0).all()


def test_parts_below_a_volume_go() -> None:
    assert counts(Clean(smallest=4.0)(scene()))[1] == 29
    assert counts(Clean(smallest=4.1)(scene()))[1] == 27
    assert counts(Clean(smallest=4.1)(scene()))[4] == 4
    assert 4 not in counts(Clean(largest=True, smallest=9.0)(scene()))


def test_parts_that_touch_at_a_corner_are_one() -> None:
    touching = scene()
    touching.data[4, 4, 4] = 1
    assert counts(Clean(largest=True)(touching))[1] == 28


def test_structures_do_not_join() -> None:
    neighbours = scene()
    neighbours.data[4, 1:4, 1:4] = 4  # touches the liver, and is now the largest spleen
    assert counts(Clean(largest=True)(neighbours)) == {0: 960 - 27 - 9, 1: 27, 4: 9}


def test_what_came_in_stays_as_it_is() -> None:
    given = scene()
    before = given.data.copy()
    cleaned = Clean(largest=True)(given)
    assert np.array_equal(given.data, before)
    assert cleaned.grid is given.grid
    assert Clean()(given) is given


def test_an_absent_structure_is_no_problem() -> None:
    empty = scene()
    empty.data[:] = 0
    assert not Clean(largest=True, smallest=1.0)(empty).data.any()


@pytest.mark.parametrize("smallest", [-1.0, float("inf"), float("nan")])
def test_volumes_that_make_no_sense_are_refused(smallest: float) -> None:
    with pytest.raises(ConfigError, match="0 mm³ or more"):
        Clean(smallest=smallest)
