"""Times, peaks of memory and differences beside the official codes, transformers and MONAI: one table in one run.

    make bench
    python benchmarks/bench.py --long                # ViT-L and ViT-H, 1024 pixels, volumes at 512, compiled too
    python benchmarks/bench.py --only "encoder"      # rows with this in their name

Random weights at real sizes; one thread; the ways of doing a piece of work take turns (A B A B), medians. The first way
of each piece of work is what the others are compared with. ``official`` restates the official codes plainly.
``ratios.json`` holds an earlier run: a ratio that is more than 15 % worse gives a line that begins with
``WORSE``, and exit code 1.
"""

import argparse
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import estimates
import growth
import measure
import models
import numpy as np
import official
import peers
import torch
from models import MA_SAM, MED_SA, SAM, Shelf, Wanted, predictor
from table import HEAD, TOLERANCE, Goal, Row, cells, judged, line, ratios, record, recorded, verdict, worse, write_page

from voxelsam.backbones import VARIANTS
from voxelsam.nn.products import Plain, fastest

RATIOS = Path(__file__).with_name("ratios.json")
PAGE = Path(__file__).parents[1] / "docs" / "explanation" / "speed.md"
VISIBLE = 30e6
"""Peaks below so many bytes are noise, and no ratio is made of them."""

SAMPLED = 61
"""Of so many coordinates of a gradient one is compared."""

PLAIN, EXACT, HALF, LEAN = "official", "voxelsam", "voxelsam bf16", "voxelsam, 5 of 6 blocks again"
WHOLE = "voxelsam int8"
FIRST, NEXT = "voxelsam, first click", "voxelsam, next click"
KEPT, ROUNDED = "features as computed", "features in half precision"

SHAPES = (
    *("step tiny 128, 5 slices, batch 4", "step vit-b 256, 3 slices"),
    *("scan tiny 128, 5 slices", "scan vit-b 256, 5 slices, stride 5"),
)
"""What is estimated and measured; ``estimates.py`` has more."""

WITHIN = {"seconds": 0.30, "memory": 0.15}
"""How far estimates may be off."""


