"""What Hyperstack's answers mean, as a table."""

import pytest

from services.waker.adapters.hyperstack_api import Environment, Flavor, Stocked, StockRegion, Vm, VmEvent
from services.waker.adapters.hyperstack_responses import POWER_STATES, failure_of, observation_of, result_of, stock_of
from services.waker.core.events import PowerState, RefusalScope
from shared.clouds.hyperstack import HyperstackError
from shared.messages.waker import CallOutcome

H100 = Flavor(name="n3-H100x2", gpu="H100-80G-PCIe", gpu_count=2)


@pytest.mark.parametrize(
    ("word", "power", "billed"),
    [
        ("ACTIVE", "running", True),
        ("SHUTOFF", "stopped_billed", True),
        ("HIBERNATED", "stopped", False),
        ("HIBERNATING", "stopping", False),
        ("STOPPING", "stopping", False),
        ("RESTORING", "starting", False),
        ("STARTING", "starting", False),
        ("REBOOTING", "starting", False),
        ("BUILD", "starting", False),
        ("CREATING", "starting", False),
        ("ERROR", "error", False),
        ("DELETING", "not_found", False),
        ("DELETED", "not_found", False),
    ],
)
def test_each_state_has_its_power_state(word: str, power: PowerState, billed: bool) -> None:
    observation = observation_of(Vm(id=1, status=word.lower(), flavor=H100, environment=Environment(region="CANADA-1")))
    assert observation is not None
    assert (observation.power, observation.is_billed, observation.provider_state) == (power, billed, word)
    assert (observation.pool, observation.endpoint, observation.locked) == ("n3-H100x2/CANADA-1", None, "")


def test_the_table_above_is_the_whole() -> None:
    assert len(POWER_STATES) == 13


@pytest.mark.parametrize("word", ["PAUSED", "", None])
def test_unknown_state_is_no_observation(word: str | None) -> None:
    assert observation_of(Vm(id=1, status=word)) is None


@pytest.mark.parametrize(
    ("status", "words", "outcome", "scope", "text"),
    [
        (0, "no answer in time", "unknown", None, "no answer in time"),
        (400, "Virtual machine must be in HIBERNATED state", "refused", "machine", "must be in HIBERNATED"),
        (400, "No valid host was found. ", "refused", "capacity_pool", "No valid host"),
        (400, "The flavor is out of stock", "refused", "capacity_pool", "no GPUs"),
        (400, "Not enough GPUs", "refused", "capacity_pool", "no GPUs"),
        (400, "Insufficient balance in your account", "refused", "account", "top the account up"),
        (400, "Not enough credit", "refused", "account", "top the account up"),
        (400, "Quota exceeded for H100", "refused", "quota", "ask Hyperstack for more"),
        (401, "Invalid", "refused", "account", "HYPERSTACK_API_KEY"),
        (402, "Payment Required", "refused", "account", "top the account up"),
        (403, "forbidden", "refused", "account", "may not do this"),
        (404, "not found", "refused", "machine", "no such machine"),
        (405, "Method Not Allowed", "refused", "machine", "Method Not Allowed"),
        (408, "", "unknown", None, ""),
        (409, "conflict", "refused", "transient", "another change"),
        (429, "Too Many Requests", "refused", "transient", "too many calls"),
        (302, "moved", "refused", "account", "provider.hyperstack.base_url"),
        (500, "no valid host", "unknown", None, "no valid host"),
        (502, "Bad Gateway", "unknown", None, "Bad Gateway"),
        (503, "Service Unavailable", "unknown", None, ""),
        (504, "", "unknown", None, ""),
    ],
)
def test_each_error_has_its_outcome_and_scope(
    status: int, words: str, outcome: CallOutcome, scope: RefusalScope, text: str
) -> None:
    result = result_of(HyperstackError(str(status), words, status=status))
    assert (result.outcome, result.scope, result.code) == (outcome, scope, str(status))
    assert text in result.reason


def test_a_call_that_was_not_made_is_refused_for_the_moment() -> None:
    result = result_of(HyperstackError("throttled", "too many calls", may_have_arrived=False))
    assert (result.outcome, result.scope, result.reason) == ("refused", "transient", "too many calls")


def test_last_ended_event_explains_the_failure() -> None:
    hibernated = VmEvent(type="HibernateInstanceSuccess", time="2026-01-01T00:00:01")
    restored = VmEvent(type="RestoreHibernationInstanceFailed", reason="no valid host", time="2026-01-01T00:00:02")
    touched = VmEvent(type="LabelChanged", time="2026-01-01T00:00:03")
    asleep = VmEvent(type="HibernateInstanceFailed", message="snapshot", time="2026-01-01T00:00:04")
    mended = VmEvent(type="RestoreHibernationInstanceSuccess", time="2026-01-01T00:00:05")
    assert failure_of([touched, restored, hibernated]) == (
        "RestoreHibernationInstanceFailed: no valid host",
        "capacity_pool",
    )
    assert failure_of([restored, asleep]) == ("HibernateInstanceFailed: snapshot", "machine")
    assert failure_of([restored, mended]) == ("", None)
    assert failure_of([touched]) == ("", None)
    assert failure_of([]) == ("", None)


def test_stock_is_of_the_same_region_gpu_and_size() -> None:
    vm = Vm(id=1, flavor=H100, environment=Environment(region="CANADA-1"))
    other = Stocked(model="L40", configurations={"2x": 9})
    same = Stocked(model="H100-80G-PCIe", configurations={"1x": 7, "2x": 0, "4x": None})
    regions = [StockRegion(region="NORWAY-1", models=[same]), StockRegion(region="CANADA-1", models=[other, same])]
    assert stock_of(regions, vm) == "in stock at CANADA-1: 0 of 2x H100-80G-PCIe"
    assert stock_of(regions[:1], vm) == ""
    assert stock_of([StockRegion(region="CANADA-1")], vm) == ""
    assert stock_of(regions, Vm(id=1)) == ""
