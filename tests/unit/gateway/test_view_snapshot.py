"""The copy of the views on disk: whole or rejected, private, small writes, and off the event loop."""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from services.gateway.adapters import view_snapshot
from services.gateway.adapters.view_snapshot import ViewSnapshot
from shared.bus.memory import MemoryBus
from shared.bus.topology import BUDGET, KEYS
from shared.bus.view import View
from shared.messages.budget import BudgetGate
from shared.messages.codec import encode
from shared.messages.keys import KeyRecord
from tests.kit.waiting import until

MAX_AGE_SECONDS = 300.0
NAME = "nats://bus:4222"


class Gateway:
    """The views of one gateway, and the snapshot in `folder`."""

    def __init__(self, folder: Path, bus: MemoryBus, *, name: str = NAME, ahead_s: float = 0.0) -> None:
        self.keys: View[KeyRecord] = View(KEYS, KeyRecord)
        self.budget: View[BudgetGate] = View(BUDGET, BudgetGate)
        self.snapshot = ViewSnapshot(
            folder, bus, name, (self.keys, self.budget), max_age_s=MAX_AGE_SECONDS, now=lambda: time.time() + ahead_s
        )


def record(name: str) -> KeyRecord:
    return KeyRecord(id=name, name=name, created_at=1.0)


async def saved(folder: Path, *keys: str) -> MemoryBus:
    """A bus with these keys, which a gateway has saved."""
    bus = MemoryBus()
    for key in keys:
        await bus.put(KEYS, key, encode(record(key)))
    gateway = Gateway(folder, bus)
    assert await gateway.snapshot.open_views() == 0.0
    await gateway.snapshot.save()
    return bus


async def started(folder: Path, **options: Any) -> Gateway:
    """A gateway that starts without the bus."""
    bus = MemoryBus()
    bus.connected = False
    gateway = Gateway(folder, bus, **options)
    async with asyncio.timeout(5):
        assert await gateway.snapshot.open_views() > 0.0
    return gateway


async def rejected(folder: Path, **options: Any) -> str:
    """Why a gateway does not start with the snapshot. It starts once the bus is there."""
    bus = MemoryBus()
    bus.connected = False
    gateway = Gateway(folder, bus, **options)
    with capture_logs() as logs:
        starting = asyncio.create_task(gateway.snapshot.open_views())
        await until(lambda: asyncio.sleep(0, [one for one in logs if one["event"] == "snapshot_rejected"]), bool)
    assert not starting.done()
    assert not gateway.keys
    bus.connected = True
    bus.restart()
    assert await starting == 0.0
    return str(logs[0]["reason"])


def file_of(folder: Path, bucket: str) -> Path:
    (path,) = folder.glob(f"{bucket}.*")
    return path


async def test_views_are_restored_with_revisions_and_ages(tmp_path: Path) -> None:
    bus = await saved(tmp_path, "a", "b")
    gateway = await started(tmp_path, ahead_s=100.0)
    assert dict(gateway.keys) == {"a": record("a"), "b": record("b")}
    entry = await bus.get(KEYS, "b")
    assert entry is not None
    assert gateway.keys.revision("b") == entry.revision
    assert 99 < gateway.keys.age("b") < 130


async def test_the_bus_s_own_entries_win_over_restored_ones(tmp_path: Path) -> None:
    await saved(tmp_path, "revoked", "deleted")
    gateway = await started(tmp_path)
    bus = gateway.snapshot._bus
    assert isinstance(bus, MemoryBus)
    bus.connected = True
    await bus.put(KEYS, "revoked", encode(msgspec.structs.replace(record("revoked"), revoked_at=2.0)))
    bus.restart()
    assert dict(gateway.keys) == {"revoked": msgspec.structs.replace(record("revoked"), revoked_at=2.0)}


async def test_files_are_private_and_nothing_is_left_over(tmp_path: Path) -> None:
    await saved(tmp_path / "snapshot", "a")
    (tmp_path / "snapshot" / "keys.new").touch(0o644)
    await saved(tmp_path / "snapshot", "a", "b")
    assert sorted(file.name.partition(".")[0] for file in (tmp_path / "snapshot").iterdir()) == [
        "budget",
        "index",
        "keys",
    ]
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "snapshot").iterdir()} == {0o600}


def times_of(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}


async def test_an_unchanged_view_is_not_written_again(tmp_path: Path) -> None:
    bus = MemoryBus()
    gateway = Gateway(tmp_path, bus)
    await gateway.snapshot.open_views()
    await gateway.snapshot.save()
    written = times_of(tmp_path)
    await gateway.snapshot.save()
    assert times_of(tmp_path) == written


async def test_a_large_view_that_changes_is_written_at_a_bounded_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view_snapshot, "BYTES_PER_SECOND", 0.001)
    bus = MemoryBus()
    await bus.put(KEYS, "a", encode(record("a")))
    gateway = Gateway(tmp_path, bus)
    await gateway.snapshot.open_views()
    await gateway.snapshot.save()
    before = file_of(tmp_path, "keys")
    await bus.put(KEYS, "b", encode(record("b")))
    await gateway.snapshot.save()
    assert file_of(tmp_path, "keys") == before


