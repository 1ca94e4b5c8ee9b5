"""The provider `ec2` at moto's EC2, with what real machines and a real API do added (`tests/kit/moto_cloud`)."""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from services.waker.adapters import ec2, ec2_account
from services.waker.adapters.ec2 import Ec2
from services.waker.core.events import Observation, PowerState
from services.waker.ports import ProviderUnavailable
from tests.contract.providers import CloudContract, Trouble
from tests.kit.moto_cloud import REGION, MotoCloud, moto_process
from tests.kit.waiting import until

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
    orphan: str
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
    orphan = cloud.add_machine(fleet=FLEET, running=True)
    provider = Ec2(REGION, {"m1": instance, "m2": "i-0123456789abcdef0"}, fleet=FLEET, endpoint_url=cloud.endpoint_url)
    yield Ec2Rig(provider, cloud, instance, f"ec2:{orphan}")
    await provider.close()


class TestEc2(CloudContract):
    @pytest.fixture
    def rig(self, rig: Ec2Rig) -> Ec2Rig:
        return rig


class Account:
    """Providers at the cloud, closed with the test."""

    def __init__(self, cloud: MotoCloud) -> None:
        self.cloud = cloud
        self._made: list[Ec2] = []

    def provider(self, *instances: str, late: float = 0.0, fleet: str | None = None, url: str | None = None) -> Ec2:
        """Of machines `m1`, `m2` and so on; its clock is so many seconds late."""
        provider = Ec2(
            REGION,
            {f"m{number}": instance for number, instance in enumerate(instances, 1)},
            fleet=fleet,
            endpoint_url=url or self.cloud.endpoint_url,
            clock=lambda: time.time() - late,
        )
        self._made.append(provider)
        return provider

    async def close(self) -> None:
        for provider in self._made:
            await provider.close()


@pytest.fixture
async def account(cloud: MotoCloud) -> AsyncIterator[Account]:
    account = Account(cloud)
    yield account
    await account.close()


async def seen(provider: Ec2, machine: str = "m1") -> Observation:
    return (await provider.observe()).observations[machine]


async def reached(provider: Ec2, power: PowerState) -> Observation:
    return await until(lambda: seen(provider), lambda observation: observation.power == power)


