"""vLLM's JSON: what one request is answered, in parts for a stream and as one object."""

import base64
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from tests.kit.engine_script import Script

CREATED = 1_790_000_000
ARGUMENT_PIECE = 6
"""Characters of a tool call's arguments in one fragment."""
VECTOR = (0.5, -0.25, 1.0)
"""Every input's embedding: exact in 32 bits."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One chunk to come. `says` is the chat delta, or `{}` for one without a token."""

    choice: int = 0
    delta: dict[str, Any]
    token: bool = True
    last: bool = False


class Dialect(Protocol):
    """`completion` is how many tokens have been made until then."""

    parts: list[Part]

    def event(self, part: Part, completion: int) -> str: ...

    def ending(self, completion: int) -> list[str]: ...

    def whole(self) -> dict[str, Any]: ...


def dialect(path: str, model: str, body: dict[str, Any], script: Script) -> Dialect:
    if path == "/v1/responses":
        return _Responses(model, body, script)
    return _Completions(model, body, script, chat=path == "/v1/chat/completions")


def embeddings(model: str, body: dict[str, Any], script: Script) -> dict[str, Any]:
    inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
    packed = base64.b64encode(struct.pack(f"<{len(VECTOR)}f", *VECTOR)).decode()
    vector = packed if body.get("encoding_format") == "base64" else list(VECTOR)
    data = [{"index": index, "object": "embedding", "embedding": vector} for index in range(len(inputs))]
    prompt = script.prompt_tokens
    usage = {"prompt_tokens": prompt, "total_tokens": prompt, "completion_tokens": 0, "prompt_tokens_details": None}
    answer = {"id": "embd-scripted", "object": "list", "created": CREATED, "model": model, "data": data}
    return {**answer, **script.vendor, **({"usage": usage} if script.reports_usage else {})}


class _Completions:
    """Chat completions and completions."""

    def __init__(self, model: str, body: dict[str, Any], script: Script, *, chat: bool) -> None:
        options = body.get("stream_options") or {}
        self._include_usage = bool(options.get("include_usage"))
        self._continuous = self._include_usage and bool(options.get("continuous_usage_stats"))
        self._chat, self._model, self._script, self._logprobs = chat, model, script, bool(body.get("logprobs"))
        self._choices = int(body.get("n") or 1)
        deltas, self._finish = _deltas(body, script)
        self._deltas = deltas
        roles = [Part(choice=n, delta={"role": "assistant", "content": ""}, token=False) for n in self._each_choice]
        tokens = [
            Part(choice=choice, delta=delta, last=number == len(deltas))
            for number, delta in enumerate(deltas, 1)
            for choice in self._each_choice
        ]
        self.parts = roles + tokens if chat else tokens
        self._completed = [0] * self._choices
        """Tokens of each choice so far: vLLM's running usage is of the chunk's own choice."""

    @property
    def _each_choice(self) -> range:
        return range(self._choices)

    def event(self, part: Part, completion: int) -> str:
        deltas = {"delta": part.delta} if self._chat else {"text": part.delta.get("content", "")}
        logprobs = self._echo([part.delta]) if self._logprobs and part.token else None
        finish = self._finish if part.last else None
        choice = {"index": part.choice, **deltas, "logprobs": logprobs, "finish_reason": finish}
        self._completed[part.choice] += part.token
        own = self._completed[part.choice]
        if part.token:
            choice["stop_reason"] = None
        return self._chunk([{**choice, **self._script.vendor}], own if self._continuous else None)

    def ending(self, completion: int) -> list[str]:
        usage = [self._chunk([], completion)] if self._include_usage and self._script.reports_usage else []
        return [*usage, "data: [DONE]"]

    def whole(self) -> dict[str, Any]:
        text = "".join(delta.get("content", "") for delta in self._deltas)
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if self._script.reasoning_tokens:
            message["reasoning_content"] = "".join(delta.get("reasoning_content", "") for delta in self._deltas)
        if self._script.tool_calls:
            message |= {"content": None, "tool_calls": _calls(self._script)}
        deltas = {"message": message} if self._chat else {"text": text}
        logprobs = self._echo(self._deltas) if self._logprobs else None
        rest = {"logprobs": logprobs, "finish_reason": self._finish, "stop_reason": None, **self._script.vendor}
        answer = self._head("chat.completion") | {
            "choices": [{"index": n, **deltas, **rest} for n in self._each_choice]
        }
        completion = len(self._deltas) * self._choices
        return {**answer, **({"usage": self._usage(completion)} if self._script.reports_usage else {})}

    def _chunk(self, choices: list[dict[str, Any]], completion: int | None) -> str:
        chunk = {**self._head("chat.completion.chunk"), "choices": choices}
        if completion is not None and self._script.reports_usage:
            chunk["usage"] = self._usage(completion)
        return f"data: {_json(chunk)}"

    def _head(self, chat_object: str) -> dict[str, Any]:
        prefix, name = ("chatcmpl", chat_object) if self._chat else ("cmpl", "text_completion")
        head = {"id": f"{prefix}-scripted", "object": name, "created": CREATED, "model": self._model}
        return {**head, **self._script.vendor}

    def _echo(self, deltas: list[dict[str, Any]]) -> dict[str, Any]:
        """A certain probability for each token of text."""
        texts = [delta.get("content", "") for delta in deltas]
        if not self._chat:
            return {"tokens": texts, "token_logprobs": [-0.5] * len(texts), "top_logprobs": None, "text_offset": [0]}
        rows = [{"token": text, "logprob": -0.5, "bytes": list(text.encode()), "top_logprobs": []} for text in texts]
        return {"content": rows}

    def _usage(self, completion: int) -> dict[str, Any]:
        prompt, cached, reasoning = (
            self._script.prompt_tokens,
            self._script.cached_tokens,
            self._script.reasoning_tokens,
        )
        usage = {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}
        details = {"prompt_tokens_details": {"cached_tokens": cached}} if cached else {}
        if reasoning:
            deltas = min(reasoning * self._choices, completion)
            details["completion_tokens_details"] = {"reasoning_tokens": deltas}
        return {**usage, **details}


