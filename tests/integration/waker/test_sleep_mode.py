"""Engines with vLLM's sleep mode: asleep they run on, and whoever will neither sleep nor wake is ended."""

import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from services.waker.adapters import keeper_files, sleep_mode
from services.waker.adapters.process import LocalMachine, LocalMachines
from services.waker.adapters.sleep_mode import SleepingMachine
from services.waker.core.events import Observation
from services.waker.ports import ProviderUnavailable
from tests.kit.waiting import until

ENGINE = Path(__file__).parent / "faulty_engine.py"
Made = Callable[..., Awaitable[SleepingMachine]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "machines" / "m1"


@pytest.fixture
async def made(folder: Path, tmp_path: Path) -> AsyncIterator[Made]:
    """Make a machine whose command takes these arguments, and start it; nothing of it is left behind."""
    machines: list[SleepingMachine] = []

    async def make(
        *arguments: str, level: Any = 1, listening: bool = True, command: Sequence[str] = ()
    ) -> SleepingMachine:
        log = str(tmp_path / "requests")
        argv = [sys.executable, str(ENGINE), "--port", "{port}", "--request-log", log, *arguments]
        machines.append(machine := SleepingMachine(folder, command or argv, None, level=level))
        assert (await machine.start(1)).outcome == "accepted"
        if listening:
            await listens(machine)
        return machine

    yield make
    for machine in machines:
        await machine.close()
    state = keeper_files.read_state(folder)
    if state is not None and keeper_files.process_start(state.keeper) == state.keeper_started:
        os.kill(state.keeper, signal.SIGKILL)


async def observe(machine: LocalMachine) -> Observation:
    """Once it says something."""

    async def observation() -> Observation | None:
        try:
            return await machine.observe()
        except ProviderUnavailable:
            return None

    current = await until(observation, lambda seen: seen is not None)
    assert current is not None
    return current


async def becomes(machine: LocalMachine, state: str) -> Observation:
    return await until(lambda: observe(machine), lambda observation: observation.provider_state == state)


async def listens(machine: LocalMachine) -> None:
    endpoint = (await observe(machine)).endpoint

    async def ask() -> bool:
        async with aiohttp.ClientSession() as session:
            try:
                async with session.get(f"{endpoint}/who"):
                    return True
            except aiohttp.ClientError:
                return False

    await until(ask, bool)


def engine(folder: Path) -> int:
    state = keeper_files.read_state(folder)
    assert state is not None
    assert state.engine is not None
    return state.engine


def requests(folder: Path) -> list[str]:
    """The paths of what the engine was asked to do, with the method of a remote call."""
    lines = [json.loads(line) for line in (folder.parents[1] / "requests").read_text().splitlines()]
    return [" ".join(filter(None, [line["path"], line.get("method")])) for line in lines]


async def test_it_sleeps_and_wakes_as_the_same_process_and_generation(made: Made, folder: Path) -> None:
    machine = await made()
    pid = engine(folder)
    for generation in (2, 3):
        assert (await machine.stop()).outcome == "accepted"
        observation = await becomes(machine, "sleeping level 1")
        assert (observation.power, observation.generation, observation.is_active) == ("stopped", 1, False)
        result = await machine.start(generation)
        assert (result.outcome, result.generation) == ("accepted", 1)
        observation = await observe(machine)
        assert (observation.power, observation.generation, observation.endpoint) == ("running", 1, result.endpoint)
    assert engine(folder) == pid
    assert requests(folder) == ["/sleep?level=1", "/wake_up"] * 2


async def test_level_2_reads_the_weights_again_before_the_cache_has_its_memory(made: Made, folder: Path) -> None:
    machine = await made(level=2)
    await machine.stop()
    await becomes(machine, "sleeping level 2")
    assert (await machine.start(2)).outcome == "accepted"
    assert requests(folder) == [
        "/sleep?level=2",
        "/wake_up?tags=weights",
        "/collective_rpc reload_weights",
        "/wake_up?tags=kv_cache",
    ]
    assert (await observe(machine)).power == "running"


async def test_second_stop_ends_the_engine_and_the_next_start_is_cold(made: Made, folder: Path) -> None:
    machine = await made()
    pid = engine(folder)
    await machine.stop()
    await becomes(machine, "sleeping level 1")
    await machine.stop(force=True)
    await becomes(machine, "stopped")
    assert keeper_files.process_start(pid) is None
    result = await machine.start(2)
    assert (result.outcome, result.generation) == ("accepted", None)
    assert (await observe(machine)).generation == 2
    assert engine(folder) != pid


@pytest.mark.parametrize("fault", ["/sleep", "hang:/sleep"])
async def test_what_does_not_fall_asleep_is_ended(made: Made, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setattr(sleep_mode, "SLEEP_SECONDS", 0.3)
    machine = await made("--faulty", fault)
    await machine.stop()
    observation = await becomes(machine, "stopped")
    assert observation.reason.startswith("the engine was ended because it did not obey: POST http://127.0.0.1:")
    assert observation.reason.endswith(
        '/sleep?level=1: 500 {"error": "out of memory"}' if fault == "/sleep" else "0.3 s"
    )


async def test_a_start_waits_for_the_falling_asleep_before_it(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sleep_mode, "SLEEP_SECONDS", 0.5)
    machine = await made("--faulty", "hang:/sleep")
    await machine.stop()
    assert (await observe(machine)).provider_state == "falling asleep"
    assert (await machine.start(2)).outcome == "accepted"
    assert (await observe(machine)).generation == 2


async def test_a_second_stop_of_what_falls_asleep_changes_nothing(
    made: Made, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr(sleep_mode, "SLEEP_SECONDS", 0.5)
    machine = await made("--faulty", "hang:/sleep")

    async def states() -> list[str]:
        return requests(folder) if (folder.parents[1] / "requests").exists() else []

    await machine.stop()
    await until(states, bool)
    await machine.stop()
    await becomes(machine, "stopped")
    assert requests(folder) == ["/sleep?level=1"]


async def test_an_engine_without_sleep_mode_is_awake_and_is_ended(made: Made) -> None:
    """As one whose command takes the variable away."""
    command = ["env", "-u", "VLLM_SERVER_DEV_MODE", sys.executable, str(ENGINE), "--port", "{port}"]
    machine = await made(command=command)
    assert (await observe(machine)).power == "running"
    await machine.stop()
    assert "/sleep?level=1: 404" in (await becomes(machine, "stopped")).reason


async def test_what_does_not_wake_whole_is_ended_and_started_anew(made: Made, folder: Path) -> None:
    machine = await made("--faulty", "/collective_rpc", level=2)
    pid = engine(folder)
    await machine.stop()
    await becomes(machine, "sleeping level 2")
    result = await machine.start(2)
    assert (result.outcome, result.code) == ("unknown", "wake_up")
    assert "collective_rpc: 500" in result.reason
    assert "collective_rpc: 500" in (await becomes(machine, "stopped")).reason
    assert (await machine.start(3)).outcome == "accepted"
    assert (await observe(machine)).generation == 3
    assert engine(folder) != pid


async def test_a_slow_wake_is_seen_under_way(made: Made, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(sleep_mode, "ANSWER_SECONDS", 0.05)
    machine = await made("--faulty", "hang:/wake_up")
    await machine.stop()
    await becomes(machine, "sleeping level 1")
    result = await machine.start(2)
    assert (result.outcome, result.endpoint) == ("accepted", None)
    observation = await observe(machine)
    assert (observation.power, observation.provider_state) == ("starting", "waking up")
    assert (await machine.start(2)).outcome == "accepted"
    # Nobody wants it any more.
    wake = machine._change
    await machine.stop()
    await becomes(machine, "sleeping level 1")
    assert wake is not None
    assert wake.cancelled()
    assert requests(folder) == ["/sleep?level=1", "/wake_up"]


async def test_one_that_dies_in_its_sleep_is_stopped(made: Made, folder: Path) -> None:
    machine = await made()
    await machine.stop()
    await becomes(machine, "sleeping level 1")
    os.kill(engine(folder), signal.SIGKILL)
    assert (await becomes(machine, "stopped")).reason.startswith("the engine ended by signal 9: see ")


async def test_another_waker_finds_it_asleep_and_wakes_it(made: Made, folder: Path) -> None:
    machine = await made()
    pid = engine(folder)
    await machine.stop()
    await becomes(machine, "sleeping level 1")
    await machine.close()
    heir = SleepingMachine(folder, ["no-such-program"], None, level=1)
    assert (await observe(heir)).provider_state == "sleeping level 1"
    assert (await heir.start(2)).outcome == "accepted"
    assert (engine(folder), (await observe(heir)).power) == (pid, "running")


async def test_machine_of_unknown_state_is_left_out_and_hides_no_other(
    made: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sleep_mode, "ASK_SECONDS", 0.2)
    silent = await made("--faulty", "hang:/is_sleeping", listening=False)
    both = LocalMachines({"m1": silent, "m2": LocalMachine(tmp_path / "machines" / "m2", ["none"], None)})

    async def seen() -> set[str]:
        return set((await both.observe()).observations)

    assert await until(seen, lambda names: "m1" not in names) == {"m2"}


async def test_one_that_still_loads_cannot_sleep_and_is_ended(folder: Path) -> None:
    machine = SleepingMachine(folder, ["sh", "-c", "exec sleep 300; : {port}"], None, level=1)
    await machine.start(1)
    assert (await observe(machine)).power == "running"
    await machine.stop()
    assert "/sleep?level=1: Cannot connect" in (await becomes(machine, "stopped")).reason
