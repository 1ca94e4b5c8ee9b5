"""What routing needs of a body, and what the engine gets of it."""

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from services.gateway.core.errors import ApiError
from services.gateway.core.request_body import ParsedRequest, parse
from services.gateway.core.request_body import body_for_engine as pieces_for_engine

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


NUMBER = "a number"
"""Stands for a number as it is spelt, which Python's own would not keep."""
NUMBERS = st.sampled_from(["1.10", "-0", "1E+2", "1e999", "9" * 5000, "12345678901234567890", "0.1e-400"])
VALUES = JSON | st.just(NUMBER) | st.lists(st.just(NUMBER), max_size=2)
FLAGS = st.none() | st.booleans()
OPTIONS = st.none() | st.fixed_dictionaries(
    {}, optional={"include_usage": FLAGS, "continuous_usage_stats": FLAGS, "": VALUES, "\u00e9": VALUES}
)
GOOD = st.one_of(
    st.tuples(st.just("stream"), FLAGS),
    st.tuples(st.just("stream_options"), OPTIONS),
    st.tuples(st.just("max_tokens"), JSON),
    st.tuples(
        st.text(max_size=3) | st.just('"model"'),
        st.dictionaries(st.sampled_from(["model", "stream", "stream_options"]), VALUES, max_size=3) | VALUES,
    ),
)
ANY = GOOD | st.tuples(st.sampled_from(["model", "stream", "stream_options"]), VALUES)
SPACES = st.sampled_from(["", " ", "\n", "\t\r\n  "])


@st.composite
def spelt(draw: st.DrawFn, name: str) -> str:
    """A member's name as JSON: escaped or not, in part or as a whole."""
    escaped = draw(st.sampled_from([0, 0, 0, 1, len(name)]))
    units = name[:escaped].encode("utf-16-be", "surrogatepass").hex()
    head = "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
    return f'"{head}{json.dumps(name[escaped:], ensure_ascii=False)[1:-1]}"'


@st.composite
def bodies(draw: st.DrawFn, *, good: bool) -> bytes:
    """JSON objects as a client may write them: in any order, repeated, escaped, with blanks. `good`: one `model`."""
    members = draw(st.lists(GOOD if good else ANY, max_size=6))
    if good:
        model = ("model", draw(st.text(min_size=1, max_size=4) | st.sampled_from(["m", 'a "model":"b"'])))
        members.insert(draw(st.integers(0, len(members))), model)
    written = []
    for name, value in members:
        text = json.dumps(value, ensure_ascii=draw(st.booleans())).replace(f'"{NUMBER}"', draw(NUMBERS))
        written.append(f"{draw(SPACES)}{draw(spelt(name))}{draw(SPACES)}:{draw(SPACES)}{text}{draw(SPACES)}")
    return f"{draw(SPACES)}{{{','.join(written) or draw(SPACES)}}}{draw(SPACES)}".encode()


def pairs(body: bytes) -> list[tuple[str, Any]]:
    """The outermost members in their order, repeated ones too, each number as it is spelt."""
    results: list[list[tuple[str, Any]]] = []

    def on_object(members: list[tuple[str, Any]]) -> dict[str, Any]:
        results.append(members)
        return dict(members)

    json.loads(body, object_pairs_hook=on_object, parse_int=str, parse_float=str)
    return results[-1]


def body_for_engine(parsed: ParsedRequest, *, served_as: str | None, usage_options: bool) -> bytes:
    return b"".join(pieces_for_engine(parsed, served_as=served_as, usage_options=usage_options))


def test_it_reads_what_routing_needs() -> None:
    parsed = parse(b'{"model": "m", "stream": true, "stream_options": {"include_usage": true}, "x": [1]}')
    assert (parsed.model, parsed.stream, parsed.wants_usage, parsed.wants_running_usage) == ("m", True, True, False)


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


def test_a_nested_model_is_not_a_repetition() -> None:
    assert parse(b'{"tools": [{"model": "x"}], "model": "m", "metadata": {"model": "y"}}').model == "m"


def test_a_body_that_needs_no_change_travels_byte_for_byte() -> None:
    body = b'{ "model":"m" ,\n "messages": [ ] , "stream" : false}'
    assert body_for_engine(parse(body), served_as=None, usage_options=True) == body


