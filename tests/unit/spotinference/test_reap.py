"""The reaper stops no machine for which somebody has spoken meanwhile."""

from collections.abc import Callable
from dataclasses import dataclass, field

from services.waker.core.events import Observation
from services.waker.ports import ACCEPTED, AccountSnapshot, CallResult, ProviderUnavailable, RequestCount
from shared.config.fleet import Machine
from shared.messages.waker import MachineRecord, ProviderCall
from spotinference.reap.reaper import BLIND_SECONDS, POLL_SECONDS, Reaper
from spotinference.reap.rule import FleetSigns, Limits

AFTER, CAP = 240.0, 120.0
STOP_SECONDS = 50.0


@dataclass
class Night:
    """An account, its engines and the bus. Time passes in sleeps and stops."""

    machines: tuple[str, ...]
    signs: Callable[[float], FleetSigns | None]
    """By the time."""
    clock: float = 0.0
    throttles: Callable[[float], bool] = lambda _now: False
    """Whether the provider throttles at that time."""
    stopped: dict[str, float] = field(default_factory=dict)

    async def run(self) -> Reaper:
        machines = {name: (Machine(id=name, tier="t", endpoint="http://e"), "ec2") for name in self.machines}
        limits = Limits(after_s=AFTER, wake_cap_s=CAP)
        reaper = Reaper(
            machines,  # type: ignore[arg-type]  # the provider's name
            {"ec2": self},
            self,
            self,
            limits,
            show=lambda _line: None,
            monotonic=lambda: self.clock,
            sleep=self.sleep,
        )
        await reaper.run()
        return reaper

    async def sleep(self, seconds: float) -> None:
        self.clock += seconds

    async def observe(self) -> AccountSnapshot:
        if self.throttles(self.clock):
            raise ProviderUnavailable("RequestLimitExceeded")
        return AccountSnapshot(
            observations={
                name: Observation(power="stopped" if name in self.stopped else "running", provider_state="?")
                for name in self.machines
            }
        )

    async def start(self, machine: str, generation: int) -> CallResult:
        raise AssertionError(f"{machine} {generation}: the reaper starts nothing")

    async def stop(self, machine: str, *, force: bool) -> CallResult:
        assert not force
        self.stopped[machine] = self.clock
        self.clock += STOP_SECONDS
        return ACCEPTED

    async def test(self) -> tuple[str, ...]:
        return ()

    async def close(self) -> None: ...

    async def count_requests(self, machine: str, endpoint: str, timeout_s: float) -> RequestCount:
        del machine, endpoint, timeout_s
        return RequestCount(running=0, answered=True)

    async def read(self) -> FleetSigns | None:
        return self.signs(self.clock)

    async def journal(self, entry: ProviderCall) -> bool:
        del entry
        return True


def asleep(machine: str) -> MachineRecord:
    return MachineRecord(
        machine=machine,
        tier="t",
        state="asleep",
        provider_state="?",
        endpoint=None,
        generation=1,
        since=1.0,
        reason="",
    )


async def test_waker_that_takes_the_lead_has_its_wake_cap_to_find_the_machine() -> None:
    led_at = AFTER - 30.0

    def signs(now: float) -> FleetSigns | None:
        return FleetSigns(is_led=True, records={"m1": asleep("m1")}) if now >= led_at else None

    night = Night(("m1",), signs)
    await night.run()
    assert night.stopped["m1"] >= led_at + CAP


async def test_wakers_that_lead_only_for_moments_delay_no_stop() -> None:
    night = Night(("m1",), lambda now: FleetSigns(is_led=now % 120.0 < 60.0, records={"m1": asleep("m1")}))
    await night.run()
    assert AFTER <= night.stopped["m1"] <= AFTER + 60.0


async def test_machine_is_spared_for_which_somebody_speaks_while_another_is_stopped() -> None:
    night = Night(("m1", "m2"), lambda now: FleetSigns(is_led=False, in_flight={"m2": 1} if now > AFTER else {}))
    await night.run()
    assert list(night.stopped) == ["m1"]


async def test_provider_that_throttles_for_moments_costs_a_machine_no_time() -> None:
    night = Night(("m1",), lambda _now: None, throttles=lambda now: now % 120.0 < 60.0)
    reaper = await night.run()
    assert AFTER <= night.stopped["m1"] <= AFTER + 60.0
    assert not reaper.has_failed


async def test_machine_of_a_provider_that_stays_silent_is_not_stopped() -> None:
    night = Night(("m1",), lambda _now: None, throttles=lambda now: now > 60.0)
    reaper = await night.run()
    assert (night.stopped, reaper.has_failed) == ({}, True)
    assert night.clock <= BLIND_SECONDS + 3 * POLL_SECONDS
