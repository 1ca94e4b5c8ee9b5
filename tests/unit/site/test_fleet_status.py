"""What the status page says of a tier."""

import math
from typing import Any

import msgspec
import pytest

from services.site.core.fleet_status import KNOWN_S, FleetStatus, Knowledge, TierStatus, fleet_status
from shared.messages.codec import rfc3339
from shared.messages.waker import REMOVED, MachineRecord, MachineState

NOW = 1_800_000_000.0
SURE = Knowledge(view_age_s=1.0, gates_age_s=1.0, has_leader=True, gateways=1)


def record(machine: str, state: MachineState, **fields: Any) -> MachineRecord:
    facts = {
        "tier": "t",
        "provider_state": "PROVIDER",
        "endpoint": "http://secret:1",
        "generation": 1,
        "since": NOW - 100,
        "reason": "REASON",
        "alarm": "ALARM",
        "key_id": "KEY",
        "wake_id": "WAKE",
    }
    return MachineRecord(machine=machine, state=state, **{**facts, **fields})


def status(*records: MachineRecord, closed: str | None = None, age_s: float = 0.0, **knowledge: Any) -> FleetStatus:
    known = {r.machine: r for r in records}
    sure = Knowledge(**{**vars(SURE), **knowledge})
    return fleet_status(["t"], known, ages=dict.fromkeys(known, age_s), closed={"t": closed}, knowledge=sure, now=NOW)


def tier(*records: MachineRecord, **fields: Any) -> TierStatus:
    (only,) = status(*records, **fields).tiers
    return only


@pytest.mark.parametrize(
    ("states", "condition"),
    [
        (("asleep", "ready", "broken"), "ready"),
        (("asleep", "waking"), "waking"),
        (("broken", "asleep"), "asleep"),
        (("draining",), "asleep"),
        (("falling_asleep", "gone"), "asleep"),
        (("broken", "gone"), "unavailable"),
        ((), "unavailable"),
    ],
)
def test_condition_is_that_of_the_best_machine(states: tuple[MachineState, ...], condition: str) -> None:
    assert tier(*(record(f"m{i}", state) for i, state in enumerate(states))).condition == condition


def test_condition_of_a_cordoned_machine_is_not_the_tiers() -> None:
    cordoned = record("m", "ready", cordoned=True, since=NOW - 900)
    assert tier(cordoned).condition == "unavailable"
    both = tier(cordoned, record("n", "ready"))
    assert (both.condition, both.since) == ("ready", rfc3339(NOW - 100))


@pytest.mark.parametrize(
    "doubt",
    [{"view_age_s": KNOWN_S + 1}, {"view_age_s": math.inf}, {"has_leader": False}, {"gateways": 0}],
    ids=str,
)
def test_what_is_not_known_is_not_green(doubt: dict[str, Any]) -> None:
    shown = status(record("m", "ready"), **doubt)
    assert shown.fault is not None
    assert shown.summary == shown.fault
    (only,) = shown.tiers
    assert (only.condition, only.machines, only.wakes) == ("not_known", None, ())


def test_closed_gate_comes_before_a_ready_machine() -> None:
    shown = tier(record("m", "ready"), closed="budget_closed")
    assert (shown.condition, shown.gate) == ("closed", "closed")
    assert shown.gate_reason is not None
    assert "budget" in shown.gate_reason


def test_reason_of_a_gate_that_is_new_is_not_shown() -> None:
    assert tier(record("m", "ready"), closed="secret words").gate_reason == "It is closed."


def test_tier_of_a_gate_that_is_not_known_is_not_green() -> None:
    shown = tier(record("m", "ready"), closed="budget_closed", gates_age_s=KNOWN_S + 1)
    assert (shown.condition, shown.gate, shown.gate_reason) == ("not_known", "not_known", None)
    assert shown.machines, "those are known"


@pytest.mark.parametrize(("ready_in", "age_s", "eta"), [(142.0, 2.4, 140), (10.0, 60.0, 0), (None, 5.0, None)])
def test_eta_counts_from_when_the_record_was_written(ready_in: float | None, age_s: float, eta: int | None) -> None:
    # Its `ready_at` is by a clock that is hours away from ours.
    waking = record("m", "waking", phase="loading", ready_in=ready_in, ready_at=NOW + 9_999.0)
    (wake,) = tier(waking, age_s=age_s).wakes
    assert (wake.phase, wake.eta_seconds) == ("loading", eta)


def test_nothing_of_a_record_is_shown_but_what_may_be_public() -> None:
    text = msgspec.json.encode(status(record("machine-id", "broken"), record("other-id", "waking"))).decode()
    for secret in ("REASON", "ALARM", "KEY", "WAKE", "PROVIDER", "secret", "machine-id"):
        assert secret not in text


def test_tiers_without_machines_and_tiers_of_machines_alone_are_both_shown() -> None:
    shown = status(record("m", "asleep", tier="old"))
    assert [(t.tier, t.condition) for t in shown.tiers] == [("t", "unavailable"), ("old", "asleep")]


def test_machine_that_was_removed_is_in_no_tier() -> None:
    removed = {"alarm_reason": REMOVED}
    assert tier(record("m", "asleep"), record("x", "gone", **removed)).condition == "asleep"
    assert [t.tier for t in status(record("x", "gone", tier="old", **removed)).tiers] == ["t"]
