"""`spotinference doctor` on a whole suite: all agrees, then each link is broken in turn and named."""

import json
import os
import signal
import sqlite3
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.integration.suite.config import SOON, config
from tests.kit.engine import engine_command
from tests.kit.up import UpProcess, up
from tests.kit.waiting import until

SLEEPY = 'idle_timeout = "2s"'


async def chat(suite: UpProcess, key: str, tokens: int = 20, **body: Any) -> None:
    request = {"model": "tiny", "messages": [{"role": "user", "content": "look at the water"}], "max_tokens": tokens}
    headers = {"authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession(headers=headers, raise_for_status=True) as session,
        session.post(f"{suite.base_url}/chat/completions", json={**request, **body}) as answer,
    ):
        await answer.read()


async def examined(suite: UpProcess) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    output = await suite.command("doctor", "--json")
    assert output.out, output.err
    told = json.loads(output.out)
    assert told["ok"] == (output.status == 0)
    links: dict[str, list[dict[str, Any]]] = {}
    for link in told["links"]:
        links.setdefault(link["link"], []).append(link)
    return output.status, links


def wrongs(links: dict[str, list[dict[str, Any]]]) -> list[str]:
    return [f"{name}: {k['text']}" for name, found in links.items() for k in found if k["level"] == "wrong"]


async def test_the_whole_chain_agrees_and_each_broken_link_is_named(tmp_path: Path, tiny_model: Path) -> None:
    async with up(tmp_path, config(engine_command(tiny_model), tier=SLEEPY, waker=SOON)) as suite:
        key = await suite.key()
        for _ in range(3):
            await chat(suite, key)
        await chat(suite, key, stream=True)

        await until(suite.states, lambda seen: seen == {"local-1": "asleep"})
        await chat(suite, key)  # a second generation
        await until(suite.states, lambda seen: seen == {"local-1": "asleep"})

        async def look() -> tuple[int, dict[str, list[dict[str, Any]]]]:
            return await examined(suite)

        status, links = await until(look, lambda seen: seen[1]["engine"][0]["figures"].get("state") == "equal")
        assert (status, wrongs(links)) == (0, [])
        engine = links["engine"][0]["figures"]
        assert (engine["difference"], engine["generations"], engine["requests"]) == (0, 2, 5)
        assert engine["engine"] - engine["probes"] == engine["ledger"] > 0
        assert engine["probes"] > 0
        assert [(s["figures"]["kept"], s["figures"]["missing"]) for s in links["gateway"]] == [(5, 0)]
        assert links["sums"][0]["figures"] == {"state": "equal"}
        assert {k["level"] for name in ("stream", "gaps", "marks", "conflicts", "quarantine") for k in links[name]} == {
            "ok"
        }
        clocks = {c["figures"]["service"].split()[0].rstrip(",") for c in links["clock"]}
        assert clocks == {"billing", "gateway", "meter", "waker", "the"}
        assert links["outbox"][0]["figures"]["pending"] == 0

        told = await suite.command("doctor")
        assert told.status == 0
        assert "engine and ledger agree" in told.out

        with sqlite3.connect(tmp_path / "data" / "ledger.sqlite", timeout=20) as database:
            database.execute("UPDATE rollups SET completion_tokens = completion_tokens + 1")
        database.close()
        status, links = await examined(suite)
        assert status == 1
        assert ["sums: the sums are not those of the events" in w for w in wrongs(links)].count(True) == 1


@pytest.mark.long
async def test_without_a_meter_it_says_so_and_looks_at_the_rest(tmp_path: Path, tiny_model: Path) -> None:
    async with up(tmp_path, config(engine_command(tiny_model))) as suite:
        pids = [suite.services["meter"]["pid"]]
        os.kill(pids[0], signal.SIGSTOP)
        try:
            output = await suite.command("doctor")
        finally:
            os.kill(pids[0], signal.SIGCONT)
        assert output.status == 1
        assert "meter" in output.err + output.out
        wrong_day = await suite.command("doctor", "--day", "yesterday")
        assert wrong_day.status == 1
        assert "day: expected YYYY-MM-DD" in wrong_day.out
