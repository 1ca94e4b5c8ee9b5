"""The rows of `spotinference fleet` and its table."""

import io
from typing import Any, get_args

import msgspec
import pytest
from rich.console import Console

from shared.fleet_rows import MachineRow, MachineUse, machine_rows, sum_use, without_clock_fields
from shared.messages.gateway import Activity, MachineActivity
from shared.messages.waker import MachineRecord, MachineState
from spotinference.fleet.view import COLOURS, fleet_table
from spotinference.times import format_duration

NOW = 1_800_000_000.0


def record(machine: str = "m1", state: MachineState = "ready", **fields: Any) -> MachineRecord:
    facts = {
        "tier": "t",
        "provider_state": "running",
        "endpoint": None,
        "generation": 3,
        "since": NOW - 100,
        "reason": "",
    }
    return MachineRecord(machine=machine, state=state, **{**facts, **fields})


def row(use: MachineUse | None = None, **fields: Any) -> MachineRow:
    (only,) = machine_rows([record(**fields)], {} if use is None else {"m1": use}, NOW)
    return only


def drawn(*records: MachineRecord, note: str | None = None) -> str:
    console = Console(record=True, width=160, file=io.StringIO())
    console.print(fleet_table(machine_rows(records, {}, NOW), note))
    return console.export_text(styles=False)


def test_row_has_the_fields_of_its_record() -> None:
    waking = record(
        state="waking",
        provider_state="pending",
        endpoint="http://e",
        wake_id="w1",
        phase="loading",
        ready_at=NOW + 141.6,
        reason="asked for",
        kept=True,
        cordoned=True,
        alarm="look here",
    )
    (only,) = machine_rows([waking], {}, NOW)
    assert msgspec.to_builtins(only) == {
        "id": "m1",
        "tier": "t",
        "state": "waking",
        "provider_state": "pending",
        "endpoint": "http://e",
        "phase": "loading",
        "eta_seconds": 142,
        "in_flight": 0,
        "since": "2027-01-15T07:58:20.000Z",
        "idle_seconds": None,
        "kept": True,
        "cordoned": True,
        "reason": "asked for",
        "wake_id": "w1",
        "generation": 3,
        "alarm": "look here",
        "failed_wakes": 0,
        "max_model_len": None,
        "state_seconds": 100,
    }


def test_rows_are_ordered_by_id() -> None:
    assert [r.id for r in machine_rows([record("b"), record("c"), record("a")], {}, NOW)] == ["a", "b", "c"]


@pytest.mark.parametrize(("ready_at", "eta"), [(None, None), (NOW + 0.4, 0), (NOW - 30, 0), (NOW + 12, 12)])
def test_eta_counts_down_to_zero(ready_at: float | None, eta: int | None) -> None:
    assert row(state="waking", ready_at=ready_at).eta_seconds == eta


@pytest.mark.parametrize(
    ("state", "use", "idle"),
    [
        ("ready", None, 100),
        ("ready", MachineUse(last_used_at=NOW - 7), 7),
        ("ready", MachineUse(last_used_at=NOW - 5000), 100),  # of an earlier wake
        ("ready", MachineUse(in_flight=1, last_used_at=NOW - 7), None),
        ("draining", MachineUse(last_used_at=NOW - 7), None),
        ("asleep", MachineUse(last_used_at=NOW - 7), None),
        ("ready", MachineUse(last_used_at=NOW + 2), 0),  # a gateway's clock
    ],
)
def test_idle_time_starts_at_the_last_use_of_a_ready_machine(
    state: MachineState, use: MachineUse | None, idle: int | None
) -> None:
    assert row(use, state=state).idle_seconds == idle


