"""What clients, browsers and load balancers ask of HTTP beside the API proper."""

import json
import time

import pytest

from tests.integration.gateway.conftest import MODEL, Front
from tests.integration.gateway.hostile import PATH, STREAM, Opened, own_error, send_request, whole
from tests.kit.raw_http import Answer, connected, head
from tests.kit.scripted_engine import Script, ScriptedEngine

ORIGIN = "https://chat.example.org"
EXPOSED = ("x-request-id", "retry-after", "x-ratelimit-remaining-tokens")


async def get(front: Front, target: str, *headers: str, method: str = "GET", key: bool = True) -> Answer:
    authorization = (f"Authorization: Bearer {front.key}",) if key else ()
    async with connected(front.url) as connection:
        await connection.send(head(method, target, *authorization, *headers))
        answer = await connection.answer(bodyless=method == "HEAD")
        assert answer is not None
        if method == "HEAD":  # nothing follows its head
            await connection.send(head("GET", "/health"))
            following = await connection.answer()
            assert following is not None
            assert following.body == b'{"status":"ok"}'
    return answer


async def test_pages_and_paths(opened: Opened) -> None:
    started = int(time.time())
    front = await opened()
    assert (await get(front, "/health", key=False)).body == b'{"status":"ok"}'

    for target in ("/v1/models", "/v1/models/org%2Fmodel", "/openapi.json", "/health"):
        answer, bare = await get(front, target), await get(front, target, method="HEAD")
        assert (answer.status, bare.status) == (200, 200)
        assert bare.headers["content-length"] == answer.headers["content-length"] == str(len(answer.body))
        for other in (f"{target}/", f"/{target}", target.replace("/", "//")):
            assert (await get(front, other)).body == answer.body
    refused = await get(front, PATH, method="HEAD")
    assert (refused.status, refused.headers["allow"]) == (405, "POST")
    refused = await get(front, "/health", method="POST")
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")

    entry = json.loads((await get(front, f"/v1/models/{MODEL}")).body)
    assert started <= entry["created"] <= time.time()
    assert "max_model_len" not in entry

    nobody = await get(front, "/v1/models", key=False)
    assert (own_error(nobody), nobody.headers["www-authenticate"]) == ("401 invalid_api_key", "Bearer")
    for target, meant in (("/chat/completions", PATH), ("/v1/v1/models", "/v1/models"), ("/models", "/v1/models")):
        unknown = await get(front, target)
        assert own_error(unknown) == "404 not_found"
        assert f"Did you mean {meant}?" in unknown.error["message"]
    assert "Did you mean" not in (await get(front, "/v2/models")).error["message"]

    for line, named in (("Content-Type: text/plain", "text/plain"), ("Content-Encoding: gzip", "gzip")):
        unsupported = await send_request(front, whole(front, b"{}", line))
        assert own_error(unsupported) == "415 unsupported_media_type"
        assert named in unsupported.error["message"]

    waking = await send_request(front, whole(front, STREAM, "X-Wake-Timeout: 0"))
    assert (own_error(waking), waking.headers["x-should-retry"]) == ("503 waking", "false")
    assert "retry-after" in waking.headers

    no_preflight = await get(front, PATH, f"Origin: {ORIGIN}", "Access-Control-Request-Method: POST", method="OPTIONS")
    assert own_error(no_preflight) == "405 method_not_allowed"
    assert not [name for name in no_preflight.headers if name.startswith("access-control")]


async def test_engine_metadata_and_paths_are_forwarded(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await opened()
    await front.machine("m1", "ready", scripted_engine.base_url, max_model_len=8192)
    await front.machine("m2", "asleep", max_model_len=4096)
    await front.seen()
    assert json.loads((await get(front, "/v1/models")).body)["data"][0]["max_model_len"] == 4096
    assert (await send_request(front, whole(front, target=f"/{PATH}/"))).status == 200
    assert scripted_engine.requests[-1].path == PATH


@pytest.mark.parametrize("allowed", [ORIGIN, "*"])
async def test_pages_of_the_configured_origins_may_ask(
    opened: Opened, scripted_engine: ScriptedEngine, allowed: str
) -> None:
    front = await opened(f'cors_origins = ["{allowed}"]', requests_per_minute=100)
    await front.machine("m1", "ready", scripted_engine.base_url)
    preflight = ("Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization")

    answer = await get(front, PATH, f"Origin: {ORIGIN}", *preflight, method="OPTIONS", key=False)
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["access-control-allow-origin"] == allowed
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "Authorization" in answer.headers["access-control-allow-headers"]

    scripted_engine.default = Script()
    origin = f"Origin: {ORIGIN}"
    answers = [
        await send_request(front, whole(front, STREAM, origin)),
        await send_request(front, whole(front, b"{", origin)),
        await get(front, "/v1/models", origin, key=False),
        await get(front, "/nothing", origin),
    ]
    assert [answer.status for answer in answers] == [200, 400, 401, 404]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == allowed
        assert all(name in answer.headers["access-control-expose-headers"] for name in EXPOSED)
        assert "access-control-allow-credentials" not in answer.headers
        assert answer.headers.get("vary") == (None if allowed == "*" else "Origin")
    if allowed != "*":
        for other in ("Origin: https://elsewhere.example", "X: y"):
            answer = await get(front, "/v1/models", other)
            assert (answer.status, answer.headers["vary"]) == (200, "Origin")
            assert "access-control-allow-origin" not in answer.headers


async def test_requests_without_a_key_cannot_fill_the_log(opened: Opened) -> None:
    front = await opened()
    count = 0
    for _ in range(30):
        async with connected(front.url) as connection:
            for _ in range(10):
                await connection.send(head("GET", "/v1/models", "Authorization: Bearer sk-wrong"))
                answer = await connection.answer()
                assert answer is not None
                assert answer.status == 401
                count += 1
    for malformed in (b"NONSENSE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"):
        assert (await send_request(front, malformed)).status == 400
        count += 1
    assert await front.metric("without_key_total") == count
    unlogged = await front.metric("without_key_unlogged_total")
    assert (await get(front, "/v1/models")).status == 200
    assert await front.service.stop() == 0
    log = [json.loads(line) for line in front.service.log.read_text("utf-8").splitlines() if line.startswith("{")]
    lines = [line for line in log if line["event"] == "request"]
    suppressed = [line["count"] for line in log if line["event"] == "requests_suppressed"]
    anonymous = [line for line in lines if line["key_id"] is None]
    assert 100 <= len(anonymous) < count
    assert len(anonymous) + sum(suppressed) == count
    assert sum(suppressed) == unlogged
    assert {line["peer"] for line in lines} == {"127.0.0.1"}
    assert [line["key_id"] for line in lines if line["key_id"]] == [front.key_id]
