"""Studies with simulated prompts: what is asked lies where it should, and what is written can be repeated."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from voxelsam import study
from voxelsam.bundle import Bundle, PromptsLearnt
from voxelsam.data.phantom import ORGANS
from voxelsam.errors import ConfigError, InputError
from voxelsam.infer.predictor import Predictor
from voxelsam.layouts import Case, open_dataset
from voxelsam.prompts import file
from voxelsam.prompts.place import place
from voxelsam.prompts.prompt import Prompts, Target
from voxelsam.prompts.simulate import tight_box, tight_cuboid
from voxelsam.study import Score, Study, StudyPlan, Way

Learnt = Callable[..., Bundle]

LABELS = {"background": 0} | {name: value for value, name in enumerate(ORGANS, 1)}

EVERY = ("point", "box", "cuboid", "mask", "correction")


@pytest.fixture(scope="module")
def case(phantom: Path) -> Case:
    return open_dataset(phantom).train[0]


@pytest.fixture(scope="module")
def predictor(learnt: Learnt) -> Predictor:
    return Predictor(learnt(EVERY, labels=LABELS))


def score(case: str, structure: str, step: str, dice: float, instance: int = 1) -> Score:
    return Score(case, structure, instance, step, dice, 1, 0.5)


def test_boxes_land_on_the_object_that_they_were_drawn_around(predictor: Predictor, case: Case) -> None:
    scene = study._scene(predictor, case, StudyPlan())
    assert len(scene.canonical) > 1
    for target, truth in scene.canonical.items():
        grid, plan, labels = scene.session.volume.grid, predictor.plan, predictor.bundle.labels
        frame = plan.frame((truth.shape[1], truth.shape[2]))
        flat = place(Prompts(tuple(study._boxes(scene, target, "box", 0.0))), grid, plan, labels)
        assert sorted(flat.frames[target]) == np.flatnonzero(truth.any(axis=(1, 2))).tolist()
        for number, placed in flat.frames[target].items():
            rectangle = tight_box(truth[number])
            assert rectangle is not None
            expected = frame.to_model(np.reshape(rectangle, (2, 2))).ravel()
            assert placed.box == pytest.approx(expected.tolist(), abs=0.01)
        solid = place(Prompts(tuple(study._boxes(scene, target, "cuboid", 0.0))), grid, plan, labels)
        cuboid = tight_cuboid(truth)
        assert cuboid is not None
        assert sorted(solid.frames[target]) == list(range(cuboid.first, cuboid.last + 1))


def test_clicks_land_on_the_object(predictor: Predictor, case: Case) -> None:
    scene = study._scene(predictor, case, StudyPlan())
    for target, truth in scene.source.items():
        clicks = list(study._clicks(scene, target, "click", first=True))
        assert len(clicks) == scene.canonical[target].any(axis=(1, 2)).sum()
        for click in clicks:
            assert truth[tuple(round(index) for index in click.at)]


def test_error_clicks_lie_on_errors_of_what_is_shown(predictor: Predictor, case: Case) -> None:
    scene = study._scene(predictor, case, StudyPlan())
    target = Target("liver")
    shown, truth = scene.slices(scene.predicted(target)), scene.canonical[target]
    clicks = list(study._clicks(scene, target, "correct", first=True))
    assert len(clicks) == (shown != truth).any(axis=(1, 2)).sum()
    source = scene.predicted(target)
    for click in clicks:
        place_ = tuple(round(index) for index in click.at)
        assert scene.source[target][place_] == click.inside
        assert source[place_] != click.inside


def test_a_study_runs_every_way_and_leaves_what_repeats_it(predictor: Predictor, case: Case, tmp_path: Path) -> None:
    plan = StudyPlan(ways=get_args(Way), clicks=2, keys=(1, 2), relaxed=(0.0, 0.2))
    result = study.study(predictor, [case], plan, tmp_path)
    structures = set(result.structures())
    assert {(s.step, s.structure) for s in result.scores} == {(step, one) for step in plan.steps for one in structures}
    written = json.loads((tmp_path / "study.json").read_text())
    assert [row["step"] for row in written["means"]] == list(plan.steps)
    rows = list(csv.DictReader((tmp_path / "study.csv").read_text().splitlines()))
    assert len(rows) == len(result.scores)
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")
    session = predictor.open(case.images[0], base="free")
    session.load_prompts(tmp_path / "prompts" / f"{case.id}-box-20%.json")
    again = session.result().labels.data
    for target, truth in study._scene(predictor, case, plan).source.items():
        value = study.dice(again == predictor.bundle.labels.values[target.label], truth)
        known = next(s for s in result.scores if s.step == "box +20%" and s.structure == target.label)
        assert value == pytest.approx(known.dice)


def test_key_slices_are_prompted_and_no_others(predictor: Predictor, case: Case) -> None:
    scene = study._scene(predictor, case, StudyPlan())
    for target, truth in scene.canonical.items():
        shown = np.flatnonzero(truth.any(axis=(1, 2)))
        prompts = list(study._keys(scene, target, 2))
        grid, plan, labels = scene.session.volume.grid, predictor.plan, predictor.bundle.labels
        placed = place(Prompts(tuple(prompts)), grid, plan, labels)
        assert sorted(placed.frames[target]) == sorted({int(shown[0]), int(shown[-1])})


def test_the_same_study_gives_the_same_scores(predictor: Predictor, case: Case) -> None:
    plan = StudyPlan(ways=("click", "cuboid"), clicks=2)
    first, again = (study.study(predictor, [case], plan) for _ in range(2))
    assert [s.dice for s in first.scores] == [s.dice for s in again.scores]


def test_clicks_add_up_from_round_to_round(predictor: Predictor, case: Case) -> None:
    result = study.study(predictor, [case], StudyPlan(ways=("click",), clicks=3))
    for structure in result.structures():
        counts = [s.prompts for s in result.scores if s.structure == structure]
        assert counts == sorted(counts)
        assert counts[0] < counts[-1]


def test_means_are_over_objects_then_cases_then_structures() -> None:
    scores = (
        score("a", "x", "none", 0.2, 1),
        score("a", "x", "none", 0.4, 2),
        score("b", "x", "none", 0.9),
        score("a", "y", "none", 0.5),
    )
    result = Study(StudyPlan(ways=("none",)), scores)
    assert result.mean("none", "x") == pytest.approx((0.3 + 0.9) / 2)
    assert result.mean("none") == pytest.approx((0.6 + 0.5) / 2)
    assert result.rows()[0]["dice/y"] == 0.5


def test_a_model_is_asked_only_what_it_learnt(learnt: Learnt, case: Case) -> None:
    boxes = Predictor(learnt(("box",), free=False, labels=LABELS))
    assert study.possible(boxes) == ("box",)
    assert "keys" not in study.possible(boxes)
    with pytest.raises(ConfigError, match="not trained for click"):
        study.study(boxes, [case], StudyPlan(ways=("click", "box")))
    with pytest.raises(ConfigError, match="not trained for none"):
        study.study(boxes, [case], StudyPlan(ways=("none",)))


def test_cases_that_cannot_be_used_are_told_and_the_others_go_on(predictor: Predictor, case: Case) -> None:
    broken = Case("broken", case.images, None)
    result = study.study(predictor, [broken, case], StudyPlan(ways=("none",)))
    assert list(result.failures) == ["broken"]
    with pytest.raises(InputError, match="none of 1 cases"):
        study.study(predictor, [broken], StudyPlan(ways=("none",)))
    with pytest.raises(InputError, match=r"none of 1 cases.*no instance map"):
        study.study(predictor, [case], StudyPlan(ways=("none",), per="instance"))
    with pytest.raises(InputError, match="needs cases"):
        study.study(predictor, [], StudyPlan())


@pytest.mark.parametrize(
    ("values", "named"),
    [({"clicks": 0}, "clicks"), ({"ways": ()}, "ways"), ({"keys": (0,)}, "keys"), ({"relaxed": (2.0,)}, "relaxed")],
)
def test_plans_out_of_range_are_named(values: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=f"^{named}:"):
        StudyPlan(**values)  # type: ignore[arg-type]


def test_prompt_files_of_a_study_are_valid(predictor: Predictor, case: Case, tmp_path: Path) -> None:
    study.study(predictor, [case], StudyPlan(ways=("cuboid",), relaxed=(0.1,)), tmp_path)
    (written,) = (tmp_path / "prompts").iterdir()
    grid = predictor.open(case.images[0]).volume.grid
    assert {prompt.target.label for prompt in file.read(written, grid).items} == set(predictor.bundle.labels.names)


def test_learnt_names_every_kind() -> None:
    assert {kind for kinds in study._NEEDS.values() for kind in kinds} <= set(PromptsLearnt(True, EVERY).kinds)
