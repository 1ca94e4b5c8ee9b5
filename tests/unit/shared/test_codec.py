"""Whatever comes from outside: the value, or `Unreadable`, and never another exception."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.messages.budget import BudgetGate, Journalled
from shared.messages.codec import (
    Decoder,
    PackedDecoder,
    Unreadable,
    decode,
    decode_any,
    decode_text,
    decode_toml,
    rfc3339,
)
from shared.messages.gateway import Activity, UsageEvent, WakeRequest
from shared.messages.keys import KeyRecord
from shared.messages.waker import MachineRecord, Memory

KINDS: list[Any] = [
    UsageEvent,
    KeyRecord,
    MachineRecord,
    BudgetGate,
    Activity,
    WakeRequest,
    Journalled,
    Memory,
]
DECODERS: list[Decoder[Any]] = [Decoder(kind) for kind in KINDS]
DEEP = 100_000
ODD: list[bytes] = [
    b"",
    b"\xff",
    b"null",
    b"[" * DEEP,
    b"[" * DEEP + b"]" * DEEP,
    b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    b'{"type":' * DEEP,
    b'{"\xff": 1}',
    b'"\\ud800"',
    b'{"a": 1e999999, "b": ' + b"9" * 10_000 + b"}",
    b'\xef\xbb\xbf{"a": 1}',
]
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def _only_unreadable(work: Any, data: Any) -> None:
    try:
        work(data)
    except Unreadable:
        return


@pytest.mark.parametrize("data", ODD, ids=lambda data: repr(data[:12]))
def test_odd_bytes_are_a_value_or_unreadable(data: bytes) -> None:
    for decoder in DECODERS:
        _only_unreadable(decoder.decode, data)
    _only_unreadable(decode_any, data)
    _only_unreadable(decode_text, data)
    _only_unreadable(PackedDecoder(dict[int, int]).decode, data)
    _only_unreadable(lambda text: decode_toml(text, KeyRecord, _no_special), data)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_unreadable(data: bytes) -> None:
    test_odd_bytes_are_a_value_or_unreadable(data)


@given(_json.map(msgspec.json.encode))
def test_any_json_is_a_message_or_unreadable(data: bytes) -> None:
    for decoder in DECODERS:
        _only_unreadable(decoder.decode, data)


def test_deep_nesting_is_unreadable_where_it_is_skipped_and_where_it_is_kept() -> None:
    deep = b'{"skipped": ' + b"[" * DEEP + b"]" * DEEP + b"}"
    with pytest.raises(Unreadable, match="KeyRecord"):
        decode(deep, KeyRecord)
    with pytest.raises(Unreadable):
        decode_any(deep)
    with pytest.raises(Unreadable):
        decode_toml(b"a = " + b"[" * DEEP, KeyRecord, _no_special)


def test_text_that_is_not_utf8_is_named_by_its_first_wrong_byte() -> None:
    with pytest.raises(Unreadable, match="not UTF-8 at its byte 3"):
        decode_text(b"abc\xffd")
    assert decode_text(bytearray("é".encode())) == "é"


@pytest.mark.parametrize("moment", [-1e300, 1e300, float("-inf"), float("inf"), 0.0, 1.5, -62_135_596_800.0])
def test_any_moment_has_a_date(moment: float) -> None:
    assert rfc3339(moment).endswith("Z")


def _no_special(kind: type[Any], _value: object) -> object:
    raise NotImplementedError(kind)


def test_a_reason_quotes_a_part_of_a_long_value_and_ends_with_the_place() -> None:
    long = "x" * 1_000_000
    for data in ({"type": long}, {"type": "key.v1", "id": "k", "name": "n", "created_at": 0.0, "models": [1], long: 1}):
        with pytest.raises(Unreadable) as refused:
            decode(msgspec.json.encode(data), KeyRecord)
        assert len(str(refused.value)) <= 300
    assert str(Unreadable(f"{long} - at `$.a`")).endswith("x - at `$.a`")
