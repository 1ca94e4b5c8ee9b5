"""Runs several processes of one service that share its port, as one: they start, announce and drain together.

The kernel spreads new connections over them. Each is a replica like any other, with its own instance. This is their
parent, which serves only their health and metrics.
"""

import argparse
import asyncio
import os
import signal
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

from shared.config.sections import ServiceSection
from shared.errors import Misconfigured, SpotinferenceError
from shared.messages.codec import Unreadable, decode, decode_text
from shared.runtime import logs
from shared.runtime.child import Child
from shared.runtime.listener import bind, origin
from shared.runtime.signals import stop_on_signals
from shared.runtime.suite_file import RunningService, announce
from shared.tasks import cancel_and_wait

log = structlog.get_logger()

KILL_AFTER_SECONDS = 10.0
"""Beyond the time that a worker's drain may take: for the last bytes, the last usage and the bus."""
FETCH_SECONDS = 2.0
"""For one worker's health or metrics page."""


class Workers:
    """Runs the workers until `stop`. With port 0, they share any free one. `drain_s` is what a drain may take."""

    def __init__(
        self,
        service: str,
        front: tuple[str, int],
        metrics: tuple[str, int],
        count: int,
        options: list[str],
        *,
        drain_s: float,
    ) -> None:
        self._service = service
        self._host, self._port = front
        self._metrics_host, self._metrics_port = metrics
        self._count = count
        self._options = options
        self._stop_s = drain_s + KILL_AFTER_SECONDS
        self.children: list[Child] = []
        self._stop = asyncio.Event()

    def stop(self) -> None:
        self._stop.set()

    def reload(self) -> None:
        """Pass SIGHUP on to all workers."""
        for child in self.children:
            child.reload()

    async def run(self) -> int:
        """Run the workers, and return the exit status once all have ended: 0 if each has drained.

        Raises:
            SpotinferenceError: they cannot start.
        """
        # Bound but never listening, this socket reserves the port while a worker is restarted.
        try:
            reserved = bind(self._host, self._port)
        except OSError as error:
            where = f"{self._service}.port: cannot listen on {self._host}:{self._port}"
            raise Misconfigured(f"{where}: {error.strerror}: choose another port, or 0 for a free one") from error
        with reserved:
            # Set only now, so that a port which other processes share counts as taken.
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            lifeline, child_end = socket.socketpair()
            with lifeline, child_end:
                return await self._run(reserved.getsockname()[1], child_end.fileno())

    async def _run(self, port: int, lifeline: int) -> int:
        for number in range(self._count):
            options = [*self._options, "--workers", str(self._count), "--worker", str(number), "--port", str(port)]
            options += ["--metrics-port", "0"]  # the configured one belongs to this process
            child = Child(
                self._service,
                options,
                None,
                _ignore,
                lifeline,
                stop_s=self._stop_s,
                start_s=None,  # they await the bus for ever
                report=_log_restart,
            )
            self.children.append(child)
        try:
            async with self._health() as metrics_port:
                if await self._start_children():
                    announced = RunningService(
                        service=self._service,
                        url=origin(self._host, port),
                        metrics_url=origin(self._metrics_host, metrics_port),
                        pid=os.getpid(),
                    )
                    announce(announced)
                    await self._stop.wait()
                return await self._stop_children()  # the pages stay up until the drain has ended
        except SpotinferenceError as error:
            logs.stderr().write(f"spotinference {self._service}: {error}\n")
            return 1
        finally:
            await self._stop_children()

    async def _start_children(self) -> bool:
        """Start all workers. Return False if they have to stop before they are ready."""

        async def start() -> None:
            await asyncio.gather(*(child.start() for child in self.children))

        starting, stopping = asyncio.create_task(start()), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
            return not self._stop.is_set()
        finally:
            await cancel_and_wait([starting, stopping])

    async def _stop_children(self) -> int:
        """Stop all workers; return the exit status."""
        faults = await asyncio.gather(*(child.stop() for child in self.children))
        for number, fault in enumerate(faults):
            if fault is not None:
                log.error("worker_not_drained", worker=number, reason=fault)
        return 1 if any(faults) else 0

    @asynccontextmanager
    async def _health(self) -> AsyncIterator[int]:
        """Serve the three pages for all workers together, and yield the port."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=FETCH_SECONDS)) as session:

            async def livez(_request: web.Request) -> web.Response:
                return web.json_response({"live": True})

            async def readyz(_request: web.Request) -> web.Response:
                texts = await self._fetch_all(session, "/readyz")
                faults = {
                    f"worker {number}: {name}": fault
                    for number, text in texts.items()
                    for name, fault in _faults(text, has_started=self.children[number].running is not None).items()
                }
                if self._stop.is_set():
                    faults["draining"] = "draining"
                return web.json_response({"ready": not faults, "faults": faults}, status=503 if faults else 200)

            async def metrics(_request: web.Request) -> web.Response:
                texts = await self._fetch_all(session, "/metrics")
                body = generate_latest(
                    _MergedMetrics((number, text) for number, text in texts.items() if text is not None)
                )
                return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

            app = web.Application()
            app.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", metrics)])
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            try:
                await web.SockSite(runner, bind(self._metrics_host, self._metrics_port)).start()
                yield runner.addresses[0][1]
            finally:
                await runner.cleanup()

    async def _fetch_all(self, session: aiohttp.ClientSession, page: str) -> dict[int, str | None]:
        """Fetch a page of each worker; None if it did not answer."""
        pages = await asyncio.gather(*(_fetch(session, child.running, page) for child in self.children))
        return dict(enumerate(pages))


def _faults(text: str | None, *, has_started: bool) -> dict[str, str]:
    """Return the faults in a worker's `/readyz`."""
    if not has_started:
        return {"starting": "starting"}
    if text is None:
        return {"gone": "no answer"}
    try:
        return decode(text, _Readiness).faults
    except Unreadable as error:
        return {"readyz": str(error)}


