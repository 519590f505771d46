"""Frozen dataclasses ⇄ YAML, strict, with dotted overrides.

Every section of a configuration is a frozen standard-library dataclass that lives beside the code it configures.
Loading names every unknown key and every wrong value at once, each with its dotted path.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from voxelsam.errors import ConfigError

T = TypeVar("T")

STRICT: Any = {"extra": "forbid"}
"""Value of ``__pydantic_config__`` in every configuration dataclass: unknown keys are errors."""


def parse(cls: type[T], values: Mapping[str, Any], *, where: str = "configuration") -> T:
    """Checks a nested mapping against a dataclass and builds it.

    Raises:
        ConfigError: one line for every unknown key, missing key and wrong value.
    """
    lines = complaints(cls, values)
    if lines:
        raise ConfigError(f"{where} is not valid ({len(lines)} problems):\n" + "\n".join(lines))
    return TypeAdapter(cls).validate_python(dict(values))


def complaints(cls: type, values: Mapping[str, Any], *, prefix: str = "") -> list[str]:
    """What is wrong with a nested mapping as this dataclass, one line each with the dotted path; empty if nothing."""
    try:
        TypeAdapter(cls).validate_python(dict(values))
    except ValidationError as error:
        return [f"  {_path(prefix, item['loc'])}: {_complaint(item)}" for item in error.errors()]
    return []


def read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: the file is missing, is not YAML, or does not hold a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold keys and values, but holds a {type(values).__name__}")
    return values


def override(values: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """A copy of a nested mapping with ``a.b=value`` settings applied; values are read as YAML.

    Raises:
        ConfigError: a setting has no ``=``, or its path runs through something that is not a section.
    """
    result = _copy(values)
    for setting in settings:
        path, sign, text = setting.partition("=")
        keys = path.strip().split(".")
        if not sign or not all(keys):
            raise ConfigError(f"a setting looks like section.key=value, but {setting!r} came")
        section = result
        for key in keys[:-1]:
            section = section.setdefault(key, {})
            if not isinstance(section, dict):
                raise ConfigError(f"{setting!r}: {key!r} is a value, not a section")
        try:
            section[keys[-1]] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"the value in {setting!r} is not valid YAML") from None
    return result


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Sections of ``top`` laid over those of ``base``; neither is changed."""
    result = _copy(base)
    for key, value in top.items():
        below = result.get(key)
        result[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, Mapping) else value
    return result


def has(values: Mapping[str, Any], path: str) -> bool:
    """Whether a nested mapping says something at a dotted path."""
    key, _, rest = path.partition(".")
    return key in values and (not rest or has(values[key], rest))


def plain(config: Any) -> dict[str, Any]:
    """A configuration dataclass as nested plain values, ready for YAML or JSON."""
    values: dict[str, Any] = TypeAdapter(dict[str, Any]).dump_python(asdict(config), mode="json")
    return values


def dump(config: Any) -> str:
    """A configuration dataclass as YAML text, in the order of its fields."""
    return yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True)


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in values.items()}


def _path(prefix: str, location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in (prefix, *location) if part != "") or "(top)"


def _complaint(item: Any) -> str:
    if item["type"] == "unexpected_keyword_argument":
        return "unknown key"
    if item["type"] == "missing":
        return "missing"
    return f"{item['msg']} (got {item['input']!r})"
