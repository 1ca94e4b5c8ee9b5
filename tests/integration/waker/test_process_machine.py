"""A machine that is a local command: real keepers, real engines, killed in every way."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from services.waker.adapters import keeper_files
from services.waker.adapters.process import LocalMachine
from services.waker.core.events import Observation
from tests.kit import full_disk
from tests.kit.waiting import until

ENGINE = Path(__file__).parent / "faulty_engine.py"
Made = Callable[..., LocalMachine]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "machines" / "m1"
    made.mkdir(parents=True)
    return made


@pytest.fixture
async def made(folder: Path) -> AsyncIterator[Made]:
    """Make a machine whose command takes these arguments; nothing of it is left behind."""

    def make(*arguments: str, command: list[str] | None = None, lifeline: int | None = None, **more: Any) -> Any:
        argv = command or [sys.executable, str(ENGINE), "--port", "{port}", *arguments]
        return LocalMachine(folder, argv, lifeline, **more)

    yield make
    state = keeper_files.read_state(folder)
    if state is not None:
        for pid, started in ((state.keeper, state.keeper_started), (state.engine, state.engine_started)):
            if pid is not None and keeper_files.process_start(pid) == started:
                os.kill(pid, signal.SIGKILL)


async def who(endpoint: str | None) -> dict[str, Any]:
    """The engine's own words, once it listens."""

    async def ask() -> Any:
        async with aiohttp.ClientSession() as session:
            try:
                async with session.get(f"{endpoint}/who") as answer:
                    return await answer.json()
            except aiohttp.ClientError as error:
                return error

    engine_info: dict[str, Any] = await until(ask, lambda seen: isinstance(seen, dict))
    return engine_info


async def gone(machine: LocalMachine) -> Observation:
    return await until(machine.observe, lambda observation: not observation.is_active)


def alive(pid: int) -> bool:
    return keeper_files.process_start(pid) is not None


async def ended(pid: int) -> None:
    async def observe() -> bool:
        return alive(pid)

    await until(observe, lambda lives: not lives)


async def test_it_starts_is_seen_and_stops(made: Made, folder: Path) -> None:
    machine = made()
    assert not (await machine.observe()).is_active
    result = await machine.start(4)
    assert (result.outcome, result.reason) == ("accepted", "")
    engine_info = await who(result.endpoint)
    observation = await machine.observe()
    assert (observation.is_active, observation.is_stopping, observation.generation, observation.endpoint) == (
        True,
        False,
        4,
        result.endpoint,
    )
    assert engine_info["pgid"] == engine_info["pid"] != os.getpgid(0)
    assert engine_info["path"].split(":")[0] == str(Path(sys.executable).parent)
    assert (await machine.stop()).outcome == "accepted"
    observation = await gone(machine)
    assert (observation.generation, observation.reason) == (4, "the engine was ended by signal 15")
    assert not alive(engine_info["pid"])
    assert (await machine.stop()).outcome == "accepted"


async def test_a_second_start_makes_no_second_engine(made: Made, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    machine = made("--starts", str(starts))
    first = await machine.start(1)
    await who(first.endpoint)
    assert (await machine.start(2)).outcome == "unknown"
    # Nor does another waker's, which knows nothing of ours: the keeper's lock stands.
    rival = made("--starts", str(starts))
    rival._observe = lambda: Observation(power="stopped", provider_state="stale")  # type: ignore[method-assign]  # a look that was too early
    assert (await rival.start(2)).outcome == "unknown"
    assert len(starts.read_text().split()) == 1
    assert (await machine.observe()).generation == 1


async def test_an_engine_that_dies_leaves_its_status_and_the_way_to_its_log(made: Made, folder: Path) -> None:
    machine = made("--die", "3")
    assert (await machine.start(1)).outcome == "accepted"
    observation = await gone(machine)
    assert observation.reason == f"the engine ended with exit status 3: see {folder}/engine.log"
    assert "no memory left" in (folder / "engine.log").read_text()
    assert observation.ended_at is not None


async def test_an_engine_gets_no_secret_of_ours(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "HYPERSTACK_API_KEY"),
        *("HYPERSTACK_API_KEY_FILE", "SPOTINFERENCE_KEY", "SPOTINFERENCE_BUS_URL", "SPOTINFERENCE_LIFELINE"),
        *("PGPASSWORD", "HTTPS_PROXY", "NATS_TOKEN", "SECRET_OF_NOBODY", "GITHUB_TOKEN"),
    }
    its = {"HF_TOKEN", "CUDA_VISIBLE_DEVICES", "VLLM_CPU_KVCACHE_SPACE", "OMP_NUM_THREADS", "LC_ALL", "XDG_CACHE_HOME"}
    for name in (*ours, *its, "S3_TOKEN"):
        monkeypatch.setenv(name, "1")
    engine_info = await who((await made(passed=["S3_TOKEN"]).start(1)).endpoint)
    assert its | {"PATH", "HOME", "S3_TOKEN"} <= set(engine_info["environment"])
    assert not ours & set(engine_info["environment"])


