"""Hyperstack's machines, woken and hibernated over HTTP at a pretended Hyperstack."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import structlog.testing

from services.waker.adapters import hyperstack_api
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
class SingleMachine:
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
async def single() -> AsyncIterator[SingleMachine]:
    async with hyperstack_cloud(clock=(hours := Hours()), seconds=CHANGE_SECONDS) as cloud:
        vm = cloud.add(labels=[LABEL])
        provider = Hyperstack(api_of(cloud, hours), {"m1": str(vm.id), "m2": "999"}, "test", now=hours)
        yield SingleMachine(cloud, hours, vm, provider)
        await provider.close()


async def test_a_sleeper_is_restored_and_the_awake_hibernated_with_its_address(single: SingleMachine) -> None:
    assert (await single.start()).outcome == "accepted"
    assert (await single.observation()).power == "starting"
    single.pass_change()
    address = single.vm.ip
    assert (await single.stop()).outcome == "accepted"
    single.pass_change()
    assert (await single.observation()).power == "stopped"
    await single.start()
    single.pass_change()
    assert (await single.observation()).provider_state == "ACTIVE"
    assert single.vm.ip == address
    assert ("hibernate", {"retain_ip": "true"}) in single.cloud.queries
    assert single.cloud.changes == 3


async def test_a_halted_one_is_billed_and_is_started_before_it_can_hibernate(single: SingleMachine) -> None:
    single.become("SHUTOFF")
    assert (await single.observation()).is_billed
    assert (await single.stop()).outcome == "accepted"
    assert (single.cloud.calls["start"], single.cloud.calls["hibernate"]) == (1, 0)
    busy = await single.stop()
    assert (busy.outcome, busy.scope, single.cloud.changes) == ("refused", "transient", 1)
    single.pass_change()
    assert (await single.stop()).outcome == "accepted"
    assert single.cloud.calls["hibernate"] == 1


async def test_a_halted_one_is_woken_by_a_start_not_by_a_restore(single: SingleMachine) -> None:
    single.become("SHUTOFF")
    assert (await single.start()).outcome == "accepted"
    assert (single.cloud.calls["start"], single.cloud.calls["hibernate-restore"]) == (1, 0)


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
async def test_what_a_call_comes_to_follows_from_the_state(
    single: SingleMachine, state: str, starts: str, stops: str
) -> None:
    changes = 0
    for call, expected in ((single.start, starts), (single.stop, stops)):
        single.become(state)
        result = await call()
        assert f"{result.outcome} {result.scope or ''}".strip() == expected
        assert result.outcome == "accepted" or result.reason
        assert result.scope != "transient" or single.cloud.changes == changes
        changes = single.cloud.changes


@pytest.mark.parametrize("state", ["ACTIVE", "SHUTOFF"])
async def test_machine_that_cannot_hibernate_is_left_alone_and_reported(single: SingleMachine, state: str) -> None:
    single.become(state)
    single.vm.hibernates = False
    result = await single.stop()
    assert (result.outcome, result.scope) == ("refused", "machine")
    assert "cannot hibernate" in result.reason
    assert single.cloud.changes == 0
    (fault,) = await single.provider.test()
    assert "machine m1" in fault


@pytest.mark.parametrize(
    "trouble",
    [Trouble(), Trouble(done=True), Trouble(503, "x"), Trouble(500, "x", done=True), Trouble(200, body=b"<html>")],
    ids=["reset", "reply-lost", "503", "500-and-done", "no-json"],
)
async def test_a_change_of_unknown_outcome_is_sent_once(single: SingleMachine, trouble: Trouble) -> None:
    single.cloud.fail("hibernate-restore", trouble, times=5)
    result = await single.start()
    assert (result.outcome, single.cloud.calls["hibernate-restore"]) == ("unknown", 1)
    assert result.code
    assert result.reason
    single.become("ACTIVE")
    single.cloud.fail("hibernate", trouble, times=5)
    assert (await single.stop()).outcome == "unknown"
    assert single.cloud.calls["hibernate"] == 1


async def test_a_call_without_an_answer_ends(single: SingleMachine) -> None:
    impatient = Hyperstack(api_of(single.cloud, single.hours, read_timeout_s=0.1), {"m1": str(single.vm.id)}, None)
    single.cloud.fail("hibernate-restore", Trouble(silent=True))
    async with asyncio.timeout(PATIENCE_SECONDS):
        result = await impatient.start("m1", 1)
    await impatient.close()
    assert (result.outcome, result.code) == ("unknown", "timeout")
    assert single.cloud.calls["hibernate-restore"] == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_no_redirect_is_followed(single: SingleMachine, status: int) -> None:
    away = f"{single.cloud.base_url}/core/virtual-machines/{single.vm.id}/start"
    single.cloud.fail("hibernate-restore", Trouble(status, "moved", location=away))
    result = await single.start()
    assert (result.outcome, result.scope) == ("refused", "account")
    assert single.cloud.calls["start"] == 0


async def test_no_proxy_of_the_environment_is_used(single: SingleMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert (await single.observation()).power == "stopped"


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
    single: SingleMachine, becomes: str | None, outcome: str, scope: str | None
) -> None:
    """The state changed between our look and our call."""
    begin = single.vm.begin

    def late(call: str, now: float, *, retain_ip: bool) -> str:
        if becomes:
            single.vm.become(becomes, now)
        return begin("stop", now, retain_ip=retain_ip) if becomes is None else begin(call, now, retain_ip=retain_ip)

    single.vm.begin = late  # type: ignore[method-assign]  # the machine of this test alone
    result = await single.start()
    assert (result.outcome, result.scope, result.code) == (outcome, scope, "400")
    assert single.cloud.calls["hibernate-restore"] == 1


async def test_success_with_status_false_is_a_refusal(single: SingleMachine) -> None:
    single.cloud.fail("hibernate-restore", Trouble(200, "Insufficient balance"))
    result = await single.start()
    assert (result.outcome, result.scope) == ("refused", "account")


async def test_refusal_for_lack_of_capacity_names_the_stock(single: SingleMachine) -> None:
    single.cloud.stock = 0
    result = await single.start()
    assert (result.outcome, result.scope) == ("refused", "capacity_pool")
    assert "in stock at CANADA-1: 0 of 2x H100-80G-PCIe" in result.reason
    assert (single.cloud.calls["get"], single.cloud.calls["stocks"]) == (1, 1)
    single.cloud.fail("stocks", Trouble(503, "x"))
    assert (await single.start()).scope == "capacity_pool"


@pytest.mark.parametrize(("end", "power"), [("ERROR", "error"), ("HIBERNATED", "stopped")])
async def test_a_restore_that_comes_to_nothing_is_explained_once(single: SingleMachine, end: str, power: str) -> None:
    single.vm.ends.append(end)
    assert (await single.start()).outcome == "accepted"
    single.pass_change()
    for _ in range(3):
        observation = await single.observation()
        assert (observation.power, observation.scope) == (power, "capacity_pool")
        assert observation.reason == "RestoreHibernationInstanceFailed: no valid host"
    assert single.cloud.calls["events"] == 1


async def test_an_old_failure_explains_no_later_sleep(single: SingleMachine) -> None:
    single.vm.ends.append("HIBERNATED")
    await single.start()
    single.pass_change()
    assert (await single.observation()).reason
    await single.start()
    single.pass_change()
    assert (await single.observation()).power == "running"
    await single.stop()
    single.pass_change()
    observation = await single.observation()
    assert (observation.power, observation.reason, observation.scope) == ("stopped", "", None)
    assert single.cloud.calls["events"] == 1


async def test_events_are_read_again_for_a_second_failure(single: SingleMachine) -> None:
    for count in (1, 2):
        single.vm.ends.append("HIBERNATED")
        await single.start()
        single.pass_change()
        assert (await single.observation()).reason
        assert single.cloud.calls["events"] == count


async def test_bounced_hibernate_is_observed_running_and_can_be_repeated(single: SingleMachine) -> None:
    single.become("ACTIVE")
    single.vm.ends.append("ACTIVE")
    await single.stop()
    single.pass_change()
    assert (await single.observation()).power == "running"
    assert (await single.provider.stop("m1", force=True)).outcome == "accepted"
    assert single.cloud.calls["hibernate"] == 2


@pytest.mark.parametrize("counts_pages", [False, True])
@pytest.mark.parametrize("ends_with_404", [False, True])
@pytest.mark.parametrize(
    ("machines", "page_size", "pages"), [(99, 100, 1), (100, 100, 2), (250, 100, 3), (300, 100, 4), (250, 50, 6)]
)
async def test_observation_reads_every_page(
    single: SingleMachine, *, machines: int, page_size: int, pages: int, counts_pages: bool, ends_with_404: bool
) -> None:
    single.cloud.max_page_size = page_size
    single.cloud.counts_pages, single.cloud.ends_with_404 = counts_pages, ends_with_404
    for _ in range(machines - 1):
        single.cloud.add("ACTIVE", labels=["other", LABEL])
    snapshot = await single.provider.observe()
    assert (len(snapshot.orphans), snapshot.observations["m1"].power) == (machines - 1, "stopped")
    assert single.cloud.calls["list"] == pages


async def test_a_list_that_does_not_end_is_an_error(single: SingleMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hyperstack_api, "MAX_PAGES", 2)
    for _ in range(200):
        single.cloud.add("ACTIVE", labels=[LABEL])
    with pytest.raises(ProviderUnavailable, match="does not end within 2 pages"):
        await single.provider.observe()


async def test_unlisted_machines_are_requested_singly_and_foreign_ones_ignored(single: SingleMachine) -> None:
    single.cloud.add("ACTIVE", labels=["spotinference-fleet=testing"])
    single.cloud.add("DELETING", labels=[LABEL])
    single.vm.listed = False
    snapshot = await single.provider.observe()
    assert snapshot.orphans == ()
    assert (snapshot.observations["m1"].power, snapshot.observations["m2"].power) == ("stopped", "not_found")
    assert (single.cloud.calls["list"], single.cloud.calls["get"]) == (1, 2)


async def test_a_404_holds_for_a_minute(single: SingleMachine) -> None:
    for _ in range(3):
        assert (await single.observation("m2")).power == "not_found"
    assert single.cloud.calls["get"] == 1
    single.hours.now += 60
    assert (await single.observation("m2")).power == "not_found"
    assert single.cloud.calls["get"] == 2


async def test_machine_whose_request_fails_is_neither_observed_nor_gone(single: SingleMachine) -> None:
    other = single.cloud.add(listed=False)
    instances = {"m2": "999", "m3": str(other.id), "m1": str(single.vm.id)}
    provider = Hyperstack(api_of(single.cloud, single.hours), instances, None)
    single.cloud.fail("get", Trouble(503, "x"))
    assert set((await provider.observe()).observations) == {"m1"}
    assert single.cloud.calls["get"] == 1
    assert set((await provider.observe()).observations) == {"m1", "m2", "m3"}
    await provider.close()
    single.become("PAUSED")
    with structlog.testing.capture_logs() as logs:
        assert set((await single.provider.observe()).observations) == {"m2"}
    assert [(entry["event"], entry["state"]) for entry in logs] == [("hyperstack_state_unknown", "PAUSED")]


async def test_nothing_is_an_orphan_without_a_fleet_name(single: SingleMachine) -> None:
    single.cloud.add("ACTIVE", labels=["spotinference-fleet=None", "spotinference-fleet="])
    provider = Hyperstack(api_of(single.cloud, single.hours), {"m1": str(single.vm.id)}, None)
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
async def test_malformed_list_is_no_observation(single: SingleMachine, trouble: Trouble) -> None:
    single.cloud.fail("list", trouble)
    with pytest.raises(ProviderUnavailable, match="hyperstack: "):
        await single.provider.observe()
    assert (await single.observation()).power == "stopped"


async def test_short_pages_end_no_list_that_counts_more(single: SingleMachine) -> None:
    """A list that is cut shorter than asked for without a word; and one whose count never comes true."""
    for number in (1, 2):
        single.cloud.add("ACTIVE", labels=[LABEL])
        one = f'{{"id":{single.vm.id + number},"status":"ACTIVE","labels":["{LABEL}"]}}'.encode()
        single.cloud.fail("list", Trouble(200, body=b'{"count":9,"instances":[%b]}' % one))
    single.cloud.fail("list", Trouble(200, body=b'{"count":9,"instances":[]}'))
    assert len((await single.provider.observe()).orphans) == 2
    assert single.cloud.calls["list"] == 3


async def test_a_call_beyond_the_account_s_bound_is_not_made(single: SingleMachine) -> None:
    throttle = Throttle(1, patience_s=0.1)
    api = HyperstackApi(HyperstackAccount(single.cloud.base_url, KEY, throttle))
    provider = Hyperstack(api, {"m1": str(single.vm.id)}, None)
    await provider.observe()
    result = await provider.start("m1", 1)
    assert (result.outcome, result.scope) == ("refused", "transient")
    with pytest.raises(ProviderUnavailable, match="too many calls"):
        await provider.observe()
    assert sum(single.cloud.calls.values()) == 1
    await provider.close()


async def test_after_429_the_account_s_calls_wait(single: SingleMachine) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        hours.now += seconds

    hours = Hours()
    throttle = Throttle(100, clock=hours, sleep=sleep, jitter=lambda: 0.0)
    api = HyperstackApi(HyperstackAccount(single.cloud.base_url, KEY, throttle))
    provider = Hyperstack(api, {"m1": str(single.vm.id)}, None)
    limit, single.cloud.limit = single.cloud.limit, 0
    result = await provider.start("m1", 1)
    assert (result.outcome, result.scope, result.code) == ("refused", "transient", "429")
    single.cloud.limit = limit
    assert (await provider.observe()).observations["m1"].power == "stopped"
    assert waits == [1.0]
    await provider.close()


async def test_the_self_test_names_the_key_and_the_clock(single: SingleMachine) -> None:
    assert await single.provider.test() == ()
    single.cloud.skew = 300
    (fault,) = await single.provider.test()
    assert "behind" in fault
    assert "time synchronisation" in fault
    single.cloud.skew = -58
    assert await single.provider.test() == ()
    single.cloud.skew = -300
    (fault,) = await single.provider.test()
    assert "ahead of" in fault
    single.cloud.key = "another"
    (fault,) = await single.provider.test()
    assert "HYPERSTACK_API_KEY" in fault
    assert single.cloud.changes == 0


async def test_the_key_is_in_no_error(single: SingleMachine) -> None:
    """This API says the key back."""
    single.cloud.key = "another"
    result = await single.start()
    text = [result.reason, *(await single.provider.test())]
    with pytest.raises(ProviderUnavailable) as unseen:
        await single.provider.observe()
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
