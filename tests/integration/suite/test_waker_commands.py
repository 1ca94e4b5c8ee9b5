"""`spotinference wake`, `hibernate`, `cordon`, `uncordon` on a real bus, with a waker that the test plays."""

import asyncio
import getpass
import json
import socket
import sys
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from click.testing import Result

from shared.bus.jetstream import JetStreamBus
from shared.bus.request import request_reply
from shared.bus.subjects import WAKER_COMMAND
from shared.messages.codec import decode, encode
from shared.messages.waker import WakerCommand, WakerReply
from spotinference import waker_commands
from tests.integration.suite.conftest import Put, Shell
from tests.kit.terminal import terminal
from tests.kit.waiting import PATIENCE_SECONDS


class FakeWaker:
    """Accepts commands, rejects them with `error`, or is `silent`. `taken` is set by the first one."""

    def __init__(self) -> None:
        self.commands: list[WakerCommand] = []
        self.error = ""
        self.lineups = {"org/a": ("m1", "m2"), "only the waker has it": ("m1",)}
        self.silent = False
        self.taken = asyncio.Event()

    async def answer(self, data: bytes) -> bytes:
        command = decode(data, WakerCommand)
        self.commands.append(command)
        self.taken.set()
        if self.silent:
            await asyncio.Event().wait()
        machines = self.lineups.get(command.target, ()) if command.order == "wake" else (command.target,)
        return encode(WakerReply(accepted=not self.error, error=self.error, machines=machines, wake_cap=300.0))


@pytest.fixture
async def waker(bus: JetStreamBus) -> AsyncIterator[FakeWaker]:
    fake = FakeWaker()
    handle = await bus.respond("waker", WAKER_COMMAND, fake.answer)
    yield fake
    await handle.stop()


def assert_failed(result: Result, *messages: str) -> None:
    """Status 1, every message on standard error, nothing on standard output."""
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    assert [part for part in messages if part not in result.stderr] == [], result.stderr


async def start_command(shell: Shell, waker: FakeWaker, *words: str) -> "asyncio.Task[Result]":
    """Start a command; return once the waker has it."""
    task = asyncio.ensure_future(shell(*words))
    async with asyncio.timeout(PATIENCE_SECONDS):
        await waker.taken.wait()
    return task


async def finish(task: "asyncio.Task[Result]") -> Result:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await task


@pytest.mark.parametrize(
    ("words", "state", "fields"),
    [
        (("wake", "org/a"), "waking", {"phase": "calling"}),
        (("hibernate", "m1"), "draining", {}),
        (("cordon", "m1"), "draining", {"cordoned": True}),
        (("uncordon", "m1"), "ready", {}),
    ],
)
async def test_command_reaches_the_waker_and_prints_its_effect(
    shell: Shell, put: Put, waker: FakeWaker, *, words: tuple[str, str], state: Any, fields: dict[str, Any]
) -> None:
    await put("m1", "ready" if words[0] in ("hibernate", "cordon") else "asleep", cordoned=words[0] == "uncordon")
    task = await start_command(shell, waker, *words, "--json")
    await put("m1", state, **fields)
    result = await finish(task)
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"accepted": True, "machine": "m1", "state": state})
    by = f"{getpass.getuser()}@{socket.gethostname()}"
    assert waker.commands == [WakerCommand(order=words[0], target=words[1], by=by)]  # type: ignore[arg-type]  # an order


async def test_accepted_command_returns_when_no_record_shows_it(
    shell: Shell, put: Put, waker: FakeWaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waker_commands, "SETTLE_SECONDS", 0.1)
    await put("m1", "falling_asleep")
    reply = json.loads((await shell("wake", "org/a", "--json")).stdout)
    assert reply == {"accepted": True, "machine": "m1", "state": "falling_asleep"}
    unknown_here = await shell("wake", "only the waker knows it", "--json")
    assert json.loads(unknown_here.stdout) == {"accepted": True, "machine": None, "state": None}
    not_on_record = await shell("cordon", "m9", "--json")
    assert json.loads(not_on_record.stdout) == {"accepted": True, "machine": "m9", "state": None}
    words = await shell("hibernate", "m1")
    assert words.stdout == "accepted: hibernate m1: m1 is falling asleep\n"


async def test_command_prints_the_waker_s_reason_when_rejected(shell: Shell, waker: FakeWaker) -> None:
    waker.error = "no machine is named 'm9': there are m1, m2"
    assert_failed(
        await shell("hibernate", "m9", "--wait"), "spotinference: no machine is named 'm9': there are m1, m2\n"
    )


async def test_command_fails_when_no_waker_leads(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waker_commands, "request_reply", partial(request_reply, patience_s=0.5))
    assert_failed(
        await shell("wake", "org/a", "--json"), "no leading waker accepts commands", "`spotinference up` starts it"
    )


async def test_command_fails_when_the_waker_does_not_answer(
    shell: Shell, waker: FakeWaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waker_commands, "request_reply", partial(request_reply, patience_s=0.0))
    monkeypatch.setattr(waker_commands, "REPLY_SECONDS", 0.2)
    waker.silent = True
    assert_failed(await shell("cordon", "m1"), "no leading waker accepts commands")


