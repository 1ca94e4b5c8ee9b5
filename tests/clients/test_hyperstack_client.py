"""The pretended Hyperstack is one that the vendor's own client understands: it validates all that it is told."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from tests.clients import environments
from tests.clients.conftest import Driver, running_driver
from tests.clients.environments import PINS
from tests.kit.hyperstack_cloud import HyperstackCloud, hyperstack_cloud
from tests.kit.hyperstack_machines import FakeVm

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Hours:
    """The cloud's clock: it stands still until the test moves it."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Desk:
    cloud: HyperstackCloud
    hours: Hours
    vm: FakeVm
    driver: Driver

    async def ask(self, what: str, **more: Any) -> dict[str, Any]:
        seen = await self.driver.ask(do=what, id=self.vm.id, **more)
        assert (seen["error"], seen.get("refused")) == (None, None)
        answer: dict[str, Any] = seen["answer"]
        return answer

    async def refused(self, what: str, **more: Any) -> tuple[int, dict[str, Any]]:
        status, body = (await self.driver.ask(**{"do": what, "id": self.vm.id, **more}))["refused"]
        return status, json.loads(body)

    async def state(self) -> str:
        state: str = (await self.ask("get"))["instance"]["status"]
        return state


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_setup(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    folder = environments.prepared("hyperstack", PINS / "hyperstack.txt", environments.install_python)
    command = environments.python_command(folder, "tests.clients.drive_hyperstack")
    log = tmp_path_factory.mktemp("hyperstack") / "driver.log"
    async with (
        hyperstack_cloud(clock=(hours := Hours()), seconds=30.0) as cloud,
        running_driver(command, cloud.base_url, cloud.key, log) as driver,
    ):
        yield Desk(cloud, hours, cloud.add(), driver)


@pytest.fixture
def desk(module_setup: Desk) -> Desk:
    """With one machine, new and active."""
    module_setup.cloud.vms.clear()
    module_setup.cloud.queries.clear()
    module_setup.vm = module_setup.cloud.add("ACTIVE", labels=["spotinference-fleet=test"])
    return module_setup


async def test_it_lists_page_by_page_and_gets_one(desk: Desk) -> None:
    for _ in range(2):
        desk.cloud.add()
    listed = await desk.ask("list", page={"page": 2, "page_size": 2})
    assert [vm["id"] for vm in listed["instances"]] == [desk.vm.id + 2]
    assert (listed["count"], listed["page"], listed["page_size"], listed["status"]) == (3, 2, 2, True)
    reported = (await desk.ask("get"))["instance"]
    assert (reported["status"], reported["labels"]) == ("ACTIVE", ["spotinference-fleet=test"])
    assert (reported["flavor"]["name"], reported["flavor"]["gpu_count"]) == ("n3-H100x2", 2)
    assert reported["flavor"]["features"]["no_hibernation"] is False
    assert reported["environment"]["region"] == "CANADA-1"


async def test_it_hibernates_and_restores_and_reports_wrong_states(desk: Desk) -> None:
    assert (await desk.ask("hibernate"))["status"] is True
    assert await desk.state() == "HIBERNATING"
    status, body = await desk.refused("restore")
    assert (status, body["status"], body["error_reason"]) == (400, False, "bad_request")
    assert "HIBERNATING" in body["message"]
    desk.hours.now += 30
    assert await desk.state() == "HIBERNATED"
    await desk.ask("restore")
    assert await desk.state() == "RESTORING"
    desk.hours.now += 30
    assert await desk.state() == "ACTIVE"
    assert desk.cloud.queries[0] == ("hibernate", {"retain_ip": "true"})
    events = (await desk.ask("events"))["instance_events"]
    assert [event["type"] for event in events] == ["HibernateInstanceSuccess", "RestoreHibernationInstanceSuccess"]


async def test_it_stops_and_starts(desk: Desk) -> None:
    await desk.ask("stop")
    desk.hours.now += 30
    assert await desk.state() == "SHUTOFF"
    assert (await desk.refused("hibernate"))[0] == 400
    await desk.ask("start")
    desk.hours.now += 30
    assert await desk.state() == "ACTIVE"


async def test_it_is_refused_as_the_api_refuses(desk: Desk) -> None:
    assert (await desk.refused("get", id=9))[0] == 404
    assert (await desk.refused("get", key="wrong"))[0] == 401
    desk.cloud.allowed = False
    assert (await desk.refused("hibernate"))[0] == 403
    desk.cloud.recover()
    limit, desk.cloud.limit = desk.cloud.limit, 0
    assert (await desk.driver.ask(do="get", id=desk.vm.id))["refused"] == [429, "Too Many Requests"]
    desk.cloud.limit = limit


async def test_it_reads_stock(desk: Desk) -> None:
    (region,) = (await desk.ask("stocks"))["stocks"]
    (model,) = region["models"]
    assert (region["region"], region["stock-type"], model["model"]) == ("CANADA-1", "GPU", "H100-80G-PCIe")
    assert model["configurations"]["2x"] == 4


async def test_it_reads_what_was_billed(desk: Desk) -> None:
    desk.hours.now += 3600
    await desk.ask("hibernate")
    desk.hours.now += 30 + 7200
    history = (await desk.ask("bills"))["billing_history_vm"]
    assert (history["total_count"], history["pagination"]["pages"]) == (1, 1)
    assert history["billing_history"][0]["attributes"]["infrahub_id"] == desk.vm.id
    other = desk.cloud.add()
    second = (await desk.ask("bills", page={"page": 2, "per_page": 1}))["billing_history_vm"]
    assert (second["total_count"], second["pagination"]) == (2, {"page": 2, "pages": 2, "per_page": 1})
    assert [row["attributes"]["infrahub_id"] for row in second["billing_history"]] == [other.id]
    assert desk.cloud.queries[-1] == ("billing", {"page": "2", "per_page": "1"}), "as the books' own reader asks"
    (row,) = (await desk.ask("bill"))["billing_history_vm_details"]["billing_history"]
    assert row["metrics"]["usage_time_ACTIVE"] == pytest.approx(3600)
    assert row["metrics"]["usage_time_HIBERNATED"] == pytest.approx(7200)
    assert row["metrics"]["incurred_bill"] == pytest.approx(5.0 + 2 * 0.016)
    events = (await desk.ask("billing_events"))["billing_events_history"]
    assert [event["event"] for event in events] == ["ACTIVE", "HIBERNATING", "HIBERNATED"]
    assert sum(event["total_cost"] for event in events) == pytest.approx(row["metrics"]["incurred_bill"])
