"""TCP_NODELAY, seen twice: in the time to a first token on a kept-alive connection, and on the sockets themselves.

Where the option is missing a second small write waits for the peer's delayed ACK, 40 ms; on a new connection that does
not show, since its first ACKs are quick.
"""

import asyncio
import ctypes
import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.figures import Figure, Spread
from bench.load import BenchmarkFailed, LoadResult, Workload
from bench.processes import ProcessTree
from bench.sampler import Run
from bench.targets import Stage, Target

KEPT_ALIVE = Workload(kind="closed", connections=1, tokens=5, interval_ms=5, warm=0.3, seconds=1)
"""One stream right after the other on one connection: after a pause ACKs are quick, too."""
ACK_SECONDS = 0.035
"""Less than any delayed ACK."""
_PIDFD_GETFD = 438
"""The system call, the same on all of Linux's processors."""
_libc = ctypes.CDLL(None, use_errno=True)


async def check_nodelay(stage: Stage, run: Run) -> tuple[Figure, str]:
    """The time to the first token, and what the gateway's sockets say; `BenchmarkFailed` when one waits for an ACK."""
    medians = {}
    content = ""
    for target in stage.targets:
        running_load = asyncio.create_task(stage.run(target, KEPT_ALIVE))
        try:
            if target is stage.ours:
                await asyncio.sleep(KEPT_ALIVE.warm + KEPT_ALIVE.seconds / 2)
                content = _on_sockets(stage, target)
        finally:
            result = await running_load
        if target is stage.ours:
            await run.count(result)
        assert result.first is not None
        medians[target.name] = Spread(result.first.p50 * 1e3, result.first.least * 1e3, result.first.most * 1e3)
        if waits_for_ack(result):
            raise BenchmarkFailed(
                f"{target.name}: {result.first.least * 1e3:.0f} ms to each first token: it waits for delayed ACKs"
            )
    return Figure(name="TTFT on a kept-alive connection", unit="ms", table="latency", by_target=medians), content


def waits_for_ack(result: LoadResult) -> bool:
    """No stream began without: a busy machine makes some late, Nagle's algorithm all."""
    return result.first is not None and result.first.least > ACK_SECONDS


def _on_sockets(stage: Stage, target: Target) -> str:
    assert target.family is not None
    try:
        results = list(sockets(target.family))
    except OSError as error:
        return f"the gateway's sockets could not be looked at: {error.strerror}"
    sides = {
        "clients": [nodelay for own, _, nodelay in results if own == target.port],
        "the engine": [nodelay for _, peer, nodelay in results if peer == stage.cluster.engine_port],
    }
    for side, options in sides.items():
        if not options or not all(options):
            raise BenchmarkFailed(
                f"{target.name}: TCP_NODELAY is set on {sum(options)} of {len(options)} connections to {side}"
            )
    return ", ".join(f"on {len(options)} of {len(options)} connections to {side}" for side, options in sides.items())


def sockets(family: ProcessTree) -> Iterator[tuple[int, int, bool]]:
    """Own port, peer's port and TCP_NODELAY of each connection; `OSError` where looking is not allowed."""
    for pid in family.members():
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if str(entry.readlink()).startswith("socket:") and (seen := _seen(pid, int(entry.name))):
                    yield seen
            except OSError as error:
                if error.errno not in {errno.ENOENT, errno.EBADF}:  # closed meanwhile
                    raise


def _seen(pid: int, number: int) -> tuple[int, int, bool] | None:
    with _borrowed(pid, number) as theirs:
        if theirs.family != socket.AF_INET or theirs.type != socket.SOCK_STREAM:
            return None
        try:
            peer = int(theirs.getpeername()[1])
        except OSError:
            return None  # it listens
        nodelay = theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        return int(theirs.getsockname()[1]), peer, bool(nodelay)


@contextmanager
def _borrowed(pid: int, number: int) -> Iterator[socket.socket]:
    """Another process's socket, by a descriptor of our own."""
    process = os.pidfd_open(pid)
    try:
        copy = _libc.syscall(_PIDFD_GETFD, process, number, 0)
    finally:
        os.close(process)
    if copy < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    with socket.socket(fileno=copy) as theirs:
        yield theirs
