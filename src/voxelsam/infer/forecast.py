"""How long prediction will take and how much memory, case by case, before any network is made.

The work of one slice and one stack is counted (``voxelsam.cost``), the speed of the device is measured for a second,
and each scan is read, because its size decides. Estimates say nothing about reading and writing files; how wrong they
are, ``benchmarks/estimates.py`` measures.
"""

import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from voxelsam import checks
from voxelsam.bundle import Bundle
from voxelsam.cost import COPIES, PREDICTOR, Passes, Setup, Speed, UncountableError, Work, networks, passes, speed
from voxelsam.device import find
from voxelsam.errors import InputWarning, VoxelSamError
from voxelsam.infer.cases import Task
from voxelsam.infer.cohort import Outcome
from voxelsam.infer.predictor import Precision, cut_by, decoded, filling
from voxelsam.infer.views import views
from voxelsam.volumes.volume import Volume

PER_SLICE, PER_VOTE, PER_PICTURE = 4, 2, 6
"""How often the values of a slice's scores at the size of the scan, of a stack's scores, and of a model's picture are
read or written beside the networks."""

ENCODED, SCORED = 0.5, 1.2
"""What a processor's memory grows by for each byte of the tensors that are counted at a time: in the image encoder, of
which a processor computes parts one after the other, and in the decoder."""


@dataclass(frozen=True)
class Need:
    """What the prediction of a scan takes."""

    slices: int
    """Canonical slices."""
    seconds: float
    """From the first slice to the last, without reading and writing files."""
    memory: int
    """Bytes: on a processor those of the whole program, else those of the device."""


