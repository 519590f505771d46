"""Training with prompts, as a whole: what is learnt, what is written, what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from voxelsam import bundle
from voxelsam.errors import ConfigError
from voxelsam.stacks.cut import StackBatch
from voxelsam.train import history
from voxelsam.train.job import start
from voxelsam.train.module import TrainingModule
from voxelsam.train.prompting import PromptSection
from voxelsam.train.recipe import TrainSection
from voxelsam.train.run import train

Settings = dict[str, dict[str, Any]]

MIXED = {"free": 0.5, "kinds": ["point", "box", "cuboid", "mask", "correction"], "quality": 0.5}


@pytest.fixture(scope="module")
def run(phantom: Path, small: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs with every kind of prompt."""
    folder = tmp_path_factory.mktemp("prompted") / "run"
    train(phantom, folder, settings=small | {"prompts": MIXED})
    return folder


def module(phantom: Path, small: Settings, folder: Path, **prompts: Any) -> TrainingModule:
    job = start(phantom, folder / "unused", small | {"prompts": prompts})
    return TrainingModule(job.segmenter, TrainSection(), job.labels, 10, PromptSection(**prompts))


def picture() -> StackBatch:
    target = torch.zeros(2, 3, 32, 32, dtype=torch.long)
    target[:, 1, 8:20, 4:12] = 1
    return StackBatch(torch.rand(2, 3, 3, 32, 32), torch.zeros(2), (), ("a", "b"), target)


def test_both_ways_of_asking_are_validated(run: Path) -> None:
    for row in history.read(run / "metrics.csv"):
        assert row.keys() >= {"val_dice", "dice/liver", "prompted/point", "prompted/box", "prompted/cuboid"}
        assert 0 <= row["prompted/box"] <= 1


def test_the_bundle_says_which_prompts_it_takes(run: Path) -> None:
    learnt = bundle.load(run / "best").description.prompts
    assert learnt.free
    assert learnt.kinds == ("point", "box", "cuboid", "mask", "correction")
    assert learnt.quality
    assert "answers point, box, cuboid, mask, correction" in (run / "best" / "card.md").read_text()


def test_the_embeddings_of_what_is_asked_are_trained(run: Path) -> None:
    assert yaml.safe_load((run / "recipe.yaml").read_text())["adapt"]["prompts"] == "all"
    first = bundle.load(run / "best").segmenter()
    trained = load_file(run / "best" / bundle.WEIGHTS)["prompt_encoder.point_embeddings.1.weight"]
    assert not torch.equal(trained, first.backbone.prompt_encoder.state_dict()["point_embeddings.1.weight"])


def test_boxes_alone_train_the_embeddings_of_boxes(phantom: Path, small: Settings, tmp_path: Path) -> None:
    job = start(phantom, tmp_path / "run", small | {"prompts": {"free": 0.0, "kinds": ["box"]}})
    assert job.recipe.adapt["prompts"] == "boxes"
    kept = small | {"adapt": small["adapt"] | {"prompts": "none"}, "prompts": {"free": 0.0, "kinds": ["box"]}}
    assert start(phantom, tmp_path / "other", kept).recipe.adapt["prompts"] == "none"


def test_on_a_random_backbone_prompts_are_also_drawn(phantom: Path, small: Settings, run: Path, tmp_path: Path) -> None:
    trained = bundle.load(run / "best")
    assert trained.description.prompts.drawn
    assert trained.segmenter().draws
    kept = small | {"prompts": MIXED | {"draw": False}}
    assert not start(phantom, tmp_path / "run", kept).segmenter.draws
    assert not start(phantom, tmp_path / "other", small).segmenter.draws


def test_the_same_seed_asks_the_same(phantom: Path, small: Settings, run: Path, tmp_path: Path) -> None:
    train(phantom, tmp_path / "again", settings=small | {"prompts": MIXED})
    first, again = (load_file(path / "last" / bundle.WEIGHTS) for path in (run, tmp_path / "again"))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_the_share_of_prompt_free_questions_is_kept() -> None:
    rng = np.random.default_rng(0)
    settings = PromptSection(free=0.25, kinds=("point", "box"), questions=1)
    drawn = [settings.choose(rng) for _ in range(400)]
    assert sum(kinds == (None,) for kinds in drawn) / 400 == pytest.approx(0.25, abs=0.06)
    assert sum(kinds == ("box",) for kinds in drawn) / 400 == pytest.approx(0.375, abs=0.06)


def test_the_prompt_free_question_is_asked_once() -> None:
    rng = np.random.default_rng(0)
    assert PromptSection(questions=4).choose(rng) == (None,)
    drawn = [PromptSection(free=0.5, questions=3).choose(rng) for _ in range(50)]
    assert {kinds.count(None) for kinds in drawn} == {0, 1}
    assert max(len(kinds) for kinds in drawn) == 3


def test_a_step_encodes_once_whatever_it_asks(phantom: Path, small: Settings, tmp_path: Path) -> None:
    encoded = []
    part = module(phantom, small, tmp_path, free=0.0, questions=4)
    encode = part.segmenter.encode
    part.segmenter.encode = lambda images: encoded.append(1) or encode(images)  # type: ignore[method-assign, func-returns-value]
    part.log_dict = part.log = lambda *a, **k: None  # type: ignore[method-assign]
    assert part.training_step(picture(), 0).isfinite()
    assert len(encoded) == 1


def test_a_stack_that_shows_nothing_is_trained_without_prompts(
    phantom: Path, small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingModule, "log_dict", lambda *a, **k: None)
    monkeypatch.setattr(TrainingModule, "log", lambda *a, **k: None)
    part = module(phantom, small, tmp_path, free=0.0)
    empty = picture()
    assert empty.target is not None
    empty.target[:] = 0
    assert part.training_step(empty, 0).isfinite()


def test_corrections_are_trained_too(phantom: Path, small: Settings, tmp_path: Path) -> None:
    calls = []
    part = module(phantom, small, tmp_path, free=0.0, questions=1, corrections=2)
    decode = part.segmenter.decode
    part.segmenter.decode = lambda features, prompts=None: calls.append(prompts) or decode(features, prompts)  # type: ignore[method-assign, func-returns-value]
    part.log_dict = part.log = lambda *a, **k: None  # type: ignore[method-assign]
    part.training_step(picture(), 0).backward()
    assert len(calls) == 3
    assert [call.points.shape[1] - calls[0].points.shape[1] for call in calls] == [0, 1, 2]
    assert calls[0].masks is None
    assert calls[1].masks is not None


def test_wrong_prompt_settings_are_listed_with_their_place(phantom: Path, small: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prompts\.kinds"):
        start(phantom, tmp_path / "run", small | {"prompts": {"free": 0.5, "kinds": ["circle"]}})
    with pytest.raises(ConfigError, match="free: a share from 0 to 1"):
        start(phantom, tmp_path / "run", small | {"prompts": {"free": 2}})
