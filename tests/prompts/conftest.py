from collections.abc import Callable

import numpy as np
import pytest

from voxelsam.space import Grid
from voxelsam.volumes import Labels


@pytest.fixture
def unchecked(request: pytest.FixtureRequest) -> None:
    """For calls that annotations forbid: skips where they are checked at run time (``--jaxtyping-packages``)."""
    if request.config.getoption("--jaxtyping-packages", default=None):
        pytest.skip("annotations are checked at run time")


@pytest.fixture
def labels() -> Labels:
    return Labels({"background": 0, "liver": 1, "spleen": 7})


@pytest.fixture
def scan() -> Callable[..., Grid]:
    """A grid of 12 × 10 × 8 voxels of 1, 1.5 and 3 mm, unless told otherwise."""

    def make(shape: tuple[int, int, int] = (12, 10, 8), turn: float = 0, **options: str) -> Grid:
        cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
        affine = np.eye(4)
        affine[:3, :3] = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]]) * (1, 1.5, 3)
        affine[:3, 3] = (40, -90, 15)
        return Grid(shape, affine, **options)  # type: ignore[arg-type]

    return make
