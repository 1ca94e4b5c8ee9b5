"""The table of the API's endpoints.

Routes, the OpenAPI description and everything that differs between paths come from here: a new path is a new row. If
its engine reports usage under new field names, `core/usage.py` learns them.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A path whose requests an engine serves, under the same path."""

    path: str
    operation: str
    """The operation's name in the OpenAPI description."""
    input_field: str
    """The field of the request body that holds the model's input."""
    _: KW_ONLY
    kind: Literal["chat", "text_completion", "embeddings", ""] = ""
    """What it asks for, as usage events name it; empty: OpenTelemetry has no word for it."""
    streams: bool = True
    """Whether a request may ask for a `stream`."""
    usage_from: Literal["chunks", "response"] = "chunks"
    """Where a stream reports its usage: in its chunks, if `stream_options` asks for it, or in the `response` of its
    last event."""
    accepts_prompt_list: bool = False
    """Whether a request may carry several prompts, each with its own choices."""
    has_background_mode: bool = False
    """Whether the API has `background`, a response before the work is done. The gateway rejects such requests."""

    @property
    def takes_stream_options(self) -> bool:
        return self.streams and self.usage_from == "chunks"

    @property
    def ends_with_done(self) -> bool:
        """Whether a stream ends with `[DONE]`."""
        return self.usage_from == "chunks"


@dataclass(frozen=True, slots=True)
class Resource:
    """A path that the gateway itself serves, for `GET` and `HEAD`."""

    path: str
    operation: str
    schema: str | None
    """The name of the response's schema in the OpenAPI description; None: any object."""
    _: KW_ONLY
    needs_key: bool


ENDPOINTS = {
    endpoint.path: endpoint
    for endpoint in (
        Endpoint("/v1/chat/completions", "createChatCompletion", "messages", kind="chat"),
        Endpoint("/v1/completions", "createCompletion", "prompt", kind="text_completion", accepts_prompt_list=True),
        Endpoint("/v1/embeddings", "createEmbedding", "input", kind="embeddings", streams=False),
        Endpoint(
            "/v1/responses", "createResponse", "input", kind="chat", usage_from="response", has_background_mode=True
        ),
    )
}
"""By path."""
MODELS = Resource("/v1/models", "listModels", "Models", needs_key=True)
MODEL = Resource("/v1/models/{model}", "getModel", "Model", needs_key=True)
OPENAPI = Resource("/openapi.json", "getDescription", None, needs_key=False)
HEALTH = Resource("/health", "getHealth", "Health", needs_key=False)
RESOURCES = {resource.path: resource for resource in (MODELS, MODEL, OPENAPI, HEALTH)}
"""By path."""
