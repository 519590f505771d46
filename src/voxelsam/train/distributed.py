"""Several processes that train one network together: who they are, sums over all of them, how they start and end.

A run has a first process. It alone checks the data, prepares the cases, writes files and prints; the others wait at a
gate until it lets them in, and then read what it wrote. Processes are started by ``torchrun``, also on several
machines, or by :func:`launch` on this one; either way they find each other by the variables that torchrun sets.

The result does not depend on how many processes there are: each takes its share of every batch, and losses are made of
sums over the whole batch (:func:`total`), so that each process has the loss and the gradient of the whole batch.
"""

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from uuid import uuid4

import torch
from torch import Tensor
from torch import distributed as dist
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from voxelsam.errors import ConfigError, TrainingError, VoxelSamError

T = TypeVar("T")

PATIENCE = timedelta(days=2)
"""How long processes wait for one another: preparing a large data set takes hours. A lost process is noticed at once
all the same, because its connections close."""

LOST = ("connection closed by peer", "connection reset by peer", "broken pipe", "nccl", "socket timeout", "recv failed")
"""How the messages of PyTorch's back-ends say that another process is gone."""


@dataclass
class Group:
    """The processes of a run, as one of them sees it."""

    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1
    """How many processes there are."""
    here: int = 1
    """How many of them are on this machine."""
    gate_closed: bool = True
    """Whether the others wait, or will wait, for the first process."""

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    @property
    def machines(self) -> int:
        """How many machines take part."""
        return self.size // self.here


_group = Group()
_times = 0


def current() -> Group:
    """The group of this process; a group of one outside of :func:`group`."""
    return _group


def started_together() -> bool:
    """Whether this process was started as one of several, by ``torchrun`` or :func:`launch`."""
    return {"RANK", "LOCAL_RANK"} <= os.environ.keys() and int(os.environ.get("WORLD_SIZE", "1")) > 1


def leads() -> bool:
    """Whether this process writes and prints, also before and after the work of its group."""
    return not started_together() or int(os.environ["RANK"]) == 0


@contextmanager
def group() -> Iterator[Group]:
    """Joins the processes that were started together; inside another ``group``, or alone, it does nothing.

    Raises:
        TrainingError: another process was lost.
    """
    global _group, _times  # one process is in one group at a time
    if _group.size > 1 or not started_together():
        yield _group
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
    _times += 1
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        store=PrefixStore(f"voxelsam {_times}", store),  # the store outlives a group, and so do its keys
        rank=rank,
        world_size=size,
        timeout=PATIENCE,
    )
    here = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    _group = Group(rank, size, here)
    try:
        with naming_losses():
            yield _group
            _end()
    except BaseException:
        if _group.first and _group.gate_closed:
            _tell("the first process stopped")
        raise
    finally:
        _group = Group()
        dist.destroy_process_group()


def open_gate() -> None:
    """The first process lets the others in: what they need is written. The others, and a lone process, pass."""
    if _group.size > 1 and _group.first and _group.gate_closed:
        _tell("")
        _group.gate_closed = False


def close_gate() -> None:
    """The work together is done; whoever comes to the gate next waits again."""
    _group.gate_closed = True


def wait_at_gate() -> None:
    """Waits until the first process opens the gate; the first process passes.

    Raises:
        SystemExit: the first process stopped, and has said why; there is nothing to add.
    """
    if _group.first:
        return
    if _hear():
        raise SystemExit(2)
    _group.gate_closed = False


class _Total(torch.autograd.Function):
    """Sum over processes. Each process goes on to compute the same from it, so the gradient needs no exchange."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        """The sum."""
        result = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(result)
        return result

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        """Times the number of processes: gradients of parameters are averaged over them afterwards."""
        return gradients[0] * dist.get_world_size()


def total(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes, which every process must ask for; the tensor itself for a lone process.

    With ``DistributedDataParallel``, which averages gradients, a loss that every process computes from such sums has
    the gradient of the whole batch.
    """
    result: Tensor = _Total.apply(value) if _group.size > 1 else value  # type: ignore[no-untyped-call]
    return result


def anywhere(here: bool) -> bool:
    """Whether it is so in any process; every process must ask."""
    if _group.size == 1:
        return here
    found = torch.tensor(int(here))
    dist.all_reduce(found)
    return bool(found)


def gathered(value: T) -> list[T]:
    """What each process gives, in their order; every process must ask."""
    if _group.size == 1:
        return [value]
    found: list[Any] = [None] * _group.size
    dist.all_gather_object(found, value)
    return found


@contextmanager
def naming_losses() -> Iterator[None]:
    """Turns what PyTorch says when another process is gone into an error of ours.

    Raises:
        TrainingError: another process was lost.
    """
    try:
        yield
    except RuntimeError as error:
        if _group.size == 1 or not any(sign in str(error).lower() for sign in LOST):
            raise
        first = str(error).splitlines()[0].strip()
        raise TrainingError(
            f"process {_group.rank} of {_group.size} lost the connection to another one, which was killed, ran out of "
            f"memory, or is on a machine that is gone ({first}). The last saved state is kept; go on with --continue, "
            "with as many processes as you like"
        ) from None