async def test_an_engine_killed_from_outside_is_seen(made: Made, folder: Path) -> None:
    machine = made()
    engine_info = await who((await machine.start(1)).endpoint)
    os.kill(engine_info["pid"], signal.SIGKILL)
    assert (await gone(machine)).reason == f"the engine ended by signal 9: see {folder}/engine.log"


async def test_a_program_that_is_not_there_is_refused_by_name(made: Made, tmp_path: Path) -> None:
    result = await made(command=["no-such-engine", "{port}"]).start(1)
    assert (result.outcome, result.code) == ("refused", "FileNotFoundError")
    assert result.reason == "no program 'no-such-engine': install it, or fix the machine's command"
    plain = tmp_path / "plain.txt"
    plain.write_text("no program")
    result = await made(command=[str(plain), "{port}"]).start(2)
    assert (result.outcome, result.code) == ("refused", "PermissionError")
    assert str(plain) in result.reason


async def test_command_of_this_installation_is_on_the_path(made: Made) -> None:
    machine = made(command=["python", str(ENGINE), "--port", "{port}"])
    assert (await machine.start(1)).outcome == "accepted"


async def test_an_engine_that_ignores_sigterm_is_killed(made: Made) -> None:
    machine = made("--stubborn", grace=0.3)
    engine_info = await who((await machine.start(1)).endpoint)
    await machine.stop()
    assert (await gone(machine)).reason == "the engine was ended by signal 9"
    assert not alive(engine_info["pid"])


async def test_asking_twice_kills_at_once(made: Made) -> None:
    machine = made("--stubborn", grace=60.0)
    engine_info = await who((await machine.start(1)).endpoint)
    await machine.stop()
    await until(machine.observe, lambda observation: observation.is_stopping)
    await machine.stop()
    await gone(machine)
    assert not alive(engine_info["pid"])


async def test_a_killed_keeper_takes_its_engine_along(made: Made, folder: Path) -> None:
    machine = made()
    engine_info = await who((await machine.start(1)).endpoint)
    state = keeper_files.read_state(folder)
    assert state is not None
    os.kill(state.keeper, signal.SIGKILL)
    await ended(engine_info["pid"])
    assert (await gone(machine)).reason == "the engine's keeper was killed"


async def test_what_a_dead_keeper_left_of_its_group_is_ended(made: Made, folder: Path) -> None:
    """A child of the engine hears nothing of the keeper's death: the next look ends it."""
    script = "sleep 300 & echo $! > child; exec sleep 300; : {port}"
    machine = made(command=["sh", "-c", f"cd {folder}; {script}"])
    await machine.start(1)

    async def child() -> str:
        file = folder / "child"
        return file.read_text().strip() if file.exists() else ""

    pid = int(await until(child, bool))
    state = keeper_files.read_state(folder)
    assert state is not None
    assert state.engine is not None
    os.kill(state.keeper, signal.SIGKILL)
    await ended(state.engine)
    assert alive(pid)
    await gone(machine)
    await ended(pid)


