"""What is said on the wire: the client's request, the engine's answers in vLLM's shape, the faults of an answer.

Tokens are the words ` w1`, ` w2`, …, so that a lost, doubled or swapped one is seen.
"""

import json
import re
from typing import Any

MODEL = "bench/model"
SERVED_AS = "bench-engine"
WHOLE_TOKENS = 16
PROMPT_TOKENS = 230
REQUEST_BYTES = 1024
LAST_CHUNK = b"0\r\n\r\n"

_ID = "chatcmpl-0123456789abcdef0123456789abcdef"
_WORD = re.compile(rb'"content":"( w\d+)"')
_COMPLETION = re.compile(rb'"completion_tokens":(\d+)')
_WHOLE_TEXT = "".join(f" w{n}" for n in range(1, WHOLE_TOKENS + 1))


def request(*, host: str, key: str, model: str, tokens: int = 0, interval_ms: int = 0) -> bytes:
    """A chat completion of about 1 KB; a stream when `tokens` is given, one token each `interval_ms`."""
    system = {"role": "system", "content": "You answer briefly."}
    body: dict[str, Any] = {"model": model, "messages": [system]}
    if tokens:
        # `vllm_xargs` is vLLM's own field for what an engine's extension wants; gateways pass it on.
        body |= {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": tokens}
        body["vllm_xargs"] = {"interval_ms": interval_ms}
    question = {"role": "user", "content": ""}
    body["messages"].append(question)
    question["content"] = ("How are you today? " * 60)[: REQUEST_BYTES - len(json.dumps(body))]
    data = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nAccept: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def whole_answer() -> bytes:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": _WHOLE_TEXT,
        "refusal": None,
        "tool_calls": [],
        "reasoning": None,
    }
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop", "stop_reason": None}
    body = _compact({**_head("chat.completion"), "choices": [choice], "usage": _usage(WHOLE_TOKENS)})
    head = b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-length: %d\r\ncontent-type: application/json\r\n\r\n"
    return head % len(body) + body


def stream_head() -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )


def stream_chunks(tokens: int, *, include_usage: bool, running_usage: bool) -> list[bytes]:
    """One HTTP chunk per token; the last item also ends the answer, with usage where it is asked, and `[DONE]`."""
    chunks = []
    for number in range(1, tokens + 1):
        delta = {"content": f" w{number}"}
        finish = "length" if number == tokens else None
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish, "token_ids": None}
        usage = {"usage": _usage(number)} if include_usage and running_usage else {}
        chunks.append(_framed(_event({**_head("chat.completion.chunk"), "choices": [choice], **usage})))
    if include_usage:
        chunks[-1] += _framed(_event({**_head("chat.completion.chunk"), "choices": [], "usage": _usage(tokens)}))
    chunks[-1] += _framed(b"data: [DONE]\n\n") + LAST_CHUNK
    return chunks


def whole_fault(answer: bytes) -> str | None:
    """What is wrong with the client's whole answer, or None."""
    if _WHOLE_TEXT.encode() not in answer:
        return f"other text than {_WHOLE_TEXT!r}: {answer[-600:]!r}"
    if _COMPLETION.findall(answer) != [b"%d" % WHOLE_TOKENS]:
        return f"other usage than {WHOLE_TOKENS} tokens: {answer[-600:]!r}"
    return None


def stream_fault(answer: bytes, tokens: int) -> str | None:
    """What is wrong with the client's stream of so many tokens, or None."""
    body = _unframed(answer)
    if not body.endswith(b"data: [DONE]\n\n"):
        return f"no [DONE]: {body[-300:]!r}"
    if _WORD.findall(body) != [b" w%d" % n for n in range(1, tokens + 1)]:
        return f"tokens lost, doubled or out of order, {len(_WORD.findall(body))} for {tokens}"
    if _COMPLETION.findall(body) != [b"%d" % tokens]:
        return f"expected one usage, of {tokens} tokens, got {_COMPLETION.findall(body)[:3]!r}"
    return None


def _head(kind: str) -> dict[str, Any]:
    return {"id": _ID, "object": kind, "created": 1_790_000_000, "model": SERVED_AS}


def _usage(completion: int) -> dict[str, int]:
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "total_tokens": PROMPT_TOKENS + completion,
        "completion_tokens": completion,
    }


def _compact(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + _compact(value) + b"\n\n"


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _unframed(answer: bytes) -> bytes:
    """The body of an answer in HTTP chunks."""
    at = answer.index(b"\r\n\r\n") + 4
    parts = []
    while size := int(answer[at : (end := answer.index(b"\r\n", at))], 16):
        parts.append(answer[end + 2 : end + 2 + size])
        at = end + size + 4
    return b"".join(parts)
