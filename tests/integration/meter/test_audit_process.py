"""The meter's process reads engines over HTTP, the journal and the heartbeats, and answers `meter.audit`."""

import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from services.meter.adapters.scraper import MAX_BYTES, MetricsScraper
from services.meter.core.day import day_of
from services.meter.ports import ScrapeFailed
from shared.bus import subjects, topology
from shared.bus.jetstream import JetStreamBus
from shared.errors import BusUnavailable
from shared.messages.codec import decode, encode
from shared.messages.gateway import Activity, MachineActivity
from shared.messages.meter import ErrorReply
from shared.messages.meter_audit import Audit, AuditQuery, MachineAudit
from shared.messages.waker import MachineRecord, ProviderCall, Transition
from tests.integration.meter.engines import CountingEngine, counting_engine
from tests.integration.meter.test_process import Meter, read_page
from tests.kit.usage import send
from tests.kit.waiting import PATIENCE_SECONDS, until
from tests.unit.meter.events import event

MACHINE = "local-1"
APART = 25
"""Readings at this pace, so that a request is well after the first or before the last of them."""
ANSWER_SECONDS = PATIENCE_SECONDS / 4
"""The bus promises no answer: what is sent to a meter that was just killed is lost, so `until` asks again."""
CONFIG = """
[[tier]]
name = "local"
provider = "process"
[[tier]]
name = "lab"
provider = "static"
[meter]
"""


class Scene:
    """One machine of a fleet, as waker and gateways report it."""

    def __init__(self, bus: JetStreamBus, engine: CountingEngine) -> None:
        self.bus = bus
        self.engine = engine
        self.seq = 0
        self.kills = 0
        self.lost_queries = 0

    async def kill(self, meter: Meter) -> None:
        assert await meter.end(signal.SIGKILL) == -signal.SIGKILL
        self.kills += 1

    async def machine(self, state: Any, generation: int = 1, tier: str = "local", machine: str = MACHINE) -> None:
        record = MachineRecord(
            machine=machine,
            tier=tier,
            state=state,
            provider_state="running",
            endpoint=self.engine.endpoint,
            generation=generation,
            since=time.time(),
            reason="",
        )
        await self.bus.put(topology.FLEET, subjects.machine_key(machine), encode(record))

    async def wake(self, generation: int = 1) -> None:
        await self.machine("waking", generation)  # as the waker does, before there is another engine
        await self._call("start", 0)
        self.engine.restart()
        self.engine.work(2, 1)
        await self._call("probe", 3)
        await self.machine("ready", generation)

    async def serve(self, prompt: int, completion: int, *, generation: int = 1, **fields: Any) -> None:
        """Serve a request: first the engine's counters, then the usage event."""
        self.engine.work(prompt, completion)
        await self.count(prompt, completion, generation=generation, **fields)

    async def count(self, prompt: int, completion: int, **fields: Any) -> None:
        self.seq += 1
        e = event(
            source_seq=self.seq,
            machine=MACHINE,
            completed_at=time.time(),
            prompt_tokens=prompt,
            completion_tokens=completion,
            duration=0.01,
            **fields,
        )
        await send(self.bus, e)

    async def audits(self) -> dict[str, MachineAudit]:
        """Return the machines' audits; none also while the meter is starting, or if the bus lost query or answer."""
        query, began = encode(AuditQuery(day=day_of(time.time()).name)), time.monotonic()
        try:
            answer = await self.bus.request(subjects.METER_AUDIT, query, timeout=ANSWER_SECONDS)
        except BusUnavailable:
            self.lost_queries += time.monotonic() - began >= ANSWER_SECONDS
            return {}
        return {audit.machine: audit for audit in decode(answer, Audit).machines}

    async def machine_audit(self) -> MachineAudit | None:
        return next(iter((await self.audits()).values()), None)

    async def becomes(self, **expected_reads: Any) -> MachineAudit:
        def good(seen: MachineAudit | None) -> bool:
            return seen is not None and all(getattr(seen, name) == value for name, value in expected_reads.items())

        seen = await until(self.machine_audit, good)
        assert seen is not None
        return seen

    async def _call(self, call: str, tokens: int) -> None:
        entry = ProviderCall(
            at=time.time(), machine=MACHINE, call=call, outcome="accepted", code="", seconds=0.1, tokens=tokens
        )
        await self.bus.publish(subjects.journal(MACHINE), encode(entry))


