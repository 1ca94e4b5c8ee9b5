"""What is made of the usage that an engine reports, whatever it is."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.core.endpoints import ENDPOINTS
from services.gateway.core.running_usage import MAX_CHOICES
from services.gateway.core.stream import StreamReader
from services.gateway.core.usage import (
    LARGE_BODY,
    MAX_TOKENS,
    NO_TOKENS,
    ReportedUsage,
    TokenCount,
    count_tokens,
    read_body_usage,
    read_usage,
)
from tests.unit.gateway.any_json import ANYTHING, USAGES, chunk, delta, sound, usage

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def whole(value: object) -> TokenCount:
    return count_tokens(read_body_usage(json.dumps({"choices": [], "usage": value}).encode()))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (7, 7),
        (7.0, 7),
        ("7", 7),
        ("7.0", 7),
        (0, 0),
        (2**40 - 1, 2**40 - 1),
        (7.5, None),
        (-1, None),
        (2**40, None),
        (10**400, None),
        ("seven", None),
        ("", None),
        (True, None),
        (None, None),
        ([7], None),
        ({"7": 7}, None),
    ],
)
def test_a_number_is_whole_and_neither_negative_nor_enormous(prompt: object, expected: int | None) -> None:
    reported = read_usage(json.dumps({"prompt_tokens": prompt, "completion_tokens": 5}).encode())
    assert reported == ReportedUsage(prompt=expected, completion=5), "and says nothing of the others"


def test_numbers_outside_json_s_grammar_are_ignored() -> None:
    assert read_usage(b'{"prompt_tokens":1e2,"completion_tokens":1e-2}') == ReportedUsage(prompt=100)
    assert read_usage(b"[" * 5000) == read_usage(b"\xff") == read_usage(b"7") == ReportedUsage()


def test_cached_and_reasoning_tokens_are_capped_by_their_totals() -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 99}, "completion_tokens_details": {"reasoning_tokens": 98}}
    assert whole(usage(5) | details) == TokenCount(7, 7, 5, 5, "engine")
    assert whole({"prompt_tokens": 7, **details}) == TokenCount(7, 7, 0, 0, "engine")
    assert whole(usage(5) | {"prompt_tokens_details": {"cached_tokens": -1}}) == TokenCount(7, 0, 5, 0, "engine")
    assert whole(usage(5) | {"prompt_tokens_details": [3], "completion_tokens_details": None}) == TokenCount(
        7, 0, 5, 0, "engine"
    )


@pytest.mark.parametrize(
    "value", [{}, None, [], "7", {"prompt_tokens": -1, "completion_tokens": -1}, {"total_tokens": 7}]
)
def test_usage_without_numbers_counts_as_not_reported(value: object) -> None:
    assert whole(value) == NO_TOKENS


@given(st.one_of(ANYTHING, USAGES))
def test_any_usage_is_a_sound_count(value: object) -> None:
    assert sound(whole(value))


@given(st.binary())
def test_any_bytes_are_a_sound_count(body: bytes) -> None:
    assert sound(count_tokens(read_body_usage(body)))


@pytest.mark.parametrize("first", [True, False])
def test_a_large_body_s_usage_is_read_at_either_end_without_parsing(*, first: bool) -> None:
    content = {"usage": usage(5) | {"prompt_tokens_details": {"cached_tokens": 3}}}
    data = {"data": [{"embedding": "x" * LARGE_BODY, "usage": usage(99)}]}
    before, after = (content, data) if first else (data, content)
    body = json.dumps({"object": "list", **before, **after, "model": "m"}).encode()
    assert count_tokens(read_body_usage(body)) == TokenCount(7, 3, 5, 0, "engine")
    assert read_body_usage(b'{"data":"' + b'","usage":{}' * (LARGE_BODY // 10)) == ReportedUsage()


def streamed(*events: bytes, path: str = CHAT, choices: int = 1, **wants: bool) -> tuple[bytes, StreamReader]:
    wants = {"wants_usage": False, "wants_running_usage": False, **wants}
    read = StreamReader(endpoint=ENDPOINTS[path], choices=choices, **wants)
    return b"".join(map(read.feed, events)), read


def running(choices: int, tokens: int, prompts: int = 1) -> list[bytes]:
    """As vLLM streams several choices: each chunk with its own choice's usage."""
    return [
        chunk([delta(f"w{token}", index=index)], usage=usage(token))
        for token in range(1, tokens + 1)
        for index in range(choices * prompts)
    ]


