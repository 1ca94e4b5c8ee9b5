"""`spotinference plan` as from a shell: a trace without a suite, the ledger of a real meter, and what is refused."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from shared.bus import subjects, topology
from shared.bus.jetstream import JetStreamBus
from shared.config.load import DEFAULT_DATA_DIR
from shared.messages.codec import encode
from shared.messages.waker import TierMemory
from shared.runtime.suite_file import BUS_URL_VARIABLE
from spotinference.__main__ import main
from tests.integration.meter.test_process import MarkWatcher, meter_on
from tests.kit.usage import send
from tests.unit.meter.events import event

CONFIG = """
[[tier]]
name = "lab"
provider = "static"
price_per_hour = "3.60"
idle_timeout = "10m"
[[tier]]
name = "spare"
provider = "static"
[[machine]]
id = "lab-1"
tier = "lab"
endpoint = "http://127.0.0.1:1"
[[machine]]
id = "spare-1"
tier = "spare"
endpoint = "http://127.0.0.1:2"
[[model]]
name = "qwen"
lineup = ["lab", "spare"]
"""
TRACE = "time,model,tokens\n2026-11-23T10:00:00Z,qwen,500\n2026-11-24T10:00:00Z,qwen,500\n1795435200,zz,1\n"
DAY_S = 1_577_836_800.0
"""2020-01-01T00:00:00Z."""
Call = Callable[..., Result]


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """Runs `plan` in a folder with a configuration and a trace."""
    (tmp_path / "spotinference.toml").write_text(CONFIG)
    (tmp_path / "trace.csv").write_text(TRACE)

    def run(*words: str) -> Result:
        at = ("--config", str(tmp_path / "spotinference.toml"), "--data-dir", str(tmp_path / DEFAULT_DATA_DIR))
        return CliRunner().invoke(main, ["plan", *words, *at])

    return run


def matches(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    watcher = json.loads(result.stdout)
    assert isinstance(watcher, dict)
    return watcher


def policies(watcher: dict[str, Any]) -> dict[tuple[str, float | None], dict[str, Any]]:
    (tier,) = watcher["tiers"]
    return {(row["policy"], row["timeout_seconds"]): row for row in tier["policies"]}


def test_a_trace_is_replayed_where_no_suite_runs(call: Call, tmp_path: Path) -> None:
    trace = str(tmp_path / "trace.csv")
    watcher = matches(call("--json", "--trace", trace))
    assert (watcher["source"], watcher["unknown_models"]) == (trace, {"zz": 1})
    assert (watcher["from"], watcher["to"]) == ("2026-11-23T00:00:00.000Z", "2026-11-25T00:00:00.000Z")
    (tier,) = watcher["tiers"]
    assert (tier["tier"], tier["requests"], tier["tokens"]) == ("lab", 2, 1000)
    assert (tier["wake_seconds"], tier["wake_seconds_from"]) == (180.0, "assumed")
    # Twice 180 s of waking, 500 tokens at 50 a second, and 600 s; at a tenth of a cent each.
    fixed = policies(watcher)["fixed", 600.0]
    assert (fixed["configured"], fixed["cost"], fixed["wakes"], fixed["wait_p50"]) == (True, "1.5800", 2, 180.0)
    assert matches(call("--json", "--trace", trace)) == watcher


def test_options_set_days_speed_and_wake_time(call: Call, tmp_path: Path) -> None:
    trace = str(tmp_path / "trace.csv")
    words = ("--from", "2026-11-23", "--to", "2026-11-23", "--wake-seconds", "20", "--tokens-per-second", "5")
    watcher = matches(call("--json", "--trace", trace, *words))
    assert (watcher["from"], watcher["to"]) == ("2026-11-23T00:00:00.000Z", "2026-11-24T00:00:00.000Z")
    assert watcher["tiers"][0]["requests"] == 1
    assert watcher["tiers"][0]["wake_seconds_from"] == "given"
    assert policies(watcher)["fixed", 600.0]["cost"] == "0.7200"


def test_table_shows_what_was_assumed(call: Call, tmp_path: Path) -> None:
    watcher = call("--trace", str(tmp_path / "trace.csv")).stdout
    (line,) = (line for line in watcher.splitlines() if line.startswith("fixed 10 min *"))
    assert line.split()[4:] == ["1.58", "0.4", "2", "2", "180", "180", "180"]
    for word in ("always_on", "fixed 10 min *", "break_even", "histogram", "clairvoyant", "assumed", "'zz'"):
        assert word in watcher


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("--trace", "{trace}", "--tier", "moon"), 2, "the configured tiers are lab, spare"),
        (("--trace", "{trace}", "--from", "yesterday"), 2, "expected a day such as 2026-11-23"),
        (("--trace", "{trace}", "--from", "2026-11-24", "--to", "2026-11-23"), 2, "before --from"),
        (("--trace", "{trace}", "--wake-seconds", "-1"), 2, "wake-seconds"),
        (("--trace", "{trace}.missing"), 2, "does not exist"),
        (("--trace", "{trace}", "--to", "2020-01-01"), 1, "nothing to replay"),
        (("--trace", "{trace}", "--tier", "spare"), 1, "tier 'spare'"),
        (("--trace", "{config}"), 1, "line 1: column time"),
        ((), 1, "no bus"),
    ],
)
def test_invalid_plan_fails_with_its_message_and_status(
    call: Call, tmp_path: Path, words: tuple[str, ...], status: int, message: str
) -> None:
    places = {"trace": tmp_path / "trace.csv", "config": tmp_path / "spotinference.toml"}
    result = call(*(word.format(**places) for word in words))
    assert result.exit_code == status, result.output
    assert message in " ".join(result.stderr.split())
    assert not result.stdout


async def test_the_ledger_is_replayed_with_the_wakes_that_were_measured(
    call: Call, bus: JetStreamBus, nats_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BUS_URL_VARIABLE, nats_url)
    watcher = MarkWatcher()
    watch = await bus.watch(topology.METER, watcher.on_event)
    memory = TierMemory(tier="lab", wakes=(10.0, 30.0, 50.0))
    await bus.put(topology.WAKER, subjects.tier_memory_key("lab"), encode(memory))
    async with meter_on(tmp_path / "meter", nats_url, f"sqlite:///{tmp_path / 'l.sqlite'}"):
        result = await asyncio.to_thread(call, "--json")
        assert (result.exit_code, "no requests in the ledger" in result.stderr) == (1, True)
        uses = [
            event(source_seq=1, completed_at=DAY_S + 3640.0, duration=40.0, wake_wait=30.0),
            event(source_seq=2, completed_at=DAY_S + 7300.0, duration=100.0),
            event(source_seq=3, completed_at=DAY_S + 9000.0, model="org/b"),
        ]
        for use in uses:
            await send(bus, use)
        await watcher.reach("gw-1", 3)
        days = ("--from", "2020-01-01", "--to", "2020-01-01")
        replayed = matches(await asyncio.to_thread(call, "--json", *days))
    await watch.stop()
    assert (replayed["source"], replayed["unknown_models"]) == ("ledger", {"org/b": 1})
    assert (replayed["from"], replayed["to"]) == ("2020-01-01T00:00:00.000Z", "2020-01-02T00:00:00.000Z")
    (tier,) = replayed["tiers"]
    assert (tier["requests"], tier["tokens"], tier["wake_seconds"]) == (2, 34, 30.0)
    assert tier["wake_seconds_from"] == "measured"
    # They came at 3600 and 7200; each is woken for, served and idled after: 30 + 10 + 600 and 30 + 100 + 600 s.
    assert policies(replayed)["fixed", 600.0]["cost"] == "1.3700"
