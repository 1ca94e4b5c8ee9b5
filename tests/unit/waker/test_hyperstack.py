"""Hyperstack's machines, woken and hibernated over HTTP at a pretended Hyperstack."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import structlog.testing

from services.waker.adapters.hyperstack import Hyperstack
from services.waker.adapters.hyperstack_api import HyperstackApi
from services.waker.core.events import Observation
from services.waker.ports import CallResult, ProviderUnavailable
from shared.clouds.hyperstack import MAX_BODY_BYTES, HyperstackAccount, api_key
from shared.clouds.throttle import Throttle
from shared.errors import Misconfigured
from tests.kit.hyperstack_cloud import KEY, HyperstackCloud, Trouble, hyperstack_cloud
from tests.kit.hyperstack_machines import FakeVm
from tests.kit.waiting import PATIENCE_SECONDS

LABEL = "spotinference-fleet=test"
CHANGE_SECONDS = 30.0


class Hours:
    """The clock of the cloud and of the provider: it stands still until the test moves it."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@dataclass
class House:
    cloud: HyperstackCloud
    hours: Hours
    vm: FakeVm
    provider: Hyperstack

    async def observation(self, machine: str = "m1") -> Observation:
        return (await self.provider.observe()).observations[machine]

    async def start(self) -> CallResult:
        return await self.provider.start("m1", 1)

    async def stop(self) -> CallResult:
        return await self.provider.stop("m1", force=False)

    def become(self, status: str) -> None:
        self.vm.become(status, self.hours.now)

    def pass_change(self) -> None:
        self.hours.now += CHANGE_SECONDS


def api_of(cloud: HyperstackCloud, hours: Hours, *, key: str = KEY, read_timeout_s: float = 10.0) -> HyperstackApi:
    account = HyperstackAccount(cloud.base_url, key, Throttle(100_000), read_timeout_s=read_timeout_s, now=hours)
    return HyperstackApi(account)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with hyperstack_cloud(clock=(hours := Hours()), seconds=CHANGE_SECONDS) as cloud:
        vm = cloud.add(labels=[LABEL])
        provider = Hyperstack(api_of(cloud, hours), {"m1": str(vm.id), "m2": "999"}, "test", now=hours)
        yield House(cloud, hours, vm, provider)
        await provider.close()


async def test_a_sleeper_is_restored_and_the_awake_hibernated_with_its_address(house: House) -> None:
    assert (await house.start()).outcome == "accepted"
    assert (await house.observation()).power == "starting"
    house.pass_change()
    address = house.vm.ip
    assert (await house.stop()).outcome == "accepted"
    house.pass_change()
    assert (await house.observation()).power == "stopped"
    await house.start()
    house.pass_change()
    assert (await house.observation()).provider_state == "ACTIVE"
    assert house.vm.ip == address
    assert ("hibernate", {"retain_ip": "true"}) in house.cloud.queries
    assert house.cloud.changes == 3


async def test_a_halted_one_is_billed_and_is_started_before_it_can_hibernate(house: House) -> None:
    house.become("SHUTOFF")
    assert (await house.observation()).is_billed
    assert (await house.stop()).outcome == "accepted"
    assert (house.cloud.calls["start"], house.cloud.calls["hibernate"]) == (1, 0)
    busy = await house.stop()
    assert (busy.outcome, busy.scope, house.cloud.changes) == ("refused", "transient", 1)
    house.pass_change()
    assert (await house.stop()).outcome == "accepted"
    assert house.cloud.calls["hibernate"] == 1


async def test_a_halted_one_is_woken_by_a_start_not_by_a_restore(house: House) -> None:
    house.become("SHUTOFF")
    assert (await house.start()).outcome == "accepted"
    assert (house.cloud.calls["start"], house.cloud.calls["hibernate-restore"]) == (1, 0)


@pytest.mark.parametrize(
    ("state", "starts", "stops"),
    [
        ("ACTIVE", "accepted", "accepted"),
        ("RESTORING", "accepted", "refused transient"),
        ("HIBERNATING", "refused transient", "accepted"),
        ("STOPPING", "refused transient", "refused transient"),
        ("HIBERNATED", "accepted", "accepted"),
        ("ERROR", "refused machine", "refused machine"),
        ("DELETING", "refused machine", "accepted"),
        ("PAUSED", "refused transient", "refused transient"),
    ],
)
async def test_what_a_call_comes_to_follows_from_the_state(house: House, state: str, starts: str, stops: str) -> None:
    changes = 0
    for call, expected in ((house.start, starts), (house.stop, stops)):
        house.become(state)
        result = await call()
        assert f"{result.outcome} {result.scope or ''}".strip() == expected
        assert result.outcome == "accepted" or result.reason
        assert result.scope != "transient" or house.cloud.changes == changes
        changes = house.cloud.changes


