"""Every input of every service gets what no version of ours would send; all of them go on serving and counting."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shared.bus import subjects
from shared.bus.jetstream import JetStreamBus, connect
from tests.integration.suite.test_poison import CONFIG, Pages
from tests.kit.up import UpProcess, up
from tests.kit.waiting import PATIENCE_SECONDS, until

EXAMPLES = sorted((Path(__file__).parents[2] / "contract" / "messages").glob("*.json"))
WRONG: tuple[Any, ...] = (None, True, -1, 2**70, 1e300, "", "x", "a\0b", [], [[]], {}, {"": None})
RAW = (b"", b"\xff", b"null", b"[]", b"{}", b'"x"', b"[" * 6000, b'{"type":' * 6000, b'{"type": "none.v1"}')
PUBLISHED = {
    "activity": "activity.garbage",
    "limits": "limits.garbage",
    "wake_request": "wake.request.tiny",
    "usage": "usage.0",
    "transition": "fleet.journal.lab-1",
    "provider_call": "fleet.journal.lab-1",
    "phase": "fleet.journal.lab-1",
    "ordered": "fleet.journal.lab-1",
    "gate_turned": "fleet.journal.budget.fleet",
    "published": "billing.published",
    "machine": "$KV.fleet.garbage-{n}",
    "key": "$KV.keys.{n}",
    "key_month": "$KV.months.garbage-{n}",
    "key_wakes": "$KV.months.garbage-{n}",
    "budget": "$KV.budget.tier.garbage-{n}",
    "confirmed": "$KV.meter.confirmed.garbage-{n}",
    "bench_run": "$KV.reports.bench.garbage-{n}",
}
"""Where a message of each type goes, by the name in its tag."""
ASKED = {
    "tokens_query": subjects.METER_TOKENS,
    "history_query": subjects.METER_HISTORY,
    "gaps_query": subjects.METER_GAPS,
    "declare_lost": subjects.METER_LOST,
    "figures_query": subjects.METER_FIGURES,
    "audit_query": subjects.METER_AUDIT,
    "import_request": subjects.BILLING_IMPORT,
    "invoices_query": subjects.BILLING_INVOICES,
    "payable_note": subjects.BILLING_PAYABLE,
    "report_query": subjects.BILLING_REPORT,
    "reports_query": subjects.BILLING_REPORTS,
    "bands_query": subjects.BILLING_BANDS,
    "statement_query": subjects.BILLING_STATEMENT,
    "gates_query": subjects.BILLING_GATE,
    "waker_command": subjects.WAKER_COMMAND,
}
AT_ONCE = 16


def forms(example: Path) -> Iterator[bytes]:
    """An example truncated, and with each of its fields of each wrong type."""
    whole = example.read_bytes()
    yield from (whole[: len(whole) // 2], whole[:-2], whole.replace(b'"', b"\xff", 1))
    recorded = json.loads(whole)
    for field in recorded:
        for wrong in WRONG:
            yield json.dumps({**recorded, field: wrong}).encode()
        yield json.dumps({name: value for name, value in recorded.items() if name != field}).encode()


@pytest.mark.long
async def test_every_service_goes_on_whatever_it_is_told(tmp_path: Path) -> None:
    deliveries = tmp_path / "deliveries"
    config = CONFIG.format(folder=deliveries).replace('[[billing.source]]\nname = "broken"\n', "")
    config = config.replace(f'url = "{deliveries}"\n', "")
    async with (
        up(tmp_path, config) as suite,
        connect(suite.bus_url, name="test", wait=PATIENCE_SECONDS) as bus,
        aiohttp.ClientSession() as session,
    ):
        pages = Pages(suite, session)
        pids = {name: told["pid"] for name, told in suite.services.items()}
        key = await suite.json("keys", "create", "--name", "test")
        await _publish_all(bus)
        assert await _ask_all(bus) > 500
        await until(lambda: pages.metric("meter", "spot_meter_backlog"), lambda seen: seen == 0)
        await _still_works(suite, pages, key)
        assert {name: told["pid"] for name, told in suite.services.items()} == pids
        for service in ("gateway", "waker", "meter", "billing"):
            assert await until(lambda service=service: pages.faults(service), lambda seen: seen == {}) == {}  # type: ignore[misc]  # bound per round


async def _publish_all(bus: JetStreamBus) -> None:
    number = 0
    for example in EXAMPLES:
        subject = PUBLISHED.get(example.name.partition(".")[0])
        for data in (*forms(example), *RAW) if subject else ():
            number += 1
            await bus.publish_volatile(str(subject).format(n=number), data)
        await bus.client.flush(int(PATIENCE_SECONDS))
    assert number > 2000


async def _ask_all(bus: JetStreamBus) -> int:
    """Every request is answered, with a refusal mostly."""
    questions = [
        (subject, data)
        for example in EXAMPLES
        if (subject := ASKED.get(example.name.partition(".")[0]))
        for data in (*forms(example), *RAW)
    ]
    for start in range(0, len(questions), AT_ONCE):
        answers = (
            bus.request(subject, data, timeout=PATIENCE_SECONDS) for subject, data in questions[start : start + AT_ONCE]
        )
        for answer in await asyncio.gather(*answers):
            assert json.loads(answer)["type"]
    return len(questions)


async def _still_works(suite: UpProcess, pages: Pages, key: dict[str, str]) -> None:
    assert await pages.status(key["key"]) == 200
    for words in (("keys", "list"), ("keys", "revoke", key["id"]), ("fleet",), ("journal",), ("usage",), ("report",)):
        output = await suite.command(*words)
        assert (output.status, "Traceback" in output.err) == (0, False), (words, output)
    await until(lambda: pages.status(key["key"]), lambda status: status == 401)
    assert "Traceback" not in (await suite.command("doctor")).err
