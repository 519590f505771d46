"""What prediction will need: grows with what it should, says nothing of what was not asked, reads every scan."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from voxelsam import cost
from voxelsam.bundle import AugmentLearnt, Bundle
from voxelsam.cost import Speed, UncountableError
from voxelsam.errors import InputWarning
from voxelsam.infer import forecast
from voxelsam.infer.cases import Task
from voxelsam.infer.forecast import Forecast, Need
from voxelsam.space.grid import Grid
from voxelsam.volumes.volume import Volume

Learnt = Callable[..., Bundle]


@pytest.fixture(autouse=True)
def known_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "speed", lambda device, precision, prepared: Speed(1e9, 1e9, 1e-6))


def volume(slices: int, side: int = 30) -> Volume:
    shape = (side, side, slices)
    return Volume(np.zeros((1, *shape), np.float32), Grid(shape, np.diag([1.0, 1.0, 4.0, 1.0])), "CT")


def test_time_grows_with_the_slices_and_memory_with_the_volume_alone(learnt: Learnt) -> None:
    told = Forecast([learnt()], device="cpu")
    few, many = told(volume(1000)), told(volume(3000))
    assert (few.slices, many.slices) == (1000, 3000)
    assert many.seconds == pytest.approx(3 * few.seconds, rel=0.01)
    assert few.memory > cost.PREDICTOR
    assert many.memory - few.memory == 2000 * 30 * 30 * (4 + 2)


def test_less_overlap_takes_less_time(learnt: Learnt) -> None:
    depth = learnt().description.stack.depth
    assert depth > 1
    every, none = (Forecast([learnt()], device="cpu", overlap=overlap)(volume(60)) for overlap in (depth - 1, 0))
    assert none.seconds < 1.3 * every.seconds / depth
    assert none.memory <= every.memory


def test_a_single_pass_takes_the_time_of_no_overlap_and_memory_of_the_volume(learnt: Learnt) -> None:
    none, single = (
        Forecast([learnt()], device="cpu", **settings)(volume(60))
        for settings in ({"overlap": 0}, {"single_pass": True})
    )
    assert single.seconds == pytest.approx(none.seconds, rel=0.1)
    assert single.memory > none.memory


def test_a_cohort_holds_three_scans_at_a_time(learnt: Learnt) -> None:
    shown = volume(20)
    one, two, many = (Forecast([learnt()], device="cpu", cases=cases)(shown).memory for cases in (1, 2, 9))
    assert two - one == 20 * 30 * 30 * (4 + 2)
    assert many - one == 2 * (two - one)


def test_several_models_take_the_time_of_all(learnt: Learnt) -> None:
    one, two = (Forecast([learnt()] * count, device="cpu")(volume(20)) for count in (1, 2))
    assert two.seconds == pytest.approx(2 * one.seconds, rel=0.05)
    assert one.memory < two.memory < 2 * one.memory


def test_every_view_takes_its_time(learnt: Learnt) -> None:
    known = learnt().description
    flipped = Bundle(replace(known, training_augment=AugmentLearnt("nnunet", ("rows",))), learnt().tensors)
    for trained, shown in ((learnt(), 3), (flipped, 2)):
        plain, every = (Forecast([trained], device="cpu", tta=tta)(volume(20)) for tta in (False, True))
        assert every.seconds == pytest.approx(shown * plain.seconds, rel=0.05)


def test_every_scan_is_read_and_a_bad_one_is_a_failure_of_its_own(
    learnt: Learnt, phantom: Path, tmp_path: Path
) -> None:
    good = next((phantom / "imagesTs").iterdir())
    (tmp_path / "bad.nii.gz").write_bytes(b"no image")
    (tmp_path / "kept.nii.gz").write_bytes(b"a mask")
    todo = [
        Task("good", (good,), tmp_path / "m" / "good.nii.gz"),
        Task("bad", (tmp_path / "bad.nii.gz",), tmp_path / "m" / "bad.nii.gz"),
        Task("kept", (good,), tmp_path / "kept.nii.gz"),
    ]
    found = list(forecast.planned(todo, 1, Forecast([learnt()], device="cpu")))
    assert [outcome.status for outcome, _ in found] == ["planned", "failed", "kept"]
    assert [isinstance(need, Need) for _, need in found] == [True, False, False]
    assert "bad.nii.gz" in found[1][0].reason
    assert not (tmp_path / "m").exists()


def test_a_network_that_cannot_be_counted_is_a_warning(learnt: Learnt, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(setup: object) -> None:
        raise UncountableError("it looks at values")

    monkeypatch.setattr(forecast, "passes", refuse)
    with pytest.warns(InputWarning, match="not estimated: it looks at values"):
        assert forecast.of([learnt()], device="cpu") is None
