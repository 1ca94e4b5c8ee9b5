"""Keys outlive the bus: what the ledger's copy of them has comes back, and nothing revoked does."""

import asyncio
import shutil
from pathlib import Path

import openai
import pytest

from services.meter.adapters.key_store import SqlKeyStore
from shared.bus.jetstream import JetStreamBus
from shared.bus.topology import KEYS
from shared.key_records import SavedKey
from shared.messages.codec import decode, encode
from shared.messages.keys import KeyRecord, digest
from tests.integration.meter.test_ledger import ledger_on
from tests.integration.meter.test_process import read_text
from tests.integration.suite.conftest import Shell
from tests.kit.engine import Engine
from tests.kit.up import UpProcess, up
from tests.kit.waiting import PATIENCE_SECONDS, until

CONFIG = """
[gateway]
port = 0
[[tier]]
name = "always"
provider = "static"
[[machine]]
id = "always-1"
tier = "always"
endpoint = "{endpoint}"
[[model]]
name = "tiny"
lineup = ["always"]
"""


async def _stream(suite: UpProcess, key: str) -> list[str]:
    """The pieces of a streamed answer."""
    async with openai.AsyncOpenAI(base_url=suite.base_url, api_key=key, max_retries=0, timeout=PATIENCE_SECONDS) as sdk:
        chunks = await sdk.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "Hello"}], max_tokens=4, stream=True
        )
        return [choice.delta.content or "" async for chunk in chunks for choice in chunk.choices]


async def test_lost_bus_gets_its_keys_back_when_the_suite_starts(tmp_path: Path, engine: Engine) -> None:
    async with up(tmp_path, CONFIG.format(endpoint=engine.base_url)) as suite:
        kept, leaked = await suite.key(), await suite.json("keys", "create", "--name", "leaked")
        assert (await suite.command("keys", "revoke", leaked["id"])).status == 0
        metrics = suite.services["meter"]["metrics_url"] + "/metrics"
        await until(lambda: read_text(metrics), lambda text: "spot_meter_revocations 1.0" in text)
        assert await suite.stop() == 0
        await asyncio.to_thread(shutil.rmtree, tmp_path / "data" / "bus")
        await suite.start()
        assert await _stream(suite, kept) != []
        with pytest.raises(openai.AuthenticationError):
            await _stream(suite, leaked["key"])
        assert "keys on the bus: 2 came back, 0 ended again" in suite.errors
        listed = {row["name"]: row["state"] for row in (await suite.json("keys", "list"))["keys"]}
        assert listed == {"test": "usable", "leaked": "revoked"}
        assert kept not in suite.errors


async def test_setup_revokes_again_what_an_older_bus_shows_as_usable(
    shell: Shell, bus: JetStreamBus, database_url: str, tmp_path: Path
) -> None:
    config = tmp_path / "spotinference.toml"
    config.write_text(f'{config.read_text()}[database]\nurl = "{database_url}"\n')
    leaked, lost = (
        SavedKey(digest=digest(f"sk-{name}"), record=KeyRecord(id=name, name=name, created_at=1.0, revoked_at=at))
        for name, at in (("leaked", 5.0), ("lost", None))
    )
    async with ledger_on(database_url) as ledger:
        await SqlKeyStore(ledger._engine).merge([leaked, lost])
    await bus.put(KEYS, leaked.digest, encode(KeyRecord(id="leaked", name="leaked", created_at=1.0)))
    result = await shell("setup")
    assert (result.exit_code, "keys on the bus: 1 came back, 1 ended again" in result.output) == (0, True), (
        result.output
    )
    entries = await bus.entries(KEYS)
    assert {name: decode(entry.value, KeyRecord) for name, entry in entries.items()} == {
        leaked.digest: leaked.record,
        lost.digest: lost.record,
    }
    assert "keys on the bus: 0 came back, 0 ended again" in (await shell("setup")).output
