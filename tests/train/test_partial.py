"""Structures that nobody looked for: the marginal loss, what is counted and asked, and a training that needs it."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from voxelsam import formats
from voxelsam.data.cache import Store
from voxelsam.data.loader import Order, Stacks, collate, loader
from voxelsam.errors import ConfigError, InputError, InputWarning, LabelError
from voxelsam.formats import write_labels, write_volume
from voxelsam.infer.predictor import load
from voxelsam.layouts import Case, open_dataset
from voxelsam.space.grid import Grid
from voxelsam.stacks.cut import StackBatch
from voxelsam.stacks.intensity import Intensity
from voxelsam.stacks.plan import StackPlan
from voxelsam.train import module as training
from voxelsam.train.job import start
from voxelsam.train.losses import dice_ce
from voxelsam.train.prompting import PromptSection, ask
from voxelsam.train.run import train
from voxelsam.volumes import LabelMap, Labels, Volume

Both = tuple[Tensor, Tensor, Tensor]


def example() -> Both:
    """Logits and target of three frames and four classes; class 2 was not looked for on frame 0, 2 and 3 on frame 1."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 5, 6, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 4, (3, 5, 6), generator=generator)
    unlabelled = torch.tensor([[0, 0, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0]]).bool()
    for frame in range(3):
        target[frame][torch.isin(target[frame], unlabelled[frame].nonzero())] = 0
    target[2, :2] = 255
    return logits, target, unlabelled


def by_hand(logits: Tensor, target: Tensor, unlabelled: Tensor) -> tuple[float, float]:
    """The two terms, pixel by pixel: one soft-max, and the sum of what may be background."""
    classes = logits.shape[1]
    overlap, predicted, present = ([0.0] * classes for _ in range(3))
    losses = []
    for frame, row, column in zip(*torch.nonzero(target != 255, as_tuple=True), strict=True):
        p = logits[frame, :, row, column].softmax(0).tolist()
        hidden = [class_ for class_ in range(classes) if unlabelled[frame, class_]]
        p[0] += sum(p[class_] for class_ in hidden)
        true = int(target[frame, row, column])
        losses.append(-math.log(p[true]))
        for class_ in set(range(classes)) - set(hidden):
            overlap[class_] += p[class_] * (class_ == true)
            predicted[class_] += p[class_] ** 2
            present[class_] += class_ == true
    looked = [class_ for class_ in range(classes) if not unlabelled[:, class_].all()]
    dice = [1 - (2 * overlap[c] + 1e-5) / (predicted[c] + present[c] + 1e-5) for c in looked]
    return sum(losses) / len(losses), sum(dice) / len(dice)


