"""What a run shows while it goes: numbers, table, picture, and a dry run's estimates."""

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from voxelsam.cli import screen
from voxelsam.train import history, progress, run, trial
from voxelsam.train.job import start
from voxelsam.train.live import Moment
from voxelsam.train.progress import Picture

Settings = dict[str, dict[str, Any]]
Command = Callable[..., tuple[int, str, str]]

ROWS = [
    {"epoch": 0.0, "lr": 1e-3, "loss": 1.0, "ce": 2.0, "dice_loss": 0.9, "val_dice": 0.2, "dice/liver": 0.2},
    {"epoch": 1.0, "lr": 5e-4, "loss": 0.8, "ce": 1.5, "dice_loss": 0.8},
]


def test_every_batch_and_every_epoch_is_told_with_speed_memory_and_time_left(
    phantom: Path, small: Settings, tmp_path: Path
) -> None:
    moments: list[Moment] = []
    rows: list[dict[str, float]] = []
    settings = small | {"train": small["train"] | {"epochs": 3}}
    job = start(phantom, tmp_path / "run", settings)
    run.fit(job, live=moments.append, told=lambda row, epochs: rows.append(dict(row)))
    assert [(one.epoch, one.batch, one.batches) for one in moments] == [(e, b, 3) for e in range(3) for b in (1, 2, 3)]
    assert all(one.speed > 0 and (one.memory or 0) > 10 for one in moments)
    assert [one.left is None for one in moments] == [True] * 3 + [False] * 6
    left = [one.left for one in moments[3:6]]
    assert left == sorted(left, reverse=True)  # type: ignore[type-var]
    assert not moments[2].validated
    assert moments[3].validated["val_dice"] == rows[0]["val_dice"]
    assert moments[-1].best["val_dice"] == max(row["val_dice"] for row in rows[:2])
    mean = sum(one.losses["loss"] for one in moments[:3]) / 3
    assert mean == pytest.approx(rows[0]["loss"], rel=1e-5)
    timing = history.read(tmp_path / "run" / "timing.csv")
    assert [row["epoch"] for row in timing] == [0, 1, 2]
    assert all(row["seconds"] > 0 for row in timing)
    assert not {"seconds", "speed", "memory"} & history.read(tmp_path / "run" / "metrics.csv")[0].keys()
    assert rows[-1]["left"] == 0


def test_timing_of_an_interrupted_run_goes_on(phantom: Path, small: Settings, tmp_path: Path) -> None:
    job = start(phantom, tmp_path / "run", small)

    def stop(moment: Moment) -> None:
        if moment.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.fit(job, live=stop)
    first = history.read(tmp_path / "run" / "timing.csv")
    run.train(phantom, tmp_path / "run", resume=True)
    both = history.read(tmp_path / "run" / "timing.csv")
    assert [row["epoch"] for row in both] == [0, 1]
    assert both[:1] == first


