"""Public backbones by name: build them with random weights, or load them from a checkpoint.

A module of this folder is a plug-in. It offers the three names of ``BackboneModule``.
"""

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from torch import Tensor

from voxelsam import plugins
from voxelsam.backbones._files import IN_A_FOLDER, checkpoint_file, file_digest, read_tensors
from voxelsam.backbones._foreign import explain
from voxelsam.backbones._weights import (
    LoadReport,
    Rename,
    assemble,
    complaint,
    digest,
    image_size_of,
    listing,
    problems,
    translate,
)
from voxelsam.errors import ConfigError, InputWarning, WeightsError
from voxelsam.nn.backbone import Backbone, Variant

__all__ = [
    "FILES",
    "NONE",
    "SEEDED",
    "VARIANTS",
    "BackboneModule",
    "LoadReport",
    "build",
    "fingerprint",
    "load",
    "obtain",
    "variant_of",
]

SEEDED = ("sam-tiny",)
"""Variants that are made from a seed and have no checkpoint."""

NONE = "none"
"""The variant of methods that bring a whole network of their own: no weights at all."""

FILES = IN_A_FOLDER
"""Files that make a folder a checkpoint."""


@runtime_checkable
class BackboneModule(Protocol):
    """What a module of this folder offers."""

    VARIANTS: Mapping[str, Variant]
    """Public models by name."""
    DIALECTS: Mapping[str, Rename]
    """The tensor that betrays a dialect of checkpoints, and how its names become those of the backbone."""

    def build(self, variant: Variant, image_size: tuple[int, int] | None = None) -> Backbone:
        """An empty (random) backbone of that variant."""
        ...


def build(name: str, image_size: tuple[int, int] | None = None) -> Backbone:
    """A backbone with random weights, frozen and in evaluation mode.

    Args:
        name: One of ``VARIANTS``. The weights of sam-tiny are the same every time.
        image_size: Pixels (height, width) of the frames it will see; None for those of pretraining.

    Raises:
        ConfigError: there is no such variant.
        WeightsError: the image does not divide into patches.
    """
    return _module_of(name).build(VARIANTS[name], image_size)


def load(
    path: str | Path,
    name: str | None = None,
    image_size: tuple[int, int] | None = None,
    *,
    variant: Variant | None = None,
) -> tuple[Backbone, LoadReport]:
    """A frozen backbone from a checkpoint, every tensor accounted for.

    Big files stay on disk and are mapped into memory, so they must not be changed while the backbone is in use.

    Args:
        path: A file as published by Meta or MedSAM, a ``model.safetensors`` or ``pytorch_model.bin`` of Hugging Face,
            or a folder that holds one of these two.
        name: Which variant is expected; None finds it from the tensors. MedSAM must be named, because its tensors
            have the shapes of sam-vit-b.
        image_size: Pixels (height, width) of the frames it will see; None for what the file was made for.
        variant: Sizes of a model that is not among ``VARIANTS``; goes before ``name``.

    Raises:
        WeightsError: the file is missing, is no checkpoint, is one of another model, or does not fit.
        ConfigError: there is no variant of that name, or it is ``none``.
    """
    if variant is None and name is not None:
        _module_of(name)
    if name == NONE:
        raise ConfigError(f"the backbone none has no weights, but {path} was given")
    file = checkpoint_file(Path(path))
    raw, beside = read_tensors(file)
    module, rename = _dialect_of(raw, file)
    tensors, ignored = translate(raw, rename, str(file))
    if variant is None:
        variant = _variant_of(tensors, module, file) if name is None else _expected(name, tensors, file)
    size = image_size_of(tensors, variant.patch)
    wanted = size if image_size is None else image_size
    backbone, resized = assemble(tensors, variant, wanted, str(file))
    backbone.source_sha256 = file_digest(file)
    report = LoadReport(
        variant=variant.name,
        path=file,
        sha256=backbone.source_sha256,
        image_size=wanted,
        file_image_size=size,
        loaded=tuple(sorted(set(tensors) - set(resized))),
        resized=resized,
        initialised=(),
        ignored=(*ignored, *beside),
    )
    return backbone, report


