"""The API's endpoints. Routes, the OpenAPI description and all that differs between paths come from these tables."""

from dataclasses import KW_ONLY, dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A path whose requests go to an engine."""

    path: str
    operation: str
    """Its name in the OpenAPI description."""
    input_field: str
    """The field of the request body that the model reads."""
    _: KW_ONLY
    streams: bool = True
    """Whether the API has a `stream` for it."""
    usage_from: Literal["chunks", "response"] = "chunks"
    """Where a stream reports its usage: in its chunks, if the `stream_options` ask for it, or in the `response` of its
    last event."""
    accepts_prompt_list: bool = False
    """Whether one request may have several prompts, each with choices of its own."""
    has_background_mode: bool = False
    """Whether `background` asks for an answer before the work is done. The gateway does not support that."""

    @property
    def takes_stream_options(self) -> bool:
        return self.streams and self.usage_from == "chunks"

    @property
    def ends_with_done(self) -> bool:
        """Whether a stream ends with `[DONE]`."""
        return self.usage_from == "chunks"


@dataclass(frozen=True, slots=True)
class Resource:
    """A path that the gateway itself answers, to `GET` and `HEAD`."""

    path: str
    operation: str
    schema: str | None
    """The name of its answer's schema in the OpenAPI description; None: any object."""
    _: KW_ONLY
    needs_key: bool


ENDPOINTS = {
    endpoint.path: endpoint
    for endpoint in (
        Endpoint("/v1/chat/completions", "createChatCompletion", "messages"),
        Endpoint("/v1/completions", "createCompletion", "prompt", accepts_prompt_list=True),
        Endpoint("/v1/embeddings", "createEmbedding", "input", streams=False),
        Endpoint("/v1/responses", "createResponse", "input", usage_from="response", has_background_mode=True),
    )
}
"""By path."""
MODELS = Resource("/v1/models", "listModels", "Models", needs_key=True)
MODEL = Resource("/v1/models/{model}", "getModel", "Model", needs_key=True)
OPENAPI = Resource("/openapi.json", "getDescription", None, needs_key=False)
HEALTH = Resource("/health", "getHealth", "Health", needs_key=False)
RESOURCES = {resource.path: resource for resource in (MODELS, MODEL, OPENAPI, HEALTH)}
"""By path."""
