"""Requests that nobody thought of: what the gateway's own description allows, what it does not, and broken bytes."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from services.gateway.core.openapi import document
from tests.integration.gateway.conftest import MODEL, Front
from tests.integration.gateway.hostile import BODY, CHUNKED, STREAM, Opened, front_before, post, still_serves, whole
from tests.kit.raw_engine import DONE, EVENT, EngineSide, raw_engine
from tests.kit.raw_engine import whole as answer_of
from tests.kit.raw_http import LAST_CHUNK, Cut, chunk, connected, head
from tests.kit.scripted_engine import ScriptedEngine

SEED = "20261124"
FUZZ_SECONDS = 240
BATCH = 6
"""Connections at once: fewer than the machine has room for, so that none is held."""
BOUNDS = "\n".join(f'{name} = "1s"' for name in ("head_timeout", "body_timeout", "keepalive_timeout"))
HANGING_SECONDS = 60.0
"""Longer than any of the bounds together."""


def narrowed() -> dict[str, Any]:
    """The description as it holds here: models that there are or are not, and an engine that never says no."""
    reported: dict[str, Any] = json.loads(document())
    names = {"enum": [MODEL, "absent", "org/absent"]}
    reported["components"]["schemas"]["Request"]["properties"]["model"] = names
    reported["components"]["schemas"]["EngineError"] = {"not": {}}
    reported["paths"]["/v1/models/{model}"]["get"]["parameters"][0]["schema"] = names
    for item in reported["paths"].values():
        for operation in item.values():
            operation["responses"].pop("default", None)
    return reported


async def fuzzed(front: Front, *options: str) -> tuple[int, str]:
    """schemathesis' exit status and its report."""
    description = front.folder / "openapi.json"
    description.write_text(json.dumps(narrowed()))
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("schemathesis"),
        *("run", description, "--url", front.url, "--header", f"Authorization: Bearer {front.key}"),
        *("--seed", SEED, "--generation-deterministic", "--no-color", *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=front.folder,
    )
    try:
        async with asyncio.timeout(FUZZ_SECONDS):
            report, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        raise
    assert process.returncode is not None
    return process.returncode, report.decode()


async def test_the_gateway_keeps_to_its_own_description(opened: Opened) -> None:
    async def agree(side: EngineSide) -> None:
        body = json.loads(engine.requests[-1].partition(b"\r\n\r\n")[2])
        events = answer_of(EVENT + DONE).replace(b"application/json", b"text/event-stream")
        await side.send(events if body.get("stream") else answer_of())

    async with raw_engine(agree) as engine:
        front = await front_before(opened, engine.base_url)
        status, report = await fuzzed(front, "--max-examples", "60", "--phases", "examples,coverage,fuzzing")
        assert status == 0, report
        assert len(engine.requests) > 100, "too few of them were good"
        await still_serves(front)


def seeds(front: Front) -> list[bytes]:
    """Good requests, to be broken."""
    return [
        whole(front),
        whole(front, STREAM, "Content-Type: application/json", "Accept: */*", "Connection: keep-alive"),
        post(front, CHUNKED) + chunk(BODY[:20]) + chunk(BODY[20:]) + LAST_CHUNK,
        post(front, f"Content-Length: {len(BODY)}", "Expect: 100-continue", version="HTTP/1.0") + BODY,
        head("GET", "/v1/models/org%2Fmodel?x=1", f"Authorization: Bearer {front.key}") * 2,
    ]


PIECES = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b":",
        b";",
        b",",
        b"\0",
        b"\xff",
        b'"',
        b"{",
        b"}",
        b"0",
        b"-1",
        b"0\r\n\r\n",
    ),
    *(b"Transfer-Encoding: chunked\r\n", b"Content-Length: 3\r\n", b"Connection: close\r\n", b"Upgrade: h2c\r\n"),
    *(b"HTTP/1.0", b"HTTP/2.0", b"CONNECT", b"HEAD", b"%2e%2e%2f", b"\\u0000", b"ffffffffffffffff\r\n", b"x" * 40_000),
)


@st.composite
def broken(draw: st.DrawFn, good: list[bytes]) -> bytes:
    """A good request after one to four bytes or pieces of it were cut, doubled, replaced, or put in."""
    sent = draw(st.sampled_from(good))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(sent)))
        end = min(len(sent), at + draw(st.sampled_from((0, 0, 1, 1, 2, 8, 60))))
        put = draw(st.sampled_from(PIECES) | st.binary(max_size=4) | st.just(sent[at:end] * 2))
        sent = sent[:at] + put + sent[end:]
    return sent


async def statuses(front: Front, sent: bytes) -> list[int]:
    """Of all answers until the gateway ends the connection, which it has to, in whatever way."""
    results: list[int] = []
    async with connected(front.url) as connection, asyncio.timeout(HANGING_SECONDS):
        try:
            await connection.send(sent)
            while (answer := await connection.answer(bodyless=False)) is not None:
                results.append(answer.status)
        except (ConnectionError, Cut):
            pass
    return results


async def test_a_request_with_broken_bytes_is_answered_or_cut(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await front_before(opened, scripted_engine.base_url, BOUNDS)
    loop = asyncio.get_running_loop()
    reported: list[int] = []

    async def batch(all_sent: list[bytes]) -> None:
        for sent, results in zip(all_sent, await asyncio.gather(*(statuses(front, s) for s in all_sent)), strict=True):
            assert [status for status in results if status >= 500] == [], sent
            reported.extend(results)
        await still_serves(front)

    @given(st.lists(broken(seeds(front)), min_size=BATCH, max_size=BATCH))
    @settings(
        max_examples=25,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],  # to make a hanging example smaller takes minutes
        suppress_health_check=list(HealthCheck),
    )
    def search(all_sent: list[bytes]) -> None:
        asyncio.run_coroutine_threadsafe(batch(all_sent), loop).result()

    await asyncio.to_thread(search)
    assert {200, 400, 401, 404} <= set(reported), "the breaking is too gentle, or too harsh"
    assert all(seen.body["model"] == scripted_engine.name for seen in scripted_engine.requests)
