"""The mean of several answers about one volume, slice by slice, and the label map that follows.

Every answer gives the probabilities of the classes on the slices of the volume itself, whatever the stacks and pictures
of its model, in the order of the slices. All answers go forward together: what is held at a time is one slice of each
and what the mergers of overlapping stacks hold, never a volume of probabilities. Only where probabilities are asked for
are those of the mean kept, one byte per voxel and structure.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from voxelsam.bundle import Bundle
from voxelsam.infer.clean import Clean
from voxelsam.infer.prediction import Prediction, Progress
from voxelsam.infer.quality import Tally, judge
from voxelsam.infer.views import View
from voxelsam.space.placement import Placement
from voxelsam.types import Pixels
from voxelsam.volumes.volume import LabelMap, Volume


@dataclass(frozen=True, eq=False)
class SliceAnswer:
    """What a model says about one slice of the canonical volume."""

    views: Float[Tensor, "views classes height width"]
    """Probabilities, of each augmented view."""
    quality: Float[Tensor, " classes"] | None = None
    """The decoder's estimate of the IoU of each class; None where it was not trained."""


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

    def slices(self, data: Pixels) -> Iterator[SliceAnswer]:
        """What it says about each canonical slice, in order."""


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
    classes = np.empty(data.shape[1:], np.uint8)
    kept = np.empty((labels.count - 1 if probabilities else 0, *data.shape[1:]), np.uint8)
    tally = Tally(labels.count, sum(len(member.views) for member in members))
    for number, answers in enumerate(zip(*(member.slices(data) for member in members), strict=True)):
        views = torch.cat([answer.views for answer in answers])
        mean = views.mean(0)
        mask = mean.argmax(0).to(torch.uint8).numpy(force=True)
        tally.add(views, mean, mask, _estimate(answers))
        classes[:, :, number] = mask.T
        if probabilities:
            kept[..., number] = rearrange((mean[1:] * 255).round().to(torch.uint8), "c h w -> c w h").numpy(force=True)
        if progress:
            progress(number + 1, slices)
    values = labels.from_classes(placement.restore(classes))
    made = clean(LabelMap(values, volume.grid, labels, volume.source, author))
    restored = None
    if probabilities:
        back = Placement(placement.target, placement.source)
        restored = np.rint(back.bring(kept)).astype(np.uint8)
    quality = judge(tally, made, volume, [member.bundle.description for member in members])
    return Prediction(made, volume, restored, quality)


def _estimate(answers: Sequence[SliceAnswer]) -> Float[Tensor, " classes"] | None:
    """The mean of what the decoders say of their own masks, over those that were trained to."""
    said = [answer.quality for answer in answers if answer.quality is not None]
    return torch.stack(said).mean(0) if said else None
