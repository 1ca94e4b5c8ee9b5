"""Usage on disk: written before it is sent, kept until it is confirmed, whole after any crash."""

import asyncio
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.adapters import outbox as module
from services.gateway.adapters import segments
from services.gateway.adapters.outbox import Cursor, Outbox
from shared.errors import Misconfigured
from shared.messages.codec import decode, encode
from shared.messages.gateway import UsageEvent


def event(outbox: Outbox, *, at: float = 1.0, model: str = "m") -> UsageEvent:
    """The next one of the outbox's source."""
    return UsageEvent(
        id=f"id-{outbox.source}-{outbox.next_seq}",
        source=outbox.source,
        source_seq=outbox.next_seq,
        completed_at=at,
        key_id="k",
        model=model,
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


def opened(folder: Path, source: str = "a", max_bytes: int = 10**8) -> Outbox:
    return Outbox(folder, source, max_bytes=max_bytes)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.log"))


async def filled(outbox: Outbox, count: int) -> Outbox:
    for _ in range(count):
        outbox.append(event(outbox))
    await outbox.sync()
    return outbox


def blocks(outbox: Outbox, cursor: Cursor) -> Iterator[list[int]]:
    while True:
        records, cursor = outbox.read(cursor)
        if not records:
            return
        yield [record.seq for record in records]


def sequence(outbox: Outbox, source: str = "a", after: int = 0) -> list[int]:
    return [seq for block in blocks(outbox, Cursor(source, after)) for seq in block]


def fail(descriptor: int, data: bytes, offset: int) -> int:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


async def test_events_are_read_as_they_go_to_the_bus(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    odd = event(outbox, model='line\nbreak "quote" é')
    outbox.append(odd)
    await outbox.sync()
    ((record,), _) = outbox.read(Cursor("a", 0))
    assert (record.seq, record.id, record.payload) == (1, odd.id, encode(odd))
    outbox.close()


async def test_events_are_numbered_without_a_gap_and_survive_the_process(tmp_path: Path) -> None:
    first = opened(tmp_path)
    for _ in range(3):
        first.append(event(first))
    first.close()  # never synced: the page cache is enough for that
    second = await filled(opened(tmp_path, "b"), 1)
    assert (sequence(second, "a"), sequence(second, "b")) == ([1, 2, 3], [1])
    assert (sorted(second.sources), second.pending) == (["a", "b"], 4)
    second.close()


async def test_an_event_with_a_wrong_sequence_number_is_renumbered(tmp_path: Path) -> None:
    outbox = await filled(opened(tmp_path), 1)
    stale = event(outbox)
    outbox.append(stale)
    outbox.append(stale)
    await outbox.sync()
    records, _ = outbox.read(Cursor("a", 0))
    assert [decode(record.payload, UsageEvent).source_seq for record in records] == [1, 2, 3]
    outbox.close()


async def test_only_confirmed_segments_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_BYTES", 1000)
    outbox = await filled(opened(tmp_path), 20)
    whole = outbox.size_bytes
    assert outbox.confirm("a", 11)
    assert sequence(outbox, after=11) == list(range(12, 21))
    assert (outbox.pending, outbox.mark("a")) == (9, 11)
    assert outbox.size_bytes == sum(path.stat().st_size for path in files(tmp_path)) < whole
    assert not outbox.confirm("a", 11)
    assert not outbox.confirm("a", 5)
    assert outbox.confirm("a", 20)
    assert (outbox.size_bytes, outbox.pending, files(tmp_path)) == (0, 0, [])
    await filled(outbox, 1)
    assert sequence(outbox) == [21]
    outbox.close()


async def test_a_mark_beyond_what_was_written_is_not_believed(tmp_path: Path) -> None:
    outbox = await filled(opened(tmp_path), 2)
    assert not outbox.confirm("a", 3)
    assert sequence(outbox) == [1, 2]
    assert not outbox.confirm("stranger", 1)
    outbox.close()


async def test_an_earlier_boot_s_events_go_with_their_last_confirmation(tmp_path: Path) -> None:
    (await filled(opened(tmp_path), 3)).close()
    outbox = opened(tmp_path, "b")
    assert outbox.confirm("a", 7)  # the ledger may know more than a damaged disk
    assert (outbox.sources, outbox.size_bytes, outbox.pending) == (["b"], 0, 0)
    assert outbox.mark("a") == 0
    outbox.close()


async def test_reading_resumes_at_the_cursor_and_holds_one_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEGMENT_BYTES", 5000)
    monkeypatch.setattr(segments, "BLOCK_BYTES", 1500)
    outbox = await filled(opened(tmp_path), 60)
    read = []
    pread = os.pread

    def counted(descriptor: int, length: int, offset: int) -> bytes:
        read.append(length)
        return pread(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", counted)
    assert [seq for block in blocks(outbox, Cursor("a", 0)) for seq in block] == list(range(1, 61))
    assert max(read) <= 1500
    assert sum(read) < 1.5 * outbox.size_bytes  # what a block cut off at its end is read twice, and nothing else
    outbox.close()


async def test_a_sequence_number_is_located_by_bisection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "PROBE_BYTES", 1000)
    monkeypatch.setattr(segments, "BLOCK_BYTES", 1000)
    outbox = await filled(opened(tmp_path), 1000)
    for after in (0, 1, 499, 998, 999, 1000):
        records, _ = outbox.read(Cursor("a", after))
        assert [record.seq for record in records[:1]] == [after + 1][: 1000 - after]
    (segment,) = outbox._own.segments
    assert segment.offset_after(900) > 0.85 * segment.size_bytes
    outbox.close()


async def test_a_line_longer_than_a_block_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "BLOCK_BYTES", 64)
    outbox = await filled(opened(tmp_path), 3)
    assert list(blocks(outbox, Cursor("a", 0))) == [[1], [2], [3]]
    outbox.close()


async def test_reading_resumes_after_segments_deleted_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEGMENT_BYTES", 3000)
    monkeypatch.setattr(segments, "BLOCK_BYTES", 1000)
    outbox = await filled(opened(tmp_path), 20)
    records, cursor = outbox.read(Cursor("a", 0))
    assert len(records) < 5
    outbox.confirm("a", 15)
    assert sorted({seq for block in blocks(outbox, cursor) for seq in block} - set(range(1, 16))) == [
        16,
        17,
        18,
        19,
        20,
    ]
    outbox.close()


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 10**9), garbage=st.binary(max_size=20))
async def test_a_damaged_end_costs_only_what_was_damaged(
    tmp_path_factory: pytest.TempPathFactory, cut: int, garbage: bytes
) -> None:
    folder = tmp_path_factory.mktemp("outbox")
    (await filled(opened(folder), 4)).close()
    (path,) = files(folder)
    data = path.read_bytes()
    left = data[: cut % (len(data) + 1)] + garbage
    path.write_bytes(left)
    again = opened(folder, "b")
    lines = data.split(b"\n")
    # A cut that took only a line's end is no damage.
    assert sequence(again, "a") == [seq for seq in range(1, 5) if lines[seq - 1] in left.split(b"\n")]
    again.close()


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 10**9), byte=st.integers(1, 255), after=st.integers(0, 40))
async def test_a_damaged_middle_costs_only_what_was_damaged(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int, after: int
) -> None:
    folder = tmp_path_factory.mktemp("outbox")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(module, "SEGMENT_BYTES", 5000)
        monkeypatch.setattr(segments, "BLOCK_BYTES", 1000)
        monkeypatch.setattr(segments, "PROBE_BYTES", 800)
        (await filled(opened(folder), 40)).close()
        paths = files(folder)
        lines = b"".join(path.read_bytes() for path in paths).split(b"\n")
        path = paths[place % len(paths)]
        data = bytearray(path.read_bytes())
        data[place % len(data)] ^= byte
        path.write_bytes(data)
        left = set(b"\n".join(path.read_bytes() for path in paths).split(b"\n"))
        again = opened(folder, "b")
        whole = [seq for seq in range(1, 41) if lines[seq - 1] in left]
        assert len(whole) >= 38
        assert sequence(again, "a", after) == [seq for seq in whole if seq > after]
        again.close()


