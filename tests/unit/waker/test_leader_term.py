"""One term of a leader on a bus: what is on record before what is done, and how a term ends."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from decimal import Decimal

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from services.waker.app import inbox
from services.waker.app.fleet_store import FleetStore, LeadershipLost
from services.waker.app.inbox import Inbox
from services.waker.app.leader_term import LeaderTerm
from services.waker.app.term_resources import TermResources
from services.waker.core import fleet
from services.waker.core.events import ActivityReported, Command, DemandReported, Observation, PowerState
from services.waker.core.fleet_spec import fleet_spec_of
from services.waker.metrics import Metrics
from services.waker.ports import ACCEPTED, AccountSnapshot, CallResult, ProbeResult, ProviderUnavailable, RequestCount
from shared.bus import subjects
from shared.bus.lease import Lease
from shared.bus.memory import MemoryBus
from shared.bus.ports import Entry
from shared.bus.topology import FLEET, FLEET_JOURNAL, LEASE_SECONDS, LEASES, WAKES
from shared.config.load import parse
from shared.errors import BusUnavailable
from shared.messages.codec import decode, encode
from shared.messages.gateway import Activity, MachineActivity, WakeRequest
from shared.messages.waker import JournalEntry, KeyWakes, MachineRecord, ProviderCall, Transition

CONFIG = """
[waker]
idle_timeout = "20s"
call_timeout = "1s"
[[tier]]
name = "t"
provider = "process"
[[machine]]
id = "m1"
tier = "t"
command = ["engine", "{port}"]
[[model]]
name = "m"
lineup = ["t"]
"""


@dataclass
class Machine:
    """A provider that does what it is told, when it is told; and a prober of what runs there."""

    bus: MemoryBus
    generation: int = 0
    running: bool = False
    hangs: bool = False
    breaks: bool = False
    away: bool = False
    faults: tuple[str, ...] = ()
    on_record: list[str] = field(default_factory=list)
    """The state in the bucket when each call came."""
    calls: list[str] = field(default_factory=list)

    async def start(self, machine: str, generation: int) -> CallResult:
        await self._note("start")
        if self.hangs:
            await asyncio.Event().wait()
        self.generation, self.running = generation, True
        return CallResult(outcome="accepted", endpoint="http://engine")

    async def stop(self, machine: str, *, force: bool) -> CallResult:
        await self._note("stop")
        self.running = False
        return ACCEPTED

    async def observe(self) -> AccountSnapshot:
        if self.breaks:
            raise RuntimeError("a defect")
        if self.away:
            raise ProviderUnavailable("503: the provider is away")
        endpoint = "http://engine" if self.running else None
        power: PowerState = "running" if self.running else "stopped"
        observation = Observation(power=power, provider_state="?", generation=self.generation, endpoint=endpoint)
        return AccountSnapshot(observations={"m1": observation})

    async def test(self) -> tuple[str, ...]:
        return self.faults

    async def close(self) -> None:
        """Nothing is open."""

    async def reach(
        self, machine: str, endpoint: str, model: str, timeout: float, *, must_list: bool = False
    ) -> ProbeResult:
        return ProbeResult(answered=self.running)

    async def work(self, machine: str, endpoint: str, model: str, timeout: float) -> ProbeResult:
        return ProbeResult(answered=self.running, tokens=3)

    async def count_requests(self, machine: str, endpoint: str, timeout: float) -> RequestCount:
        return RequestCount(running=0, answered=True)

    async def _note(self, call: str) -> None:
        self.calls.append(call)
        entry = await self.bus.get(FLEET, "m1")
        assert entry is not None
        self.on_record.append(decode(entry.value, MachineRecord).state)


@dataclass
class Stage:
    """A leader and its world; time passes in `step` alone."""

    bus: MemoryBus = field(default_factory=MemoryBus)
    now: float = 5000.0
    closed: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.machine = Machine(self.bus)
        self.inbox = Inbox()
        self.lease = Lease(self.bus, subjects.WAKER_LEASE, "w1", lambda: self.now)
        self.term = self.new_term()

    def new_term(self, config: str = CONFIG, *, loaded_at: float = 0.0) -> LeaderTerm:
        resources = TermResources(
            bus=self.bus,
            lease=self.lease,
            spec=fleet_spec_of(parse(config, "test"), lambda now: f"wake-{now:.2f}", loaded_at=loaded_at),
            providers={"process": self.machine},
            prober=self.machine,
            metrics=Metrics(CollectorRegistry()),
            closed_tiers=lambda: self.closed,
        )
        return LeaderTerm(resources, self.inbox, lambda: self.now)

    async def step(self, seconds: float = 0.3, *, renew: bool = True) -> None:
        """Time passes, the leader acts, and what it began is done."""
        self.now += seconds
        if renew:
            await self.lease.renew()
        await self.term.step()
        await self.term.wait_for_calls()

    async def steps(self, count: int, seconds: float) -> None:
        for _ in range(count):
            await self.step(seconds)

    async def until(self, state: str, *, seconds: float = 0.3) -> None:
        for _ in range(200):
            if (await self.record()).state == state:
                return
            await self.step(seconds)
        raise AssertionError(f"never {state}: {await self.record()}")

    async def record(self) -> MachineRecord:
        return decode((await self.entry()).value, MachineRecord)

    async def entry(self) -> Entry:
        entry = await self.bus.get(FLEET, "m1")
        assert entry is not None
        return entry

    def want(self, waiting: int = 1) -> WakeRequest:
        request = WakeRequest(model="m", gateway="g", waiting=waiting, deadline=self.now + 60, sent_at=self.now)
        self.inbox.put("demand", DemandReported(request, self.now))
        return request

    async def journal(self) -> list[JournalEntry]:
        return [decode(m.data, JournalEntry) for m in await self.bus.read(FLEET_JOURNAL)]  # type: ignore[arg-type]  # a union of messages is one


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    made = Stage()
    assert await made.lease.renew()
    await made.term.begin()
    yield made
    await made.term.end()


async def test_from_demand_to_ready_to_asleep_with_everything_on_record_first(stage: Stage) -> None:
    stage.want()
    await stage.until("ready")
    stage.want(0)
    await stage.until("asleep", seconds=3.0)
    assert stage.machine.calls == ["start", "stop"]
    assert stage.machine.on_record == ["waking", "falling_asleep"]
    entries = await stage.journal()
    path = [e.to_state for e in entries if isinstance(e, Transition)]
    assert path == ["asleep", "waking", "ready", "draining", "falling_asleep", "asleep"]
    calls = [(e.call, e.outcome, e.tokens) for e in entries if isinstance(e, ProviderCall)]
    assert calls == [("start", "accepted", 0), ("probe", "accepted", 3), ("stop", "accepted", 0)]


async def test_demand_that_was_stored_before_the_term_counts(stage: Stage) -> None:
    await stage.bus.publish(subjects.wake_request("m"), encode(stage.want()))
    stage.inbox.drain()
    stage.term = stage.new_term()
    await stage.term.begin()
    await stage.term.wait_for_calls()
    assert stage.machine.calls == ["start"]


async def test_old_stored_demand_wakes_nobody(stage: Stage) -> None:
    stage.bus.now = lambda: stage.now
    await stage.bus.publish(subjects.wake_request("m"), encode(stage.want()))
    stage.inbox.drain()
    stage.now += 16
    await stage.lease.renew()
    await stage.lease.renew()
    stage.term = stage.new_term()
    await stage.term.begin()
    await stage.step()
    assert stage.machine.calls == []


async def test_a_drain_waits_for_the_revision_that_it_wrote(stage: Stage) -> None:
    stage.want()
    await stage.until("ready")
    stage.want(0)

    def report(acknowledged: int | None) -> None:
        uses = {"m1": MachineActivity(in_flight=0, acknowledged=acknowledged)}
        stage.inbox.put("activity", ActivityReported(Activity(gateway="g", sent_at=stage.now, machines=uses)))

    before = 0
    while (await stage.record()).state != "draining":
        before = (await stage.entry()).revision
        report(before)
        await stage.step(1.0)
    for _ in range(3):
        report(before)
        await stage.step(1.0)
    assert (await stage.record()).state == "draining"
    report((await stage.entry()).revision)
    await stage.step()
    await stage.step()
    assert stage.machine.calls == ["start", "stop"]


async def test_a_leader_that_was_paused_does_nothing_more(stage: Stage) -> None:
    stage.want()
    with pytest.raises(LeadershipLost):
        await stage.step(LEASE_SECONDS + 1, renew=False)
    assert stage.machine.calls == []


async def test_lease_is_verified_right_before_a_call(stage: Stage) -> None:
    """By our clock the lease is held; the server knows better."""
    await stage.bus.put(LEASES, subjects.WAKER_LEASE, b"w2")
    stage.want()
    await stage.step(renew=False)
    assert stage.machine.calls == []
    with pytest.raises(LeadershipLost):
        await stage.step(renew=False)


async def test_foreign_write_ends_the_term(stage: Stage) -> None:
    await stage.bus.put(FLEET, "m1", b"another leader's")
    stage.want()
    with pytest.raises(LeadershipLost, match="somebody else wrote the record of m1"):
        await stage.step()
    assert stage.machine.calls == []


async def test_what_another_leader_has_counted_of_a_key_is_not_deleted(stage: Stage) -> None:
    store = FleetStore(stage.bus, stage.term.fleet.spec)
    key = subjects.key_wakes_key("k1")
    past = KeyWakes(key_id="k1", wakes=0, cost=Decimal(0), day="2026-01-01")
    await store.remember(past)
    await store.remember(KeyWakes(key_id="k1", wakes=1, cost=Decimal(1), day="2026-01-01"))
    await store.remember(past)
    assert await stage.bus.get(WAKES, key) is None
    await store.remember(KeyWakes(key_id="k1", wakes=1, cost=Decimal(1), day="2026-01-01"))
    await stage.bus.put(WAKES, key, b"another leader's")
    with pytest.raises(LeadershipLost, match="somebody else wrote"):
        await store.remember(past)
    assert await stage.bus.get(WAKES, key) is not None


async def test_without_the_bus_nothing_is_put_to_sleep_and_the_next_term_goes_on(stage: Stage) -> None:
    stage.want()
    await stage.until("ready")
    stage.want(0)
    await stage.steps(9, 2.0)
    stage.bus.connected = False
    with pytest.raises(BusUnavailable):
        await stage.steps(20, 0.2)
    assert stage.machine.calls == ["start"]
    stage.bus.connected = True
    await stage.bus.delete(LEASES, subjects.WAKER_LEASE)
    while not stage.lease.held:
        await stage.lease.renew()  # the first finds it lost
    stage.term = stage.new_term()
    await stage.term.begin()
    assert (await stage.record()).state == "ready"
    assert (await stage.record()).generation == 1


async def test_hanging_call_is_unknown_and_followed_by_an_observation(stage: Stage) -> None:
    stage.machine.hangs = True
    stage.want()
    await stage.step()
    await stage.step()
    entries = [e for e in await stage.journal() if isinstance(e, ProviderCall)]
    assert [(e.call, e.outcome, e.code) for e in entries] == [("start", "unknown", "timeout")]
    stage.machine.hangs = False
    stage.want()
    await stage.until("ready")
    assert stage.machine.calls == ["start", "start"]
    assert (await stage.record()).generation == 2


async def test_a_provider_whose_answer_breaks_us_is_in_doubt_and_ends_no_term(stage: Stage) -> None:
    stage.want()
    await stage.until("ready")
    stage.want(0)
    stage.machine.breaks = True
    await stage.steps(30, 2.0)
    assert (await stage.record()).state == "ready"
    stage.machine.breaks = False
    await stage.until("asleep", seconds=2.0)


async def test_an_unreadable_record_is_replaced(stage: Stage) -> None:
    await stage.bus.put(FLEET, "m1", b"{")
    stage.term = stage.new_term()
    await stage.term.begin()
    assert (await stage.record()).reason == "seen for the first time"


async def test_outdated_leader_leaves_the_machines_of_a_newer_configuration_alone(stage: Stage) -> None:
    """In a rollout a replica with the old configuration may lead after one with the new: it knows no m1."""
    without = CONFIG.replace('"m1"', '"m0"')

    async def lead(config: str, loaded_at: float) -> None:
        stage.term = stage.new_term(config, loaded_at=loaded_at)
        await stage.term.begin()

    await lead(CONFIG, stage.now - 10)
    stage.want()
    await stage.until("ready")
    before = await stage.entry()
    orphan = msgspec.structs.replace(await stage.record(), machine="hyperstack:7", tier="")
    await stage.bus.put(FLEET, subjects.machine_key(orphan.machine), encode(orphan))
    await lead(without, stage.now - 60)
    assert stage.term.fleet.is_outdated
    assert await stage.entry() == before
    assert await stage.bus.get(FLEET, subjects.machine_key(orphan.machine)) is not None, "its alarm stays"
    await lead(CONFIG, stage.now - 10)
    assert (await stage.record()).state == "ready"
    assert not stage.term.fleet.is_outdated
    await lead(without, stage.now)
    assert not stage.term.fleet.is_outdated
    record = await stage.record()
    assert (record.state, record.alarm_reason) == ("gone", "removed")
    await lead(without, stage.now - 60)
    assert not stage.term.fleet.is_outdated, "what was removed is in no configuration"


async def test_a_record_from_the_future_makes_no_configuration_outdated(stage: Stage) -> None:
    stage.term = stage.new_term(loaded_at=stage.now + 3600)
    await stage.term.begin()
    stage.term = stage.new_term(CONFIG.replace('"m1"', '"m0"'), loaded_at=stage.now)
    await stage.term.begin()
    assert not stage.term.fleet.is_outdated
    assert await stage.bus.get(FLEET, "m1") is None


async def test_a_provider_that_cannot_be_seen_keeps_its_machines_awake(stage: Stage) -> None:
    stage.want()
    await stage.until("ready")
    stage.want(0)
    stage.machine.away = True
    await stage.steps(30, 2.0)
    assert (await stage.record()).state == "ready"
    stage.machine.away = False
    await stage.until("asleep", seconds=2.0)


async def test_nothing_sleeps_before_a_self_test_has_passed(stage: Stage) -> None:
    stage.machine.faults = ("ec2:StartInstances is not allowed",)
    stage.term = stage.new_term()
    await stage.term.begin()
    stage.want()
    await stage.until("ready")
    stage.want(0)
    await stage.steps(20, 2.0)
    assert (await stage.record()).state == "ready"
    stage.machine.faults = ()
    await stage.steps(10, 10.0)
    assert (await stage.record()).state == "asleep"


async def test_operators_command_outlives_its_leader(stage: Stage) -> None:
    await stage.term.issue(Command(order="wake", target="m", by="ops"))
    await stage.until("ready")
    stage.term = stage.new_term()
    await stage.term.begin()
    await stage.steps(30, 2.0)
    record = await stage.record()
    assert (record.state, record.kept) == ("ready", True)
    await stage.term.issue(Command(order="hibernate", target="m1", by="ops"))
    await stage.until("asleep", seconds=2.0)
    assert (await stage.record()).kept is False


async def test_a_burst_of_demand_is_bounded_and_leaves_room_for_everything_else(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "MOST_DEMAND", 20)
    monkeypatch.setattr(inbox, "MOST_EVENTS", 50)
    for number in range(60):
        if stage.inbox.has_room(number):
            request = WakeRequest(model="m", gateway=f"gw-{number}", waiting=0, deadline=2e9, sent_at=stage.now)
            stage.inbox.put(number, DemandReported(request, stage.now))
    assert stage.inbox.has_room(0)
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(take_turns())
    await stage.term.step()
    other.cancel()
    assert turns >= 50
    assert len(stage.term.fleet.demand) == 20
