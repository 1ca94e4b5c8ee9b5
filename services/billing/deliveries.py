"""Deliveries from where they lie into the bus's object store, each as a request to import it."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from services.billing.adapters.places import Place
from services.billing.core.manifests import Plan, plans
from shared.bus.ports import Bus
from shared.bus.topology import INVOICES
from shared.messages.invoices import DeliveredFile, ImportRequest


@dataclass(frozen=True)
class Found:
    """A delivery where it lies; `marks` change when one of its files does."""

    plan: Plan
    marks: tuple[str, ...]


async def found(place: Place) -> tuple[Found, ...]:
    """What there is to import. `Refusal` says why nothing can be."""

    def look() -> tuple[Found, ...]:
        names = place.names()
        return tuple(Found(plan, tuple(names[name] for name in plan.files)) for plan in plans(list(names), place.read))

    return await asyncio.to_thread(look)


async def sent(
    bus: Bus,
    place: Place,
    plan: Plan,
    source: str,
    *,
    parts: bool = False,
    rounds: bool = False,
    beside: Iterable[str] = (),
) -> ImportRequest:
    """Put the files where billing reads them, unchanged and named by their SHA-256.

    `parts`, `rounds` and `beside` are the request's.
    """
    files: list[DeliveredFile] = []
    with TemporaryDirectory(prefix="invoices-") as room:
        async for name, path in _fetched(place, plan, Path(room)):
            sha256 = await asyncio.to_thread(_sha256, path)
            with path.open("rb") as file:
                await bus.put_object(INVOICES, sha256, file)
            files.append(DeliveredFile(name=name, sha256=sha256))
    return ImportRequest(
        source=source,
        files=tuple(files),
        wanted=plan.wanted,
        sizes=dict(plan.sizes),
        parts=parts or bool(plan.wanted),
        beside=tuple(beside),
        round=rounds,
    )


async def _fetched(place: Place, plan: Plan, room: Path) -> AsyncIterator[tuple[str, Path]]:
    """One at a time: it is gone from this host before the next one comes."""
    for name in plan.files:
        path = await asyncio.to_thread(place.fetched, name, room / "file")
        yield name, path
        (room / "file").unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
