"""Usage on disk: written before it is sent, kept until it is confirmed, whole after any crash."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.adapters import outbox as module
from services.gateway.adapters.outbox import Outbox
from shared.errors import Misconfigured
from shared.messages.gateway import UsageEvent

EVENT = UsageEvent(
    id="e",
    source="",
    source_seq=0,
    completed_at=1.0,
    key_id="k",
    model="m",
    tier="t",
    machine="x",
    generation=1,
    prompt_tokens=1,
    cached_tokens=0,
    completion_tokens=2,
    reasoning_tokens=0,
    basis="engine",
    outcome="completed",
    status=200,
    streamed=True,
    wake_wait=0.0,
    wake_id=None,
    first_token=None,
    duration=1.0,
    overhead=0.0,
)


def opened(folder: Path, source: str = "a", max_bytes: int = 10**6) -> Outbox:
    return Outbox(folder, source, max_bytes=max_bytes)


def sequence(outbox: Outbox, source: str = "a", after: int = 0) -> list[int]:
    return [event.source_seq for event in outbox.read(source, after)]


def test_events_are_numbered_without_a_gap_and_survive_the_process(tmp_path: Path) -> None:
    first = opened(tmp_path)
    for _ in range(3):
        first.append(EVENT)
    first.close()
    second = opened(tmp_path, "b")
    second.append(EVENT)
    assert (sequence(second, "a"), sequence(second, "b")) == ([1, 2, 3], [1])
    assert sorted(second.sources) == ["a", "b"]
    second.close()


def test_what_is_confirmed_is_forgotten_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_BYTES", 1000)
    outbox = opened(tmp_path)
    for _ in range(20):
        outbox.append(EVENT)
    outbox.confirm("a", 11)
    assert sequence(outbox, after=11) == list(range(12, 21))
    assert outbox.pending < 20
    outbox.confirm("a", 20)
    assert outbox.size == 0
    outbox.append(EVENT)
    assert sequence(outbox) == [21]
    outbox.close()


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 10**9), garbage=st.binary(max_size=20))
def test_a_damaged_end_costs_only_what_was_damaged(
    tmp_path_factory: pytest.TempPathFactory, cut: int, garbage: bytes
) -> None:
    folder = tmp_path_factory.mktemp("outbox")
    outbox = opened(folder)
    for _ in range(4):
        outbox.append(EVENT)
    outbox.close()
    (path,) = folder.glob("*.log")
    data = path.read_bytes()
    keep = cut % (len(data) + 1)
    path.write_bytes(data[:keep] + garbage)
    again = opened(folder, "b")
    whole = data[:keep].count(b"\n")
    found = sequence(again, "a")
    assert found[:whole] == list(range(1, whole + 1))
    assert len(found) <= whole + 1  # a cut that took only the line's end is no damage
    again.close()


def test_a_full_disk_is_a_fault_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = opened(tmp_path)
    outbox.append(EVENT)
    write = os.write

    def half(descriptor: int, data: bytes) -> int:
        write(descriptor, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    outbox.append(EVENT)
    outbox.append(EVENT)
    assert outbox.fault is not None
    assert "No space left" in outbox.fault
    assert str(tmp_path) in outbox.fault
    monkeypatch.setattr(os, "write", write)
    outbox.write_waiting()
    assert outbox.fault is None
    assert sequence(outbox) == [1, 2, 3]
    outbox.close()


def test_at_its_bound_it_says_so(tmp_path: Path) -> None:
    outbox = opened(tmp_path, max_bytes=600)
    outbox.append(EVENT)
    assert outbox.fault is None
    outbox.append(EVENT)
    assert outbox.fault is not None
    outbox.close()


def test_two_gateways_on_one_folder_are_refused(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    with pytest.raises(Misconfigured, match="another gateway"):
        opened(tmp_path, "b")
    outbox.close()


def test_synced_follows_the_disk_not_the_page_cache(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    outbox.append(EVENT)
    outbox.append(EVENT)
    assert outbox.synced("a") == 0
    job = outbox.unsynced()
    assert job is not None
    outbox.append(EVENT)
    outbox.mark_synced(job())
    assert outbox.synced("a") == 2
    outbox.close()
