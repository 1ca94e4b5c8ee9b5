"""JSON of every shape, and what a count has to be whatever it was made of."""

import json
from typing import Any

from hypothesis import strategies as st

from services.gateway.core.usage import MAX_TOKENS, TokenCount

NUMBERS = st.one_of(
    st.integers(0, 9), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False), st.just("7")
)
PLAIN = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=5))
ANYTHING = st.recursive(
    PLAIN,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)
_DETAILS = st.one_of(PLAIN, st.fixed_dictionaries({}, optional={"cached_tokens": NUMBERS, "reasoning_tokens": NUMBERS}))
USAGES = st.one_of(
    ANYTHING,
    st.fixed_dictionaries(
        {},
        optional={
            "prompt_tokens": st.one_of(NUMBERS, ANYTHING),
            "completion_tokens": st.one_of(NUMBERS, ANYTHING),
            "total_tokens": NUMBERS,
            "input_tokens": NUMBERS,
            "output_tokens": NUMBERS,
            "prompt_tokens_details": _DETAILS,
            "completion_tokens_details": _DETAILS,
        },
    ),
)


def sound(count: TokenCount) -> bool:
    """Whether the ledger takes it."""
    numbers = (count.prompt, count.cached, count.completion, count.reasoning)
    return (
        all(0 <= number < MAX_TOKENS for number in numbers)
        and count.cached <= count.prompt
        and count.reasoning <= count.completion
        and (count.basis != "none" or not any(numbers))
    )


def chunk(choices: list[Any], **more: Any) -> bytes:
    """An event as vLLM writes it, without blanks."""
    reported = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **more}
    return b"data: " + json.dumps(reported, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def usage(completion: int) -> dict[str, Any]:
    return {"prompt_tokens": 7, "total_tokens": 7 + completion, "completion_tokens": completion}


def delta(text: str, *, index: int = 0) -> dict[str, Any]:
    return {"index": index, "delta": {"content": text}, "finish_reason": None}
