"""How benchmarks measure: the peak of a first call, then ways of doing the same work in turn (A B A B), and medians.

On a processor time is that of this process on one thread, which other programs lengthen least, and memory is the
growth of the process up to its peak in the call, as Linux sees it. On a GPU time is that of the clock, with the device
waited for, and memory is PyTorch's account.
"""

import ctypes
import datetime as dt
import gc
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass
class Taken:
    """What one way of doing the work took."""

    seconds: list[float] = field(default_factory=list)
    memory: int | None = None
    """Peak of the first call; None where the system does not tell."""
    result: Any = None

    @property
    def time(self) -> float:
        return statistics.median(self.seconds)


def in_turn(ways: Mapping[str, Callable[[], Any]], rounds: int, device: str = "cpu") -> dict[str, Taken]:
    """Calls each way once to watch its memory, then once per round for its time; keeps the result of the last round."""
    taken = {name: Taken() for name in ways}
    for name, call in ways.items():
        before = begin(device)
        call()
        most = peak(device)
        taken[name].memory = None if most is None or before is None else most - before
    for _ in range(rounds):
        for name, call in ways.items():
            one = taken[name]
            one.result = None
            start = clock(device)
            one.result = call()
            one.seconds.append(clock(device) - start)
    return taken


def clock(device: str) -> float:
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def begin(device: str) -> int | None:
    """Gives free memory back, begins to watch the peak, and tells what is held now.

    On a GPU PyTorch keeps the memory that it once took: to take it again would be part of the next call's time.
    """
    gc.collect()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        return int(torch.cuda.memory_allocated())
    reset = Path("/proc/self/clear_refs")
    if not os.access(reset, os.W_OK):
        return None
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    reset.write_text("5", "ascii")
    return status("VmRSS")


def peak(device: str) -> int | None:
    """The most that was held since ``begin``."""
    if device != "cpu":
        return int(torch.cuda.max_memory_allocated())
    return status("VmHWM") if os.access("/proc/self/clear_refs", os.W_OK) else None


def status(key: str) -> int:
    """A number of bytes that Linux knows of this process."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def matrix_rates(device: str, seconds: float = 0.3) -> dict[str, float]:
    """Operations per second of a plain linear layer, by arithmetic: the most that a network can reach here."""
    rows, channels, out = (5120, 768, 3072) if device == "cpu" else (8192, 8192, 8192)
    found = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        x = torch.randn(rows, channels, device=device, dtype=dtype)
        weight = torch.randn(out, channels, device=device, dtype=dtype)
        torch.nn.functional.linear(x, weight)
        rates, until = [], clock(device) + seconds
        while not rates or clock(device) < until:
            start = clock(device)
            for _ in range(4):
                torch.nn.functional.linear(x, weight)
            rates.append(8 * rows * channels * out / (clock(device) - start))
        found[name] = max(rates)
    return found


def machine(device: str = "cpu") -> dict[str, object]:
    """Where and with what this was measured."""
    import voxelsam

    facts: dict[str, object] = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {processor()}",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "voxelsam": voxelsam.__version__,
    }
    if device != "cpu":
        facts |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return facts


def processor() -> str:
    """Name of the processor and what of its matrix arithmetic counts here."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return f"{platform.processor() or 'unknown processor'}, {os.cpu_count()} cores"
    fields = dict(
        (part.strip() for part in line.split(":", 1)) for line in cpuinfo.read_text().splitlines() if ":" in line
    )
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8")
    flags = [flag for flag in wanted if flag in fields.get("flags", "").split()]
    name = f"{fields.get('model name', 'unknown')} (family {fields.get('cpu family')}, model {fields.get('model')})"
    return f"{name}, {os.cpu_count()} cores, {' '.join(flags)}"


@dataclass(frozen=True)
class Ran:
    """What a process of its own took and wrote."""

    seconds: float
    output: str
    error: str


def child(arguments: list[str]) -> Ran:
    """Runs Python in a process of its own, on one thread; seconds are those of the processor.

    Raises:
        RuntimeError: it failed.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    before = os.times()
    run = subprocess.run(  # noqa: S603
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    after = os.times()
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"python {' '.join(arguments)[:100]} ended with {run.returncode}: {last}")
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    return Ran(seconds, run.stdout, run.stderr)
