"""Machines at AWS EC2, where asleep means stopped: one account and region. `ec2_failures` explains its errors."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any

from services.waker.adapters import ec2_observations
from services.waker.adapters.ec2_account import Ec2Account
from services.waker.adapters.ec2_failures import NO_HIBERNATION, SKEW_SECONDS, Failure, clock_fault
from services.waker.adapters.ec2_observations import Described, KnownInstance
from services.waker.core.events import Observation, Orphan
from services.waker.ports import ACCEPTED, AccountSnapshot, CallResult, ProviderUnavailable
from shared.clouds.throttle import Throttle
from shared.config.providers import ProviderName

NAME: ProviderName = "ec2"
FLEET_TAG = "spotinference:fleet"
PAGE_SIZE = 1000
"""Instances in one response: EC2's limit."""
FILTER_VALUES = 200
"""Values in one filter: EC2's limit."""
MAX_PAGES = 50
OBSERVE_TIMEOUT_S = 25.0
"""Seconds for all calls of one observation."""
HIBERNATION_DELAY_S = 180.0
"""For this long after its start, a machine may not be ready to hibernate."""
DRY_RUN_PASSED = "DryRunOperation"
UNKNOWN = "EC2 does not know its instance"


class Ec2:
    """A `Provider`. `instances`: the instance id of each of our machines; `fleet`: the value of our tag."""

    def __init__(
        self,
        region: str,
        instances: Mapping[str, str],
        *,
        fleet: str | None = None,
        endpoint_url: str | None = None,
        calls_per_minute: int = 250,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._instances = dict(instances)
        self._fleet = fleet
        self._clock = clock
        self._account = Ec2Account(region, endpoint_url, Throttle(calls_per_minute), clock=clock)
        self._known: dict[str, KnownInstance] = {}
        """By instance id, from the last observation."""
        self._started: dict[str, float] = {}
        """By instance id: when we started it, which an observation may not show yet."""

    async def observe(self) -> AccountSnapshot:
        try:
            async with asyncio.timeout(OBSERVE_TIMEOUT_S):
                observations = await self._observe()
        except Failure as fault:
            raise ProviderUnavailable(f"EC2: {fault}") from fault
        except TimeoutError:
            raise ProviderUnavailable(f"EC2 did not list everything within {OBSERVE_TIMEOUT_S:g} s") from None
        machines = {machine: observations[i] for machine, i in self._instances.items() if i in observations}
        ours = set(self._instances.values())
        orphans = [
            Orphan(id=f"{NAME}:{i}", provider=NAME, observation=observation)
            for i, observation in observations.items()
            if i not in ours and observation.power != "not_found"
        ]
        return AccountSnapshot(observations=machines, orphans=tuple(orphans))

    async def start(self, machine: str, generation: int) -> CallResult:  # noqa: ARG002 - EC2 counts no generations
        instance = self._instance(machine)
        try:
            await self._account.change("StartInstances", InstanceIds=[instance])
        except Failure as fault:
            locked = self._known[instance].locked if instance in self._known else ""
            if fault.result.code == "IncorrectSpotRequestState" and locked:
                return CallResult(outcome="refused", code=fault.result.code, scope="machine", reason=locked)
            return fault.result
        self._started[instance] = self._clock()
        return ACCEPTED

    async def stop(self, machine: str, *, force: bool) -> CallResult:
        instance = self._instance(machine)
        known = self._known.get(instance)
        try:
            if force and known is not None and known.power == "stopping":
                await self._stop(instance, Force=True)
            elif known is not None and known.hibernates:
                return await self._hibernate(instance, known)
            else:
                await self._stop(instance)
        except Failure as fault:
            return fault.result
        return ACCEPTED

    async def test(self) -> tuple[str, ...]:
        try:
            observations = await self._observe()
        except Failure as fault:
            return (f"EC2: {fault}",)
        known = {m: i for m, i in self._instances.items() if i in observations and observations[i].power != "not_found"}
        faults = [
            *await self._forbidden("StartInstances", known),
            *await self._forbidden("StopInstances", known),
        ]
        if abs(self._account.skew) > SKEW_SECONDS:
            faults.append(f"EC2: {clock_fault(self._account.skew)}")
        return tuple(faults)

    async def close(self) -> None:
        await self._account.close()

    def _instance(self, machine: str) -> str:
        return self._instances.get(machine) or machine.removeprefix(f"{NAME}:")

    async def _stop(self, instance: str, **how: bool) -> None:
        await self._account.change("StopInstances", InstanceIds=[instance], **how)

    async def _hibernate(self, instance: str, known: KnownInstance) -> CallResult:
        try:
            await self._stop(instance, Hibernate=True)
        except Failure as fault:
            if fault.result.code not in NO_HIBERNATION:
                raise
            awake = self._clock() - max(known.launched, self._started.get(instance, 0.0))
            if awake < HIBERNATION_DELAY_S:
                reason = f"it started {awake:.0f} s ago and cannot hibernate yet: to be tried again"
                return CallResult(outcome="refused", code=fault.result.code, scope="transient", reason=reason)
            # Its engine is drained: a plain stop loses only what it had in memory, and saves the money.
            await self._stop(instance)
        return ACCEPTED

    async def _observe(self) -> dict[str, Observation]:
        """What EC2 knows of each of our instances, by its id.

        Raises:
            Failure: a call failed.
        """
        described: dict[str, Described] = {}
        if self._fleet is not None:
            described |= await self._describe({"Name": f"tag:{FLEET_TAG}", "Values": [self._fleet]})
        # With a filter, an unknown or misspelt id is no error: it is just missing from the response.
        missing = [i for i in self._instances.values() if i not in described]
        for values in _parts(missing):
            described |= await self._describe({"Name": "instance-id", "Values": values})
        requests = await self._spot_requests(described.values())
        # On a thread: ten thousand instances take a third of a second.
        observations, self._known = await asyncio.to_thread(_read, described, requests)
        lost = Observation(power="not_found", provider_state="unknown", reason=UNKNOWN)
        return dict.fromkeys((i for i in missing if i not in described), lost) | observations

    async def _describe(self, filters: dict[str, Any]) -> dict[str, Described]:
        pages = self._pages("DescribeInstances", filters)
        return {
            instance["InstanceId"]: instance
            async for page in pages
            for reservation in page["Reservations"]
            for instance in reservation["Instances"]
        }

    async def _spot_requests(self, instances: Iterable[Described]) -> dict[str, Described]:
        """Spot requests, by instance id."""
        ids = [r for instance in instances if (r := instance.get("SpotInstanceRequestId"))]
        requests: dict[str, Described] = {}
        for values in _parts(ids):
            filters = {"Name": "spot-instance-request-id", "Values": values}
            async for page in self._pages("DescribeSpotInstanceRequests", filters):
                requests |= {r["InstanceId"]: r for r in page["SpotInstanceRequests"] if r.get("InstanceId")}
        return requests

    async def _pages(self, action: str, filters: dict[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        token: dict[str, str] = {}
        for _ in range(MAX_PAGES):
            page = await self._account.describe(action, Filters=[filters], MaxResults=PAGE_SIZE, **token)
            yield page
            if not page.get("NextToken"):
                return
            token = {"NextToken": page["NextToken"]}
        reason = f"{action} has more than {MAX_PAGES} pages of {PAGE_SIZE}"  # a part of them would pass for all
        raise Failure(CallResult(outcome="unknown", code="pages", reason=reason))

    async def _forbidden(self, action: str, machines: Mapping[str, str]) -> list[str]:
        """Return why the action would be refused, tried for all machines at once and, if refused, for each alone."""
        result = await self._dry_run(action, machines.values()) if machines else None
        if result is None:
            return []
        each = dict.fromkeys(machines, result)
        if len(machines) > 1 and result.outcome == "refused":
            each = {m: refusal for m, i in machines.items() if (refusal := await self._dry_run(action, [i]))}
        names: dict[str, list[str]] = {}
        for machine, refusal in each.items():
            names.setdefault(f"{refusal.reason} ({refusal.code})", []).append(machine)
        return [f"{', '.join(named)}: {words}" for words, named in names.items()]

    async def _dry_run(self, action: str, instances: Iterable[str]) -> CallResult | None:
        """The refusal; None if the action would be accepted."""
        try:
            await self._account.change(action, InstanceIds=list(instances), DryRun=True)
        except Failure as fault:
            return None if fault.result.code == DRY_RUN_PASSED else fault.result
        return CallResult(outcome="unknown", code="dry-run", reason=f"EC2 took a dry run of {action} for a call")


def _read(
    described: Mapping[str, Described], requests: Mapping[str, Described]
) -> tuple[dict[str, Observation], dict[str, KnownInstance]]:
    """Return what is known of each instance, by its id."""
    observations: dict[str, Observation] = {}
    known: dict[str, KnownInstance] = {}
    for i, instance in described.items():
        observation = ec2_observations.observation_of(instance, requests.get(i))
        if observation is not None:
            observations[i] = observation
            known[i] = ec2_observations.known_instance(instance, observation)
    return observations, known


def _parts(values: list[str]) -> Iterator[list[str]]:
    return (values[at : at + FILTER_VALUES] for at in range(0, len(values), FILTER_VALUES))
