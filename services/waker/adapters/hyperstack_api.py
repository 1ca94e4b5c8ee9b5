"""Hyperstack's virtual machines, as much of them as a waker needs."""

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
    """A virtual machine. Not told: `locked`, whose meaning nobody documents."""

    id: int
    status: str | None = None
    flavor: Flavor | None = None
    environment: Environment | None = None
    labels: list[str] | None = None

    @property
    def word(self) -> str:
        return (self.status or "UNKNOWN").upper()

    @property
    def region(self) -> str:
        return (self.environment and self.environment.region) or "?"

    @property
    def pool(self) -> str:
        return f"{(self.flavor and self.flavor.name) or '?'}/{self.region}"

    @property
    def quota(self) -> str:
        """The account's allowance that it counts against: of its GPU, with spot apart. Empty: unknown."""
        if self.flavor is None or not self.flavor.gpu:
            return ""
        return f"{self.flavor.gpu}/{'spot' if 'spot' in (self.flavor.name or '').lower() else 'on-demand'}"

    @property
    def hibernates(self) -> bool:
        """False only where its flavor says so."""
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
    """An account's machines. Every method is one call, but for `machines`; each raises `HyperstackError`."""

    def __init__(self, account: HyperstackAccount) -> None:
        self._account = account

    @property
    def skew(self) -> float | None:
        """Seconds that our clock is ahead of theirs, by the last answer; None: none told the time."""
        return self._account.skew

    async def close(self) -> None:
        await self._account.close()

    async def machines(self) -> list[Vm]:
        """All that the key may see, in every region, page by page; the first `MAX_PAGES` of them."""
        found: dict[int, Vm] = {}
        for page in range(1, MAX_PAGES + 1):
            try:
                listing = await self._account.get(
                    _Listing, "/core/virtual-machines", page=str(page), pageSize=str(PAGE_SIZE)
                )
            except HyperstackError as fault:
                if fault.status == 404 and page > 1:
                    break  # past the last page
                raise
            told = listing.instances or []
            found |= {vm.id: vm for vm in told}
            # Whether `count` is the page's or the whole's is not documented, and a page may be smaller than asked for.
            short = len(told) < (listing.page_size or PAGE_SIZE) and len(found) >= (listing.count or 0)
            if short or not told:
                break
        return list(found.values())

    async def machine(self, instance: str) -> Vm:
        return (await self._account.get(_Single, _path(instance))).instance

    async def events(self, instance: str) -> list[VmEvent]:
        return (await self._account.get(_Events, _path(instance) + "/events")).instance_events or []

    async def stocks(self) -> list[StockRegion]:
        return (await self._account.get(_Stocks, "/core/stocks")).stocks or []

    async def hibernate(self, instance: str) -> None:
        """From `ACTIVE`. Without `retain_ip` it would come back under another address."""
        await self._change(_path(instance) + "/hibernate", retain_ip="true")

    async def restore(self, instance: str) -> None:
        """From `HIBERNATED`."""
        await self._change(_path(instance) + "/hibernate-restore")

    async def start(self, instance: str) -> None:
        """From `SHUTOFF`."""
        await self._change(_path(instance) + "/start")

    async def _change(self, path: str, **query: str) -> None:
        done = await self._account.get(_Done, path, **query)
        if not done.status:
            # A refusal under a wrong status: judged by its words, as a 400 is.
            raise HyperstackError("200", self._account.clean(done.message or "") or "status: false", status=400)


def _path(instance: str) -> str:
    return f"/core/virtual-machines/{quote(instance, safe='')}"