class ReadingMeter(Meter):
    def __init__(self, home: Path, nats_url: str, database_url: str, interval: str, lab: Mapping[str, str]) -> None:
        super().__init__(home, nats_url, database_url)
        machines = {MACHINE: 'tier = "local"\ncommand = ["engine", "{port}"]'}
        machines |= {machine: f'tier = "lab"\nendpoint = "{endpoint}"' for machine, endpoint in lab.items()}
        fleet = "".join(f'[[machine]]\nid = "{machine}"\n{lines}\n' for machine, lines in machines.items())
        config = home / "spotinference.toml"
        config.write_text(f'[database]\nurl = "{database_url}"\n{CONFIG}scrape_interval = "{interval}"\n{fleet}')


@asynccontextmanager
async def reading(
    home: Path, nats_url: str, database_url: str, interval: str = "100ms", lab: Mapping[str, str] = MappingProxyType({})
) -> AsyncIterator[ReadingMeter]:
    """Run a meter that reads the engines. `lab`: the machines of that tier with their endpoints."""
    meter = ReadingMeter(home, nats_url, database_url, interval, lab)
    await meter.start()
    try:
        yield meter
    finally:
        await meter.end(signal.SIGKILL)


@pytest.fixture
async def scene(bus: JetStreamBus) -> AsyncIterator[Scene]:
    async with counting_engine() as engine:
        scene = Scene(bus, engine)
        yield scene
        assert scene.lost_queries <= scene.kills


@pytest.fixture
def day_has_time() -> None:
    """Wait until a test fits into the current UTC day."""
    left = 86_400 - time.time() % 86_400
    if left < 60:
        time.sleep(left + 1)


async def test_engine_probes_and_ledger_agree_when_the_meter_is_killed(
    scene: Scene, nats_url: str, database_url: str, tmp_path: Path, day_has_time: None
) -> None:
    async with reading(tmp_path / "meter", nats_url, database_url) as meter:
        await scene.wake()
        await scene.serve(10, 7)
        await scene.becomes(engine=20, read=17, probes=3, difference=0, engine_requests=2)
        await scene.kill(meter)
        await scene.serve(20, 5)
        await meter.start()
        await scene.becomes(engine=45, read=42, difference=0)
        await scene.serve(1, 1)
        await scene.machine("draining")
        await scene.becomes(engine=47)
        await scene.machine("asleep")
        await scene.wake(generation=2)
        await scene.serve(100, 50, generation=2)
        await scene.becomes(engine=200, read=194, generations=2, probes=6, difference=0, resets=0, state="equal")
    entry = await scene.bus.get(topology.REPORTS, subjects.audit_key(day_of(time.time()).name))
    assert entry is not None
    assert decode(entry.value, Audit).day == day_of(time.time()).name


async def test_engine_is_read_at_once_when_ready_and_when_draining(
    scene: Scene, nats_url: str, tmp_path: Path, day_has_time: None
) -> None:
    async with reading(tmp_path / "meter", nats_url, f"sqlite:///{tmp_path / 'l.sqlite'}", interval="1h"):
        await scene.wake()
        await scene.becomes(engine=3)
        await scene.serve(10, 7)
        await scene.machine("draining")
        await scene.becomes(engine=20, read=17, readings=2, difference=0)


