"""The public surface, and what importing it costs."""

import subprocess
import sys
from pathlib import Path

import pytest

import voxelsam


def test_every_public_name_exists() -> None:
    for name in voxelsam.__all__:
        assert getattr(voxelsam, name) is not None


def test_no_public_name_is_that_of_a_folder_which_would_take_its_place_once_it_is_imported() -> None:
    folders = {path.name for path in Path(voxelsam.__file__).parent.iterdir()}
    assert not set(voxelsam.__all__) & (folders | {name.removesuffix(".py") for name in folders})


def test_the_surface_is_what_it_is() -> None:
    assert voxelsam.__all__ == sorted(voxelsam.__all__)
    assert set(dir(voxelsam)) == set(voxelsam.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Segmentor"):
        voxelsam.Segmentor  # noqa: B018


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    )


@pytest.mark.parametrize("code", ["import voxelsam", "import voxelsam.cli.app"])
def test_the_command_answers_without_loading_torch(code: str) -> None:
    assert not modules_after(code) & {"torch", "numpy", "nibabel", "monai", "lightning", "matplotlib"}


def test_files_and_geometry_need_no_torch() -> None:
    assert "torch" not in modules_after("import voxelsam.formats, voxelsam.layouts, voxelsam.space, voxelsam.volumes")


@pytest.mark.slow
def test_prediction_needs_no_training_library() -> None:
    loaded = modules_after("import voxelsam.infer.predictor, voxelsam.infer.cohort")
    assert not loaded & {"monai", "lightning", "matplotlib", "transformers"}


def test_torchvision_is_not_installed() -> None:
    from importlib.util import find_spec

    assert find_spec("torchvision") is None