async def test_engine_outlives_its_starter_and_is_recognised(made: Made, folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "starter.py"
    script.write_text(
        "import asyncio, os, sys\nfrom pathlib import Path\n"
        "from services.waker.adapters.process import LocalMachine\n"
        "async def main():\n"
        "    machine = LocalMachine(Path(sys.argv[1]), sys.argv[2:], None)\n"
        "    print((await machine.start(7)).endpoint, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, str(ENGINE), "--port", "{port}"]
    starter = await asyncio.create_subprocess_exec(
        *(sys.executable, str(script), str(folder), *command),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    out, _ = await starter.communicate()
    endpoint = out.decode().strip()
    assert starter.returncode == -9
    engine_info = await who(endpoint)
    machine = made()
    observation = await machine.observe()
    assert (observation.is_active, observation.generation, observation.endpoint) == (True, 7, endpoint)
    await machine.stop()
    await gone(machine)
    assert not alive(engine_info["pid"])


async def test_the_end_of_the_lifeline_ends_the_engine(made: Made) -> None:
    lifeline, ours = os.pipe()
    machine = made(lifeline=lifeline)
    engine_info = await who((await machine.start(1)).endpoint)
    assert engine_info["lifeline"] == []
    os.close(ours)
    os.close(lifeline)
    assert (await gone(machine)).reason == "the engine was ended by signal 15"
    assert not alive(engine_info["pid"])


async def test_a_start_waits_for_the_end_of_the_engine_before(made: Made, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    machine = made("--stubborn", "--starts", str(starts), grace=0.5)
    first = await who((await machine.start(1)).endpoint)
    await machine.stop()
    await until(machine.observe, lambda observation: observation.is_stopping)
    second = await machine.start(2)
    assert second.outcome == "accepted"
    assert not alive(first["pid"])
    assert (await who(second.endpoint))["pid"] != first["pid"]


async def test_the_log_of_the_run_before_is_kept(made: Made, folder: Path) -> None:
    machine = made("--die", "1")
    for generation in (1, 2):
        await machine.start(generation)
        await gone(machine)
    assert "no memory left" in (folder / "engine.log").read_text()
    assert "no memory left" in (folder / "engine.log.1").read_text()


async def test_a_torn_state_file_does_no_harm(made: Made, folder: Path) -> None:
    (folder / keeper_files.STATE_FILE).write_text('{"status": "runn')
    machine = made()
    assert not (await machine.observe()).is_active
    assert (await machine.start(1)).outcome == "accepted"
    assert json.loads((folder / keeper_files.STATE_FILE).read_text())["status"] == "running"


async def test_a_recycled_process_id_is_left_alone(made: Made, folder: Path) -> None:
    """A state file that names a process which lives and is another: nothing is sent to it."""
    bystander = await asyncio.create_subprocess_exec("sleep", "300", start_new_session=True)
    state = keeper_files.KeeperState(
        status="running", generation=1, keeper=2**22, keeper_started="1", started_at=0.0, engine=bystander.pid,
        engine_started="long ago", port=1,
    )  # fmt: skip
    keeper_files.write_state(folder, state)
    assert not (await made().observe()).is_active
    assert alive(bystander.pid)
    bystander.kill()
    await bystander.wait()


POLITE = """
import pathlib, signal, sys, time
def on_term(*_):
    pathlib.Path(sys.argv[1], "asked").touch()
    sys.exit()
signal.signal(signal.SIGTERM, on_term)
pathlib.Path(sys.argv[1], "runs").touch()
time.sleep(300)
"""


async def test_engine_gets_sigterm_even_on_a_full_disk(made: Made, folder: Path, tmp_path: Path) -> None:
    async def runs() -> bool:
        return (tmp_path / "runs").exists()

    machine = made(command=[sys.executable, "-c", POLITE, str(tmp_path), "{port}"])
    assert (await machine.start(1)).outcome == "accepted"
    await until(runs, bool)
    state = keeper_files.read_state(folder)
    assert state is not None
    full_disk.fill([state.keeper])
    await machine.stop()
    assert not (await gone(machine)).is_active
    assert (tmp_path / "asked").exists(), "killed at once"