async def test_damage_in_the_open_file_spares_later_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_BYTES", 2000)
    outbox = await filled(opened(tmp_path), 3)
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes()[:-9] + b"?" * 8 + b"\n")
    for _ in range(7):
        outbox.append(event(outbox))
    records, cursor = outbox.read(Cursor("a", 0))
    assert [record.seq for record in records] == [1, 2]
    records, cursor = outbox.read(cursor)
    assert records == []
    await outbox.sync()
    assert [seq for block in blocks(outbox, cursor) for seq in block] == list(range(4, 11))
    outbox.close()


async def test_a_file_that_is_shorter_than_it_was_ends_the_reading(tmp_path: Path) -> None:
    outbox = await filled(opened(tmp_path), 4)
    (path,) = files(tmp_path)
    os.truncate(path, path.stat().st_size // 2)
    assert sequence(outbox) == [1, 2]
    outbox.close()


async def test_a_file_without_a_readable_record_and_a_stranger_do_not_stop_a_start(tmp_path: Path) -> None:
    (tmp_path / "x.000000000001.log").write_bytes(b"garbage")
    (tmp_path / "notes.log").write_bytes(b"not ours")
    outbox = opened(tmp_path)
    assert outbox.sources == ["a"]
    assert [path.name for path in files(tmp_path)] == ["notes.log"]
    outbox.close()


async def test_nothing_is_read_that_is_not_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = await filled(opened(tmp_path), 2)
    outbox.append(event(outbox))
    assert (sequence(outbox), outbox.synced("a")) == ([1, 2], 2)
    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", lambda _: fail(0, b"", 0))
        await outbox.sync()
        assert "Input/output error" in str(outbox.fault)
        assert sequence(outbox) == [1, 2]
    await outbox.sync()
    assert outbox.fault is None
    assert (sequence(outbox), outbox.synced("a")) == ([1, 2, 3], 3)
    fdatasync, loop = os.fdatasync, asyncio.get_running_loop()

    async def another() -> None:
        outbox.append(event(outbox))

    def while_another_comes(descriptor: int) -> None:
        fdatasync(descriptor)
        asyncio.run_coroutine_threadsafe(another(), loop).result()

    outbox.append(event(outbox))
    monkeypatch.setattr(os, "fdatasync", while_another_comes)
    await outbox.sync()
    assert (sequence(outbox), outbox.synced("a"), outbox.next_seq) == ([1, 2, 3, 4], 4, 6)
    outbox.close()


async def test_a_full_segment_is_synced_with_the_one_behind_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_BYTES", 1000)
    outbox = opened(tmp_path)
    synced = []
    fdatasync = os.fdatasync

    def recorded(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fdatasync(descriptor)

    monkeypatch.setattr(os, "fdatasync", recorded)
    await filled(outbox, 8)
    assert synced == [path.name for path in files(tmp_path)]
    assert len(synced) > 2
    await outbox.sync()
    assert len(synced) == len(set(synced))  # what is synced is not synced again
    assert sequence(outbox) == list(range(1, 9))
    outbox.close()


async def test_a_full_outbox_has_a_fault_until_the_ledger_confirms(tmp_path: Path) -> None:
    outbox = await filled(opened(tmp_path, max_bytes=6000), 5)
    assert outbox.fault is None
    while outbox.fault is None:
        outbox.append(event(outbox))
        outbox.write_pending()
    assert "6000 bytes" in outbox.fault
    outbox.append(event(outbox))  # whoever is served still is counted
    await outbox.sync()
    last = outbox.next_seq - 1
    assert sequence(outbox) == list(range(1, last + 1))
    outbox.confirm("a", last)
    assert outbox.fault is None
    outbox.close()


async def test_the_oldest_is_the_first_unconfirmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_BYTES", 2000)
    outbox = opened(tmp_path)
    assert outbox.oldest_at is None
    for at in range(20):
        outbox.append(event(outbox, at=100.0 + at))
    await outbox.sync()
    assert outbox.oldest_at == 100.0
    outbox.confirm("a", 7)
    assert outbox.oldest_at == 107.0
    outbox.close()
    again = opened(tmp_path, "b")
    again.append(event(again, at=50.0))
    await again.sync()
    assert again.oldest_at == 50.0
    again.confirm("b", 1)
    assert again.oldest_at is not None
    again.confirm("a", 20)
    assert again.oldest_at is None
    again.close()


def test_two_gateways_on_one_folder_are_refused(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    with pytest.raises(Misconfigured, match="another gateway"):
        opened(tmp_path, "b")
    outbox.close()


async def test_two_boots_of_one_name_are_refused(tmp_path: Path) -> None:
    (await filled(opened(tmp_path), 1)).close()
    with pytest.raises(Misconfigured, match="its own instance name"):
        opened(tmp_path)
