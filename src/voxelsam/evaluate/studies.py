"""Published tables as data: protocol, figures, and where they come from.

The files of ``published`` hold one paper each. A study has the data set and its split, the labels in the order of the
table, the recipe and the preset of scores that stand for the paper's, and the printed figures. An *arm* is one row that
can be trained here: what it changes in the study's recipe. Figures are the authors', whatever stands beside them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml

from voxelsam import config
from voxelsam.errors import ConfigError
from voxelsam.evaluate.presets import preset_of


@dataclass(frozen=True)
class Figures:
    """A row of a published table."""

    __pydantic_config__ = config.STRICT

    mean: float
    values: tuple[float, ...] = ()
    """In the order of the study's columns; empty where the row was not obtained."""
    step: str = ""
    """For prompted rows: the step of a study of prompts (``cuboid +0%``) that the row belongs to."""


@dataclass(frozen=True)
class Table:
    """A published table, or what is known of it."""

    __pydantic_config__ = config.STRICT

    measure: Literal["Dice", "IoU", "HD95", "NSD"]
    unit: str
    source: str
    figures: dict[str, Figures]
    """Rows by the name of the method."""


@dataclass(frozen=True)
class Data:
    """Where the images come from."""

    __pydantic_config__ = config.STRICT

    layout: str
    fold: int
    """Of the layout's declared splits."""
    obtain: str


@dataclass(frozen=True)
class Status:
    """How far the reproduction of a study got, as far as we could try it ourselves."""

    __pydantic_config__ = config.STRICT

    state: Literal["not attempted"]
    why: str


@dataclass(frozen=True)
class Study:
    """A published protocol with its figures.

    Raises:
        ValueError: a row has another number of values than the study has columns.
        ConfigError: there is no such preset of scores.
    """

    __pydantic_config__ = config.STRICT

    name: str
    """``paper/table``."""
    title: str
    data: Data
    split: str
    """In words."""
    recipe: dict[str, Any]
    """The parts of a recipe that the paper fixes."""
    preset: str
    """Of scores, see ``voxelsam.evaluate.presets``."""
    columns: tuple[str, ...]
    """Structures, or sets of cases; empty where only means are known."""
    tables: tuple[Table, ...]
    arms: dict[str, dict[str, Any]]
    """What each row that can be trained changes in the recipe; null takes a setting away."""
    unsure: tuple[str, ...]
    """What is not known, inferred, or done differently here."""
    status: Status
    sets: dict[str, str] = field(default_factory=dict)
    """Where the columns are sets of cases: how the ids of their cases begin."""
    prompts: dict[str, Any] | None = None
    """Plan of a study of prompts, for what is prompted; None: without prompts."""
    paper: str = ""

    def __post_init__(self) -> None:
        preset_of(self.preset)
        for table in self.tables:
            for name, row in table.figures.items():
                if row.values and len(row.values) != len(self.columns):
                    raise ValueError(f"{self.name}, {name}: {len(row.values)} values for {len(self.columns)} columns")
        if self.sets and tuple(self.sets) != self.columns:
            raise ValueError(f"{self.name}: sets and columns differ")

    @property
    def main(self) -> str:
        """The arm that is trained where none is named: the paper's own method."""
        return next(iter(self.arms), "")

    def settings(self, arm: str) -> dict[str, Any]:
        """The parts of a recipe for an arm.

        Raises:
            ConfigError: there is no such arm.
        """
        if arm not in self.arms:
            known = ", ".join(map(repr, self.arms)) or "none: what it takes is not known"
            raise ConfigError(f"{self.name} has no arm {arm!r} that can be trained; there are: {known}")
        fixed = config.merge(self.recipe, self.arms[arm])
        where = {"data": {"layout": self.data.layout}}
        if not config.has(fixed, "data.folds"):
            where["data"]["fold"] = self.data.fold  # type: ignore[assignment]
        return _without_nulls(config.merge(fixed, where))


@cache
def studies() -> Mapping[str, Study]:
    """All studies by name, in the order of the papers' files.

    Raises:
        ConfigError: a file of the package is damaged.
    """
    found: dict[str, Study] = {}
    for place in sorted((files(__package__) / "published").iterdir(), key=lambda place: place.name):
        if not place.name.endswith(".yaml"):
            continue
        content = yaml.safe_load(place.read_text(encoding="utf-8"))
        for entry in content["studies"]:
            study = config.parse(Study, {**entry, "paper": content["paper"]}, where=place.name)
            found[study.name] = study
    return found


def study_of(name: str) -> Study:
    """The study of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in studies():
        raise ConfigError(f"there is no study {name!r}; there are: {', '.join(studies())}")
    return studies()[name]


def _without_nulls(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_nulls(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }
