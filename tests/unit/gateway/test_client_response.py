"""The response to a client, as its owner sees it."""

import pytest

from services.gateway.adapters.http.client_response import ClientResponse
from tests.unit.gateway.front import Front
from tests.unit.gateway.wire import turns


async def test_repr_shows_the_id_and_the_status_once_it_is_sent(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    kept: list[ClientResponse] = []

    def write(response: ClientResponse, *_: object) -> None:
        kept.append(response)
        texts.append(repr(response))

    monkeypatch.setattr(front.request_log, "write", write)
    front.connect().send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    await turns()
    (response,) = kept
    assert texts == [f"<ClientResponse {response.id} status=None>"]
    assert repr(response) == f"<ClientResponse {response.id} status=200>"
