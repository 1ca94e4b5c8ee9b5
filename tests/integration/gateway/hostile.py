"""What the tests of hostile traffic share: an honest request, and the proof that the gateway still serves one."""

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.integration.gateway.conftest import MODEL, Front
from tests.kit.raw_http import Answer, RawConnection, connected, head
from tests.kit.waiting import until

Opened = Callable[..., Awaitable[Front]]
PATH = "/v1/chat/completions"
MOST_ERROR_BYTES = 2000
"""An error that is longer gives back what was sent."""
MEGABYTE = 1024 * 1024
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
BODY = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "honest"}]}).encode()
STREAM = BODY[:-1] + b',"stream":true}'
HONEST = f"Content-Length: {len(BODY)}"
CHUNKED = "Transfer-Encoding: chunked"


def post(front: Front, *headers: str, target: str = PATH, version: str = "HTTP/1.1") -> bytes:
    """The head of a request with a good key; the headers that say how long its body is are the caller's."""
    return head("POST", target, f"Authorization: Bearer {front.key}", *headers, version=version)


def whole(front: Front, body: bytes = BODY, *headers: str, target: str = PATH) -> bytes:
    """A request with a good key, and its body."""
    return post(front, f"Content-Length: {len(body)}", *headers, target=target) + body


async def front_before(opened: Opened, url: str, gateway: str = "") -> Front:
    """A gateway with an engine at `url` as its first machine."""
    front = await opened(gateway)
    await front.machine("m1", "ready", url)
    await front.machine("m2", "asleep")
    return front


async def send_request(front: Front, *sent: bytes) -> Answer:
    """The one answer to the one request of a connection."""
    async with connected(front.url) as connection:
        await connection.send(*sent)
        answer = await connection.answer()
    assert answer is not None
    return answer


async def answers(connection: RawConnection) -> list[Answer]:
    """All that come until the gateway ends the connection in order."""
    results: list[Answer] = []
    while (answer := await connection.answer()) is not None:
        results.append(answer)
    return results


def own_error(answer: Answer) -> str:
    """`status code` of an error of ours that has everything that belongs to one; else what it has instead."""
    actual = answer.headers
    whole_id = UUID7.fullmatch(actual.get("x-request-id", ""))
    if not whole_id or actual.get("content-type") != "application/json" or len(answer.body) > MOST_ERROR_BYTES:
        return f"{answer.status} as no error of ours: {actual} {answer.body[:100]!r}"
    assert set(answer.error) == {"message", "type", "param", "code"}
    return f"{answer.status} {answer.code}"


async def goes_on(connection: RawConnection, front: Front) -> None:
    """The same connection serves an honest request."""
    await connection.send(whole(front))
    answer = await connection.answer()
    assert answer is not None
    assert answer.status == 200


async def moved_to(front: Front, url: str) -> None:
    """The first machine is the engine at `url`, once the gateway has heard of it."""
    await front.machine("m1", "ready", url)
    await until(lambda: send_request(front, whole(front)), lambda answer: answer.status == 200)


async def still_serves(front: Front) -> None:
    """A new connection does, by the same process, and nothing has surprised it."""
    async with connected(front.url) as connection:
        await goes_on(connection, front)
    assert front.service.process is not None
    assert front.service.process.returncode is None
    assert "Traceback" not in front.service.log.read_text("utf-8")


def peak_memory(front: Front) -> int:
    """The most that the process ever had, in bytes."""
    status = Path(f"/proc/{front.service.announced.pid}/status").read_text("utf-8")
    results = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert results is not None
    return int(results[1]) * 1024
