"""The API's endpoints. Routes, the OpenAPI description and all that differs between paths come from these tables."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A path whose requests go to an engine."""

    path: str
    operation: str
    """Its name in the OpenAPI description."""
    input_field: str
    """The field of the request body that the model reads."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A path that the gateway itself answers, to `GET` and `HEAD`."""

    path: str
    operation: str
    schema: str | None
    """The name of its answer's schema in the OpenAPI description; None: any object."""
    needs_key: bool


ENDPOINTS = {
    endpoint.path: endpoint
    for endpoint in (
        Endpoint(path="/v1/chat/completions", operation="createChatCompletion", input_field="messages"),
        Endpoint(path="/v1/completions", operation="createCompletion", input_field="prompt", accepts_prompt_list=True),
        Endpoint(path="/v1/embeddings", operation="createEmbedding", input_field="input", streams=False),
        Endpoint(
            path="/v1/responses",
            operation="createResponse",
            input_field="input",
            usage_from="response",
            has_background_mode=True,
        ),
    )
}
"""By path."""
MODELS = Page(path="/v1/models", operation="listModels", schema="Models", needs_key=True)
MODEL = Page(path="/v1/models/{model}", operation="getModel", schema="Model", needs_key=True)
OPENAPI = Page(path="/openapi.json", operation="getDescription", schema=None, needs_key=False)
HEALTH = Page(path="/health", operation="getHealth", schema="Health", needs_key=False)
PAGES = {page.path: page for page in (MODELS, MODEL, OPENAPI, HEALTH)}
"""By path."""
