"""Bodies as large as they may be: what they cost of memory, and of the event loop at a time."""

import json
import time
import tracemalloc
from collections.abc import Callable, Iterator

import msgspec
import pytest

from services.gateway.core.errors import ApiError
from services.gateway.core.request_body import (
    LARGE_BYTES,
    MAX_MEMBERS,
    ParsedRequest,
    body_for_engine,
    parse,
    parse_in_steps,
)

SIZE = 30 * 1024 * 1024
HEAD = b'{"model":"m","stream":true,"stream_options":{"include_usage":true},'
YARDSTICK = 50 / 7.9
"""50 ms in terms of skipping one string of 32 MB, which takes the machine of the figures 7.9 ms."""


def of_size(start: bytes, unit: bytes, end: bytes) -> bytes:
    return HEAD + start + unit * ((SIZE - len(HEAD) - len(start) - len(end)) // len(unit)) + end


ACCEPTED: dict[str, Callable[[], bytes]] = {
    "one image": lambda: of_size(b'"x":"', b"QUJD", b'"}'),
    "an escaped letter": lambda: of_size(b'"x":"\\u0061', b"QUJD", b'"}'),
    "escapes alone": lambda: of_size(b'"x":"', b"\\u00e9", b'"}'),
    "another alphabet": lambda: of_size(b'"x":"', "中".encode(), b'"}'),
    "numbers": lambda: of_size(b'"x":[', b"1234567, ", b"1]}"),
    "members called model": lambda: of_size(b'"x":[', b'{"model": "n"},  ', b"1]}"),
}
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "objects": (lambda: of_size(b'"x":[', b"{},", b"1]}"), "commas and opening brackets"),
    "digits": (lambda: of_size(b'"x":[', b"1,", b"1]}"), "commas and opening brackets"),
    "members": (lambda: of_size(b"", b'"abcdefg":1,', b'"x":1}'), f"more than {MAX_MEMBERS} fields"),
    "models deep in": (lambda: of_size(b'"x":[', b'{"model": 1},  ', b'1],"\\u006dodel":"n"}'), "occurs twice"),
    "depth": (lambda: of_size(b'"y":"', b"QUJD", b'","x":' + b"[" * 100_000), "nested too deeply"),
    "no end": (lambda: of_size(b'"x":"', b"QUJD", b""), "truncated"),
    "no UTF-8": (lambda: of_size(b'"x":"', b"QUJD", b'\xff"}'), "invalid start byte"),
    "a long name": (lambda: of_size(b'"', b"QUJD", b'":1}'), "a field name of more than"),
    "blanks": (lambda: of_size(b"", b" ", b'"x":1}'), "whitespace"),
}


def steps_of(body: bytes) -> tuple[list[float], ParsedRequest | ApiError]:
    """CPU seconds of each step, and what came of them."""
    steps: Iterator[ParsedRequest | None] = parse_in_steps(body)
    seconds: list[float] = []
    while True:
        begun = time.thread_time()
        try:
            parsed = next(steps)
        except ApiError as error:
            return [*seconds, time.thread_time() - begun], error
        seconds.append(time.thread_time() - begun)
        if parsed is not None:
            return seconds, parsed


def longest(body: bytes) -> float:
    """The longest step, of the better of two tries: whatever else the machine did meanwhile."""
    return min(max(steps_of(body)[0]) for _ in range(2))


def seconds_to_skip_a_string() -> float:
    body = b'"' + b"QUJD" * (8 * 1024 * 1024) + b'"'
    decoder = msgspec.json.Decoder(msgspec.Raw)
    best = 1.0
    for _ in range(3):
        begun = time.thread_time()
        decoder.decode(body)
        best = min(best, time.thread_time() - begun)
    return best


def peak_of(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", ACCEPTED)
def test_a_large_body_is_parsed_and_changed_without_a_copy_of_it(shape: str) -> None:
    body = ACCEPTED[shape]()

    def work() -> None:
        for parsed in parse_in_steps(body):
            if parsed is not None:
                pieces = body_for_engine(parsed, served_as="org/M", usage_options=True)
                assert sum(map(len, pieces)) == len(body) + len('org/M"') - len('m"') + 50 + 1
                assert len(pieces) == 5

    # To validate text of another alphabet takes a piece's worth of it, as text.
    assert peak_of(work) < SIZE
    assert longest(body) < YARDSTICK * seconds_to_skip_a_string()


@pytest.mark.parametrize("shape", REFUSED)
def test_a_large_body_that_is_refused_costs_no_more(shape: str) -> None:
    make, reason = REFUSED[shape]
    body = make()
    results: list[ParsedRequest | ApiError] = []
    assert peak_of(lambda: results.append(steps_of(body)[1])) < 2 * SIZE
    (refusal,) = results
    assert isinstance(refusal, ApiError)
    assert refusal.status == 400
    assert reason in refusal.message
    assert longest(body) < YARDSTICK * seconds_to_skip_a_string()


def test_parse_reads_a_large_body_as_its_steps_do() -> None:
    body = json.dumps({"x": "é" * LARGE_BYTES, "model": "m", "n": 3}, ensure_ascii=False).encode()
    parsed = parse(body)
    assert (parsed.model, parsed.choices) == ("m", 3)
    assert b"".join(body_for_engine(parsed, served_as="o", usage_options=True)) == body.replace(b'"m"', b'"o"')


def test_a_character_may_lie_across_two_steps() -> None:
    for before in range(3):
        body = b'{"model":"m","x":"' + b"a" * before + "中".encode() * (4 * 1024 * 1024) + b'"}'
        assert parse(body).model == "m"