def launch(count: int, work: Callable[..., T], *arguments: object) -> T:
    """Calls a function in so many new processes on this machine, and gives what the first one returns.

    Args:
        count: how many processes.
        work: a function of a module, so that a new process can find it; it enters :func:`group`.
        *arguments: of the function; they are pickled.

    Raises:
        VoxelSamError: whatever the function raises in the first process.
        TrainingError: a process was killed or broke down; the others were ended.
        KeyboardInterrupt: the run was interrupted.
    """
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with _silent("torch.distributed"), _quiet_children(), _same_signals(), TemporaryDirectory() as notes:
        plan = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            shutdown_timeout=10,
            logs_specs=DefaultLogsSpecs(log_dir=notes),
        )
        try:
            first: tuple[T | None, VoxelSamError | None] = elastic_launch(plan, _safely)(work, *arguments)[0]
        except ChildFailedError as error:
            raise _broken(error, count) from None
        except SignalException:
            raise KeyboardInterrupt from None
    result, problem = first
    if problem is not None:
        raise problem
    return result  # type: ignore[return-value]


def check(devices: int, nodes: int, batch: int, *, shard: bool) -> None:
    """Whether a recipe's processes can do what it asks for.

    Args:
        devices: the recipe's ``train.devices``.
        nodes: the recipe's ``train.nodes``.
        batch: stacks of a step, over all processes.
        shard: the recipe's ``train.shard``.

    Raises:
        ConfigError: several machines without torchrun, more processes than stacks in a step, nobody to share with, or
            processes that did not enter ``group``.
    """
    if started_together() and _group.size == 1:
        raise ConfigError(
            "this was started as one of several processes, but only voxelsam train and voxelsam.train.run.train work "
            "in several: call it without torchrun"
        )
    if nodes > 1 and _group.size == 1:
        raise ConfigError(
            f"train.nodes is {nodes}, and this is one machine: start the run on each of them with "
            f"torchrun --nnodes {nodes} --nproc-per-node {devices} --rdzv-backend c10d --rdzv-endpoint FIRST:29500 "
            "-m voxelsam train …"
        )
    processes = _group.size if _group.size > 1 else devices
    if shard and processes == 1:
        raise ConfigError("train.shard divides the frozen encoder between processes, but there is one: leave it out")
    if processes > batch:
        raise ConfigError(
            f"{processes} processes share the {batch} stacks of a step, so that some would have none: raise "
            "train.batch (it counts the stacks of all processes together), or start fewer processes"
        )


def check_started(devices: int) -> None:
    """Whether the processes that a recipe asks for were started.

    Args:
        devices: the recipe's ``train.devices``.

    Raises:
        ConfigError: there is one process, and the recipe asks for more.
    """
    if devices > 1 and _group.size == 1:
        raise ConfigError(
            f"train.devices asks for {devices} processes, but this is one alone: train by voxelsam train, by "
            "voxelsam.train.run.train, or under torchrun"
        )


def _safely(work: Callable[..., T], *arguments: object) -> tuple[T | None, VoxelSamError | None]:
    """The result of a function, or its error: what another process raises cannot be raised here as it is."""
    try:
        return work(*arguments), None
    except SystemExit as stop:
        if stop.code == 2 and _rank_of_environment() > 0:
            return None, None
        raise
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except TrainingError as error:
        if "lost the connection" in str(error):
            raise SystemExit(3) from None  # the process that launched us knows which one was lost, and says it
        return None, error
    except VoxelSamError as error:
        return None, error


def _rank_of_environment() -> int:
    return int(os.environ.get("RANK", "0"))


def _broken(error: Any, count: int) -> TrainingError:
    """The first failure that is not the echo of another."""
    failures = sorted(error.failures.items(), key=lambda item: (item[1].exitcode >= 0, item[1].exitcode == 3, item[0]))
    rank, failure = failures[0]
    how = f"was killed ({failure.signal_name()})" if failure.exitcode < 0 else f"ended with code {failure.exitcode}"
    said = str(failure.message).strip().splitlines()
    why = f": {said[-1]}" if failure.exitcode >= 0 and said else ""
    return TrainingError(
        f"process {rank} of {count} {how}{why}; the others were ended. The last saved state is kept; go on with "
        "--continue, with as many processes as you like",
        facts={"process": rank, "exit": failure.exitcode},
    )


def _tell(trouble: str) -> None:
    """Speaks to everyone at the gate."""
    dist.broadcast_object_list([trouble], src=0)


def _hear() -> str:
    heard: list[Any] = [None]
    dist.broadcast_object_list(heard, src=0)
    return str(heard[0])


def _end() -> None:
    """The last gate: nobody leaves before the first process is done."""
    if _group.first and _group.gate_closed:
        _tell("the end")
    elif not _group.first and _group.gate_closed:
        _hear()


@contextmanager
def _same_signals() -> Iterator[None]:
    """Gives signals back to who had them: PyTorch's launcher takes them, and keeps them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")  # Windows has only two of them
    before = {getattr(signal, name): signal.getsignal(getattr(signal, name)) for name in names if hasattr(signal, name)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _quiet_children() -> Iterator[None]:
    """New processes show errors of PyTorch's inside only: that replicas found a use for all parameters is none."""
    told = os.environ.get("TORCH_CPP_LOG_LEVEL")
    os.environ["TORCH_CPP_LOG_LEVEL"] = told or "ERROR"
    try:
        yield
    finally:
        if told is None:
            del os.environ["TORCH_CPP_LOG_LEVEL"]


@contextmanager
def _silent(name: str) -> Iterator[None]:
    """Hides what a library logs about processes: the errors raised here say it."""
    loud = [
        logging.getLogger(known)
        for known in list(logging.root.manager.loggerDict)
        if known.startswith(name) and not logging.getLogger(known).disabled
    ]
    for logger in loud:
        logger.disabled = True
    try:
        yield
    finally:
        for logger in loud:
            logger.disabled = False


def place() -> str:
    """This process, for messages: its number and the name of its machine."""
    return f"process {_group.rank} of {_group.size} on {socket.gethostname()}"
