"""`spotinference keys` on a real bus: what is asked for is on record, and stays there."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from shared.bus.jetstream import JetStreamBus
from shared.bus.topology import KEYS
from shared.messages.codec import decode
from shared.messages.keys import KeyRecord, digest
from shared.runtime.suite_file import BUS_URL_VARIABLE
from spotinference.keys.command import keys

CONFIG = """
[[tier]]
name = "lab"
provider = "static"
[[machine]]
id = "lab-1"
tier = "lab"
endpoint = "http://127.0.0.1:1"
[[model]]
name = "a"
lineup = ["lab"]
[[model]]
name = "org/b"
lineup = ["lab"]
"""
LIMITS = ("requests_per_minute", "tokens_per_minute", "concurrency", "monthly_tokens")
ALL = ("--rpm", "60", "--tpm", "100000", "--concurrency", "4", "--monthly-tokens", "5000000000")
Call = Callable[..., Any]


@pytest.fixture
def call(bus: JetStreamBus, nats_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Runs a command as from a shell; it has an event loop of its own."""
    config = tmp_path / "spotinference.toml"
    config.write_text(CONFIG)
    monkeypatch.setenv(BUS_URL_VARIABLE, nats_url)

    async def run(*words: str) -> Result:
        options = ("--config", str(config), "--data-dir", str(tmp_path))
        return await asyncio.to_thread(CliRunner().invoke, keys, [*words, *options])

    return run


async def done(call: Call, *words: str) -> str:
    result: Result = await call(*words)
    assert result.exit_code == 0, result.output
    return result.output


async def on_record(bus: JetStreamBus, secret: str) -> KeyRecord:
    entry = await bus.get(KEYS, digest(secret))
    assert entry is not None
    return decode(entry.value, KeyRecord)


async def test_key_has_the_limits_of_its_options(bus: JetStreamBus, call: Call) -> None:
    words = ("--name", "ci", *ALL, "--models", "a, org/b", "--expires", "2027-01-31", "--json")
    made = json.loads(await done(call, "create", *words))
    record = await on_record(bus, made["key"])
    assert (record.id, record.name, record.models) == (made["id"], "ci", ("a", "org/b"))
    assert record.expires_at == datetime(2027, 1, 31, tzinfo=UTC).timestamp()
    assert [getattr(record, limit) for limit in LIMITS] == [60, 100_000, 4, 5_000_000_000]
    assert record.is_limited


async def test_a_key_without_limits_is_unlimited(bus: JetStreamBus, call: Call) -> None:
    made = json.loads(await done(call, "create", "--name", "me", "--json"))
    record = await on_record(bus, made["key"])
    assert [getattr(record, limit) for limit in LIMITS] == [None] * 4
    assert not record.is_limited


@pytest.mark.parametrize("number", range(4))
def test_one_limit_makes_a_key_limited(number: int) -> None:
    record = KeyRecord(id="k", name="k", created_at=0.0, **{LIMITS[number]: 1})  # type: ignore[arg-type]  # a limit
    assert record.is_limited


@pytest.mark.parametrize("option", ALL[::2])
@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many", ""])
async def test_a_limit_that_is_no_positive_whole_number_is_refused_by_name(
    bus: JetStreamBus, call: Call, option: str, value: str
) -> None:
    result: Result = await call("create", "--name", "me", option, value)
    assert result.exit_code == 2
    assert f"Invalid value for '{option}'" in result.output
    assert await bus.entries(KEYS) == {}


async def test_the_list_shows_limits_and_no_secret(call: Call) -> None:
    secrets = [
        json.loads(await done(call, "create", "--name", name, *options, "--json"))["key"]
        for name, options in (("ci", ALL), ("me", ()), ("one", ("--concurrency", "1")))
    ]
    listed = await done(call, "list", "--json")
    rows = json.loads(listed)["keys"]
    assert [[row[limit] for limit in LIMITS] for row in rows] == [
        [60, 100_000, 4, 5_000_000_000],
        [None] * 4,
        [None, None, 1, None],
    ]
    assert [(row["name"], row["state"], row["models"]) for row in rows] == [
        (name, "usable", None) for name in ("ci", "me", "one")
    ]
    table = " ".join((await done(call, "list")).replace("│", " ").split())
    assert "100000" in table
    assert "none" in table
    assert not any(secret in listed + table for secret in secrets)


async def test_a_revoked_key_keeps_all_else(bus: JetStreamBus, call: Call) -> None:
    words = ("--name", "ci", *ALL, "--models", "a", "--expires", "2027-01-31T12:00:00Z", "--json")
    made = json.loads(await done(call, "create", *words))
    before = await on_record(bus, made["key"])
    await done(call, "revoke", made["id"])
    after = await on_record(bus, made["key"])
    assert after.revoked_at is not None
    unchanged = set(KeyRecord.__struct_fields__) - {"revoked_at"}
    assert {f: getattr(after, f) for f in unchanged} == {f: getattr(before, f) for f in unchanged}
    await done(call, "revoke", made["id"])
    assert await on_record(bus, made["key"]) == after, "when it was first revoked"
    (row,) = json.loads(await done(call, "list", "--json"))["keys"]
    assert (row["state"], row["monthly_tokens"]) == ("revoked", 5_000_000_000)


async def test_what_is_not_there_is_refused_by_name(call: Call) -> None:
    for words, named in ((("revoke", "k_9"), "k_9"), (("create", "--name", "me", "--models", "a,c"), "'c'")):
        result: Result = await call(*words)
        assert (result.exit_code, named in result.output) == (1, True)


async def test_rolled_key_is_listed_once_with_the_end_of_its_earlier_secret(bus: JetStreamBus, call: Call) -> None:
    made = json.loads(await done(call, "create", "--name", "ci", "--rpm", "60", "--json"))
    rolled = json.loads(await done(call, "roll", made["id"], "--overlap", "2h", "--json"))
    assert (rolled["id"], rolled["key"] != made["key"]) == (made["id"], True)
    earlier, current = await on_record(bus, made["key"]), await on_record(bus, rolled["key"])
    assert (earlier.requests_per_minute, current.requests_per_minute) == (60, 60)
    (row,) = json.loads(await done(call, "list", "--json"))["keys"]
    assert (row["id"], row["state"], row["expires_at"]) == (made["id"], "usable", None)
    assert row["previous_until"] == rolled["previous_until"]
    assert datetime.fromisoformat(row["previous_until"]).timestamp() == pytest.approx(earlier.expires_at, abs=1.0)
    words = await done(call, "roll", made["id"])
    assert "earlier secret is valid until" in words
    await done(call, "revoke", made["id"])
    (row,) = json.loads(await done(call, "list", "--json"))["keys"]
    assert (row["state"], row["previous_until"]) == ("revoked", None)
    for words_of, status, named in (
        (("roll", made["id"]), 1, "is revoked"),
        (("roll", "k_9"), 1, "k_9"),
        (("roll", made["id"], "--overlap", "soon"), 2, "must be a duration"),
        (("roll", made["id"], "--overlap", "91d"), 1, "90 days"),
    ):
        result: Result = await call(*words_of)
        assert (result.exit_code, named in result.output) == (status, True), result.output
