"""An event stream in any shape: nothing leaks, nothing is lost, and how it is cut into reads changes nothing."""

import json
import time
import tracemalloc
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.core.chunk import Chunk
from services.gateway.core.chunk_shape import ChunkShape, shape_of
from services.gateway.core.endpoints import ENDPOINTS
from services.gateway.core.sse import UnusableStream
from services.gateway.core.stream import MAX_EVENT_BYTES, MAX_EVENTS, StreamReader
from services.gateway.core.usage import TokenCount
from tests.unit.gateway.any_json import ANYTHING, USAGES, chunk, delta, sound, usage

DONE = b"data: [DONE]\n\n"
BOM = b"\xef\xbb\xbf"
CHAT = "/v1/chat/completions"


def reader(
    *, wants_usage: bool = False, wants_running_usage: bool = False, path: str = CHAT, n: int = 1
) -> StreamReader:
    return StreamReader(
        wants_usage=wants_usage, wants_running_usage=wants_running_usage, endpoint=ENDPOINTS[path], choices=n
    )


def read_all(read: StreamReader, reads: Sequence[bytes]) -> bytes:
    """What the client gets of a stream that ends in order."""
    return b"".join(map(read.feed, reads)) + read.end()


def cut(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    reads, at = [], 0
    for size in sizes:
        reads.append(data[at : at + size])
        at += size
    return [*reads, data[at:]]


def leaks(out: bytes) -> bool:
    """Whether any event has a member `usage`, as a client reads it."""
    for event in out.replace(b"\r\n", b"\n").replace(b"\r", b"\n").removeprefix(BOM).split(b"\n\n"):
        data = b"\n".join(
            line.removeprefix(b"data:") for line in event.split(b"\n") if line.startswith(b"data:")
        ).strip()
        try:
            value = json.loads(data)
        except ValueError:
            continue
        if isinstance(value, dict) and "usage" in value:
            return True
    return False


def spread(event: bytes) -> bytes:
    """Its JSON over several `data` lines."""
    value = json.loads(event.removeprefix(b"data: "))
    return b"".join(b"data: %b\n" % line for line in json.dumps(value, indent=1).encode().split(b"\n")) + b"\n"


def escaped(event: bytes) -> bytes:
    return event.replace(b'"usage"', b'"\\u0075s\\u0061ge"')


FORMS = {
    "as vLLM has it": lambda event: event,
    "no blank": lambda event: event.replace(b"data: ", b"data:"),
    "more blanks": lambda event: event.replace(b"data: ", b"data:  \t"),
    "several lines": spread,
    "carriage returns": lambda event: event.replace(b"\n", b"\r\n"),
    "carriage returns alone": lambda event: event.replace(b"\n", b"\r"),
    "several lines, carriage returns": lambda event: spread(event).replace(b"\n", b"\r\n"),
    "an escaped name": escaped,
    "a comment before": lambda event: b": x\n" + event,
    "fields around": lambda event: b"event: message\nid: 7\n" + event[:-1] + b"retry: 5\n\n",
    "blanks everywhere": lambda event: event.replace(b",", b" , ").replace(b":{", b" : {"),
    "usage first": lambda event: event.replace(b'{"id"', b'{"usage":{"prompt_tokens":9},"id"', 1),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_usage_leaks_in_no_form_and_is_counted_in_each(form: Any, size: int) -> None:
    events = [chunk([delta(f"w{token}")], usage=usage(token)) for token in range(1, 6)]
    stream = b"".join(map(form, [*events, chunk([], usage=usage(5))])) + DONE
    read = reader()
    out = read_all(read, cut(stream, [size] * (len(stream) // size)))
    assert not leaks(out)
    assert (read.count, read.error, read.complete) == (TokenCount(7, 0, 5, 0, "engine"), None, True)
    assert all(b"w%d" % token in out for token in range(1, 6))


def test_a_byte_order_mark_hides_no_usage() -> None:
    stream = BOM + chunk([delta("w")], usage=usage(1)) + DONE
    assert read_all(reader(), [stream]) == BOM + chunk([delta("w")]) + DONE


def test_numbers_that_json_does_not_have_hide_no_usage() -> None:
    event = chunk([delta("NaN, Infinity")], usage=usage(1), x=[float("nan"), -float("inf"), 1.5])
    read = reader()
    out = read.feed(event)
    assert not leaks(out)
    assert b"NaN, Infinity" in out
    assert read.count == TokenCount(7, 0, 1, 0, "engine")


def test_events_that_share_their_end_are_taken_one_by_one() -> None:
    first, second = (chunk([delta("w")], usage=usage(token))[:-1] for token in (1, 2))
    read = reader()
    assert read.feed(first + second + b"\n") == 2 * chunk([delta("w")])
    assert read.count == TokenCount(7, 0, 2, 0, "engine")


EVENTS = st.one_of(
    st.builds(
        lambda index, text, tokens, form: form(chunk([delta(text, index=index)], usage=usage(tokens))),
        st.integers(0, 2),
        st.text(max_size=4),
        st.integers(0, 99),
        st.sampled_from([*list(FORMS.values()), *[FORMS["as vLLM has it"]] * 12]),
    ),
    st.sampled_from(
        [
            b": ping\n\n",
            b"event: x\ndata: {broken\n\n",
            b"data\n\n",
            b"\n\n",
            b"\r\n\r\n",
            b"retry: 5\n\n",
            chunk([delta("w") | {"finish_reason": "stop"}]),
            chunk([], usage=usage(5)),
            b'data: {"error":{"message":"x","code":500}}\n\n',
            DONE,
        ]
    ),
)


@given(st.lists(EVENTS, max_size=12), st.lists(st.integers(1, 400), max_size=12), st.booleans(), st.booleans())
def test_splitting_into_reads_changes_nothing(
    events: list[bytes], sizes: list[int], wants: bool, running: bool
) -> None:
    stream = b"".join(events)
    one, each, cuts, bytewise = (reader(wants_usage=wants, wants_running_usage=running, n=2) for _ in range(4))
    expected = read_all(one, [stream])
    assert read_all(each, events) == expected
    assert read_all(cuts, cut(stream, sizes)) == expected
    assert read_all(bytewise, cut(stream, [1] * len(stream))) == expected
    content = [(read.count, read.complete, read.error) for read in (one, each, cuts, bytewise)]
    assert content == [content[0]] * 4
    assert wants or not leaks(expected)
    assert sound(one.count)


VALUES = st.one_of(
    ANYTHING,
    st.fixed_dictionaries(
        {},
        optional={
            "choices": st.one_of(ANYTHING, st.lists(st.one_of(ANYTHING, st.just(delta("w"))), max_size=2)),
            "usage": st.one_of(USAGES, st.none()),
            "error": ANYTHING,
            "type": st.one_of(ANYTHING, st.sampled_from(["error", "response.failed", "response.completed", "x.delta"])),
            "response": st.one_of(ANYTHING, st.fixed_dictionaries({"usage": USAGES})),
            "object": st.sampled_from(["error", "chat.completion.chunk"]),
        },
    ),
)


@given(st.lists(VALUES, max_size=4), st.sampled_from([CHAT, "/v1/completions", "/v1/responses"]), st.booleans())
def test_any_json_is_an_event(values: list[Any], path: str, wants: bool) -> None:
    read = reader(path=path, wants_usage=wants)
    out = read_all(read, [b"data: " + json.dumps(value).encode() + b"\n\n" for value in values])
    assert sound(read.count)
    assert wants or path == "/v1/responses" or not leaks(out)


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_any_bytes_are_a_stream(reads: list[bytes]) -> None:
    read = reader()
    read_all(read, reads)
    assert sound(read.count)


def test_what_is_nested_too_deeply_to_be_read_is_not_passed_on() -> None:
    with pytest.raises(UnusableStream):
        reader().feed(b'data: {"x":' + b"[" * 100_000 + b"]" * 100_000 + b',"usage":{}}\n\n')


def test_an_event_without_end_is_no_event() -> None:
    with pytest.raises(UnusableStream):
        read_all(reader(), [b"x" * 65536] * (MAX_EVENT_BYTES // 65536 + 1))


@pytest.mark.parametrize("event", [b"\n\n", b":\n\n", b"data: {}\n\n", b'data: {"choices":[{}]}\n\n'])
def test_a_flood_of_events_is_refused_before_it_is_read(event: bytes) -> None:
    with pytest.raises(UnusableStream):
        reader().feed(event * (MAX_EVENTS + 1))
    assert reader().feed(event * MAX_EVENTS) == event * MAX_EVENTS


def of_size(begin: bytes, part: bytes, end: bytes) -> bytes:
    return begin + part * ((MAX_EVENT_BYTES - 500) // len(part)) + end + b"\n\n"


CONTENT = b'data: {"choices":[{"index":0,"delta":{"content":"x"}'
MEMBERS = b"".join(b',"%07d":1' % number for number in range(MAX_EVENT_BYTES // 13))
LARGE = {
    "a text": of_size(CONTENT[:-2], b" word", b'"}}]}'),
    "a text and usage": of_size(CONTENT[:-2], b" word", b'"}}],"usage":{"prompt_tokens":7,"completion_tokens":1}}'),
    "choices": of_size(b'data: {"choices":[{}', b",{}", b"]}"),
    "probabilities": of_size(CONTENT + b',"logprobs":[1', b',{"token":"a","logprob":-0.5}', b"]}]}"),
    "members": CONTENT + b"}]" + MEMBERS + b"}\n\n",
    "members and usage": CONTENT + b'}],"usage":{}' + MEMBERS + b"}\n\n",
    "lines": of_size(b"data: [1", b"\ndata: ,1", b"\ndata: ]"),
    "lines of nothing": of_size(b"", b"data:\n", b""),
    "blanks": of_size(b"data: {", b" ", b"}"),
    "comments": of_size(b"", b":\n", b""),
}


@pytest.mark.parametrize("event", LARGE.values(), ids=LARGE.keys())
def test_a_large_event_neither_keeps_the_others_waiting_nor_takes_more_than_a_few_times_its_bytes(event: bytes) -> None:
    reads = cut(event, [65536] * (len(event) // 65536))
    with suppress(UnusableStream):
        read_all(reader(), reads[:-1])
    tracemalloc.start()
    began = time.process_time()
    try:
        with suppress(UnusableStream):
            read_all(reader(), reads)
        seconds, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * len(event)
    assert seconds < 1, "a processor that is ten times too slow included"


@pytest.mark.parametrize(("chunks_per_id", "most"), [(1, 20), (5, 100)])
def test_shapes_are_learned_only_while_chunks_fit_them(
    monkeypatch: pytest.MonkeyPatch, chunks_per_id: int, most: int
) -> None:
    tried: list[bytes] = []

    def counted(event: bytes, reported: Chunk) -> ChunkShape | None:
        tried.append(event)
        return shape_of(event, reported)

    monkeypatch.setattr("services.gateway.core.stream.shape_of", counted)
    read = reader()
    for number in range(500):
        event = chunk([delta("w")], usage=usage(number), id=f"c{number // chunks_per_id}")
        assert read.feed(event) == chunk([delta("w")], id=f"c{number // chunks_per_id}")
    assert len(tried) <= most
    assert chunks_per_id == 1 or len(tried) == most
    assert read.count == TokenCount(7, 0, 499, 0, "engine")
