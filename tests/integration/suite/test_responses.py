"""The operator reads how requests were answered, from gateway to ledger."""

from pathlib import Path
from typing import Any

import aiohttp

from tests.integration.suite.config import config
from tests.kit.up import up
from tests.kit.waiting import until

NO_ENGINE = ["python", "-c", "import time; time.sleep(999)", "{port}"]
ASK = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


async def test_shares_of_503_and_504_are_published_and_strangers_change_none(tmp_path: Path) -> None:
    async with up(tmp_path, config(NO_ENGINE)) as suite:
        assert (await suite.json("responses"))["totals"]["unavailable_share"] is None
        key = (await suite.json("keys", "create", "--name", "a"))["key"]
        async with aiohttp.ClientSession() as session:

            async def ask(key: str, **more: Any) -> int:
                headers = {"Authorization": f"Bearer {key}", "X-Wake-Timeout": "0"}
                url = f"{suite.base_url}/chat/completions"
                async with session.post(url, json=ASK | more, headers=headers) as answer:
                    await answer.read()
                    return answer.status

            await until(lambda: ask(key), lambda status: status == 503)
            assert [await ask("sk-guess"), await ask(key, model="x"), await ask(key)] == [401, 404, 503]

        async def totals() -> dict[str, Any]:
            result: dict[str, Any] = (await suite.json("responses"))["totals"]
            return result

        assert await until(totals, lambda sums: sums["responses"] >= 3) == {
            "responses": 3,
            "succeeded": 0,
            "unavailable": 2,
            "timed_out": 0,
            "failed": 0,
            "succeeded_share": "0.000000",
            "unavailable_share": "0.666667",
            "timed_out_share": "0.000000",
            "success_share": None,
        }
        shown = await suite.command("responses", "--by", "code,model")
        assert "waking" in shown.out
        assert "100.00%" in shown.out
        assert (await suite.command("responses", "--by", "key")).status == 2
