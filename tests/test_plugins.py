"""A plug-in is a module; its file name is its name."""

import sys
from importlib.metadata import EntryPoint, EntryPoints
from types import ModuleType

import pytest

from voxelsam import adapt, plugins
from voxelsam.errors import ConfigError


def test_methods_are_the_files_of_their_folder() -> None:
    adapting = {"adalora", "decoder_only", "frozen", "full", "lora", "ma_sam", "med_sa"}
    whole = {"dynunet", "nnformer", "swin_unetr", "unetr", "ux_net", "vnet"}
    assert set(plugins.names("adapt")) == adapting | whole
    assert {name for name in plugins.names("adapt") if not adapt.needs_backbone(name)} == whole


def test_a_name_loads_its_module() -> None:
    assert plugins.load("adapt", "ma_sam").__name__ == "voxelsam.adapt.ma_sam"


@pytest.mark.parametrize("name", ["ma-sam", "", "__init__", "_origin", "ma_sam.py"])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match="decoder_only, dynunet, frozen, full, lora, ma_sam"):
        plugins.load("adapt", name)


def test_another_package_can_bring_a_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("my_method")
    monkeypatch.setitem(sys.modules, "my_method", module)
    point = EntryPoint(name="mine", value="my_method", group="voxelsam.adapt")

    def points(group: str, **filters: str) -> EntryPoints:
        return EntryPoints([point] if group == point.group and filters.get("name", "mine") == "mine" else [])

    monkeypatch.setattr(plugins, "entry_points", points)
    assert "mine" in plugins.names("adapt")
    assert plugins.load("adapt", "mine") is module
