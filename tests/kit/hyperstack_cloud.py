"""A Hyperstack in the test's own event loop: its documented answers, states that take their time, faults on request.

The vendor's own client drives it too, so that it stays what that client understands.
"""

import asyncio
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

from aiohttp import web

from tests.kit.hyperstack_machines import BEGINS, FakeVm

KEY = "9f1c-key-of-the-test"
Answer = Callable[[web.Request], web.Response]
WINDOW_SECONDS = 60.0
PAGE_SIZE = 20
"""Of a list when nobody asks for another."""


@dataclass(frozen=True)
class Trouble:
    """What happens to a call. `status` 0: its connection is reset. `done`: it does its work all the same."""

    status: int = 0
    message: str = ""
    reason: str | None = None
    body: bytes | None = None
    location: str | None = None
    done: bool = False
    silent: bool = False
    """No answer ever comes."""


class HyperstackCloud:
    """Made by `hyperstack_cloud`. Calls are named `list`, `get`, `events`, `hibernate`, …, `stocks`, `billing`."""

    def __init__(self, clock: Callable[[], float], seconds: float) -> None:
        self.base_url = ""
        self.key = KEY
        self.allowed = True
        """False: the key is good and may do nothing."""
        self.vms: dict[int, FakeVm] = {}
        self.calls: Counter[str] = Counter()
        self.queries: list[tuple[str, dict[str, str]]] = []
        self.limit = 500
        self.outage = False
        self.max_page_size = 1000
        self.counts_pages = False
        """Its list's `count` is the page's, not the whole's: the documentation leaves that open."""
        self.ends_with_404 = False
        """Past its list's last page."""
        self.stock: int = 4
        self.skew = 0.0
        """Seconds that its clock is ahead."""
        self._clock = clock
        self._seconds = seconds
        self._troubles: dict[str, deque[Trouble]] = {}
        self._window: dict[str | None, tuple[float, int]] = {}
        self._silence = asyncio.Event()

    def add(self, status: str = "HIBERNATED", **more: Any) -> FakeVm:
        number = 471_120 + len(self.vms)
        vm = FakeVm(
            id=number, name=f"vm-{number}", status=status, since=self._clock(), **{"seconds": self._seconds, **more}
        )
        self.vms[number] = vm
        return vm

    def fail(self, call: str, trouble: Trouble, times: int = 1) -> None:
        """The next calls of that name end so."""
        self._troubles.setdefault(call, deque()).extend([trouble] * times)

    def recover(self) -> None:
        """No call fails any more."""
        self._troubles.clear()
        self.outage, self.allowed = False, True

    def state(self, vm: FakeVm) -> str:
        vm.settle(self._clock())
        return vm.status

    @property
    def changes(self) -> int:
        """Calls that change something."""
        return sum(self.calls[call] for call in BEGINS)

    def application(self) -> web.Application:
        app = web.Application()
        machine = "/v1/core/virtual-machines"
        billing = "/v1/billing/billing"
        routes: dict[str, tuple[str, Answer]] = {
            machine: ("list", self._list),
            f"{machine}/{{id}}": ("get", self._one),
            f"{machine}/{{id}}/events": ("events", self._events),
            "/v1/core/stocks": ("stocks", self._stocks),
            f"{billing}/history/virtual-machine": ("billing", self._bills),
            f"{billing}/history/virtual-machine/{{id}}": ("billing", self._bill),
            f"{billing}/virtual-machine/{{id}}/billing-events": ("billing", self._billing_events),
        }
        routes |= {f"{machine}/{{id}}/{call}": (call, self._change) for call in BEGINS}
        for path, (call, answer) in routes.items():
            app.router.add_get(path, self._handler(call, answer), allow_head=False)
        return app

    def end(self) -> None:
        self._silence.set()

    def _handler(self, call: str, answer: Answer) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            self.calls[call] += 1
            self.queries.append((call, dict(request.query)))
            response = await self._answer(call, request, answer)
            response.headers["date"] = formatdate(time.time() + self.skew, usegmt=True)
            return response

        return handle

    async def _answer(self, call: str, request: web.Request, answer: Answer) -> web.Response:
        if refusal := self._refusal(request):
            return refusal
        waiting = self._troubles.get(call)
        if not waiting:
            return answer(request)
        trouble = waiting.popleft()
        if trouble.done:
            answer(request)
        if trouble.silent:
            await self._silence.wait()
        if trouble.status == 0:
            _reset(request)
            return web.Response()
        headers = {"location": trouble.location} if trouble.location else None
        if trouble.body is not None:
            return web.Response(status=trouble.status, body=trouble.body, headers=headers)
        return _error(trouble.status, trouble.message, trouble.reason, headers)

    def _refusal(self, request: web.Request) -> web.Response | None:
        now = self._clock()
        began, count = self._window.get(request.remote, (now, 0))
        if now >= began + WINDOW_SECONDS:
            began, count = now, 0
        self._window[request.remote] = (began, count + 1)
        if count >= self.limit:
            return web.Response(status=429, text="Too Many Requests")
        if self.outage:
            return _error(503, "Service Unavailable")
        key = request.headers.get("api_key")
        if key != self.key:
            return _error(401, f"Invalid API key: {key}", "unauthorized")
        return None if self.allowed else _error(403, "You do not have permission", "forbidden")

    def _list(self, request: web.Request) -> web.Response:
        page, size = int(request.query.get("page", "1")), int(request.query.get("pageSize", PAGE_SIZE))
        size = min(size, self.max_page_size)
        vms = [vm for vm in self.vms.values() if vm.listed]
        shown = [self._describe(vm) for vm in vms[(page - 1) * size : page * size]]
        if not shown and page > 1 and self.ends_with_404:
            return _error(404, "Not found", "not_found")
        count = len(shown) if self.counts_pages else len(vms)
        return _ok("Getting virtual machines successful", instances=shown, count=count, page=page, page_size=size)

    def _one(self, request: web.Request) -> web.Response:
        vm = self._vm(request)
        return _ok("Getting virtual machine successful", instance=self._describe(vm)) if vm else _unknown()

    def _events(self, request: web.Request) -> web.Response:
        vm = self._vm(request)
        return _ok("Getting events successful", instance_events=vm.events) if vm else _unknown()

    def _change(self, request: web.Request) -> web.Response:
        vm = self._vm(request)
        if vm is None:
            return _unknown()
        call = request.path.rpartition("/")[2]
        if call == "hibernate-restore" and self.stock == 0:
            return _error(400, "No valid host was found", "bad_request")
        fault = vm.begin(call, self._clock(), retain_ip=request.query.get("retain_ip") == "true")
        return _error(400, fault, "bad_request") if fault else _ok(f"{call} request was successful")

    def _stocks(self, _request: web.Request) -> web.Response:
        sizes = {"1x": 2 * self.stock, "2x": self.stock, "4x": 0, "8x": 0, "10x": 0}
        model = {"model": "H100-80G-PCIe", "available": f"{2 * self.stock}", "configurations": sizes}
        planned = {f"planned_{days}_days": "0" for days in (7, 30, 100)}
        region = {"region": "CANADA-1", "stock-type": "GPU", "models": [model | planned]}
        return web.json_response({"stocks": [region]})

    def _bills(self, request: web.Request) -> web.Response:
        page, size = int(request.query.get("page", "1")), int(request.query.get("per_page", PAGE_SIZE))
        vms = list(self.vms.values())
        rows = [self._row(vm) for vm in vms[(page - 1) * size : page * size]]
        pages = {"page": page, "pages": -(-len(vms) // size), "per_page": size}
        history = {"billing_history": rows, "org_id": 1, "pagination": pages, "total_count": len(vms)}
        return _ok("Getting billing history successful", billing_history_vm=history)

    def _bill(self, request: web.Request) -> web.Response:
        vm = self._vm(request)
        if vm is None:
            return _unknown()
        history = {"billing_history": [self._row(vm)], "org_id": 1, "total_count": 1}
        return _ok("Getting billing history successful", billing_history_vm_details=history)

    def _billing_events(self, request: web.Request) -> web.Response:
        vm = self._vm(request)
        if vm is None:
            return _unknown()
        self.state(vm)
        return _ok("Getting billing events successful", billing_events_history=vm.billing_events(self._clock()))

    def _row(self, vm: FakeVm) -> dict[str, Any]:
        attributes = {"id": str(vm.id), "infrahub_id": vm.id, "resource_name": vm.name, "status": self.state(vm)}
        return {"attributes": attributes, "metrics": vm.bill(self._clock())}

    def _describe(self, vm: FakeVm) -> dict[str, Any]:
        vm.settle(self._clock())
        return vm.describe()

    def _vm(self, request: web.Request) -> FakeVm | None:
        number = request.match_info["id"]
        vm = self.vms.get(int(number)) if number.isdecimal() else None
        if vm is not None:
            vm.settle(self._clock())
        return vm


def _ok(message: str, **more: Any) -> web.Response:
    return web.json_response({"status": True, "message": message, **more})


def _error(status: int, message: str, reason: str | None = None, headers: dict[str, str] | None = None) -> web.Response:
    response = {"status": False, "message": message} | ({"error_reason": reason} if reason else {})
    return web.json_response(response, status=status, headers=headers)


def _unknown() -> web.Response:
    return _error(404, "Virtual machine not found", "not_found")


def _reset(request: web.Request) -> None:
    assert request.transport is not None
    sock: socket.socket = request.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()


@asynccontextmanager
async def hyperstack_cloud(
    *, clock: Callable[[], float] = time.monotonic, seconds: float = 0.05
) -> AsyncIterator[HyperstackCloud]:
    """A running one. `seconds`: how long each change of a machine takes, by `clock`."""
    cloud = HyperstackCloud(clock, seconds)
    runner = web.AppRunner(cloud.application(), handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        cloud.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        yield cloud
    finally:
        cloud.end()
        await runner.cleanup()
