"""Several gateway processes behind one port: announced, watched, drained and mourned as one."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from shared.bus.jetstream import JetStreamBus
from shared.messages.gateway import UsageEvent
from tests.integration.gateway.conftest import Front
from tests.integration.gateway.hostile import STREAM, answers, own_error, post, send_request, whole
from tests.kit.nats_server import NatsServer
from tests.kit.ports import free_port
from tests.kit.raw_http import Answer, RawConnection, connected
from tests.kit.scripted_engine import Script, ScriptedEngine
from tests.kit.service import ServiceProcess
from tests.kit.waiting import until

Opened = Callable[..., Awaitable[Front]]
TWO = "workers = 2"


def pids(front: Front) -> list[int]:
    """Of the workers."""
    pid = front.service.announced.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # nobody may be there to hear of its death


async def per_worker(front: Front, name: str) -> dict[str, float]:
    results = {"0": 0.0, "1": 0.0}
    for sample in await front.samples():
        if sample.name == f"spot_gateway_{name}":
            results[sample.labels["worker"]] += sample.value
    return results


async def served_by_both(front: Front) -> list[Answer]:
    """Answers over connections of their own, until each worker has given some."""
    results: list[Answer] = []
    while not all((await per_worker(front, "answers_total")).values()):
        assert len(results) < 400, "all connections go to one worker"
        results += await asyncio.gather(*(send_request(front, whole(front)) for _ in range(8)))
    return results


@asynccontextmanager
async def streams_of_both(front: Front) -> AsyncIterator[list[RawConnection]]:
    """Streams that have begun, at each worker some."""
    async with AsyncExitStack() as stack:
        results: list[RawConnection] = []
        while not all((await per_worker(front, "in_flight")).values()):
            assert len(results) < 64, "all connections go to one worker"
            for _ in range(4):
                connection = await stack.enter_async_context(connected(front.url))
                await connection.send(post(front, f"Content-Length: {len(STREAM)}", "Connection: close"), STREAM)
                await connection.until(b"w1")
                results.append(connection)
        yield results


async def test_two_workers_are_announced_and_seen_as_one(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    metrics_port = free_port()
    front = await opened(f"{TWO}\nmetrics_port = {metrics_port}", requests_per_minute=60)
    await front.machine("m1", "ready", scripted_engine.base_url)
    assert front.service.announced.metrics_url == f"http://127.0.0.1:{metrics_port}"
    assert await front.ready() == (200, {})
    assert len(pids(front)) == 2
    results = await served_by_both(front)
    while len(results) < 120:
        results += await asyncio.gather(*(send_request(front, whole(front)) for _ in range(8)))
    good = [answer for answer in results if answer.status == 200]
    assert {own_error(answer) for answer in results if answer.status != 200} == {"429 rate_limit_exceeded"}
    assert len(good) == len(scripted_engine.requests)
    assert 60 <= len(good) <= 64, "a limit is the key's, not the worker's"
    assert await front.metric("answers_total", status="200") == len(good)
    events = await front.usage(len(good))
    assert {event.id for event in events} == {answer.headers["x-request-id"] for answer in good}
    assert len({event.source for event in events}) == 2


async def test_a_worker_that_is_killed_comes_back_and_the_other_serves_on(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    front = await opened(TWO)
    await front.machine("m1", "ready", scripted_engine.base_url)
    before = await served_by_both(front)
    killed, other = pids(front)
    os.kill(killed, signal.SIGKILL)
    await until(lambda: asyncio.sleep(0, lives(killed)), lambda living: not living)
    await until(front.ready, lambda answer: answer[0] == 503)
    while (await front.ready())[0] != 200:
        before.append(await send_request(front, whole(front)))
    assert {answer.status for answer in before} == {200}, "while one is away the other has all connections"
    (new,) = set(pids(front)) - {other}
    assert new != killed
    after = await served_by_both(front)
    events = await front.usage(len(before) + len(after))
    assert {event.id for event in events} == {answer.headers["x-request-id"] for answer in before + after}
    assert len({event.source for event in events}) == 3, "a worker's next life is another source"


async def test_workers_end_when_their_parent_is_killed(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await opened(TWO)
    await front.machine("m1", "ready", scripted_engine.base_url)
    await served_by_both(front)
    await front.machine("m1", "asleep")
    await front.seen(2)
    workers = pids(front)
    async with connected(front.url) as waiting:
        await waiting.send(whole(front))
        await front.wake_request(lambda request: request.waiting == 1)
        await front.service.kill9()
        (last,) = await answers(waiting)
        assert own_error(last) == "503 waking"
    await until(lambda: asyncio.sleep(0, [*map(lives, workers)]), lambda living: not any(living))


async def test_sigterm_lets_the_streams_of_all_workers_finish(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await opened(TWO, room=64)
    await front.machine("m1", "ready", scripted_engine.base_url)
    scripted_engine.default = Script(tokens=3, hold_after=2)
    async with streams_of_both(front) as streams:
        workers = pids(front)
        stopping = asyncio.create_task(front.service.stop())
        await until(
            front.ready, lambda answer: {"draining", "worker 0: draining", "worker 1: draining"} <= {*answer[1]}
        )
        assert sum((await per_worker(front, "in_flight")).values()) == len(streams), "it is seen to its end"
        scripted_engine.release()
        rests = await asyncio.gather(*(stream.until_end() for stream in streams))
        assert all(b"data: [DONE]" in rest for rest in rests)
        assert await stopping == 0
    assert not any(map(lives, workers))
    assert {event.outcome for event in await front.usage(len(streams))} == {"completed"}


@pytest.mark.parametrize("shared", [False, True], ids=["with another program", "with other workers"])
async def test_a_port_in_use_is_named_in_the_error(nats_url: str, tmp_path: Path, *, shared: bool) -> None:
    with socket.socket() as taken:
        if shared:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = tmp_path / "spotinference.toml"
        config.write_text(f'[bus]\nurl = "{nats_url}"\n[gateway]\nworkers = 2\nport = {port}\n')
        service = ServiceProcess("gateway", config, tmp_path)
        with pytest.raises(AssertionError, match=f"gateway.port: cannot listen on 127.0.0.1:{port}"):
            await service.start()
        assert service.process is not None
        assert await service.process.wait() == 1


class WithWorkers(ServiceProcess):
    """Their number on the command line."""

    def __init__(self, config: Path, data_dir: Path, workers: int) -> None:
        super().__init__("gateway", config, data_dir)
        self._arguments += ["--workers", str(workers)]


async def test_what_a_former_worker_left_is_sent_by_those_that_are_left(
    opened: Opened, scripted_engine: ScriptedEngine, nats_server: NatsServer, bus: JetStreamBus
) -> None:
    front = await opened()
    await front.service.stop()
    front.service = WithWorkers(front.folder / "spotinference.toml", front.folder, 2)
    await front.service.start()
    try:
        await front.machine("m1", "ready", scripted_engine.base_url)
        await front.seen(2)
        nats_server.kill9()
        actual = await served_by_both(front)
        workers = pids(front)
        for pid in [front.service.announced.pid, *workers]:
            os.kill(pid, signal.SIGKILL)
        await front.service.kill9()
        nats_server.start()
        await until(lambda: asyncio.sleep(0, bus.connected), bool)
        front.service = WithWorkers(front.folder / "spotinference.toml", front.folder, 1)
        await front.service.start()
        events = await front.usage(len(actual))
    finally:
        await front.service.kill9()
    assert {event.id for event in events} == {answer.headers["x-request-id"] for answer in actual}
    by_source: dict[str, list[UsageEvent]] = {}
    for event in events:
        by_source.setdefault(event.source, []).append(event)
    assert len(by_source) == 2
    for of_one in by_source.values():
        assert [event.source_seq for event in of_one] == list(range(1, len(of_one) + 1))
    assert not (front.folder / "gateway" / "outbox-1").exists()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("host", ["::", "*"])
async def test_every_address_serves_with_and_without_workers(
    opened: Opened, scripted_engine: ScriptedEngine, host: str, workers: int
) -> None:
    front = await opened(f'workers = {workers}\nhost = "{host}"\nmetrics_host = "{host}"')
    await front.machine("m1", "ready", scripted_engine.base_url)
    await front.seen(workers)
    assert await front.ready() == (200, {})
    port = front.url.rpartition(":")[2]
    for address in ("127.0.0.1", "[::1]"):
        async with connected(f"http://{address}:{port}") as connection:
            await connection.send(whole(front))
            answer = await connection.answer()
            assert answer is not None
            assert answer.status == 200
