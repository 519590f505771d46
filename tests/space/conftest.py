import pytest


@pytest.fixture
def unchecked(request: pytest.FixtureRequest) -> None:
    """For calls that annotations forbid: skips where they are checked at run time (``--jaxtyping-packages``)."""
    if request.config.getoption("--jaxtyping-packages", default=None):
        pytest.skip("annotations are checked at run time")