async def test_wake_waits_until_a_machine_of_the_lineup_is_ready(shell: Shell, put: Put, waker: FakeWaker) -> None:
    await put("m1", "broken", reason="of old")
    await put("m2", "asleep")
    task = await start_command(shell, waker, "wake", "org/a", "--wait", "--timeout", "60s", "--json")
    await put("m2", "waking", phase="booting")
    await put("m2", "ready")
    result = await finish(task)
    assert json.loads(result.stdout) == {"accepted": True, "machine": "m2", "state": "ready"}


async def test_wake_waits_for_a_model_that_only_the_waker_knows(shell: Shell, put: Put, waker: FakeWaker) -> None:
    task = await start_command(shell, waker, "wake", "only the waker has it", "--wait")
    await put("m2", "ready")
    await put("m1", "waking", phase="booting")
    await put("m1", "ready")
    assert (await finish(task)).stdout == "accepted: wake only the waker has it: m1 is ready\n"


async def test_wake_ignores_a_failure_from_before_the_command(shell: Shell, put: Put, waker: FakeWaker) -> None:
    await put("m1", "broken", reason="of old")
    task = await start_command(shell, waker, "wake", "org/a", "--wait", "--timeout", "60s")
    _, waiting = await asyncio.wait([task], timeout=0.5)
    assert waiting, "it gave up because of an older record"
    await put("m1", "waking", phase="calling")
    await put("m1", "ready")
    assert (await finish(task)).stdout == "accepted: wake org/a: m1 is ready\n"


@pytest.mark.parametrize("state", ["broken", "gone"])
async def test_wake_fails_when_the_last_machine_fails(shell: Shell, put: Put, waker: FakeWaker, state: Any) -> None:
    await put("m1", "gone", reason="terminated")
    await put("m2", "asleep")
    task = await start_command(shell, waker, "wake", "org/a", "--wait", "--timeout", "60s", "--json")
    await put("m2", "waking", phase="booting")
    await put("m2", state, reason="its disk is lost")
    result = await finish(task)
    assert_failed(result, "is gone: terminated" if state == "gone" else "m2 is broken: its disk is lost")


async def test_wake_fails_when_no_machine_can_be_woken(
    shell: Shell, put: Put, waker: FakeWaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waker_commands, "SETTLE_SECONDS", 0.1)
    assert_failed(await shell("wake", "org/a", "--wait"), "none of its machines is on record")
    await put("m1", "broken", reason="no answer", alarm="see to it")
    assert_failed(await shell("wake", "org/a", "--wait"), "m1 is broken: see to it")
    await put("m2", "asleep", cordoned=True)
    assert_failed(await shell("wake", "org/a", "--wait"), "m1 is broken: see to it")
    await put("m1", "asleep", cordoned=True)
    assert_failed(await shell("wake", "org/a", "--wait"), "m1 is asleep; cordoned: run `spotinference uncordon m1`")


async def test_wake_fails_when_the_timeout_passes(shell: Shell, put: Put, waker: FakeWaker) -> None:
    await put("m1", "waking", phase="loading", reason="asked for", ready_at=0.0)
    result = await shell("wake", "org/a", "--wait", "--timeout", "300ms")
    assert_failed(
        result, "not ready within 0.3 s, but still in progress: m1 is waking, loading, ready in about 0s: asked for"
    )


async def test_hibernate_waits_until_the_machine_sleeps(shell: Shell, put: Put, waker: FakeWaker) -> None:
    await put("m1", "ready")
    task = await start_command(shell, waker, "hibernate", "m1", "--wait", "--timeout", "60s", "--json")
    for state in ("draining", "falling_asleep", "asleep"):
        await put("m1", state)
    assert json.loads((await finish(task)).stdout) == {"accepted": True, "machine": "m1", "state": "asleep"}


async def test_hibernate_fails_when_requests_keep_the_machine_awake(
    put: Put, waker: FakeWaker, options: tuple[str, ...]
) -> None:
    await put("m1", "ready")
    async with terminal(sys.executable, "-m", "spotinference", "hibernate", "m1", "--wait", *options) as screen:
        await screen.wait_for_text("m1 is ready")
        await put("m1", "draining")
        await screen.wait_for_text("m1 is draining")  # the bus keeps the last state of a machine, not each
        await put("m1", "ready", reason="a request came")
        await screen.wait_for_text("requests need it again: m1 is ready: a request came")
        assert await screen.wait() == 1


async def test_wake_shows_its_progress_on_a_terminal(put: Put, waker: FakeWaker, options: tuple[str, ...]) -> None:
    await put("m1", "waking", phase="first_token", ready_at=time.time() + 3000)
    async with terminal(sys.executable, "-m", "spotinference", "wake", "org/a", "--wait", *options) as screen:
        await screen.wait_for_text(r"m1 is waking, first token, ready in about 49m5\ds")
        await put("m1", "ready")
        await screen.wait_for_text("accepted: wake org/a: m1 is ready")
        assert await screen.wait() == 0


async def test_command_with_invalid_options_is_never_sent(shell: Shell, waker: FakeWaker) -> None:
    for words in (("wake", "org/a", "--wait", "--timeout", "soon"), ("hibernate", "m1", "--timeout", "8s"), ("wake",)):
        result = await shell(*words)
        assert result.exit_code == 2, result.output
    assert waker.commands == []
