"""Everything prediction needs, in one small folder.

``bundle.json`` holds the label table, the plan, the intensity rule, the method and which backbone it belongs to
(name and SHA-256); ``adaptation.safetensors`` holds the trained tensors and nothing else; ``card.md`` says it for
people. There is no pickle. The backbone's weights are not inside: a bundle names them and refuses any other.
"""

import hashlib
import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from voxelsam import adapt, backbones, config
from voxelsam.errors import ConfigError, LabelError, WeightsError
from voxelsam.files import write_text
from voxelsam.model import Segmenter
from voxelsam.nn.backbone import Backbone
from voxelsam.stacks.intensity import Intensity
from voxelsam.stacks.plan import StackPlan
from voxelsam.stacks.ranges import Ranges
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.volume import Kind

FORMAT = 1
"""Version of the bundle format; older ones stay readable, newer ones are refused."""

DESCRIPTION, WEIGHTS, CARD = "bundle.json", "adaptation.safetensors", "card.md"


@dataclass(frozen=True)
class BackboneIdentity:
    """Which frozen weights a bundle was trained on."""

    __pydantic_config__ = config.STRICT

    name: str
    """Variant, e.g. ``sam-vit-b``."""
    sha256: str
    """Of the checkpoint file; of the tensors for a backbone that is made from a seed."""
    weights: str | None = None
    """Where the checkpoint lay when the bundle was trained; None for a backbone that is made from a seed."""
    report: dict[str, Any] = field(default_factory=dict)
    """What loading it did: loaded, resized, initialised and ignored tensors."""


@dataclass(frozen=True)
class PromptsLearnt:
    """How training asked; what it never asked a model cannot be trusted to answer."""

    __pydantic_config__ = config.STRICT

    free: bool = True
    """Whether it answers without any prompt."""
    kinds: tuple[str, ...] = ()
    """Kinds of prompts: point, box, cuboid (3D box), mask, correction."""
    quality: bool = False
    """Whether the quality head was trained, so that it may rank masks."""
    drawn: bool = False
    """Whether points and boxes are also drawn into the mask prompt."""


@dataclass(frozen=True)
class AugmentLearnt:
    """Which changed pictures training showed; a model cannot be trusted with others."""

    __pydantic_config__ = config.STRICT

    preset: str = "unknown"
    """Of the recipe's section ``augment``; older bundles do not say it."""
    flips: tuple[Literal["rows", "columns"], ...] = ()
    """Upside down, and left for right."""


@dataclass(frozen=True)
class Description:
    """The contents of ``bundle.json``."""

    __pydantic_config__ = config.STRICT

    format: int
    voxelsam: str
    labels: dict[str, Any]
    """The label table, as in nnU-Net."""
    channels: tuple[str, ...]
    kind: Kind
    stack: StackPlan
    intensity: Intensity
    adapt: dict[str, Any]
    """``name`` of the method and the fields of its configuration."""
    backbone: BackboneIdentity
    weights_sha256: str = ""
    from_backbone: tuple[str, ...] = ()
    """Tensors of the adaptation that are the backbone's own, bit for bit, and therefore not stored again."""
    prompts: PromptsLearnt = field(default_factory=PromptsLearnt)
    """Which prompts the model has learnt to answer."""
    codes: dict[str, Any] = field(default_factory=dict)
    """Coded terms of structures, where the data set gives its own."""
    training: dict[str, Any] = field(default_factory=dict)
    """How it was trained, for people and for the record: epochs, validation Dice, versions."""
    training_augment: AugmentLearnt = field(default_factory=AugmentLearnt)
    """What training showed, which says what test-time augmentation may do."""
    ranges: Ranges | None = None
    """What the training scans were like; None in older bundles."""
    thresholds: dict[str, dict[str, float]] = field(default_factory=dict)
    """Per quality measure and structure, the value below which validation found bad masks (``judge``)."""


