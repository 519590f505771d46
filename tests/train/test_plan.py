"""What is chosen for a recipe, why, and what is given up for memory and time."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from voxelsam import config
from voxelsam.cost import Setup, Speed
from voxelsam.errors import ConfigError, InputError, InputWarning
from voxelsam.train import cost, plan
from voxelsam.train.job import Resolved, resolve, start
from voxelsam.train.plan import Limits, bytes_of
from voxelsam.train.recipe import Recipe, parse

SMALL: dict[str, Any] = {"stack": {"size": [32, 32]}, "adapt": {"name": "ma_sam", "rank": 4, "width": 16}}
CPU = {"train": {"device": "cpu"}}


def made(root: Path, settings: dict[str, Any] | None = None, **limits: Any) -> Resolved:
    return resolve(root, config.merge(CPU, settings or {}), limits=Limits(**limits))


def test_every_choice_has_a_reason(phantom: Path) -> None:
    reasons = made(phantom, SMALL).plan.reasons
    wanted = {
        "stack.plane", "stack.depth", "stack.stride", "intensity", "data.fold", "augment.preset", "backbone.name",
        "train.batch", "train.accumulate", "train.epochs", "train.stacks_per_epoch", "train.keep",
    }  # fmt: skip
    assert wanted <= set(reasons)
    assert all(len(reason) > 10 for reason in reasons.values())


def test_the_yaml_is_the_recipe(phantom: Path) -> None:
    found = made(phantom, SMALL).plan
    text = found.to_yaml(["Plan for the phantom"])
    assert parse(yaml.safe_load(text)) == found.recipe
    for path, reason in found.reasons.items():
        if not config.has(found.given, path):
            assert reason.split()[0] in text, path


def test_a_plan_serves_all_folds(phantom: Path) -> None:
    open_fold = yaml.safe_load(made(phantom, SMALL).plan.to_yaml())
    stated = yaml.safe_load(made(phantom, config.merge(SMALL, {"data": {"fold": 1}})).plan.to_yaml())
    assert "fold" not in open_fold["data"]
    assert stated["data"]["fold"] == 1


def test_a_reason_stands_above_its_choice(phantom: Path) -> None:
    lines = made(phantom, SMALL).plan.to_yaml().splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("  keep:"))
    assert lines[place] == "  keep: last"
    assert "flatter" in lines[place - 1]
    place = next(number for number, line in enumerate(lines) if line.startswith("  size:"))
    assert "you state" in lines[place - 1]


def test_training_takes_the_plan_with_and_without_a_file(phantom: Path, tmp_path: Path) -> None:
    settings = config.merge(CPU, SMALL)
    planned = made(phantom, settings).plan
    assert start(phantom, tmp_path / "a", settings).recipe == planned.recipe
    (tmp_path / "plan.yaml").write_text(planned.to_yaml())
    assert start(phantom, tmp_path / "b", config.read(tmp_path / "plan.yaml")).recipe == planned.recipe


def test_the_memory_that_is_counted_grows_with_the_stack(phantom: Path) -> None:
    needs = []
    for depth in (3, 5):
        found = made(phantom, config.merge(SMALL, {"stack": {"depth": depth}}))
        needs.append(plan._need(found.plan, found.facts))
    assert needs[0] < needs[1]


def test_what_is_stated_stays(phantom: Path) -> None:
    stated = {"train": {"batch": 3, "epochs": 7, "keep": "best"}, "augment": {"preset": "none"}, "stack": {"depth": 4}}
    found = made(phantom, config.merge(SMALL, stated), memory=10**9, strict=False).plan
    for path in ("train.batch", "train.epochs", "train.keep", "augment.preset", "stack.depth"):
        section, key = path.split(".")
        assert config.plain(found.recipe)[section][key] == stated[section][key]
        assert not config.has(found.reasons, path)


class TestSmallData:
    def test_few_patients_get_what_few_patients_need(self, phantom: Path) -> None:
        recipe = made(phantom, SMALL).plan.recipe
        assert (recipe.augment.preset, recipe.train.keep) == ("few", "last")
        assert recipe.train.ema is not None

    def test_a_pretrained_backbone_trains_fewer_numbers(self, phantom: Path) -> None:
        settings = {"backbone": {"name": "sam-vit-b"}, "stack": {"size": [64, 64]}}
        recipe = made(phantom, settings).plan.recipe
        assert recipe.adapt["rank"] == plan.SMALL["rank"]
        assert recipe.adapt["width"] == plan.SMALL["width"]

    def test_many_patients_do_not(self, phantom: Path) -> None:
        found = made(phantom, SMALL)
        facts = replace(found.facts, patients=100, held=20)
        free = replace(found.plan, reasons={}, recipe=parse({"data": {"root": "x"}}))
        recipe = plan._chosen(free, facts).recipe
        assert (recipe.augment.preset, recipe.train.keep, recipe.train.ema) == ("light", "best", None)
        assert "rank" not in recipe.adapt

    def test_stopping_early_and_keeping_the_last_do_not_go_together(self, phantom: Path) -> None:
        assert made(phantom, SMALL | {"train": {"patience": 3}}).plan.recipe.train.keep == "best"
        with pytest.raises(ConfigError, match="patience"):
            made(phantom, SMALL | {"train": {"patience": 3, "keep": "last"}})


class TestFolds:
    @pytest.fixture
    def undivided(self, phantom: Path, tmp_path: Path) -> Path:
        folder = Path(shutil.copytree(phantom, tmp_path / "data"))
        (folder / "splits.json").unlink()
        return folder

    def test_few_patients_are_left_out_one_at_a_time(self, undivided: Path) -> None:
        found = made(undivided, SMALL)
        assert found.plan.recipe.data.folds == 3
        assert (len(found.training), len(found.validation)) == (2, 1)
        assert "one patient left out" in found.plan.reasons["data.folds"]

    def test_a_declared_split_stays(self, phantom: Path) -> None:
        assert made(phantom, SMALL).plan.recipe.data.folds is None

    def test_an_impossible_fold(self, undivided: Path) -> None:
        with pytest.raises(InputError, match="3 patients can make 2 to 3 folds"):
            made(undivided, SMALL | {"data": {"folds": 9}})

    @pytest.fixture
    def single(self, undivided: Path) -> Path:
        for folder in ("imagesTr", "labelsTr"):
            for path in sorted((undivided / folder).iterdir())[1:]:
                path.unlink()
        record = json.loads((undivided / "dataset.json").read_text())
        (undivided / "dataset.json").write_text(json.dumps(record | {"numTraining": 1}))
        return undivided

    def test_one_patient_is_refused_until_one_says_so(self, single: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"data\.fold=none") as stop:
            made(single, SMALL)
        assert stop.value.code == "SET-02"
        found = made(single, SMALL | {"data": {"fold": "none"}})
        assert (len(found.training), len(found.validation)) == (1, 0)
        assert found.plan.recipe.train.keep == "last"

    def test_training_without_validation_says_so_and_leaves_a_bundle(self, single: Path, tmp_path: Path) -> None:
        from voxelsam import bundle
        from voxelsam.train import history, run

        small = config.merge(SMALL, {"train": {"epochs": 1, "stacks_per_epoch": 2, "device": "cpu"}})
        with pytest.warns(InputWarning, match="nothing is validated"):
            best = run.train(single, tmp_path / "run", settings=small | {"data": {"fold": "none"}})
        assert bundle.load(best).description.training.keys() >= {"epoch"}
        assert "val_dice" not in history.read(tmp_path / "run" / "metrics.csv")[0]
        assert json.loads((tmp_path / "run" / "split.json").read_text())["val"] == []


def test_the_last_weights_are_kept_where_nothing_may_choose(phantom: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from voxelsam import bundle
    from voxelsam.train import run

    small = config.merge(
        SMALL, {"train": {"epochs": 3, "stacks_per_epoch": 2, "device": "cpu", "lr": 0.01, "ema": None}}
    )
    run.train(phantom, tmp_path / "run", settings=small)
    best, last = (load_file(tmp_path / "run" / name / bundle.WEIGHTS) for name in ("best", "last"))
    assert all(best[name].equal(last[name]) for name in last)
    assert bundle.load(tmp_path / "run" / "best").description.training["epoch"] == 2


class TestPace:
    def batch(self, phantom: Path, slices: int, **train: Any) -> tuple[int, int, int | None]:
        found = made(phantom, SMALL)
        sizes = {"axial": (40, 36, slices)}
        facts = replace(found.facts, training=tuple(replace(case, sizes=sizes) for case in found.facts.training))
        free = replace(found.plan, reasons={}, device="gpu", recipe=parse({"data": {"root": "x"}, "train": train}))
        chosen = plan._chosen(replace(free, given={"train": train}), facts).recipe.train
        return chosen.batch, chosen.accumulate, chosen.stacks_per_epoch

    @pytest.mark.parametrize(("slices", "expected"), [(20, 2), (60 * 126 // 10, 12), (126 * 12, 24), (10**5, 24)])
    def test_steps_are_as_in_the_paper(self, phantom: Path, slices: int, expected: int) -> None:
        assert self.batch(phantom, slices)[0] == expected

    def test_large_data_is_seen_in_parts(self, phantom: Path) -> None:
        assert self.batch(phantom, 10**5)[2] == 24 * 126

    def test_a_stated_batch_is_the_batch(self, phantom: Path) -> None:
        assert self.batch(phantom, 10**5, batch=2)[:2] == (2, 1)

    def test_a_processor_takes_few_at_a_time(self, phantom: Path) -> None:
        found = made(phantom, SMALL)
        facts = replace(found.facts, training=(replace(found.facts.training[0], sizes={"axial": (9, 9, 3024)}),))
        free = replace(found.plan, reasons={}, recipe=parse({"data": {"root": "x"}}))
        train = plan._chosen(free, facts).recipe.train
        assert (train.batch, train.accumulate) == (4, 6)


def simple_memory(recipe: Recipe, setup: Setup, device: str) -> int:
    """Bytes that grow with everything, in place of what is counted on the networks."""
    kept = 5 - 3 * setup.again
    half = recipe.train.precision != "fp32"
    return round(recipe.train.batch * setup.depth * math.prod(setup.size) * kept * (2 if half else 4))


class TestMemory:
    @pytest.fixture(autouse=True)
    def counted_fast(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cost, "memory", simple_memory)

    def ladder(self, root: Path, memory: int, settings: dict[str, Any] | None = None) -> plan.Plan:
        found = made(root, config.merge({"adapt": SMALL["adapt"]}, settings or {}))
        wish = replace(found.plan, recipe=replace(found.plan.recipe, train=replace(found.plan.recipe.train, batch=4)))
        return plan._fitted(replace(wish, memory=memory, device="gpu"), found.facts, strict=True)

    def test_nothing_is_given_up_where_there_is_room(self, phantom: Path) -> None:
        assert self.ladder(phantom, 10**11).rungs == ()

    def test_every_rung_needs_less_and_they_come_in_order(self, phantom: Path) -> None:
        with pytest.raises(ConfigError, match=r"nothing fits into .*the least needs about") as stop:
            self.ladder(phantom, 10**3)
        order = ["batch 1", "computed again", "bf16", "stacks of 3", "stacks of 1", "pictures of 96"]
        places = [str(stop.value).find(change) for change in order]
        assert -1 not in places
        assert places == sorted(places)

    def test_the_ladder_stops_as_soon_as_it_fits(self, phantom: Path) -> None:
        wish = self.ladder(phantom, 10**11)
        found = made(phantom, {"adapt": SMALL["adapt"]})
        whole = plan._need(replace(wish, device="gpu"), found.facts)
        fitted = self.ladder(phantom, int(0.8 * whole))
        assert [rung.need for rung in fitted.rungs] == sorted((rung.need for rung in fitted.rungs), reverse=True)
        assert fitted.rungs[0].need == whole
        assert fitted.rungs[-1].need <= 0.8 * whole < fitted.rungs[-2].need
        assert fitted.recipe.train.batch * fitted.recipe.train.accumulate == 4 * wish.recipe.train.accumulate
        assert not fitted.recipe.train.checkpointing

    def test_as_few_blocks_as_fit_are_computed_again(self, phantom: Path) -> None:
        found = made(phantom, {"adapt": SMALL["adapt"]})
        one = replace(found.plan, recipe=replace(found.plan.recipe, train=replace(found.plan.recipe.train, batch=1)))
        all_kept = plan._need(replace(one, device="gpu"), found.facts)
        for share, expected in ((0.9, 1), (0.8, 2), (0.6, 3), (0.41, True)):
            fitted = self.ladder(phantom, int(share * all_kept))
            assert fitted.recipe.train.checkpointing == expected
            assert type(fitted.recipe.train.checkpointing) is type(expected)
            assert plan._need(fitted, found.facts) <= share * all_kept
            assert "computed again" in fitted.rungs[-1].change

    @pytest.mark.parametrize(("memory", "expected"), [(10**11, False), (None, True)])
    def test_auto_is_settled(
        self, phantom: Path, monkeypatch: pytest.MonkeyPatch, memory: int | None, expected: bool
    ) -> None:
        monkeypatch.setattr("voxelsam.device.memory", lambda device: memory)
        found = made(phantom, config.merge(SMALL, {"train": {"checkpointing": "auto"}})).plan
        assert found.recipe.train.checkpointing is expected
        assert "computed again" in found.reasons["train.checkpointing"]
        assert f"checkpointing: {str(expected).lower()}" in found.to_yaml()
        assert "auto" not in found.to_yaml().split("train:")[1]

    def test_what_is_stated_is_no_rung(self, phantom: Path) -> None:
        stated = {"train": {"checkpointing": False}, "stack": {"depth": 5, "size": [64, 64]}}
        with pytest.raises(ConfigError) as stop:
            self.ladder(phantom, 10**3, stated)
        assert "computed again" not in str(stop.value)
        assert "stacks of" not in str(stop.value)
        assert "pictures" not in str(stop.value)

    def test_training_goes_on_with_a_warning_where_an_estimate_says_no(
        self, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("voxelsam.device.memory", lambda device: 10**3)
        with pytest.warns(InputWarning, match="of memory are needed"):
            start(phantom, tmp_path / "run", config.merge(CPU, SMALL))

    @pytest.mark.parametrize(
        ("text", "expected"), [("8GB", 8 * 10**9), ("16GiB", 16 * 2**30), ("900 mb", 9 * 10**8), ("1.5 G", 15 * 10**8)]
    )
    def test_a_memory_is_a_number_and_a_unit(self, text: str, expected: int) -> None:
        assert bytes_of(text) == expected

    @pytest.mark.parametrize("text", ["8 bananas", "8", "GB", "-1GB", "0GB", ""])
    def test_other_memories_are_refused(self, text: str) -> None:
        with pytest.raises(ConfigError, match="8GB"):
            bytes_of(text)


class TestTime:
    @pytest.fixture(autouse=True)
    def slow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(plan, "speed", lambda device, precision: Speed(1e9, 1e9, 1e-6))

    def test_epochs_fit_into_the_time(self, phantom: Path) -> None:
        for minutes in (1, 20, 400):
            found = made(phantom, SMALL, minutes=minutes)
            planned = plan.estimated(found.plan, found.facts, Limits())
            assert planned.estimate is not None
            assert planned.estimate.seconds is not None
            assert planned.estimate.seconds <= 60 * minutes
            assert found.plan.recipe.train.epochs <= plan.PAPER_EPOCHS

    def test_more_time_is_used(self, phantom: Path) -> None:
        seconds = []
        for minutes in (2, 8):
            found = made(phantom, SMALL, minutes=minutes)
            planned = plan.estimated(found.plan, found.facts, Limits())
            assert planned.estimate is not None
            assert planned.estimate.seconds is not None
            seconds.append(planned.estimate.seconds)
        assert seconds[1] > 2 * seconds[0]

    def test_stated_epochs_stay(self, phantom: Path) -> None:
        found = made(phantom, config.merge(SMALL, {"train": {"epochs": 4}}), minutes=3)
        assert found.plan.recipe.train.epochs == 4

    def test_too_little_time_says_how_much_is_needed(self, phantom: Path) -> None:
        with pytest.raises(ConfigError, match=r"too few: 10 epochs .* take about [\d.]+ minutes"):
            made(phantom, SMALL, minutes=0.01)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["Dataset511_OpticDiscCup", "Dataset503_LiverCT"])
def test_shared_sets_can_be_planned(shared: Path, name: str) -> None:
    root, settings = shared / "data" / name, config.merge(SMALL, {"data": {"fold": "none"}})
    found = made(root, settings)
    text = found.plan.to_yaml()
    assert parse(yaml.safe_load(text)) == found.plan.recipe
    assert found.plan.recipe.stack.depth == (1 if "Optic" in name else 5)
