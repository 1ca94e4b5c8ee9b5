"""What a gateway tells of itself: metrics that move, a line for each request, traces; and no secret in any of it."""

import asyncio
import errno
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from bench.nodelay import sockets
from bench.processes import ProcessTree
from shared.messages.keys import digest
from tests.integration.gateway.conftest import MODEL, Front
from tests.integration.gateway.hostile import PATH, STREAM, UUID7, own_error, send_request, whole
from tests.kit.raw_http import connected
from tests.kit.scripted_engine import Script, ScriptedEngine, scripted
from tests.kit.waiting import until

Opened = Callable[..., Awaitable[Front]]
PREFIX = "spot_gateway_"
FAMILIES = {
    "answers_total": {"status", "code"},
    "requests_total": {"outcome"},
    "tokens_total": {"direction"},
    "limit_hits_total": {"limit"},
    "failovers_total": set(),
    "without_key_total": set(),
    "without_key_unlogged_total": set(),
    "unread_answers": set(),
    "wake_wait_seconds_count": set(),
    "first_byte_seconds_count": set(),
    "chunk_gap_seconds_count": set(),
    "overhead_seconds_count": set(),
    "in_flight": set(),
    "waiting": set(),
    "connections": set(),
    "buffered_bytes": set(),
    "machines_left_alone": set(),
    "outbox_pending": set(),
    "outbox_bytes": set(),
    "outbox_age_seconds": set(),
}


async def metrics(front: Front) -> dict[tuple[str, ...], float]:
    """By name and values of labels in the order of their names, those of histograms' buckets left out."""
    return {
        (sample.name.removeprefix(PREFIX), *sample.labels.values()): sample.value
        for sample in await front.samples()
        if sample.name.startswith(PREFIX) and "le" not in sample.labels
    }


async def lines(front: Front, count: int) -> list[dict[str, Any]]:
    """The log's lines of requests, once there are so many."""

    async def read() -> list[dict[str, Any]]:
        whole_lines = front.service.log.read_text("utf-8").rpartition("\n")[0].split("\n")
        reported = [json.loads(line) for line in whole_lines if line.startswith("{")]
        return [line for line in reported if line["event"] == "request"]

    return await until(read, lambda results: len(results) >= count)