def test_use_is_summed_over_the_gateways() -> None:
    def report(gateway: str, **machines: MachineActivity) -> Activity:
        return Activity(gateway=gateway, sent_at=NOW, machines=machines)

    assert sum_use(
        [
            report("g1", m1=MachineActivity(in_flight=2, last_used_at=5.0), m2=MachineActivity(in_flight=0)),
            report("g2", m1=MachineActivity(in_flight=3, last_used_at=4.0)),
        ]
    ) == {"m1": MachineUse(in_flight=5, last_used_at=5.0), "m2": MachineUse()}


def test_rows_without_clock_fields_differ_when_the_fleet_changes() -> None:
    waking = record(state="waking", ready_at=NOW + 60)
    before, after = machine_rows([waking], {}, NOW), machine_rows([waking], {}, NOW + 3)
    assert before != after
    assert without_clock_fields(before) == without_clock_fields(after)
    plain = without_clock_fields(machine_rows([record()], {}, NOW))
    for change in ({"kept": True}, {"alarm": "x"}, {"generation": 4}, {"endpoint": "http://e"}, {"since": NOW - 3}):
        assert without_clock_fields(machine_rows([record(**change)], {}, NOW)) != plain, change
    assert without_clock_fields(machine_rows([record()], {"m1": MachineUse(in_flight=1)}, NOW)) != plain


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59, "59s"),
        (60, "1m00s"),
        (192, "3m12s"),
        (3600, "1h00m"),
        (7512, "2h05m"),
        (86400, "1d00h"),
        (273600, "3d04h"),
    ],
)
def test_duration_has_its_two_largest_units(seconds: int, text: str) -> None:
    assert format_duration(seconds) == text


def test_table_has_a_line_per_machine() -> None:
    text = drawn(
        record("m1", "waking", phase="loading", ready_at=NOW + 142),
        record("m2", endpoint="http://10.0.4.11:8000", kept=True, cordoned=True),
        record("m3", "waking", phase="calling"),
    )
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert lines["m1"] == ["m1", "t", "waking", "1m40s", "loading", "2m22s", "0"]
    assert lines["m2"] == ["m2", "t", "ready,", "kept,", "cordoned", "1m40s", "0", "1m40s", "http://10.0.4.11:8000"]
    assert lines["m3"] == ["m3", "t", "waking", "1m40s", "calling", "?", "0"]
    assert "!" not in text


def test_problems_are_listed_below_the_table() -> None:
    text = drawn(
        record("m1", alarm="it was not put to sleep [bold]thrice"),
        record("m2", "broken", reason="no answer"),
        record("m3", "gone", reason="terminated"),
        record("m4", "asleep", reason="idle"),
    )
    lines = [line.strip() for line in text.splitlines() if line.startswith("!")]
    assert lines == ["! m1: it was not put to sleep [bold]thrice", "! m2: no answer", "! m3: terminated"]


def test_name_is_not_markup() -> None:
    assert "[red]m[/red]" in drawn(record("[red]m[/red]"))


def test_every_state_has_a_colour() -> None:
    assert set(COLOURS) == set(get_args(MachineState))
    console = Console(record=True, width=160, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(fleet_table(machine_rows([record("m1", "ready"), record("m2", "broken")], {}, NOW)))
    styled = console.export_text(styles=True)
    assert "\x1b[32mready" in styled
    assert "\x1b[1;31mbroken" in styled


def test_note_is_above_the_table_and_an_empty_fleet_is_named() -> None:
    assert drawn(record(), note="the bus does not answer").splitlines()[0].strip() == "the bus does not answer"
    assert drawn().strip() == "no machines on record"


def test_failed_and_current_wakes_show_their_reason() -> None:
    text = drawn(
        record("m1", "asleep", reason="the engine ended with exit status 1", failed_wakes=1),
        record("m2", "waking", reason="its engine is up: 500", phase="first_token"),
        record("m3", "asleep", reason="idle for 900 s"),
    )
    assert "! m1: the engine ended with exit status 1" in text
    assert "  m2: its engine is up" in text
    assert "idle for 900 s" not in text
