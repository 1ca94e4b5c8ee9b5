"""Processes seen from outside: their cores, CPU time and memory, and how to start one that ends with its input.

Linux only: `/proc`, and its clock for each process.
"""

import asyncio
import os
import re
import resource
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

ANSWER_BYTES = 64 * 1024
FILES = 65_536
"""Open files: more than 10,000 clients and as many engine connections need."""
STIME = 12
"""Of the fields in `/proc/PID/stat` that follow the command's name."""
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Cores:
    """The cores of the gateway and of everything else; they overlap if there are too few."""

    gateway: frozenset[int]
    others: frozenset[int]

    @staticmethod
    def of_this_process(workers: int = 1) -> "Cores":
        """Give the last cores to the gateway's workers, and at least one to everything else."""
        mine = sorted(os.sched_getaffinity(0))
        first = max(min(1, len(mine) - 1), len(mine) - workers)
        return Cores(frozenset(mine[first:]), frozenset(mine[:first] or mine))


def raise_limits() -> int:
    """Let this process and its children open `FILES` files, or as many as allowed; return how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(hard, FILES)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (ValueError, OSError):  # only root may raise the hard limit
        most = hard
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


@contextmanager
def pinned(cores: frozenset[int]) -> Iterator[None]:
    """Pin this process, and everything it starts meanwhile, to these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@asynccontextmanager
async def child(
    *words: str, log: Path, environment: dict[str, str] | None = None, output: bool = True
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a process with a pipe to its input, and to its output unless `log` takes that as well.

    The process has ended afterwards.
    """
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if output else file,
            stderr=file,
            limit=ANSWER_BYTES,
            env=environment,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()


@dataclass(frozen=True)
class ProcessTree:
    """A process and its children."""

    pid: int

    def cpu_ns(self) -> int:
        """Return the user and system time of all their threads, from Linux's clock of each process."""
        return sum(time.clock_gettime_ns((~pid << 3) | 2) for pid in self.members())

    def kernel_ns(self) -> int:
        """Return the kernel's part of it, which the kernel samples at each tick."""
        ticks = 0
        for pid in self.members():
            fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
            ticks += int(fields[STIME])
        return ticks * TICK_NS

    def rss_mb(self) -> float:
        return sum(_rss_mb(pid) for pid in self.members())

    def members(self) -> list[int]:
        results = [self.pid]
        for pid in results:  # grows meanwhile
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                results += map(int, children.read_text("ascii").split())
        return results


def own_ns() -> int:
    """Return the user and system time of this process and of all that it has ever started."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ProcessTree(os.getpid()).cpu_ns() + int((ended.ru_utime + ended.ru_stime) * 1e9)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def busy_ns(cores: frozenset[int]) -> int:
    """Return the busy time of these cores since boot, including what other guests of the host took."""
    names = {f"cpu{core}" for core in cores}
    busy = 0
    for line in Path("/proc/stat").read_text("ascii").splitlines():
        name, *numbers = line.split()
        if name in names:
            user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, numbers)
            busy += (user + nice + system + irq + softirq + steal) * TICK_NS
    return busy


def _rss_mb(pid: int) -> float:
    results = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text("ascii"), re.MULTILINE)
    assert results is not None, f"process {pid} has ended"
    return int(results[1]) / 1024
