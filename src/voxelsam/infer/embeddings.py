"""Image features of every slice of one volume: computed when first asked for, and then kept.

A slice's features come from the stack in whose middle it lies (``plan.lead``): the middle ``stride`` slices of the
stacks tile the volume, so every stack is encoded once and every slice has one answer. Features are kept as the encoder
gave them, or, if wanted, rounded to half precision: half the bytes (2.1 MB for a slice of 1024 × 1024 pixels), and an
error of two parts in ten thousand. Rounding comes before any use, so that kept ones and new ones give the same mask.
Two places are bounded in bytes: main memory, which forgets the stack that was not used for longest, and, if wanted, a
folder, which outlives the process.

A file in the folder belongs to one volume, one bundle, one plan and one arithmetic: its name is a hash of all of them,
so that a changed one never finds it. A damaged file is noticed by its own checksum and computed anew.
"""

import hashlib
import json
import re
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from voxelsam import config
from voxelsam.bundle import Bundle
from voxelsam.errors import ConfigError, InputWarning
from voxelsam.infer.prediction import Progress
from voxelsam.stacks.cut import cut
from voxelsam.stacks.intensity import Scale
from voxelsam.stacks.plan import StackPlan
from voxelsam.types import Pixels
from voxelsam.volumes.volume import Volume

GIB = 1024**3

MEMORY = 2 * GIB
"""Bytes of features in main memory, unless told otherwise."""

DISK = 16 * GIB
"""Bytes of features in a folder, unless told otherwise."""

FOLDER = "voxelsam-embeddings"
"""Name of the folder inside the one that the user gives; nothing beside it is ever touched."""

Features = Float[Tensor, "frames channels h w"]

Encode = Callable[[Float[Tensor, "batch depth 3 height width"]], Features]
"""Stacks to the features of all their slices, depth varying fastest."""


class Store:
    """Features of one volume in a folder, one file per stack; files that were used longest ago make room.

    Args:
        folder: where; shared by all volumes, models and processes.
        key: of what the features depend on, see :func:`key`.
        limit: bytes of all files together.

    Raises:
        ConfigError: the limit is not positive.
    """

    def __init__(self, folder: Path, key: str, limit: int = DISK) -> None:
        if limit < 1:
            raise ConfigError(f"the features' folder needs room for at least 1 byte, not {limit}")
        self.root = folder / FOLDER
        self.limit = limit
        self._own = self.root / key

    def get(self, stack: int) -> Features | None:
        """The features of a stack's middle, if they are there and undamaged; a damaged file is a warning."""
        path = self._path(stack)
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                features: Tensor = file.get_tensor("features")
                whole = (file.metadata() or {}).get("sha256") == _sha256(features)
            path.touch()
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError) as error:
            whole, reason = False, str(error)
        else:
            reason = "its checksum differs"
        if not whole:
            warnings.warn(f"{path} is damaged ({reason}): the features are computed anew", InputWarning, stacklevel=2)
            return None
        return features

    def put(self, stack: int, features: Features) -> None:
        """Keeps features: a whole file or none; a folder that cannot be written is a warning."""
        path = self._path(stack)
        try:
            self._own.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".", dir=self._own) as work:
                beside = Path(work) / path.name
                save_file({"features": features.contiguous()}, beside, {"sha256": _sha256(features)})
                beside.replace(path)
            self._make_room()
        except (OSError, SafetensorError) as error:
            warnings.warn(f"features cannot be kept in {self.root}: {error}", InputWarning, stacklevel=2)

    def _path(self, stack: int) -> Path:
        return self._own / f"{stack:06d}.safetensors"

    def _make_room(self) -> None:
        """Removes files, the longest unused first, until all of them fit."""
        found = []
        for path in self.root.glob("*/*.safetensors"):
            if re.fullmatch(r"[0-9a-f]{64}", path.parent.name):
                with suppress(FileNotFoundError):
                    state = path.stat()
                    found.append((state.st_mtime_ns, path, state.st_size))
        total = sum(size for _, _, size in found)
        for _, path, size in sorted(found):
            if total <= self.limit:
                return
            path.unlink(missing_ok=True)
            total -= size
            with suppress(OSError):
                path.parent.rmdir()


