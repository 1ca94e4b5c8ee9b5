"""A request's usage event says what the request came to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.core.request_body import parse
from services.gateway.core.usage import TokenCount
from services.gateway.core.usage_record import UsageRecord
from tests.unit.gateway.test_scheduler import record

BODY = b'{"model":"served","messages":[],"stream":true,"n":3,"max_tokens":64}'


def test_the_event_has_the_last_machine_and_the_first_that_may_have_seen_the_request() -> None:
    usage = UsageRecord("r", "k", 100.0, "chat")
    usage.on_parsed("m", parse(BODY))
    usage.machine = record("s1", "ready")
    usage.on_failover()
    assert usage.moved_from is None, "nothing was written to it"
    usage.written = True
    usage.on_failover()
    usage.machine, usage.outcome, usage.status = record("d1", "ready"), "completed", 200
    usage.count = TokenCount(5, 4, 3, 2, "engine")
    its = usage.event("s", 7, 103.0)
    assert (its.id, its.source, its.source_seq, its.key_id, its.model) == ("r", "s", 7, "k", "m")
    assert (its.machine, its.moved_from, its.outcome, its.status) == ("d1", "s1", "completed", 200)
    assert (its.prompt_tokens, its.cached_tokens, its.completion_tokens, its.reasoning_tokens) == (5, 4, 3, 2)
    assert (its.basis, its.streamed, its.choices, its.max_tokens, its.body_bytes) == ("engine", True, 3, 64, len(BODY))
    assert its.operation == "chat"
    assert (its.completed_at, its.duration, its.first_token, its.overhead) == (103.0, 3.0, None, 0.0)


MOMENT = st.floats(0, 2e9)


@given(arrived=MOMENT, forwarded=MOMENT, first_byte=MOMENT, wake_wait=st.floats(0, 1e4), now=MOMENT)
def test_no_duration_is_negative_whatever_the_clock_did(
    arrived: float, forwarded: float, first_byte: float, wake_wait: float, now: float
) -> None:
    usage = UsageRecord("r", "k", arrived, model="m", machine=record("s1", "ready"), wake_wait=wake_wait)
    usage.forwarded_at, usage.first_byte_at = forwarded, first_byte
    its = usage.event("s", 1, now)
    assert its.overhead == pytest.approx(max(0.0, forwarded - arrived - wake_wait))
    assert its.first_token == pytest.approx(max(0.0, first_byte - arrived - wake_wait))
    assert its.duration == pytest.approx(max(0.0, now - arrived))
