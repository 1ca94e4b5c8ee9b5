"""The operator's orders to a whole running suite, whose machine is a small engine's process."""

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from shared.messages.waker import MachineRecord
from tests.integration.suite.config import SOON, config
from tests.kit.up import UpProcess, processes_of, up
from tests.kit.waiting import until

ENGINE = Path(__file__).parents[1] / "waker" / "faulty_engine.py"


def small(*arguments: str) -> list[str]:
    return [sys.executable, str(ENGINE), "--port", "{port}", *arguments]


async def machine(suite: UpProcess) -> MachineRecord:
    return (await suite.machines())["local-1"]


async def test_machine_is_woken_kept_cordoned_and_put_to_sleep(tmp_path: Path) -> None:
    async with up(tmp_path, config(small(), tier='idle_timeout = "1s"', waker=SOON)) as suite:
        woken = await suite.json("wake", "tiny", "--wait", "--timeout", "60s")
        assert woken == {"accepted": True, "machine": "local-1", "state": "ready"}
        (kept,) = (await suite.json("fleet"))["machines"]  # it listens for longer than the machine may be idle
        assert (kept["state"], kept["kept"], kept["cordoned"]) == ("ready", True, False)

        slept = await suite.json("hibernate", "local-1", "--wait", "--timeout", "60s")
        assert slept == {"accepted": True, "machine": "local-1", "state": "asleep"}
        assert processes_of(tmp_path / "data" / "machines") == []
        assert (await machine(suite)).kept is False

        assert (await suite.json("cordon", "local-1"))["machine"] == "local-1"
        assert (await machine(suite)).cordoned is True
        refused = await suite.command("wake", "tiny", "--wait", "--timeout", "60s")
        assert refused.status == 1, "it is kept from requests"
        assert "cordoned: run `spotinference uncordon local-1` first" in refused.err
        await suite.json("uncordon", "local-1")
        # The order to wake it stands, and now it can be followed.
        again = await suite.json("wake", "tiny", "--wait", "--timeout", "60s")
        assert again["state"] == "ready"
        assert (await machine(suite)).cordoned is False

        journal = await suite.journal()
        orders = [(entry["order"], entry["machine"]) for entry in journal if entry["kind"] == "order"]
        assert orders == [
            ("wake", "tiny"),
            ("hibernate", "local-1"),
            ("cordon", "local-1"),
            ("wake", "tiny"),
            ("uncordon", "local-1"),
            ("wake", "tiny"),
        ]
        assert {entry["kind"] for entry in journal} == {"transition", "provider_call", "phase", "order"}
        assert await suite.stop() == 0


DYING = f"""
[[tier]]
name = "dying"
provider = "process"
[[machine]]
id = "dying-1"
tier = "dying"
command = {json.dumps(small("--die", "3"))}
[[model]]
name = "dying"
lineup = ["dying"]
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[UpProcess]:
    """For tests that leave its machines as they were."""
    async with up(tmp_path_factory.mktemp("up"), config(small()) + DYING) as suite:
        yield suite


@pytest.mark.asyncio(loop_scope="module")
async def test_unknown_name_is_rejected_with_the_known_ones(running: UpProcess) -> None:
    for words, known in (
        (("wake", "llama"), "tiny"),
        (("hibernate", "m9"), "local-1"),
        (("cordon", "m9"), "local-1"),
    ):
        output = await running.command(*words)
        assert (output.status, output.out) == (1, ""), output
        assert words[1] in output.err
        assert known in output.err
    ordered = {entry["machine"] for entry in await running.journal() if entry["kind"] == "order"}
    assert ordered & {"llama", "m9"} == set()


@pytest.mark.asyncio(loop_scope="module")
async def test_wake_names_the_engine_s_log_when_the_engine_dies(running: UpProcess) -> None:
    async def reason() -> str:
        return (await running.machines())["dying-1"].reason

    log = running.folder / "data" / "machines" / "dying-1" / "engine.log"
    await running.json("wake", "dying")
    await until(reason, lambda words: f"see {log}" in words)
    output = await running.command("wake", "dying", "--wait", "--timeout", "5s")
    assert output.status == 1
    assert f"see {log}" in output.err
    assert "no memory left" in log.read_text("utf-8")

    async def phases() -> list[bool]:
        return [entry["done"] for entry in await running.journal() if entry["kind"] == "phase"]

    assert False in await until(phases, lambda done: False in done)
    await running.json("hibernate", "dying-1")


@pytest.mark.asyncio(loop_scope="module")
async def test_check_knows_the_running_suite(running: UpProcess) -> None:
    asleep = await running.command("check")
    assert asleep.status == 0, asleep
    assert "machine local-1: engine not checked: it is not running" in asleep.out
    await running.json("wake", "tiny", "--wait", "--timeout", "60s")
    endpoint = (await machine(running)).endpoint
    awake = await running.command("check")
    assert awake.status == 0, awake
    assert f"machine local-1: endpoint {endpoint}: an engine answers" in awake.out
    await running.json("hibernate", "local-1", "--wait", "--timeout", "60s")