class Embeddings:
    """Features of the slices of one canonical volume.

    Args:
        data: the canonical volume.
        plan: how it is cut.
        scale: of its intensities.
        encode: the encoder; called once for every stack that is needed and not kept.
        batch: stacks per call.
        memory: bytes kept in main memory; the stack unused for longest is forgotten first.
        store: where features are looked for before they are computed, and kept.
        half: round features of single precision to half precision.

    Raises:
        ConfigError: a bound is negative, or less than one stack goes into a call.
    """

    def __init__(
        self,
        data: Pixels,
        plan: StackPlan,
        scale: Scale,
        encode: Encode,
        *,
        batch: int = 1,
        memory: int = MEMORY,
        store: Store | None = None,
        half: bool = False,
    ) -> None:
        if memory < 0 or batch < 1:
            raise ConfigError(f"memory is 0 bytes or more and batch 1 or more, not {memory} and {batch}")
        self.data, self.plan, self.scale = data, plan, scale
        self.memory = memory
        self._encode, self._batch, self._store, self._half = encode, batch, store, half
        self._kept: OrderedDict[int, Tensor] = OrderedDict()

    @property
    def slices(self) -> int:
        """Slices of the volume."""
        return int(self.data.shape[3])

    @property
    def held(self) -> int:
        """Bytes of features in main memory."""
        return sum(features.nbytes for features in self._kept.values())

    def __call__(self, slices: Sequence[int], progress: Progress | None = None) -> Features:
        """The features of some slices, in their order, on the CPU.

        Args:
            slices: their numbers; at least one.
            progress: told after every batch of encoded stacks.

        Raises:
            IndexError: the volume has no such slice.
        """
        if strange := [number for number in slices if not 0 <= number < self.slices]:
            raise IndexError(f"the volume has the slices 0 to {self.slices - 1}, not {strange}")
        stacks = self._stacks(sorted({number // self.plan.stride for number in slices}), progress)
        found = [stacks[number // self.plan.stride][number % self.plan.stride] for number in slices]
        return torch.stack(found).float() if self._half else torch.stack(found)

    def _stacks(self, wanted: Sequence[int], progress: Progress | None) -> Mapping[int, Features]:
        """The features of the middles of some stacks."""
        found = {stack: features for stack in wanted if (features := self._look_up(stack)) is not None}
        missing = [stack for stack in wanted if stack not in found]
        for begin in range(0, len(missing), self._batch):
            some = missing[begin : begin + self._batch]
            for stack, features in zip(some, self._encoded(some), strict=True):
                found[stack] = features
                self._keep(stack, features)
                if self._store is not None:
                    self._store.put(stack, features)
            if progress:
                progress(len(found), len(wanted))
        return found

    def _look_up(self, stack: int) -> Features | None:
        if stack in self._kept:
            self._kept.move_to_end(stack)
            return self._kept[stack]
        features = None if self._store is None else self._store.get(stack)
        if features is not None:
            self._keep(stack, features)
        return features

    def _keep(self, stack: int, features: Features) -> None:
        self._kept[stack] = features
        while self.held > self.memory:
            self._kept.popitem(last=False)

    def _encoded(self, stacks: Sequence[int]) -> list[Features]:
        plan = self.plan
        starts = [stack * plan.stride - plan.lead for stack in stacks]
        images = torch.stack([cut(self.data, plan, start, self.scale) for start in starts])
        features = self._encode(images)
        if self._half and features.dtype == torch.float32:
            features = features.half()
        each = rearrange(features.cpu(), "(stack depth) c h w -> stack depth c h w", depth=plan.depth)
        return [features[plan.lead : plan.lead + plan.stride].clone() for features in each]


def key(volume: Volume, trained: Bundle, plan: StackPlan, precision: str, *, half: bool = False) -> str:
    """SHA-256 of all that features depend on: voxels, their places, weights, method, plan, intensities, arithmetic."""
    known = trained.description
    facts = {
        "voxelsam": version("voxelsam"),
        "volume": _volume_sha256(volume),
        "weights": known.weights_sha256 or _tensors_sha256(trained.tensors),
        "backbone": (known.backbone.name, known.backbone.sha256),
        "adapt": known.adapt,
        "plan": config.plain(plan),
        "intensity": config.plain(known.intensity),
        "precision": precision,
        "kept": "half" if half else "whole",
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _volume_sha256(volume: Volume) -> str:
    """Of voxel values and their places; plane by plane, whatever the order in memory."""
    data = volume.data
    total = hashlib.sha256(f"{data.shape} {data.dtype.str} {volume.grid.along_k}".encode())
    total.update(volume.grid.affine.tobytes())
    for number in range(data.shape[3]):
        total.update(data[..., number].tobytes())
    return total.hexdigest()


def _tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {_sha256(tensor)}".encode())
    return total.hexdigest()


def _sha256(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().flatten()
    total = hashlib.sha256(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
    total.update(flat.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
