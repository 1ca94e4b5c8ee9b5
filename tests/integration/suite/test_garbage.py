"""Garbage on every input of the bus while clients are served: nothing stops, nothing is lost, all is refused."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shared.bus.jetstream import JetStreamBus, connect
from shared.bus.subjects import PARTITIONS
from shared.bus.topology import BUCKETS
from tests.integration.suite.config import config
from tests.integration.suite.traffic import Traffic, engine_count, ledger_tokens, probe_tokens
from tests.kit import garbage
from tests.kit.engine import engine_command
from tests.kit.up import UpProcess, up
from tests.kit.waiting import PATIENCE_SECONDS, until

EXAMPLES = sorted((Path(__file__).parents[2] / "contract" / "messages").glob("*.json"))
BUDGET = '[billing]\ndaily_budget = "1000.00"\n'
PRICED = 'idle_timeout = "10m"\nprice_per_hour = "1.00"'
FOREIGN = {"gw-0-1f2e3d4c": "forged", "h100x2-1": "local-1", "h100x2": "local", "org/qwen2.5-7b": "tiny", "k_1": "k_2"}
"""Names in the examples, and what stands there in this suite: so that more than a name's lookup is tried."""

PUBLISHED = {
    "activity.forged": ("activity.v1",),
    "limits.forged": ("limits.v1",),
    "wake.request.tiny": ("wake_request.v1",),
    "machine.notice.local-1": ("machine_notice.v1",),
    "fleet.journal.local-1": ("transition.v1", "provider_call.v1", "phase.v1", "ordered.v1"),
    "fleet.journal.budget.fleet": ("gate_turned.v1",),
    "billing.published": ("published.v1",),
    **{f"usage.{partition}": ("usage.v1",) for partition in range(PARTITIONS)},
    "$KV.fleet.forged-1": ("machine.v1",),
    f"$KV.keys.{'a' * 64}": ("key.v1",),
    "$KV.meter.confirmed.forged": ("confirmed.v1",),
    "$KV.sources.elsewhere": ("usage_source.v1",),  # forged usage comes from no source that announced itself
    "$KV.responses.forged.forged.499000": ("hour_responses.v1",),
    "$KV.months.k_2": ("key_month.v1",),
    "$KV.wakes.k_2": ("key_wakes.v1",),
    "$KV.budget.tier.forged": ("budget.v1",),
    "$KV.waker.machine.forged": ("machine_memory.v1",),
    "$KV.waker.tier.local": ("tier_memory.v1",),
    "$KV.waker.orders": ("orders_memory.v1",),
    "$KV.waker.wakes": ("wakes_memory.v1",),
    "$KV.reports.audit.2026-11-01": ("audit.v1",),
    "$KV.reports.published.2026-11-01": ("published.v1",),
    "$KV.reports.day.2026-11-01": ("public_day.v1",),
    "$KV.reports.headline": ("headline.v1",),
    "$KV.reports.bench.forged": ("bench_run.v1",),
    "$KV.leases.forged": (),
}
REQUESTS = {
    "meter.tokens": ("tokens_query.v1",),
    "meter.history": ("history_query.v1",),
    "meter.gaps": ("gaps_query.v1",),
    "meter.lost": ("declare_lost.v1",),
    "meter.reread": ("reread_query.v1",),
    "meter.recount": ("recount_query.v1",),
    "meter.figures": ("figures_query.v1",),
    "meter.audit": ("audit_query.v1",),
    "meter.keys": ("keys_query.v1",),
    "meter.responses": ("responses_query.v1",),
    "waker.command": ("waker_command.v1",),
    "billing.import": ("import_request.v2",),
    "billing.import_status": ("import_status_query.v1",),
    "billing.report": ("report_query.v1",),
    "billing.reports": ("reports_query.v1",),
    "billing.bands": ("bands_query.v1",),
    "billing.statement": ("statement_query.v1",),
    "billing.trail": ("trail_query.v1",),
    "billing.invoices": ("invoices_query.v1",),
    "billing.payable": ("payable_note.v1",),
    "billing.gate": ("gate_order.v1", "gates_query.v1"),
}
ANSWERS = {
    "bands.v1",
    "day_report.v1",
    "figures.v1",
    "gaps.v1",
    "gates.v1",
    "history.v1",
    "import_answer.v1",
    "import_status.v1",
    "invoices.v1",
    "key_comparison.v1",
    "period_report.v1",
    "recounted.v1",
    "refused.v1",
    "reread.v1",
    "responses.v1",
    "statement.v1",
    "tokens.v1",
    "trail.v1",
    "waker_reply.v1",
}
"""Read by commands alone."""
ORDERS = ("waker_command.v1", "gate_order.v1")
"""What is left of them may still be an order, and would be followed: so they name nothing of this suite."""
MALFORMED_KEYS = ("=C3", "=C3=28", "a.b.c.d", "=ZZ", "=", "x" * 300, "confirmed", "tier.=FF", "machine.=C3")
COMMANDS = (
    "keys list",
    "fleet",
    "journal",
    "usage",
    "responses",
    "report",
    "report --days 7",
    "doctor",
    "figures",
    "gaps list",
    "budget",
    "bands",
    "statement k_2",
    "invoice list",
    "bench --list",
    "plan",
)


def kind_of(example: Path) -> str:
    """The tag of its message: the file's name may say more."""
    return ".".join(example.name.split(".")[:2])


