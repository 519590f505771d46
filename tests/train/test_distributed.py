"""Two processes compute what one does: losses, gradients, shares of batches, and one step with a sharded backbone."""

import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from voxelsam import adapt, backbones
from voxelsam.data.loader import PADDING, Order, Shares
from voxelsam.errors import ConfigError, TrainingError
from voxelsam.model import Segmenter
from voxelsam.train import distributed, strategy

SCRIPT = Path(__file__).with_name("together.py")


@pytest.fixture(scope="module")
def alone() -> ModuleType:
    """The script, to compute the same in one process."""
    spec = spec_from_file_location("together", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the two processes found."""
    folder = tmp_path_factory.mktemp("together")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--log-dir", str(folder / "log")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [*command, str(SCRIPT), str(folder)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("shares", ["uneven", "one ignored", "one empty"])
@pytest.mark.parametrize("name", ["free", "partial", "objects", "quality"])
def test_a_divided_batch_has_the_loss_and_the_gradient_of_the_whole(
    both: list[dict[str, Any]], alone: ModuleType, shares: str, name: str
) -> None:
    expected = alone.gradients(alone.example())[name]
    for process in both:
        assert process["losses"][shares][name] == pytest.approx(expected, rel=2e-6)
    assert abs(expected[1]) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("way", ["whole", "sharded"])
def test_one_step_of_two_replicas_is_one_step_of_one(both: list[dict[str, Any]], alone: ModuleType, way: str) -> None:
    network = alone.segmenter()
    loss, grads = alone.step(network, alone.Step(network), *alone.pictures())
    for process in both:
        assert process[way]["loss"] == pytest.approx(loss, rel=1e-6)
        assert process[way]["grads"].keys() == grads.keys()
        for key, expected in grads.items():
            assert torch.allclose(process[way]["grads"][key], expected, rtol=1e-4, atol=1e-7), key
    assert max(float(grad.abs().max()) for grad in grads.values()) > 1e-3


@pytest.mark.slow
def test_a_sharded_encoder_lies_in_parts(both: list[dict[str, Any]]) -> None:
    whole = both[0]["whole"]["here"]
    parts = [process["sharded"]["here"] for process in both]
    assert sum(parts) == whole
    assert max(parts) < 0.6 * whole


@pytest.mark.slow
def test_processes_know_themselves_and_one_another(both: list[dict[str, Any]]) -> None:
    assert [process["rank"] for process in both] == [0, 1]
    assert [process["first"] for process in both] == [True, False]
    assert [process["machines"] for process in both] == [1, 1]
    assert all(process["gathered"] == [{"from": 0}, {"from": 1}] for process in both)
    assert all(process["anywhere"] == (True, False) for process in both)
    assert all(process["through the gate"] for process in both)


@pytest.mark.parametrize(("length", "batch", "size"), [(12, 4, 2), (13, 4, 2), (10, 4, 3), (3, 5, 2), (1, 2, 2)])
def test_every_stack_goes_to_exactly_one_process(length: int, batch: int, size: int) -> None:
    orders = [Order(length, seed=7) for _ in range(size)]
    for order in orders:
        order.set_epoch(3)
    whole = list(Shares(orders[0], batch))
    shares = [list(Shares(order, batch, rank, size)) for rank, order in enumerate(orders)]
    assert {len(share) for share in shares} == {len(whole)}
    for step, expected in enumerate(whole):
        together = [item for share in shares for item in share[step]]
        assert [item for item in together if item[1] != PADDING] == expected
        assert all(share[step] for share in shares)
        sizes = [sum(position != PADDING for _, position in share[step]) for share in shares]
        assert max(sizes) - min(sizes) <= 1
    assert sorted(position for step in whole for _, position in step) == list(range(length))


def test_a_process_without_a_stack_gets_padding_and_only_in_the_last_step() -> None:
    shares = [list(Shares(Order(5), 4, rank, 2)) for rank in (0, 1)]
    assert shares[0] == [[(0, 0), (0, 1)], [(0, PADDING)]]
    assert shares[1] == [[(0, 2), (0, 3)], [(0, 4)]]


class TestAlone:
    def test_a_lone_process_is_the_first_of_one(self) -> None:
        with distributed.group() as group:
            assert group.first
            assert group.size == group.machines == 1

    def test_sums_are_what_is_there(self) -> None:
        value = torch.tensor([1.0, 2.0])
        assert distributed.total(value) is value
        assert distributed.gathered("a") == ["a"]
        assert distributed.anywhere(True)
        assert not distributed.anywhere(False)

    def test_its_gate_is_never_closed(self) -> None:
        distributed.wait_at_gate()
        distributed.open_gate()

    def test_its_own_errors_stay_what_they_are(self) -> None:
        with pytest.raises(RuntimeError, match="broken pipe"), distributed.naming_losses():
            raise RuntimeError("broken pipe")


class TestWhatIsAskedFor:
    def test_several_machines_need_torchrun(self) -> None:
        with pytest.raises(ConfigError, match=r"torchrun --nnodes 2 --nproc-per-node 4"):
            distributed.check(4, 2, 24, shard=False)

    def test_more_processes_than_stacks(self) -> None:
        with pytest.raises(ConfigError, match=r"4 processes share the 2 stacks"):
            distributed.check(4, 1, 2, shard=False)

    def test_a_shard_of_one(self) -> None:
        with pytest.raises(ConfigError, match=r"train\.shard"):
            distributed.check(1, 1, 2, shard=True)

    def test_what_can_be_done_passes(self) -> None:
        distributed.check(1, 1, 1, shard=False)
        distributed.check(2, 1, 2, shard=True)

    def test_processes_that_nobody_started(self) -> None:
        with pytest.raises(ConfigError, match="asks for 2 processes, but this is one alone"):
            distributed.check_started(2)
        distributed.check_started(1)


class TestTwoOfThem:
    @pytest.fixture(autouse=True)
    def two(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(distributed, "_group", distributed.Group(0, 2, 2))

    def test_one_device_is_not_enough(self, alone: ModuleType) -> None:
        with pytest.raises(ConfigError, match=r"2 processes train on cpu or cuda, .* not on cuda:1"):
            strategy.options(alone.segmenter(), torch.device("cuda:1"), shard=False)

    def test_an_encoder_that_is_trained_cannot_be_divided(self) -> None:
        backbone, _ = backbones.obtain("sam-tiny", None, (32, 32))
        full = Segmenter(backbone, adapt.build("full", {}, backbone, 3))
        with pytest.raises(ConfigError, match="this method trains its own"):
            strategy.options(full, torch.device("cpu"), shard=True)

    def test_what_they_are_told(self, alone: ModuleType) -> None:
        found = strategy.options(alone.segmenter(), torch.device("cpu"), shard=True)
        assert (found["devices"], found["num_nodes"], found["use_distributed_sampler"]) == (2, 1, False)

    def test_a_lost_process_is_an_error_with_the_way_out(self) -> None:
        said = r"process 0 of 2 lost .*reset by peer.*--continue"
        with pytest.raises(TrainingError, match=said), distributed.naming_losses():
            raise RuntimeError("[gloo] Connection reset by peer\n at frame 0")
        with pytest.raises(RuntimeError, match="shapes"), distributed.naming_losses():
            raise RuntimeError("shapes do not fit")


def test_processes_of_another_launcher_are_refused_where_they_cannot_work(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "1"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert distributed.started_together()
    assert not distributed.leads()
    with pytest.raises(ConfigError, match="without torchrun"):
        distributed.check(1, 1, 4, shard=False)
    monkeypatch.delenv("LOCAL_RANK")
    assert not distributed.started_together()


@pytest.mark.slow
def test_launched_processes_give_their_result_or_their_error() -> None:
    import operator

    assert distributed.launch(2, operator.add, 1, 2) == 3
    with pytest.raises(TrainingError, match=r"process \d of 2 ended with code 1.*ZeroDivisionError.*--continue"):
        distributed.launch(2, operator.truediv, 1, 0)
