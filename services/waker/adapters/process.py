"""Machines that are local commands: asleep is not running. Each engine has a keeper of its own (`adapters.keeper`)."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import msgspec

from services.waker.adapters import keeper_files
from services.waker.adapters.engine_environment import engine_environment
from services.waker.adapters.keeper_files import KeeperState
from services.waker.core.events import Observation, PowerState
from services.waker.ports import ACCEPTED, AccountSnapshot, CallResult, ProviderUnavailable
from shared.messages.codec import Unreadable, decode

OBSERVE_EVERY_S = 0.05
"""Between two observations while waiting for a keeper to end."""
REPORT_BYTES = 4096


class LocalMachines:
    """A `Provider`: commands on this host."""

    def __init__(self, machines: Mapping[str, "LocalMachine"]) -> None:
        self._machines = machines

    async def start(self, machine: str, generation: int) -> CallResult:
        return await self._machines[machine].start(generation)

    async def stop(self, machine: str, *, force: bool) -> CallResult:
        return await self._machines[machine].stop(force=force)

    async def observe(self) -> AccountSnapshot:
        """Observe every machine. One whose state is unknown is left out, and hides no other."""
        results = await asyncio.gather(*map(_observe, self._machines.values()))
        pairs = zip(self._machines, results, strict=True)
        return AccountSnapshot(observations={name: result for name, result in pairs if result is not None})

    async def test(self) -> tuple[str, ...]:
        return ()

    async def close(self) -> None:
        """Engines outlive their waker."""
        for machine in self._machines.values():
            await machine.close()


async def _observe(machine: "LocalMachine") -> Observation | None:
    """Observe a machine; None: its state is unknown."""
    try:
        return await machine.observe()
    except ProviderUnavailable:
        return None


class LocalMachine:
    """One command. `lifeline` is a descriptor that reads end-of-file when the suite has gone."""

    def __init__(
        self,
        folder: Path,
        command: Sequence[str],
        lifeline: int | None,
        *,
        grace: float = 10.0,
        environment: Mapping[str, str] = MappingProxyType({}),
        passed: Sequence[str] = (),
    ) -> None:
        self._folder = folder
        self._command = command
        self._lifeline = lifeline
        self._grace = grace
        self._environment = environment
        """Variables for the engine beside those that it gets of ours."""
        self._passed = passed
        """Names of variables that the configuration passes on."""
        self._calls = asyncio.Lock()
        """One call at a time: a stop waits for the start before it."""

    async def start(self, generation: int) -> CallResult:
        async with self._calls:
            return await self._start(generation)

    async def stop(self, *, force: bool = False) -> CallResult:
        async with self._calls:
            return await self._stop(force=force)

    async def observe(self) -> Observation:
        """Observe the machine.

        Raises:
            ProviderUnavailable: its state is unknown.
        """
        return self._observe()

    async def close(self) -> None:
        pass

    async def _start(self, generation: int) -> CallResult:
        self._folder.mkdir(parents=True, exist_ok=True)
        observation = self._observe()
        while observation.is_stopping:
            await asyncio.sleep(OBSERVE_EVERY_S)
            observation = self._observe()
        if observation.is_active:
            return CallResult(outcome="unknown", code="running", reason="an engine of this machine runs already")
        return await self._spawn(generation)

    async def _stop(self, *, force: bool) -> CallResult:
        del force  # its keeper uses force at the second signal
        state = keeper_files.read_state(self._folder)
        # Observing ends an engine that its keeper left behind.
        if self._observe().is_active and state is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(state.keeper, signal.SIGTERM)
        return ACCEPTED

    def _observe(self) -> Observation:
        if not self._folder.exists():
            return Observation(power="stopped", provider_state="stopped")
        lock = keeper_files.take_lock(self._folder)
        state = keeper_files.read_state(self._folder)
        if lock is None:
            return _running(state)
        try:
            if state is not None and state.status not in ("ended", "refused"):
                state = self._bury(state)
        finally:
            os.close(lock)
        if state is None:
            return Observation(power="stopped", provider_state="stopped")
        return Observation(
            power="stopped",
            provider_state="stopped",
            generation=state.generation,
            reason=state.reason,
            ended_at=state.ended_at,
        )

    def _bury(self, state: KeeperState) -> KeeperState:
        """End what is left of the engine of a keeper that died without a word. The caller holds the lock."""
        if state.engine is not None and keeper_files.process_start(state.engine) in (state.engine_started, None):
            # Even if it is gone itself, its id stays that of its group while a child of it lives.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(state.engine, signal.SIGKILL)
        state = replace(state, status="ended", ended_at=time.time(), reason="the engine's keeper was killed")
        keeper_files.write_state(self._folder, state)
        return state

    async def _spawn(self, generation: int) -> CallResult:
        read_end, write_end = os.pipe()
        inherited = [write_end] if self._lifeline is None else [write_end, self._lifeline]
        arguments = ["--folder", str(self._folder), "--generation", str(generation), "--report", str(write_end)]
        arguments += ["--grace", str(self._grace)]
        if self._lifeline is not None:
            arguments += ["--lifeline", str(self._lifeline)]
        with contextlib.closing(_Reader(read_end)) as reader:
            try:
                with (self._folder / "keeper.log").open("ab") as log:
                    launcher = await asyncio.create_subprocess_exec(
                        *(sys.executable, "-m", "services.waker.adapters.keeper", *arguments, "--", *self._command),
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        env=engine_environment(os.environ, self._passed) | dict(self._environment),
                        pass_fds=inherited,
                    )
            finally:
                os.close(write_end)
            await launcher.wait()
            return _result(await reader.rest())


class _Reader:
    """Reads the keeper's report."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor

    async def rest(self) -> bytes:
        """Everything up to the end of file; the keeper writes once and closes."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._descriptor, readable.set)
        report = b""
        try:
            while len(report) < REPORT_BYTES:
                await readable.wait()
                readable.clear()
                with contextlib.suppress(BlockingIOError):
                    part = os.read(self._descriptor, REPORT_BYTES)
                    if not part:
                        break
                    report += part
            return report
        finally:
            loop.remove_reader(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


def _running(state: KeeperState | None) -> Observation:
    """The machine while its keeper lives. A keeper that has only just begun may not have written its state yet."""
    if state is None or state.status in ("ended", "refused"):
        # The keeper holds the lock and has not written yet, or has written its last state and not ended yet.
        return Observation(
            power="stopping",
            provider_state="changing",
            generation=state.generation if state else None,
            reason=state.reason if state else "",
            ended_at=state.ended_at if state else None,
        )
    powers: dict[keeper_files.Status, PowerState] = {
        "starting": "starting",
        "running": "running",
        "stopping": "stopping",
    }
    return Observation(
        power=powers[state.status],
        provider_state=state.status,
        generation=state.generation,
        endpoint=f"http://127.0.0.1:{state.port}" if state.port else None,
    )


class _Report(msgspec.Struct):
    """What a keeper writes once its engine has started, or failed to."""

    endpoint: str | None = None
    refused: str | None = None
    code: str = ""


def _result(written: bytes) -> CallResult:
    try:
        report = decode(written, _Report)
    except Unreadable:
        return CallResult(
            outcome="unknown", code="keeper", reason="the engine's keeper reported nothing: see keeper.log"
        )
    if report.refused is not None:
        return CallResult(outcome="refused", code=report.code, reason=report.refused)
    return CallResult(outcome="accepted", endpoint=report.endpoint)
