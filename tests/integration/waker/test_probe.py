"""What the waker asks an engine before it sends requests there, of engines and of what only looks like one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from services.waker.adapters import probe
from services.waker.adapters.probe import HttpProber
from tests.kit.waiting import PATIENCE_SECONDS

Reply = tuple[int, object]
Serve = Callable[[Mapping[str, Reply]], Awaitable["Engine"]]

MISSING: Reply = (404, {"detail": "nothing here"})
TEXT = {"choices": [{"text": "x"}], "usage": {"total_tokens": 2}}
VECTOR = {"data": [{"index": 0, "embedding": [0.1, 0.2]}], "usage": {"prompt_tokens": 5, "total_tokens": 5}}
UNSUPPORTED: Reply = (501, {"error": {"message": "The model does not support Completions API"}})
COMPLETIONS, CHAT, EMBEDDINGS, MODELS = "/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/models"


class Engine:
    """Answers each path as it was told, any other with 404; `requests` has the paths, `keys` what came with them."""

    def __init__(self, replies: Mapping[str, Reply]) -> None:
        self.replies = dict(replies)
        self.requests: list[str] = []
        self.keys: list[str | None] = []
        self.base_url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request.path)
        self.keys.append(request.headers.get("authorization"))
        status, body = self.replies.get(request.path, MISSING)
        if isinstance(body, bytes):
            return web.Response(status=status, body=body, content_type="application/json")
        if isinstance(body, str):
            return web.Response(status=status, text=body, content_type="text/html")
        if callable(body):
            return await body(request)  # type: ignore[no-any-return]  # a handler of the test's own
        return web.json_response(body, status=status)


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:

        async def started(replies: Mapping[str, Reply]) -> Engine:
            engine, app = Engine(replies), web.Application()
            app.router.add_route("*", "/{path:.*}", engine.answer)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            engine.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            return engine

        yield started


@pytest.fixture
async def prober() -> AsyncIterator[HttpProber]:
    made = HttpProber(lambda machine, _endpoint: "sk-engine" if machine == "locked" else None)
    yield made
    await made.close()


@pytest.mark.parametrize(
    ("replies", "requests", "tokens"),
    [
        ({COMPLETIONS: (200, TEXT)}, [COMPLETIONS], 2),
        ({CHAT: (200, TEXT)}, [COMPLETIONS, CHAT], 2),
        ({COMPLETIONS: UNSUPPORTED, CHAT: (200, TEXT)}, [COMPLETIONS, CHAT], 2),
        ({COMPLETIONS: (200, {"error": "Unexpected endpoint"}), CHAT: (200, TEXT)}, [COMPLETIONS, CHAT], 2),
        ({EMBEDDINGS: (200, VECTOR)}, [COMPLETIONS, CHAT, EMBEDDINGS], 5),
        (
            {COMPLETIONS: UNSUPPORTED, CHAT: UNSUPPORTED, EMBEDDINGS: (200, VECTOR)},
            [COMPLETIONS, CHAT, EMBEDDINGS],
            5,
        ),
        (
            {COMPLETIONS: (400, {"message": "not for text"}), CHAT: (405, {}), EMBEDDINGS: (200, VECTOR)},
            [COMPLETIONS, CHAT, EMBEDDINGS],
            5,
        ),
        ({COMPLETIONS: (200, TEXT | {"usage": {"total_tokens": -3}})}, [COMPLETIONS], 0),
        ({COMPLETIONS: (200, TEXT | {"usage": {"total_tokens": 2**70}})}, [COMPLETIONS], 0),
        ({COMPLETIONS: (200, TEXT | {"usage": [1]})}, [COMPLETIONS], 0),
    ],
)
async def test_an_engine_is_fit_when_it_does_what_its_model_is_for(
    serve: Serve, prober: HttpProber, replies: Mapping[str, Reply], requests: list[str], tokens: int
) -> None:
    engine = await serve(replies)
    answer = await prober.work("m1", engine.base_url, "served", PATIENCE_SECONDS)
    assert (answer.answered, answer.tokens, answer.code, answer.mismatch) == (True, tokens, "", "")
    assert engine.requests == requests
    assert engine.keys == [None] * len(requests)


@pytest.mark.parametrize(
    ("replies", "text"),
    [
        ({COMPLETIONS: (500, {"error": "out of memory"})}, '500 {"error": "out of memory"}'),
        ({COMPLETIONS: (503, {"error": "loading"})}, '503 {"error": "loading"}'),
        ({COMPLETIONS: (429, {})}, "429 {}"),
        ({COMPLETIONS: UNSUPPORTED}, "/v1/completions: 501 "),
        ({COMPLETIONS: UNSUPPORTED, EMBEDDINGS: (200, {"data": []})}, '/v1/embeddings: 200 {"data": []}'),
        ({COMPLETIONS: (401, {"error": "no key"})}, "set the tier's `key_file`"),
        ({COMPLETIONS: (200, b"[" * 100_000), CHAT: (200, b"\xff"), EMBEDDINGS: (200, b"{}")}, "/v1/embeddings: 200"),
    ],
)
async def test_unfit_engine_is_explained(
    serve: Serve, prober: HttpProber, replies: Mapping[str, Reply], text: str
) -> None:
    engine = await serve(replies)
    answer = await prober.work("m1", engine.base_url, "served", PATIENCE_SECONDS)
    assert (answer.answered, answer.is_host_up, answer.mismatch) == (False, True, "")
    assert text in answer.code
    assert len(answer.code) <= probe.CODE_LENGTH + 60


async def test_a_500_is_no_reason_to_ask_for_anything_else(serve: Serve, prober: HttpProber) -> None:
    engine = await serve({COMPLETIONS: (500, {}), EMBEDDINGS: (200, VECTOR)})
    assert not (await prober.work("m1", engine.base_url, "served", PATIENCE_SECONDS)).answered
    assert engine.requests == [COMPLETIONS]


async def test_an_engine_of_another_model_is_named(serve: Serve, prober: HttpProber) -> None:
    engine = await serve({MODELS: (200, {"data": [{"id": "llama"}]})})
    answer = await prober.work("m1", engine.base_url, "served", PATIENCE_SECONDS)
    assert answer.mismatch == "serves llama, not served: fix `served_as` or the engine's command"


async def test_our_key_goes_to_the_engine_and_is_in_no_reason(serve: Serve, prober: HttpProber) -> None:
    engine = await serve({COMPLETIONS: (401, {"error": "Incorrect API key provided: sk-engine"})})
    answer = await prober.work("locked", engine.base_url, "served", PATIENCE_SECONDS)
    await prober.reach("locked", engine.base_url, "served", PATIENCE_SECONDS)
    assert engine.keys == ["Bearer sk-engine"] * 2
    assert "Incorrect API key provided: [key]" in answer.code


@pytest.mark.parametrize(
    ("models", "length"),
    [
        ([{"id": "served", "max_model_len": 4096}], 4096),
        ([{"id": "other", "max_model_len": 1}, {"id": "served", "max_model_len": 8192}], 8192),
        ([{"id": "adapter", "max_model_len": 2048}], 2048),
        ([{"id": "other", "max_model_len": 1}, {"id": "another", "max_model_len": 2}], None),
        ([{"id": "served", "max_model_len": 0}], None),
        ([{"id": "served", "max_model_len": 2**40}], None),
        ([{"id": "served", "max_model_len": "4096"}], None),
        ([{"id": "served", "max_model_len": True}], None),
        ([7, None, {"id": 3}], None),
        ("none", None),
    ],
)
async def test_max_model_len_is_read_if_the_engine_reports_it(
    serve: Serve, prober: HttpProber, models: object, length: int | None
) -> None:
    engine = await serve({MODELS: (200, {"data": models})})
    answer = await prober.reach("m1", engine.base_url, "served", PATIENCE_SECONDS)
    assert (answer.answered, answer.max_model_len) == (True, length)


async def test_a_list_that_comes_in_pieces_is_read_whole(serve: Serve, prober: HttpProber) -> None:
    async def pieces(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for part in (b'{"data":[', b'{"id":"served",', b'"max_model_len":', b"77}]}"):
            await response.write(part)
            await asyncio.sleep(0)
        return response

    engine = await serve({MODELS: (200, pieces)})
    assert (await prober.reach("m1", engine.base_url, "served", PATIENCE_SECONDS)).max_model_len == 77


async def test_an_answer_without_end_is_cut_off(serve: Serve, prober: HttpProber) -> None:
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while sent < 64 * probe.MAX_BODY_BYTES:
                await response.write(b"x" * 65_536)
                sent += 65_536
        return response

    engine = await serve({COMPLETIONS: (200, endless), CHAT: (500, {})})
    answer = await prober.work("m1", engine.base_url, "served", PATIENCE_SECONDS)
    assert not answer.answered
    assert sent < 32 * probe.MAX_BODY_BYTES


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["data", "choices", "usage", "id", "total_tokens", "max_model_len"]), inner)
    ),
)


@settings(deadline=None)
@given(value=JSON)
def test_no_answer_of_an_engine_breaks_a_probe(value: Any) -> None:
    body = web.json_response(value).body
    assert isinstance(body, bytes)
    for result in ("choices", "data"):
        answer = probe._result(body, result)
        assert answer is None or 0 <= answer.tokens < probe.MAX_COUNT
    length = probe._length(probe._listed(body), "served")
    assert length is None or 0 < length < probe.MAX_COUNT


@pytest.mark.parametrize(
    ("reply", "running", "answered"),
    [
        ((200, b'vllm:num_requests_running{engine="0"} 2.0\nvllm:num_requests_waiting{engine="0"} 1.0\n'), 3, True),
        ((200, b"llamacpp:requests_processing 0\nllamacpp:requests_deferred 0\n"), 0, True),
        ((200, b"python_info 1.0\n"), None, True),
        ((200, b"vllm:num_requests_running NaN\n"), None, True),
        ((404, {}), None, True),
        ((503, {}), None, False),
    ],
)
async def test_running_requests_are_counted_from_the_engines_metrics(
    serve: Serve, prober: HttpProber, reply: Reply, running: int | None, answered: bool
) -> None:
    engine = await serve({"/metrics": reply})
    count = await prober.count_requests("m1", engine.base_url, PATIENCE_SECONDS)
    assert (count.running, count.answered) == (running, answered)
    assert bool(count.code) == (running is None)
