"""Keeps a copy of the views on disk, with which a gateway starts while the bus is absent.

Each view is a file that is named by its digest and written again only after a change. The index names the files and
says when each view was last known to be current. It is replaced last, so a process that is killed leaves a snapshot
that is complete. It holds the digests of API keys, not the keys.
"""

import asyncio
import os
import re
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import structlog

from shared.bus.ports import Bus, Changed
from shared.bus.view import View
from shared.messages.codec import Unreadable, decode, encode

PATIENCE_SECONDS = 3.0
"""How long the bus may take to deliver the views at the start. Electing a cluster's leaders takes longer, and is no
reason to let clients wait."""
PERIOD_SECONDS = 5.0
"""Between two writes: as often as the bus confirms that a view is current."""
BYTES_PER_SECOND = 1024 * 1024
"""A view is written again only after its last size divided by this: a large one that always changes would wear out a
disk."""
MAX_VIEW_BYTES = 128 * 1024 * 1024
"""Some 400 000 keys."""
MAX_INDEX_BYTES = 64 * 1024
MAX_AHEAD_SECONDS = 1.0
"""How far in the future a snapshot may be."""
SLICE = 200
"""Entries that are encoded or decoded at once: about a millisecond."""
PAUSE_SECONDS = 0.005
"""Between two slices, for the requests."""
INDEX = "index.json"
_FILE = re.compile(r"(\w+)\.([0-9a-f]{64})")

log = structlog.get_logger()


class SavedView(msgspec.Struct, frozen=True, kw_only=True):
    """One view's file, `<bucket>.<SHA-256>`. `current_at` is when it had all entries of its bucket, in Unix seconds."""

    file: str
    size_bytes: int
    current_at: float


class SnapshotIndex(msgspec.Struct, frozen=True, kw_only=True):
    """The views by bucket. `bus` names the servers that they were read from."""

    bus: str
    saved_at: float
    views: dict[str, SavedView]

    def check(self, bus: str, buckets: Sequence[str], now: float, max_age_s: float) -> None:
        """Raise `Unreadable` with the reason if a gateway must not start with this snapshot."""
        if self.bus != bus:
            raise Unreadable(f"it is of another bus, {self.bus}")
        if self.saved_at > now + MAX_AHEAD_SECONDS:
            raise Unreadable(f"it is {self.saved_at - now:.0f} s ahead of this host's clock")
        for bucket in buckets:
            view = self.views.get(bucket)
            name = _FILE.fullmatch(view.file) if view else None
            if view is None or name is None or name[1] != bucket:
                raise Unreadable(f"it has no view of bucket {bucket}")
            if not 0 <= view.size_bytes <= MAX_VIEW_BYTES:
                raise Unreadable(f"its view of bucket {bucket} has {view.size_bytes} bytes")
            age_s = now - view.current_at
            if not -MAX_AHEAD_SECONDS <= age_s <= max_age_s:
                raise Unreadable(
                    f"its view of bucket {bucket} was last current {age_s:.0f} s ago; max_view_age is {max_age_s:g} s"
                )


class _Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One line of a view's file."""

    key: str
    revision: int
    stored_at: float
    value: msgspec.Raw


