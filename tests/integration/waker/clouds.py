"""The two clouds as one kind of thing: what tests of the whole ask of either, in the words of neither."""

import asyncio
from collections.abc import Mapping
from typing import Protocol

from shared.config.providers import ProviderName
from tests.kit.hyperstack_cloud import HyperstackCloud, Trouble
from tests.kit.moto_cloud import REGION, MotoCloud

FLEET = "spot"
UNKNOWN = {"ec2": "i-0123456789abcdef0", "hyperstack": "999999"}
"""Ids of machines that neither cloud has."""


class SimulatedCloud(Protocol):
    """Machines go by the cloud's ids. What fails does so until `heal`, unless it says otherwise."""

    provider: ProviderName
    section: str
    """Of the configuration."""
    secrets: Mapping[str, str]
    """Of the waker's environment."""

    def add(self, *, pool: int = 0, running: bool = False, fleet: str | None = None) -> str: ...

    def slow(self, seconds: float) -> None:
        """Changes of the machines that there are take so long, those included that are under way."""

    async def up(self) -> set[str]:
        """The machines whose engines run."""
        ...

    async def asleep(self) -> set[str]: ...

    def wakes(self, instance: str) -> int: ...

    def no_room(self, instance: str) -> None:
        """The next start is refused."""

    def comes_to_nothing(self, instance: str) -> None:
        """The next start is accepted, and the machine sleeps again."""

    def lose_start(self) -> None:
        """The next start is done and not answered."""

    def lose_stop(self) -> None:
        """The next stop is done and not answered."""

    def throttle(self) -> None:
        """A few looks and the next two starts are too many calls."""

    def down(self) -> None:
        """No call is answered with more than an error."""

    def forbid(self) -> None:
        """The credentials are good and may put nothing to sleep."""

    def heal(self) -> None: ...


class SimulatedEc2:
    provider: ProviderName = "ec2"

    def __init__(self, cloud: MotoCloud) -> None:
        self.cloud = cloud
        self.section = f'[provider.ec2]\nregion = "{REGION}"\nendpoint_url = "{cloud.endpoint_url}"\n'
        self.secrets = {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
        }

    def add(self, *, pool: int = 0, running: bool = False, fleet: str | None = None) -> str:
        return self.cloud.add_machine(zone=f"{REGION}{'abc'[pool]}", running=running, fleet=fleet)

    def slow(self, seconds: float) -> None:
        self.cloud.take(start=seconds, stop=seconds)

    async def up(self) -> set[str]:
        return await self._in("running")

    async def asleep(self) -> set[str]:
        return await self._in("stopped")

    async def _in(self, word: str) -> set[str]:
        return {i for i, state in (await asyncio.to_thread(self.cloud.states)).items() if state == word}

    def wakes(self, instance: str) -> int:
        return self.cloud.wakes(instance)

    def no_room(self, instance: str) -> None:
        self.cloud.fail("StartInstances", code="InsufficientInstanceCapacity", status=500, instance=instance)

    def comes_to_nothing(self, instance: str) -> None:
        self.cloud.empty()

    def lose_start(self) -> None:
        self.cloud.fail("StartInstances", lost_reply=True)

    def lose_stop(self) -> None:
        self.cloud.fail("StopInstances", lost_reply=True)

    def throttle(self) -> None:
        self.cloud.fail("DescribeInstances", code="RequestLimitExceeded", status=503, times=4)
        self.cloud.fail("StartInstances", code="RequestLimitExceeded", status=503, times=2)

    def down(self) -> None:
        self.cloud.fail("*", code="Unavailable", status=503, times=None)

    def forbid(self) -> None:
        self.cloud.fail("StopInstances", code="UnauthorizedOperation", status=403, times=None)

    def heal(self) -> None:
        self.cloud.heal()


class SimulatedHyperstack:
    provider: ProviderName = "hyperstack"

    def __init__(self, cloud: HyperstackCloud) -> None:
        self.cloud = cloud
        self.section = f'[provider.hyperstack]\nbase_url = "{cloud.base_url}"\n'
        self.secrets = {"HYPERSTACK_API_KEY": cloud.key}

    def add(self, *, pool: int = 0, running: bool = False, fleet: str | None = None) -> str:
        labels = [] if fleet is None else [f"spotinference-fleet={fleet}"]
        status = "ACTIVE" if running else "HIBERNATED"
        return str(self.cloud.add(status, labels=labels, region=f"CANADA-{pool + 1}").id)

    def slow(self, seconds: float) -> None:
        for vm in self.cloud.vms.values():
            vm.seconds = seconds

    async def up(self) -> set[str]:
        return self._in("ACTIVE")

    async def asleep(self) -> set[str]:
        return self._in("HIBERNATED")

    def _in(self, word: str) -> set[str]:
        return {str(vm.id) for vm in self.cloud.vms.values() if self.cloud.state(vm) == word}

    def wakes(self, instance: str) -> int:
        vm = self.cloud.vms[int(instance)]
        return [vm.status, *(word for word, _, _ in vm.past)].count("RESTORING")

    def no_room(self, instance: str) -> None:
        self.cloud.fail("hibernate-restore", Trouble(400, "No valid host was found"))

    def comes_to_nothing(self, instance: str) -> None:
        self.cloud.vms[int(instance)].ends.append("HIBERNATED")

    def lose_start(self) -> None:
        self.cloud.fail("hibernate-restore", Trouble(done=True))

    def lose_stop(self) -> None:
        self.cloud.fail("hibernate", Trouble(done=True))

    def throttle(self) -> None:
        self.cloud.fail("list", Trouble(429, "Too Many Requests"), times=2)
        self.cloud.fail("hibernate-restore", Trouble(429, "Too Many Requests"), times=2)

    def down(self) -> None:
        self.cloud.outage = True

    def forbid(self) -> None:
        self.cloud.fail("hibernate", Trouble(403, "You do not have permission"), times=1000)

    def heal(self) -> None:
        self.cloud.recover()
