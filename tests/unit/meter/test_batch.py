"""Which messages of a batch can be counted."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.meter.core.batch import parse_batch
from services.meter.core.event_validation import COUNT_LIMIT, NAME_BYTES, SEQ_LIMIT, clamp_token_counts
from services.meter.core.sequence_ranges import SeqRange
from shared.messages.codec import encode
from tests.unit.meter.events import MIDNIGHT, event

NOW = MIDNIGHT + 500.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", ""),
        ("model", "a\0b"),
        ("wake_id", "\0"),
        ("key_id", "k" * (NAME_BYTES + 1)),
        ("source_seq", 0),
        ("source_seq", SEQ_LIMIT),
        ("choices", -1),
        ("generation", COUNT_LIMIT),
        ("duration", -0.001),
        ("completed_at", 1e300),
        ("first_token", -1.0),
        ("status", -1),
    ],
)
def test_invalid_field_is_named_in_the_quarantine_reason(field: str, value: Any) -> None:
    good = event()
    (kept,) = parse_batch([encode(msgspec.structs.replace(good, **{field: value}))], NOW).quarantined
    assert kept.reason.startswith(f"{field}: ")


TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")


@given(st.tuples(*[st.integers(-(2**70), 2**70) | st.integers(-3, 3)] * 4))
def test_event_is_counted_whatever_its_token_counts_are(counts: tuple[int, ...]) -> None:
    reported = msgspec.structs.replace(event(), **dict(zip(TOKENS, counts, strict=True)))
    (message,) = parse_batch([encode(reported)], NOW).countable
    prompt, cached, completion, reasoning = (getattr(message.event, name) for name in TOKENS)
    assert 0 <= cached <= prompt < COUNT_LIMIT
    assert 0 <= reasoning <= completion < COUNT_LIMIT
    assert (prompt, completion) == tuple(c if 0 <= c < COUNT_LIMIT else 0 for c in counts[::2]), "each by itself"
    assert clamp_token_counts(message.event) is message.event


def test_values_at_their_bounds_are_countable() -> None:
    edge = event(
        source_seq=SEQ_LIMIT - 1,
        completed_at=0.0,
        prompt_tokens=COUNT_LIMIT - 1,
        model="k" * NAME_BYTES,
        wake_id="",
        status=0,
    )
    batch = parse_batch([encode(edge)], NOW)
    assert [message.event for message in batch.countable] == [edge]
    assert batch.quarantined == ()


def test_quarantined_message_keeps_its_number_when_readable() -> None:
    newer = encode(event("gw-1", 2)).replace(b'"usage.v1"', b'"usage.v9"')
    nothing = b'{"source": "gw-1"}'
    batch = parse_batch([encode(event("gw-1", 1)), newer, nothing], NOW)
    assert [(q.source, q.source_seq, q.at) for q in batch.quarantined] == [
        ("gw-1", 2, MIDNIGHT + 120.0),
        (None, None, NOW),
    ]
    assert batch.sequence_ranges == {
        "gw-1": (SeqRange(first=1, last=2, first_at=MIDNIGHT + 60.0, last_at=MIDNIGHT + 120.0),)
    }


@pytest.mark.parametrize("ahead", [301.0, 86_400.0, 6e9])
def test_invalid_event_is_dated_now_when_its_time_is_in_the_future(ahead: float) -> None:
    wrong = encode(event("gw-1", 1, status=-1, completed_at=NOW + ahead))
    assert [(q.kind, q.at) for q in parse_batch([wrong], NOW).quarantined] == [("invalid", NOW)]


def test_first_event_of_each_id_is_returned_in_id_order() -> None:
    b, a, again = event(id="b", source_seq=1), event(id="a", source_seq=2), event(id="b", source_seq=3)
    assert parse_batch(map(encode, (b, a, again)), NOW).first_by_id == {"a": a, "b": b}
    assert list(parse_batch(map(encode, (b, a, again)), NOW).first_by_id) == ["a", "b"]
