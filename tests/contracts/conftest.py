"""Miniatures: fabricated data sets in the official folder structure, one for each layout."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from voxelsam import plugins
from voxelsam.layouts import Dataset, open_dataset

MINIATURES = Path(__file__).with_name("miniatures")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that ask for a layout run over all of them."""
    if "layout" in metafunc.fixturenames:
        metafunc.parametrize("layout", plugins.names("layouts"))


@pytest.fixture
def dataset(layout: str, tmp_path: Path) -> Dataset:
    """The miniature of a layout."""
    root = tmp_path / "miniature"
    root.mkdir()
    return open_dataset(maker(layout)(root) or root)


def maker(layout: str) -> Callable[[Path], Path | None]:
    """What makes the miniature of a layout in a folder; it gives back the path to open where that is another."""
    file = MINIATURES / f"{layout}.py"
    assert file.is_file(), f"the layout {layout!r} has no miniature yet: write {file}"
    spec = importlib.util.spec_from_file_location(f"miniature_{layout}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    make: Callable[[Path], Path | None] = module.make
    return make
