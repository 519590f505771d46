from collections.abc import Callable

import numpy as np
import pytest

from voxelsam.examine import CaseFacts, measure
from voxelsam.space.grid import Grid
from voxelsam.volumes import LabelMap, Labels, Volume

TABLE = Labels({"background": 0, "liver": 1, "spleen": 2})
SHAPE = (24, 22, 20)


@pytest.fixture
def table() -> Labels:
    return TABLE


@pytest.fixture
def scan() -> Callable[..., Volume]:
    """An image of noise; keywords change its spacing, values, type or kind."""

    def make(
        data: np.ndarray | None = None, spacing: tuple[float, float, float] = (1, 1, 1), seed: int = 3, **more: object
    ) -> Volume:
        if data is None:
            data = np.random.default_rng(seed).integers(-900, 900, (1, *SHAPE)).astype(np.int16)
        along = more.pop("along", "space")
        affine = more.pop("affine", np.diag([*spacing, 1.0]))
        return Volume(data, Grid(data.shape[1:], affine, along), **more)  # type: ignore[arg-type]

    return make


@pytest.fixture
def drawn() -> Callable[..., LabelMap]:
    """A label map with two blocks, on the scan's grid."""

    def make(data: np.ndarray | None = None, affine: np.ndarray | None = None, table: Labels = TABLE) -> LabelMap:
        if data is None:
            data = np.zeros(SHAPE, np.uint8)
            data[2:12, 2:12, 2:12] = 1
            data[14:20, 4:12, 4:16] = 2
        return LabelMap(data, Grid(data.shape, np.eye(4) if affine is None else affine), table)

    return make


@pytest.fixture
def facts(scan: Callable[..., Volume], drawn: Callable[..., LabelMap]) -> Callable[..., CaseFacts]:
    """Facts of a sound case."""

    def make(id: str = "case", seed: int = 3, label: np.ndarray | None = None, **more: object) -> CaseFacts:  # noqa: A002
        return measure(id, scan(seed=seed), drawn(label), **more)  # type: ignore[arg-type]

    return make
