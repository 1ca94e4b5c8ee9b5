"""Virtual machines at Hyperstack: asleep is hibernated. The disk is kept, the GPUs, memory and ephemeral disk are not.

Every change observes the machine first: its state decides which call is made, if any.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog

from services.waker.adapters.hyperstack_api import HyperstackApi, Vm
from services.waker.adapters.hyperstack_responses import (
    POWER_STATES,
    failure_of,
    observation_of,
    refused,
    result_of,
    stock_of,
)
from services.waker.core.events import Observation, Orphan, RefusalScope
from services.waker.ports import ACCEPTED, AccountSnapshot, CallResult, ProviderUnavailable
from shared.clouds.hyperstack import HyperstackError

PROVIDER: Final = "hyperstack"
LABEL = "spotinference-fleet="
MAX_SKEW_S = 60.0
NOT_FOUND_S = 60.0
"""How long a 404 about one machine is remembered before it is requested again."""

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
        """When Hyperstack last had no such instance."""
        self._failures: dict[int, tuple[str, RefusalScope | None]] = {}
        """Why machines are in `ERROR`, or asleep although they were woken."""
        self._woken: set[int] = set()
        """Machines that were woken and have not been observed awake since."""

    async def close(self) -> None:
        await self._api.close()

    async def observe(self) -> AccountSnapshot:
        vms = {str(vm.id): vm for vm in await self._list()}
        ours = set(self._instances.values())
        orphans = [vm for vm in vms.values() if str(vm.id) not in ours and self._label in (vm.labels or [])]
        configured = await self._configured(vms)
        await self._explain_failures([*configured.values(), *orphans])
        observations = {
            machine: observation for machine, vm in configured.items() if (observation := self._observation(vm))
        }
        observations |= {
            machine: _gone(instance) for machine, instance in self._instances.items() if instance in self._gone
        }
        return AccountSnapshot(
            observations=observations,
            orphans=tuple(
                Orphan(id=f"{PROVIDER}:{vm.id}", provider=PROVIDER, observation=observation)
                for vm in orphans
                if (observation := self._observation(vm)) and observation.power != "not_found"
            ),
        )

    async def start(self, machine: str, generation: int) -> CallResult:
        del generation  # the engine starts with the machine
        try:
            vm = await self._api.machine(self._instance(machine))
        except HyperstackError as error:
            return result_of(error)
        match POWER_STATES.get(vm.state):
            case "stopped" | "error":
                return await self._wake(vm, self._api.restore)
            case "stopped_billed":
                return await self._wake(vm, self._api.start)
            case "running" | "starting":
                return ACCEPTED
            case "not_found":
                return refused("machine", f"Hyperstack deletes it: {vm.state}", vm.state)
            case _:
                return refused("transient", f"it cannot be started while it is {vm.state}", vm.state)

    async def stop(self, machine: str, *, force: bool) -> CallResult:
        del force  # there is no forced stop
        try:
            vm = await self._api.machine(self._instance(machine))
        except HyperstackError as error:
            return result_of(error)
        return await self._put_to_sleep(vm)

    async def test(self) -> tuple[str, ...]:
        """There is no dry run, so what the key may change is unknown. An observation shows missing machines."""
        try:
            vms = {str(vm.id): vm for vm in await self._api.machines()}
        except HyperstackError as error:
            return (f"{PROVIDER}: {result_of(error).reason}",)
        faults = [] if abs(self._api.skew or 0.0) <= MAX_SKEW_S else [_skewed(self._api.skew or 0.0)]
        for machine, instance in self._instances.items():
            vm = vms.get(instance)
            if vm is not None and not vm.hibernates:
                faults.append(f"machine {machine}: its flavor cannot hibernate ({vm.pool}): take another, or no waker")
        return tuple(faults)

    def _instance(self, machine: str) -> str:
        return self._instances.get(machine) or machine.removeprefix(f"{PROVIDER}:")

    async def _list(self) -> list[Vm]:
        try:
            return await self._api.machines()
        except HyperstackError as error:
            raise ProviderUnavailable(f"{PROVIDER}: {result_of(error).reason} ({error.code})") from error

    async def _configured(self, vms: Mapping[str, Vm]) -> dict[str, Vm]:
        """The configured machines by our ids. What the list lacks is requested singly until a call fails."""
        configured = {machine: vms[instance] for machine, instance in self._instances.items() if instance in vms}
        now = self._now()
        self._gone = {i: at for i, at in self._gone.items() if i not in vms and at <= now < at + NOT_FOUND_S}
        for machine, instance in self._instances.items():
            if machine in configured or instance in self._gone:
                continue
            try:
                configured[machine] = await self._api.machine(instance)
            except HyperstackError as error:
                if error.status == 404:
                    self._gone[instance] = now
                elif result_of(error).scope != "machine":
                    break
        return configured

    async def _explain_failures(self, vms: list[Vm]) -> None:
        """Read the events of failed machines, once for each failure."""
        powers = {vm.id: POWER_STATES.get(vm.state) for vm in vms}
        self._woken -= {id_ for id_, power in powers.items() if power == "running"}
        failed = {
            id_ for id_, power in powers.items() if power == "error" or (power == "stopped" and id_ in self._woken)
        }
        self._failures = {id_: why for id_, why in self._failures.items() if id_ in failed}
        for id_ in failed - self._failures.keys():
            try:
                self._failures[id_] = failure_of(await self._api.events(str(id_)))
            except HyperstackError as error:
                log.warning("hyperstack_events_unread", instance=id_, error=str(error))
                return

    def _observation(self, vm: Vm) -> Observation | None:
        observation = observation_of(vm, *self._failures.get(vm.id, ("", None)))
        if observation is None:
            log.warning("hyperstack_state_unknown", instance=vm.id, state=vm.state)
        return observation

    async def _put_to_sleep(self, vm: Vm) -> CallResult:
        power = POWER_STATES.get(vm.state)
        if vm.state == "HIBERNATING" or power in ("stopped", "not_found"):
            return ACCEPTED
        if power == "error":
            return refused("machine", "it is in ERROR and cannot be hibernated: fix it in the console", vm.state)
        if power not in ("running", "stopped_billed"):
            return refused("transient", f"it cannot be hibernated while it is {vm.state}", vm.state)
        if not vm.hibernates:
            return refused("machine", f"its flavor cannot hibernate, and is billed all the time: {vm.pool}", vm.state)
        if power == "running":
            return await self._changed(vm, self._api.hibernate, ("HIBERNATING", "HIBERNATED"))
        # It is off and billed in full, and only active machines hibernate: the next call does that.
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

    async def _changed(self, vm: Vm, call: Callable[[str], Awaitable[None]], expected: tuple[str, ...]) -> CallResult:
        """Make a call. A 400 may mean that the state has changed; `expected` are the states after an earlier call."""
        try:
            await call(str(vm.id))
            return ACCEPTED
        except HyperstackError as error:
            result = result_of(error)
            if error.status not in (400, 409) or result.scope in ("account", "quota", "capacity_pool"):
                return result
        try:
            state = (await self._api.machine(str(vm.id))).state
        except HyperstackError:
            return CallResult(outcome="unknown", code=result.code, reason=result.reason)
        if state in expected:
            return CallResult(outcome="unknown", code=result.code, reason=f"it is {state} already: {result.reason}")
        if state != vm.state or POWER_STATES.get(state) in ("stopping", "starting"):
            return refused("transient", f"it is {state}: {result.reason}", result.code)
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
