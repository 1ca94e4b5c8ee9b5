"""`spotinference check --machine`: a real suite wakes a slow engine, and the report says where the time went."""

import asyncio
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from shared.bus.memory import MemoryBus
from shared.config.sections import WakerSection
from shared.errors import BusUnavailable, Rejected
from shared.fleet_watcher import FleetWatcher
from shared.messages.waker import MachineRecord, MachineState, Phase, PhaseEnded, Transition
from spotinference.__main__ import main
from spotinference.check.machine import BUDGET_SECONDS, build_report, put_to_sleep
from tests.integration.suite.config import SOON, config
from tests.kit.up import up
from tests.kit.waiting import until

ENGINE = Path(__file__).parents[1] / "waker" / "tiny_engine.py"
LOAD_SECONDS = 1.5
DEAD = """
[[tier]]
name = "dead"
provider = "process"
[[machine]]
id = "dead-1"
tier = "dead"
command = ["false", "{port}"]
[[model]]
name = "dead"
lineup = ["dead"]
"""


async def test_a_check_wakes_the_machine_sends_a_token_and_puts_it_to_sleep(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    slow = [sys.executable, "-S", "-E", str(ENGINE), "--port", "{port}", "--log", str(log), "--load", str(LOAD_SECONDS)]
    async with up(tmp_path, config(slow, waker=SOON) + DEAD) as suite:
        options = ("--config", str(suite.config), "--data-dir", str(suite.folder / "data"))

        async def run(*words: str) -> Result:
            return await asyncio.to_thread(CliRunner().invoke, main, [*words, *options])

        key = await suite.key()
        report = await suite.json("check", "--machine", "local-1", "--key", key)
        assert (report["machine"], report["model"], report["ready"]) == ("local-1", "tiny", True)
        assert (report["faults"], report["notes"]) == ([], [])
        seconds = {phase["phase"]: phase["seconds"] for phase in report["phases"]}
        assert list(seconds) == ["calling", "loading", "first_token"], "a local process has no boot and no network"
        assert seconds["loading"] >= LOAD_SECONDS - 0.1
        assert report["seconds"] == pytest.approx(sum(seconds.values()), abs=0.5)
        limits = {phase["phase"]: phase["limit_seconds"] for phase in report["phases"]}
        assert limits == {"calling": 60, "loading": 480, "first_token": 60}
        assert report["token_seconds"] > 0
        assert report["sleep_seconds"] > 0
        assert await suite.states() == {"local-1": "asleep", "dead-1": "asleep"}
        assert [line.split()[0] for line in log.read_text().splitlines()] == ["start", "ready", "term", "end"]

        async def served() -> int:
            return int((await suite.json("usage"))["totals"]["requests"])

        assert await until(served, bool) == 1, "the token is usage of the key"

        await suite.json("wake", "tiny", "--wait", "--timeout", "60s")
        refused = await run("check", "--machine", "local-1", "--json")
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert "only a machine that is asleep is checked, and local-1 is ready" in refused.stderr
        assert (await suite.states())["local-1"] == "ready", "a machine that may be in use is left alone"

        for _ in range(2):  # the second one soon after, as by an operator who has repaired something
            failed = await run("check", "--machine", "dead-1")
            assert failed.exit_code == 1
            assert "wrong machine dead-1: it did not become ready: dead-1 is asleep" in failed.stderr
            assert "wrong machine dead-1: it can be reached, and its engine is not up: see" in failed.stderr
            assert "loading (given up)" in failed.stdout, "where the time went"

        unknown = await run("check", "--machine", "local-2")
        assert "no [[machine]] has the id 'local-2'; there are local-1, dead-1" in unknown.stderr
        assert (await run("check", "--json")).exit_code == 2


def test_a_wake_beyond_the_budget_names_its_slowest_phase() -> None:
    after = MachineRecord(
        machine="m1",
        tier="t",
        state="ready",
        provider_state="running",
        endpoint="http://10.0.4.11:8000",
        generation=2,
        since=0.0,
        reason="",
        wake_id="w2",
    )
    durations = {"calling": 2.0, "booting": 40.0, "reaching": 8.0, "loading": 445.0, "first_token": 1.0}
    entries = [moved("asleep", "waking", 1000.0, "w2"), moved("waking", "ready", 5.0, "w1")]
    entries += [
        PhaseEnded(at=1000.0, machine="m1", tier="t", wake_id="w2", phase=phase, seconds=seconds, done=True)  # type: ignore[arg-type]  # a phase
        for phase, seconds in durations.items()
    ]
    entries.append(moved("waking", "ready", 1496.0, "w2"))
    report = build_report(WakerSection(), "m", ASLEEP, after, entries)
    assert report.seconds == 496.0
    assert BUDGET_SECONDS == 480.0
    assert report.faults == ("496 s to ready, and the budget is 480 s: most of it is loading",)
    assert [phase.seconds for phase in report.phases] == list(durations.values())


ASLEEP = MachineRecord(
    machine="m1",
    tier="t",
    state="asleep",
    provider_state="stopped",
    endpoint=None,
    generation=1,
    since=0.0,
    reason="",
)


@pytest.mark.parametrize(
    ("phase", "advice"),
    [
        ("calling", "its provider did not take the start: `spotinference check` tries credentials"),
        ("booting", "look at its state and console there"),
        ("reaching", "nothing answers at its endpoint"),
        ("loading", "`journalctl -u spotinference-engine`"),
        ("first_token", "compare `served_as` and `key_file`"),
    ],
)
def test_failed_wake_names_its_phase_and_the_remedy(phase: Phase, advice: str) -> None:
    after = msgspec.structs.replace(ASLEEP, generation=2, reason="no room in us-east-1a")
    entries = [
        moved("asleep", "waking", 1000.0, "w2"),
        PhaseEnded(at=1400.0, machine="m1", tier="t", wake_id="w2", phase=phase, seconds=400.0, done=False),
        moved("waking", "asleep", 1400.0, "w2"),
    ]
    report = build_report(WakerSection(), "m", ASLEEP, after, entries)
    assert report.seconds == 400.0
    assert report.faults[0] == "it did not become ready: m1 is asleep: no room in us-east-1a"
    assert advice in report.faults[1]


def test_wake_that_never_began_names_the_possible_causes() -> None:
    report = build_report(WakerSection(), "m", ASLEEP, ASLEEP, [])
    assert "the waker did not start it within 10 s" in report.faults[0]
    assert "`spotinference journal --machine m1` and `spotinference budget`" in report.faults[1]


@pytest.mark.parametrize("error", [Rejected("it still runs after 3 attempts"), BusUnavailable("no waker leads")])
@pytest.mark.parametrize("state", ["ready", "waking", "broken"])
async def test_machine_that_may_go_on_running_is_reported_loudly(
    monkeypatch: pytest.MonkeyPatch, error: Exception, state: MachineState
) -> None:
    async def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("spotinference.check.machine.carry_out", fail)
    watcher = FleetWatcher()
    report = build_report(WakerSection(), "m", ASLEEP, msgspec.structs.replace(ASLEEP, state=state), [])
    after = await put_to_sleep(MemoryBus(), watcher, report)
    assert f"it was not put to sleep: {error}" in after.faults
    assert after.faults[-1].startswith("IT MAY BE RUNNING AND BILLED: run `spotinference hibernate m1 --wait`")


def moved(from_state: str, to_state: str, at: float, wake_id: str) -> Transition | PhaseEnded:
    return Transition(
        at=at,
        machine="m1",
        tier="t",
        from_state=from_state,  # type: ignore[arg-type]  # a state
        to_state=to_state,  # type: ignore[arg-type]  # a state
        reason="",
        generation=2,
        wake_id=wake_id,
    )
