"""What an engine's `/metrics` says about its requests: llama.cpp and vLLM."""

import re
from decimal import Decimal, InvalidOperation

_SAMPLE = re.compile(r"(?P<name>[a-zA-Z_:][\w:]*)(?:\{.*\})? +(?P<value>\S+)(?: +\d+)?")
RUNNING = {
    "llamacpp:requests_processing",
    "llamacpp:requests_deferred",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
}
"""Requests in the engine, running or queued."""
COUNT_LIMIT = 2**53
"""A counter is a double: beyond this it no longer counts each one."""


def parse_samples(text: str) -> list[tuple[str, str]]:
    """The names and values of the page's samples, as text."""
    return [(m["name"], m["value"]) for line in text.splitlines() if (m := _SAMPLE.fullmatch(line))]


def parse_count(name: str, text: str) -> Decimal:
    """Raises `ValueError` for a value that is not a count."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("NaN")
    if not (value.is_finite() and 0 <= value < COUNT_LIMIT):
        raise ValueError(f"{name}: expected a count, got {text[:40]!r}")
    return value


def running_requests(text: str) -> int | None:
    """How many requests the engine runs or has queued; None: the page does not say.

    Raises:
        ValueError: it says something that is not a count.
    """
    counts = [parse_count(name, value) for name, value in parse_samples(text) if name in RUNNING]
    return int(sum(counts)) if counts else None