class TestLoss:
    @pytest.mark.parametrize("hidden_everywhere", [False, True])
    def test_terms_are_the_sums_written_out(self, hidden_everywhere: bool) -> None:
        logits, target, unlabelled = example()
        if hidden_everywhere:
            unlabelled[:, 2] = True
            target[target == 2] = 0
        loss, ce, dice = dice_ce(logits, target, 0.7, unlabelled=unlabelled)
        assert [ce.item(), dice.item()] == pytest.approx(by_hand(logits, target, unlabelled), rel=1e-5)
        assert loss.item() == pytest.approx(0.3 * ce.item() + 0.7 * dice.item(), rel=1e-6)

    def test_marks_of_nothing_change_nothing(self) -> None:
        logits, target, unlabelled = example()
        gradients = []
        for marks in (None, torch.zeros_like(unlabelled)):
            leaf = logits.clone().requires_grad_()
            dice_ce(leaf, target, unlabelled=marks)[0].backward()
            assert leaf.grad is not None
            gradients.append(leaf.grad)
        assert torch.allclose(*gradients, rtol=1e-5, atol=1e-9)
        assert gradients[0].abs().max() > 1e-3

    def test_moving_probability_between_background_and_a_hidden_class_costs_nothing(self) -> None:
        logits, target, unlabelled = example()
        before = torch.stack(dice_ce(logits, target, unlabelled=unlabelled))
        together = torch.logsumexp(logits[0, [0, 2]], 0)
        share = torch.rand(5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        logits[0, 0], logits[0, 2] = together + share.log(), together + (1 - share).log()
        assert torch.stack(dice_ce(logits, target, unlabelled=unlabelled)).tolist() == pytest.approx(before.tolist())
        assert torch.stack(dice_ce(logits, target)).tolist() != pytest.approx(before.tolist(), rel=1e-2)

    def test_the_gradient_of_a_hidden_class_is_its_share_of_that_of_the_background(self) -> None:
        logits, target, unlabelled = example()
        logits.requires_grad_()
        dice_ce(logits, target, unlabelled=unlabelled)[0].backward()
        assert logits.grad is not None
        p = logits.detach()[0].softmax(0)
        merged = logits.grad[0, 0] + logits.grad[0, 2]
        share = p[2] / (p[0] + p[2])
        assert torch.allclose(logits.grad[0, 2], share * merged, atol=1e-7)
        assert merged.abs().max() > 1e-3
        assert logits.grad[0, 2][target[0] == 0].max() < 0  # wanted as much as the background is
        plain = logits.detach().clone().requires_grad_()
        dice_ce(plain, target)[0].backward()
        assert plain.grad is not None
        assert plain.grad[0, 2][target[0] == 0].min() > 0

    def test_in_half_precision_the_sums_are_those_of_full(self) -> None:
        logits, target, unlabelled = example()
        coarse = logits.bfloat16()
        with torch.autocast("cpu", torch.bfloat16):
            leaf = coarse.clone().requires_grad_()
            terms = dice_ce(leaf, target, unlabelled=unlabelled)
        terms[0].backward()
        assert [term.dtype for term in terms] == [torch.float32] * 3
        assert [terms[1].item(), terms[2].item()] == pytest.approx(
            by_hand(coarse.double(), target, unlabelled), rel=1e-5
        )
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        assert leaf.grad[0, 2].abs().max() > 1e-4
        assert leaf.grad[2, :, :2].abs().max() == 0  # nobody drew anything there

    def test_a_frame_with_every_class_labelled_is_as_before(self) -> None:
        logits, target, unlabelled = example()
        alone = dice_ce(logits[2:], target[2:], unlabelled=unlabelled[2:])
        assert torch.stack(alone).tolist() == pytest.approx(torch.stack(dice_ce(logits[2:], target[2:])).tolist())

    def test_a_hidden_class_that_is_drawn_all_the_same_counts_as_background(self) -> None:
        logits, target, unlabelled = example()
        drawn = target.clone()
        drawn[0, 0], target[0, 0] = 2, 0
        values = (torch.stack(dice_ce(logits, one, unlabelled=unlabelled)).tolist() for one in (drawn, target))
        assert next(values) == pytest.approx(next(values))

    def test_everything_hidden_or_ignored_is_no_nan(self) -> None:
        logits = torch.randn(2, 3, 4, 4, requires_grad=True)
        unlabelled = torch.tensor([[False, True, True]] * 2)
        loss, ce, _ = dice_ce(logits, torch.zeros(2, 4, 4).long(), unlabelled=unlabelled)
        loss.backward()
        assert ce.item() == pytest.approx(0, abs=1e-6)
        assert logits.grad is not None
        assert logits.grad.isfinite().all()
        assert dice_ce(logits, torch.full((2, 4, 4), 255), unlabelled=unlabelled)[0].item() == 0

    @pytest.mark.parametrize("shape", [(3, 3), (2, 4)])
    def test_marks_of_other_shapes_are_refused(self, shape: tuple[int, int]) -> None:
        logits, target, _ = example()
        with pytest.raises((ValueError, TypeCheckError), match=r"one mark per frame and class|Type-check error"):
            dice_ce(logits, target, unlabelled=torch.zeros(shape).bool())


TABLE = {"background": 0, "bright": 1, "dark": 2}
SIZE = (32, 32, 3)
SPACING = np.diag([-1.0, -1.0, 3.0, 1.0])


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy scan with a bright and a dark ball at random places, and what is where."""
    random = np.random.default_rng(seed)
    grid = np.indices(SIZE, np.float32)
    values = np.zeros(SIZE, np.uint8)
    for value, half in ((1, 0), (2, 1)):
        x, y = random.uniform(8, 24), random.uniform(6, 10) + 14 * half
        values[((grid[0] - x) / 6) ** 2 + ((grid[1] - y) / 5) ** 2 < 1] = value
    if seed % 2:
        values = values[:, ::-1]
    data = np.choose(values, [0, 200, -200]) + random.normal(0, 20, SIZE)
    return data.astype(np.int16)[None], values


def write_set(root: Path, structure: str, seeds: range) -> None:
    """An nnU-Net set in which both balls are seen, and one is drawn."""
    for part in ("imagesTr", "labelsTr"):
        (root / part).mkdir(parents=True)
    grid = Grid(SIZE, SPACING)
    table = Labels({"background": 0, structure: 1})
    for seed in seeds:
        data, values = scene(seed)
        drawn = (values == TABLE[structure]).astype(np.uint8)
        write_volume(root / "imagesTr" / f"c{seed}_0000.nii.gz", Volume(data, grid))
        write_labels(root / "labelsTr" / f"c{seed}.nii.gz", LabelMap(drawn, grid, table))
    said = {"channel_names": {"0": "CT"}, "labels": table.to_json(), "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(said))
    ids = [f"c{seed}" for seed in seeds]
    (root / "splits_final.json").write_text(json.dumps([{"train": ids[:-1], "val": ids[-1:]}]))


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine cases in which only the bright ball is drawn, and five in which only the dark one is."""
    root = tmp_path_factory.mktemp("joint")
    write_set(root / "first", "bright", range(9))
    write_set(root / "second", "dark", range(10, 15))
    (root / "both.yaml").write_text(f"labels: {json.dumps(TABLE)}\nsets: [{{root: first}}, {{root: second}}]")
    return root / "both.yaml"


SETTINGS: dict[str, Any] = {
    "stack": {"size": [32, 32], "depth": 1},
    "intensity": {"kind": "window", "low": -300, "high": 300},
    "adapt": {"name": "full"},
    "augment": {"preset": "none"},
    "train": {"epochs": 5, "batch": 4, "warmup": 2, "lr": 4e-3, "seed": 5, "device": "cpu"},
}


def dice_where_only_bright_was_drawn(run: Path, joint: Path) -> tuple[float, float]:
    """Dice of the bright and of the dark ball on the first set."""
    predictor = load(run / "last", device="cpu")
    scores = []
    for seed in range(3):
        _, values = scene(seed)
        scan = formats.read(joint.parent / "first" / "imagesTr" / f"c{seed}_0000.nii.gz")
        found = predictor(scan).labels.data
        both = [((found == value) & (values == value)).sum() for value in (1, 2)]
        sizes = [(found == value).sum() + (values == value).sum() for value in (1, 2)]
        scores.append(2 * np.array(both) / sizes)
    bright, dark = np.mean(scores, axis=0)
    return float(bright), float(dark)


@pytest.mark.slow
def test_each_set_teaches_its_structure_for_both(joint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(joint, tmp_path / "marginal", settings=SETTINGS)
    bright, dark = dice_where_only_bright_was_drawn(tmp_path / "marginal", joint)
    assert bright > 0.8
    assert dark > 0.5

    def as_background(*arguments: Any, unlabelled: Tensor | None = None) -> Both:
        assert unlabelled is not None
        return dice_ce(*arguments)

    monkeypatch.setattr(training, "dice_ce", as_background)
    train(joint, tmp_path / "background", settings=SETTINGS)
    assert dice_where_only_bright_was_drawn(tmp_path / "background", joint)[1] < 0.2


class TestBatches:
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        plan = StackPlan(depth=1, size=(32, 32), plane="axial")
        return Store(tmp_path, Labels(TABLE), ("CT",), plan, Intensity("window", low=-300, high=300))

    def test_a_batch_says_what_was_not_looked_for(self, joint: Path, store: Store) -> None:
        dataset = open_dataset(joint)
        cases = [store.open(dataset.case(name)) for name in ("first_c0", "second_c10")]
        assert [case.unlabelled.tolist() for case in cases if case.unlabelled is not None] == [
            [False, False, True],
            [False, True, False],
        ]
        stacks = Stacks(cases, store.plan)
        batch = next(iter(loader(stacks, Order(len(stacks)), len(stacks))))
        assert batch.unlabelled is not None
        for case, marks in zip(batch.cases, batch.unlabelled.tolist(), strict=True):
            assert marks == ([False, False, True] if case == "first_c0" else [False, True, False])
        assert batch.to("meta").unlabelled is not None

    def test_marks_change_nothing_of_what_was_prepared(self, joint: Path, store: Store) -> None:
        case = open_dataset(joint).train[0]
        marked = store.open(case)
        plain = store.open(Case(case.id, case.images, case.label, case.group, encoding=case.encoding))
        assert plain.unlabelled is None
        assert np.array_equal(marked.label, plain.label)

    def test_a_case_with_everything_labelled_gets_no_marks_beside_others(self) -> None:
        def one(unlabelled: Tensor | None) -> StackBatch:
            target = torch.zeros(1, 1, 4, 4).long()
            return StackBatch(torch.zeros(1, 1, 3, 4, 4), torch.zeros(1), (), ("a",), target, unlabelled=unlabelled)

        marks = torch.tensor([[False, True, False]])
        together = collate([one(None), one(marks)]).unlabelled
        assert together is not None
        assert together.tolist() == [[False, False, False], [False, True, False]]
        assert collate([one(None), one(None)]).unlabelled is None

    def test_names_that_no_structure_has(self, joint: Path, store: Store) -> None:
        case = open_dataset(joint).train[0]
        wrong = Case(case.id, case.images, case.label, encoding=case.encoding, unlabelled=("drak", "dark"))
        with pytest.raises(LabelError, match="drak count as not looked for") as caught:
            store.open(wrong)
        assert caught.value.code == "LAB-04"


class TestAsking:
    def batch(self, unlabelled: Tensor | None) -> StackBatch:
        target = torch.zeros(2, 1, 24, 24).long()
        target[:, :, 2:8, 2:8], target[:, :, 12:20, 12:20] = 1, 2
        instances = torch.zeros_like(target)
        instances[:, :, 2:8, 2:8], instances[:, :, 12:20, 12:20] = 5, 6
        images = torch.zeros(2, 1, 3, 24, 24)
        return StackBatch(images, torch.zeros(2), (), ("a", "b"), target, instances=instances, unlabelled=unlabelled)

    @pytest.mark.parametrize("per", ["class", "instance"])
    def test_nothing_is_asked_about_what_was_not_looked_for(self, per: str) -> None:
        settings = PromptSection(free=0, objects=3, per=per)  # type: ignore[arg-type]
        marks = torch.tensor([[False, True, False], [False, False, True]])
        asked, every = (
            ask("box", self.batch(which), settings, np.random.default_rng(0), (6, 6)) for which in (marks, None)
        )
        assert asked is not None
        assert every is not None
        assert list(zip(asked.frames.tolist(), asked.classes.tolist(), strict=True)) == [(0, 2), (1, 1)]
        assert sorted(zip(every.frames.tolist(), every.classes.tolist(), strict=True)) == [
            (0, 1),
            (0, 2),
            (1, 1),
            (1, 2),
        ]

    def test_nothing_is_left_to_ask(self) -> None:
        marks = torch.tensor([[False, True, True]] * 2)
        assert ask("box", self.batch(marks), PromptSection(free=0), np.random.default_rng(0), (6, 6)) is None


class TestJob:
    def quick(self, **more: Any) -> dict[str, Any]:
        settings = SETTINGS | {"train": SETTINGS["train"] | {"epochs": 1, "stacks_per_epoch": 2}}
        return settings | more

    def test_validation_leaves_out_what_was_not_looked_for(self, joint: Path, tmp_path: Path) -> None:
        """A model that calls everything dark is wrong about the second set only."""
        job = start(joint, tmp_path / "run", self.quick())
        recipe = job.recipe
        one = training.TrainingModule(job.segmenter, recipe.train, job.labels, 1, recipe.prompts)
        target = torch.zeros(2, 1, 32, 32).long()
        target[0, :, :8], target[1, :, :8] = 1, 2
        marks = torch.tensor([[False, False, True], [False, True, False]])
        answer = torch.zeros(2, 3, 32, 32)
        answer[:, 1, :8] = 2.0
        answer[:, 2, 8:] = 2.0
        one.segmenter.encode = lambda images: images  # type: ignore[method-assign]
        one.segmenter.decode = lambda features: training.Scores(answer)  # type: ignore[method-assign,assignment]
        one.log = one.log_dict = lambda *_, **__: None  # type: ignore[method-assign,assignment]
        images = torch.zeros(2, 1, 3, 32, 32)
        for unlabelled, expected in ((marks, (1.0, 0.0)), (None, (0.5, 0.0))):
            batch = StackBatch(images, torch.zeros(2), (), ("a", "b"), target, unlabelled=unlabelled)
            one.validation_step(batch, 0)
            one.on_validation_epoch_end()
            values = one._validated
            assert (values["dice/bright"], values["dice/dark"]) == pytest.approx(expected)

    def test_a_structure_that_no_case_looked_for_cannot_be_learnt(self, joint: Path, tmp_path: Path) -> None:
        file = joint.with_name("more.yaml")
        file.write_text(joint.read_text().replace('"dark": 2', '"dark": 2, "grey": 3'))
        with (
            pytest.warns(InputWarning, match="no case of validation shows grey"),
            pytest.raises(InputError, match="no case of training shows grey") as caught,
        ):
            start(file, tmp_path / "run", self.quick())
        assert caught.value.code == "LAB-03"

    def test_folds_go_before_declared_splits(self, joint: Path, tmp_path: Path) -> None:
        every = []
        for fold in range(2):
            job = start(joint, tmp_path / "run", self.quick(data={"folds": 2, "fold": fold}))
            held = [case.id for case in job.validation]
            assert len(held) == 7
            assert not set(held) & {case.id for case in job.train}
            every += held
        assert sorted(every) == sorted(case.id for case in open_dataset(joint).train)
        assert len(start(joint, tmp_path / "run", self.quick()).validation) == 2

    @pytest.mark.parametrize(
        ("folds", "message"), [(1, "folds must be at least 2"), (99, "14 patients can make 2 to 14")]
    )
    def test_folds_that_cannot_be(self, joint: Path, tmp_path: Path, folds: int, message: str) -> None:
        with pytest.raises((InputError, ConfigError), match=message):
            start(joint, tmp_path / "run", self.quick(data={"folds": folds}))