def test_stream_options_are_put_in_without_touching_the_rest() -> None:
    body = b'{ "model":"m", "stream":true, "x": 1.0 }'
    changed = body_for_engine(parse(body), served_as=None, usage_options=True)
    assert changed.endswith(body[1:])
    assert json.loads(changed)["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


@given(extra=st.dictionaries(st.text().filter(lambda k: k not in ("model", "stream", "stream_options")), JSON))
def test_every_other_field_means_the_same_to_the_engine(extra: dict[str, Any]) -> None:
    body = {**extra, "model": "m", "stream": True, "stream_options": {"include_usage": False, "vendor": 3}}
    changed = json.loads(body_for_engine(parse(json.dumps(body).encode()), served_as="org/M", usage_options=True))
    options = {"include_usage": True, "continuous_usage_stats": True, "vendor": 3}
    assert changed == {**extra, "model": "org/M", "stream": True, "stream_options": options}


def test_numbers_keep_their_spelling_when_the_model_is_renamed() -> None:
    changed = body_for_engine(
        parse(b'{"model":"m","temperature":1.10,"seed":12345678901234567890}'), served_as="n", usage_options=True
    )
    assert changed == b'{"model":"n","temperature":1.10,"seed":12345678901234567890}'


@given(bodies(good=True))
def test_a_good_body_is_read_as_json_reads_it(body: bytes) -> None:
    parsed = parse(body)
    meant = dict(pairs(body))
    options = meant.get("stream_options") or {}
    assert (parsed.model, parsed.stream, parsed.body) == (meant["model"], bool(meant.get("stream")), body)
    assert parsed.wants_usage == bool(options.get("include_usage"))
    assert parsed.wants_running_usage == bool(options.get("continuous_usage_stats"))


@given(
    bodies(good=False)
    | st.binary()
    | st.builds(lambda body, at, put: body[:at] + put + body[at:], bodies(good=True), st.integers(0, 99), st.binary())
)
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        model = parse(body).model
    except ApiError as error:
        refused = json.loads(error.body())["error"]["code"]
        event(refused)
    else:
        assert [value for name, value in pairs(body) if name == "model"] == [model]


@given(bodies(good=True), st.none() | st.sampled_from(["m", "org/M", 'a "model"']), st.booleans())
def test_the_engine_gets_the_body_except_for_what_must_change(
    body: bytes, served_as: str | None, usage_options: bool
) -> None:
    parsed = parse(body)
    changed = body_for_engine(parsed, served_as=served_as, usage_options=usage_options)
    expected = dict(pairs(body))
    if served_as is not None:
        expected["model"] = served_as
    if parsed.stream and usage_options:
        theirs = expected.get("stream_options") or {}
        expected["stream_options"] = theirs | {"include_usage": True, "continuous_usage_stats": True}
    content = pairs(changed)
    assert dict(content) == expected
    assert [name for name, _ in content].count("model") == 1
    if served_as in {None, parsed.model} and not (parsed.stream and usage_options):
        assert changed == body


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","stream":true,"stream_options":{"x":1e999}}',
        b'{"model":"m","stream":true,"stream_options":{"x":' + b"9" * 5000 + b"}}",
        b'{"model":"m","stream":true,"stream_options":{"x":' + b"[" * 900 + b"]" * 900 + b"}}",
        b'{"model":"m","stream":true,"x":"\\u0061","y":' + b"9" * 5000 + b"}",
    ],
    ids=["a number beyond all floats", "a number without end", "depth", "a number without end, and an escape"],
)
def test_what_is_the_engine_s_to_judge_reaches_it(body: bytes) -> None:
    changed = body_for_engine(parse(body), served_as="n", usage_options=True)
    assert body[-8:].strip(b"}") in changed


@pytest.mark.parametrize(
    "start", [b'{"model":"m","x":[', b'{"model":"m","max_tokens":[', b'{"model":"m","x":"\\u0061","y":[']
)
def test_reading_a_large_body_costs_no_more_than_its_size(start: bytes) -> None:
    body = start + b"{}," * 300_000 + b"1]}"
    tracemalloc.start()
    try:
        parse(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * len(body)


@pytest.mark.parametrize(
    ("members", "choices"),
    [(b"", 1), (b',"n":3', 3), (b',"n":1', 1), (b',"n":0', 1), (b',"n":-2', 1), (b',"n":"3"', 3), (b',"n":null', 1)],
)
def test_n_is_read_as_engines_read_it(members: bytes, choices: int) -> None:
    assert parse(b'{"model":"m"%b}' % members).choices == choices


@pytest.mark.parametrize(
    ("value", "choices"),
    [
        (b"4.0", 4),
        (b'"4"', 4),
        (b"4e0", 4),
        (b"4.5", 1),
        (b"-4.0", 1),
        (b"1e999", 1),
        (b'"x"', 1),
        (b"[4]", 1),
        (b"true", 1),
    ],
)
def test_a_number_of_answers_is_read_as_engines_read_it(value: bytes, choices: int) -> None:
    assert parse(b'{"model":"m","n":%b}' % value).choices == choices


@pytest.mark.parametrize(
    ("members", "most"),
    [
        (b"", 0),
        (b',"max_tokens":16', 16),
        (b',"max_tokens":16,"max_completion_tokens":900', 900),
        (b',"max_completion_tokens":16,"max_tokens":900', 900),
        (b',"max_output_tokens":"16","max_tokens":null', 16),
        (b',"max_tokens":-1', 0),
    ],
)
def test_max_tokens_is_the_highest_of_all_its_members(members: bytes, most: int) -> None:
    assert parse(b'{"model":"m"%b}' % members).max_tokens == most


@pytest.mark.parametrize(
    ("members", "background"),
    [(b"", False), (b',"background":false', False), (b',"background":null', False), (b',"background":true', True)],
)
def test_whether_the_answer_comes_before_the_work_is_done(members: bytes, background: bool) -> None:
    assert parse(b'{"model":"m"%b}' % members).background is background


@pytest.mark.parametrize(
    ("prompt", "several"),
    [
        ('"a"', False),
        ('["a"]', False),
        ("[1, 2, 3]", False),
        ("[[1, 2]]", False),
        ("[]", False),
        ("null", False),
        ('[ "a" , "b"]', True),
        ("[[1, 2], [3]]", True),
    ],
)
def test_several_prompts_differ_from_one_token_list(prompt: str, *, several: bool) -> None:
    assert parse(f'{{"model":"m","prompt":{prompt}}}'.encode()).several_prompts == several
