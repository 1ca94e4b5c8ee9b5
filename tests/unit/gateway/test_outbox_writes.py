"""When usage is written: once per iteration of the loop, before any client has the end of its response."""

import asyncio
import os
from pathlib import Path

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.adapters import outbox as module
from services.gateway.adapters.write_batcher import MAX_QUEUED_BYTES, WriteBatcher
from tests.unit.gateway.test_outbox import event, fail, files, filled, opened, sequence

_pwrite = os.pwrite


def _half(descriptor: int, data: bytes, offset: int) -> int:
    return _pwrite(descriptor, data[: len(data) // 2], offset)


class Client(asyncio.Transport):
    """One who checks, with each write, that what the bytes acknowledge is in the file already."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self.received: list[bytes] = []

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        data = bytes(data)
        written = b"".join(path.read_bytes() for path in files(self._folder))
        assert data.startswith(b"chunk") or b" %b {" % data.strip() in written, data
        self.received.append(data)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["chunk", "large", "end", "flush", "iterate"]), max_size=30))
async def test_a_client_never_has_the_end_before_the_disk_has_the_event(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("outbox")
    outbox, client = opened(folder), Client(folder)
    batcher = WriteBatcher(outbox.write_pending)
    for step in [*steps, "iterate"]:
        if step == "chunk":
            batcher.write(client, b"chunk")
        elif step == "large":
            batcher.write(client, b"chunk" * MAX_QUEUED_BYTES)
        elif step == "end":
            its = event(outbox)
            outbox.append(its)
            batcher.write(client, its.id.encode())
        elif step == "flush":
            batcher.flush()
        else:
            await asyncio.sleep(0)
    assert len(client.received) == sum(step in {"chunk", "large", "end"} for step in steps)
    await outbox.sync()
    assert sequence(outbox) == list(range(1, steps.count("end") + 1))
    outbox.close()


async def test_events_of_one_iteration_are_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = opened(tmp_path)
    writes = []

    def counted(descriptor: int, data: bytes, offset: int) -> int:
        writes.append(len(data))
        return _pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", counted)
    for _ in range(64):
        outbox.append(event(outbox))
    assert (writes, outbox.size_bytes, outbox.pending, outbox.next_seq) == ([], 0, 64, 65)
    await asyncio.sleep(0)
    assert writes == [outbox.size_bytes]
    (path,) = files(tmp_path)
    assert path.read_bytes().count(b"\n") == 64
    monkeypatch.setattr(module, "WRITE_BYTES", 1000)
    await filled(outbox, 20)
    assert max(writes[1:]) < 2000
    assert sequence(outbox) == list(range(1, 85))
    outbox.close()


async def test_an_event_that_cannot_be_encoded_leaves_no_gap(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    with pytest.raises(UnicodeEncodeError):
        outbox.append(event(outbox, model="\ud800"))
    assert (outbox.next_seq, outbox.pending) == (1, 0)
    await filled(outbox, 1)
    assert sequence(outbox) == [1]
    outbox.close()


async def test_an_event_that_is_not_written_yet_cannot_be_confirmed(tmp_path: Path) -> None:
    outbox = await filled(opened(tmp_path), 1)
    outbox.append(event(outbox))
    assert not outbox.confirm("a", 2)
    assert (outbox.confirm("a", 1), outbox.pending, outbox.oldest_at) == (True, 1, None)
    await outbox.sync()
    assert outbox.confirm("a", 2)
    outbox.close()


async def test_close_writes_the_buffer_and_logs_lost_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = opened(tmp_path)
    outbox.append(event(outbox))
    outbox.close()
    outbox = opened(tmp_path, "b")
    assert sequence(outbox, "a") == [1]
    outbox.append(event(outbox))
    with structlog.testing.capture_logs() as logs, monkeypatch.context() as broken:
        broken.setattr(os, "pwrite", fail)
        outbox.close()
    assert [(entry["event"], entry.get("events")) for entry in logs][-1] == ("usage_events_lost", 1)
    await asyncio.sleep(0)
    outbox = opened(tmp_path, "c")
    assert sorted(outbox.sources) == ["a", "c"]
    outbox.close()


@pytest.mark.parametrize(
    ("broken", "reason", "written"),
    [(_half, "No space left", 1), (fail, "Input/output error", 0)],
    ids=["full", "error"],
)
async def test_a_disk_that_takes_nothing_is_a_fault_and_losesfail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: object, reason: str, written: int
) -> None:
    outbox = await filled(opened(tmp_path), 1)
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", broken)
        outbox.append(event(outbox))
        outbox.write_pending()
        assert outbox.fault is not None
        assert reason in outbox.fault
        assert str(tmp_path) in outbox.fault
        assert path.read_bytes() == whole
        outbox.append(event(outbox, model="a model whose record is longer than the others"))
        await outbox.sync()
        assert (outbox.fault is None, outbox.pending) == (False, 3)
        await outbox.sync()
        assert (sequence(outbox), outbox.synced("a")) == ([*range(1, 2 + written)], 1 + written)
    outbox.write_pending()
    assert outbox.fault is None
    await filled(outbox, 1)
    assert sequence(outbox) == [1, 2, 3, 4]
    outbox.close()


async def test_a_disk_that_takes_no_new_file_is_a_fault_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_BYTES", 1000)
    outbox = opened(tmp_path)
    for _ in range(3):
        outbox.append(event(outbox))
    outbox.write_pending()
    with monkeypatch.context() as full:
        full.setattr(os, "open", lambda *_: fail(0, b"", 0))
        outbox.append(event(outbox))
        outbox.write_pending()
        assert outbox.fault is not None
    with monkeypatch.context() as full:  # the file, but nothing for it
        full.setattr(os, "pwrite", fail)
        outbox.write_pending()
        assert (len(files(tmp_path)), outbox.fault is None) == (2, False)
        await outbox.sync()
        assert sequence(outbox) == [1, 2, 3]
    await outbox.sync()
    assert sequence(outbox) == [1, 2, 3, 4]
    outbox.close()
