"""The prompts of one scan or of a cohort, and the masks made of them."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from voxelsam.errors import InputError, VoxelSamError
from voxelsam.formats import read_labels
from voxelsam.infer.cases import Task
from voxelsam.infer.cohort import Outcome, Segment
from voxelsam.infer.prediction import Prediction, Progress
from voxelsam.infer.session import Session
from voxelsam.prompts.file import PromptFile, box_of, point_of
from voxelsam.prompts.prompt import Prompts, Space
from voxelsam.space import Grid
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.volume import Volume


@dataclass(frozen=True)
class Request:
    """What a user asks for on the command line."""

    file: PromptFile | None = None
    """Prompts of one scan or of a cohort."""
    points: tuple[str, ...] = ()
    """``x,y,z[,label]``; these and the following ones are for one scan."""
    beside: tuple[str, ...] = ()
    """Points where the object is not."""
    boxes: tuple[str, ...] = ()
    """``x0,y0,z0,x1,y1,z1[,label]``"""
    space: Space = "voxel"
    """What the coordinates of these are."""
    propagate: tuple[str, ...] = ()
    """Structures to carry to further slices."""

    def check(self, todo: Sequence[Task], labels: Labels) -> None:
        """Refuses what no scan could answer.

        Raises:
            InputError: there is no prompt, prompts of one scan are given for several, or a structure is unknown.
        """
        single = bool(self.points or self.beside or self.boxes)
        if self.file is None and not single:
            raise InputError("there is no prompt: give a file with -p, or --point and --box")
        if len(todo) > 1 and (single or (self.file is not None and not self.file.cases)):
            given = "--point, --beside and --box are" if single else f"{self.file and self.file.path} is"
            raise InputError(
                f"{given} for one scan, but there are {len(todo)}: give a file of several cases with -p, or one scan"
            )
        if unknown := [label for label in self.propagate if label not in labels.names]:
            raise InputError(
                f"--propagate: this model knows no {', '.join(unknown)}; it knows {', '.join(labels.names)}"
            )

    @property
    def digest(self) -> str:
        """SHA-256 of all of it, so that masks of other prompts are told apart."""
        content = b"" if self.file is None else self.file.path.read_bytes()
        rest = self.points, self.beside, self.boxes, self.space, self.propagate
        return hashlib.sha256(content + repr(rest).encode()).hexdigest()

    def prompts(self, task: Task, grid: Grid, labels: Labels) -> Prompts:
        """The prompts of one case: first those of the file.

        Raises:
            PromptError: the file is about another scan or says nothing about the case, or a text is no prompt.
        """
        read = Prompts()
        if self.file is not None:
            image = ", ".join(path.name for path in task.images)
            case = task.id if self.file.cases else ""
            read = self.file.prompts(grid, case=case, image=image, read_mask=read_labels)
        space = self.space
        return read.add(
            *(point_of(text, labels, grid, space=space) for text in self.points),
            *(point_of(text, labels, grid, space=space, inside=False) for text in self.beside),
            *(box_of(text, labels, grid, space=space) for text in self.boxes),
        )


def segmenting(session: Session, request: Request) -> Segment:
    """How to segment a case by its prompts.

    Args:
        session: with the model and the rules.
        request: what to prompt.
    """

    def segment(task: Task, volume: Volume, progress: Progress | None) -> Prediction:
        session.set_image(volume)
        session.add(*request.prompts(task, volume.grid, session.labels).items, progress=progress)
        carried = [target for target in session.prompts.targets if target.label in request.propagate]
        if carried:
            session.propagate_all(carried, progress=progress)
        return session.result(progress)

    return segment


def planned(todo: Iterable[Task], request: Request, channels: int, labels: Labels) -> Iterator[Outcome]:
    """Reads every scan and checks its prompts, and writes nothing."""
    for task in todo:
        try:
            grid = task.read(channels).grid
            request.prompts(task, grid, labels).check(grid, labels)
        except (VoxelSamError, OSError) as error:
            code = error.code if isinstance(error, VoxelSamError) else ""
            yield Outcome(task.id, task.output, "failed", str(error), code)
        else:
            yield Outcome(task.id, task.output, "planned")