async def test_every_metric_is_there_from_the_start_and_moves(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await opened(requests_per_minute=6)
    start = await metrics(front)
    assert {key[0] for key in start} >= FAMILIES.keys() - {"answers_total"}
    assert all(value == 0 for value in start.values()), "counted from zero, every label that can be known included"
    assert {("limit_hits_total", limit) for limit in ("requests", "tokens", "concurrency", "month")} <= start.keys()
    assert {("requests_total", o) for o in ("completed", "client_closed", "engine_lost", "failed")} <= start.keys()
    scripted_engine.default = Script(tokens=4, prompt_tokens=9, cached_tokens=2, reasoning_tokens=1, hold_after=3)
    async with connected(front.url) as held, scripted() as broken:
        broken.default = Script(status=503)
        await held.send(whole(front, STREAM))
        await held.until(b": waking")
        assert (await metrics(front)).items() >= {("waiting",): 1.0, ("connections",): 1.0, ("in_flight",): 0.0}.items()
        await front.machine("m2", "ready", scripted_engine.base_url)
        await held.until(b" w2")
        now = await metrics(front)
        assert now.items() >= {("waiting",): 0.0, ("in_flight",): 1.0, ("wake_wait_seconds_count",): 1.0}.items()
        scripted_engine.release()
        await held.until(b"[DONE]")
        await front.machine("m1", "ready", broken.base_url)
        await front.seen()
        for _ in range(3):
            assert (await send_request(front, whole(front))).status == 200
        scripted_engine.default = Script(status=400)
        assert (await send_request(front, whole(front))).status == 400
        scripted_engine.default = Script(tokens=4, prompt_tokens=9, reset_after=3)
        assert b"engine_lost" in (await send_request(front, whole(front, STREAM))).body
        assert own_error(await send_request(front, whole(front))) == "429 rate_limit_exceeded"
    end = await until(lambda: metrics(front), lambda seen: seen["connections",] == 0)
    assert FAMILIES.keys() <= {key[0] for key in end}
    assert (
        end.items()
        >= {
            ("answers_total", "", "200"): 4.0,
            ("answers_total", "engine_lost", "200"): 1.0,
            ("answers_total", "", "400"): 1.0,
            ("answers_total", "rate_limit_exceeded", "429"): 1.0,
            ("requests_total", "completed"): 4.0,
            ("requests_total", "failed"): 1.0,
            ("requests_total", "engine_lost"): 1.0,
            ("tokens_total", "prompt"): 45.0,
            ("tokens_total", "cached"): 8.0,
            ("tokens_total", "completion"): 18.0,
            ("tokens_total", "reasoning"): 4.0,
            ("limit_hits_total", "requests"): 1.0,
            ("failovers_total",): 3.0,
            ("machines_left_alone",): 1.0,
            ("wake_wait_seconds_count",): 1.0,
            ("first_byte_seconds_count",): 6.0,
            ("overhead_seconds_count",): 6.0,
            ("in_flight",): 0.0,
            ("buffered_bytes",): 0.0,
            ("outbox_pending",): 6.0,
        }.items()
    )
    assert end["wake_wait_seconds_sum",] >= 0.2
    assert end["chunk_gap_seconds_count",] >= 1, "chunks that come together are read as one"
    assert end["outbox_bytes",] > 0
    aged = await until(lambda: metrics(front), lambda seen: seen["outbox_age_seconds",] > 0)
    assert aged["outbox_age_seconds",] < 60


CANARY = "canary-7f3a"


async def test_each_request_is_one_log_line_without_secrets(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await opened("max_body_bytes = 4000")
    await front.machine("m1", "ready", scripted_engine.base_url)
    asking = json.dumps({"model": MODEL, "user": CANARY, "messages": [{"role": "user", "content": CANARY}]}).encode()
    stream = asking[:-1] + b',"stream":true}'
    scripted_engine.default = Script(words=(CANARY, CANARY), tokens=2)
    results = [await send_request(front, whole(front, body)) for body in (asking, stream)]
    assert all(CANARY.encode() in answer.body for answer in results)
    scripted_engine.default = Script(status=400, message=CANARY)
    results.append(await send_request(front, whole(front, asking)))
    scripted_engine.default = Script(words=(CANARY, CANARY, CANARY), tokens=3, reset_after=2)
    results.append(await send_request(front, whole(front, stream)))
    scripted_engine.default = Script(reset_after=0)
    results.append(await send_request(front, whole(front, asking)))
    wrong_bodies = (asking[:-1], asking.replace(b'"messages"', b'"model"'), asking.replace(b"org/model", b"x"))
    results += [await send_request(front, whole(front, body)) for body in wrong_bodies]
    results.append(await send_request(front, whole(front, asking, f"X-Wake-Timeout: {CANARY}")))
    results.append(await send_request(front, whole(front, asking, f"X-Vendor: {CANARY}", f"Cookie: {CANARY}")))
    results.append(await send_request(front, whole(front, asking, target=f"{PATH}?key={front.key}&prompt={CANARY}")))
    results.append(await send_request(front, whole(front, asking * 100)))
    wrong = whole(front, asking).replace(front.key.encode(), f"sk-{CANARY}".encode())
    results.append(await send_request(front, wrong))
    assert [answer.status for answer in results] == [200, 200, 400, 200, 502, 400, 400, 404, 400, 502, 502, 413, 401]
    reported = await lines(front, len(results))
    assert {line["request_id"] for line in reported} == {answer.headers["x-request-id"] for answer in results}
    assert all(UUID7.fullmatch(line["request_id"]) for line in reported)
    assert [line["status"] for line in reported] == [answer.status for answer in results]
    assert [line["key_id"] for line in reported] == [front.key_id] * 12 + [None]
    first = reported[0]
    assert first["level"] == "info"
    assert first["service"] == "gateway"
    assert (first["method"], first["path"], first["model"], first["machine"]) == ("POST", PATH, MODEL, "m1")
    assert (first["outcome"], first["prompt_tokens"], first["completion_tokens"]) == ("completed", 7, 2)
    assert 0 < first["seconds"] < 10
    assert (reported[3]["code"], reported[3]["outcome"]) == ("engine_lost", "engine_lost")
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{front.service.announced.metrics_url}/metrics") as answer,
    ):
        page = await answer.text()
    assert await front.service.stop() == 0
    for place, text in (("log", front.service.log.read_text("utf-8")), ("metrics", page)):
        for secret in (CANARY, front.key, digest(front.key)):
            assert secret not in text, place
    assert front.key_id in front.service.log.read_text("utf-8")


async def test_no_line_is_written_when_the_access_log_is_off(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await opened("access_log = false")
    await front.machine("m1", "ready", scripted_engine.base_url)
    assert (await send_request(front, whole(front))).status == 200
    assert own_error(await send_request(front, whole(front, b"{"))) == "400 invalid_json"
    assert await front.service.stop() == 0
    log = front.service.log.read_text("utf-8")
    assert '"service_stopped"' in log
    assert '"request"' not in log


PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
STATE = "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"


async def test_a_valid_trace_context_is_forwarded(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await opened()
    await front.machine("m1", "ready", scripted_engine.base_url)

    async def passed(*headers: str) -> dict[str, str]:
        assert (await send_request(front, whole(front, STREAM, *headers))).status == 200
        actual = scripted_engine.requests[-1].headers
        return {name: actual[name] for name in ("traceparent", "tracestate") if name in actual}

    whole_trace = {"traceparent": PARENT, "tracestate": STATE}
    assert await passed(f"traceparent: {PARENT}", f"tracestate: {STATE}") == whole_trace
    assert await passed(f"Traceparent: {PARENT}") == {"traceparent": PARENT}
    assert await passed(f"tracestate: {STATE}") == {}, "a state without its trace"
    for broken in (PARENT[:-1], PARENT.upper(), f"x{PARENT}", f"{PARENT} x", PARENT.replace("-", "_"), "00", ""):
        assert await passed(f"traceparent: {broken}", f"tracestate: {STATE}") == {}, broken
    assert await passed(f"X-Request-Id: {PARENT}") == {}
    assert scripted_engine.requests[-1].headers["x-request-id"] != PARENT


async def test_no_socket_waits_for_more_to_send(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await opened()
    await front.machine("m1", "ready", scripted_engine.base_url)
    engine_port = int(scripted_engine.base_url.rpartition(":")[2])
    port = int(front.url.rpartition(":")[2])
    scripted_engine.default = Script(tokens=3, hold_after=2)
    async with connected(front.url) as connection:
        await connection.send(whole(front, STREAM))
        await connection.until(b" w1")
        try:
            seen = list(sockets(ProcessTree(front.service.announced.pid)))
        except OSError as error:
            if error.errno == errno.EPERM:
                pytest.skip("the system does not let a test look at another process's sockets")
            raise
        scripted_engine.release()
        await connection.until(b"[DONE]")
    assert [nodelay for own, _, nodelay in seen if own == port] == [True]
    assert [nodelay for _, peer, nodelay in seen if peer == engine_port] == [True]
    await until(lambda: asyncio.sleep(0, scripted_engine.running), lambda running: running == 0)