async def test_engine_that_restarts_by_itself_is_still_counted(
    scene: Scene, nats_url: str, tmp_path: Path, day_has_time: None
) -> None:
    async with reading(tmp_path / "meter", nats_url, f"sqlite:///{tmp_path / 'l.sqlite'}"):
        await scene.wake()
        await scene.serve(100, 50)
        await scene.becomes(engine=153)
        scene.engine.restart()
        await scene.serve(10, 7)
        await scene.becomes(engine=170, resets=1, difference=0)


async def test_audit_reports_requests_that_bypass_the_gateway(
    scene: Scene, nats_url: str, tmp_path: Path, day_has_time: None
) -> None:
    lab = {MACHINE: scene.engine.endpoint}
    async with reading(tmp_path / "meter", nats_url, f"sqlite:///{tmp_path / 'l.sqlite'}", lab=lab) as meter:
        scene.engine.work(1_000_000, 1)
        await scene.machine("ready", tier="lab")
        await scene.engine.wait_for_readings(APART)
        await scene.serve(10, 7)
        scene.engine.work(5, 5)
        await scene.becomes(engine=27, read=17)
        await scene.engine.wait_for_readings(APART)
        # It is judged once the last reading is as old as events may be late.
        await scene.machine("asleep")
        result = await scene.becomes(state="wrong")
        assert (result.difference, result.engine) == (10, 27), "what it did before we knew it is nobody's"
        _, metrics = await read_page(meter.metrics_url + "/metrics")
        assert "spot_meter_leading 1.0" in metrics
        assert float(metrics.split('engine_readings_total{outcome="read"} ')[1].split()[0]) >= 2


async def test_gateway_that_dies_with_requests_in_flight_explains_their_tokens(
    scene: Scene, nats_url: str, tmp_path: Path, day_has_time: None
) -> None:
    lab = {MACHINE: scene.engine.endpoint}
    async with reading(tmp_path / "meter", nats_url, f"sqlite:///{tmp_path / 'l.sqlite'}", lab=lab):
        await scene.machine("ready", tier="lab")
        await scene.engine.wait_for_readings()
        for leaving, gateway in ((True, "gw-well"), (False, "gw-dead")):
            activity = Activity(
                gateway=gateway, sent_at=time.time(), machines={MACHINE: MachineActivity(in_flight=2)}, leaving=leaving
            )
            await scene.bus.publish_volatile(subjects.activity(gateway), encode(activity))
        scene.engine.work(30, 40)
        result = await scene.becomes(engine=70, state="explained")
        assert [c.words for c in result.causes] == ["2 requests were in flight at gateways that died"]


PAGES = {
    "html": web.Response(text="<html>hello</html>", content_type="text/html"),
    "missing": web.Response(status=404, text="no"),
    "moved": web.Response(status=302, headers={"location": "http://127.0.0.1:1/"}),
    "nonsense": web.Response(text="vllm:prompt_tokens_total -1\nvllm:generation_tokens_total NaN\n"),
    "binary": web.Response(body=b"\xff\x00" * 100),
    "endless": web.Response(body=b"x" * (MAX_BYTES + 1)),
}


@pytest.mark.parametrize("page", PAGES)
async def test_scrape_fails_with_a_reason_when_the_page_has_no_counters(page: str) -> None:
    scraper = MetricsScraper()
    async with counting_engine() as engine:
        engine.page = PAGES[page]
        with pytest.raises(ScrapeFailed, match=engine.endpoint):
            await scraper.read(engine.endpoint)
    with pytest.raises(ScrapeFailed):
        await scraper.read(engine.endpoint)
    await scraper.close()


async def test_scrape_times_out_when_the_engine_hangs() -> None:
    scraper = MetricsScraper(timeout_s=0.2)
    async with counting_engine() as engine:
        engine.hangs = True
        began = time.monotonic()
        with pytest.raises(ScrapeFailed, match=r"did not answer within 0\.2 s"):
            await scraper.read(engine.endpoint)
        assert time.monotonic() - began < 5
    await scraper.close()


