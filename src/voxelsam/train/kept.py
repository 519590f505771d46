"""Features of slices that never change during training: computed once, then kept on disk.

Where a method leaves the image encoder as it is, the features of a picture depend on the picture alone. So each slice
of a case whose pictures are not augmented goes through the encoder once in a run. Each goes alone, so that its features
have the same bits whatever else is in a batch: a run that was interrupted and goes on still gives what an uninterrupted
one would have given.

The features lie in a file without a name, which is gone when the process ends. What does not fit is computed each time.
"""

import shutil
import tempfile
import warnings
import weakref
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from voxelsam.errors import InputWarning
from voxelsam.model import Segmenter
from voxelsam.nn.seam import EncoderAdaptation
from voxelsam.stacks.cut import StackBatch
from voxelsam.stacks.plan import StackPlan

ROOM = 32 * 1024**3
"""Bytes of features on disk, at most."""

SHARE = 0.5
"""Of what is free on that disk, at most."""

Features = Float[Tensor, "frames channels h w"]


def leaves_encoder(segmenter: Segmenter) -> bool:
    """Whether the image encoder is the frozen backbone's and nothing acts inside, so that features never change."""
    adaptation = segmenter.adaptation
    return adaptation.image_encoder is None and type(adaptation.encoder) is EncoderAdaptation


class Kept:
    """The encoder of a segmenter that leaves it as it is, with a memory.

    Args:
        segmenter: the networks.
        plan: how stacks are cut.
        slices: slices of each case whose pictures are always the same, by its id; others are computed each time.
        folder: on whose disk features are kept; the system's temporary folder where it does not exist.
        room: bytes, at most; no more than half of what is free is taken.
    """

    def __init__(
        self, segmenter: Segmenter, plan: StackPlan, slices: Mapping[str, int], folder: Path, room: int = ROOM
    ) -> None:
        self.segmenter, self.plan, self.slices = segmenter, plan, slices
        place = folder if folder.is_dir() else Path(tempfile.gettempdir())
        self.room = min(room, int(SHARE * shutil.disk_usage(place).free))
        self._file = tempfile.TemporaryFile(dir=place)  # noqa: SIM115 -- lives as long as this object
        weakref.finalize(self, self._file.close)
        self._places: dict[tuple[str, int], int] = {}
        self._like: Tensor | None = None

    @property
    def held(self) -> int:
        """Slices whose features are kept."""
        return len(self._places)

    def __call__(self, batch: StackBatch) -> Features:
        """The features of every slice of some stacks, as ``Segmenter.encode`` gives them."""
        if any(case and case not in self.slices for case in batch.cases):
            return self.segmenter.encode(batch.images)
        frames = [
            self._frame(images[None, None], case, number)
            for stack, case, first in zip(batch.images, batch.cases, batch.first.tolist(), strict=True)
            for images, number in zip(stack, self._numbers(case, first), strict=True)
        ]
        return torch.cat(frames)

    def _numbers(self, case: str, first: int) -> tuple[int, ...]:
        """The slice at each place of a stack; places of padding have none that is kept."""
        return self.plan.slices(first, self.slices[case]) if case else tuple(range(self.plan.depth))

    def _frame(self, image: Float[Tensor, "1 1 3 height width"], case: str, number: int) -> Features:
        place = self._places.get((case, number))
        if place is not None and self._like is not None:
            return self._read(place, self._like).to(image.device)
        with torch.no_grad():
            features = self.segmenter.encode(image)
        if case:
            self._keep(features, (case, number))
        return features

    def _read(self, place: int, like: Tensor) -> Features:
        self._file.seek(place)
        content = bytearray(self._file.read(like.nbytes))
        return torch.frombuffer(content, dtype=like.dtype).view(like.shape)

    def _keep(self, features: Features, key: tuple[str, int]) -> None:
        place = len(self._places) * features.nbytes
        if place + features.nbytes > self.room:
            return
        content = features.detach().cpu().contiguous()
        try:
            self._file.seek(place)
            self._file.write(content.view(torch.uint8).numpy().data)
            self._file.flush()
        except OSError as error:
            self.room = 0
            text = (
                f"features cannot be kept ({error.strerror or error}): those of further slices are computed each time"
            )
            warnings.warn(text, InputWarning, stacklevel=2)
            return
        self._like = torch.empty_like(content, device="meta")
        self._places[key] = place
