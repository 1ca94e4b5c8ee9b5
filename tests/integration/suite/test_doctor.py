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


async def run_doctor(suite: UpProcess) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    output = await suite.command("doctor", "--json")
    assert output.out, output.err
    reply = json.loads(output.out)
    assert reply["ok"] == (output.status == 0)
    links: dict[str, list[dict[str, Any]]] = {}
    for link in reply["links"]:
        links.setdefault(link["link"], []).append(link)
    return output.status, links


def wrongs(links: dict[str, list[dict[str, Any]]]) -> list[str]:
    return [f"{name}: {k['text']}" for name, group in links.items() for k in group if k["level"] == "wrong"]


async def test_doctor_passes_on_a_healthy_suite_and_names_each_broken_link(tmp_path: Path, tiny_model: Path) -> None:
    async with up(tmp_path, config(engine_command(tiny_model), tier=SLEEPY, waker=SOON)) as suite:
        key = await suite.key()
        for _ in range(3):
            await chat(suite, key)
        await chat(suite, key, stream=True)

        await until(suite.states, lambda seen: seen == {"local-1": "asleep"})
        await chat(suite, key)  # a second generation
        await until(suite.states, lambda seen: seen == {"local-1": "asleep"})

        async def read() -> tuple[int, dict[str, list[dict[str, Any]]]]:
            return await run_doctor(suite)

        status, links = await until(read, lambda result: result[1]["engine"][0]["figures"].get("state") == "equal")
        assert (status, wrongs(links)) == (0, [])
        engine = links["engine"][0]["figures"]
        assert (engine["difference"], engine["generations"], engine["requests"]) == (0, 2, 5)
        assert engine["engine"] - engine["probes"] == engine["ledger"] > 0
        assert engine["probes"] > 0
        assert [(s["figures"]["kept"], s["figures"]["missing"]) for s in links["gateway"]] == [(5, 0)]
        assert links["sums"][0]["figures"] == {"state": "equal"}
        assert {
            k["level"] for name in ("stream", "keys", "gaps", "marks", "conflicts", "quarantine") for k in links[name]
        } == {"ok"}
        clocks = {c["figures"]["service"].split()[0].rstrip(",") for c in links["clock"]}
        assert clocks == {"billing", "gateway", "meter", "site", "waker", "the"}
        assert links["outbox"][0]["figures"]["pending"] == 0

        output = await suite.command("doctor")
        assert output.status == 0
        assert "engine and ledger agree" in output.out

        with sqlite3.connect(tmp_path / "data" / "ledger.sqlite", timeout=20) as database:
            database.execute("UPDATE rollups SET completion_tokens = completion_tokens + 1")
        database.close()
        status, links = await run_doctor(suite)
        assert status == 1
        assert ["sums: the sums do not match the events" in w for w in wrongs(links)].count(True) == 1


@pytest.mark.long
async def test_doctor_checks_the_rest_when_the_meter_does_not_answer(tmp_path: Path, tiny_model: Path) -> None:
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
        assert wrong_day.status == 2
        assert "expected a day such as" in wrong_day.err
