"""What a client sees of an engine's stream, and what is counted, however the bytes are cut."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.core.chunk import MAX_CHOICES
from services.gateway.core.endpoints import ENDPOINTS
from services.gateway.core.sse import UnusableStream
from services.gateway.core.stream import MAX_LINES_APART, StreamReader
from services.gateway.core.usage import TokenCount


def chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
    return b"data: " + json.dumps({"id": "c", "object": "x", "choices": choices, **more}).encode() + b"\n\n"


def usage(completion: int) -> dict[str, int]:
    return {"prompt_tokens": 7, "completion_tokens": completion, "total_tokens": 7 + completion}


def delta(text: str) -> dict[str, Any]:
    return {"index": 0, "delta": {"content": text}}


DONE = b"data: [DONE]\n\n"
RUNNING = [
    chunk([delta("Grüße ")], usage=usage(1)),
    chunk([delta("日本")], usage=usage(2)),
    chunk([], usage=usage(2)),
    DONE,
]


def reader(*, wants_usage: bool = False, wants_running_usage: bool = False) -> StreamReader:
    return StreamReader(
        wants_usage=wants_usage, wants_running_usage=wants_running_usage, endpoint=ENDPOINTS["/v1/chat/completions"]
    )


def events(data: bytes) -> list[Any]:
    results = [event.removeprefix(b"data: ") for event in data.split(b"\n\n") if event]
    return [event if event == b"[DONE]" else json.loads(event) for event in results]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_a_stream_survives_any_split_into_reads(sizes: list[int]) -> None:
    whole, cut = reader(), reader()
    data = b"".join(RUNNING)
    expected = whole.feed(data) + whole.end()
    got, at = b"", 0
    for size in sizes:
        got += cut.feed(data[at : at + size])
        at += size
    got += cut.feed(data[at:]) + cut.end()
    assert (got, cut.count, cut.complete) == (expected, whole.count, True)


def test_usage_that_makes_no_sense_is_not_counted() -> None:
    read = reader()
    assert read.feed(b'data: {"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":"?"}}\n\n').endswith(
        b"}]}\n\n"
    )
    assert read.count == TokenCount(completion=1, basis="counted")


def test_unrequested_usage_is_removed() -> None:
    out = events(reader().feed(b"".join(RUNNING)))
    assert [list(event) for event in out[:-1]] == [["id", "object", "choices"]] * 2
    assert [event["choices"][0]["delta"]["content"] for event in out[:-1]] == ["Grüße ", "日本"]
    assert out[-1] == b"[DONE]"


def test_include_usage_returns_the_usage_once_at_the_end() -> None:
    out = events(reader(wants_usage=True).feed(b"".join(RUNNING)))
    assert ["usage" in event for event in out[:-1]] == [False, False, True]
    assert out[2]["usage"] == usage(2)
    assert out[2]["choices"] == []


def test_usage_beside_the_last_choice_becomes_a_chunk_of_its_own() -> None:
    last = chunk([{"index": 0, "text": "", "finish_reason": "stop"}], usage=usage(1))
    out = events(reader(wants_usage=True).feed(chunk([{"index": 0, "text": "a"}]) + last + DONE))
    assert ["usage" in event for event in out[:-1]] == [False, False, True]
    assert (out[2]["choices"], out[2]["usage"]) == ([], usage(1))


def test_continuous_usage_stats_returns_the_engine_s_own_bytes() -> None:
    data = b"".join(RUNNING)
    assert reader(wants_usage=True, wants_running_usage=True).feed(data) == data


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", TokenCount()),
        (RUNNING[0], TokenCount(7, 0, 1, 0, "engine")),
        (b"".join(RUNNING), TokenCount(7, 0, 2, 0, "engine")),
        (chunk([{"index": 0, "delta": {"role": "assistant", "content": ""}}]), TokenCount()),
        (chunk([delta("a")]) + chunk([delta("b")]) + chunk([delta("")]), TokenCount(completion=2, basis="counted")),
        (chunk([{"index": 0, "delta": {"tool_calls": [{}]}}]), TokenCount(completion=1, basis="counted")),
        (chunk([{"index": 0, "text": "a"}]), TokenCount(completion=1, basis="counted")),
        (
            chunk(
                [],
                usage=usage(5)
                | {"prompt_tokens_details": {"cached_tokens": 3}, "completion_tokens_details": {"reasoning_tokens": 2}},
            ),
            TokenCount(7, 3, 5, 2, "engine"),
        ),
        (
            b'event: response.completed\ndata: {"response": {"usage": {"input_tokens": 4, "output_tokens": 6}}}\n\n',
            TokenCount(4, 0, 6, 0, "engine"),
        ),
    ],
)
def test_the_count_is_the_engine_s_last_word_else_one_per_delta(data: bytes, expected: TokenCount) -> None:
    read = reader()
    read.feed(data)
    assert read.count == expected


@pytest.mark.parametrize("data", [b": ping\n\n", b"event: x\ndata: {not json\n\n", b"retry: 5\n\n", b"\r\n\r\n"])
def test_what_it_does_not_know_passes_untouched(data: bytes) -> None:
    assert reader().feed(data) == data


def test_a_stream_that_stops_early_is_not_complete() -> None:
    read = reader()
    read.feed(RUNNING[0])
    assert not read.complete


def test_text_resembling_usage_stays() -> None:
    event = chunk([delta('"usage": {"prompt_tokens": 9}')])
    assert reader().feed(event) == event


def test_of_an_event_with_a_flood_of_choices_some_are_read() -> None:
    read = reader()
    read.feed(chunk([{"index": index, **delta("x")} for index in range(MAX_CHOICES + 100)]))
    assert read.count == TokenCount(completion=MAX_CHOICES, basis="counted")


def test_a_flood_of_events_none_of_which_ends_is_refused() -> None:
    line = chunk([delta("x")]).rstrip() + b"\n"
    assert len(events(reader().feed(line * MAX_LINES_APART + b"\n"))) == MAX_LINES_APART
    with pytest.raises(UnusableStream, match="flood"):
        reader().feed(line * (MAX_LINES_APART + 1) + b"\n")


def test_a_stream_for_several_prompts_is_complete_with_done_alone() -> None:
    finished = chunk([{"index": 0, "text": "a", "finish_reason": "stop"}])
    for several, expected in ((False, True), (True, False)):
        wants = {"wants_usage": False, "wants_running_usage": False, "several_prompts": several}
        read = StreamReader(endpoint=ENDPOINTS["/v1/completions"], **wants)
        read.feed(finished)
        read.end()
        assert read.complete == expected
        read.feed(DONE)
        assert read.complete
