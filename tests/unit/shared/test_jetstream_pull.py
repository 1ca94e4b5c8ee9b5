"""Fetches beside a server that answers late, short, or with what is no message."""

import asyncio
from typing import Any

import msgspec
import nats.js.errors
import pytest
from nats.aio.msg import Msg

from shared.bus.jetstream_pull import Pull
from shared.bus.topology import LEDGER

LONG = 3600.0


class Server:
    """What the client sends is in `asked`; `answers` are sent at once, a list for each request."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answers: list[list[Msg]] = []
        self.say: Any = None
        self.waited = asyncio.Event()

    def new_inbox(self) -> str:
        return "_INBOX.me"

    async def subscribe(self, subject: str, cb: Any) -> None:
        assert subject == "_INBOX.me"
        self.say = cb

    async def publish(self, subject: str, payload: bytes, reply: str) -> None:
        assert (subject, reply) == ("$JS.API.CONSUMER.MSG.NEXT.USAGE.ledger", "_INBOX.me")
        self.asked.append(msgspec.json.decode(payload))
        if "expires" in self.asked[-1]:
            self.waited.set()
        for message in self.answers.pop(0) if self.answers else []:
            await self.say(message)


def message(data: bytes) -> Msg:
    return Msg(_client=None, subject="usage.1", data=data)  # type: ignore[arg-type]  # nothing of it is asked


def status(code: str) -> Msg:
    return Msg(_client=None, subject="", headers={"Status": code})  # type: ignore[arg-type]  # as above


async def pull_of(server: Server) -> Pull:
    pull = Pull(server, LEDGER.stream, LEDGER.durable)  # type: ignore[arg-type]  # as much of a client as is used
    await pull.start()
    return pull


async def fetched(pull: Pull, batch: int, wait: float = LONG) -> list[bytes]:
    return [found.data for found in await pull.fetch(batch, wait)]


async def test_what_is_there_is_taken_without_waiting_for_more() -> None:
    server = Server()
    server.answers = [[message(b"a"), message(b"b"), status("404")], [message(b"c"), message(b"d"), message(b"e")]]
    pull = await pull_of(server)
    assert await fetched(pull, 3) == [b"a", b"b"]
    assert await fetched(pull, 3) == [b"c", b"d", b"e"]
    assert server.asked == [{"batch": 3, "no_wait": True}] * 2


async def test_where_nothing_is_there_one_is_waited_for() -> None:
    server = Server()
    server.answers = [[status("404")], [message(b"a")]]
    assert await fetched(await pull_of(server), 3, wait=2.0) == [b"a"]
    assert server.asked[1:] == [{"batch": 1, "expires": 2_000_000_000}]


async def test_what_comes_after_the_end_of_its_fetch_is_in_the_next_one() -> None:
    server = Server()
    pull = await pull_of(server)
    assert await fetched(pull, 2, wait=0.0) == []
    for data in (b"a", b"b", b"c"):
        await server.say(message(data))
    asked = len(server.asked)
    assert await fetched(pull, 2) == [b"a", b"b"]
    assert len(server.asked) == asked, "nothing had to be asked for"
    server.answers = [[message(b"d")]]
    assert await fetched(pull, 2) == [b"c", b"d"]
    assert server.asked[asked:] == [{"batch": 1, "no_wait": True}]


@pytest.mark.parametrize("code", ["404", "408", "409"])
async def test_an_end_without_a_message_is_none(code: str) -> None:
    server = Server()
    server.answers = [[status("404")], [status(code)]]
    assert await fetched(await pull_of(server), 2) == []


async def test_what_else_the_server_says_is_raised_unless_messages_came() -> None:
    server = Server()
    server.answers = [[message(b"a"), status("503")], [status("503")]]
    pull = await pull_of(server)
    assert await fetched(pull, 2) == [b"a"]
    with pytest.raises(nats.js.errors.ServiceUnavailableError):
        await pull.fetch(2, LONG)
    server.answers = [[message(b"b"), status("404")]]
    assert await fetched(pull, 2) == [b"b"], "and is over then"


async def test_a_wait_ends_with_its_message() -> None:
    server = Server()
    server.answers = [[status("404")]]
    pull = await pull_of(server)
    fetching = asyncio.create_task(fetched(pull, 5))
    async with asyncio.timeout(30):
        await server.waited.wait()
        await server.say(message(b"a"))
        assert await fetching == [b"a"]
