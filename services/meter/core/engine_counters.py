"""An engine's own count of tokens, parsed from its Prometheus metrics, for comparison with the ledger's."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from shared.engine_metrics import RUNNING, parse_count, parse_samples

_PROMPT = {"llamacpp:prompt_tokens_total", "llamacpp:prompt_tokens_cached_total", "vllm:prompt_tokens_total"}
"""llama.cpp counts prompt tokens from its cache separately; vLLM and every `usage` include them."""
_COMPLETION = {"llamacpp:tokens_predicted_total", "vllm:generation_tokens_total"}
_REQUESTS = {"vllm:request_success_total"}
_COUNTERS = _PROMPT | _COMPLETION | _REQUESTS | RUNNING
_START_TIMES = ("process_start_time_seconds", "vllm:prompt_tokens_created")
"""When vLLM's process began, if it runs as one process: the first of these that it has."""
_TIME = re.compile(r"[0-9.eE+]{1,40}")
_LLAMACPP_DIGITS = 6
"""It prints six significant digits, however exact its count is."""


@dataclass(frozen=True, kw_only=True)
class EngineCounters:
    """Counts since the engine's process began. With nothing `running` they equal the sum of all completed `usage`.

    They exceed it by the tokens of abandoned requests, and by the choices of `n` > 1 beyond the first, which llama.cpp
    leaves out of `usage`.
    """

    prompt_tokens: int
    completion_tokens: int
    running: int
    """Requests in the engine; llama.cpp counts their completion tokens only when they end."""
    rounding: int
    """How far each printed sum may be from the true one, in tokens; 0: it is exact."""
    requests: int | None = None
    """Requests that succeeded; None: this engine does not count them."""
    process: str | None = None
    """A different text is a different process; None: the engine does not say."""


def parse(text: str, process: str | None = None) -> EngineCounters:
    """Parse the text of `/metrics`. Raises `ValueError` for an unknown engine or a value that is not a count.

    `process`: llama.cpp's header `Process-Start-Time-Unix`, which identifies its process beside the text.
    """
    samples = parse_samples(text)
    counts = [(name, parse_count(name, value)) for name, value in samples if name in _COUNTERS]
    names = {name for name, _ in counts}
    if not (names & _PROMPT and names & _COMPLETION):
        raise ValueError("neither llama.cpp's nor vLLM's token counters are in this page")

    def total(names: set[str]) -> int:
        return int(sum(value for name, value in counts if name in names))

    return EngineCounters(
        prompt_tokens=total(_PROMPT),
        completion_tokens=total(_COMPLETION),
        running=total(RUNNING),
        rounding=sum(_rounding(value) for name, value in counts if name in _PROMPT | _COMPLETION and _rounds(name)),
        requests=total(_REQUESTS) if names & _REQUESTS else None,
        process=_process(
            [process or "", *(value for start in _START_TIMES for name, value in samples if name == start)]
        ),
    )


def _process(candidates: Sequence[str]) -> str | None:
    """Return the first that may be a time; it is only good for comparison."""
    return next((text for text in candidates if _TIME.fullmatch(text)), None)


def _rounds(name: str) -> bool:
    return name.startswith("llamacpp:")


def _rounding(value: Decimal) -> int:
    """Return half a unit of the last printed digit."""
    return 10 ** (value.adjusted() + 1 - _LLAMACPP_DIGITS) // 2 if value.adjusted() >= _LLAMACPP_DIGITS else 0