@pytest.mark.parametrize("state", ["ACTIVE", "SHUTOFF"])
async def test_machine_that_cannot_hibernate_is_left_alone_and_reported(house: House, state: str) -> None:
    house.become(state)
    house.vm.hibernates = False
    result = await house.stop()
    assert (result.outcome, result.scope) == ("refused", "machine")
    assert "cannot hibernate" in result.reason
    assert house.cloud.changes == 0
    (fault,) = await house.provider.test()
    assert "machine m1" in fault


@pytest.mark.parametrize(
    "trouble",
    [Trouble(), Trouble(done=True), Trouble(503, "x"), Trouble(500, "x", done=True), Trouble(200, body=b"<html>")],
    ids=["reset", "reply-lost", "503", "500-and-done", "no-json"],
)
async def test_a_change_of_unknown_outcome_is_sent_once(house: House, trouble: Trouble) -> None:
    house.cloud.fail("hibernate-restore", trouble, times=5)
    result = await house.start()
    assert (result.outcome, house.cloud.calls["hibernate-restore"]) == ("unknown", 1)
    assert result.code
    assert result.reason
    house.become("ACTIVE")
    house.cloud.fail("hibernate", trouble, times=5)
    assert (await house.stop()).outcome == "unknown"
    assert house.cloud.calls["hibernate"] == 1


async def test_a_call_without_an_answer_ends(house: House) -> None:
    impatient = Hyperstack(api_of(house.cloud, house.hours, read_timeout_s=0.1), {"m1": str(house.vm.id)}, None)
    house.cloud.fail("hibernate-restore", Trouble(silent=True))
    async with asyncio.timeout(PATIENCE_SECONDS):
        result = await impatient.start("m1", 1)
    await impatient.close()
    assert (result.outcome, result.code) == ("unknown", "timeout")
    assert house.cloud.calls["hibernate-restore"] == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_no_redirect_is_followed(house: House, status: int) -> None:
    away = f"{house.cloud.base_url}/core/virtual-machines/{house.vm.id}/start"
    house.cloud.fail("hibernate-restore", Trouble(status, "moved", location=away))
    result = await house.start()
    assert (result.outcome, result.scope) == ("refused", "account")
    assert house.cloud.calls["start"] == 0


