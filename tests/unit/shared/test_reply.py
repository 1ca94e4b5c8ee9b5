"""The reply envelope: every request gets its answer, or an error that its client can act on."""

import sqlite3

import pytest

from shared.bus.reply import MAX_REPLY_BYTES, Outage, attempt, encode_reply, reply
from shared.errors import BusUnavailable, Conflict, Rejected
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.meter import ErrorReply, TokensQuery

DATABASE_DOWN = Outage((sqlite3.Error,), "the database does not answer: try again later", lambda _: "without secrets")


QUERY = encode(TokensQuery(day="2026-05-04"))


async def echo(query: TokensQuery) -> TokensQuery:
    return query


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Rejected("day: not a date"), "day: not a date"),
        (BusUnavailable("timeout"), "the bus does not answer (timeout): try again later"),
        (sqlite3.OperationalError("password"), "the database does not answer: try again later"),
    ],
)
async def test_a_failure_that_a_client_can_act_on_becomes_an_error_reply(error: Exception, reason: str) -> None:
    async def fail(_query: TokensQuery) -> TokensQuery:
        raise error

    data = await reply(QUERY, TokensQuery, fail, DATABASE_DOWN, if_too_large="")
    assert decode(data, ErrorReply).reason == reason


async def test_another_failure_is_raised_for_the_log() -> None:
    async def fail() -> TokensQuery:
        raise Conflict("written meanwhile")

    with pytest.raises(Conflict):
        await attempt(fail, DATABASE_DOWN)


async def test_an_unreadable_query_is_answered_with_what_is_wrong_with_it() -> None:
    data = await reply(b"{", TokensQuery, echo, if_too_large="")
    assert decode(data, ErrorReply).reason.startswith("TokensQuery: ")


async def test_unreadable_data_of_ours_are_raised_for_the_log() -> None:
    async def fail(_query: TokensQuery) -> TokensQuery:
        raise Unreadable("dict: Input data was truncated")

    with pytest.raises(Unreadable):
        await reply(QUERY, TokensQuery, fail, if_too_large="")


async def test_the_answer_comes_back_as_it_is() -> None:
    assert await reply(QUERY, TokensQuery, echo, if_too_large="") == QUERY


def test_an_answer_larger_than_a_message_becomes_an_error_reply_with_the_fix() -> None:
    answer = ErrorReply(reason="x" * MAX_REPLY_BYTES)
    expected = "the answer is larger than a message: ask for fewer days"
    assert decode(encode_reply(answer, if_too_large="ask for fewer days"), ErrorReply).reason == expected


async def test_a_reason_is_bounded_whatever_it_quotes() -> None:
    async def reject(query: TokensQuery) -> TokensQuery:
        raise Rejected(f"day: expected a date, got {query.day!r}")

    query = encode(TokensQuery(day="1" * 900_000))
    reason = decode(await reply(query, TokensQuery, reject, DATABASE_DOWN, if_too_large=""), ErrorReply).reason
    assert reason.startswith("day: expected a date, got '111")
    assert len(reason) <= 2000