class TestScreen:
    moment = Moment(1, 30, 4, 70, {"loss": 0.5, "ce": 0.25, "dice_loss": 0.56}, ROWS[0], ROWS[0], 3.21, 2100, 754.0)

    def shown(self, moment: Moment) -> str:
        console = Console(width=120, record=True, file=StringIO())
        console.print(screen.moment(moment, ("liver", "spleen")))
        return console.export_text()

    def test_the_table_has_it_all(self) -> None:
        text = self.shown(self.moment)
        for part in (
            "2 of 30, batch 4 of 70",
            "loss 0.5000  ce 0.2500  dice_loss 0.5600",
            "liver 0.200  spleen –",
            "0.200 (epoch 1)",
            "3.21 stacks/s",
            "2.1 GB",
            "12 min 34 s",
        ):
            assert part in text, part

    def test_what_is_not_known_yet_is_a_dash(self) -> None:
        text = self.shown(Moment(0, 1, 1, 1, {"loss": 1.0}, {}, {}, 1.0, None, None))
        assert text.count("–") == 5

    @pytest.mark.parametrize(
        ("terminal", "quiet", "live"), [(True, False, True), (True, True, False), (False, False, False)]
    )
    def test_it_is_live_on_a_terminal_only(
        self, monkeypatch: pytest.MonkeyPatch, terminal: bool, quiet: bool, live: bool
    ) -> None:
        console = Console(force_terminal=terminal, record=True, width=100, file=StringIO())
        monkeypatch.setattr(screen, "err", console)
        with screen.training(("liver",), quiet=quiet) as show:
            assert (show is not None) is live
            if show:
                show(self.moment)
        assert ("2 of 30" in console.export_text()) is live

    def test_lines_elsewhere_and_nothing_but_json_if_asked_for(
        self, run: Command, phantom: Path, tmp_path: Path
    ) -> None:
        settings = ("adapt.name=decoder_only", "stack.size=[32,32]", "train.epochs=2", "train.stacks_per_epoch=2")
        options = [word for setting in settings for word in ("--set", setting)]
        code, out, _ = run("train", phantom, "-o", tmp_path / "a", *options)
        lines = [line for line in out.splitlines() if line.startswith("epoch ")]
        assert code == 0
        assert [line.split("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
        assert all("stacks/s" in line and "best " in line for line in lines)
        assert [line.endswith(" left") for line in lines] == [True, False]
        code, out, err = run("train", phantom, "-o", tmp_path / "b", *options, "--json")
        assert code == 0
        assert json.loads(out)["metrics"]["epoch"] == 1
        assert "epoch 1/2" not in err


class TestPicture:
    def test_it_is_drawn_anew_after_each_epoch(self, tmp_path: Path, trained: Path) -> None:
        with Image.open(trained / "progress.png") as drawn:
            assert drawn.size == (1100, 700)
        picture = Picture(tmp_path / "progress.png")
        picture.draw(ROWS[:1], [{"epoch": 0, "seconds": 3.0}])
        first = (tmp_path / "progress.png").read_bytes()
        picture.draw(ROWS, [{"epoch": 0, "seconds": 3.0}, {"epoch": 1, "seconds": 2.0}])
        assert (tmp_path / "progress.png").read_bytes() != first
        assert [path.name for path in tmp_path.iterdir()] == ["progress.png"]

    def test_it_never_stops_a_run_and_complains_once(
        self, phantom: Path, small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*arguments: object) -> None:
            raise ValueError("no fonts here")

        monkeypatch.setattr(progress, "_draw", broken)
        with pytest.warns(RuntimeWarning, match=r"progress\.png cannot be drawn \(no fonts here\)") as caught:
            run.train(phantom, tmp_path / "run", settings=small)
        assert len(caught) == 1
        assert len(history.read(tmp_path / "run" / "metrics.csv")) == 2


class TestTrial:
    def test_it_measures_real_steps_and_writes_nothing(
        self, phantom: Path, small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from voxelsam.train.module import TrainingModule

        steps: list[str] = []

        def counted(name: str) -> Callable[..., Any]:
            step = getattr(TrainingModule, name)

            def counting(self: TrainingModule, batch: Any, index: int) -> Any:
                steps.append(name)
                return step(self, batch, index)

            return counting

        for name in ("training_step", "validation_step"):
            monkeypatch.setattr(TrainingModule, name, counted(name))
        changed = {"train": small["train"] | {"epochs": 10, "validate_every": 5, "batch": 2, "accumulate": 3}}
        found = trial.rehearse(start(phantom, tmp_path / "run", small | changed))
        assert steps == ["training_step", "training_step", "validation_step"]
        assert list(tmp_path.iterdir()) == []
        assert (found.batch, found.epochs, found.steps_per_epoch, found.validations) == (2, 10, 3, 2)
        assert found.validation_steps == 2
        expected = 30 * found.seconds_per_step + 4 * found.seconds_per_validation_step
        assert found.seconds == pytest.approx(expected)
        assert found.seconds_per_step > 0
        assert (found.memory_mb or 0) > 10

    def test_the_disk_it_says_is_what_a_run_takes(
        self, phantom: Path, small: Settings, trained: Path, tmp_path: Path
    ) -> None:
        found = trial.rehearse(start(phantom, tmp_path / "run", small))
        parts = [trained / name for name in ("cache", "state.ckpt", "best", "last")]
        files = [file for part in parts for file in [part, *part.rglob("*")] if file.is_file()]
        assert found.disk_mb == pytest.approx(sum(file.stat().st_size for file in files) / 1e6, rel=0.2)
        assert found.disk_free_mb > 0

    def test_the_command_prints_it(self, run: Command, phantom: Path, tmp_path: Path) -> None:
        options = ("--set", "stack.size=[32,32]", "--set", "adapt.name=decoder_only", "--dry-run")
        code, out, _ = run("train", phantom, "-o", tmp_path / "run", *options, "--json")
        assert code == 0
        assert json.loads(out)["trial"].keys() >= {"seconds_per_step", "memory_mb", "seconds", "disk_mb"}
        code, out, _ = run("train", phantom, "-o", tmp_path / "run", *options)
        assert code == 0
        for name in ("one step", "one epoch", "whole run", "peak memory", "disk"):
            assert f"{name}: " in out
        assert not (tmp_path / "run").exists()
