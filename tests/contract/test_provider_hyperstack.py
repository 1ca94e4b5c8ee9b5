"""Hyperstack as a provider, against a pretended Hyperstack over HTTP."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from services.waker.adapters.hyperstack import Hyperstack
from services.waker.adapters.hyperstack_api import HyperstackApi
from shared.clouds.hyperstack import HyperstackAccount
from shared.clouds.throttle import Throttle
from tests.contract.providers import CloudContract, CloudRig, Trouble
from tests.kit import hyperstack_cloud as kit
from tests.kit.hyperstack_cloud import HyperstackCloud, hyperstack_cloud
from tests.kit.hyperstack_machines import FakeVm

LABEL = "spotinference-fleet=test"


@dataclass
class HyperstackRig:
    cloud: HyperstackCloud
    provider: Hyperstack
    vm: FakeVm
    orphan: str
    late: bool
    """Where there is no room, the start is accepted and comes to nothing."""
    machine: str = "h100x2-1"
    unknown: str = "h100x2-2"

    async def wakes(self) -> int:
        self.cloud.state(self.vm)
        return sum(state == "RESTORING" for state, _, _ in self.vm.past) + (self.vm.status == "RESTORING")

    async def meet(self, trouble: Trouble) -> None:
        match trouble:
            case "outage":
                self.cloud.outage = True
            case "denied":
                self.cloud.allowed = False
            case "lost_reply":
                for call in ("hibernate", "hibernate-restore"):
                    self.cloud.fail(call, kit.Trouble(done=True))
            case "no_capacity" if self.late:
                self.vm.ends.append("HIBERNATED")
            case "no_capacity":
                self.cloud.fail("hibernate-restore", kit.Trouble(400, "No valid host was found"))

    async def recover(self) -> None:
        self.cloud.recover()


class TestHyperstack(CloudContract):
    @pytest.fixture(params=[False, True], ids=["at-once", "late"])
    async def rig(self, request: pytest.FixtureRequest) -> AsyncIterator[CloudRig]:
        async with hyperstack_cloud(seconds=0.2) as cloud:
            vm, orphan = cloud.add(labels=[LABEL]), cloud.add("ACTIVE", labels=[LABEL])
            cloud.add("ACTIVE", labels=["spotinference-fleet=other"])
            instances = {"h100x2-1": str(vm.id), "h100x2-2": "999"}
            api = HyperstackApi(HyperstackAccount(cloud.base_url, cloud.key, Throttle(100_000)))
            provider = Hyperstack(api, instances, "test")
            yield HyperstackRig(cloud, provider, vm, f"hyperstack:{orphan.id}", late=request.param)
            await provider.close()
