"""Hyperstack's API for virtual machines, as far as the waker needs it."""

from typing import Any
from urllib.parse import quote

import msgspec

from shared.clouds.hyperstack import HyperstackAccount, HyperstackError

PAGE_SIZE = 100
MAX_PAGES = 50


class Flavor(msgspec.Struct, frozen=True):
    name: str | None = None
    gpu: str | None = None
    gpu_count: int | None = None
    features: dict[str, Any] | None = None


class Environment(msgspec.Struct, frozen=True):
    region: str | None = None


class Vm(msgspec.Struct, frozen=True):
    """A virtual machine. `locked` is left out, since its meaning is not documented."""

    id: int
    status: str | None = None
    flavor: Flavor | None = None
    environment: Environment | None = None
    labels: list[str] | None = None

    @property
    def state(self) -> str:
        return (self.status or "UNKNOWN").upper()

    @property
    def region(self) -> str:
        return (self.environment and self.environment.region) or "?"

    @property
    def pool(self) -> str:
        return f"{(self.flavor and self.flavor.name) or '?'}/{self.region}"

    @property
    def quota(self) -> str:
        """The account's quota that it counts against: by GPU, with spot apart. Empty: unknown."""
        if self.flavor is None or not self.flavor.gpu:
            return ""
        return f"{self.flavor.gpu}/{'spot' if 'spot' in (self.flavor.name or '').lower() else 'on-demand'}"

    @property
    def hibernates(self) -> bool:
        """Whether it can hibernate; False only if its flavor says so."""
        features = (self.flavor and self.flavor.features) or {}
        return features.get("no_hibernation") is not True


class _Listing(msgspec.Struct):
    instances: list[Vm] | None = None
    count: int | None = None
    page_size: int | None = None


class _Single(msgspec.Struct):
    instance: Vm


class _Done(msgspec.Struct):
    status: bool
    message: str | None = None


class VmEvent(msgspec.Struct, frozen=True):
    """`type` is such as `RestoreHibernationInstanceFailed`."""

    type: str | None = None
    message: str | None = None
    reason: str | None = None
    time: str | None = None


class _Events(msgspec.Struct):
    instance_events: list[VmEvent] | None = None


class Stocked(msgspec.Struct, frozen=True):
    """A GPU model's stock; `configurations` counts machines by their size, as `{"2x": 3}`."""

    model: str | None = None
    configurations: dict[str, int | None] | None = None


class StockRegion(msgspec.Struct, frozen=True):
    region: str | None = None
    models: list[Stocked] | None = None


class _Stocks(msgspec.Struct):
    stocks: list[StockRegion] | None = None


class HyperstackApi:
    """An account's machines. Every method but `machines` is one call; each raises `HyperstackError`."""

    def __init__(self, account: HyperstackAccount) -> None:
        self._account = account

    @property
    def skew(self) -> float | None:
        """Seconds by which our clock is ahead of Hyperstack's; None if unknown."""
        return self._account.skew

    async def close(self) -> None:
        await self._account.close()

    async def machines(self) -> list[Vm]:
        """All machines that the key may see, in every region. It is an error if they do not end within `MAX_PAGES`.

        A part of them would pass for all: the others would count as gone.
        """
        vms: dict[int, Vm] = {}
        for page in range(1, MAX_PAGES + 1):
            try:
                listing = await self._account.get(
                    _Listing, "/core/virtual-machines", page=str(page), pageSize=str(PAGE_SIZE)
                )
            except HyperstackError as fault:
                if fault.status == 404 and page > 1:
                    break  # past the last page
                raise
            page_vms = listing.instances or []
            vms |= {vm.id: vm for vm in page_vms}
            # Whether `count` is that of the page is not documented, and a page may be smaller than requested.
            is_last = len(page_vms) < (listing.page_size or PAGE_SIZE) and len(vms) >= (listing.count or 0)
            if is_last or not page_vms:
                break
        else:
            raise HyperstackError("answer", f"the list of machines does not end within {MAX_PAGES} pages")
        return list(vms.values())

    async def machine(self, instance: str) -> Vm:
        return (await self._account.get(_Single, _path(instance))).instance

    async def events(self, instance: str) -> list[VmEvent]:
        return (await self._account.get(_Events, _path(instance) + "/events")).instance_events or []

    async def stocks(self) -> list[StockRegion]:
        return (await self._account.get(_Stocks, "/core/stocks")).stocks or []

    async def hibernate(self, instance: str) -> None:
        """Hibernate an `ACTIVE` machine. Without `retain_ip` it would return with another address."""
        await self._change(_path(instance) + "/hibernate", retain_ip="true")

    async def restore(self, instance: str) -> None:
        """Restore a `HIBERNATED` machine."""
        await self._change(_path(instance) + "/hibernate-restore")

    async def start(self, instance: str) -> None:
        """Start a `SHUTOFF` machine."""
        await self._change(_path(instance) + "/start")

    async def _change(self, path: str, **query: str) -> None:
        done = await self._account.get(_Done, path, **query)
        if not done.status:
            # A refusal with a wrong status: it is judged by its words, like a 400.
            raise HyperstackError("200", self._account.clean(done.message or "") or "status: false", status=400)


def _path(instance: str) -> str:
    return f"/core/virtual-machines/{quote(instance, safe='')}"
