"""One gateway's limits: what is admitted, what is held and given back, and what a client is told."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.core.rate_limits import LimitExceeded, RateLimiter, Reservation, Unsettled
from shared.messages.gateway import KeyQuota, QuotaReport
from shared.messages.keys import KeyRecord
from shared.messages.meter import KeyMonth

NOW = 1795478297.0
"""In November 2026."""
NEXT_MONTH = NOW + 8 * 86400


def headers(limiter: RateLimiter, record: KeyRecord, now: float) -> dict[str, str]:
    """The lines, as a client reads them."""
    lines = limiter.headers(record, now).decode().splitlines()
    return {name: value for name, _, value in (line.partition(": ") for line in lines)}


def key(key_id: str = "k", **limits: Any) -> KeyRecord:
    return KeyRecord(id=key_id, name="n", created_at=0.0, **limits)


def made(months: dict[str, KeyMonth] | None = None) -> RateLimiter:
    return RateLimiter("g", NOW, {} if months is None else months)


def taken(limiter: RateLimiter, record: KeyRecord, tokens: int = 1, now: float = NOW) -> Reservation:
    use = limiter.admit(record, tokens, now)
    assert isinstance(use, Reservation), use
    return use


def refused(limiter: RateLimiter, record: KeyRecord, tokens: int = 1, now: float = NOW) -> LimitExceeded:
    refusal = limiter.admit(record, tokens, now)
    assert isinstance(refusal, LimitExceeded), refusal
    return refusal


@given(st.lists(st.floats(0.0, 20.0), min_size=1, max_size=80), st.integers(1, 5))
def test_no_minute_ever_has_more_requests_than_allowed(gaps: list[float], limit: int) -> None:
    limiter, now, admitted = made(), NOW, []
    for gap in gaps:
        now += gap
        if isinstance(limiter.admit(key(requests_per_minute=limit), 1, now), Reservation):
            admitted.append(now)
    assert all(sum(0 <= late - early < 60 for early in admitted) <= limit for late in admitted)


def test_a_rejected_request_succeeds_after_its_retry_after() -> None:
    limiter, record = made(), key(requests_per_minute=2)
    taken(limiter, record, now=NOW + 0.9)
    taken(limiter, record, now=NOW + 30)
    refusal = refused(limiter, record, now=NOW + 40.5)
    assert (refusal.which, refusal.limit, refusal.retry_after) == ("requests", 2, 21)
    refused(limiter, record, now=NOW + 60.8)
    taken(limiter, record, now=NOW + 40.5 + refusal.retry_after)


def test_retry_after_is_between_a_second_and_a_minute() -> None:
    limiter, record = made(), key(requests_per_minute=1)
    taken(limiter, record)
    assert refused(limiter, record).retry_after == 60
    assert refused(limiter, record, now=NOW + 60.9).retry_after == 1


def test_a_request_holds_its_estimate_and_gives_back_what_it_did_not_take() -> None:
    limiter, record = made(), key(tokens_per_minute=1000)
    use = taken(limiter, record, 800)
    assert refused(limiter, record, 300).which == "tokens"
    use.settle(100, NOW, 1)
    taken(limiter, record, 900)
    refused(limiter, record, 1)


def test_a_long_stream_counts_as_long_as_it_runs_and_a_minute_more() -> None:
    limiter, record = made(), key(tokens_per_minute=1000)
    use = taken(limiter, record, 800)
    refused(limiter, record, 300, NOW + 300)
    use.settle(900, NOW + 300, 1)
    refused(limiter, record, 200, NOW + 360)
    taken(limiter, record, 1000, NOW + 361)


def test_a_running_total_above_the_estimate_counts_at_once() -> None:
    limiter, record = made(), key(tokens_per_minute=1000, monthly_tokens=1000)
    use = taken(limiter, record, 100)
    use.update(50)
    taken(limiter, record, 1).settle(0, NOW, None)
    use.update(950)
    assert refused(limiter, record, 100).which == "tokens"
    use.settle(0, NOW, None)
    use.update(2000)
    taken(limiter, record, 1000)


def test_an_estimate_above_the_limit_counts_as_the_limit() -> None:
    limiter, record = made(), key(tokens_per_minute=1000)
    use = taken(limiter, record, 50_000)
    refused(limiter, record)
    use.settle(10, NOW, 1)
    taken(limiter, record, 990)


def test_a_limit_of_requests_at_once_counts_those_that_run() -> None:
    limiter, record = made(), key(concurrency=2)
    first, _ = taken(limiter, record), taken(limiter, record)
    refusal = refused(limiter, record)
    assert (refusal.which, refusal.retry_after) == ("concurrency", 1)
    first.settle(1, NOW, 1)
    first.settle(1, NOW, 1)  # once is enough
    taken(limiter, record)
    refused(limiter, record)


def test_a_refused_request_holds_nothing() -> None:
    limiter, record = made(), key(requests_per_minute=5, tokens_per_minute=10, concurrency=1)
    taken(limiter, record, 10).settle(0, NOW, None)
    use = taken(limiter, record, 10)
    for _ in range(20):
        refused(limiter, record, 10)
    use.settle(0, NOW, None)
    taken(limiter, record, 10)
    assert limiter.hits == {"requests": 0, "tokens": 20, "concurrency": 0, "month": 0}


def test_a_month_has_what_the_ledger_has_and_what_it_has_not_yet() -> None:
    months = {"k": KeyMonth(key_id="k", month="2026-11", tokens=400, at=NOW)}
    limiter, record = made(months), key(monthly_tokens=1000)
    taken(limiter, record, 500).settle(300, NOW, 1)
    taken(limiter, record, 300).settle(200, NOW, 2)
    assert refused(limiter, record, 101).which == "month"
    months["k"] = KeyMonth(key_id="k", month="2026-11", tokens=700, at=NOW)
    limiter.on_confirmed(1)
    refused(limiter, record, 101)
    taken(limiter, record, 100).settle(0, NOW, None)
    months["k"] = KeyMonth(key_id="k", month="2026-11", tokens=900, at=NOW)
    limiter.on_confirmed(2)
    refused(limiter, record, 101)
    taken(limiter, record, 100)


def test_a_new_month_begins_with_what_the_ledger_has_of_it() -> None:
    months = {"k": KeyMonth(key_id="k", month="2026-11", tokens=1000, at=NOW)}
    limiter, record = made(months), key(monthly_tokens=1000)
    refused(limiter, record)
    taken(limiter, record, 1000, NEXT_MONTH).settle(0, NEXT_MONTH, None)
    months["k"] = KeyMonth(key_id="k", month="2026-12", tokens=1500, at=NEXT_MONTH)
    refused(limiter, record, 1, NEXT_MONTH)


@given(st.data())
def test_what_the_ledger_has_not_confirmed_is_never_less_than_it_is(data: st.DataObject) -> None:
    limiter, record = made(), key(monthly_tokens=10**9)
    spent: list[int] = []
    mark = 0
    for _ in range(data.draw(st.integers(1, 25))):
        if data.draw(st.booleans()):
            spent.append(data.draw(st.integers(0, 50)))
            taken(limiter, record, 50).settle(spent[-1], NOW, len(spent))
        else:
            mark = max(mark, data.draw(st.integers(0, len(spent))))
            limiter.on_confirmed(mark)
        reported = limiter.report(NOW).keys.get("k")
        assert (reported.used[3] if reported else 0) >= sum(spent[mark:])
    limiter.on_confirmed(len(spent))
    reported = limiter.report(NOW).keys.get("k")
    assert reported is None or reported.used[3] == 0


def test_an_event_that_was_confirmed_before_its_request_ended_counts_once() -> None:
    months = {"k": KeyMonth(key_id="k", month="2026-11", tokens=600, at=NOW)}
    limiter, record = made(months), key(monthly_tokens=1000)
    use = taken(limiter, record, 100)
    limiter.on_confirmed(7)
    use.settle(100, NOW, 7)
    taken(limiter, record, 400)


def test_a_changed_record_counts_at_once() -> None:
    limiter = made()
    for _ in range(3):
        taken(limiter, key())
    refused(limiter, key(concurrency=3))
    refused(limiter, key(requests_per_minute=3))
    taken(limiter, key(requests_per_minute=4, concurrency=4))


def test_keys_do_not_share() -> None:
    limiter = made()
    taken(limiter, key("a", requests_per_minute=1))
    taken(limiter, key("b", requests_per_minute=1))


def test_headers_show_the_key_s_limits() -> None:
    limiter, record = made(), key(requests_per_minute=60, tokens_per_minute=1000, concurrency=3)
    use = taken(limiter, record, 300)
    assert headers(limiter, record, NOW) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1m0s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "700",
        "x-ratelimit-reset-tokens": "1m0s",
    }
    use.settle(20, NOW, 1)
    reported = headers(limiter, record, NOW + 31)
    assert reported["x-ratelimit-remaining-tokens"] == "980"
    assert reported["x-ratelimit-reset-tokens"] == "30s"
    assert headers(limiter, record, NOW + 61)["x-ratelimit-reset-requests"] == "0s"
    assert not headers(limiter, key(concurrency=1), NOW)


def another(number: int, used: tuple[int, int, int, int], limit: int) -> QuotaReport:
    """What an elder gateway tells that lends nothing yet."""
    reported = KeyQuota(used=used, limits=(limit, None, None, None))
    return QuotaReport(
        gateway="e", started=1.0, number=number, sent_at=NOW, follows="e", version=0,
        keys={"k": reported}, heard={"g": NOW}, loans={},
    )  # fmt: skip


def test_headers_and_refusals_know_what_other_gateways_use() -> None:
    limiter, record = made(), key(requests_per_minute=10)
    limiter.coordinator.receive(another(1, (7, 0, 0, 0), 10), NOW)
    reported = headers(limiter, record, NOW)
    assert (reported["x-ratelimit-remaining-requests"], reported["x-ratelimit-reset-requests"]) == ("3", "1m0s")
    assert isinstance(limiter.admit(record, 1, NOW), Unsettled)
    limiter.coordinator.receive(another(2, (10, 0, 0, 0), 10), NOW)
    assert refused(limiter, record).retry_after == 6


def test_what_stays_unsettled_becomes_a_refusal_and_is_counted() -> None:
    limiter, record = made(), key(requests_per_minute=10)
    limiter.coordinator.receive(another(1, (7, 0, 0, 0), 10), NOW)
    unsettled = limiter.admit(record, 1, NOW)
    assert isinstance(unsettled, Unsettled)
    assert limiter.report(NOW).keys["k"].wanted == (1, 0, 0, 0)
    assert limiter.hits["requests"] == 0
    assert limiter.give_up(unsettled).error().headers == {"Retry-After": "1"}
    assert limiter.hits["requests"] == 1
    assert not limiter.report(NOW + 1).keys


def test_changes_are_reported_only_to_other_gateways() -> None:
    limiter, record, calls = made(), key(requests_per_minute=10, concurrency=5), []
    limiter.on_change = lambda: calls.append(1)
    taken(limiter, record).settle(1, NOW, 1)
    assert not calls
    limiter.coordinator.receive(another(1, (7, 0, 0, 0), 10), NOW)
    limiter.admit(record, 1, NOW)
    assert calls


@pytest.mark.parametrize(
    ("limit", "words"),
    [("requests_per_minute", "1 requests per minute"), ("tokens_per_minute", "1 tokens per minute"),
     ("concurrency", "1 requests at once")],
)  # fmt: skip
def test_a_rejection_names_the_limit_and_the_retry_time(limit: str, words: str) -> None:
    limiter, record = made(), msgspec.structs.replace(key(), **{limit: 1})
    taken(limiter, record)
    error = refused(limiter, record).error()
    assert (error.status, error.code, error.type) == (429, "rate_limit_exceeded", "rate_limit_error")
    assert words in error.message
    assert 1 <= int(error.headers["Retry-After"]) <= 60


def test_a_used_up_month_is_an_error_not_to_be_tried_again() -> None:
    months = {"k": KeyMonth(key_id="k", month="2026-11", tokens=5000, at=NOW)}
    error = refused(made(months), key(monthly_tokens=1000)).error()
    assert (error.status, error.code, error.headers) == (429, "insufficient_quota", {"x-should-retry": "false"})
    assert "1000 tokens" in error.message


def test_an_idle_key_is_forgotten() -> None:
    limiter = made()
    for at in range(100):
        taken(limiter, key(str(at), requests_per_minute=5), 10).settle(5, NOW, at + 1)
    assert len(limiter.report(NOW).keys) == 100
    limiter.on_confirmed(100)
    assert not limiter.report(NOW + 62).keys
    assert not limiter._keys


@pytest.mark.parametrize("jump", [-(10.0**6), -1.5, 10.0**6])
def test_a_clock_that_jumps_neither_frees_nor_keeps_anything_for_long(jump: float) -> None:
    limiter, record = made(), key(requests_per_minute=2, tokens_per_minute=100)
    taken(limiter, record, 50).settle(50, NOW, 1)
    taken(limiter, record, 50).settle(50, NOW, 2)
    if jump < 0:
        refused(limiter, record, now=NOW + jump)
    taken(limiter, record, 100, now=NOW + jump + 63)