@dataclass(frozen=True)
class Bundle:
    """A trained model, as data: what it is, and the tensors that were trained."""

    description: Description
    tensors: dict[str, Tensor]

    @property
    def labels(self) -> Labels:
        """Names and values of the structures that it segments."""
        return Labels.from_json(self.description.labels, self.description.codes)

    @property
    def author(self) -> str:
        """What label maps made by it say of their origin: program, version, beginning of the weights' SHA-256."""
        return f"voxelsam {version('voxelsam')} {self.description.weights_sha256[:12]}".strip()

    def identity(self) -> dict[str, str]:
        """What tells it from every other bundle, for records."""
        known = self.description
        return {
            "weights_sha256": known.weights_sha256,
            "method": str(known.adapt.get("name", "")),
            "backbone": known.backbone.name,
            "backbone_sha256": known.backbone.sha256,
        }

    def save(self, folder: Path) -> None:
        """Writes the bundle beside its place and then moves it there; a bundle that was there is replaced.

        Until the new folder is whole the old one stays as it is.
        """
        mend(folder)
        beside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
        beside.mkdir(parents=True)
        try:
            save_file({name: tensor.contiguous() for name, tensor in self.tensors.items()}, beside / WEIGHTS)
            record = config.plain(self.description) | {"weights_sha256": _sha256(beside / WEIGHTS)}
            (beside / DESCRIPTION).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8")
            (beside / CARD).write_text(card(self.description), "utf-8")
            (beside / WEIGHTS).chmod((beside / CARD).stat().st_mode)  # safetensors writes for its owner alone
            _put(beside, folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def segmenter(self, weights: Path | None = None) -> Segmenter:
        """The network, with its backbone's weights found and checked.

        Args:
            weights: the backbone's checkpoint, where it no longer lies where it lay in training.

        Raises:
            WeightsError: the checkpoint is missing, is not the one of the training, or the tensors do not fit.
        """
        known = self.description.backbone
        backbone, report = backbones.obtain(known.name, _checkpoint(known, weights), self.description.stack.size)
        if report.sha256 != known.sha256:
            raise WeightsError(
                f"this bundle was trained on {known.name} weights with SHA-256 {known.sha256[:16]}…, but "
                f"{report.path or known.name} has {report.sha256[:16]}…: another checkpoint gives meaningless masks. "
                "Give the original file with --weights",
                code="WEI-01",
            )
        options = dict(self.description.adapt)
        adaptation = adapt.build(options.pop("name"), options, backbone, self.labels.count)
        lent = _lent(backbone)
        _fill(adaptation, self.tensors | {name: lent[name] for name in self.description.from_backbone if name in lent})
        return Segmenter(backbone, adaptation, draws=self.description.prompts.drawn).eval()


def load(folder: Path) -> Bundle:
    """Reads a bundle.

    Raises:
        WeightsError: the folder is not a bundle, is damaged, or was written by a newer version.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        hint = f"; did you mean {folder / 'best'}?" if (folder / "best" / DESCRIPTION).is_file() else ""
        raise WeightsError(f"{folder} is not a bundle: it holds no {DESCRIPTION}{hint}")
    try:
        record = json.loads(path.read_text("utf-8"))
        if record.get("format", 0) > FORMAT:
            raise WeightsError(
                f"{path} has format {record['format']}, this version reads up to {FORMAT}: update voxelsam"
            )
        description = config.parse(Description, record, where=str(path))
        Labels.from_json(description.labels, description.codes)
        tensors = load_file(folder / WEIGHTS)
    except (ConfigError, LabelError, AttributeError, json.JSONDecodeError) as error:
        raise WeightsError(f"{path} is damaged: {error}") from None
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{folder / WEIGHTS} cannot be read: {error}") from None
    if description.weights_sha256 != _sha256(folder / WEIGHTS):
        raise WeightsError(f"{folder / WEIGHTS} is not the file that {DESCRIPTION} describes: its SHA-256 differs")
    return Bundle(description, tensors)


def judge(folder: Path, thresholds: Mapping[str, Mapping[str, float]]) -> None:
    """Writes into a bundle below which values of a quality measure a mask of a structure is doubtful.

    The weights, and so the bundle's identity, stay as they are.

    Args:
        folder: the bundle.
        thresholds: per measure and structure, as ``voxelsam.infer.trust.thresholds`` finds them on validation cases.

    Raises:
        WeightsError: the folder is not a bundle, or is damaged.
        ConfigError: a structure is not one of the bundle's.
        OutputError: the file cannot be written.
    """
    known = load(folder)
    named = {name for measure in thresholds.values() for name in measure}
    if strange := sorted(named - set(known.labels.names)):
        raise ConfigError(f"thresholds for {', '.join(strange)}, but {folder} knows {', '.join(known.labels.names)}")
    plain = {measure: dict(values) for measure, values in thresholds.items()}
    record = config.plain(replace(known.description, thresholds=plain))
    write_text(folder / DESCRIPTION, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


RANDOM = """
**The backbone is random** (made from a seed, not pretrained): this bundle shows that the pipeline works; for real use
train on a SAM checkpoint.
"""


def card(description: Description) -> str:
    """The bundle for people, as Markdown."""
    backbone, method = description.backbone, description.adapt["name"]
    structures = ", ".join(name for name in Labels.from_json(description.labels).names)
    random = "" if backbone.weights or backbone.name == backbones.NONE else RANDOM
    frozen = f"`{backbone.name}`, SHA-256 `{backbone.sha256}`; its own licence applies to it"
    if backbone.name == backbones.NONE:
        frozen = "none: a whole network, trained from scratch; all its weights are in this bundle"
    return (
        f"# {method}{'' if backbone.name == backbones.NONE else f' on {backbone.name}'}\n{random}\n"
        f"Segments: {structures}. Input: {', '.join(description.channels)} ({description.kind}).\n\n"
        f"- backbone: {frozen}\n"
        f"- stacks of {description.stack.depth} {description.stack.plane} slices, "
        f"{description.stack.size[0]} × {description.stack.size[1]} pixels\n"
        f"- prompts: {asked(description.prompts)}\n"
        f"- written by voxelsam {description.voxelsam}\n"
        + "".join(f"- {key.replace('_', ' ')}: {value}\n" for key, value in description.training.items())
        + "\nResearch use: not a medical device.\n"
    )


def asked(prompts: PromptsLearnt) -> str:
    """Which prompts a model takes, in words."""
    kinds = [f"answers {', '.join(prompts.kinds)}"] if prompts.kinds else []
    return "; ".join([*(["needs none"] if prompts.free else ["always needs one"]), *kinds])


def describe(segmenter: Segmenter, **fields: Any) -> Bundle:
    """A bundle of a network as it is now; the keyword arguments are the other fields of its description."""
    lent = _lent(segmenter.backbone)
    state = segmenter.adaptation.state_dict()
    same = tuple(name for name, tensor in state.items() if name in lent and torch.equal(tensor, lent[name]))
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in state.items() if name not in same}
    fields |= {"format": FORMAT, "voxelsam": version("voxelsam"), "from_backbone": same}
    return Bundle(Description(**fields), tensors)


def _lent(backbone: Backbone) -> dict[str, Tensor]:
    """The backbone's tensors under the names that an adaptation gives to its copies of them."""
    parts = {"decoder": backbone.mask_decoder, "prompt_encoder": backbone.prompt_encoder}
    return {f"{part}.{name}": tensor for part, module in parts.items() for name, tensor in module.state_dict().items()}


def _checkpoint(known: BackboneIdentity, weights: Path | None) -> Path | None:
    if known.weights is None:
        return None
    path = weights or Path(known.weights)
    if not path.exists():
        raise WeightsError(
            f"the {known.name} checkpoint of this bundle is not at {path}: give its place with --weights "
            f"(SHA-256 {known.sha256[:16]}…)"
        )
    return path


def _fill(adaptation: adapt.Adaptation, tensors: dict[str, Tensor]) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in adaptation.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = [
        f"  {name}: expected {expected.get(name, 'nothing')}, found {found.get(name, 'nothing')}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]
    if wrong:
        raise WeightsError(f"the bundle's tensors do not fit its description ({len(wrong)}):\n" + "\n".join(wrong[:10]))
    adaptation.load_state_dict(tensors)


def mend(folder: Path) -> None:
    """Tidies up after a process that was killed while it saved a bundle.

    Between two renames the bundle lies beside its place; it is put back. Folders that were only half written go.

    Args:
        folder: the bundle's place.
    """
    left = sorted(folder.parent.glob(f".{folder.name}.{'[0-9a-f]' * 8}*"))
    for old in left:
        if old.suffix == ".old" and not folder.exists():
            old.rename(folder)
        else:
            shutil.rmtree(old, ignore_errors=True)


def _put(new: Path, place: Path) -> None:
    old = new.with_name(new.name + ".old")
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
