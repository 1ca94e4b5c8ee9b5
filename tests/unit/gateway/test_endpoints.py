"""What differs between the paths of the API."""

import json

import pytest

from services.gateway.core.endpoints import ENDPOINTS, Endpoint
from services.gateway.core.openapi import document
from tests.unit.gateway.front import Front
from tests.unit.gateway.wire import post, turns


def test_only_streams_of_chunks_take_stream_options() -> None:
    assert [path for path, endpoint in ENDPOINTS.items() if endpoint.takes_stream_options] == [
        "/v1/chat/completions",
        "/v1/completions",
    ]


def test_usage_has_the_operation_of_each_path() -> None:
    assert {path: endpoint.kind for path, endpoint in ENDPOINTS.items()} == {
        "/v1/chat/completions": "chat",
        "/v1/completions": "text_completion",
        "/v1/embeddings": "embeddings",
        "/v1/responses": "chat",
    }


def test_only_a_response_object_ends_its_stream_without_done() -> None:
    assert [path for path, endpoint in ENDPOINTS.items() if not endpoint.ends_with_done] == ["/v1/responses"]


async def test_a_new_row_is_routed_forwarded_counted_and_described(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = Endpoint("/v1/rerank", "createRerank", "documents", streams=False)
    monkeypatch.setitem(ENDPOINTS, endpoint.path, endpoint)
    assert json.loads(document())["paths"]["/v1/rerank"]["post"]["operationId"] == "createRerank"
    front = await Front().start()
    front.fleet.put("s1", "ready")
    wire = front.connect()
    wire.send(post(b'{"model":"m","documents":["a"]}', path=b"/v1/rerank"))
    await turns(8)
    (call,) = front.calls
    call.answer(content_type=b"application/json")
    call.feed(b'{"results":[],"usage":{"prompt_tokens":3}}')
    call.receiver.on_end()
    await turns()
    assert [(event.outcome, event.prompt_tokens) for event in front.books.events] == [("completed", 3)]
    await front.stop()
    front.check()