class _Responses:
    """The responses API: events with names, numbered, and usage in the last one."""

    def __init__(self, model: str, body: dict[str, Any], script: Script) -> None:
        self._model, self._script = model, script
        self._deltas, finish = _deltas(body, script)
        self._status = "completed" if finish == "stop" else "incomplete"
        self.parts = [Part(delta={}, token=False)] + [Part(delta=delta) for delta in self._deltas]
        self._numbers = iter(range(len(self.parts) + 1))

    def event(self, part: Part, completion: int) -> str:
        if not part.token:
            return self._named("response.created", response=self._response("in_progress", []))
        place = {"item_id": "msg-scripted", "output_index": 0, "content_index": 0}
        return self._named("response.output_text.delta", **place, delta=part.delta.get("content", ""), logprobs=[])

    def ending(self, completion: int) -> list[str]:
        return [self._named(f"response.{self._status}", response=self.whole())]

    def whole(self) -> dict[str, Any]:
        text = "".join(delta.get("content", "") for delta in self._deltas)
        content: list[dict[str, Any]] = [{"type": "output_text", "text": text, "annotations": [], "logprobs": None}]
        message = {"id": "msg-scripted", "type": "message", "role": "assistant", "status": self._status}
        return self._response(self._status, [{**message, "content": content}])

    def _response(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        head = {"id": "resp-scripted", "object": "response", "created_at": CREATED, "model": self._model}
        settings = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
        usage = self._usage() if output and self._script.reports_usage else None
        return {**head, **self._script.vendor, "status": status, "output": output, **settings, "usage": usage}

    def _usage(self) -> dict[str, Any]:
        prompt, completion = self._script.prompt_tokens, len(self._deltas)
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": self._script.cached_tokens},
            "output_tokens": completion,
            "output_tokens_details": {"reasoning_tokens": self._script.reasoning_tokens},
            "total_tokens": prompt + completion,
        }

    def _named(self, name: str, **fields: Any) -> str:
        return f"event: {name}\ndata: {_json({'type': name, 'sequence_number': next(self._numbers), **fields})}"


def _deltas(body: dict[str, Any], script: Script) -> tuple[list[dict[str, Any]], str]:
    """What each token of one choice says, and why it ends."""
    if script.tool_calls:
        deltas = list(_fragments(script))
    else:
        deltas = [{"content": word} for word in script.words or _words(body, script)]
    for number in range(min(script.reasoning_tokens, len(deltas))):
        deltas[number] = {"reasoning_content": f" r{number + 1}"}
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or body.get("max_output_tokens") or len(deltas)
    if limit < len(deltas):
        return deltas[:limit], "length"
    return deltas, "tool_calls" if script.tool_calls else "stop"


def _words(body: dict[str, Any], script: Script) -> list[str]:
    response_format = body.get("response_format") or {"type": "text"}
    if response_format["type"] == "text":
        return [f" w{number}" for number in range(1, script.tokens + 1)]
    schema = response_format.get("json_schema", {}).get("schema", {})
    text = _json({name: _example(kind) for name, kind in schema.get("properties", {"answer": {}}).items()})
    return [text[start : start + ARGUMENT_PIECE] for start in range(0, len(text), ARGUMENT_PIECE)]


def _example(schema: dict[str, Any]) -> object:
    return {"integer": 7, "number": 0.5, "boolean": True, "array": [], "object": {}}.get(schema.get("type", ""), "w")


def _calls(script: Script) -> list[dict[str, Any]]:
    return [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in script.tool_calls
    ]


def _fragments(script: Script) -> Iterator[dict[str, Any]]:
    """The name with empty arguments, then the arguments piece by piece."""
    for index, call in enumerate(_calls(script)):
        arguments = call["function"]["arguments"]
        start = {**call, "function": {**call["function"], "arguments": ""}}
        yield {"tool_calls": [{"index": index, **start}]}
        for at in range(0, len(arguments), ARGUMENT_PIECE):
            piece = arguments[at : at + ARGUMENT_PIECE]
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _json(value: object) -> str:
    """As vLLM writes it: no blanks, and characters as they are."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
