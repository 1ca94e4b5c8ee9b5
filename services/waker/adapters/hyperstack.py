"""Virtual machines at Hyperstack: asleep is hibernated. The disk is kept, the GPUs, memory and ephemeral disk are not.

Every change looks at the machine first: which call it takes, and whether any, follows from its state.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog

from services.waker.adapters.hyperstack_api import HyperstackApi, Vm
from services.waker.adapters.hyperstack_responses import (
    POWER_STATES,
    failure_of,
    refused,
    result_of,
    sight_of,
    stock_of,
)
from services.waker.core.events import Observation, Orphan, RefusalScope
from services.waker.ports import ACCEPTED, AccountSnapshot, CallResult, ProviderUnavailable
from shared.clouds.hyperstack import HyperstackError

PROVIDER: Final = "hyperstack"
LABEL = "spotinference-fleet="
MAX_SKEW = 60.0
GONE_SECONDS = 60.0
"""How long a 404 about one machine holds before it is asked for again."""

log = structlog.get_logger()


class Hyperstack:
    """A `Provider`. `instances`: our ids to theirs; `fleet`: whose label marks machines as ours."""

    def __init__(
        self,
        api: HyperstackApi,
        instances: Mapping[str, str],
        fleet: str | None,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._instances = instances
        self._label = f"{LABEL}{fleet}" if fleet else None
        self._now = now
        self._gone: dict[str, float] = {}
        """When Hyperstack said of an instance that it has none."""
        self._failures: dict[int, tuple[str, RefusalScope | None]] = {}
        """Why machines are in `ERROR`, or sleep though they were woken."""
        self._woken: set[int] = set()
        """Told to wake, and not seen awake since."""

    async def close(self) -> None:
        await self._api.close()

    async def observe(self) -> AccountSnapshot:
        vms = {str(vm.id): vm for vm in await self._listed()}
        ours = set(self._instances.values())
        orphans = [vm for vm in vms.values() if str(vm.id) not in ours and self._label in (vm.labels or [])]
        configured = await self._configured(vms)
        await self._ask_why([*configured.values(), *orphans])
        observations = {machine: observation for machine, vm in configured.items() if (observation := self._sight(vm))}
        observations |= {
            machine: _gone(instance) for machine, instance in self._instances.items() if instance in self._gone
        }
        return AccountSnapshot(
            observations=observations,
            orphans=tuple(
                Orphan(id=f"{PROVIDER}:{vm.id}", provider=PROVIDER, observation=observation)
                for vm in orphans
                if (observation := self._sight(vm)) and observation.power != "not_found"
            ),
        )

    async def start(self, machine: str, generation: int) -> CallResult:
        del generation  # one machine, one engine: it starts with the machine
        try:
            vm = await self._api.machine(self._instance(machine))
        except HyperstackError as fault:
            return result_of(fault)
        match POWER_STATES.get(vm.word):
            case "stopped" | "error":
                return await self._wake(vm, self._api.restore)
            case "stopped_billed":
                return await self._wake(vm, self._api.start)
            case "running" | "starting":
                return ACCEPTED
            case "not_found":
                return refused("machine", f"Hyperstack deletes it: {vm.word}", vm.word)
            case _:
                return refused("transient", f"it cannot be started while it is {vm.word}", vm.word)

    async def stop(self, machine: str, *, force: bool) -> CallResult:
        del force  # there is no harder way
        try:
            vm = await self._api.machine(self._instance(machine))
        except HyperstackError as fault:
            return result_of(fault)
        return await self._put_to_sleep(vm)

    async def test(self) -> tuple[str, ...]:
        """There is no dry run: what the key may change is not known before. Machines that are gone, a look tells."""
        try:
            vms = {str(vm.id): vm for vm in await self._api.machines()}
        except HyperstackError as fault:
            return (f"{PROVIDER}: {result_of(fault).reason}",)
        found = [] if abs(self._api.skew or 0.0) <= MAX_SKEW else [_skewed(self._api.skew or 0.0)]
        for machine, instance in self._instances.items():
            vm = vms.get(instance)
            if vm is not None and not vm.hibernates:
                found.append(f"machine {machine}: its flavor cannot hibernate ({vm.pool}): take another, or no waker")
        return tuple(found)

    def _instance(self, machine: str) -> str:
        return self._instances.get(machine) or machine.removeprefix(f"{PROVIDER}:")

    async def _listed(self) -> list[Vm]:
        try:
            return await self._api.machines()
        except HyperstackError as fault:
            raise ProviderUnavailable(f"{PROVIDER}: {result_of(fault).reason} ({fault.code})") from fault

    async def _configured(self, vms: Mapping[str, Vm]) -> dict[str, Vm]:
        """By our ids; what the list lacks is asked for singly, until one call fails."""
        found = {machine: vms[instance] for machine, instance in self._instances.items() if instance in vms}
        now = self._now()
        self._gone = {i: at for i, at in self._gone.items() if i not in vms and at <= now < at + GONE_SECONDS}
        for machine, instance in self._instances.items():
            if machine in found or instance in self._gone:
                continue
            try:
                found[machine] = await self._api.machine(instance)
            except HyperstackError as fault:
                if fault.status == 404:
                    self._gone[instance] = now
                elif result_of(fault).scope != "machine":
                    break
        return found

    async def _ask_why(self, vms: list[Vm]) -> None:
        """Once for each time that something failed."""
        powers = {vm.id: POWER_STATES.get(vm.word) for vm in vms}
        self._woken -= {id_ for id_, power in powers.items() if power == "running"}
        failed = {
            id_ for id_, power in powers.items() if power == "error" or (power == "stopped" and id_ in self._woken)
        }
        self._failures = {id_: why for id_, why in self._failures.items() if id_ in failed}
        for id_ in failed - self._failures.keys():
            try:
                self._failures[id_] = failure_of(await self._api.events(str(id_)))
            except HyperstackError as fault:
                log.warning("hyperstack_events_unread", instance=id_, error=str(fault))
                return

    def _sight(self, vm: Vm) -> Observation | None:
        observation = sight_of(vm, *self._failures.get(vm.id, ("", None)))
        if observation is None:
            log.warning("hyperstack_state_unknown", instance=vm.id, state=vm.word)
        return observation

    async def _put_to_sleep(self, vm: Vm) -> CallResult:
        power = POWER_STATES.get(vm.word)
        if vm.word == "HIBERNATING" or power in ("stopped", "not_found"):
            return ACCEPTED
        if power == "error":
            return refused("machine", "it is in ERROR and cannot be hibernated: see to it in the console", vm.word)
        if power not in ("running", "stopped_billed"):
            return refused("transient", f"it cannot be hibernated while it is {vm.word}", vm.word)
        if not vm.hibernates:
            return refused("machine", f"its flavor cannot hibernate, and is billed all the time: {vm.pool}", vm.word)
        if power == "running":
            return await self._changed(vm, self._api.hibernate, ("HIBERNATING", "HIBERNATED"))
        # Off and billed in full, and only what is active can hibernate: that is for the next call.
        return await self._changed(vm, self._api.start, ("STARTING", "ACTIVE"))

    async def _wake(self, vm: Vm, call: Callable[[str], Awaitable[None]]) -> CallResult:
        result = await self._changed(vm, call, ("RESTORING", "STARTING", "ACTIVE"))
        if result.outcome != "refused":
            self._failures.pop(vm.id, None)
            self._woken.add(vm.id)
        if result.scope != "capacity_pool":
            return result
        try:
            stock = stock_of(await self._api.stocks(), vm)
        except HyperstackError:
            stock = ""
        return refused("capacity_pool", "; ".join(part for part in (result.reason, stock) if part), result.code)

    async def _changed(self, vm: Vm, call: Callable[[str], Awaitable[None]], wanted: tuple[str, ...]) -> CallResult:
        """A 400 may be about a state that changed since we looked; `wanted` are those that an earlier call brought."""
        try:
            await call(str(vm.id))
            return ACCEPTED
        except HyperstackError as fault:
            result = result_of(fault)
            if fault.status not in (400, 409) or result.scope in ("account", "quota", "capacity_pool"):
                return result
        try:
            word = (await self._api.machine(str(vm.id))).word
        except HyperstackError:
            return CallResult(outcome="unknown", code=result.code, reason=result.reason)
        if word in wanted:
            return CallResult(outcome="unknown", code=result.code, reason=f"it is {word} already: {result.reason}")
        if word != vm.word or POWER_STATES.get(word) in ("stopping", "starting"):
            return refused("transient", f"it is {word}: {result.reason}", result.code)
        return result


def _gone(instance: str) -> Observation:
    return Observation(
        power="not_found", provider_state="404", reason=f"Hyperstack has no machine {instance} for this key"
    )


def _skewed(seconds: float) -> str:
    side = "ahead of" if seconds > 0 else "behind"
    return (
        f"{PROVIDER}: this machine's clock is {abs(seconds):.0f} s {side} Hyperstack's: "
        "set up time synchronisation here, such as chrony"
    )
