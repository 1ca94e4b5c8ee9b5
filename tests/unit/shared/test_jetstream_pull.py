"""Fetches from a server that answers late, with too little, or with a status instead of a message."""

import asyncio
from typing import Any

import msgspec
import nats.js.errors
import pytest
from nats.aio.msg import Msg

from shared.bus.jetstream_pull import MAX_BYTES, Pull
from shared.bus.topology import LEDGER

LONG = 3600.0


class Server:
    """Records requests in `requests`, and answers each with the next list of `answers`."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.answers: list[list[Msg]] = []
        self.deliver: Any = None
        self.waited = asyncio.Event()

    def new_inbox(self) -> str:
        return "_INBOX.me"

    async def subscribe(self, subject: str, cb: Any) -> None:
        assert subject == "_INBOX.me"
        self.deliver = cb

    async def publish(self, subject: str, payload: bytes, reply: str) -> None:
        assert (subject, reply) == ("$JS.API.CONSUMER.MSG.NEXT.USAGE.ledger", "_INBOX.me")
        self.requests.append(msgspec.json.decode(payload))
        if "expires" in self.requests[-1]:
            self.waited.set()
        for message in self.answers.pop(0) if self.answers else []:
            await self.deliver(message)


def message(data: bytes) -> Msg:
    return Msg(_client=None, subject="usage.1", data=data)  # type: ignore[arg-type]  # it is not used


def status(code: str) -> Msg:
    return Msg(_client=None, subject="", headers={"Status": code})  # type: ignore[arg-type]  # as above


async def pull_of(server: Server) -> Pull:
    pull = Pull(server, LEDGER.stream, LEDGER.durable)  # type: ignore[arg-type]  # as much of a client as is used
    await pull.start()
    return pull


async def fetch_data(pull: Pull, batch: int, wait: float = LONG) -> list[bytes]:
    return [each.data for each in await pull.fetch(batch, wait)]


async def test_a_fetch_returns_what_is_there_without_waiting_for_more() -> None:
    server = Server()
    server.answers = [[message(b"a"), message(b"b"), status("404")], [message(b"c"), message(b"d"), message(b"e")]]
    pull = await pull_of(server)
    assert await fetch_data(pull, 3) == [b"a", b"b"]
    assert await fetch_data(pull, 3) == [b"c", b"d", b"e"]
    assert server.requests == [{"batch": 3, "no_wait": True, "max_bytes": MAX_BYTES}] * 2


async def test_a_fetch_waits_for_one_message_when_there_is_none() -> None:
    server = Server()
    server.answers = [[status("404")], [message(b"a")]]
    assert await fetch_data(await pull_of(server), 3, wait=2.0) == [b"a"]
    assert server.requests[1:] == [{"batch": 1, "expires": 2_000_000_000}]


async def test_messages_after_the_end_of_their_fetch_are_in_the_next_one() -> None:
    server = Server()
    pull = await pull_of(server)
    assert await fetch_data(pull, 2, wait=0.0) == []
    for data in (b"a", b"b", b"c"):
        await server.deliver(message(data))
    requests = len(server.requests)
    assert await fetch_data(pull, 2) == [b"a", b"b"]
    assert len(server.requests) == requests, "no request was needed"
    server.answers = [[message(b"d")]]
    assert await fetch_data(pull, 2) == [b"c", b"d"]
    assert server.requests[requests:] == [{"batch": 1, "no_wait": True, "max_bytes": MAX_BYTES}]


@pytest.mark.parametrize("code", ["404", "408", "409"])
async def test_a_fetch_that_ends_without_a_message_is_empty(code: str) -> None:
    server = Server()
    server.answers = [[status("404")], [status(code)]]
    assert await fetch_data(await pull_of(server), 2) == []


async def test_an_error_status_is_raised_unless_messages_came() -> None:
    server = Server()
    server.answers = [[message(b"a"), status("503")], [status("503")]]
    pull = await pull_of(server)
    assert await fetch_data(pull, 2) == [b"a"]
    with pytest.raises(nats.js.errors.ServiceUnavailableError):
        await pull.fetch(2, LONG)
    server.answers = [[message(b"b"), status("404")]]
    assert await fetch_data(pull, 2) == [b"b"], "and is over then"


async def test_a_wait_ends_with_its_message() -> None:
    server = Server()
    server.answers = [[status("404")]]
    pull = await pull_of(server)
    fetching = asyncio.create_task(fetch_data(pull, 5))
    async with asyncio.timeout(30):
        await server.waited.wait()
        await server.deliver(message(b"a"))
        assert await fetching == [b"a"]
