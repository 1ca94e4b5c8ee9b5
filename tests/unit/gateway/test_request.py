"""What routing needs of a body, and what the engine gets of it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.core.errors import ApiError
from services.gateway.core.request import for_engine, parse

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_it_reads_what_routing_needs() -> None:
    asked = parse(b'{"model": "m", "stream": true, "stream_options": {"include_usage": true}, "x": [1]}')
    assert (asked.model, asked.stream, asked.wants_usage, asked.wants_running_usage) == ("m", True, True, False)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"{bad", "invalid_json", None),
        (b"", "invalid_json", None),
        (b'{"model": "m", "x": "\xff"}', "invalid_json", None),
        (b"[" * 200_000, "invalid_request", None),
        (b'{"model": "m", "x": ' + b"[" * 200_000, "invalid_json", None),
        (b'{"messages": []}', "invalid_request", "model"),
        (b'{"model": 7}', "invalid_request", "model"),
        (b'{"model": ""}', "invalid_request", "model"),
        (b'{"model": "m", "stream": "yes"}', "invalid_request", "stream"),
        (b'{"model": "m", "stream_options": {"include_usage": 1}}', "invalid_request", "stream_options.include_usage"),
        (b'{"model": "m", "model": "n"}', "invalid_request", "model"),
        (b'{"model": "m", "\\u006dodel": "n"}', "invalid_request", "model"),
        (b"[1]", "invalid_request", None),
    ],
)
def test_a_wrong_body_is_refused_and_the_field_named(body: bytes, code: str, param: str | None) -> None:
    with pytest.raises(ApiError) as caught:
        parse(body)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)
    assert json.loads(caught.value.body())["error"]["code"] == code


def test_model_inside_something_else_is_no_repetition() -> None:
    assert parse(b'{"tools": [{"model": "x"}], "model": "m", "metadata": {"model": "y"}}').model == "m"


def test_a_body_that_needs_no_change_travels_byte_for_byte() -> None:
    body = b'{ "model":"m" ,\n "messages": [ ] , "stream" : false}'
    assert for_engine(parse(body), served_as=None, usage_options=True) == body


def test_stream_options_are_put_in_without_touching_the_rest() -> None:
    body = b'{ "model":"m", "stream":true, "x": 1.0 }'
    changed = for_engine(parse(body), served_as=None, usage_options=True)
    assert changed.endswith(body[1:])
    assert json.loads(changed)["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


@given(extra=st.dictionaries(st.text().filter(lambda k: k not in ("model", "stream", "stream_options")), JSON))
def test_every_other_field_means_the_same_to_the_engine(extra: dict[str, Any]) -> None:
    body = {**extra, "model": "m", "stream": True, "stream_options": {"include_usage": False, "vendor": 3}}
    changed = json.loads(for_engine(parse(json.dumps(body).encode()), served_as="org/M", usage_options=True))
    options = {"include_usage": True, "continuous_usage_stats": True, "vendor": 3}
    assert changed == {**extra, "model": "org/M", "stream": True, "stream_options": options}


def test_numbers_keep_their_spelling_when_the_model_is_renamed() -> None:
    changed = for_engine(
        parse(b'{"model":"m","temperature":1.10,"seed":12345678901234567890}'), served_as="n", usage_options=True
    )
    assert changed == b'{"model":"n","temperature":1.10,"seed":12345678901234567890}'
