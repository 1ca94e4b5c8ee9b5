"""Bodies as large as they may be: what they cost of memory, and that they are read in steps.

`python -m bench.large_bodies` shows how long a step takes.
"""

import json
import math
import tracemalloc
from collections.abc import Callable

import pytest

from bench.large_bodies import ACCEPTED, REFUSED, SIZE, steps_of
from services.gateway.core.errors import ApiError
from services.gateway.core.request_body import (
    LARGE_BYTES,
    MAX_MEMBERS,
    MAX_SEPARATORS,
    UTF8_STEP_BYTES,
    ParsedRequest,
    body_for_engine,
    parse,
    parse_in_steps,
)


def test_what_bounds_a_step_is_what_was_measured() -> None:
    """`python -m bench.large_bodies` before you change one: a step has to take less than 50 ms."""
    assert (LARGE_BYTES, UTF8_STEP_BYTES, MAX_SEPARATORS, MAX_MEMBERS) == (2**20, 8 * 2**20, 6_000_000, 1_000)


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
    # Three kinds of separators, the members, the fields.
    assert len(steps_of(body)[0]) == 5 + (0 if body.isascii() else math.ceil(len(body) / UTF8_STEP_BYTES))


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


def test_parse_reads_a_large_body_as_its_steps_do() -> None:
    body = json.dumps({"x": "é" * LARGE_BYTES, "model": "m", "n": 3}, ensure_ascii=False).encode()
    parsed = parse(body)
    assert (parsed.model, parsed.choices) == ("m", 3)
    assert b"".join(body_for_engine(parsed, served_as="o", usage_options=True)) == body.replace(b'"m"', b'"o"')


def test_a_character_may_lie_across_two_steps() -> None:
    for before in range(3):
        body = b'{"model":"m","x":"' + b"a" * before + "中".encode() * (4 * 1024 * 1024) + b'"}'
        assert parse(body).model == "m"
