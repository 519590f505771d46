"""One volume, segmented by prompts, with every step reversible.

The verbs that take a prompt are named as in nnInteractive. What a session shows is a function of its steps: each step
is a round of prompts or a propagation. A round asks the model once about every object and slice that it touches, with
all that was said about that object on that slice; where the object has a mask already, the mask's logits go in too
(SAM's way of correcting), and over a prompt-free base this may be the base's mask. A drawn mask is taken as it is,
replaces what was said before about its object on its slices, and later prompts correct it. Nothing else is computed
again.

Slices are the canonical ones of the model's plan; a prompt's coordinates say in which space they are.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer, UInt16
from torch import Tensor

from voxelsam.bundle import PromptsLearnt
from voxelsam.errors import ConfigError, InputError
from voxelsam.formats import read_channels, read_labels
from voxelsam.infer import prompted, propagate
from voxelsam.infer.embeddings import DISK, MEMORY, Embeddings, Store, key
from voxelsam.infer.prediction import Prediction, Progress
from voxelsam.infer.prompted import Answer, Claim, Overlap, Question
from voxelsam.infer.propagate import FADE, Asked, Carried, Cue, Direction, Stop
from voxelsam.nn.drawing import SURE
from voxelsam.prompts import file
from voxelsam.prompts.place import FramePrompts, Placed, place, shrunk
from voxelsam.prompts.prompt import Box, Mask, Point, Prompt, Prompts, Scribble, Space, Target, Vector
from voxelsam.space import Placement
from voxelsam.stacks.frame import FrameMap, scores_to_slice
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.volume import LabelMap, Volume

if TYPE_CHECKING:
    from voxelsam.infer.predictor import Predictor

Image = Volume | str | Path | Sequence[str | Path]
"""A volume, its file, or one file per channel."""

Base = Literal["background", "free"]
"""What the label map is where nothing was prompted: background, or the model's answer without prompts."""

Outside = Literal["nothing", "free"]
"""Where a class that has 3D boxes may lie on the slices that none of them covers: nowhere but where it was prompted ·
where the base has it. On the slices that a box covers the model is free; its mask may be larger than the rectangle."""

STEPS = 100
"""Steps that can be undone."""

BOX_SHARE = 0.5
"""How much the prompt-free answer counts on the slices of a 3D box, which fits few of them closely."""

At = tuple[Target, int]
"""One object on one slice."""


@dataclass(frozen=True)
class _Round:
    """Prompts that came together."""

    prompts: tuple[Prompt, ...]


@dataclass(frozen=True)
class _Sweep:
    """A propagation."""

    target: Target
    direction: Direction
    cues: tuple[Cue, ...]
    stop: Stop
    fade: float | None


