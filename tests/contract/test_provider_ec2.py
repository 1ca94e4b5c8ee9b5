"""The provider `ec2` at moto's EC2, with what real machines and a real API do added (`tests/kit/moto_cloud`)."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from services.waker.adapters.ec2 import Ec2
from tests.contract.providers import CloudContract, Trouble
from tests.kit.moto_cloud import REGION, MotoCloud, moto_process

FLEET = "test"


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoCloud]:
    with moto_process() as cloud:
        yield cloud


@pytest.fixture
def cloud(moto: MotoCloud, monkeypatch: pytest.MonkeyPatch) -> MotoCloud:
    moto.reset()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    return moto


@dataclass
class Ec2Rig:
    provider: Ec2
    cloud: MotoCloud
    instance: str
    stray: str
    machine: str = "m1"
    unknown: str = "m2"

    async def wakes(self) -> int:
        return await asyncio.to_thread(self.cloud.wakes, self.instance)

    async def meet(self, trouble: Trouble) -> None:
        match trouble:
            case "outage":
                self.cloud.fail("*", code="Unavailable", status=503, times=None)
            case "denied":
                self.cloud.fail("*", code="UnauthorizedOperation", status=403, times=None)
            case "lost_reply":
                self.cloud.fail("StartInstances", lost_reply=True)
                self.cloud.fail("StopInstances", lost_reply=True)
            case "no_capacity":
                self.cloud.fail("StartInstances", code="InsufficientInstanceCapacity", status=500)

    async def recover(self) -> None:
        self.cloud.heal()


@pytest.fixture
async def rig(cloud: MotoCloud) -> AsyncIterator[Ec2Rig]:
    instance = cloud.add_machine()
    stray = cloud.add_machine(fleet=FLEET, running=True)
    provider = Ec2(REGION, {"m1": instance, "m2": "i-0123456789abcdef0"}, fleet=FLEET, endpoint_url=cloud.endpoint_url)
    yield Ec2Rig(provider, cloud, instance, f"ec2:{stray}")
    await provider.close()


class TestEc2(CloudContract):
    @pytest.fixture
    def rig(self, rig: Ec2Rig) -> Ec2Rig:
        return rig