class TestObserve:
    async def test_one_call_sees_all_that_carry_the_mark(self, account: Account) -> None:
        marked = [account.cloud.add_machine(fleet=FLEET) for _ in range(3)]
        await account.provider(*marked, fleet=FLEET).observe()
        assert account.cloud.calls() == {"DescribeInstances": 1}

    async def test_those_without_the_mark_cost_one_more_and_spot_machines_one_more(self, account: Account) -> None:
        cloud = account.cloud
        instances = cloud.add_machine(fleet=FLEET), cloud.add_machine(), cloud.add_machine(spot=True)
        snapshot = await account.provider(*instances, "i-0123456789abcdef0", fleet=FLEET).observe()
        assert {m: s.power for m, s in snapshot.observations.items()} == {
            "m1": "stopped",
            "m2": "stopped",
            "m3": "stopped",
            "m4": "not_found",
        }
        assert cloud.calls() == {"DescribeInstances": 2, "DescribeSpotInstanceRequests": 1}

    async def test_pages_are_read_to_the_end(self, account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ec2, "PAGE_SIZE", 2)
        for _ in range(5):
            account.cloud.add_machine(fleet=FLEET, running=True)
        assert len((await account.provider(fleet=FLEET).observe()).orphans) == 5
        assert account.cloud.calls() == {"DescribeInstances": 3}

    async def test_a_list_that_does_not_end_is_an_error(
        self, account: Account, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ec2, "PAGE_SIZE", 2)
        monkeypatch.setattr(ec2, "MAX_PAGES", 2)
        for _ in range(5):
            account.cloud.add_machine(fleet=FLEET, running=True)
        with pytest.raises(ProviderUnavailable, match="more than 2 pages of 2"):
            await account.provider(fleet=FLEET).observe()

    async def test_misspelt_unknown_and_terminated_machines_are_gone_and_the_others_are_not(
        self, account: Account
    ) -> None:
        cloud = account.cloud
        terminated, good = cloud.add_machine(fleet=FLEET), cloud.add_machine()
        cloud.terminate(terminated)
        provider = account.provider(terminated, "i-0123456789abcdef0", "arn:aws:nonsense", good, fleet=FLEET)
        snapshot = await provider.observe()
        assert [snapshot.observations[f"m{n}"].power for n in range(1, 5)] == [
            "not_found",
            "not_found",
            "not_found",
            "stopped",
        ]
        assert not snapshot.orphans

    async def test_what_is_marked_and_terminated_is_no_stray(self, account: Account) -> None:
        account.cloud.terminate(account.cloud.add_machine(fleet=FLEET))
        account.cloud.add_machine(fleet="another", running=True)
        assert (await account.provider(fleet=FLEET).observe()).orphans == ()

    async def test_only_configured_machines_are_observed_without_a_mark(self, account: Account) -> None:
        account.cloud.add_machine(fleet=FLEET, running=True)
        snapshot = await account.provider(account.cloud.add_machine()).observe()
        assert (list(snapshot.observations), snapshot.orphans) == (["m1"], ())

    async def test_a_hiccup_is_got_over(self, account: Account) -> None:
        provider = account.provider(account.cloud.add_machine())
        account.cloud.fail("DescribeInstances", code="InternalError", status=500, times=2)
        assert (await seen(provider)).power == "stopped"
        assert account.cloud.calls() == {"DescribeInstances": 3}

    async def test_silent_account_is_unavailable_in_time(
        self, account: Account, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        provider = account.provider(account.cloud.add_machine())
        await provider.observe()
        monkeypatch.setattr(ec2, "OBSERVE_TIMEOUT_S", 0.1)
        account.cloud.fail("DescribeInstances", seconds=2.0)
        with pytest.raises(ProviderUnavailable, match="within"):
            await provider.observe()

    async def test_a_description_may_be_older_than_a_call(self, account: Account) -> None:
        instance = account.cloud.add_machine()
        provider = account.provider(instance)
        account.cloud.lag(1000)
        assert (await provider.start("m1", 1)).outcome == "accepted"
        assert (await seen(provider)).power == "stopped"
        account.cloud.lag(0)
        await reached(provider, "running")
        account.cloud.lag(1000)
        assert (await seen(provider)).power == "stopped"
        assert account.cloud.wakes(instance) == 1


class TestStart:
    async def test_a_call_that_nobody_waits_for_any_more_is_not_made(
        self, account: Account, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ec2_account, "CALL_SECONDS", 0.0)
        provider = account.provider(account.cloud.add_machine())
        assert (await provider.start("m1", 1)).outcome == "unknown"
        await provider.observe()
        assert account.cloud.calls() == {"DescribeInstances": 1}

    @pytest.mark.parametrize(
        ("code", "status", "outcome", "scope"),
        [
            ("InsufficientInstanceCapacity", 500, "refused", "capacity_pool"),
            ("VcpuLimitExceeded", 400, "refused", "quota"),
            ("IncorrectSpotRequestState", 400, "refused", "transient"),
            ("RequestLimitExceeded", 503, "refused", "transient"),
            ("Unavailable", 503, "unknown", None),
            ("InternalError", 500, "unknown", None),
            ("OptInRequired", 401, "refused", "account"),
        ],
    )
    async def test_refusal_is_returned_and_not_retried(
        self, account: Account, code: str, status: int, outcome: str, scope: str | None
    ) -> None:
        instance = account.cloud.add_machine()
        account.cloud.fail("StartInstances", code=code, status=status)
        result = await account.provider(instance).start("m1", 1)
        assert (result.outcome, result.code, result.scope) == (outcome, code, scope)
        assert account.cloud.calls() == {"StartInstances": 1}
        assert account.cloud.wakes(instance) == 0

    async def test_call_with_a_lost_reply_is_not_repeated(self, account: Account) -> None:
        account.cloud.fail("StartInstances", lost_reply=True)
        assert (await account.provider(account.cloud.add_machine()).start("m1", 1)).outcome == "unknown"
        assert account.cloud.calls() == {"StartInstances": 1}

    async def test_an_answer_that_does_not_come_in_time_is_unknown(
        self, account: Account, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        provider = account.provider(account.cloud.add_machine())
        assert await provider.test() == ()
        monkeypatch.setattr(ec2_account, "CALL_SECONDS", 0.1)
        account.cloud.fail("StartInstances", seconds=2.0)
        result = await provider.start("m1", 1)
        assert (result.outcome, result.code) == ("unknown", "timeout")
        await reached(provider, "running")

    async def test_a_start_that_comes_to_nothing_is_seen(self, account: Account) -> None:
        provider = account.provider(account.cloud.add_machine(kind="p4d.24xlarge", zone="us-east-1b"))
        account.cloud.empty()
        assert (await provider.start("m1", 1)).outcome == "accepted"
        observation = await reached(provider, "stopped")
        assert (observation.scope, observation.pool) == ("capacity_pool", "p4d.24xlarge/us-east-1b/on-demand")
        assert "Server.InsufficientInstanceCapacity" in observation.reason

    async def test_all_calls_pause_when_ec2_wants_fewer(self, account: Account) -> None:
        provider = account.provider(account.cloud.add_machine())
        await provider.observe()
        account.cloud.fail("StartInstances", code="RequestLimitExceeded", status=503)
        assert (await provider.start("m1", 1)).scope == "transient"
        before = time.monotonic()
        await provider.observe()
        assert time.monotonic() - before >= 1.0

    async def test_unreachable_endpoint_means_the_call_was_not_made(self, account: Account) -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            provider = account.provider("i-1", url=f"http://127.0.0.1:{nobody.getsockname()[1]}")
            result = await provider.start("m1", 1)
            assert (result.outcome, result.code) == ("failed", "EndpointConnectionError")
            with pytest.raises(ProviderUnavailable, match=r"provider\.ec2\.region"):
                await provider.observe()
            assert await provider.test()


class TestStop:
    async def test_what_can_hibernate_does(self, account: Account) -> None:
        provider = account.provider(account.cloud.add_machine(hibernates=True, running=True))
        await provider.observe()
        assert (await provider.stop("m1", force=False)).outcome == "accepted"
        assert (await reached(provider, "stopped")).reason.startswith("Client.UserInitiatedHibernate")

    async def test_what_cannot_is_stopped(self, account: Account) -> None:
        provider = account.provider(account.cloud.add_machine(running=True))
        await provider.observe()
        assert (await provider.stop("m1", force=False)).outcome == "accepted"
        assert (await reached(provider, "stopped")).reason.startswith("Client.UserInitiatedShutdown")
        assert account.cloud.calls()["StopInstances"] == 1

    async def test_hibernation_just_after_a_start_is_refused_transiently(self, account: Account) -> None:
        provider = account.provider(account.cloud.add_machine(hibernates=True))
        await provider.observe()
        account.cloud.no_hibernation_before(1000)
        await provider.start("m1", 1)
        await reached(provider, "running")
        result = await provider.stop("m1", force=False)
        assert (result.outcome, result.scope, result.code) == ("refused", "transient", "UnsupportedOperation")
        assert (await seen(provider)).power == "running"

    @pytest.mark.parametrize("code", ["UnsupportedHibernationConfiguration", "UnsupportedOperation"])
    async def test_what_should_hibernate_and_does_not_is_stopped(self, account: Account, code: str) -> None:
        provider = account.provider(account.cloud.add_machine(hibernates=True, running=True), late=-200)
        await provider.observe()
        account.cloud.fail("StopInstances", code=code)
        assert (await provider.stop("m1", force=False)).outcome == "accepted"
        assert (await reached(provider, "stopped")).reason.startswith("Client.UserInitiatedShutdown")

    async def test_other_hibernation_failures_are_returned(self, account: Account) -> None:
        provider = account.provider(account.cloud.add_machine(hibernates=True, running=True), late=-200)
        await provider.observe()
        account.cloud.fail("StopInstances", code="Unavailable", status=503)
        assert (await provider.stop("m1", force=False)).outcome == "unknown"
        assert account.cloud.calls()["StopInstances"] == 1

    async def test_only_force_ends_what_is_stuck_on_its_way_down(self, account: Account) -> None:
        account.cloud.take(stop=1000)
        provider = account.provider(account.cloud.add_machine(running=True))
        assert (await provider.stop("m1", force=True)).outcome == "accepted"
        assert (await seen(provider)).power == "stopping"
        await provider.stop("m1", force=False)
        assert (await seen(provider)).power == "stopping"
        assert (await provider.stop("m1", force=True)).outcome == "accepted"
        await reached(provider, "stopped")


class TestSpot:
    async def test_one_that_ec2_takes_back_is_leaving_and_then_locked(self, account: Account) -> None:
        instance = account.cloud.add_machine(spot=True, running=True)
        provider = account.provider(instance)
        observation = await seen(provider)
        assert (observation.power, observation.leaving, observation.pool) == (
            "running",
            "",
            "p5.48xlarge/us-east-1a/spot",
        )
        account.cloud.reclaim(instance, "marked-for-stop")
        assert "marked-for-stop" in (await seen(provider)).leaving
        account.cloud.reclaim(instance, "instance-stopped-no-capacity")
        observation = await seen(provider)
        assert (observation.power, observation.leaving) == ("stopped", "")
        assert "only EC2" in observation.locked
        result = await provider.start("m1", 1)
        assert (result.outcome, result.scope, result.reason) == ("refused", "machine", observation.locked)

    async def test_one_that_we_stopped_can_be_started(self, account: Account) -> None:
        provider = account.provider(account.cloud.add_machine(spot=True, running=True))
        await provider.stop("m1", force=False)
        assert (await reached(provider, "stopped")).locked == ""
        assert (await provider.start("m1", 2)).outcome == "accepted"
        await reached(provider, "running")


class TestSelfTest:
    @pytest.mark.parametrize("action", ["StartInstances", "StopInstances"])
    async def test_a_machine_that_may_not_be_called_is_named_with_the_permission(
        self, account: Account, action: str
    ) -> None:
        first, second = account.cloud.add_machine(), account.cloud.add_machine()
        account.cloud.fail(action, code="UnauthorizedOperation", status=403, times=None, instance=second)
        (fault,) = await account.provider(first, second).test()
        assert fault.startswith("m2: ")
        assert f"ec2:{action}" in fault
        assert not {"StartInstances", "StopInstances"} & account.cloud.calls().keys()

    async def test_a_machine_that_is_gone_is_no_fault_of_the_account(self, account: Account) -> None:
        unknown = "i-0123456789abcdef0"
        for action in ("StartInstances", "StopInstances"):
            account.cloud.fail(action, code="InvalidInstanceID.NotFound", times=None, instance=unknown)
        assert await account.provider(account.cloud.add_machine(), unknown).test() == ()

    async def test_permission_that_all_machines_lack_is_reported_once(self, account: Account) -> None:
        account.cloud.fail("StartInstances", code="UnauthorizedOperation", status=403, times=None)
        (fault,) = await account.provider(account.cloud.add_machine(), account.cloud.add_machine()).test()
        assert fault.startswith("m1, m2: ")

    @pytest.mark.parametrize(("late", "words"), [(120, "behind"), (-120, "ahead of")])
    async def test_a_wrong_clock_is_a_fault(self, account: Account, late: float, words: str) -> None:
        (fault,) = await account.provider(account.cloud.add_machine(), late=late).test()
        assert words in fault
        assert "time synchronisation" in fault

    async def test_a_clock_that_is_a_little_off_is_none(self, account: Account) -> None:
        assert await account.provider(account.cloud.add_machine(), late=30).test() == ()

    async def test_missing_credentials_are_explained_and_used_once_they_exist(
        self, account: Account, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        provider = account.provider(account.cloud.add_machine())
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        for name, value in (
            ("SHARED_CREDENTIALS_FILE", "none"),
            ("CONFIG_FILE", "none"),
            ("EC2_METADATA_DISABLED", "true"),
        ):
            monkeypatch.setenv(f"AWS_{name}", value)
        (fault,) = await provider.test()
        assert "AWS_ACCESS_KEY_ID" in fault
        result = await provider.start("m1", 1)
        assert (result.outcome, result.scope) == ("refused", "account")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        assert await provider.test() == ()


def test_only_a_fleet_at_ec2_pays_for_loading_its_sdk() -> None:
    code = "import spotinference.__main__, services.waker.wiring, sys; sys.exit('boto3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
