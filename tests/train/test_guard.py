"""Runs that stop: patience that is over, losses that are no numbers, lost workers, no memory left."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from voxelsam.errors import TrainingError
from voxelsam.train import history, patience, run
from voxelsam.train.guard import Guard, ladder
from voxelsam.train.job import start
from voxelsam.train.module import TrainingModule

Settings = dict[str, dict[str, Any]]
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def small(small: Settings) -> Settings:
    """The cheapest run: two batches in an epoch, and only a decoder is trained."""
    return small | {"adapt": {"name": "decoder_only"}, "train": small["train"] | {"stacks_per_epoch": 4}}


def contents(folder: Path) -> dict[str, str]:
    """What of a run must outlive a failure."""
    names = ("best", "last", "state.ckpt", "metrics.csv", "recipe.yaml")
    files = [file for name in names for file in [folder / name, *(folder / name).rglob("*")] if file.is_file()]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


class TestPatience:
    def rows(self, *scores: float | None) -> list[dict[str, float]]:
        return [{"epoch": epoch} | ({} if dice is None else {"val_dice": dice}) for epoch, dice in enumerate(scores)]

    @pytest.mark.parametrize(
        ("scores", "waited"),
        [
            ((), 0),
            ((None, None), 0),
            ((0.1, 0.2, 0.3), 0),
            ((0.3, 0.3, 0.3), 2),
            ((0.1, 0.5, None, 0.4, None, 0.5), 2),
            ((float("nan"), float("nan")), 2),
            ((float("nan"), 0.0), 0),
        ],
    )
    def test_only_validations_count_and_an_equal_one_is_not_better(
        self, scores: tuple[float | None, ...], waited: int
    ) -> None:
        assert patience.since_best(self.rows(*scores)) == waited
        assert patience.is_over(self.rows(*scores), waited + 1) is False
        assert patience.is_over(self.rows(*scores), None) is False
        if waited:
            assert patience.is_over(self.rows(*scores), waited)

    def test_a_run_that_had_all_its_epochs_did_not_stop_early(self) -> None:
        rows = self.rows(0.3, 0.2)
        assert [patience.ending(rows, 1, epochs)["stopped_early"] for epochs in (2, 3)] == [False, True]
        assert patience.ending(rows, None, 3) == {
            "epochs": 2,
            "best_epoch": 1,
            "best_val_dice": 0.3,
            "stopped_early": False,
        }

    def test_a_run_ends_early_says_so_and_does_not_begin_again(
        self, run: Command, phantom: Path, small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "run"
        scores = iter((0.2, 0.5, 0.5, 0.4, 0.9, 0.9))
        ended = TrainingModule.on_validation_epoch_end

        def scored(self: TrainingModule) -> None:
            ended(self)
            self._validated["val_dice"] = next(scores)

        monkeypatch.setattr(TrainingModule, "on_validation_epoch_end", scored)
        settings = [f"{name}.{key}={json.dumps(value)}" for name, part in small.items() for key, value in part.items()]
        changed = [*settings, "train.epochs=6", "train.patience=2", "train.stacks_per_epoch=2"]
        options = [word for setting in changed for word in ("--set", setting)]
        code, out, _ = run("train", phantom, "-o", folder, *options)
        assert code == 0
        assert "stopped early after 4 epochs" in out
        assert "best validation Dice: 0.500 (epoch 2)" in out
        rows = history.read(folder / "metrics.csv")
        assert [row["since_best"] for row in rows] == [0, 0, 1, 2]
        (noted,) = json.loads((folder / "run.json").read_text())["runs"]
        assert noted["ended"] == {"epochs": 4, "best_epoch": 2, "best_val_dice": 0.5, "stopped_early": True}
        before = contents(folder)
        code, out, _ = run("train", "-o", folder, "--continue")
        assert (code, contents(folder)) == (0, before)


class TestNumbers:
    @pytest.fixture
    def failing(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
        """Spoils the loss, or its gradient, of a batch; gives the batches of training."""

        def at(epoch: int, index: int, factor: Callable[[torch.Tensor], torch.Tensor]) -> list[Any]:
            step, batches = TrainingModule.training_step, []

            def spoilt(self: TrainingModule, batch: Any, number: int) -> torch.Tensor:
                batches.append(batch)
                loss = step(self, batch, number)
                return factor(loss) if (self.current_epoch, number) == (epoch, index) else loss

            monkeypatch.setattr(TrainingModule, "training_step", spoilt)
            return batches

        return at

    @pytest.mark.parametrize(
        ("factor", "said"),
        [
            (lambda loss: loss * float("nan"), "the loss is not a finite number"),
            (lambda loss: loss + float("inf"), "the loss is not a finite number"),
            (lambda loss: loss * 0 + (loss - loss.detach()).abs().sqrt(), "its gradient is not"),
        ],
        ids=["nan", "inf", "gradient"],
    )
    def test_the_run_stops_keeps_what_was_good_and_names_the_stacks(
        self,
        phantom: Path,
        small: Settings,
        tmp_path: Path,
        failing: Callable[..., list[Any]],
        factor: Callable[[torch.Tensor], torch.Tensor],
        said: str,
    ) -> None:
        batches = failing(1, 1, factor)
        job = start(phantom, tmp_path / "run", small)
        good: dict[str, str] = {}
        with pytest.raises(TrainingError, match=f"{said} at epoch 2, batch 2") as stop:
            run.fit(job, told=lambda row, epochs: good.update(contents(tmp_path / "run")))
        assert good
        assert contents(tmp_path / "run") == good
        expected = set(zip(batches[-1].cases, batches[-1].first.tolist(), strict=True))
        assert {(one["case"], one["first_slice"]) for one in stop.value.facts["stacks"]} == expected
        assert all(case in str(stop.value) for case, _ in expected)
        assert "train.lr" in str(stop.value)

    def test_all_batches_that_a_gradient_came_from_are_named(
        self, phantom: Path, small: Settings, tmp_path: Path, failing: Callable[..., list[Any]]
    ) -> None:
        batches = failing(0, 2, lambda loss: loss * 0 + (loss - loss.detach()).abs().sqrt())
        settings = small | {"train": small["train"] | {"batch": 1, "accumulate": 2}}
        with pytest.raises(TrainingError, match="its gradient is not") as stop:
            run.train(phantom, tmp_path / "run", settings=settings)
        named = [(one["case"], one["first_slice"]) for one in stop.value.facts["stacks"]]
        assert named == [(batch.cases[0], int(batch.first[0])) for batch in batches[2:4]]

    def test_the_command_says_it_and_writes_it_down(
        self, run: Command, phantom: Path, tmp_path: Path, failing: Callable[..., list[Any]]
    ) -> None:
        failing(0, 0, lambda loss: loss * float("nan"))
        options = ("--set", "stack.size=[32,32]", "--set", "train.stacks_per_epoch=2", "--set", "train.epochs=1")
        code, _, err = run("train", phantom, "-o", tmp_path / "run", *options)
        assert code == 2
        assert "not a finite number" in err
        (noted,) = json.loads((tmp_path / "run" / "run.json").read_text())["runs"]
        assert noted["status"] == "failed"
        assert (noted["ended"]["epoch"], noted["ended"]["batch"]) == (0, 0)
        assert noted["ended"]["stacks"]
        assert str(tmp_path) not in json.dumps(noted)

    def test_with_fp16_a_gradient_is_left_to_the_scaler(self, phantom: Path, small: Settings, tmp_path: Path) -> None:
        weight = torch.nn.Parameter(torch.ones(1))
        weight.grad = torch.full((1,), torch.inf)
        optimiser = torch.optim.SGD([weight])
        for precision in ("fp32", "bf16", "fp16"):
            job = start(phantom, tmp_path / "run", small | {"train": small["train"] | {"precision": precision}})
            guard = Guard(job)
            if precision == "fp16":
                guard.on_before_optimizer_step(None, None, optimiser)  # type: ignore[arg-type]
                with pytest.raises(TrainingError, match="bf16 in place of fp16"):
                    guard.on_before_backward(None, None, torch.tensor(torch.nan))  # type: ignore[arg-type]
                continue
            with pytest.raises(TrainingError, match="gradient"):
                guard.on_before_optimizer_step(None, None, optimiser)  # type: ignore[arg-type]


class TestResources:
    def failing(self, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
        step = TrainingModule.training_step

        def full(self: TrainingModule, batch: Any, index: int) -> Any:
            if (self.current_epoch, index) == (1, 0):
                raise error
            return step(self, batch, index)

        monkeypatch.setattr(TrainingModule, "training_step", full)

    @pytest.mark.parametrize(
        "error",
        [
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000 bytes."),
            MemoryError(),
        ],
        ids=["cuda", "cpu", "numpy"],
    )
    def test_without_memory_the_error_says_what_was_tried_and_what_helps(
        self, phantom: Path, small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
    ) -> None:
        self.failing(monkeypatch, error)
        with pytest.raises(TrainingError, match="there is no memory left in epoch 2") as stop:
            run.train(phantom, tmp_path / "run", settings=small)
        said = str(stop.value)
        assert "2 stacks of 3 slices of 32 × 32 pixels" in said
        helps = ["train.batch=1 with train.accumulate=2", "train.checkpointing=true", "stack.size=[16, 16]"]
        assert [said.index(help_) for help_ in helps] == sorted(said.index(help_) for help_ in helps)
        assert "--continue" in said
        assert len(history.read(tmp_path / "run" / "metrics.csv")) == 1

    def test_errors_of_another_kind_stay_what_they_are(
        self, phantom: Path, small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.failing(monkeypatch, RuntimeError("shapes cannot be multiplied"))
        with pytest.raises(RuntimeError, match="cannot be multiplied"):
            run.train(phantom, tmp_path / "run", settings=small)

    def test_the_ladder_offers_only_what_is_not_done_yet(self, phantom: Path, small: Settings, tmp_path: Path) -> None:
        lean = {"batch": 1, "accumulate": 4, "checkpointing": True, "precision": "bf16"}
        settings = small | {"train": small["train"] | lean, "stack": {"size": [32, 64], "depth": 1}}
        assert ladder(start(phantom, tmp_path / "run", settings)) == ["stack.size=[16, 32]"]

    @pytest.mark.slow
    def test_a_killed_worker_is_an_error_of_ours_and_the_run_goes_on(
        self, phantom: Path, small: Settings, tmp_path: Path
    ) -> None:
        folder = tmp_path / "run"
        settings = small | {"train": small["train"] | {"workers": 1, "stacks_per_epoch": 4}}
        arguments = [sys.executable, "-c", KILLING, str(phantom), str(folder), json.dumps(settings)]
        environment = os.environ | {"PYTHONWARNINGS": "ignore"}
        killed = subprocess.run(arguments, capture_output=True, text=True, check=False, env=environment)
        assert killed.stdout == ""
        assert "TrainingError: a process that cuts stacks was lost in epoch 2" in killed.stderr.splitlines()[-1]
        assert "killed by signal: Killed" in killed.stderr.splitlines()[-1]
        assert "--continue" in killed.stderr.splitlines()[-1]
        assert len(history.read(folder / "metrics.csv")) == 1
        job = run.go_on(folder)
        run.fit(job)
        assert len(history.read(folder / "metrics.csv")) == 2


KILLING = """
import json, multiprocessing, os, signal, sys
from pathlib import Path
from voxelsam.train import run
from voxelsam.train.module import TrainingModule
step = TrainingModule.training_step
def killing(self, batch, index):
    if self.current_epoch == 1:
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)
    return step(self, batch, index)
TrainingModule.training_step = killing
try:
    run.train(sys.argv[1], Path(sys.argv[2]), settings=json.loads(sys.argv[3]))
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
print("nothing happened")
"""
