"""The limits of keys through the whole of a gateway: who is refused, how it is told, and over two gateways."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from shared.bus import subjects
from shared.bus.topology import KEYS, MONTHS
from shared.messages.codec import decode, encode
from shared.messages.keys import KeyRecord, digest
from shared.messages.meter import KeyMonth, month_of
from tests.integration.gateway.conftest import MODEL, Front
from tests.integration.gateway.hostile import BODY, CHUNKED, PATH, STREAM, own_error, send_request
from tests.kit.raw_http import LAST_CHUNK, Answer, chunk, connected, head
from tests.kit.scripted_engine import Script, ScriptedEngine
from tests.kit.waiting import until

Opened = Callable[..., Awaitable[Front]]
OTHER = '[[model]]\nname = "org/other"\nserved_as = "scripted"\nlineup = ["first"]'
MOST_WAIT = 60


def request(key: str, body: bytes = BODY, *headers: str, method: str = "POST", target: str = PATH) -> bytes:
    length = () if body is NONE else (f"Content-Length: {len(body)}",)
    return head(method, target, f"Authorization: Bearer {key}", *length, *headers) + body


NONE = b""


def rates(answer: Answer) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("x-ratelimit-")}


def capped(body: bytes, max_tokens: int) -> bytes:
    return body[:-1] + b',"max_tokens":%d}' % max_tokens


async def test_every_response_to_a_limited_key_has_rate_limit_headers(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    front = await opened("max_body_bytes = 2000", requests_per_minute=5, tokens_per_minute=10_000)
    await front.machine("m1", "ready", scripted_engine.base_url)
    scripted_engine.default = Script(tokens=10, prompt_tokens=40)
    sent: Sequence[tuple[str, tuple[bytes, ...]]] = (
        ("200", (request(front.key),)),
        ("200", (request(front.key, STREAM),)),
        ("200", (request(front.key, NONE, method="GET", target="/v1/models"),)),
        ("404", (request(front.key, NONE, method="GET", target="/v1/models/none"),)),
        ("400", (request(front.key, b"{"),)),
        ("404", (request(front.key, BODY.replace(b"org/model", b"none")),)),
        ("404", (request(front.key, target="/v1/none"),)),
        ("405", (request(front.key, NONE, method="DELETE"),)),
        ("411", (request(front.key, NONE),)),
        ("413", (request(front.key, b"x" * 2001),)),
        ("413", (request(front.key, NONE, CHUNKED), chunk(b"x" * 2001), LAST_CHUNK)),
        ("400", (request(front.key, NONE, CHUNKED), b"zz\r\n")),
        ("415", (request(front.key, BODY, "Content-Type: text/plain"),)),
        ("400", (request(front.key, BODY, "X-Wake-Timeout: soon"),)),
    )
    for status, parts in sent:
        answer = await send_request(front, *parts)
        assert str(answer.status) == status, parts
        reported = rates(answer)
        assert reported["x-ratelimit-limit-requests"] == "5", (parts, answer)
        assert reported["x-ratelimit-limit-tokens"] == "10000"
        assert 0 <= int(reported["x-ratelimit-remaining-requests"]) <= 5
        assert set(reported) >= {"x-ratelimit-reset-requests", "x-ratelimit-reset-tokens"}
        assert 9900 <= int(reported["x-ratelimit-remaining-tokens"]) <= 9950, "two answers of 50 tokens each"
    spent = [await send_request(front, request(front.key)) for _ in range(5)]
    assert [one.status for one in spent] == [200, 200, 200, 429, 429], "what was refused for itself does not count"
    refused = spent[-1]
    assert own_error(refused) == "429 rate_limit_exceeded"
    assert refused.error["type"] == "rate_limit_error"
    assert "5 requests per minute" in refused.error["message"]
    assert 1 <= int(refused.headers["retry-after"]) <= MOST_WAIT
    assert "x-should-retry" not in refused.headers
    assert rates(refused)["x-ratelimit-remaining-requests"] == "0"
    assert (await send_request(front, request(front.key, NONE, method="GET", target="/v1/models"))).status == 200
    assert await front.metric("limit_hits_total", limit="requests") == 2
    _, free = await front.mint()
    await front.knows(free)
    assert not rates(await send_request(front, request(free))), "a key without limits hears of none"


async def test_tokens_per_minute_are_held_while_a_request_runs_and_settled_at_its_end(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    front = await opened(tokens_per_minute=1000)
    await front.machine("m1", "ready", scripted_engine.base_url)
    scripted_engine.default = Script(tokens=20, prompt_tokens=80, hold_after=2)
    async with connected(front.url) as running:
        await running.send(request(front.key, capped(STREAM, 800)))
        await running.until(b"w1")
        refused = await send_request(front, request(front.key, capped(BODY, 300)))
        assert own_error(refused) == "429 rate_limit_exceeded"
        assert "1000 tokens per minute" in refused.error["message"]
        assert 1 <= int(refused.headers["retry-after"]) <= MOST_WAIT
        scripted_engine.release()
        await running.until(b"[DONE]")
    scripted_engine.default = Script(tokens=20, prompt_tokens=80)
    assert (await send_request(front, request(front.key, capped(BODY, 300)))).status == 200, (
        "100 tokens were used, not 800"
    )
    await until(
        lambda: send_request(front, request(front.key, NONE, method="GET", target="/v1/models")),
        lambda answer: rates(answer)["x-ratelimit-remaining-tokens"] == "800",
    )
    assert await front.metric("limit_hits_total", limit="tokens") == 1


async def test_a_held_request_counts_as_concurrent_until_it_leaves(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    front = await opened(concurrency=2)
    await front.machine("m1", "asleep")
    async with connected(front.url) as first, connected(front.url) as second:
        await first.send(request(front.key))
        await second.send(request(front.key, STREAM))
        await until(lambda: front.metric("waiting"), lambda waiting: waiting == 2)
        refused = await send_request(front, request(front.key))
        assert own_error(refused) == "429 rate_limit_exceeded"
        assert "2 requests at once" in refused.error["message"]
        assert 1 <= int(refused.headers["retry-after"]) <= MOST_WAIT
        first.close()
        await until(lambda: front.metric("waiting"), lambda waiting: waiting == 1)
        await front.machine("m1", "ready", scripted_engine.base_url)
        await second.until(b"[DONE]")
    assert (await send_request(front, request(front.key))).status == 200
    assert await front.metric("limit_hits_total", limit="concurrency") == 1


async def test_the_month_is_the_ledger_s_and_what_it_does_not_have_yet(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    front = await opened(monthly_tokens=1000)
    await front.machine("m1", "ready", scripted_engine.base_url)
    scripted_engine.default = Script(tokens=20, prompt_tokens=80)

    async def ledger(key_id: str, tokens: int, *, ahead: float = 0.0) -> None:
        now = time.time()
        reported = KeyMonth(key_id=key_id, month=month_of(now + ahead), tokens=tokens, at=now)
        await front.bus.put(MONTHS, subjects.month_key(key_id), encode(reported))

    async def ask() -> Answer:
        return await send_request(front, request(front.key, capped(BODY, 50)))

    await ledger(front.key_id, 5000)
    await until(ask, lambda answer: answer.status == 429)
    refused = await ask()
    assert own_error(refused) == "429 insufficient_quota"
    assert refused.headers["x-should-retry"] == "false"
    await ledger(front.key_id, 5000, ahead=40 * 86400.0)
    await until(ask, lambda answer: answer.status == 200)
    await ledger(front.key_id, 700)
    await until(ask, lambda answer: answer.status == 429)
    assert len(scripted_engine.requests) >= 3, "700 of the ledger's, and 100 of each that it has not confirmed"
    assert await front.metric("limit_hits_total", limit="month") >= 2


async def test_a_changed_key_takes_effect_within_a_second(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await opened(more=OTHER)
    await front.machine("m1", "ready", scripted_engine.base_url)
    assert (await send_request(front, request(front.key))).status == 200
    _, narrow = await front.mint(models=("org/other",))
    _, expired = await front.mint(expires_at=time.time() - 1)
    _, soon = await front.mint(expires_at=time.time() + 1.0)

    async def status(key: str) -> str:
        answer = await send_request(front, request(key))
        return "200" if answer.status == 200 else own_error(answer)

    await until(lambda: status(narrow), lambda reported: reported == "403 model_not_allowed")
    assert (await send_request(front, request(narrow, BODY.replace(b"org/model", b"org/other")))).status == 200
    listed = await send_request(front, request(narrow, NONE, method="GET", target="/v1/models"))
    assert [model["id"] for model in msgspec.json.decode(listed.body)["data"]] == ["org/other"]
    hidden = await send_request(
        front, request(narrow, NONE, method="GET", target=f"/v1/models/{MODEL.replace('/', '%2F')}")
    )
    assert own_error(hidden) == "403 model_not_allowed"
    assert await status(expired) == "401 invalid_api_key"
    await until(lambda: status(soon), lambda reported: reported == "401 invalid_api_key")

    entry = await front.bus.get(KEYS, digest(front.key))
    assert entry is not None
    revoked = msgspec.structs.replace(decode(entry.value, KeyRecord), revoked_at=time.time())
    await front.bus.update(KEYS, digest(front.key), encode(revoked), revision=entry.revision)
    await until(lambda: status(front.key), lambda reported: reported == "401 invalid_api_key")


async def test_two_gateways_let_through_what_one_would(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    one = await opened()
    two = await opened(folder="two")
    await one.machine("m1", "ready", scripted_engine.base_url)
    await one.seen(2)
    _, both = await one.mint(requests_per_minute=40)
    _, alone = await one.mint(requests_per_minute=40)

    async def status(front: Front, key: str) -> int:
        return (await send_request(front, request(key))).status

    async def hammer(key: str, *fronts: Front) -> int:
        """How many are let through until for a second there are no more."""
        good, refused_since = 0, time.monotonic()
        while good < 40 or time.monotonic() < refused_since + 1.0:
            results = await asyncio.gather(*(status(front, key) for front in fronts for _ in range(4)))
            assert set(results) <= {200, 429}
            if 200 in results:
                good, refused_since = good + results.count(200), time.monotonic()
        return good

    for front in (one, two):
        await front.knows(both)
        await front.knows(alone)
    assert 40 <= await hammer(both, one, two) <= 44
    assert await hammer(alone, two) == 40, "what no other gateway needs is this one's"
