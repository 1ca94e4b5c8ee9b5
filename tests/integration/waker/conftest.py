"""Real wakers on a real bus with real engines; the test plays the gateway."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from services.waker.adapters import keeper_files
from shared.bus import subjects
from shared.bus.jetstream import JetStreamBus
from shared.bus.topology import FLEET, FLEET_JOURNAL
from shared.messages.codec import decode, encode
from shared.messages.gateway import Activity, MachineActivity, WakeRequest
from shared.messages.waker import JournalEntry, MachineRecord, MachineState, ProviderCall, Transition
from tests.kit.service import ServiceProcess, running
from tests.kit.waiting import until

ENGINE = Path(__file__).parent / "faulty_engine.py"
MODEL = "org/model"
CONFIG = """
[bus]
url = "{bus}"
[waker]
demand_timeout = "3s"
gateway_timeout = "4s"
probe_interval = "50ms"
{waker}
[[tier]]
name = "local"
provider = "process"
idle_timeout = "{idle}"
[[machine]]
id = "m1"
tier = "local"
command = {command}
[[model]]
name = "org/model"
served_as = "the-engines-name"
lineup = ["local"]
"""


@dataclass
class Cluster:
    """The bus, a configuration and what lies in the data directory. `wakers` by the order of their start."""

    bus: JetStreamBus
    data_dir: Path
    config: Path
    stack: AsyncExitStack
    wakers: list[ServiceProcess] = field(default_factory=list)

    async def waker(self, *, ahead: float = 0.0) -> ServiceProcess:
        """`ahead`: how many seconds its clock is."""
        service = await self.stack.enter_async_context(running("waker", self.config, self.data_dir, ahead=ahead))
        self.wakers.append(service)
        return service

    async def want(self, waiting: int = 1, *, gateway: str = "g1") -> None:
        now = time.time()
        request = WakeRequest(
            model=MODEL, gateway=gateway, waiting=waiting, deadline=now + 60, sent_at=now, key_id="key-1"
        )
        await self.bus.publish(subjects.wake_request(MODEL), encode(request))

    async def record(self) -> tuple[MachineRecord, int] | None:
        entry = await self.bus.get(FLEET, subjects.machine_key("m1"))
        return (decode(entry.value, MachineRecord), entry.revision) if entry else None

    async def reaches(self, state: MachineState) -> MachineRecord:
        latest = await until(self.record, lambda seen: seen is not None and seen[0].state == state)
        assert latest is not None
        return latest[0]

    async def journal(self) -> list[JournalEntry]:
        return [decode(m.data, JournalEntry) for m in await self.bus.read(FLEET_JOURNAL)]  # type: ignore[arg-type]  # a union of messages is one

    async def path(self) -> list[MachineState]:
        """The states that the machine went through, once the journal, which follows the record, tells of the last."""

        async def current() -> tuple[MachineState | None, list[MachineState]]:
            seen = await self.record()
            entries = [entry for entry in await self.journal() if isinstance(entry, Transition)]
            return seen and seen[0].state, [entry.to_state for entry in entries]

        return (await until(current, lambda seen: seen[0] in (None, *seen[1][-1:])))[1]

    async def calls(self) -> list[tuple[str, str]]:
        return [(entry.call, entry.outcome) for entry in await self.journal() if isinstance(entry, ProviderCall)]

    def engine(self) -> keeper_files.KeeperState:
        state = keeper_files.read_state(self.data_dir / "machines" / "m1")
        assert state is not None
        assert state.engine is not None
        return state

    async def acknowledge(self) -> None:
        """Play a gateway that lets go of whatever drains, until cancelled."""
        while True:
            seen = await self.record()
            acknowledged = seen[1] if seen and seen[0].state == "draining" else None
            uses = {"m1": MachineActivity(in_flight=0, acknowledged=acknowledged)}
            activity = Activity(gateway="g1", sent_at=time.time(), machines=uses)
            await self.bus.publish_volatile(subjects.activity("g1"), encode(activity))
            await asyncio.sleep(0.05)


ClusterBuilder = Callable[..., Awaitable[Cluster]]


@pytest.fixture
async def build_cluster(bus: JetStreamBus, nats_url: str, tmp_path: Path) -> AsyncIterator[ClusterBuilder]:
    """`await build_cluster("--die", "1", idle="1s")`: a cluster whose engine takes these arguments."""
    async with AsyncExitStack() as stack:

        async def build(
            *arguments: str, waker: str = "", idle: str = "1h", command: Sequence[str] | None = None
        ) -> Cluster:
            argv = command or [sys.executable, str(ENGINE), "--port", "{port}", *arguments]
            config = tmp_path / "spotinference.toml"
            config.write_text(CONFIG.format(bus=nats_url, waker=waker, idle=idle, command=list(argv)))
            return Cluster(bus, tmp_path, config, stack)

        yield build
    state = keeper_files.read_state(tmp_path / "machines" / "m1")
    if state is not None:
        for pid, started in ((state.keeper, state.keeper_started), (state.engine, state.engine_started)):
            if pid is not None and keeper_files.process_start(pid) == started:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
