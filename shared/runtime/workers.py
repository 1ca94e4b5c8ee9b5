"""Several processes of one service that share its port, started, announced and drained as one.

The kernel spreads new connections over them. Each is a replica like any other, with an instance of its own; what is
here is their parent, which serves nothing but their health and metrics.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager

import aiohttp
import msgspec
import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from shared.errors import Misconfigured, SpotinferenceError
from shared.messages.codec import Unreadable, decode, decode_text
from shared.runtime import logs
from shared.runtime.child import Child
from shared.runtime.suite_file import RunningService, announce

log = structlog.get_logger()

ASK_SECONDS = 2.0
"""For one worker's health or metrics."""


class Workers:
    """`run` until `stop`. Port 0 is any free one, the same for all."""

    def __init__(
        self, service: str, front: tuple[str, int], metrics: tuple[str, int], count: int, options: list[str]
    ) -> None:
        self._service = service
        self._host, self._port = front
        self._metrics_host, self._metrics_port = metrics
        self._count = count
        self._options = options
        self._children: list[Child] = []
        self._ended = asyncio.Event()

    def stop(self) -> None:
        self._ended.set()

    async def run(self) -> int:
        """The exit status, once all have drained. `SpotinferenceError` where one cannot start."""
        # Bound and never listening: it keeps the port for the workers, also while one of them is started again.
        with socket.socket(socket.AF_INET6 if ":" in self._host else socket.AF_INET) as keeper:
            keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                keeper.bind((self._host, self._port))
            except OSError as error:
                reason = f"cannot listen on {self._host}:{self._port}: {error.strerror}: name another port, or 0"
                raise Misconfigured(f"{self._service}.port: {reason}") from error
            # Only now: a port that others share among themselves is taken as well.
            keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            lifeline, theirs = socket.socketpair()
            with lifeline, theirs:
                return await self._run(keeper.getsockname()[1], theirs.fileno())

    async def _run(self, port: int, lifeline: int) -> int:
        for number in range(self._count):
            options = [*self._options, "--workers", str(self._count), "--worker", str(number), "--port", str(port)]
            options += ["--metrics-port", "0"]  # the configured one is ours
            self._children.append(Child(self._service, options, None, _ignore, lifeline, say=_say))
        try:
            await asyncio.gather(*(child.start() for child in self._children))
            async with self._health() as metrics_port:
                announced = RunningService(
                    service=self._service,
                    url=f"http://{self._host}:{port}",
                    metrics_url=f"http://{self._metrics_host}:{metrics_port}",
                    pid=os.getpid(),
                )
                announce(announced)
                await self._ended.wait()
                await self._drained()  # and seen until its end
        except SpotinferenceError as error:
            logs.stderr().write(f"spotinference {self._service}: {error}\n")
            return 1
        finally:
            await self._drained()
        return 0

    async def _drained(self) -> None:
        await asyncio.gather(*(child.stop() for child in self._children))

    @asynccontextmanager
    async def _health(self) -> AsyncIterator[int]:
        """The three pages of every service, for all workers together; yields the port."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_SECONDS)) as session:

            async def livez(_request: web.Request) -> web.Response:
                return web.json_response({"live": True})

            async def readyz(_request: web.Request) -> web.Response:
                told = await self._ask(session, "/readyz")
                faults = {
                    f"worker {number}: {name}": fault
                    for number, text in told.items()
                    for name, fault in _faults(text).items()
                }
                if self._ended.is_set():
                    faults["draining"] = "draining"
                return web.json_response({"ready": not faults, "faults": faults}, status=503 if faults else 200)

            async def metrics(_request: web.Request) -> web.Response:
                told = await self._ask(session, "/metrics")
                body = generate_latest(_Together((number, text) for number, text in told.items() if text))
                return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

            app = web.Application()
            app.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", metrics)])
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            try:
                await web.TCPSite(runner, self._metrics_host, self._metrics_port).start()
                yield runner.addresses[0][1]
            finally:
                await runner.cleanup()

    async def _ask(self, session: aiohttp.ClientSession, page: str) -> dict[int, str]:
        """Each worker's page; empty where it did not answer."""
        pages = await asyncio.gather(*(_page(session, child.running, page) for child in self._children))
        return dict(enumerate(pages))


def _faults(text: str) -> dict[str, str]:
    """What a worker's `/readyz` says."""
    if not text:
        return {"gone": "no answer"}
    try:
        return decode(text, _Readiness).faults
    except Unreadable as error:
        return {"readyz": str(error)}


async def _page(session: aiohttp.ClientSession, worker: RunningService | None, page: str) -> str:
    if worker is None:
        return ""
    try:
        async with session.get(f"{worker.metrics_url}{page}") as answer:
            return decode_text(await answer.read())
    except (aiohttp.ClientError, TimeoutError, Unreadable):
        return ""


def _say(text: str) -> None:
    log.warning("worker restarted", reason=text)


def _ignore(_running: RunningService) -> None:
    """The workers are announced as one."""


class _Readiness(msgspec.Struct):
    """A worker's `/readyz`."""

    faults: dict[str, str]


class _Together(Collector):
    """The metrics of all workers, each sample with the number of its worker."""

    def __init__(self, pages: Iterable[tuple[int, str]]) -> None:
        self._families: dict[str, Metric] = {}
        for number, text in pages:
            for family in text_string_to_metric_families(text):
                known = self._families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                known.samples += [
                    sample._replace(labels={**sample.labels, "worker": str(number)}) for sample in family.samples
                ]

    def collect(self) -> Iterator[Metric]:
        yield from self._families.values()