@dataclass(frozen=True)
class Setting:
    """What all pieces of work share."""

    shelf: Shelf
    rounds: int
    small: bool
    """Tiny networks and pictures, to see that everything runs."""
    rates: Mapping[str, float]
    """Operations per second of a matrix product, by arithmetic."""

    def variant(self, name: str) -> str:
        return "sam-tiny" if self.small else name

    def pixels(self, size: int) -> tuple[int, int]:
        return (size // 8, size // 8) if self.small else (size, size)


Work = Callable[[str, Setting], list[Row]]


def compared(
    work: str,
    setting: Setting,
    ways: Mapping[str, Callable[[], Any] | str],
    goals: Sequence[Goal] = (),
    difference: Callable[[Any, Any], float] | None = None,
    times: Mapping[str, float] | None = None,
) -> list[Row]:
    """Rows of a piece of work, one per way of doing it.

    Args:
        work: its name.
        setting: of the run.
        ways: what is called, or why it cannot be.
        goals: what ways should reach.
        difference: of a result from that of the first way.
        times: how many calls a way needs for the whole work, where it is not one.
    """
    taken = measure.in_turn({name: way for name, way in ways.items() if callable(way)}, setting.rounds)
    seconds = {name: one.time * (times or {}).get(name, 1) for name, one in taken.items()}
    first = next(iter(taken))
    rows = []
    for name, way in ways.items():
        row = Row(work, name, note=way if isinstance(way, str) else "")
        rows.append(row)
        if name not in taken:
            continue
        row.seconds, row.memory = seconds[name], taken[name].memory
        if name != first:
            row.speed, row.less = seconds[first] / seconds[name], lessened(taken[first], taken[name])
            row.difference = difference and difference(taken[first].result, taken[name].result)
            row.ratios = {"speed": row.speed} | ({"memory": row.less} if row.less else {})
        for goal in goals:
            if goal.way == name and (goal.to or first) in taken:
                to = goal.to or first
                reached = {
                    "speed": seconds[to] / seconds[name],
                    "memory": lessened(taken[to], taken[name]),
                    "difference": row.difference,
                    "equal": None if row.difference is None else 1 - row.difference,
                }[goal.of]
                row.goals.append(judged(goal, reached))
    return rows


def lessened(more: measure.Taken, less: measure.Taken) -> float | None:
    """How many times less memory; None where it cannot be seen."""
    if more.memory is None or less.memory is None or more.memory < VISIBLE:
        return None
    return more.memory / max(less.memory, VISIBLE / 10)


def relative(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Norm of the difference, as a part of the norm."""
    expected, found = expected.double(), found.double()
    return float((found - expected).norm() / expected.norm())


def unlike(expected: np.ndarray, found: np.ndarray) -> float:
    """Part of the voxels with another label."""
    return float((expected != found).mean())


def without_gradients(call: Callable[..., Any], *arguments: Any, half: bool = False) -> Callable[[], Any]:
    def run() -> Any:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            return call(*arguments)

    return run


def encoder(
    work: str,
    setting: Setting,
    *,
    variant: str,
    size: int,
    method: dict[str, object],
    depth: int,
    goals: Sequence[Goal],
    int8: bool = False,
) -> list[Row]:
    """Image features of one stack, from pictures to the neck."""
    classes = 2 if method is not MA_SAM else 13
    wanted = Wanted(setting.variant(variant), setting.pixels(size), method, classes, depth)
    network = official.Network.of(setting.shelf.segmenter(wanted))
    images = models.stacks(wanted.size, depth)
    if method is MED_SA:
        images = images.transpose(0, 1).contiguous()  # pictures, each on its own
    ways: dict[str, Callable[[], Any] | str] = {PLAIN: without_gradients(network.encode, images)}
    if size < 1024:
        ways["official, bf16 autocast"] = without_gradients(network.encode, images, half=True)
    if method is SAM:
        for attention in ("eager", "sdpa"):
            name, reason = f"transformers, {attention}", peers.no_transformers()
            ways[name] = reason or without_gradients(theirs(setting, wanted, network, attention), images)
    ways[EXACT] = without_gradients(predictor(setting.shelf, wanted).encode, images)
    ways[HALF] = without_gradients(predictor(setting.shelf, wanted, "bf16").encode, images)
    if int8:
        ways[WHOLE] = in_int8(setting, wanted, images)
    if fastest(torch.float32, 768, torch.device("cpu")) is Plain:
        goals = [replace(goal, bar=goal.alike or goal.bar) for goal in goals]
    rows = compared(work, setting, ways, goals, relative)
    operations = len(images.flatten(0, 1)) * models.encoder_flops(VARIANTS[wanted.variant], wanted.size)
    for row, rate in zip(rows, [setting.rates["bf16" if "bf16" in row.way else "fp32"] for row in rows], strict=True):
        if row.seconds:
            speed = operations / row.seconds
            part = "" if row.way == WHOLE else f", {speed / rate:.0%} of a matrix product"
            row.note = f"{speed / 1e9:.0f} GFLOP/s for SAM's part{part}"
    return rows


def in_int8(setting: Setting, wanted: Wanted, images: torch.Tensor) -> Callable[[], Any] | str:
    """The encoder in whole numbers, or why not."""
    from voxelsam.errors import ConfigError

    try:
        return without_gradients(predictor(setting.shelf, wanted, "int8").encode, images)
    except ConfigError as error:
        return f"skipped: {error}"


def compiling(work: str, setting: Setting, *, variant: str, size: int) -> list[Row]:
    """Image features of one stack, with and without PyTorch's compiler, whose time is told beside it."""
    from voxelsam.errors import ConfigError

    wanted = Wanted(setting.variant(variant), setting.pixels(size), MA_SAM)
    images = models.stacks(wanted.size, wanted.depth)
    ways: dict[str, Callable[[], Any] | str] = {}
    notes = {}
    for precision, name in (("fp32", EXACT), ("bf16", HALF)):
        ways[name] = without_gradients(predictor(setting.shelf, wanted, precision).encode, images)
        compiled = without_gradients(predictor(setting.shelf, wanted, precision, compiled=True).encode, images)
        begin = sum(os.times()[:4])
        try:
            compiled()
        except ConfigError as error:
            ways[f"{name}, compiled"] = f"skipped: {error}"
        else:
            ways[f"{name}, compiled"] = compiled
            notes[f"{name}, compiled"] = f"the first call took {sum(os.times()[:4]) - begin:.0f} s"
    rows = compared(work, setting, ways, difference=relative)
    for row in rows:
        row.note = notes.get(row.way, row.note)
    return rows


def theirs(
    setting: Setting, wanted: Wanted, network: official.Network, attention: str
) -> Callable[[torch.Tensor], torch.Tensor]:
    """transformers' encoder with the same weights, on the same stacks."""
    model = peers.sam(setting.shelf.segmenter(wanted).backbone, attention)
    mean, std = network.pixels

    def encode(images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = model.get_image_embeddings((images.flatten(0, 1) - mean) / std)
        return features

    return encode


def volume(work: str, setting: Setting, *, variant: str, size: int, slices: int, goals: Sequence[Goal]) -> list[Row]:
    """Labels of a whole scan, from grey values."""
    wanted = Wanted(setting.variant(variant), setting.pixels(size), MA_SAM)
    apart = replace(wanted, stride=wanted.depth)
    scan = models.scan(wanted.size, slices)
    network = official.Network.of(setting.shelf.segmenter(wanted))
    values = models.planes(scan)

    def answer(ready: Any) -> Callable[[], np.ndarray]:
        return lambda: ready(scan).labels.data.transpose(2, 1, 0)

    ways: dict[str, Callable[[], Any] | str] = {
        PLAIN: lambda: official.predict(network, values, models.LOW, models.HIGH, wanted.depth),
        EXACT: answer(predictor(setting.shelf, wanted)),
        HALF: answer(predictor(setting.shelf, wanted, "bf16")),
        f"{EXACT}, overlap 0": answer(predictor(setting.shelf, apart)),
        f"{HALF}, overlap 0": answer(predictor(setting.shelf, apart, "bf16")),
    }
    return compared(work, setting, ways, goals, unlike)


def alternatives(work: str, setting: Setting, *, size: int, slices: int) -> list[Row]:
    """A scan by sliding windows and by stacks: one patch or stack is measured, and their number is counted."""
    shape = (slices, *setting.pixels(size))
    classes, ways, times = 13, {}, {}
    for name, patch in peers.PATCHES.items():
        patch = tuple(side // 3 for side in patch) if setting.small and name == "DynUNet" else patch
        network = peers.network(name, patch, classes)
        image = torch.rand(1, 1, *patch)
        way = f"{name}, sliding window"
        ways[way], times[way] = without_gradients(network, image), peers.windows(shape, patch)
    wanted = Wanted(setting.variant("sam-vit-b"), setting.pixels(size), MA_SAM, classes)
    stack = models.stacks(wanted.size, wanted.depth)
    for precision, name in (("fp32", EXACT), ("bf16", HALF)):
        ready = predictor(setting.shelf, wanted, precision)
        ways[name] = lambda ready=ready: ready.decode(ready.encode(stack)).logits.softmax(1).argmax(1)
        times[name] = slices
        ways[f"{name}, overlap 0"], times[f"{name}, overlap 0"] = ways[name], -(-slices // wanted.depth)
    rows = compared(work, setting, ways, times=times)
    for row in rows:
        row.note = f"{times[row.way]:g} passes"
    return rows


def training(
    work: str, setting: Setting, *, variant: str, size: int, method: dict[str, object], goals: Sequence[Goal]
) -> list[Row]:
    """A step of the optimiser on one stack (MA-SAM) or one picture with a click (Med-SA); its rate is 0."""
    from voxelsam.nn.prompt_encoder import PromptBatch
    from voxelsam.train.losses import bce, dice_ce

    ma_sam = method is MA_SAM
    wanted = Wanted(setting.variant(variant), setting.pixels(size), method, 13 if ma_sam else 2, 5 if ma_sam else 1)
    segmenter = setting.shelf.segmenter(wanted).train()
    network = official.Network.of(segmenter)
    images, clicks = models.stacks(wanted.size, wanted.depth), torch.tensor([[20.0, 30.0]])
    target = torch.randint(wanted.classes, (wanted.depth, *wanted.size), generator=torch.Generator().manual_seed(1))
    trained = {name: tensor for name, tensor in segmenter.adaptation.named_parameters() if tensor.requires_grad}
    own, plain = (torch.optim.AdamW(tensors.values(), lr=0.0) for tensors in (trained, network.trained()))
    prompts = PromptBatch(clicks[:, None], torch.ones(1, 1, dtype=torch.long))

    def official_step(half: torch.dtype | None = None) -> tuple[float, torch.Tensor]:
        if ma_sam:
            loss = official.ma_sam_step(network, plain, images, target, half)
        else:
            loss = official.med_sa_step(network, plain, images, clicks, target.float())
        return summary(loss, network.trained())

    def step(blocks: int = 0, half: torch.dtype | None = None) -> tuple[float, torch.Tensor]:
        segmenter.recompute(blocks)
        own.zero_grad()
        with torch.autocast("cpu", half, enabled=half is not None):
            features = segmenter.encode(images)
            logits = segmenter.decode(features, None if ma_sam else prompts).logits
        if ma_sam:
            loss = dice_ce(logits.float(), target, ignore=None)[0]
        else:
            loss = bce(logits[:, 1:], target[:, None].float())
        loss.backward()
        own.step()
        return summary(loss.detach(), trained)

    every = len(segmenter.backbone.image_encoder.blocks)
    ways: dict[str, Callable[[], Any] | str] = {PLAIN: official_step, EXACT: step, LEAN: lambda: step(5 * every // 6)}
    if ma_sam:
        ways["official, bf16 autocast"] = lambda: official_step(torch.bfloat16)
        ways[HALF] = lambda: step(0, torch.bfloat16)
    return compared(work, setting, ways, goals, other_step)


def summary(loss: torch.Tensor, trained: Mapping[str, torch.Tensor]) -> tuple[float, torch.Tensor]:
    """The loss, and some coordinates of the gradient of every trained tensor, by name."""
    gradients = [trained[name].grad for name in sorted(trained)]
    return float(loss), torch.cat([gradient.flatten()[::SAMPLED] for gradient in gradients if gradient is not None])


def other_step(expected: tuple[float, torch.Tensor], found: tuple[float, torch.Tensor]) -> float:
    """The relative difference of loss or gradient, whichever is larger."""
    return max(abs(found[0] - expected[0]) / abs(expected[0]), relative(expected[1], found[1]))


def prompts(work: str, setting: Setting, *, variant: str, size: int) -> list[Row]:
    """A click on a slice that was not seen yet, and the next one."""
    from voxelsam.prompts.prompt import Point, Target

    wanted = Wanted(setting.variant(variant), setting.pixels(size), SAM, 2, 1)
    scan = models.scan(wanted.size, 1)
    height, width = wanted.size
    at = (width / 2, height / 2, 0)
    session = predictor(setting.shelf, wanted).open(scan)

    def first() -> None:
        session.set_image(scan)
        session.add(Point(at, Target("structure_1")))

    def again() -> None:
        session.reset_interactions()
        session.add(Point(at, Target("structure_1")))

    ways: dict[str, Callable[[], Any] | str] = {FIRST: first, NEXT: again}
    reason = peers.no_transformers()
    if reason:
        ways |= {"transformers, first click": reason, "transformers, next click": reason}
    else:
        model = peers.sam(setting.shelf.segmenter(wanted).backbone, "sdpa")
        picture, point = torch.rand(1, 3, *wanted.size), torch.tensor([[[[at[0], at[1]]]]])
        kept: dict[str, torch.Tensor] = {}

        def click() -> Any:
            return model(image_embeddings=kept["features"], input_points=point, multimask_output=False).pred_masks

        def encoded() -> Any:
            kept["features"] = model.get_image_embeddings(picture)
            return click()

        ways |= {
            "transformers, first click": without_gradients(encoded),
            "transformers, next click": without_gradients(click),
        }
    return compared(work, setting, ways, [Goal(NEXT, "speed", 100)])


def cache(work: str, setting: Setting, *, variant: str, size: int) -> list[Row]:
    """What is kept of a slice for its next click, in memory and in a file, and what rounding it changes."""
    from voxelsam.infer.embeddings import Embeddings, Store
    from voxelsam.nn.prompt_encoder import PromptBatch

    wanted = Wanted(setting.variant(variant), setting.pixels(size), SAM, 2, 1)
    ready, scan = predictor(setting.shelf, wanted), models.scan(wanted.size, 1)
    scale = ready.bundle.description.intensity.measure(scan.data)
    features = ready.encode(models.stacks(wanted.size, 1))
    centre = torch.tensor([[[wanted.size[1] / 2, wanted.size[0] / 2]]])
    click = PromptBatch(centre, torch.ones(1, 1, dtype=torch.long))
    rows, masks, found = [], [], []
    for name, half in ((KEPT, False), (ROUNDED, True)):
        folder = setting.shelf.folder / name
        kept = Embeddings(
            scan.data, ready.plan, scale, lambda images: features, store=Store(folder, "0" * 64), half=half
        )
        found.append(kept([0]))
        masks.append(ready.decode(found[-1], click).logits[:, 1] > 0)
        size_of_file = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
        rows.append(Row(work, name, memory=kept.held, note=f"held in memory; {size_of_file / 1e6:.2f} MB in a file"))
    whole, half = rows
    half.less, half.difference = whole.memory / half.memory, relative(*found)
    half.ratios = {"memory": half.less}
    half.note += f"; {(masks[0] != masks[1]).float().mean():.4%} of the pixels change in the mask of a click"
    half.goals = [judged(Goal(ROUNDED, "size", 2.1), half.memory / 1e6)]
    half.goals.append(judged(Goal(ROUNDED, "difference", 3e-4), half.difference))
    return rows


def estimated(work: str, setting: Setting) -> list[Row]:
    """What ``plan`` and ``predict --dry-run`` say of a few shapes, beside what these take."""
    rows = []
    for shape in SHAPES[::2] if setting.small else SHAPES:
        told = estimates.measured_and_estimated(shape)
        off = {key: told[f"{key}_estimate"] / told[key] - 1 for key in WITHIN}
        rows.append(Row(work, shape, told["seconds"], told["memory"]))
        rows[-1].note = f"estimated: {told['seconds_estimate']:.3g} s, {told['memory_estimate'] / 1e6:.0f} MB"
        rows[-1].goals = [
            f"{'time' if key == 'seconds' else key} estimated within {bar:.0%}: "
            f"{verdict(abs(off[key]) <= bar, f'{off[key]:+.0%}')}"
            for key, bar in WITHIN.items()
        ]
    return rows


def start(work: str, setting: Setting) -> list[Row]:
    """Processor seconds until a command or an import is there, each in a process of its own."""
    help_ = "import sys; sys.argv = ['voxelsam', '--help']; from voxelsam.cli.app import main; main()"
    codes = {
        "voxelsam --help": help_,
        "import voxelsam": "import voxelsam",
        "what predict imports": "import voxelsam.cli.predict, voxelsam.infer.cohort, voxelsam.infer.predictor",
        "import torch": "import torch",
        "import transformers.SamModel": "from transformers import SamModel",
        "import monai": "import monai",
        "import lightning": "import lightning",
    }
    ending = "import sys, atexit; atexit.register(lambda: sys.stderr.write(' '.join(sys.modules)));"
    rows = []
    for name, code in codes.items():
        reason = peers.no_transformers() if "transformers" in name else ""
        row = Row(work, name, note=reason)
        rows.append(row)
        if reason:
            continue
        runs = [measure.child(["-c", f"{ending} {code}"]) for _ in range(max(setting.rounds, 2))]
        row.seconds = sorted(run.seconds for run in runs)[len(runs) // 2]
        loaded = [package for package in ("torch", "monai", "lightning", "peft") if package in runs[0].error.split()]
        row.note = f"loads {', '.join(loaded)}" if loaded else "loads neither torch nor monai nor lightning"
        if name == "voxelsam --help":
            met = row.seconds <= 0.3 and not loaded
            row.goals.append(f"≤ 0.3 s without torch: {verdict(met, f'{row.seconds:.2f} s')}")
        if name == "what predict imports":
            met = not {"monai", "lightning", "peft"} & set(loaded)
            row.goals.append(f"neither monai nor lightning nor peft: {verdict(met)}")
    return rows


def grown(work: str, setting: Setting, *, of: str) -> list[Row]:
    """What grows with the work, between the ends of a curve; see ``growth.py``."""
    curve = growth.CURVES[of](setting.shelf, small=setting.small, rounds=setting.rounds, ends=True)
    rows = [Row(work, f"{point.at:g} {curve.axis}", point.seconds, point.memory) for point in curve.points]
    for fact in curve.facts():
        reached = f"{fact.value:.2f} {fact.unit}".strip()
        rows[-1].goals.append(f"{fact.words} ≤ {fact.bar:g}: {verdict(fact.value <= fact.bar, reached)}")
        if fact.steady:
            rows[-1].ratios[fact.words] = 1 / fact.value
    return rows


def works(*, long: bool) -> dict[str, Work]:
    """All pieces of work by name; what takes long only where it is asked for."""
    exact = [Goal(EXACT, "speed", 3, alike=2), Goal(EXACT, "difference", 5e-6)]
    half = [Goal(HALF, "speed", 5), Goal(HALF, "speed", 2, "official, bf16 autocast"), Goal(HALF, "difference", 6.5e-3)]
    whole = [
        *(Goal(EXACT, "speed", 3), Goal(EXACT, "equal", 0.9999), Goal(HALF, "speed", 5)),
        *(Goal(f"{EXACT}, overlap 0", "speed", 10), Goal(f"{HALF}, overlap 0", "speed", 15)),
    ]
    step = [
        *(Goal(EXACT, "speed", 2.3), Goal(EXACT, "difference", 1e-5)),
        *(Goal(LEAN, "speed", 1.5), Goal(LEAN, "memory", 3)),
        Goal(HALF, "speed", 1.3, "official, bf16 autocast"),
    ]
    sdpa = [Goal(EXACT, "speed", 2.5, "transformers, sdpa"), Goal(EXACT, "memory", 12), Goal(EXACT, "difference", 5e-6)]
    found: dict[str, Work] = {}

    def encoders(letter: str, size: int, depth: int = 5) -> None:
        variant = f"sam-vit-{letter.lower()}"
        goals = [*exact, *half, *([Goal(EXACT, "memory", 4)] if size == 512 else [])] if letter == "B" else []
        found[f"encoder, MA-SAM ViT-{letter}, {size} px, {depth} slices"] = partial(
            encoder, variant=variant, size=size, method=MA_SAM, depth=depth, goals=goals, int8=size == 256
        )

    def plain_encoders(letter: str, size: int) -> None:
        found[f"encoder, SAM ViT-{letter}, {size} px"] = partial(
            encoder,
            variant=f"sam-vit-{letter.lower()}",
            size=size,
            method=SAM,
            depth=1,
            goals=sdpa if size == 1024 else [],
        )

    def med_sa(size: int, pictures: int) -> None:
        found[f"encoder, Med-SA ViT-B, {size} px, {pictures} pictures"] = partial(
            encoder, variant="sam-vit-b", size=size, method=MED_SA, depth=pictures, goals=exact
        )

    def volumes(size: int, slices: int) -> None:
        found[f"volume, MA-SAM ViT-B, {size} px, {slices} slices"] = partial(
            volume, variant="sam-vit-b", size=size, slices=slices, goals=whole
        )

    def steps(name: str, method: dict[str, object], size: int, goals: Sequence[Goal]) -> None:
        found[f"training step, {name} ViT-B, {size} px"] = partial(
            training, variant="sam-vit-b", size=size, method=method, goals=goals
        )

    encoders("B", 256)
    encoders("B", 512)
    plain_encoders("B", 1024)
    med_sa(256, 4)
    volumes(256, 10)
    found["scan of 256 × 256 × 96, ways to segment it"] = partial(alternatives, size=256, slices=96)
    steps("MA-SAM", MA_SAM, 512, step)
    steps("Med-SA", MED_SA, 256, [])
    found["prompts, SAM ViT-B, 1024 px"] = partial(prompts, variant="sam-vit-b", size=1024)
    found["features kept of a slice, SAM ViT-B, 1024 px"] = partial(cache, variant="sam-vit-b", size=1024)
    found["start"] = start
    found["estimates"] = estimated
    for of in growth.CURVES:
        found[f"growth with {of}"] = partial(grown, of=of)
    if long:
        found["compiled encoder, MA-SAM ViT-B, 256 px, 5 slices"] = partial(compiling, variant="sam-vit-b", size=256)
        for letter in "LH":
            for size in (256, 512, 1024):
                encoders(letter, size, 5 if size < 1024 else 1)
            plain_encoders(letter, 1024)
        plain_encoders("B", 256)
        plain_encoders("B", 512)
        encoders("B", 1024, 1)
        med_sa(1024, 1)
        volumes(512, 10)
        steps("MA-SAM", MA_SAM, 256, step)
        steps("Med-SA", MED_SA, 1024, [])
    return found


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="rows with this in their name; may be given again")
    parser.add_argument(
        "--long", action="store_true", help="ViT-L and ViT-H, 1024 pixels, volumes at 512, and compiled"
    )
    parser.add_argument("--rounds", type=int, default=2, help="times that every way takes its turn")
    parser.add_argument("--small", action="store_true", help="tiny networks: only to see that everything runs")
    parser.add_argument("--json", type=Path, help="also write the numbers into this file")
    parser.add_argument("--record", action="store_true", help=f"write the ratios into {RATIOS.name}")
    parser.add_argument("--list", action="store_true", help="only name the rows")
    parser.add_argument("--docs", action="store_true", help=f"only put what {RATIOS.name} holds into {PAGE.name}")
    options = parser.parse_args(given)
    if options.rounds < 1:
        parser.error(f"--rounds is at least 1, but {options.rounds} came")
    if options.record and options.small:
        parser.error("--record needs real sizes: leave out --small")
    every = works(long=options.long)
    missing = [text for text in options.only or () if not any(text in name for name in every)]
    if missing:
        hidden = [] if options.long else [name for name in works(long=True) if name not in every]
        there = "\n  ".join(every)
        beside = "; --long has more" if any(missing[0] in name for name in hidden) else ""
        parser.error(f"no row has {missing[0]!r} in its name{beside}; there are:\n  {there}")
    options.works = {n: w for n, w in every.items() if not options.only or any(text in n for text in options.only)}
    return options


def main(given: Sequence[str] | None = None) -> int:
    options = arguments(given)
    if options.list:
        print("\n".join(options.works))
        return 0
    if options.docs:
        write_page(PAGE, RATIOS)
        return 0
    torch.set_num_threads(1)
    facts, rates = measure.machine(), measure.matrix_rates("cpu")
    for name, value in facts.items():
        print(f"{name}: {value}")
    shown = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items())
    print(f"matrix product on one thread: {shown}")
    print("tiny networks and pictures, whatever the names say\n" if options.small else "")
    print(f"{line(HEAD)}\n{line(['---'] * len(HEAD))}", flush=True)
    rows: list[Row] = []
    failed = False
    with tempfile.TemporaryDirectory(prefix="voxelsam_bench_") as folder:
        setting = Setting(Shelf(Path(folder)), options.rounds, options.small, rates)
        for name, work in options.works.items():
            try:
                found = work(name, setting)
            except Exception as error:  # one row must not take the others with it
                traceback.print_exc()
                found, failed = [Row(name, "", note=f"FAILED: {type(error).__name__}: {error}".splitlines()[0])], True
            rows += found
            for row in found:
                print(line(cells(row)), flush=True)
            if options.record:
                record(RATIOS, [row for row in found if row.way], facts | {"rates": rates})
    now = ratios(rows)
    if options.json:
        told = {"measured": facts, "rates": rates, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", "utf-8")
    compare = not options.record and not options.small
    return int(failed or (compare and regressed(now)))


def regressed(now: Mapping[str, float]) -> bool:
    """Prints what is worse than recorded; whether there is anything."""
    if not RATIOS.is_file():
        print(f"\nno {RATIOS.name} yet: --record writes it")
        return False
    before = ratios(recorded(RATIOS))
    lines = worse(now, before)
    place = json.loads(RATIOS.read_text("utf-8"))["measured"]["machine"]
    print(f"\n{len(now.keys() & before.keys())} of {len(now)} ratios are recorded, on {place}")
    print("\n".join(lines) if lines else f"none is more than {TOLERANCE:.0%} worse")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
