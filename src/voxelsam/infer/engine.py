"""A volume through a network, slice by slice, with nothing done twice and nothing kept for longer than it is needed.

Every slice is scaled, resized and embedded once, whatever the number of stacks that show it, in a thread that is one
step ahead of the network. Tokens are held until the last stack that shows their slice, scores until the last vote, so
memory grows with the depth of the stacks and not with the volume.

A stack whose slices all show the same picture, and the same as an earlier such stack, has the same answer: above and
below a body whose background is exactly blank, or in a film that stands still. It is not computed again.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from voxelsam.infer.ahead import ahead
from voxelsam.infer.prediction import Work
from voxelsam.infer.views import View
from voxelsam.nn.decoder import Scores
from voxelsam.stacks.cut import finished, pictures
from voxelsam.stacks.frame import scores_to_slice
from voxelsam.stacks.intensity import Scale
from voxelsam.stacks.merge import Merger
from voxelsam.stacks.plan import StackPlan
from voxelsam.stacks.turns import Turn, turns
from voxelsam.types import Pixels

FEW = 8
"""Slices that are cut and embedded at once: those of a scan may be much larger than the pictures made of them."""


@dataclass(frozen=True, eq=False)
class SliceAnswer:
    """What a model says about one slice of the canonical volume."""

    views: Float[Tensor, "views classes height width"]
    """Probabilities, of each augmented view."""
    quality: Float[Tensor, " classes"] | None = None
    """The decoder's estimate of the IoU of each class; None where it was not trained."""


class Network(Protocol):
    """What the engine asks; all tensors are on one device."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def embed(self, images: Float[Tensor, "frames 3 height width"]) -> Float[Tensor, "frames ..."]:
        """What is made of every slice by itself."""

    def encode_embedded(self, embedded: Float[Tensor, "batch depth ..."]) -> Float[Tensor, "frames channels h w"]:
        """Image features of the slices of some stacks."""

    def decode(self, features: Float[Tensor, "frames channels h w"]) -> Scores:
        """Scores of every slice, whose logits and features nobody else needs."""


@dataclass(frozen=True)
class Way:
    """How volumes go through a network."""

    plan: StackPlan
    views: tuple[View, ...]
    """How it is shown every stack."""
    batch: int
    """Stacks per pass."""
    frames: int
    """Slices that are decoded at once."""
    quality: bool
    """Whether the decoder's estimates of the IoU mean something."""


Part = tuple[Float[Tensor, "classes height width"], Float[Tensor, " classes"] | None]
"""Probabilities of a slice in one stack, and the decoder's estimates of the IoU."""


@dataclass(frozen=True, eq=False)
class _Step:
    """What the thread hands over: first new pictures, a few at a time, then the stacks that they complete."""

    pictures: Mapping[int, Tensor] = field(default_factory=dict)
    """By slice, "channels height width"; finished unless every stack is stretched by itself."""
    looks: Mapping[int, Hashable] = field(default_factory=dict)
    """By slice; slices that are known to show the same picture have the same."""
    turns: Sequence[Turn] = ()


def answers(network: Network, data: Pixels, scale: Scale, way: Way, work: Work) -> Iterator[SliceAnswer]:
    """Averaged probabilities of each canonical slice, in order.

    Args:
        network: the model.
        data: the canonical volume.
        scale: of its intensities.
        way: how it is cut and shown.
        work: counts what is computed.
    """
    held = _Held(network, way, scale, data.shape[1:3])
    votes = _Votes(data.shape[3], way)
    frame = way.plan.frame((data.shape[2], data.shape[1]))
    still: tuple[Hashable, list[list[Part]]] = (None, [])
    for step in ahead(_steps(data, scale, way)):
        held.take(step)
        asked = list(_asked(step.turns, [held.look(turn) for turn in step.turns], still[0]))
        fresh = [turn for turn, _, repeated in asked if not repeated]
        streams = [_decoded(network, features, view, way) for view, features in held.features(fresh)]
        for turn, look, repeated in asked:
            work.count(repeated)
            keeps = look is not None and not repeated and not turn.last
            if keeps:
                still = look, [list(islice(stream, way.plan.depth)) for stream in streams]
            parts = [iter(view) for view in still[1]] if keeps or repeated else streams
            for maps, estimate in votes.of(turn, parts):
                yield SliceAnswer(scores_to_slice(maps, frame), estimate)
            held.drop(turn)


def _asked(turns: Sequence[Turn], looks: Sequence[Hashable], latest: Hashable) -> Iterator[tuple[Turn, Hashable, bool]]:
    """Each stack, its look, and whether the last stack of one look before it had the same.

    Args:
        turns: the stacks of a pass.
        looks: what all slices of each show; None where they differ.
        latest: the look of the last stack of one look in the passes before.
    """
    for turn, look in zip(turns, looks, strict=True):
        yield turn, look, look is not None and look == latest
        latest = latest if look is None else look


def _steps(data: Pixels, scale: Scale, way: Way) -> Iterator[_Step]:
    looks = _Looks()
    every = turns(way.plan, data.shape[3])
    while some := tuple(islice(every, way.batch)):
        new = [number for turn in some for number in turn.new]
        for begin in range(0, len(new), FEW):
            few = new[begin : begin + FEW]
            made = pictures(data, way.plan, few, scale)
            if scale.scope == "volume":
                made = finished(made, way.plan, scale, data.shape[1:3])
            shown = dict(zip(few, made, strict=True))
            yield _Step(shown, {number: looks.of(number, picture) for number, picture in shown.items()})
        yield _Step(turns=some)


