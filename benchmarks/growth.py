"""How time and memory grow with the work: slices of a scan, pixels of a picture, structures, prompted objects.

    python benchmarks/growth.py              # measures, writes growth.json and docs/pictures/growth.png
    python benchmarks/growth.py --draw       # draws what growth.json holds

Random weights, one thread, processor time; medians of turns (A B A B). Slices are counted on the tiny backbone, each
number in a process of its own, whose peak memory is read; the rest is measured on SAM ViT-B.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import measure
import models
import torch
from models import MA_SAM, SAM, Shelf, Wanted, predictor

from voxelsam.backbones import VARIANTS

DATA = Path(__file__).with_name("growth.json")
PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "growth.png"
SLICE_SIZE = 256
"""Pixels of the scans that get longer."""

STEEP = 4.0
"""Growth beyond which a logarithmic axis shows more."""


@dataclass(frozen=True)
class Point:
    """What one amount of work took."""

    at: float
    seconds: float
    memory: float | None = None
    ideal: float = 1.0
    """The work, in any unit: time in proportion to it is what can be hoped for."""


@dataclass(frozen=True)
class Fact:
    """A statement about a curve; smaller is better."""

    words: str
    value: float
    unit: str
    bar: float
    steady: bool = True
    """Whether a later run is compared with it."""


@dataclass
class Curve:
    """Points along one kind of work."""

    axis: str
    points: list[Point]
    bars: dict[str, float] = field(default_factory=dict)
    """What is aimed at: ``time`` as a factor, ``proportion`` of the time to the work, ``memory`` in MB per slice."""

    def facts(self) -> list[Fact]:
        """What the ends of the curve say beside what is aimed at."""
        first, last = self.points[0], self.points[-1]
        ends = f"{first.at:g} to {last.at:g} {self.axis}"
        told = []
        if "time" in self.bars:
            told.append(Fact(f"time from {ends}", last.seconds / first.seconds, "×", self.bars["time"]))
        if "proportion" in self.bars:
            factor = (last.seconds / first.seconds) / (last.ideal / first.ideal)
            told.append(Fact(f"time over work from {ends}", factor, "×", self.bars["proportion"]))
        if "memory" in self.bars and first.memory is not None and last.memory is not None:
            each = (last.memory - first.memory) / (last.at - first.at) / 1e6
            told.append(Fact("memory per slice beside scan and result", each, "MB", self.bars["memory"], steady=False))
        return told


def slices(shelf: Shelf, *, small: bool, rounds: int, ends: bool) -> Curve:
    """A longer scan, every slice encoded once; memory is what is held beside the scan and its labels."""
    counts = (5, 10) if small else (60, 600) if ends else (30, 60, 120, 240, 600)
    size = SLICE_SIZE // 4 if small else SLICE_SIZE
    points = []
    for count in counts:
        told = json.loads(measure.child([__file__, "--scan", str(count), str(size)]).output)
        held = count * size**2 * 3  # int16 in, uint8 out
        memory = None if told["memory"] is None else told["memory"] - held
        points.append(Point(count, told["seconds"], memory, ideal=-(-count // 5)))
    return Curve("slices", points, {"proportion": 1.15, "memory": 0.1})


def scanned(count: int, size: int) -> dict[str, Any]:
    """Seconds and growth of memory of one prediction, in the process that is there for it."""
    torch.set_num_threads(1)
    method = MA_SAM | {"rank": 4, "width": 16}
    wanted = Wanted("sam-tiny", (size, size), method, stride=5)
    ready = predictor(Shelf(Path()), wanted)
    ready(models.scan(wanted.size, 5))
    base = measure.begin("cpu")
    scan = models.scan(wanted.size, count)
    start = measure.clock("cpu")
    ready(scan)
    seconds, most = measure.clock("cpu") - start, measure.peak("cpu")
    return {"seconds": seconds, "memory": None if base is None or most is None else most - base}


def pixels(shelf: Shelf, *, small: bool, rounds: int, ends: bool) -> Curve:
    """A larger picture through the image encoder of SAM."""
    variant = "sam-tiny" if small else "sam-vit-b"
    sizes = (32, 64) if small else (256, 512, 1024) if ends else (256, 384, 512, 768, 1024)
    ways = {}
    for size in sizes:
        wanted = Wanted(variant, (size, size), SAM, 2, 1)
        ways[size] = encoding(predictor(shelf, wanted), models.stacks(wanted.size, 1))
    taken = measure.in_turn(ways, rounds)
    work = {size: models.encoder_flops(VARIANTS[variant], (size, size)) for size in sizes}
    points = [Point(size, taken[size].time, taken[size].memory, work[size]) for size in sizes]
    return Curve("pixels per side", points, {"proportion": 1.15})


def classes(shelf: Shelf, *, small: bool, rounds: int, ends: bool) -> Curve:
    """More structures from one stack, all of it: encoder, decoder, soft-max, labels."""
    variant, size = ("sam-tiny", 32) if small else ("sam-vit-b", 256)
    counts = (12, 117) if ends or small else (1, 12, 25, 50, 117)
    scan = models.scan((size, size), 5)
    ways = {}
    for count in counts:
        ready = predictor(shelf, Wanted(variant, (size, size), MA_SAM, 1 + count, stride=5))
        ways[count] = lambda ready=ready: ready(scan)
    taken = measure.in_turn(ways, rounds)
    points = [Point(count, taken[count].time, taken[count].memory) for count in counts]
    return Curve("structures", points, {"time": 1.2})


def objects(shelf: Shelf, *, small: bool, rounds: int, ends: bool) -> Curve:
    """More objects clicked on one slice whose features are kept, in one round."""
    from voxelsam.prompts.prompt import Point as Click
    from voxelsam.prompts.prompt import Target

    variant, size = ("sam-tiny", 32) if small else ("sam-vit-b", 256)
    counts = (1, 4) if small else (1, 32) if ends else (1, 2, 4, 8, 16, 32)
    session = predictor(shelf, Wanted(variant, (size, size), SAM, 2, 1)).open(models.scan((size, size), 1))
    session.add(Click((size / 2, size / 2, 0), Target("structure_1")))

    def ask(count: int) -> None:
        session.reset_interactions()
        places = [(size * (0.1 + 0.8 * number / count), size / 2, 0) for number in range(count)]
        session.add(*(Click(at, Target("structure_1", 1 + number)) for number, at in enumerate(places)))

    taken = measure.in_turn({count: lambda count=count: ask(count) for count in counts}, rounds)
    points = [Point(count, taken[count].time, taken[count].memory, count) for count in counts]
    return Curve("objects", points, {"proportion": 1.15})


CURVES: dict[str, Callable[..., Curve]] = {
    "slices": slices, "image size": pixels, "structures": classes, "prompted objects": objects,
}  # fmt: skip


def encoding(ready: Any, images: torch.Tensor) -> Callable[[], torch.Tensor]:
    return lambda: ready.encode(images)


def draw(told: dict[str, Any], path: Path) -> None:
    """One panel per curve: time with the dotted line of the work, and memory where it was read.

    Times that grow more than ``STEEP`` times stand on a logarithmic axis, others on one from zero.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    figure, panels = plt.subplots(2, 4, figsize=(12, 5.2), layout="constrained")
    for column, (name, curve) in enumerate(told["curves"].items()):
        points = [Point(**point) for point in curve["points"]]
        at = [point.at for point in points]
        time, memory = panels[0, column], panels[1, column]
        seconds = [point.seconds for point in points]
        ideal = [seconds[0] * point.ideal / points[0].ideal for point in points]
        time.plot(at, seconds, "o-", color="#2f6fb7", label="measured")
        time.plot(at, ideal, ":", color="#555555", label="in proportion to the work")
        time.set(title=name)
        steep = max(seconds + ideal) > STEEP * min(seconds + ideal)
        if steep:
            time.set(yscale="log")
            time.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            time.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        else:
            time.set_ylim(0, 1.1 * max(seconds + ideal))
        read = [(point.at, point.memory / 1e6) for point in points if point.memory is not None]
        if read:
            memory.plot(*zip(*read, strict=True), "o-", color="#e0662f")
            memory.set_ylim(0, 1.1 * max(one for _, one in read))
        memory.set(xlabel=curve["axis"])
        for panel in (time, memory):
            panel.set_xscale("log")
            panel.set_xticks(at, [f"{value:g}" for value in at])
            panel.xaxis.minorticks_off()
            panel.yaxis.minorticks_off()
            panel.grid(alpha=0.3)
    panels[0, 0].legend(frameon=False, fontsize=8)
    panels[0, 0].set_ylabel("processor seconds")
    panels[1, 0].set_ylabel("peak memory, MB")
    facts = told["measured"]
    figure.suptitle(
        f"{facts['date']}, {facts['machine']}, 1 thread, torch {facts['torch']}", fontsize=8, color="#555555"
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", action="store_true", help="only draw")
    parser.add_argument("--small", action="store_true", help="tiny networks: only to see that everything runs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--scan", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if options.scan:
        print(json.dumps(scanned(*options.scan)))
        return
    if not options.draw:
        torch.set_num_threads(1)
        curves = {}
        with tempfile.TemporaryDirectory(prefix="voxelsam_growth_") as folder:
            for name, curve in CURVES.items():
                curves[name] = curve(Shelf(Path(folder)), small=options.small, rounds=options.rounds, ends=False)
                for fact in curves[name].facts():
                    print(f"{name}: {fact.words}: {fact.value:.2f} {fact.unit} (at most {fact.bar:g})", flush=True)
        told = {"measured": measure.machine(), "curves": {name: asdict(curve) for name, curve in curves.items()}}
        options.data.write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    if not options.data.is_file():
        sys.exit(f"{options.data} is not there yet: run growth.py without --draw first")
    draw(json.loads(options.data.read_text("utf-8")), options.picture)


if __name__ == "__main__":
    main()
