"""How responses are counted for the ledger: by model, status and code, and never without bound."""

import pytest

from services.gateway.core import response_counts
from services.gateway.core.response_counts import ResponseCounts
from shared.messages.responses import HourResponses
from tests.kit.raw_engine import DONE, EVENT
from tests.unit.gateway.front import NOON, Front
from tests.unit.gateway.test_inference import STREAM, fronts
from tests.unit.gateway.wire import SECRET, post, turns, until

HOUR = 3600.0


def counted(front: Front) -> dict[tuple[str, int, str], int]:
    return dict(front.responses.current)


async def test_responses_count_by_model_status_and_code() -> None:
    async with fronts() as front:
        served = await front.ask(STREAM)
        front.calls[0].answer()
        front.calls[0].feed(EVENT + DONE)
        front.calls[0].receiver.on_end()
        await until(lambda: served.written.endswith(b"0\r\n\r\n"))
        front.gates.reason = "closed_by_operator"
        await front.ask()
        front.gates.reason = None
        await front.ask(b'{"model":"made up"}')
        await turns()
        assert counted(front) == {("m", 200, ""): 1, ("m", 503, "budget_closed"): 1, ("", 404, "model_not_found"): 1}


async def test_strangers_are_not_counted() -> None:
    async with fronts() as front:
        for data in (post().replace(SECRET.encode(), b"guess"), post(path=b"/v1/guess"), b"nonsense\r\n\r\n"):
            front.connect().send(data)
            await turns()
        assert front.metrics.answers.total() == 3
        assert counted(front) == {}


async def test_an_error_after_the_200_of_a_stream_counts_by_its_code() -> None:
    async with fronts() as front:
        wire = await front.ask(STREAM)
        front.calls[0].answer()
        front.calls[0].feed(EVENT)
        front.calls[0].receiver.on_lost("reset", unreachable=False)
        await until(lambda: b"engine_lost" in wire.written)
        await turns()
        assert front.metrics.answers[200, "engine_lost"] == 1
        assert counted(front) == {("m", 502, "engine_lost"): 1}


@pytest.mark.parametrize(("blames", "status"), [(b"500", 502), (b"400", 400)])
async def test_an_engines_error_in_a_stream_is_no_success(blames: bytes, status: int) -> None:
    async with fronts() as front:
        wire = await front.ask(STREAM)
        front.calls[0].answer()
        front.calls[0].feed(b'data: {"error":{"message":"x","code":' + blames + b"}}\n\n" + DONE)
        front.calls[0].receiver.on_end()
        await until(lambda: wire.written.endswith(b"0\r\n\r\n"))
        await turns()
        assert counted(front) == {("m", status, "engine_error"): 1}


def take(counts: ResponseCounts) -> list[HourResponses]:
    messages = list(counts.unpublished())
    for message in messages:
        counts.on_published(message)
    counts.forget_old()
    return messages


def test_each_hour_is_published_whole_once_it_changed() -> None:
    counts = ResponseCounts("gw", NOON)
    counts.current["m", 200, ""] += 2
    (first,) = take(counts)
    assert [(c.model, c.status, c.code, c.responses) for c in first.counts] == [("m", 200, "", 2)]
    assert take(counts) == []
    counts.current["m", 200, ""] += 1
    counts.roll(NOON + HOUR)
    counts.current["m", 504, "wake_timeout"] += 1
    assert [(m.hour - first.hour, m.counts[0].responses) for m in take(counts)] == [(0, 3), (1, 1)]
    counts.publish_again()
    assert len(take(counts)) == 2, "a bus that lost its data gets both again"


def test_hours_and_kinds_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_counts, "MAX_KINDS", 2)
    counts = ResponseCounts("gw", NOON)
    for hour in range(100):
        counts.roll(NOON + hour * HOUR)
        counts.current["m", 200, ""] += 1
        counts.forget_old()
    assert len(list(counts.unpublished())) == response_counts.MAX_HOURS
    for status in (400, 401, 401, 402):
        counts.current["m", status, ""] += 1
    newest = [*counts.unpublished()][-1]
    assert [(c.model, c.status, c.code, c.responses) for c in newest.counts] == [
        ("m", 200, "", 1),
        ("m", 400, "", 1),
        ("", 401, "other", 2),
        ("", 402, "other", 1),
    ]
    assert len(take(counts)) == response_counts.MAX_HOURS
    assert take(counts) == []
    counts.publish_again()
    assert len(list(counts.unpublished())) == response_counts.KEPT_HOURS
