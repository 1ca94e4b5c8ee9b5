"""What the gateway itself answers."""

import json
from typing import cast

import pytest

from shared.messages.keys import KeyRecord, digest
from tests.unit.gateway.front import NOON, Front
from tests.unit.gateway.wire import SECRET, Fault, Response, turns, until

Field = dict[str, object]


async def get(front: Front, path: str, method: str = "GET", key: str | None = SECRET) -> Response:
    wire = front.connect()
    authorization = f"Authorization: Bearer {key}\r\n" if key else ""
    wire.send(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{authorization}Content-Length: 0\r\n\r\n".encode())
    await until(lambda: wire.written)
    if method == "HEAD":
        head, _, body = bytes(wire.written).partition(b"\r\n\r\n")
        return Response(int(head.split()[1]), head.lower(), body)
    (response,) = wire.responses
    await turns()
    front.check(lines=len(front.log.lines))
    assert front.log.lines[-1].status == response.status
    return response


def error(response: Response) -> dict[str, object]:
    results: dict[str, object] = json.loads(response.body)["error"]
    return results


@pytest.mark.parametrize(
    ("leaving", "ready", "status", "body"),
    [
        (False, True, 200, b'{"status":"ok"}'),
        (False, False, 503, b'{"status":"not ready"}'),
        (True, True, 503, b'{"status":"draining"}'),
    ],
)
async def test_health_reports_whether_requests_are_accepted(
    front: Front, *, leaving: bool, ready: bool, status: int, body: bytes
) -> None:
    front.lifecycle.is_leaving, front.is_ready = leaving, ready
    response = await get(front, "/health", key=None)
    assert (response.status, response.body) == (status, body)
    assert (b"connection: close" in response.head) == leaving


async def test_head_has_a_body_s_length_alone(front: Front) -> None:
    response = await get(front, "/health", "HEAD", key=None)
    assert (response.status, response.body) == (200, b"")
    assert b"content-length: 15" in response.head


async def test_models_lists_the_keys_models_with_the_context_every_machine_accepts(front: Front) -> None:
    entry: Field = {"id": "m", "object": "model", "created": int(NOON), "owned_by": "spotinference"}
    assert json.loads((await get(front, "/v1/models")).body) == {"object": "list", "data": [entry]}
    assert json.loads((await get(front, "/v1/models/m")).body) == entry
    assert error(await get(front, "/v1/models/secret"))["code"] == "model_not_allowed"
    assert error(await get(front, "/v1/models/x"))["code"] == "model_not_found"
    front.keys[digest(SECRET)] = KeyRecord(id="k", name="k", created_at=0.0)
    listed = json.loads((await get(front, "/v1/models")).body)["data"]
    assert [each["id"] for each in listed] == ["m", "secret"]


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/m"])
async def test_models_need_a_key(front: Front, path: str) -> None:
    for key in (None, "another"):
        response = await get(front, path, key=key)
        assert (response.status, error(response)["code"]) == (401, "invalid_api_key")
        assert b"www-authenticate: bearer" in response.head


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", b"allow: post\r\n"),
        ("DELETE", "/v1/responses/", b"allow: post\r\n"),
        ("POST", "/v1/models", b"allow: get, head\r\n"),
        ("PUT", "/v1/models/m", b"allow: get, head\r\n"),
        ("POST", "/health", b"allow: get, head\r\n"),
    ],
)
async def test_a_wrong_method_gets_405_with_the_allowed_ones(
    front: Front, method: str, path: str, allow: bytes
) -> None:
    response = await get(front, path, method)
    assert (response.status, error(response)["code"]) == (405, "method_not_allowed")
    assert allow in response.head + b"\r\n"


@pytest.mark.parametrize(
    ("path", "meant"), [("/chat/completions", "/v1/chat/completions"), ("/models", "/v1/models"), ("/v2/nothing", "")]
)
async def test_an_unknown_path_gets_a_suggestion(front: Front, path: str, meant: str) -> None:
    response = await get(front, path)
    assert response.status == 404
    message = str(error(response)["message"])
    assert path in message
    assert (meant in message) if meant else ("/v1/" not in message)


async def test_the_description_needs_no_key(front: Front) -> None:
    response = await get(front, "/openapi.json", key=None)
    assert (response.status, "/v1/chat/completions" in json.loads(response.body)["paths"]) == (200, True)


async def test_an_internal_error_gets_500(front: Front) -> None:
    front.is_ready = cast("bool", Unreadable())
    response = await get(front, "/health", key=None)
    assert (response.status, error(response)["code"]) == (500, "internal_error")


class Unreadable:
    """Breaks whoever asks."""

    def __bool__(self) -> bool:
        raise Fault("is_ready")