async def test_broken_engines_are_unknown_and_delay_no_other(
    scene: Scene, nats_url: str, tmp_path: Path, day_has_time: None
) -> None:
    database = f"sqlite:///{tmp_path / 'l.sqlite'}"
    async with (
        counting_engine() as other,
        reading(tmp_path / "meter", nats_url, database, lab={"lab-1": other.endpoint}),
    ):
        scene.engine.hangs = True
        await scene.machine("ready")
        await scene.count(10, 7)
        beside = Scene(scene.bus, other)
        await beside.machine("ready", tier="lab", machine="lab-1")
        await other.wait_for_readings()
        scene.engine.hangs = False
        scene.engine.page = PAGES["html"]
        await scene.engine.wait_for_readings()

        result = await until(scene.audits, lambda seen: "neither" in seen[MACHINE].words if MACHINE in seen else False)
        assert (result[MACHINE].state, result[MACHINE].engine, result[MACHINE].ledger) == ("unknown", None, 17)
        assert result["lab-1"].state == "equal"


async def test_second_meter_takes_over_reading_when_the_leader_dies(
    scene: Scene, nats_url: str, postgres_url: str, tmp_path: Path, day_has_time: None
) -> None:
    async with (
        reading(tmp_path / "a", nats_url, postgres_url) as first,
        reading(tmp_path / "b", nats_url, postgres_url) as second,
    ):

        async def leading() -> list[bool]:
            pages = [await read_page(m.metrics_url + "/metrics") for m in (first, second)]
            return ["spot_meter_leading 1.0" in text for _, text in pages]

        leads = await until(leading, any)
        assert sum(leads) == 1
        await scene.wake()
        await scene.serve(10, 7)
        await scene.becomes(engine=20)
        dead, alive = (first, second) if leads[0] else (second, first)
        await scene.kill(dead)
        await scene.serve(5, 5)
        await scene.becomes(engine=30, read=27, difference=0)
        async with aiohttp.ClientSession() as session, session.get(alive.metrics_url + "/metrics") as page:
            assert "spot_meter_leading 1.0" in await page.text()


async def test_engine_death_after_its_last_reading_is_explained(
    scene: Scene, nats_url: str, tmp_path: Path, day_has_time: None
) -> None:
    async with reading(tmp_path / "meter", nats_url, f"sqlite:///{tmp_path / 'l.sqlite'}"):
        await scene.wake()
        await scene.serve(10, 7)
        await scene.becomes(engine=20, read=17)
        await scene.machine("asleep")
        died = Transition(
            at=time.time(),
            machine=MACHINE,
            tier="local",
            from_state="ready",
            to_state="asleep",
            reason="it ended without our doing",
            generation=1,
        )
        await scene.bus.publish(subjects.journal(MACHINE), encode(died))
        await scene.count(4, 4, outcome="engine_lost")

        def knows_the_death(audit: MachineAudit | None) -> bool:
            return audit is not None and any("died 1 times" in cause.words for cause in audit.causes)

        await until(scene.machine_audit, knows_the_death)
        result = await scene.becomes(ledger=25, state="explained")
        assert (result.engine, result.difference) == (20, 0)
        unread = next(c for c in result.causes if c.name == "unread")
        assert (unread.tokens, "died 1 times" in unread.words) == (8, True)


async def test_invalid_audit_query_is_rejected(scene: Scene, nats_url: str, tmp_path: Path) -> None:
    async with reading(tmp_path / "meter", nats_url, f"sqlite:///{tmp_path / 'l.sqlite'}"):
        for question in (encode(AuditQuery(day="yesterday")), b"{}"):
            answer = await scene.bus.request(subjects.METER_AUDIT, question, timeout=PATIENCE_SECONDS)
            assert msgspec.json.decode(answer, type=ErrorReply).reason