def cut(folder: Path) -> None:
    file = file_of(folder, "keys")
    os.truncate(file, file.stat().st_size // 2)


def flip(folder: Path) -> None:
    file = file_of(folder, "keys")
    file.write_bytes(file.read_bytes().replace(b'"a"', b'"z"'))


def drop(folder: Path) -> None:
    file_of(folder, "budget").unlink()


def share(folder: Path) -> None:
    file_of(folder, "keys").chmod(0o604)


def link(folder: Path) -> None:
    file = file_of(folder, "keys")
    file.rename(folder.parent / "elsewhere")
    file.symlink_to(folder.parent / "elsewhere")


def change_index(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    index = folder / "index.json"
    content = msgspec.json.decode(index.read_bytes())
    change(content)
    index.write_bytes(msgspec.json.encode(content))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "index.json").write_text("{"), "SnapshotIndex"),
        (lambda folder: (folder / "index.json").write_bytes(b" " * 70_000), "more than"),
        (cut, "damaged"),
        (flip, "damaged"),
        (drop, "No such file"),
        (share, "not a private file"),
        (link, "symbolic links"),
        (lambda folder: change_index(folder, lambda c: c["views"].pop("budget")), "no view of bucket budget"),
        (
            lambda folder: change_index(folder, lambda c: c["views"]["keys"].update(file="../x")),
            "no view of bucket keys",
        ),
        (lambda folder: change_index(folder, lambda c: c["views"]["keys"].update(size_bytes=1 << 40)), "bytes"),
        (lambda folder: change_index(folder, lambda c: c.update(saved_at=time.time() + 60)), "ahead of this host's"),
        (lambda folder: change_index(folder, lambda c: c["views"]["keys"].update(current_at=1e12)), "last current"),
    ],
)
async def test_a_snapshot_that_cannot_be_trusted_is_rejected_and_the_start_goes_on(
    tmp_path: Path, damage: Callable[[Path], object], reason: str
) -> None:
    folder = tmp_path / "snapshot"
    await saved(folder, "a")
    damage(folder)
    assert reason in await rejected(folder)


async def test_a_snapshot_of_another_bus_or_an_old_one_is_rejected(tmp_path: Path) -> None:
    await saved(tmp_path, "a")
    assert "another bus" in await rejected(tmp_path, name="nats://other:4222")
    assert "max_view_age is 300 s" in await rejected(tmp_path, ahead_s=MAX_AGE_SECONDS + 60)
    assert "ahead of this host's clock" in await rejected(tmp_path, ahead_s=-60)


async def test_a_view_that_is_too_large_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_snapshot, "MAX_VIEW_BYTES", 100)
    bus = MemoryBus()
    await bus.put(KEYS, "a", encode(record("a")))
    gateway = Gateway(tmp_path, bus)
    await gateway.snapshot.open_views()
    with capture_logs() as logs:
        saving = asyncio.create_task(gateway.snapshot.run())
        await until(lambda: asyncio.sleep(0, [one["event"] for one in logs]), bool)
        saving.cancel()
    assert [one["event"] for one in logs] == ["snapshot_failed"]
    assert not (tmp_path / "index.json").exists()


class Died(BaseException):
    """The process was killed here."""


@pytest.mark.parametrize("step", range(12))
async def test_a_process_killed_at_any_step_leaves_a_whole_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    bus = await saved(tmp_path, "old")
    gateway = Gateway(tmp_path, bus)
    await gateway.snapshot.open_views()
    await bus.put(KEYS, "new", encode(record("new")))
    steps = iter(range(100))

    def dying(act: Callable[..., Any]) -> Callable[..., Any]:
        def done(*arguments: Any, **options: Any) -> Any:
            if next(steps) >= step:
                raise Died
            return act(*arguments, **options)

        return done

    with monkeypatch.context() as patched:
        for where, name in ((view_snapshot, "_append"), (view_snapshot, "_sync"), (Path, "rename"), (Path, "unlink")):
            patched.setattr(where, name, dying(getattr(where, name)))
        with suppress(Died):
            await gateway.snapshot.save()
    again = await started(tmp_path)
    assert "old" in again.keys
    assert again.keys.keys() <= {"old", "new"}


@pytest.mark.long
async def test_100_000_keys_are_saved_and_restored_without_a_stall(tmp_path: Path) -> None:
    bus = MemoryBus()
    gateway = Gateway(tmp_path, bus)
    await gateway.snapshot.open_views()
    for number in range(100_000):
        await bus.put(KEYS, f"{number:064x}", encode(record(f"key-{number}")))
    longest_s = 0.0

    async def tick() -> None:
        nonlocal longest_s
        while True:
            before = time.thread_time()  # this thread's own work, however busy the machine is
            await asyncio.sleep(0)
            longest_s = max(longest_s, time.thread_time() - before)

    ticking = asyncio.create_task(tick())
    await gateway.snapshot.save()
    ticking.cancel()
    assert longest_s < 0.05
    assert len((await started(tmp_path)).keys) == 100_000