class ViewSnapshot:
    """Call `open_views`, then run the task `run`."""

    def __init__(
        self,
        folder: Path,
        bus: Bus,
        bus_name: str,
        views: Sequence[View[Any]],
        *,
        max_age_s: float,
        now: Callable[[], float],
    ) -> None:
        self._folder = folder
        self._bus = bus
        self._bus_name = bus_name
        self._views = views
        self._max_age_s = max_age_s
        self._now = now
        self._saved: dict[str, SavedView] = {}
        self._versions: dict[str, int] = {}
        """The version of each view that is saved."""
        self._next_at: dict[str, float] = {}
        """When each view may be written again, by the monotonic clock."""
        self._fault: str | None = None

    async def open_views(self) -> float:
        """Return once the bus has delivered the views or, if it does not, once the snapshot has been restored.

        Returns how old the snapshot was in seconds; 0 if the views are the bus's.
        """
        index: SnapshotIndex | None = None
        reason: Exception | None = None
        try:
            index = await asyncio.to_thread(self._read_index)
        except FileNotFoundError:
            pass  # this gateway has never run here
        except (OSError, Unreadable) as error:
            reason = error
        now = self._now()
        for view in self._views:
            age_s = max(0.0, now - index.views[view.bucket.name].current_at) if index else 0.0
            await view.open(self._bus, age_s=age_s)
        synced = asyncio.gather(*(view.wait_until_synced() for view in self._views))
        await asyncio.wait([synced], timeout=PATIENCE_SECONDS if self._bus.connected else 0)
        if synced.done():
            return 0.0
        try:
            if index is not None:
                age_s = await self._restore(index)
                log.warning("started_from_snapshot", age_s=round(age_s, 1))
                return age_s
        except (OSError, Unreadable) as error:
            reason = error
        if reason is not None:
            log.warning("snapshot_rejected", reason=str(reason))
        await synced
        return 0.0

    async def run(self) -> None:
        """Save the views for ever."""
        while True:
            fault = None
            try:
                await self.save()
            except (OSError, Unreadable) as error:
                fault = str(error)
            if fault != self._fault:
                self._fault = fault
                if fault is None:
                    log.info("snapshot_resumed")
                else:
                    log.error("snapshot_failed", reason=fault)
            await asyncio.sleep(PERIOD_SECONDS)

    async def save(self) -> None:
        """Save what has changed. Raises `OSError`, and `Unreadable` for a view that is too large."""
        before = dict(self._saved)
        for view in self._views:
            await self._save_view(view)
        if self._saved != before:
            index = SnapshotIndex(bus=self._bus_name, saved_at=self._now(), views=dict(self._saved))
            await asyncio.to_thread(self._write_index, index)

    async def _save_view(self, view: View[Any]) -> None:
        bucket, now = view.bucket.name, self._now()
        current_at = now - self._bus.view_ages()[bucket]
        saved = self._saved.get(bucket)
        if saved is not None and self._versions[bucket] == view.version:
            if current_at - saved.current_at >= 1.0:
                self._saved[bucket] = msgspec.structs.replace(saved, current_at=current_at)
        elif time.monotonic() >= self._next_at.get(bucket, 0.0):
            version = view.version
            file, size_bytes = await self._write_view(view)
            self._saved[bucket] = SavedView(file=file, size_bytes=size_bytes, current_at=current_at)
            self._versions[bucket] = version
            self._next_at[bucket] = time.monotonic() + size_bytes / BYTES_PER_SECOND

    async def _write_view(self, view: View[Any]) -> tuple[str, int]:
        """Write a view's file, and return its name and size. Entries that change meanwhile may be new or old."""
        bucket, keys, size_bytes, digest = view.bucket.name, list(view), 0, sha256()
        partial = self._folder / f"{bucket}.new"
        with await asyncio.to_thread(_create, partial) as file:
            for start in range(0, len(keys), SLICE):
                now = self._now()
                lines = [
                    encode(_Entry(key, view.revision(key), now - view.age(key), msgspec.Raw(encode(view[key]))))
                    for key in keys[start : start + SLICE]
                    if key in view
                ]
                block = b"\n".join([*lines, b""])
                size_bytes += len(block)
                if size_bytes > MAX_VIEW_BYTES:
                    raise Unreadable(f"the view of bucket {bucket} has more than {MAX_VIEW_BYTES} bytes")
                await asyncio.to_thread(_append, file, block, digest)
                await asyncio.sleep(PAUSE_SECONDS)
            await asyncio.to_thread(_sync, file)
        name = f"{bucket}.{digest.hexdigest()}"
        partial.rename(self._folder / name)
        return name, size_bytes

    def _write_index(self, index: SnapshotIndex) -> None:
        """Replace the index, then remove the files that it does not name."""
        partial = self._folder / f"{INDEX}.new"
        with _create(partial) as file:
            file.write(encode(index))
            _sync(file)
        partial.rename(self._folder / INDEX)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        kept = {INDEX, *(view.file for view in index.views.values())}
        for path in self._folder.iterdir():
            if path.name not in kept:
                path.unlink()

    def _read_index(self) -> SnapshotIndex:
        index = decode(_read(self._folder / INDEX, MAX_INDEX_BYTES), SnapshotIndex)
        self._check(index)
        return index

    def _check(self, index: SnapshotIndex) -> None:
        buckets = [view.bucket.name for view in self._views]
        index.check(self._bus_name, buckets, self._now(), self._max_age_s)

    async def _restore(self, index: SnapshotIndex) -> float:
        """Fill the views that the bus has not delivered, and return how old the newest of them is in seconds."""
        self._check(index)
        missing = [view for view in self._views if not view.is_synced]
        contents = [await asyncio.to_thread(self._read_view, index.views[view.bucket.name]) for view in missing]
        for view, lines in zip(missing, contents, strict=True):
            for start in range(0, len(lines), SLICE):
                for line in lines[start : start + SLICE]:
                    entry = decode(line, _Entry)
                    age_s = max(0.0, self._now() - entry.stored_at)
                    view.restore(Changed(entry.key, bytes(entry.value), entry.revision, age_s))
                await asyncio.sleep(0)
        return self._now() - max(view.current_at for view in index.views.values())

    def _read_view(self, saved: SavedView) -> list[bytes]:
        data = _read(self._folder / saved.file, saved.size_bytes)
        if not saved.file.endswith(f".{sha256(data).hexdigest()}"):
            raise Unreadable(f"{saved.file} is damaged")
        return data.splitlines()


def _create(path: Path) -> BinaryIO:
    """Create a file that only its owner may read; one left over may have other permissions."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        path.unlink()
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _append(file: BinaryIO, block: bytes, digest: Any) -> None:
    file.write(block)
    digest.update(block)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _read(path: Path, max_bytes: int) -> bytes:
    """Read a file of our own. Raises `Unreadable` for one that is too large, or that others may read or wrote."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o007:
            raise Unreadable(f"{path.name} is not a private file of this user")
        if status.st_size > max_bytes:
            raise Unreadable(f"{path.name} has {status.st_size} bytes, more than {max_bytes}")
        return file.read(max_bytes)
