"""The suite measured as an operator does it: a real engine, woken by it; then what the ledger says of that."""

from pathlib import Path
from typing import Any

import pytest

from tests.integration.suite.config import config
from tests.kit.engine import engine_command
from tests.kit.up import UpProcess, up
from tests.kit.waiting import until


async def figures(suite: UpProcess) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (await suite.json("figures"))["rows"]
    return rows


@pytest.mark.long
async def test_bench_wakes_the_engine_and_figures_cover_the_gateway_s_half(slow_model: Path, tmp_path: Path) -> None:
    async with up(tmp_path, config(engine_command(slow_model))) as suite:
        key = await suite.key()
        load = ("--requests", "6", "--concurrency", "2", "--prompt-tokens", "20", "--tokens", "40", "--key", key)
        run = await suite.json("bench", *load)
        assert (run["machine"], run["engine"], run["load"]["ignore_eos"]) == ("local-1", "llamacpp", True)
        assert run["engine_version"]
        for side in (run["gateway"], run["direct"]):
            assert (side["requests"], side["failed"], side["completion_tokens"]) == (6, 0, 240)
        served = 3 + 6 + 20
        rows = await until(lambda: figures(suite), lambda rows: bool(rows) and rows[0]["overhead"]["count"] >= served)
        (row,) = rows
        assert (row["tier"], row["model"], row["ttft"]["count"]) == ("local", "tiny", served)
        assert row["wake_wait"]["count"] == 1
        assert row["output_rate"]["tokens"] == (3 + 6) * 40 + 20
        # The gateway's clock and the client's: both saw the same streams, each as far as it was let run.
        assert 0.05 < row["stream_rate"]["p50"] / run["gateway"]["stream_rate"]["p50"] < 20
        shown = await suite.command("figures", "--by", "tier")
        assert (shown.status, "first token, ms" in shown.out, "peak" in shown.out) == (0, True, True)