@pytest.mark.parametrize(("choices", "tokens"), [(1, 9), (2, 3), (7, 110)])
def test_choices_are_summed_when_no_total_is_reported(choices: int, tokens: int) -> None:
    out, read = streamed(*running(choices, tokens), choices=choices)
    assert read.count == TokenCount(7, 0, choices * tokens, 0, "engine")
    assert out.count(b"data: ") == choices * tokens
    assert b"usage" not in out


def test_prompts_add_up_for_completions_alone() -> None:
    events = running(2, 3, prompts=4)
    assert streamed(*events, path=COMPLETIONS, choices=2)[1].count == TokenCount(28, 0, 24, 0, "engine")
    assert streamed(*events, path=CHAT, choices=2)[1].count == TokenCount(7, 0, 24, 0, "engine")


def test_a_reported_total_overrides_the_sum_of_choices() -> None:
    events = [*running(2, 3), chunk([], usage={"prompt_tokens": 8, "completion_tokens": 60})]
    assert streamed(*events, choices=2)[1].count == TokenCount(8, 0, 60, 0, "engine")
    events[-1] = chunk([], usage={"prompt_tokens": -1, "completion_tokens": 60})
    assert streamed(*events, choices=2)[1].count == TokenCount(7, 0, 60, 0, "engine"), "but for what makes no sense"


def test_choices_without_usage_are_counted_by_their_deltas() -> None:
    events = [*running(1, 3), *(chunk([delta("w", index=1)]) for _ in range(4))]
    assert streamed(*events, choices=2)[1].count == TokenCount(7, 0, 7, 0, "counted")


def test_include_usage_returns_the_sum_of_all_choices() -> None:
    ends = [chunk([delta("", index=index) | {"finish_reason": "stop"}], usage=usage(3)) for index in range(2)]
    out, read = streamed(*running(2, 3), *ends, b"data: [DONE]\n\n", choices=2, wants_usage=True)
    *_, last, done, end = out.split(b"\n\n")
    last_event = json.loads(last.removeprefix(b"data: "))
    assert (last_event["choices"], last_event["usage"]) == (
        [],
        {"prompt_tokens": 7, "completion_tokens": 6, "total_tokens": 13},
    )
    assert (done, end, read.complete) == (b"data: [DONE]", b"", True)


def test_indexes_without_end_take_no_memory_without_end() -> None:
    many = range(MAX_CHOICES - 3, MAX_CHOICES + 300)
    read = streamed(*(chunk([delta("w", index=index)], usage=usage(1)) for index in many))[1]
    assert read.count == TokenCount(7, 0, 4, 0, "engine"), "those beyond count as one"
    assert len(read._running._progress) == 4


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2**40)), max_size=30), st.integers(1, 3))
def test_a_sum_of_choices_is_sound(last_event: list[tuple[int, int]], choices: int) -> None:
    events = [chunk([delta("w", index=index)], usage=usage(tokens)) for index, tokens in last_event]
    read = streamed(*events, path=COMPLETIONS, choices=choices)[1]
    assert sound(read.count)
    last: dict[int, Any] = {index: tokens for index, tokens in last_event if tokens < MAX_TOKENS}
    if all(tokens < MAX_TOKENS for _, tokens in last_event):
        assert read.count.completion == min(sum(last.values()), MAX_TOKENS - 1)
