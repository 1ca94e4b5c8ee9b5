"""`outbox send`: a gateway's volume without a gateway gives its usage to the ledger, once."""

import json
from pathlib import Path

import pytest

from services.gateway.adapters.outbox import Outbox
from services.gateway.adapters.response_reporter import SUFFIX
from shared.bus.jetstream import JetStreamBus
from shared.key_store import create_key
from shared.messages.codec import encode
from shared.messages.responses import HourResponses, ResponseCount
from spotinference.outbox import command
from tests.integration.suite.conftest import Shell
from tests.kit.service import running
from tests.unit.meter.events import event

DAY = "2026-11-23"
COUNTS = tuple(
    ResponseCount(model="org/a", status=status, code="", responses=number) for status, number in ((200, 4), (503, 3))
)


def leave_behind(volume: Path, worker: str, source: str, events: int, key_id: str = "k1") -> Outbox:
    """A gateway's outbox, still locked."""
    box = Outbox(volume / "gateway" / worker, source, max_bytes=2**30)
    for number in range(events):
        box.append(event(source, number + 1, key_id=key_id, model="org/a", tier="lab", machine="m1"))
    box.write_pending()
    return box


async def test_events_left_behind_reach_the_ledger_once(shell: Shell, bus: JetStreamBus, tmp_path: Path) -> None:
    key_id, _ = await create_key(bus, name="left behind")
    volume = tmp_path / "volume"
    used = leave_behind(volume, "outbox", "gw-1", 3, key_id)
    leave_behind(volume, "outbox-1", "gw-2", 2, key_id).close()
    async with running("meter", tmp_path / "spotinference.toml", tmp_path):
        rejected = await shell("outbox", "send", str(volume))
        assert (rejected.exit_code, "another gateway uses this outbox" in rejected.output) == (1, True)
        used.close()
        events, counts = f"the ledger has 5 events from {volume}", f"sent the counts of 7 responses from {volume}"
        for are_counted, lines in (
            (True, [events, counts]),
            (True, [counts]),
            (False, [f"{volume} has no usage left to send"]),
        ):
            if are_counted:
                left = HourResponses(source="gw-2", hour=497_000, counts=COUNTS)
                (volume / "gateway" / "outbox-1" / f"x{SUFFIX}").write_bytes(encode(left))
            sent = await shell("outbox", "send", str(volume))
            assert (sent.exit_code, sent.output.splitlines()) == (0, lines)
        usage = await shell("usage", "--day", DAY, "--json")
    assert json.loads(usage.output)["totals"]["requests"] == 5
    assert not list(volume.rglob("*.log"))


async def test_events_stay_when_no_meter_confirms_them(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "PATIENCE_SECONDS", 0.5)
    volume = tmp_path / "volume"
    leave_behind(volume, "outbox", "gw-1", 3).close()
    sent = await shell("outbox", "send", str(volume))
    assert (sent.exit_code, "has not confirmed 3 events" in sent.output) == (1, True), sent.output
    assert list(volume.rglob("*.log"))


async def test_folder_without_usage_is_rejected(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    sent = await shell("outbox", "send", str(tmp_path / "empty"))
    assert (sent.exit_code, "no data directory of a gateway" in sent.output) == (1, True)