async def test_no_proxy_of_the_environment_is_used(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert (await house.observation()).power == "stopped"


@pytest.mark.parametrize(
    ("becomes", "outcome", "scope"),
    [
        ("HIBERNATING", "refused", "transient"),
        ("RESTORING", "unknown", None),
        ("ACTIVE", "unknown", None),
        (None, "refused", "machine"),
    ],
)
async def test_400_is_followed_by_an_observation(
    house: House, becomes: str | None, outcome: str, scope: str | None
) -> None:
    """The state changed between our look and our call."""
    begin = house.vm.begin

    def late(call: str, now: float, *, retain_ip: bool) -> str:
        if becomes:
            house.vm.become(becomes, now)
        return begin("stop", now, retain_ip=retain_ip) if becomes is None else begin(call, now, retain_ip=retain_ip)

    house.vm.begin = late  # type: ignore[method-assign]  # the machine of this test alone
    result = await house.start()
    assert (result.outcome, result.scope, result.code) == (outcome, scope, "400")
    assert house.cloud.calls["hibernate-restore"] == 1


async def test_success_with_status_false_is_a_refusal(house: House) -> None:
    house.cloud.fail("hibernate-restore", Trouble(200, "Insufficient balance"))
    result = await house.start()
    assert (result.outcome, result.scope) == ("refused", "account")


async def test_refusal_for_lack_of_capacity_names_the_stock(house: House) -> None:
    house.cloud.stock = 0
    result = await house.start()
    assert (result.outcome, result.scope) == ("refused", "capacity_pool")
    assert "in stock at CANADA-1: 0 of 2x H100-80G-PCIe" in result.reason
    assert (house.cloud.calls["get"], house.cloud.calls["stocks"]) == (1, 1)
    house.cloud.fail("stocks", Trouble(503, "x"))
    assert (await house.start()).scope == "capacity_pool"


@pytest.mark.parametrize(("end", "power"), [("ERROR", "error"), ("HIBERNATED", "stopped")])
async def test_a_restore_that_comes_to_nothing_is_explained_once(house: House, end: str, power: str) -> None:
    house.vm.ends.append(end)
    assert (await house.start()).outcome == "accepted"
    house.pass_change()
    for _ in range(3):
        observation = await house.observation()
        assert (observation.power, observation.scope) == (power, "capacity_pool")
        assert observation.reason == "RestoreHibernationInstanceFailed: no valid host"
    assert house.cloud.calls["events"] == 1


async def test_an_old_failure_explains_no_later_sleep(house: House) -> None:
    house.vm.ends.append("HIBERNATED")
    await house.start()
    house.pass_change()
    assert (await house.observation()).reason
    await house.start()
    house.pass_change()
    assert (await house.observation()).power == "running"
    await house.stop()
    house.pass_change()
    observation = await house.observation()
    assert (observation.power, observation.reason, observation.scope) == ("stopped", "", None)
    assert house.cloud.calls["events"] == 1


async def test_events_are_read_again_for_a_second_failure(house: House) -> None:
    for count in (1, 2):
        house.vm.ends.append("HIBERNATED")
        await house.start()
        house.pass_change()
        assert (await house.observation()).reason
        assert house.cloud.calls["events"] == count


async def test_bounced_hibernate_is_observed_running_and_can_be_repeated(house: House) -> None:
    house.become("ACTIVE")
    house.vm.ends.append("ACTIVE")
    await house.stop()
    house.pass_change()
    assert (await house.observation()).power == "running"
    assert (await house.provider.stop("m1", force=True)).outcome == "accepted"
    assert house.cloud.calls["hibernate"] == 2


@pytest.mark.parametrize("counts_pages", [False, True])
@pytest.mark.parametrize("ends_with_404", [False, True])
@pytest.mark.parametrize(
    ("machines", "page_size", "pages"), [(99, 100, 1), (100, 100, 2), (250, 100, 3), (300, 100, 4), (250, 50, 6)]
)
async def test_observation_reads_every_page(
    house: House, *, machines: int, page_size: int, pages: int, counts_pages: bool, ends_with_404: bool
) -> None:
    house.cloud.max_page_size = page_size
    house.cloud.counts_pages, house.cloud.ends_with_404 = counts_pages, ends_with_404
    for _ in range(machines - 1):
        house.cloud.add("ACTIVE", labels=["other", LABEL])
    snapshot = await house.provider.observe()
    assert (len(snapshot.orphans), snapshot.observations["m1"].power) == (machines - 1, "stopped")
    assert house.cloud.calls["list"] == pages


async def test_unlisted_machines_are_requested_singly_and_foreign_ones_ignored(house: House) -> None:
    house.cloud.add("ACTIVE", labels=["spotinference-fleet=testing"])
    house.cloud.add("DELETING", labels=[LABEL])
    house.vm.listed = False
    snapshot = await house.provider.observe()
    assert snapshot.orphans == ()
    assert (snapshot.observations["m1"].power, snapshot.observations["m2"].power) == ("stopped", "not_found")
    assert (house.cloud.calls["list"], house.cloud.calls["get"]) == (1, 2)


async def test_a_404_holds_for_a_minute(house: House) -> None:
    for _ in range(3):
        assert (await house.observation("m2")).power == "not_found"
    assert house.cloud.calls["get"] == 1
    house.hours.now += 60
    assert (await house.observation("m2")).power == "not_found"
    assert house.cloud.calls["get"] == 2


async def test_machine_whose_request_fails_is_neither_observed_nor_gone(house: House) -> None:
    other = house.cloud.add(listed=False)
    instances = {"m2": "999", "m3": str(other.id), "m1": str(house.vm.id)}
    provider = Hyperstack(api_of(house.cloud, house.hours), instances, None)
    house.cloud.fail("get", Trouble(503, "x"))
    assert set((await provider.observe()).observations) == {"m1"}
    assert house.cloud.calls["get"] == 1
    assert set((await provider.observe()).observations) == {"m1", "m2", "m3"}
    await provider.close()
    house.become("PAUSED")
    with structlog.testing.capture_logs() as logs:
        assert set((await house.provider.observe()).observations) == {"m2"}
    assert [(entry["event"], entry["state"]) for entry in logs] == [("hyperstack_state_unknown", "PAUSED")]


async def test_nothing_is_an_orphan_without_a_fleet_name(house: House) -> None:
    house.cloud.add("ACTIVE", labels=["spotinference-fleet=None", "spotinference-fleet="])
    provider = Hyperstack(api_of(house.cloud, house.hours), {"m1": str(house.vm.id)}, None)
    assert (await provider.observe()).orphans == ()
    await provider.close()


@pytest.mark.parametrize(
    "trouble",
    [
        Trouble(),
        Trouble(503, "x"),
        Trouble(404, "x"),
        Trouble(200, body=b"["),
        Trouble(200, body=b'{"instances":[{"id":"a"}]}'),
        Trouble(200, body=b'{"instances":[]}' + b" " * MAX_BODY_BYTES),
    ],
    ids=["reset", "503", "404", "no-json", "no-id", "endless"],
)
async def test_malformed_list_is_no_observation(house: House, trouble: Trouble) -> None:
    house.cloud.fail("list", trouble)
    with pytest.raises(ProviderUnavailable, match="hyperstack: "):
        await house.provider.observe()
    assert (await house.observation()).power == "stopped"


async def test_short_pages_end_no_list_that_counts_more(house: House) -> None:
    """A list that is cut shorter than asked for without a word; and one whose count never comes true."""
    for number in (1, 2):
        house.cloud.add("ACTIVE", labels=[LABEL])
        one = f'{{"id":{house.vm.id + number},"status":"ACTIVE","labels":["{LABEL}"]}}'.encode()
        house.cloud.fail("list", Trouble(200, body=b'{"count":9,"instances":[%b]}' % one))
    house.cloud.fail("list", Trouble(200, body=b'{"count":9,"instances":[]}'))
    assert len((await house.provider.observe()).orphans) == 2
    assert house.cloud.calls["list"] == 3


async def test_a_call_beyond_the_account_s_bound_is_not_made(house: House) -> None:
    throttle = Throttle(1, patience_s=0.1)
    api = HyperstackApi(HyperstackAccount(house.cloud.base_url, KEY, throttle))
    provider = Hyperstack(api, {"m1": str(house.vm.id)}, None)
    await provider.observe()
    result = await provider.start("m1", 1)
    assert (result.outcome, result.scope) == ("refused", "transient")
    with pytest.raises(ProviderUnavailable, match="too many calls"):
        await provider.observe()
    assert sum(house.cloud.calls.values()) == 1
    await provider.close()


async def test_after_429_the_account_s_calls_wait(house: House) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        hours.now += seconds

    hours = Hours()
    throttle = Throttle(100, clock=hours, sleep=sleep, jitter=lambda: 0.0)
    api = HyperstackApi(HyperstackAccount(house.cloud.base_url, KEY, throttle))
    provider = Hyperstack(api, {"m1": str(house.vm.id)}, None)
    limit, house.cloud.limit = house.cloud.limit, 0
    result = await provider.start("m1", 1)
    assert (result.outcome, result.scope, result.code) == ("refused", "transient", "429")
    house.cloud.limit = limit
    assert (await provider.observe()).observations["m1"].power == "stopped"
    assert waits == [1.0]
    await provider.close()


async def test_the_self_test_names_the_key_and_the_clock(house: House) -> None:
    assert await house.provider.test() == ()
    house.cloud.skew = 300
    (fault,) = await house.provider.test()
    assert "behind" in fault
    assert "time synchronisation" in fault
    house.cloud.skew = -58
    assert await house.provider.test() == ()
    house.cloud.skew = -300
    (fault,) = await house.provider.test()
    assert "ahead of" in fault
    house.cloud.key = "another"
    (fault,) = await house.provider.test()
    assert "HYPERSTACK_API_KEY" in fault
    assert house.cloud.changes == 0


async def test_the_key_is_in_no_error(house: House) -> None:
    """This API says the key back."""
    house.cloud.key = "another"
    result = await house.start()
    text = [result.reason, *(await house.provider.test())]
    with pytest.raises(ProviderUnavailable) as unseen:
        await house.provider.observe()
    text.append(repr(unseen.value) + repr(unseen.value.__cause__))
    assert all("Invalid API key: …" in text for text in text)
    assert not [text for text in text if KEY in text]


@pytest.mark.parametrize(("key", "text"), [(None, "not set"), ("a b", "characters"), ("a\nb", "characters")])
def test_malformed_key_is_rejected_without_quoting_it(
    monkeypatch: pytest.MonkeyPatch, key: str | None, text: str
) -> None:
    monkeypatch.delenv("HYPERSTACK_API_KEY_FILE", raising=False)
    monkeypatch.delenv("HYPERSTACK_API_KEY", raising=False)
    if key:
        monkeypatch.setenv("HYPERSTACK_API_KEY", key)
    with pytest.raises(Misconfigured, match=f"HYPERSTACK_API_KEY: .*{text}") as error:
        api_key()
    assert key is None or key not in str(error.value)
    monkeypatch.setenv("HYPERSTACK_API_KEY", "good")
    assert api_key() == "good"