def variants(kinds: tuple[str, ...], *, limit: int) -> Iterator[bytes]:
    """No messages at all, then what can be made of the examples of these kinds, `limit` of each evenly chosen."""
    yield from garbage.NO_MESSAGES
    for path in EXAMPLES:
        if kind_of(path) not in kinds:
            continue
        text = path.read_text("utf-8")
        for there, here in FOREIGN.items() if kind_of(path) not in ORDERS else ():
            text = text.replace(f'"{there}"', f'"{here}"')
        example: dict[str, Any] = json.loads(text)
        yield from _some([*garbage.mistyped(example)], limit)
        if kind_of(path) not in ORDERS:
            yield from _some([*garbage.absurd(example)], limit)


def _some(made: list[bytes], limit: int) -> list[bytes]:
    return made[:: max(1, len(made) // limit)]


async def publish_garbage(bus: JetStreamBus, *, limit: int) -> int:
    """Into each subject and bucket; returns how much."""
    count = 0
    for subject, names in PUBLISHED.items():
        for data in variants(names, limit=limit):
            await bus.client.publish(subject, data)
            count += 1
        await bus.client.flush(int(PATIENCE_SECONDS))
    for bucket in BUCKETS:
        if bucket.name == "leases":
            continue
        for key in MALFORMED_KEYS:
            await bus.client.publish(f"$KV.{bucket.name}.{key}", b"{}")
            count += 1
    await bus.client.flush(int(PATIENCE_SECONDS))
    return count


async def ask_garbage(bus: JetStreamBus, *, limit: int) -> None:
    """Every question that is none is answered, and at once: nobody waits for a service that says nothing."""
    for subject, names in REQUESTS.items():
        requests = [bus.request(subject, data, timeout=PATIENCE_SECONDS) for data in variants(names, limit=limit)]
        for answer in await asyncio.gather(*requests):
            json.loads(answer)


async def faults(suite: UpProcess, service: str) -> dict[str, str]:
    url = f"{suite.services[service]['metrics_url']}/readyz"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        result: dict[str, str] = (await answer.json())["faults"]
        return result


async def serves(suite: UpProcess) -> None:
    """Every service is ready; a new key works, and stops when it is revoked."""
    for service in ("gateway", "meter", "waker", "billing"):
        await until(lambda service=service: faults(suite, service), lambda result: result == {})  # type: ignore[misc]  # bound per service
    made = await suite.json("keys", "create", "--name", "later")
    url = f"{suite.base_url}/models"
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {made['key']}"}) as session:

        async def status() -> int:
            async with session.get(url) as answer:
                return answer.status

        await until(status, lambda seen: seen == 200)
        assert (await suite.command("keys", "revoke", made["id"])).status == 0
        await until(status, lambda seen: seen == 401)


async def answers(suite: UpProcess) -> None:
    """Every command ends as it should, a few at a time: some listen for seconds."""
    room = asyncio.Semaphore(4)

    async def ends(words: str) -> None:
        async with room:
            output = await suite.command(*words.split())
        assert output.status in (0, 1), (words, output)
        assert "Traceback" not in output.err + output.out, (words, output)

    await asyncio.gather(*map(ends, COMMANDS))


async def garbage_while_serving(tmp_path: Path, slow_model: Path, *, limit: int, restarts: bool) -> None:
    text = config(engine_command(slow_model), tier=PRICED) + BUDGET
    began = time.time()
    async with up(tmp_path, text) as suite:
        key = await suite.key()
        pids = {name: service["pid"] for name, service in suite.services.items()}
        traffic = Traffic(suite, key)
        traffic.start()
        await traffic.more(4)
        cut_before = traffic.cut  # as long as no spending was observed
        async with connect(suite.bus_access(), name="test", wait=PATIENCE_SECONDS) as bus:
            await publish_garbage(bus, limit=limit)
            await ask_garbage(bus, limit=limit)
            await traffic.more(8)
            await serves(suite)
            assert {name: service["pid"] for name, service in suite.services.items()} == pids, suite.errors[-3000:]
            assert traffic.cut == cut_before

            if restarts:
                await traffic.pause()
                for service in ("meter", "waker", "billing", "gateway"):
                    await suite.kill9(service)  # what begins anew reads all that garbage again
                traffic.resume()
                await traffic.more(8)
                await serves(suite)
            await traffic.stop()
            await answers(suite)
        engine = await engine_count(suite)
        expected = engine.prompt_tokens + engine.completion_tokens - await probe_tokens(suite, since=began)
        counted = await until(lambda: ledger_tokens(suite), lambda seen: seen[0] >= traffic.answered)
        assert counted == (traffic.answered, expected)


def test_every_message_goes_somewhere() -> None:
    sent = {kind for kinds in (*PUBLISHED.values(), *REQUESTS.values()) for kind in kinds}
    assert sent | ANSWERS == {kind_of(path) for path in EXAMPLES}


async def test_garbage_on_every_input_stops_nothing(tmp_path: Path, slow_model: Path) -> None:
    await garbage_while_serving(tmp_path, slow_model, limit=6, restarts=False)


@pytest.mark.long
async def test_much_garbage_on_every_input_stops_nothing(tmp_path: Path, slow_model: Path) -> None:
    await garbage_while_serving(tmp_path, slow_model, limit=10_000, restarts=True)