class _Looks:
    """Tells slices that show the same picture from others, as far as a comparison with the slice before can."""

    def __init__(self) -> None:
        self._before: tuple[Tensor | None, Hashable] = (None, None)

    def of(self, number: int, picture: Float[Tensor, "channels height width"]) -> Hashable:
        """The look of the next slice: the values of a blank one, that of the slice before if they are equal, or new."""
        flat = picture.flatten(1)
        before, look = self._before
        if bool((flat == flat[:, :1]).all()):
            look = tuple(flat[:, 0].tolist())
        elif before is None or not torch.equal(before, picture):
            look = number
        self._before = picture, look
        return look


class _Held:
    """What is made of the slices that a stack still needs."""

    def __init__(self, network: Network, way: Way, scale: Scale, size: Sequence[int]) -> None:
        self._network, self._way, self._scale, self._size = network, way, scale, size
        self._alone = scale.scope == "volume"
        self._made: dict[int, list[Tensor]] = {}
        self._looks: dict[int, Hashable] = {}

    def take(self, step: _Step) -> None:
        """Embeds new slices; those that every stack stretches anew are kept as pictures."""
        self._looks |= step.looks
        if not step.pictures:
            return
        together = torch.stack(list(step.pictures.values())).to(self._network.device)
        views = self._embedded(together[None]) if self._alone else [together]
        for number, *made in zip(step.pictures, *views, strict=True):
            self._made[number] = made

    def look(self, turn: Turn) -> Hashable:
        """What all slices of a stack show; None where they differ."""
        first, *others = {self._looks[number] for number in turn.shows}
        return None if others else first

    def features(self, fresh: Sequence[Turn]) -> Iterator[tuple[View, Float[Tensor, "frames channels h w"]]]:
        """Image features of some stacks for each view; nothing where there is no stack."""
        if not fresh:
            return
        stacks = [[self._made[number] for number in turn.shows] for turn in fresh]
        if self._alone:
            for place, view in enumerate(self._way.views):
                embedded = torch.stack([torch.stack([made[place] for made in stack]) for stack in stacks])
                yield view, self._network.encode_embedded(embedded)
            return
        shown = torch.stack(
            [
                finished(torch.stack([made[0] for made in stack]), self._way.plan, self._scale, self._size)
                for stack in stacks
            ]
        )
        for view, embedded in zip(self._way.views, self._embedded(shown), strict=True):
            yield view, self._network.encode_embedded(rearrange(embedded, "(b d) ... -> b d ...", b=len(fresh)))

    def drop(self, turn: Turn) -> None:
        """Forgets what no later stack shows."""
        for number in turn.gone:
            del self._made[number], self._looks[number]

    def _embedded(self, shown: Float[Tensor, "batch depth 3 height width"]) -> list[Tensor]:
        return [self._network.embed(view.there(shown).flatten(0, 1)) for view in self._way.views]


def _decoded(network: Network, features: Float[Tensor, "frames channels h w"], view: View, way: Way) -> Iterator[Part]:
    """Probabilities of one slice after the other, some being decoded at a time."""
    for begin in range(0, len(features), way.frames):
        scores = network.decode(features[begin : begin + way.frames])
        maps = view.back(_probabilities(scores.logits)[None])[0]
        estimates = scores.quality if way.quality and scores.quality is not None else [None] * len(maps)
        yield from zip(maps, estimates, strict=True)


def _probabilities(
    logits: Float[Tensor, "frames classes height width"],
) -> Float[Tensor, "frames classes height width"]:
    """The soft-max over classes; on processors in the place of the logits, as a second buffer costs more than it."""
    return torch.softmax(logits, 1, out=logits if logits.device.type == "cpu" else None)


class _Votes:
    """Means over the stacks that show a slice, for every view."""

    def __init__(self, slices: int, way: Way) -> None:
        self._depth = way.plan.depth
        self._scores = [Merger(slices, way.plan) for _ in way.views]
        self._estimates = [Merger(slices, way.plan) for _ in way.views]

    def of(
        self, turn: Turn, views: Sequence[Iterator[Part]]
    ) -> Iterator[tuple[Float[Tensor, "views classes height width"], Float[Tensor, " classes"] | None]]:
        """Adds the slices of a stack, and gives out those that have their last vote."""
        for place, parts in enumerate(islice(zip(*views, strict=True), self._depth)):
            ready = _voted(self._scores, [maps for maps, _ in parts], turn.start, place)
            said = [estimates[:, None, None] for _, estimates in parts if estimates is not None]
            told = _voted(self._estimates, said, turn.start, place) if said else []
            for number, maps in enumerate(ready):
                yield maps, told[number][:, :, 0, 0].mean(0) if told else None


def _voted(
    mergers: Sequence[Merger], parts: Iterable[Float[Tensor, "classes height width"]], start: int, place: int
) -> list[Float[Tensor, "views classes height width"]]:
    """The means of the slices that are done with this part of a stack."""
    for merger, part in zip(mergers, parts, strict=True):
        if place == 0:
            merger.begin(start)
        merger.put(part)
    return [_together([mean for _, mean in slices]) for slices in zip(*(m.done() for m in mergers), strict=True)]


def _together(views: Sequence[Float[Tensor, "classes height width"]]) -> Float[Tensor, "views classes height width"]:
    """A stack of views; nothing is copied where there is one."""
    return views[0][None] if len(views) == 1 else torch.stack(list(views))