@dataclass(frozen=True, eq=False)
class _State:
    """All that a session knows; never changed, only replaced."""

    steps: tuple[_Round | _Sweep, ...] = ()
    said: Mapping[At, FramePrompts] = field(default_factory=dict)
    answers: Mapping[At, Answer] = field(default_factory=dict)
    spans: Mapping[Target, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    """First and last slice of every 3D box."""

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return tuple(prompt for step in self.steps if isinstance(step, _Round) for prompt in step.prompts)


@dataclass(eq=False)
class _Opened:
    """A volume, ready for the model."""

    volume: Volume
    placement: Placement
    frame: FrameMap
    embeddings: Embeddings
    grounds: dict[tuple[int, frozenset[int]], Integer[np.ndarray, "height width"]] = field(default_factory=dict)
    """Prompt-free answers by slice and by the classes that are taken out of them."""

    @property
    def slices(self) -> int:
        return self.embeddings.slices


class Session:
    """Prompts in, label map out, for one volume after the other.

    Args:
        predictor: a model that was trained with prompts.
        base: what the label map is where nothing was prompted.
        outside: where a class with 3D boxes may lie outside their slices.
        overlap: which object gets a voxel that several masks claim.
        memory: bytes of image features in main memory.
        folder: where image features are kept beyond this session; None: nowhere.
        disk: bytes of image features in the folder.
        half: keep image features in half precision: half the bytes, and answers from features that are off by about
            2e-4 of their size. False keeps them as they are.

    Raises:
        ConfigError: the model was trained without prompts, or with prompts only and the base is its prompt-free answer.
    """

    def __init__(
        self,
        predictor: "Predictor",
        *,
        base: Base = "background",
        outside: Outside = "nothing",
        overlap: Overlap = "score",
        memory: int = MEMORY,
        folder: Path | None = None,
        disk: int = DISK,
        half: bool = False,
    ) -> None:
        check_learnt(predictor.bundle.description.prompts, base)
        self.predictor = predictor
        self.base: Base = base
        self.outside: Outside = outside
        self.overlap: Overlap = overlap
        self._memory, self._folder, self._disk, self._half = memory, folder, disk, half
        self._image: _Opened | None = None
        self._done = [_State()]
        self._undone: list[_State] = []

    @property
    def labels(self) -> Labels:
        """The structures that the model knows."""
        return self.predictor.bundle.labels

    @property
    def volume(self) -> Volume:
        """The volume that is open.

        Raises:
            InputError: none is.
        """
        return self._opened.volume

    @property
    def prompts(self) -> Prompts:
        """All prompts in the order in which they came."""
        return Prompts(self._state.prompts)

    @property
    def quality(self) -> dict[Target, float]:
        """For each object the mean, over its slices, of the IoU that the model expects of its masks.

        Raises:
            ConfigError: the model's quality head was not trained, so what it says means nothing.
        """
        if not self.predictor.bundle.description.prompts.quality:
            raise ConfigError("this model's quality head was not trained: train with prompts.quality above 0")
        said: dict[Target, list[float]] = {}
        for (target, _), answer in self._state.answers.items():
            if answer.quality is not None:
                said.setdefault(target, []).append(answer.quality)
        return {target: float(np.mean(values)) for target, values in said.items()}

    def set_image(self, image: Image) -> None:
        """Opens a volume; prompts and steps of the one before are forgotten.

        Raises:
            FormatError, GeometryError: a file cannot be read.
            InputError: VAL-06, the volume has another number of channels than the model takes.
        """
        predictor = self.predictor
        volume = image if isinstance(image, Volume) else _read(image, len(predictor.bundle.description.channels))
        predictor.check(volume)
        placement = predictor.plan.placement(volume.grid)
        data = placement.bring(volume.data)
        scale = predictor.bundle.description.intensity.measure(data)
        store = None
        if self._folder is not None:
            name = key(volume, predictor.bundle, predictor.plan, predictor.arithmetic, half=self._half)
            store = Store(self._folder, name, self._disk)
        embeddings = Embeddings(
            data,
            predictor.plan,
            scale,
            predictor.encode,
            batch=predictor.batch,
            memory=self._memory,
            store=store,
            half=self._half,
        )
        self._image = _Opened(volume, placement, predictor.plan.frame((data.shape[2], data.shape[1])), embeddings)
        self.reset_interactions()

    def add_point_interaction(
        self, at: Vector, label: str, inside: bool = True, *, space: Space = "voxel", instance: int = 1
    ) -> int:
        """A click on an object, or beside it.

        Args:
            at: where.
            label: name of the structure.
            inside: whether the object is there.
            space: what the coordinates are.
            instance: which object of that structure.

        Returns:
            Number of the prompt, as ``remove`` takes it.

        Raises:
            PromptError, ConfigError: as for :meth:`add`.
        """
        return self.add(Point(at, Target(label, instance), inside, space))

    def add_bbox_interaction(
        self, low: Vector, high: Vector, label: str, *, space: Space = "voxel", instance: int = 1
    ) -> int:
        """A box around an object: on one slice, or on several (a 3D box: its rectangle on each of them).

        Args:
            low: first corner; in voxels the first voxel inside.
            high: opposite corner; in voxels the first one beyond.
            label: name of the structure.
            space: what the coordinates are.
            instance: which object of that structure.

        Returns:
            Number of the prompt, as ``remove`` takes it.

        Raises:
            PromptError, ConfigError: as for :meth:`add`.
        """
        return self.add(Box(low, high, Target(label, instance), space))

    def add_scribble_interaction(
        self, points: Iterable[Vector], label: str, inside: bool = True, *, space: Space = "voxel", instance: int = 1
    ) -> int:
        """A line through an object, or beside it.

        Args:
            points: the corners of the line.
            label: name of the structure.
            inside: whether the object is there.
            space: what the coordinates are.
            instance: which object of that structure.

        Returns:
            Number of the prompt, as ``remove`` takes it.

        Raises:
            PromptError, ConfigError: as for :meth:`add`.
        """
        return self.add(Scribble(tuple(points), Target(label, instance), inside, space))

    def add_initial_seg(self, mask: Bool[np.ndarray, "i j k"], label: str, *, instance: int = 1) -> int:
        """A mask to begin with, on the voxels of the volume; it stays as it is until a prompt corrects it.

        Args:
            mask: True on the object; slices without any True say nothing.
            label: name of the structure.
            instance: which object of that structure.

        Returns:
            Number of the prompt, as ``remove`` takes it.

        Raises:
            PromptError, ConfigError: as for :meth:`add`.
        """
        return self.add(Mask(mask, Target(label, instance)))

    def add(self, *prompts: Prompt, progress: Progress | None = None) -> int:
        """One round of prompts: the model is asked once about every object and slice that they touch.

        Args:
            prompts: at least one.
            progress: told after every decoder pass: (slices done, slices in all).

        Returns:
            Number of the last one, as ``remove`` takes it.

        Raises:
            PromptError: a prompt cannot be placed; the session stays as it was.
            ConfigError: the model was not trained with prompts of this kind.
            InputError: no volume is open, or there is no prompt.
        """
        if not prompts:
            raise InputError("a round needs at least one prompt, but none came")
        self._do(self._played(self._state, _Round(prompts), progress))
        return len(self._state.prompts)

    def propagate(
        self,
        label: str,
        direction: Direction = "both",
        *,
        instance: int = 1,
        stop: Stop | None = None,
        cues: Sequence[Cue] | None = None,
        fade: float | None = FADE,
        progress: Progress | None = None,
    ) -> int:
        """Carries an object from the slices that were prompted to their neighbours, and on, until it ends.

        What was prompted is never overwritten. Until the last slice is known the session stays as it was, so an
        interruption does no harm.

        Args:
            label: name of the structure.
            direction: towards higher slice numbers (later frames), lower ones, or both.
            instance: which object of that structure.
            stop: when the object has ended; None: a twentieth of the starting area.
            cues: what a slice is told of the one before; None: of its mask and its box what the model was trained
                with, else its deepest point.
            fade: over the base ``free``, slices from the starting point after which the model's prompt-free answer
                counts as much as the carried mask, so that an error is not carried on for ever; None: it never counts.
                Where several objects of a structure are prompted it never does, as it does not tell them apart.
            progress: told after every slice: (slices done, slices that can be reached).

        Returns:
            Slices that were reached.

        Raises:
            InputError: no volume is open, or no prompted slice shows the object.
            ConfigError: the model was not trained with such prompts, or ``fade`` is not above 0.
        """
        return self.propagate_all(
            [Target(label, instance)], direction, stop=stop, cues=cues, fade=fade, progress=progress
        )

    def propagate_all(
        self,
        targets: Sequence[Target],
        direction: Direction = "both",
        *,
        stop: Stop | None = None,
        cues: Sequence[Cue] | None = None,
        fade: float | None = FADE,
        progress: Progress | None = None,
    ) -> int:
        """Carries several objects at once, each as :meth:`propagate` does; the model is asked about them together.

        It is one step: ``undo`` takes all of it back.

        Args:
            targets: the objects, at least one.
            direction: as for :meth:`propagate`, and so are the others.
            stop: when an object has ended.
            cues: what a slice is told of the one before.
            fade: when the prompt-free answer counts as much as the carried mask.
            progress: told after every slice.

        Returns:
            Slices that were reached, over all objects.

        Raises:
            InputError: no object is named, or as for :meth:`propagate`.
            ConfigError: as for :meth:`propagate`.
        """
        if not targets:
            raise InputError("name at least one object to propagate")
        if fade is not None and not fade > 0:
            raise ConfigError(f"fade: a number of slices above 0, not {fade}")
        told = self._cues(cues)
        sweeps = [_Sweep(target, direction, told, stop or Stop(), fade) for target in dict.fromkeys(targets)]
        state = self._swept(self._state, sweeps, progress)
        self._do(state)
        return sum(target in targets and not answer.asked for (target, _), answer in state.answers.items())

    def remove(self, number: int) -> None:
        """Takes a prompt back; its object is worked out anew from the other steps. Can be undone.

        Args:
            number: 1 for the first prompt.

        Raises:
            InputError: there is no such prompt.
        """
        prompts = self._state.prompts
        if not 1 <= number <= len(prompts):
            raise InputError(f"there are {len(prompts)} prompts, numbered from 1, but {number} was to be removed")
        gone = prompts[number - 1].target
        steps = _without(self._state.steps, number)
        state = replace(
            _State(),
            said={at: said for at, said in self._state.said.items() if at[0] != gone},
            answers={at: answer for at, answer in self._state.answers.items() if at[0] != gone},
            spans={target: spans for target, spans in self._state.spans.items() if target != gone},
        )
        kept: list[_Round | _Sweep] = []
        for step in steps:
            own = _of(step, gone)
            if isinstance(own, _Sweep) and not self._starts(state, gone):
                continue
            kept.append(step)
            if own is not None:
                state = self._played(state, own, None)
        self._do(replace(state, steps=tuple(kept)))

    def undo(self) -> bool:
        """Takes the last step back: a round, a propagation, a removal. False where there is none."""
        if len(self._done) == 1:
            return False
        self._undone.append(self._done.pop())
        return True

    def redo(self) -> bool:
        """Brings back what was undone last. False where there is nothing, or something else was done since."""
        if not self._undone:
            return False
        self._done.append(self._undone.pop())
        return True

    def reset_interactions(self) -> None:
        """Forgets all prompts and steps; the volume and its features stay."""
        self._done, self._undone = [_State()], []

    def result(self, progress: Progress | None = None) -> Prediction:
        """The label map of all objects, in the volume's lattice.

        Args:
            progress: told about the slices whose prompt-free answer is computed.

        Raises:
            InputError: no volume is open.
        """
        values = self.labels.from_classes(self._opened.placement.restore(self._composed(progress)[0]))
        volume = self.volume
        return Prediction(
            LabelMap(values, volume.grid, self.labels, volume.source, self.predictor.bundle.author), volume
        )

    def instances(self) -> Integer[np.ndarray, "i j k"]:
        """For each voxel of a prompted object its number within its structure; 0 elsewhere.

        Raises:
            InputError: no volume is open.
        """
        return self._opened.placement.restore(self._composed(None)[1])

    def save_prompts(self, path: str | Path) -> None:
        """Writes all prompts; ``voxelsam prompt -p`` and :meth:`load_prompts` read them.

        Raises:
            InputError: no volume is open.
            OutputError: the file cannot be written.
        """
        file.write(Path(path), self.prompts, str(self.volume.source or ""), self.volume.grid)

    def load_prompts(self, path: str | Path, progress: Progress | None = None) -> int:
        """Adds the prompts of a file about one scan, all in one round.

        Returns:
            Number of the last one, as ``remove`` takes it.

        Raises:
            PromptError: the file is not valid, or is about another volume.
            ConfigError, InputError: as for :meth:`add`.
        """
        source = self.volume.source
        image = None if source is None else str(source)
        found = file.read(Path(path), self.volume.grid, image=image, read_mask=read_labels)
        return self.add(*found.items, progress=progress)

    @property
    def _state(self) -> _State:
        return self._done[-1]

    @property
    def _opened(self) -> _Opened:
        if self._image is None:
            raise InputError("no volume is open: call set_image first")
        return self._image

    def _do(self, state: _State) -> None:
        self._done = [*self._done, state][-STEPS - 1 :]
        self._undone = []

    def _played(self, state: _State, step: _Round | _Sweep, progress: Progress | None) -> _State:
        """The state after one more step."""
        return self._asked(state, step, progress) if isinstance(step, _Round) else self._swept(state, [step], progress)

    def _asked(self, state: _State, step: _Round, progress: Progress | None) -> _State:
        image, plan = self._opened, self.predictor.plan
        Prompts((*state.prompts, *step.prompts)).check(image.volume.grid, self.labels)
        placed = place(Prompts(step.prompts), image.volume.grid, plan, self.labels)
        self._refuse_untrained(state, placed)
        said, found = dict(state.said), dict(state.answers)
        found.update(self._drawn(step.prompts, placed))
        earlier: dict[At, Tensor] = {}
        asked: dict[At, FramePrompts] = {}
        for target, slices in placed.frames.items():
            for number, new in slices.items():
                at = target, number
                said[at] = _joined(said.get(at), new)
                if new.mask is None and at in found:
                    earlier[at] = found[at].logits
                if new.mask is None or new.box is not None or len(new.points):
                    asked[at] = said[at]
        if self.base == "free":
            earlier |= self._of_base({at: prompts for at, prompts in asked.items() if at not in found})
        questions = {at: self._question(at, prompts, earlier.get(at)) for at, prompts in asked.items()}
        boxed = self._boxed(state, placed, asked, earlier)
        for at, free in zip(boxed, self._free(boxed), strict=True):
            prior = prompted.Prior(self._within(free, asked[at].box), BOX_SHARE)
            questions[at] = replace(questions[at], prior=prior)
        answers = self._answers(list(questions.values()), progress)
        found.update(zip(questions, answers, strict=True))
        spans = dict(state.spans)
        for target, span in placed.spans.items():
            spans[target] = (*spans.get(target, ()), span)
        return _State((*state.steps, step), said, found, spans)

    def _swept(self, state: _State, steps: Sequence[_Sweep], progress: Progress | None) -> _State:
        found, frame = dict(state.answers), self._opened.frame
        routes: list[tuple[_Sweep, Carried]] = []
        for step in steps:
            own = self._carried(state, step)
            routes += [(step, one) for one in own]
            for number in (number for one in own for number in one.route):
                found.pop((step.target, number), None)
        done, total = [0] * len(routes), sum(len(one.route) for _, one in routes)

        def ask(asked: Sequence[Asked]) -> list[Answer]:
            return self._carried_on(state, [(routes[one.of][0], one) for one in asked])

        for asked, answer in propagate.sweep(ask, [one for _, one in routes], frame):
            step, carried = routes[asked.of]
            done[asked.of] = asked.distance if answer is not None else len(carried.route)
            if answer is not None:
                found[step.target, asked.slice] = answer
            if progress:
                progress(sum(done), total)
        return replace(state, steps=(*state.steps, *steps), answers=found)

    def _carried(self, state: _State, step: _Sweep) -> list[Carried]:
        """The ways that an object takes from the slices that were prompted."""
        target = step.target
        starts = self._starts(state, target)
        if not starts:
            raise InputError(
                f"there is no mask of {target.label} {target.instance} to begin with: prompt it on a slice first"
            )
        fixed = {number for (one, number), answer in state.answers.items() if one == target and answer.asked}
        routes = propagate.routes(starts, fixed, self._opened.slices, step.direction, step.stop.slices)
        return [Carried(state.answers[target, start], route, step.cues, step.stop) for start, route in routes]

    def _carried_on(self, state: _State, asked: Sequence[tuple[_Sweep, Asked]]) -> list[Answer]:
        """The answers about the next slices of some objects."""
        faded = [
            place for place, (step, _) in enumerate(asked) if step.fade is not None and self._fades(state, step.target)
        ]
        free = self._free([(asked[place][0].target, asked[place][1].slice) for place in faded])
        priors = {
            place: prompted.Prior(logits, propagate.prior_share(one.distance, step.fade))
            for place, logits, (step, one) in zip(faded, free, (asked[place] for place in faded), strict=True)
            if step.fade is not None
        }
        questions = [
            Question(one.slice, self._class_of(step.target), one.prompts, one.earlier, priors.get(place))
            for place, (step, one) in enumerate(asked)
        ]
        return [replace(answer, asked=False) for answer in self._answers(questions)]

    def _fades(self, state: _State, target: Target) -> bool:
        """Whether the prompt-free answer may count: it does not tell objects of a structure apart."""
        return self.base == "free" and all(
            one.instance == target.instance for one, _ in state.answers if one.label == target.label
        )

    def _boxed(
        self,
        state: _State,
        placed: Placed,
        asked: Mapping[At, FramePrompts],
        earlier: Mapping[At, Tensor],
    ) -> list[At]:
        """Slices of 3D boxes on which the prompt-free answer counts as well.

        That is over the base ``free``, where nothing else was said about an object and it is the only one of its
        structure.
        """
        if self.base != "free":
            return []
        targets = {*(target for target, _ in state.answers), *placed.frames}
        alone = {target for target in targets if sum(other.label == target.label for other in targets) == 1}
        return [
            at
            for at, said in asked.items()
            if at[0] in placed.spans and at[0] in alone and at not in earlier and not len(said.points)
        ]

    def _free(self, wanted: Sequence[At]) -> list[Float[Tensor, "height width"]]:
        """Logits of the prompt-free answer about objects on slices; each slice is decoded once, some at a time."""
        slices = sorted({number for _, number in wanted})
        found: dict[At, Tensor] = {}
        for begin in range(0, len(slices), prompted.PASS):
            some = slices[begin : begin + prompted.PASS]
            logits = self.predictor.decode(self._opened.embeddings(some)).logits
            for at in (at for at in wanted if at[1] in some):
                one = logits[some.index(at[1])]
                found[at] = one[self._class_of(at[0])] - one[0]
        return [found[at] for at in wanted]

    def _within(
        self, logits: Float[Tensor, "height width"], box: tuple[float, float, float, float] | None
    ) -> Float[Tensor, "height width"]:
        """Logits that say no object outside of a box in model pixels."""
        if box is None:
            return logits
        (height, width), (rows, columns) = logits.shape, self.predictor.plan.size
        y = (torch.arange(height, device=logits.device) + 0.5) * rows / height
        x = (torch.arange(width, device=logits.device) + 0.5) * columns / width
        inside = ((box[1] <= y) & (y <= box[3]))[:, None] & ((box[0] <= x) & (x <= box[2]))
        return torch.where(inside, logits, logits.clamp(max=-SURE))

    def _starts(self, state: _State, target: Target) -> set[int]:
        """Slices on which the user's prompts show an object."""
        return {
            number
            for (one, number), answer in state.answers.items()
            if one == target and answer.asked and answer.patch.area
        }

    def _cues(self, cues: Sequence[Cue] | None) -> tuple[Cue, ...]:
        kinds = self.predictor.bundle.description.prompts.kinds
        trained: dict[Cue, bool] = {
            "mask": "mask" in kinds,
            "box": "box" in kinds or "cuboid" in kinds,
            "click": "point" in kinds,
        }
        if cues is None:
            chosen: list[Cue] = [name for name in ("mask", "box") if trained[name]]
            return tuple(chosen) or ("click",)
        if not cues or not set(cues) <= trained.keys():
            raise ConfigError(f"cues are some of {', '.join(trained)}, not {cues}")
        if not any(trained[name] for name in cues):
            raise ConfigError(f"this model was trained with {', '.join(kinds)} prompts; it cannot go by {cues} alone")
        return tuple(cues)

    def _refuse_untrained(self, state: _State, placed: Placed) -> None:
        """Refuses prompts of kinds that training never gave; clicks that correct a mask or a box are always taken."""
        kinds = self.predictor.bundle.description.prompts.kinds
        for target, slices in placed.frames.items():
            wanted = set()
            for number, new in slices.items():
                known = (target, number) in state.answers or new.mask is not None
                if new.box is not None:
                    wanted.add("cuboid" if target in placed.spans else "box")
                elif len(new.points) and not known:
                    wanted.add("point")
            if "cuboid" in kinds:
                wanted.discard("box")
            if "correction" in kinds and self.base == "free":
                wanted.discard("point")
            if self._opened.slices == 1 and "box" in kinds:
                wanted.discard("cuboid")
            if missing := sorted(wanted - set(kinds)):
                raise ConfigError(
                    f"{target.label} {target.instance}: this model was trained with {', '.join(kinds)} prompts, not "
                    f"with {', '.join(missing)}: prompt it with those, or train with prompts.kinds that hold these"
                )

    def _of_base(self, asked: Mapping[At, FramePrompts]) -> Iterator[tuple[At, Tensor]]:
        """Logits of the prompt-free answer for objects whose first prompts on a slice are clicks.

        They correct it if the model has learnt corrections; and in any case where they only say where the object is
        not.
        """
        learnt = "correction" in self.predictor.bundle.description.prompts.kinds
        clicked = [
            at
            for at, said in asked.items()
            if said.box is None and said.mask is None and (learnt or not said.inside.any())
        ]
        for at, logits in zip(clicked, self._free(clicked), strict=True):
            yield at, shrunk(logits[None].cpu(), self.predictor.segmenter.mask_size)[0]

    def _question(self, at: At, said: FramePrompts, earlier: Tensor | None) -> Question:
        prompts = said if earlier is None else replace(said, mask=None)
        return Question(at[1], self._class_of(at[0]), prompts, earlier)

    def _answers(self, questions: Sequence[Question], progress: Progress | None = None) -> list[Answer]:
        image = self._opened
        return prompted.answers(
            self.predictor.decode,
            image.embeddings,
            questions,
            image.frame,
            self.predictor.segmenter.mask_size,
            progress,
        )

    def _drawn(self, prompts: Iterable[Prompt], placed: Placed) -> Iterator[tuple[At, Answer]]:
        """The drawn masks as answers: exactly as drawn, also where the model's picture is too coarse for them."""
        drawn: dict[Target, list[Bool[np.ndarray, "i j k"]]] = {}
        for prompt in prompts:
            if isinstance(prompt, Mask):
                drawn.setdefault(prompt.target, []).append(prompt.data)
        for target, masks in drawn.items():
            brought = self._opened.placement.bring_labels(np.logical_or.reduce(masks).astype(np.uint8))
            for number in np.flatnonzero(brought.any((0, 1))).tolist():
                new = placed.frames[target].get(number)
                seen = np.zeros(self.predictor.plan.size, bool) if new is None or new.mask is None else new.mask
                logits = SURE * (2.0 * torch.tensor(seen).float() - 1.0)
                small = shrunk(logits[None], self.predictor.segmenter.mask_size)[0]
                yield (target, number), prompted.drawn(brought[:, :, number].T > 0, small)

    def _class_of(self, target: Target) -> int:
        return 1 + self.labels.names.index(target.label)

    def _composed(self, progress: Progress | None) -> tuple[Integer[np.ndarray, "i j k"], UInt16[np.ndarray, "i j k"]]:
        """Classes and instance numbers on the canonical grid."""
        image, state = self._opened, self._state
        claims = self._claims(state)
        cleared = [self._cleared(number, claims.get(number, ())) for number in range(image.slices)]
        shape = image.placement.target.shape
        classes = np.zeros(shape, np.uint8 if self.labels.count <= 256 else np.uint16)
        instances = np.zeros(shape, np.uint16)
        if self.base == "free":
            self._compute_grounds(cleared, progress)
        for number in range(image.slices) if self.base == "free" else sorted(claims):
            below = image.grounds.get((number, cleared[number]))
            if below is None:
                below = classes[:, :, number].T
            done = prompted.compose(below, claims.get(number, ()), self.overlap)
            classes[:, :, number], instances[:, :, number] = done[0].T, done[1].T
        return classes, instances

    def _claims(self, state: _State) -> dict[int, list[Claim]]:
        """The masks of each slice that has any answer, empty ones too."""
        turns = {prompt.target: turn for turn, prompt in enumerate(state.prompts)}
        claims: dict[int, list[Claim]] = {}
        for (target, number), answer in state.answers.items():
            claim = Claim(self._class_of(target), target.instance, turns[target], answer.patch)
            claims.setdefault(number, []).append(claim)
        return claims

    def _cleared(self, number: int, claims: Iterable[Claim]) -> frozenset[int]:
        """Classes that the base does not decide on a slice: those prompted there, and those boxed elsewhere only."""
        classes = {claim.class_ for claim in claims}
        if self.outside == "nothing":
            boxed: dict[int, list[tuple[int, int]]] = {}
            for target, spans in self._state.spans.items():
                boxed.setdefault(self._class_of(target), []).extend(spans)
            classes |= {
                class_ for class_, spans in boxed.items() if not any(low <= number <= high for low, high in spans)
            }
        return frozenset(classes)

    def _compute_grounds(self, cleared: Sequence[frozenset[int]], progress: Progress | None) -> None:
        """The prompt-free answers that are missing, for all slices at once."""
        image = self._opened
        missing = [number for number, gone in enumerate(cleared) if (number, gone) not in image.grounds]
        for begin in range(0, len(missing), prompted.PASS):
            some = missing[begin : begin + prompted.PASS]
            logits = self.predictor.decode(image.embeddings(some)).logits
            for number, probabilities in zip(some, scores_to_slice(logits.softmax(1), image.frame), strict=True):
                found = prompted.ground(probabilities, sorted(cleared[number]))
                image.grounds[number, cleared[number]] = found
            if progress:
                progress(begin + len(some), len(missing))


def check_learnt(prompts: PromptsLearnt, base: Base) -> None:
    """Refuses a model that cannot be asked like this.

    Args:
        prompts: what it has learnt.
        base: what the label map is where nothing was prompted.

    Raises:
        ConfigError: it was trained without prompts, or with prompts only and the base is its prompt-free answer.
    """
    if not prompts.kinds:
        raise ConfigError(
            "this model was trained without prompts and cannot answer them: use `voxelsam predict`, or train a model "
            "with the recipe's prompts section (prompts.free below 1)"
        )
    if base == "free" and not prompts.free:
        raise ConfigError(
            "this model was trained with prompts only, so it has no prompt-free answer to begin with: take the base "
            "background, or train with prompts.free above 0"
        )


def _read(image: str | Path | Sequence[str | Path], channels: int) -> Volume:
    return read_channels([image] if isinstance(image, str | Path) else image, channels)


def _joined(old: FramePrompts | None, new: FramePrompts) -> FramePrompts:
    """What was said about an object on a slice, with what is said now: a mask begins anew, a box replaces a box."""
    if old is None or new.mask is not None:
        return new
    points, inside = np.concatenate([old.points, new.points]), np.concatenate([old.inside, new.inside])
    return FramePrompts(points, inside, new.box or old.box, old.mask)


def _without(steps: Iterable[_Round | _Sweep], number: int) -> list[_Round | _Sweep]:
    """Steps without the prompt of that number, counted from 1; a round that is left empty goes too."""
    left: list[_Round | _Sweep] = []
    for step in steps:
        if isinstance(step, _Round):
            prompts = step.prompts
            place_, number = number - 1, number - len(prompts)
            if 0 <= place_ < len(prompts):
                prompts = prompts[:place_] + prompts[place_ + 1 :]
            step = _Round(prompts)
            if not prompts:
                continue
        left.append(step)
    return left


def _of(step: _Round | _Sweep, target: Target) -> _Round | _Sweep | None:
    """The part of a step that is about one object."""
    if isinstance(step, _Sweep):
        return step if step.target == target else None
    own = tuple(prompt for prompt in step.prompts if prompt.target == target)
    return _Round(own) if own else None
