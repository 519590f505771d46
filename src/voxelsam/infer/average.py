"""The mean of several answers about one volume, slice by slice, and the label map that follows.

Every answer gives the probabilities of the classes on the slices of the volume itself, whatever the stacks and pictures
of its model, in the order of the slices. All answers go forward together: what is held at a time is one slice of each
and what the mergers of overlapping stacks hold, never a volume of probabilities. Only where probabilities are asked for
are those of the mean kept, one byte per voxel and structure.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

from voxelsam.bundle import Bundle
from voxelsam.infer.clean import Clean
from voxelsam.infer.engine import SliceAnswer
from voxelsam.infer.prediction import Prediction, Progress, Work
from voxelsam.infer.quality import Tally, judge
from voxelsam.infer.views import View
from voxelsam.space.placement import Placement
from voxelsam.types import LabelArray, Pixels
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.volume import LabelMap, Volume


class Member(Protocol):
    """A trained model among those that are averaged."""

    @property
    def bundle(self) -> Bundle:
        """What it is."""

    @property
    def views(self) -> tuple[View, ...]:
        """How it is shown every stack."""

    def placement(self, volume: Volume) -> Placement:
        """The way from the volume's grid to the slices; the same for all members."""

    def slices(self, data: Pixels, work: Work | None = None) -> Iterator[SliceAnswer]:
        """What it says about each canonical slice, in order; ``work`` counts what is computed."""


@torch.inference_mode()
def average(
    members: Sequence[Member],
    volume: Volume,
    author: str,
    clean: Clean,
    progress: Progress | None = None,
    *,
    probabilities: bool = False,
) -> Prediction:
    """The label map of the mean probabilities of some models that agree on labels and slices, and its quality.

    Args:
        members: at least one.
        volume: with their channels.
        author: what the label map says of its origin.
        clean: which parts of a structure stay.
        progress: told after every finished slice.
        probabilities: keep those of each structure too.
    """
    labels = members[0].bundle.labels
    placement = members[0].placement(volume)
    data = placement.bring(volume.data)
    slices = data.shape[3]
    drawn = _Drawn(placement, labels)
    kept = np.empty((labels.count - 1 if probabilities else 0, *data.shape[1:]), np.uint8)
    tally, work = Tally(labels.count, sum(len(member.views) for member in members)), Work()
    for number, answers in enumerate(zip(*(member.slices(data, work) for member in members), strict=True)):
        views = answers[0].views if len(answers) == 1 else torch.cat([answer.views for answer in answers])
        mean = views[0] if len(views) == 1 else views.mean(0)
        sure, classes = mean.max(0)  # finds the first of the largest as argmax does, in a tenth of the time
        mask = classes.to(torch.uint8).numpy(force=True)
        tally.add(views, mean, sure, mask, _estimate(answers))
        drawn.add(number, mask)
        if probabilities:
            kept[..., number] = rearrange((mean[1:] * 255).round().to(torch.uint8), "c h w -> c w h").numpy(force=True)
        if progress:
            progress(number + 1, slices)
    made = clean(LabelMap(drawn.values(), volume.grid, labels, volume.source, author))
    quality = judge(tally, made, volume, [member.bundle.description for member in members])
    return Prediction(made, volume, _restored(kept, placement) if probabilities else None, quality, work)


class _Drawn:
    """A label map on the voxels of the scan, drawn slice by slice.

    Where canonical slices are slices of the scan, possibly turned, each goes to its place at once, and nothing else as
    large as the scan is ever held. Otherwise classes are kept on the canonical grid until they can be resampled.

    Args:
        placement: the way from the scan to canonical slices.
        labels: the values of the classes.
    """

    def __init__(self, placement: Placement, labels: Labels) -> None:
        self._placement, self._labels = placement, labels
        self._turned = placement.reordering
        shape = placement.target.shape if self._turned is None else placement.source.shape
        dtype = np.uint8 if self._turned is None else labels.from_classes(np.zeros(1, np.uint8)).dtype
        self._data = np.empty(shape, dtype, order="F")
        self._canonical = self._data if self._turned is None else self._turned.apply(self._data)

    def add(self, number: int, classes: Integer[np.ndarray, "height width"]) -> None:
        """Draws a canonical slice."""
        self._canonical[:, :, number] = (classes if self._turned is None else self._labels.from_classes(classes)).T

    def values(self) -> LabelArray:
        """The label values."""
        if self._turned is None:
            return self._labels.from_classes(self._placement.restore(self._data))
        return self._data


def _restored(
    kept: UInt8[np.ndarray, "structures target_i target_j target_k"], placement: Placement
) -> UInt8[np.ndarray, "structures i j k"]:
    """Probabilities on the voxels of the scan."""
    back = Placement(placement.target, placement.source)
    found = back.bring(kept)
    return found if back.reordering is not None else np.rint(found).astype(np.uint8)


def _estimate(answers: Sequence[SliceAnswer]) -> Float[Tensor, " classes"] | None:
    """The mean of what the decoders say of their own masks, over those that were trained to."""
    said = [answer.quality for answer in answers if answer.quality is not None]
    return torch.stack(said).mean(0) if said else None
