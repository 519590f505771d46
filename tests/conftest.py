"""Fixtures for every test."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def shared_folder() -> Path:
    """Where the shared data lies, whether it is there or not."""
    return (REPOSITORY / os.environ.get("VOXELSAM_SHARED", "../shared")).resolve()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared data; without it the test is skipped, in CI it fails."""
    folder = shared_folder()
    if (folder / "data").is_dir():
        return folder
    reason = f"the shared data is not at {folder} (set VOXELSAM_SHARED)"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
