"""kill -9 of each process in turn while requests run: the ledger ends up with the engine's own count."""

import json
import os
import signal
from pathlib import Path

from tests.integration.suite.config import config
from tests.integration.suite.traffic import CLIENTS, MAX_TOKENS, Traffic, engine_count, ledger_tokens, probe_tokens
from tests.kit.engine import engine_command
from tests.kit.up import up
from tests.kit.waiting import until


async def test_the_ledger_equals_the_engine_after_every_service_was_killed(tmp_path: Path, slow_model: Path) -> None:
    async with up(tmp_path, config(engine_command(slow_model), tier='idle_timeout = "10m"')) as suite:
        key = await suite.key()
        traffic = Traffic(suite, key)
        traffic.start()
        await traffic.more(5)
        for service in ("meter", "waker", "billing", "bus"):
            await suite.kill9(service)
            await traffic.more(10)
        assert traffic.cut == 0, "none of these is on a request's way"
        await traffic.pause()
        await suite.kill9("gateway")
        traffic.resume()
        await traffic.more(10)
        await traffic.stop()
        assert traffic.answered >= 55

        engine = await engine_count(suite)
        assert engine.rounding == 0
        expected = engine.prompt_tokens + engine.completion_tokens - await probe_tokens(suite)
        await until(lambda: ledger_tokens(suite), lambda seen: seen == (traffic.answered, expected))


async def test_a_gateway_killed_in_flight_loses_at_most_what_was_in_flight(tmp_path: Path, slow_model: Path) -> None:
    async with up(tmp_path, config(engine_command(slow_model), tier='idle_timeout = "10m"')) as suite:
        key = await suite.key()
        traffic = Traffic(suite, key)
        traffic.start()
        await traffic.more(5)
        await suite.kill9("gateway")
        await traffic.more(5)
        await traffic.stop()
        engine = await engine_count(suite)
        expected = engine.prompt_tokens + engine.completion_tokens - await probe_tokens(suite)
        requests, tokens = await until(lambda: ledger_tokens(suite), lambda seen: seen[0] >= traffic.answered)
        # What was in flight at the kill was worked for and is not counted, or was counted and not answered.
        assert traffic.answered <= requests <= traffic.answered + CLIENTS
        prompt = engine.prompt_tokens // max(1, requests) + 1
        assert 0 <= expected - tokens <= CLIENTS * (prompt + MAX_TOKENS)


async def test_an_engine_killed_in_flight_is_replaced_by_the_next_request(tmp_path: Path, slow_model: Path) -> None:
    async with up(tmp_path, config(engine_command(slow_model), tier='idle_timeout = "10m"')) as suite:
        key = await suite.key()
        traffic = Traffic(suite, key)
        traffic.start()
        await traffic.more(3)
        os.kill(engine_pid(tmp_path), signal.SIGKILL)
        await traffic.more(5)
        await traffic.stop()
        moves = [(e["from"], e["to"]) for e in await suite.journal() if e["kind"] == "transition"]
        assert moves.count(("asleep", "waking")) == 2
        assert ("ready", "asleep") in moves


def engine_pid(folder: Path) -> int:
    """As its keeper wrote it down."""
    return int(json.loads((folder / "data/machines/local-1/state.json").read_text("utf-8"))["engine"])