async def _fetch(session: aiohttp.ClientSession, worker: RunningService | None, page: str) -> str | None:
    if worker is None:
        return None
    try:
        async with session.get(f"{worker.metrics_url}{page}") as answer:
            return decode_text(await answer.read())
    except (aiohttp.ClientError, TimeoutError, Unreadable):
        return None


def _log_restart(text: str) -> None:
    log.warning("worker_restarted", reason=text)


def _ignore(_running: RunningService) -> None:
    """Ignore a worker's announcement: the workers are announced as one."""


class _Readiness(msgspec.Struct):
    """A worker's `/readyz`."""

    faults: dict[str, str]


class _MergedMetrics(Collector):
    """The metrics of all workers, each sample labelled with its worker."""

    def __init__(self, pages: Iterable[tuple[int, str]]) -> None:
        self._families: dict[str, Metric] = {}
        for number, text in pages:
            for family in text_string_to_metric_families(text):
                merged = self._families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                merged.samples += [
                    sample._replace(labels={**sample.labels, "worker": str(number)}) for sample in family.samples
                ]

    def collect(self) -> Iterator[Metric]:
        yield from self._families.values()


def worker_count(section: ServiceSection, arguments: argparse.Namespace) -> int:
    """Return how many processes share the port."""
    configured: int | None = getattr(section, "workers", None)
    option: int | None = arguments.workers
    if configured is None and option is not None:
        raise Misconfigured("--workers does not apply to this service: it has one process; start it several times")
    if option is not None and option < 1:
        raise Misconfigured(f"--workers must be at least 1, got {option}")
    return option or configured or 1


async def supervise(service: str, section: ServiceSection, count: int, arguments: argparse.Namespace) -> int:
    """Run so many workers of a service with these options, and return the exit status."""
    options = ["--data-dir", str(arguments.data_dir)]
    if arguments.config is not None:
        options += ["--config", str(arguments.config)]
    port: int = getattr(section, "port", 0) if arguments.port is None else arguments.port
    metrics_port = section.metrics_port if arguments.metrics_port is None else arguments.metrics_port
    front, metrics = (section.host, port), (section.metrics_host, metrics_port)
    workers = Workers(service, front, metrics, count, options, drain_s=section.drain_s)
    stop_on_signals(workers.stop, workers.stop)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, workers.reload)
    return await workers.run()
