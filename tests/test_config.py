"""Strict configuration: everything wrong is said at once, with its path."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from voxelsam import config
from voxelsam.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    __pydantic_config__ = config.STRICT
    rate: float = 1.0
    size: tuple[int, int] = (1, 2)

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError("rate must not be negative")


@dataclass(frozen=True)
class Outer:
    __pydantic_config__ = config.STRICT
    name: str
    inner: Inner = field(default_factory=Inner)


def test_dump_and_parse_undo_each_other() -> None:
    import yaml

    value = Outer("x", Inner(0.5, (3, 4)))
    assert config.parse(Outer, yaml.safe_load(config.dump(value))) == value


def test_every_problem_is_named_with_its_path() -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(Outer, {"nam": "x", "inner": {"rate": "fast", "size": [1], "depth": 3}})
    message = str(caught.value)
    for part in (
        "nam: unknown key",
        "name: missing",
        "inner.rate:",
        "inner.size.1: missing",
        "inner.depth: unknown key",
    ):
        assert part in message
    assert "5 problems" in message


def test_the_message_of_a_failed_check_comes_through() -> None:
    with pytest.raises(ConfigError, match=r"inner: .*rate must not be negative"):
        config.parse(Outer, {"name": "x", "inner": {"rate": -1}})


def test_numbers_that_yaml_reads_as_text_are_numbers() -> None:
    assert config.parse(Outer, config.override({"name": "x"}, ["inner.rate=5e-4"])).inner.rate == 5e-4


def test_override_makes_sections_and_leaves_the_original_alone() -> None:
    original = {"inner": {"rate": 1}}
    changed = config.override(original, ["inner.size=[5, 6]", "name=y"])
    assert changed == {"inner": {"rate": 1, "size": [5, 6]}, "name": "y"}
    assert original == {"inner": {"rate": 1}}


@pytest.mark.parametrize("setting", ["inner.rate", "=3", "inner..rate=3", "name.first=x", "inner.rate=[1"])
def test_override_refuses(setting: str) -> None:
    with pytest.raises(ConfigError):
        config.override({"name": "x"}, [setting])


def test_merge_goes_into_sections() -> None:
    assert config.merge({"a": {"x": 1, "y": 2}, "b": 1}, {"a": {"y": 3}}) == {"a": {"x": 1, "y": 3}, "b": 1}


def test_has_follows_a_path() -> None:
    values = {"a": {"x": None}, "b": 1}
    assert config.has(values, "a.x")
    assert config.has(values, "b")
    assert not config.has(values, "a.y")
    assert not config.has(values, "c.x")


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2", "just text"])
def test_read_refuses_what_is_no_mapping(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"recipe\.yaml"):
        config.read(tmp_path / "recipe.yaml")


def test_read_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        config.read(tmp_path / "nowhere.yaml")


def test_an_empty_file_is_an_empty_configuration(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("# nothing\n")
    assert config.read(tmp_path / "recipe.yaml") == {}
