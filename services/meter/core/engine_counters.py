"""What an engine says about itself: its own count of tokens, out of its Prometheus text, for comparison with ours."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

_SAMPLE = re.compile(r"(?P<name>[a-zA-Z_:][\w:]*)(?:\{.*\})? +(?P<value>\S+)(?: +\d+)?")

_PROMPT = {"llamacpp:prompt_tokens_total", "llamacpp:prompt_tokens_cached_total", "vllm:prompt_tokens_total"}
"""llama.cpp counts the prompt tokens that came from its cache apart, vLLM and every `usage` count them in."""
_COMPLETION = {"llamacpp:tokens_predicted_total", "vllm:generation_tokens_total"}
_REQUESTS = {"vllm:request_success_total"}
_RUNNING = {
    "llamacpp:requests_processing",
    "llamacpp:requests_deferred",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
}
_WANTED = _PROMPT | _COMPLETION | _REQUESTS | _RUNNING
_BEGUN = ("process_start_time_seconds", "vllm:prompt_tokens_created")
"""When vLLM's process began, if it runs as one process: the first that there is."""
_MOMENT = re.compile(r"[0-9.eE+]{1,40}")
COUNT_LIMIT = 2**53
"""A counter is a double: beyond this it no longer counts each token."""
_LLAMACPP_DIGITS = 6
"""It prints six significant digits, whatever it knows."""


@dataclass(frozen=True, kw_only=True)
class EngineCounters:
    """Since the engine's process began. With nothing `running` they equal the sums of `usage` of what was completed.

    More than that by the tokens of requests that were left, and by the choices of `n` > 1 beyond the first, which
    llama.cpp leaves out of `usage`.
    """

    prompt_tokens: int
    completion_tokens: int
    running: int
    """Requests in the engine; llama.cpp counts their completion tokens only when they end."""
    rounding: int
    """How far each printed sum may be from the true one; 0: it is exact."""
    requests: int | None = None
    """Those that ended well; None: this engine does not count them."""
    process: str | None = None
    """Another text is another process; None: the engine does not say."""


def parse(text: str, process: str | None = None) -> EngineCounters:
    """The counters in the text of `/metrics`; `ValueError` where it is no engine's that we know, or counts nonsense.

    `process`: what llama.cpp says of its process beside the text, in the header `Process-Start-Time-Unix`.
    """
    samples = [(m["name"], m["value"]) for line in text.splitlines() if (m := _SAMPLE.fullmatch(line))]
    counts = [(name, _number(name, value)) for name, value in samples if name in _WANTED]
    names = {name for name, _ in counts}
    if not (names & _PROMPT and names & _COMPLETION):
        raise ValueError("neither llama.cpp's nor vLLM's token counters are in this text")

    def total(wanted: set[str]) -> int:
        return int(sum(value for name, value in counts if name in wanted))

    return EngineCounters(
        prompt_tokens=total(_PROMPT),
        completion_tokens=total(_COMPLETION),
        running=total(_RUNNING),
        rounding=sum(_rounding(value) for name, value in counts if name in _PROMPT | _COMPLETION and _rounds(name)),
        requests=total(_REQUESTS) if names & _REQUESTS else None,
        process=_process([process or "", *(value for begun in _BEGUN for name, value in samples if name == begun)]),
    )


def _process(told: Sequence[str]) -> str | None:
    """The first that may be a time; of no use but to be compared."""
    return next((moment for moment in told if _MOMENT.fullmatch(moment)), None)


def _number(name: str, text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("NaN")
    if not (value.is_finite() and 0 <= value < COUNT_LIMIT):
        raise ValueError(f"{name}: expected a count, got {text[:40]!r}")
    return value


def _rounds(name: str) -> bool:
    return name.startswith("llamacpp:")


def _rounding(value: Decimal) -> int:
    """Half a unit of the last printed digit."""
    return 10 ** (value.adjusted() + 1 - _LLAMACPP_DIGITS) // 2 if value.adjusted() >= _LLAMACPP_DIGITS else 0
