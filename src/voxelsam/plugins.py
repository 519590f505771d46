"""The module is the plug-in; its file name is its name.

Four folders hold plug-ins: ``adapt``, ``backbones``, ``formats``, ``layouts``. Packages elsewhere join through an
entry point in the group ``voxelsam.<folder>`` whose value is a module.
"""

import importlib
import pkgutil
from importlib.metadata import entry_points
from types import ModuleType

from voxelsam.errors import ConfigError


def names(folder: str) -> tuple[str, ...]:
    """Names of all plug-ins of a folder, sorted; nothing is imported but the folder itself.

    Args:
        folder: ``adapt``, ``backbones``, ``formats`` or ``layouts``.
    """
    package = importlib.import_module(f"voxelsam.{folder}")
    own = {module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_")}
    return tuple(sorted(own | {point.name for point in entry_points(group=f"voxelsam.{folder}")}))


def load(folder: str, name: str) -> ModuleType:
    """The plug-in module of that name.

    Raises:
        ConfigError: there is no such plug-in.
    """
    if name not in names(folder):
        raise ConfigError(f"no plug-in {name!r} in {folder}; there are: {', '.join(names(folder))}")
    for point in entry_points(group=f"voxelsam.{folder}", name=name):
        module: ModuleType = point.load()
        return module
    return importlib.import_module(f"voxelsam.{folder}.{name}")
