"""A model that makes no text: ready by one embedding, served, and counted; `fleet` says why it is not yet."""

from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest
from aiohttp import web

from tests.kit.up import up
from tests.kit.waiting import PATIENCE_SECONDS, until

KEY = "sk-engine-of-ours"
CONFIG = """
[gateway]
port = 0
[[tier]]
name = "v"
provider = "static"
price_per_hour = "1.00"
key_file = "{key_file}"
[[machine]]
id = "v-1"
tier = "v"
endpoint = "{endpoint}"
[[model]]
name = "vectors"
lineup = ["v"]
"""


class VectorEngine:
    """Answers for embeddings alone, any other path with 404; until it is `loaded`, no embedding either."""

    def __init__(self) -> None:
        self.loaded = False
        self.keys: set[str | None] = set()
        self.probes = 0

    async def embed(self, request: web.Request) -> web.Response:
        self.keys.add(request.headers.get("authorization"))
        body = await request.json()
        if not self.loaded:
            self.probes += 1
            return web.json_response({"error": f"not yet, attempt {self.probes}"}, status=500)
        vector = {"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}
        usage = {"prompt_tokens": 5, "total_tokens": 5}
        return web.json_response({"object": "list", "model": body["model"], "data": [vector], "usage": usage})


@pytest.fixture
async def engine() -> AsyncIterator[tuple[VectorEngine, str]]:
    made, app = VectorEngine(), web.Application()
    app.router.add_post("/v1/embeddings", made.embed)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield made, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_a_model_of_embeddings_is_probed_served_and_counted(
    tmp_path: Path, engine: tuple[VectorEngine, str]
) -> None:
    made, endpoint = engine
    (tmp_path / "engine.key").write_text(KEY + "\n")
    async with up(tmp_path, CONFIG.format(key_file=tmp_path / "engine.key", endpoint=endpoint)) as suite:

        async def machine() -> tuple[str, str]:
            return next(((record.state, record.alarm) for record in (await suite.machines()).values()), ("", ""))

        _, alarm = await until(machine, lambda seen: seen[0] == "broken")
        assert "is up, but does not do what its model is for" in alarm
        assert "not yet, attempt" in alarm
        made.loaded = True
        _, alarm = await until(machine, lambda seen: seen[0] == "ready")
        assert alarm == ""
        key = await suite.key()
        patience = openai.Timeout(PATIENCE_SECONDS)
        async with openai.AsyncOpenAI(base_url=suite.base_url, api_key=key, max_retries=0, timeout=patience) as sdk:
            answer = await sdk.embeddings.create(model="vectors", input="hello", encoding_format="float")
        assert answer.data[0].embedding == [0.1, 0.2]

        async def totals() -> dict[str, int]:
            counted: dict[str, int] = (await suite.json("usage"))["totals"]
            return counted

        counted = await until(totals, lambda sums: sums["requests"] > 0)
        assert (counted["requests"], counted["prompt_tokens"], counted["completion_tokens"]) == (1, 5, 0)
        assert made.keys == {f"Bearer {KEY}"}, "the waker's and the gateway's; no client's key reaches an engine"
        checked = await suite.command("check")
        assert "an engine answers for vectors; the waker considers it ready" in checked.out
        logs = "".join(file.read_text() for file in (tmp_path / "data" / "logs").iterdir())
        assert KEY not in logs
        assert await suite.stop() == 0