@dataclass(frozen=True)
class _Member:
    """One of the models."""

    bundle: Bundle
    setup: Setup
    passes: Passes
    batch: int
    """Stacks per pass."""
    decoded: int
    """Slices that are decoded at once, at most."""
    stride: int
    views: int

    @property
    def single(self) -> bool:
        """Whether a volume is one stack."""
        return self.stride == 0

    def stacks(self, slices: int) -> int:
        """Stacks of a volume."""
        return 1 if self.single else -(-slices // self.stride)

    def depth(self, slices: int) -> int:
        """Slices of a stack."""
        return slices if self.single else self.setup.depth

    @property
    def scores(self) -> int:
        """Bytes of the scores of a slice, at the size of the model's picture."""
        return 4 * self.setup.classes * math.prod(self.setup.size)


class Forecast:
    """What volumes will need.

    Args:
        trained: the models that are averaged, at least one.
        device: as for ``Predictor``, and so are the others.
        precision: of the networks.
        overlap: slices that neighbouring stacks share; None: as each model says.
        single_pass: whether a volume is one stack.
        tta: whether all safe views are averaged.
        cases: scans of the cohort; while one is segmented, the next is read and the last one written.

    Raises:
        ConfigError: there is no such device.
        UncountableError: a network does something whose result depends on values.
    """

    def __init__(
        self,
        trained: Sequence[Bundle],
        *,
        device: str = "auto",
        precision: Precision = "fp32",
        overlap: int | None = None,
        single_pass: bool = False,
        tta: bool = False,
        cases: int = 1,
    ) -> None:
        self.device = find(device)
        self._here = "cpu" if self.device.type == "cpu" else "gpu"
        self._together = min(cases, 3)
        self._speed: Speed = speed(str(self.device), precision, prepared=True)
        self._members = [self._member(one, precision, overlap, single_pass, tta) for one in trained]
        self._trained = trained

    def __call__(self, volume: Volume) -> Need:
        """What one volume needs."""
        placement = self._members[0].bundle.description.stack.placement(volume.grid)
        columns, rows, slices = placement.target.shape
        labels = self._trained[0].labels.count
        scores = 4 * labels * columns * rows
        work = Work()
        for member in self._members:
            work = work.then(self._work(member, slices, scores))
        return Need(slices, self._speed.seconds(work), self._memory(volume, slices, scores))

    def _member(
        self, trained: Bundle, precision: Precision, overlap: int | None, single_pass: bool, tta: bool
    ) -> _Member:
        known = trained.description
        setup = Setup(
            known.backbone.name,
            json.dumps(known.adapt, sort_keys=True),
            trained.labels.count,
            known.stack.size,
            known.stack.depth,
            precision,
            device=self._here,
        )
        meeting = setup.segmenter().meeting
        plan = cut_by(trained, meeting, None if overlap is None else known.stack.depth - overlap)
        setup = replace(setup, depth=plan.depth)
        shown = len(views(known.training_augment)) if tta else 1
        stride, batch = 0 if single_pass and plan.depth > 1 else plan.stride, filling(self.device, plan)
        return _Member(trained, setup, passes(setup), batch, decoded(self.device, plan, setup.classes), stride, shown)

    def _work(self, member: _Member, slices: int, scores: int) -> Work:
        """What one member does."""
        one, depth, stacks = member.passes, member.depth(slices), member.stacks(slices)
        shown = stacks * depth
        networks_ = (
            one.embed.times(slices)
            .then(one.encode.times(stacks * depth / member.setup.depth))
            .then(one.decode.times(shown))
        )
        beside = PER_SLICE * scores * slices + PER_VOTE * member.scores * shown
        pictures = PER_PICTURE * 12 * math.prod(member.setup.size) * slices
        return networks_.times(member.views).then(Work(moved=beside * member.views + pictures))

    def _memory(self, volume: Volume, slices: int, scores: int) -> int:
        held = max(self._pass(member, slices) for member in self._members)
        weights = sum(networks(member.setup).weights for member in self._members)
        votes = sum(member.views * (member.depth(slices) + 1) * member.scores for member in self._members)
        work = held + votes + scores
        if self._here != "cpu":
            return weights + work
        voxels = math.prod(volume.grid.shape)
        return PREDICTOR + round(COPIES * weights) + work + self._together * (volume.data.nbytes + 2 * voxels)

    def _pass(self, member: _Member, slices: int) -> int:
        """Bytes of one pass of a member, with the embedded slices that are held for the next."""
        depth, batch = member.depth(slices), min(member.batch, member.stacks(slices))
        one, frames = member.passes, min(member.batch * member.setup.depth, slices)
        in_encoder, in_decoder = (ENCODED, SCORED) if self._here == "cpu" else (1, 1)
        encoded = round(in_encoder * one.encode.peak * batch * depth / member.setup.depth)
        scored = round(in_decoder * one.decode.peak * min(frames, member.decoded))
        most = max(encoded, frames * one.embed.peak, scored)
        ring = min(slices, depth + batch * max(member.stride, 1)) + batch * depth
        return most + ring * member.views * one.embedded


def of(trained: Sequence[Bundle], **settings: Any) -> Forecast | None:
    """The forecast for some models; None, and a warning, where a network cannot be counted.

    Args:
        trained: the models.
        **settings: the keyword arguments of ``Forecast``.
    """
    try:
        return Forecast(trained, **settings)
    except UncountableError as error:
        warnings.warn(f"time and memory are not estimated: {error}", InputWarning, stacklevel=2)
        return None


def planned(
    todo: Sequence[Task], channels: int, forecast: Callable[[Volume], Need] | None
) -> Iterator[tuple[Outcome, Need | None]]:
    """Reads and checks every scan that has no mask yet, and says what it will need; writes nothing.

    Args:
        todo: the cases.
        channels: that the model takes.
        forecast: what a volume needs; None where that cannot be told.
    """
    for task in todo:
        if task.output.exists():
            yield Outcome(task.id, task.output, "kept"), None
            continue
        with checks.watching(where=task.id) as watch:
            try:
                volume = task.read(channels)
                need = None if forecast is None else forecast(volume)
            except (VoxelSamError, OSError, MemoryError) as error:
                code = error.code if isinstance(error, VoxelSamError) else ""
                reason = str(error) or type(error).__name__
                yield Outcome(task.id, task.output, "failed", reason, code, 0.0, tuple(watch.findings)), None
                continue
        yield Outcome(task.id, task.output, "planned", findings=tuple(watch.findings)), need
