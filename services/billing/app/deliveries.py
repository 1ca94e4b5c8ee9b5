"""Lists the deliveries of a source, and uploads them to the object store as import requests."""

import asyncio
import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from services.billing.core.invoice_files.manifests import DeliveryPlan, plan_deliveries
from services.billing.ports import FileSource
from shared.bus.ports import Bus
from shared.bus.topology import INVOICES
from shared.errors import Rejected
from shared.file_digest import sha256_of_file
from shared.messages.invoices import DeliveredFile, ImportRequest


@dataclass(frozen=True)
class AvailableDelivery:
    """A delivery in its source. A version changes when its file does."""

    plan: DeliveryPlan
    versions: tuple[str, ...]


async def list_deliveries(file_source: FileSource) -> tuple[AvailableDelivery, ...]:
    """Return what can be imported, or raise `Rejected` with the reason."""

    def list_blocking() -> tuple[AvailableDelivery, ...]:
        versions = file_source.list_files()
        return tuple(
            AvailableDelivery(plan, tuple(versions[name] for name in plan.files))
            for plan in plan_deliveries(list(versions), file_source.read)
        )

    return await asyncio.to_thread(list_blocking)


async def upload_delivery(
    bus: Bus,
    file_source: FileSource,
    plan: DeliveryPlan,
    source: str,
    *,
    parts: bool = False,
    rounds: bool = False,
    beside: Iterable[str] = (),
) -> ImportRequest:
    """Upload the files unchanged, named by their SHA-256. `parts`, `rounds` and `beside` go into the request.

    Raises:
        Rejected: a file is unreadable or has changed meanwhile.
    """
    files: list[DeliveredFile] = []
    with TemporaryDirectory(prefix="invoices-") as room:
        for name in plan.files:  # one at a time: it is gone from this host before the next one comes
            if not _is_text(name):
                raise Rejected(f"{name!r}: the name is not UTF-8: rename the file")
            try:
                path = await asyncio.to_thread(file_source.fetch, name, Path(room) / "file")
                sha256 = await asyncio.to_thread(sha256_of_file, path)
                with io.BufferedReader(_Unchanged(path, sha256)) as file:
                    await bus.put_object(INVOICES, sha256, file)
                (Path(room) / "file").unlink(missing_ok=True)
            except OSError as error:
                raise Rejected(f"{name}: unreadable: {error.strerror}") from error
            files.append(DeliveredFile(name=name, sha256=sha256))
    return ImportRequest(
        source=source,
        files=tuple(files),
        wanted=plan.listed,
        sizes=dict(plan.sizes),
        parts=parts or bool(plan.listed),
        beside=tuple(beside),
        round=rounds,
    )


class _Unchanged(io.RawIOBase):
    """A file that raises `Rejected` at its end if it has changed since it was hashed: its name is its hash."""

    def __init__(self, path: Path, sha256: str) -> None:
        self._file = path.open("rb")
        self._path, self._sha256 = path, sha256
        self._read = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = self._file.readinto(buffer)
        self._read.update(memoryview(buffer)[:size])
        if size == 0 and self._read.hexdigest() != self._sha256:
            raise Rejected(f"{self._path}: changed while it was read: import it when it is complete")
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


def _is_text(name: str) -> bool:
    """Return whether the bytes of a file's name are UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in name)
