import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def touch(tmp_path: Path) -> Callable[..., None]:
    """Makes empty files; layouts look at names only."""

    def make(*names: str) -> None:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()

    return make


@pytest.fixture
def note(tmp_path: Path) -> Callable[[str, Any], None]:
    """Writes a JSON file, or text as it is."""

    def make(name: str, value: Any) -> None:
        (tmp_path / name).write_text(value if isinstance(value, str) else json.dumps(value))

    return make
