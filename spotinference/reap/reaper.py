"""Stops machines that are billed while nobody has spoken for them for long enough. It starts and creates nothing."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from services.waker.core.events import Observation
from services.waker.ports import CallResult, Provider, ProviderUnavailable, RequestCount
from shared.config.fleet import Machine
from shared.config.providers import ProviderName
from shared.messages.waker import ProviderCall
from spotinference.reap.rule import FleetSigns, Limits, Verdict, judge

POLL_SECONDS = 60.0
RECHECK_SECONDS = 10.0
"""After a stop: whether it is off, or has to be called again."""
STOP_LIMIT = 3
"""Stops of one machine: a machine that is off and billed is started first, and then hibernated."""
CALL_SECONDS = 60.0
"""For one observation or stop, which may take several calls with time-outs of their own."""
COUNT_SECONDS = 5.0
BLIND_SECONDS = 300.0
"""How long a provider may not be observed before its machines are given up: an API that throttles for a moment does
not cost a machine the time that it has been watched for."""


class Signs(Protocol):
    """Who speaks for the machines, and the journal."""

    async def read(self) -> FleetSigns | None: ...

    async def journal(self, entry: ProviderCall) -> bool: ...


class RequestCounter(Protocol):
    """Asks engines how many requests they run."""

    async def count_requests(self, machine: str, endpoint: str, timeout_s: float) -> RequestCount: ...


@dataclass
class Suspect:
    """A machine that is billed and that nobody speaks for."""

    verdict: Verdict
    since: float
    """When nobody spoke for it first, by the monotonic clock."""
    led_since: float
    """Since when a waker leads; before that it could not find the machine."""
    stops: int = 0
    is_seen: bool = True
    """Its provider has just said that it is billed."""

    @property
    def due_at(self) -> float:
        return (self.led_since if self.verdict.is_led else self.since) + self.verdict.limit_s

    def updated(self, verdict: Verdict, now: float, *, is_seen: bool) -> "Suspect":
        """Return it as of now."""
        led_since = self.led_since if verdict.is_led and self.verdict.is_led else now
        return replace(self, verdict=verdict, led_since=led_since, is_seen=is_seen)


class Reaper:
    """`machines` are the configured ones, by id: no other is ever touched."""

    def __init__(
        self,
        machines: Mapping[str, tuple[Machine, ProviderName]],
        providers: Mapping[ProviderName, Provider],
        signs: Signs,
        engines: RequestCounter,
        limits: Limits,
        *,
        show: Callable[[str], None],
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._machines = machines
        self._providers = providers
        self._signs = signs
        self._engines = engines
        self._limits = limits
        self._show = show
        self._monotonic = monotonic
        self._sleep = sleep
        self._suspects: dict[str, Suspect] = {}
        self._blind: dict[ProviderName, float] = {}
        """Since when a provider cannot be observed."""
        self._abandoned: set[ProviderName] = set()
        """Those of them that it took too long for."""
        self._done: set[str] = set()
        """Machines that this run leaves as they are."""
        self.has_failed = False
        """A provider could not be observed, or a machine did not stop."""

    async def preview(self) -> None:
        """Show what would be done, and do nothing."""
        await self._update()
        self.has_failed = bool(self._blind)
        for name, suspect in self._suspects.items():
            limit = suspect.verdict.limit_s
            self._show(f"{name}: it is billed and {suspect.verdict.reason}: stopped once that has lasted {limit:.0f} s")

    async def run(self) -> None:
        """Watch the suspects until somebody speaks for each, or it is off."""
        while True:
            await self._update()
            due = self._due()
            for name in due:
                if name != due[0]:
                    await self._update()  # the stop of another one took time, in which somebody may have spoken for it
                if name in self._due():
                    await self._reap(name, self._suspects[name])
            if not self._suspects and self._blind.keys() <= self._abandoned:
                return
            await self._sleep(min(POLL_SECONDS, max(0.1, self._until_due())))

    def _due(self) -> list[str]:
        now = self._monotonic()
        return [name for name, suspect in self._suspects.items() if suspect.is_seen and now >= suspect.due_at]

    def _until_due(self) -> float:
        due = min((suspect.due_at for suspect in self._suspects.values()), default=math.inf)
        return due - self._monotonic() if due > self._monotonic() else RECHECK_SECONDS

    async def _update(self) -> None:
        observations, signs = await self._observe(), await self._signs.read()
        now = self._monotonic()
        for name, observation in observations.items():
            verdict = judge(name, signs, self._limits) if observation.is_billed and name not in self._done else None
            known = self._suspects.pop(name, None)
            if verdict is not None:
                seen = known.updated(verdict, now, is_seen=True) if known else Suspect(verdict, now, now)
                self._suspects[name] = seen
        for name in self._suspects.keys() - observations.keys():  # nothing is certain, so nothing is done
            unseen, verdict = self._suspects.pop(name), judge(name, signs, self._limits)
            if verdict is not None and self._machines[name][1] not in self._abandoned:
                self._suspects[name] = unseen.updated(verdict, now, is_seen=False)

    async def _observe(self) -> dict[str, Observation]:
        """What the providers say of the configured machines. One that cannot be observed hides no other."""
        observations: dict[str, Observation] = {}
        for name, provider in self._providers.items():
            try:
                async with asyncio.timeout(CALL_SECONDS):
                    snapshot = await provider.observe()
            except (ProviderUnavailable, TimeoutError) as error:
                self._report_blindness(name, str(error) or "no answer in time")
                continue
            self._blind.pop(name, None)
            self._abandoned.discard(name)
            observations |= {m: o for m, o in snapshot.observations.items() if m in self._machines}
        return observations

    def _report_blindness(self, name: ProviderName, reason: str) -> None:
        line = f"{name} cannot be observed: {reason}"
        if name not in self._blind:
            self._blind[name] = self._monotonic()
            self._show(line)
        elif name not in self._abandoned and self._monotonic() - self._blind[name] >= BLIND_SECONDS:
            self._abandoned.add(name)
            self._fail(f"{line}: its machines are left alone")

    async def _reap(self, name: str, suspect: Suspect) -> None:
        """Stop the machine, unless its engine runs requests or it was stopped often enough."""
        if suspect.stops >= STOP_LIMIT:
            self._fail(f"{name} is still billed after {STOP_LIMIT} stops: stop it at its provider")
            self._give_up(name)
            return
        machine, provider = self._machines[name]
        if machine.endpoint is not None:
            count = await self._engines.count_requests(name, machine.endpoint, COUNT_SECONDS)
            if count.running:
                reason = suspect.verdict.reason
                self._show(f"{name}: {reason}, but its engine runs {count.running} requests: left alone")
                self._give_up(name)
                return
        suspect.stops += 1
        began = self._monotonic()
        try:
            async with asyncio.timeout(CALL_SECONDS):
                result = await self._providers[provider].stop(name, force=False)
        except TimeoutError:
            result = CallResult(outcome="unknown", code="timeout")
        await self._record(name, suspect, result, self._monotonic() - began)
        if result.outcome == "refused" and result.scope != "transient":
            self._fail(f"{name} was not stopped: {result.reason or result.code}")
            self._give_up(name)

    def _give_up(self, name: str) -> None:
        del self._suspects[name]
        self._done.add(name)

    async def _record(self, name: str, suspect: Suspect, result: CallResult, seconds: float) -> None:
        lasted = f"{suspect.verdict.reason}, for {suspect.verdict.limit_s:.0f} s"
        self._show(f"{name}: {lasted}: stop {result.outcome}")
        entry = ProviderCall(
            at=time.time(), machine=name, call="reap", outcome=result.outcome, code=lasted, seconds=max(0.0, seconds)
        )
        if not await self._signs.journal(entry):
            self._show(f"{name}: the journal could not be reached")

    def _fail(self, line: str) -> None:
        self.has_failed = True
        self._show(line)