def obtain(
    name: str | None, weights: Path | None, image_size: tuple[int, int] | None = None
) -> tuple[Backbone, LoadReport]:
    """A frozen backbone from its checkpoint, or from its seed where the variant has one, with the account of it.

    Args:
        name: Variant; None finds it from the checkpoint.
        weights: As for ``load``; None makes the variant from its seed.
        image_size: As for ``load``.

    Raises:
        WeightsError: as for ``load``; or the variant needs a checkpoint and none was given.
        ConfigError: there is no variant of that name, or neither a name nor a checkpoint was given.
    """
    if weights is not None:
        return load(weights, name, image_size)
    backbone = build(_seeded(name), image_size)
    report = LoadReport(
        variant=backbone.variant.name,
        path=None,
        sha256=fingerprint(backbone),
        image_size=backbone.image_size,
        file_image_size=backbone.variant.image_size,
        loaded=(),
        resized=(),
        initialised=tuple(sorted(backbone.state_dict())),
        ignored=(),
    )
    return backbone, report


def variant_of(name: str | None, weights: Path | None) -> Variant:
    """Sizes of the backbone that ``obtain`` would give.

    Raises:
        WeightsError, ConfigError: as for ``obtain``.
    """
    if weights is None:
        return VARIANTS[_seeded(name)]
    if name is not None:
        _module_of(name)
        return VARIANTS[name]
    file = checkpoint_file(weights)
    raw, _ = read_tensors(file)
    module, rename = _dialect_of(raw, file)
    return _variant_of(translate(raw, rename, str(file))[0], module, file)


def _seeded(name: str | None) -> str:
    if name is None:
        raise ConfigError(f"which backbone? give a checkpoint, or the name of one that needs none: {', '.join(SEEDED)}")
    _module_of(name)
    if name not in (*SEEDED, NONE):
        raise WeightsError(f"{name} without its checkpoint would be random: give the checkpoint file")
    return name


def fingerprint(backbone: Backbone) -> str:
    """SHA-256 that tells which weights a backbone was made from, whatever image size it was resized to.

    That of the file for a loaded one, that of the tensors at their own image size for sam-tiny, that of the present
    tensors for another random one, and nothing where there are no tensors.
    """
    tensors = backbone.state_dict()
    return backbone.source_sha256 or (digest(tensors) if tensors else "")


def _module_of(name: str) -> BackboneModule:
    if name not in _OWNERS:
        raise ConfigError(f"no backbone {name!r}; there are: {', '.join(VARIANTS)}")
    return _OWNERS[name]


def _dialect_of(tensors: Mapping[str, Tensor], file: Path) -> tuple[BackboneModule, Rename]:
    other = explain(tensors)
    if other:
        raise WeightsError(f"{file} is {other}")
    for module in dict.fromkeys(_OWNERS.values()):
        for sign, rename in module.DIALECTS.items():
            if sign in tensors:
                return module, rename
    raise WeightsError(
        f"{file} is not a checkpoint of a known backbone ({', '.join(VARIANTS)}); "
        f"its {len(tensors)} tensors are: {listing(sorted(tensors))}"
    )


def _fitting(tensors: Mapping[str, Tensor], variants: Iterable[Variant]) -> list[Variant]:
    return [variant for variant in variants if not problems(tensors, variant)]


def _expected(name: str, tensors: Mapping[str, Tensor], file: Path) -> Variant:
    """The variant that was asked for; another one that the tensors fit instead is named in the message."""
    if problems(tensors, VARIANTS[name]):
        for other in _fitting(tensors, (variant for variant in VARIANTS.values() if variant.name != NONE)):
            raise WeightsError(f"{file} holds {other.name}, but {name} was asked for; give the other file or name")
    return VARIANTS[name]


def _variant_of(tensors: Mapping[str, Tensor], module: BackboneModule, file: Path) -> Variant:
    """The first variant that the tensors fit; where none fits, the message compares with the closest."""
    fits = _fitting(tensors, module.VARIANTS.values())
    if not fits:
        found = {variant: problems(tensors, variant) for variant in module.VARIANTS.values()}
        closest = min(found, key=lambda variant: sum(map(len, found[variant].values())))
        raise WeightsError(complaint(f"{file} fits no known variant and", closest, found[closest]))
    for other in fits[1:]:
        if other.name in f"{file.parent.name}/{file.name}".lower():
            warnings.warn(
                f"{file} is taken for {fits[0].name}, but is called like {other.name}, whose tensors have the same "
                f"shapes and whose pixels are scaled differently; if it is, say name={other.name!r}",
                InputWarning,
                stacklevel=3,
            )
    return fits[0]


_OWNERS: dict[str, BackboneModule] = {}
VARIANTS: dict[str, Variant] = {}
"""All public models by name, over all modules of this folder."""

for _plugin in plugins.names("backbones"):
    _module = cast("BackboneModule", plugins.load("backbones", _plugin))
    VARIANTS.update(_module.VARIANTS)
    _OWNERS.update(dict.fromkeys(_module.VARIANTS, _module))
