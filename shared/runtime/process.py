"""Runs a service from its command line to its exit status: `python -m services.NAME` calls `run`.

A service is an asynchronous context manager: entering starts it, leaving drains it. The process ends on SIGTERM or
SIGINT, when the lifeline shows that its parent has gone, or with status 1 after one of its tasks has crashed. It serves
its health before it first connects to the bus, which it awaits for ever. If the bus fails while the service starts, the
process starts again.
"""

import argparse
import asyncio
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

import structlog
import uvloop
from prometheus_client import CollectorRegistry, Gauge

from shared.bus.jetstream import connect
from shared.bus.lease import Lease
from shared.bus.ports import Bus
from shared.bus.subjects import replica
from shared.config.load import find_config, load
from shared.config.sections import Config, ServiceSection
from shared.errors import BusUnavailable, Misconfigured, SpotinferenceError
from shared.runtime import logs, suite_file
from shared.runtime.bus_health import BusMetrics, view_fault
from shared.runtime.clock_skew import ClockSkewMonitor
from shared.runtime.health import Health, report_unready, serve_health
from shared.runtime.listener import origin
from shared.runtime.process_metrics import register_process_metrics
from shared.runtime.reload import reload_on_hangup
from shared.runtime.signals import End, cancel_when, stop_on_signals
from shared.runtime.workers import supervise, worker_count
from shared.tasks import cancel_and_wait

log = structlog.get_logger()

START_AGAIN = -1
"""In place of an exit status: the bus interrupted the start, or another configuration is to be used for it."""
START_AGAIN_SECONDS = 1.0


def _new_instance() -> str:
    return f"{socket.gethostname()}-{uuid4().hex[:8]}"


@dataclass(kw_only=True)
class Runtime:
    """What a process provides to its service. `now` returns Unix seconds; `monotonic` never jumps."""

    service: str
    config: Config
    data_dir: Path
    bus: Bus
    bus_name: str = ""
    """The bus's servers, without secrets."""
    port: int | None
    """From the command line; overrides the configured one."""
    instance: str = field(default_factory=_new_instance)
    """Identifies this replica since its last start."""
    health: Health = field(default_factory=Health)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    worker: int | None = None
    """Number of this process, from 0, among those that share the port; None if it is the only one."""
    workers: int = 1
    """How many processes share the port."""
    url: str | None = None
    """The origin of a service with a public port, set by the service."""
    on_reload: Callable[[Config], None] | None = None
    """Takes the configuration that was reread on SIGHUP; set by a service that can change it while it runs."""
    started: bool = False
    """Set once the service has started. Until then it is alive and not ready."""
    abandoned: bool = False
    """The parent process has gone: the drain is as short as it can be."""
    _ended: asyncio.Event = field(default_factory=asyncio.Event)
    _crash: BaseException | None = None
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.registry.register(BusMetrics(self.bus))

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run a task until the drain has ended. If it raises, the process drains and exits with 1."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    def keep_lease(self, lease: Lease, may_lead: Callable[[], bool] = lambda: True) -> asyncio.Task[None]:
        """Compete for the lease for ever. A missing leader makes this replica not ready, and is a metric.

        `may_lead`: returns whether this replica can do the leader's work.
        """
        self.health.add_check("lease", lambda: lease.fault)
        name, text = f"spot_{self.service}_leaderless_seconds", "How long no replica is known to lead."
        Gauge(name, text, registry=self.registry).set_function(lambda: lease.leaderless_seconds)
        return self.spawn(lease.keep(may_lead), "lease")

    def stop(self) -> None:
        self._ended.set()

    def abandon(self) -> None:
        """Stop because the parent has gone, and with it whatever could still help those who wait."""
        self.abandoned = True
        self.stop()

    async def stopped(self) -> None:
        await self._ended.wait()

    @property
    def stopping(self) -> bool:
        return self._ended.is_set()

    @property
    def crashed(self) -> bool:
        return self._crash is not None

    async def cancel_tasks(self) -> None:
        await cancel_and_wait(self._tasks)

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("task_crashed", task=task.get_name(), exc_info=error)
            self._crash = error
            self.stop()


Service = Callable[[Runtime], AbstractAsyncContextManager[None]]


def run(
    service: str,
    section: Callable[[Config], ServiceSection],
    open_service: Service,
    *,
    bus_wait_s: float | None = None,
) -> None:
    """Run the service's process, and end the interpreter with its exit status.

    `bus_wait_s`: how long the start waits for the bus before it goes on without; None: for ever.
    """
    gc.freeze()  # what was imported stays: no collection has to visit it
    gc.enable()
    parser = argparse.ArgumentParser(prog=f"python -m services.{service}")
    parser.add_argument("--config", type=Path, help="the TOML file")
    parser.add_argument("--data-dir", type=Path, default=Path(".spotinference"), help="where this host keeps its files")
    parser.add_argument("--port", type=int, help="instead of the configured port; 0 is any free one")
    parser.add_argument("--metrics-port", type=int, help="instead of the configured metrics port")
    parser.add_argument("--workers", type=int, help="processes that share the port, where the service can have several")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logs.configure(service)  # a wrong level is reported as well
    try:
        logs.configure(service, level=logs.configured_level())
        config = load(find_config(arguments.config))
        suite_file.open_data_dir(arguments.data_dir)
        # Never closed: closing would wait for the NATS client's tasks, which may not end without their server.
        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        workers = worker_count(section(config), arguments)
        if workers > 1 and arguments.worker is None:
            status = runner.run(supervise(service, section(config), workers, arguments))
        else:
            status = runner.run(
                _run_service(service, config, section(config), open_service, arguments, bus_wait_s=bus_wait_s)
            )
        if status == START_AGAIN:
            _start_again()
    except (SpotinferenceError, OSError) as error:
        log.critical("start_failed", reason=str(error))
        logs.stderr().write(f"spotinference {service}: {error}\n")
        status = 1
    os._exit(status)


def _start_again() -> NoReturn:
    """Replace this process by a new one of the same id, which awaits the bus: nothing half started is left."""
    # They stay pending until the new program handles them.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - this very program


async def _run_service(
    service: str,
    config: Config,
    section: ServiceSection,
    open_service: Service,
    arguments: argparse.Namespace,
    *,
    bus_wait_s: float | None,
) -> int:
    end = End()
    ended = end.requested
    stop_on_signals(end.stop, lambda: end.stop() if runtime is None else runtime.abandon())
    reload_on_hangup(
        find_config(arguments.config),
        config,
        is_started=lambda: runtime is not None and runtime.started,
        find_handler=lambda: runtime.on_reload if runtime else None,
        start_again=end.start_again,
    )
    access = suite_file.bus_access(config, arguments.data_dir, service)
    bus: Bus | None = None
    runtime: Runtime | None = None
    health, registry = Health(), CollectorRegistry()
    health.add_check("bus", lambda: None if bus is not None and bus.connected else "not connected to the bus")
    health.add_check("starting", lambda: None if runtime is not None and runtime.started else "starting")
    health.add_check("draining", lambda: "draining" if ended.is_set() else None)
    register_process_metrics(registry, lambda: bus is not None and bus.connected)
    async with AsyncExitStack() as stack:
        metrics_port = section.metrics_port if arguments.metrics_port is None else arguments.metrics_port
        bound = await stack.enter_async_context(_serve_pages(service, section, metrics_port, health, registry))
        try:
            async with cancel_when(ended):
                bus = await stack.enter_async_context(
                    connect(access, name=service, wait=bus_wait_s, is_required=bus_wait_s is None)
                )
                runtime = Runtime(
                    service=service,
                    config=config,
                    data_dir=arguments.data_dir,
                    bus=bus,
                    bus_name=access.shown(),
                    port=arguments.port,
                    instance=replica(access.user, _new_instance()),
                    health=health,
                    registry=registry,
                    worker=arguments.worker,
                    workers=worker_count(section, arguments),
                    _ended=ended,
                )
                await _start_service(runtime, bus, open_service, stack)
        except asyncio.CancelledError:
            if end.starts_again:
                return START_AGAIN
            report_unready(service, health)
            return int(runtime is not None and runtime.crashed)
        except BusUnavailable as error:
            log.warning("start_interrupted", reason=str(error))
            await asyncio.wait([asyncio.create_task(ended.wait())], timeout=START_AGAIN_SECONDS)
            return START_AGAIN if end.starts_again or not ended.is_set() else 0
        _announce(runtime, origin(section.metrics_host, bound))
        await runtime.stopped()
        log.info("service_draining")
    log.info("service_stopped")
    return START_AGAIN if end.starts_again else int(runtime.crashed)


@asynccontextmanager
async def _serve_pages(
    service: str, section: ServiceSection, port: int, health: Health, registry: CollectorRegistry
) -> AsyncIterator[int]:
    """Serve health and metrics, and yield the port."""
    async with AsyncExitStack() as stack:
        try:
            bound = await stack.enter_async_context(serve_health(health, registry, section.metrics_host, port))
        except OSError as error:
            where = f"{service}.metrics_port: cannot listen on {section.metrics_host}:{port}"
            raise Misconfigured(f"{where}: {error.strerror}: choose another port, or 0 for a free one") from error
        yield bound


async def _start_service(runtime: Runtime, bus: Bus, open_service: Service, stack: AsyncExitStack) -> None:
    """Start the service. The stack drains it, then ends the tasks."""
    max_view_age = runtime.config.bus.max_view_age
    runtime.health.add_check("views", lambda: view_fault(bus, max_view_age))
    stack.push_async_callback(runtime.cancel_tasks)
    runtime.spawn(_raise_ended_watch(bus), "watches")
    clock = ClockSkewMonitor(bus, runtime.registry)
    await clock.measure()  # before any view is read: ages depend on it
    runtime.health.add_alarm("clock", lambda: clock.alarm)
    runtime.spawn(clock.run(), "clock skew")
    await stack.enter_async_context(open_service(runtime))


def _announce(runtime: Runtime, metrics_url: str) -> None:
    """Report the service as ready: on its health page, to its parent and in the log."""
    runtime.started = True
    url = runtime.url or metrics_url
    suite_file.announce(
        suite_file.RunningService(service=runtime.service, url=url, metrics_url=metrics_url, pid=os.getpid())
    )
    log.info("service_ready", url=url, metrics_url=metrics_url)


async def _raise_ended_watch(bus: Bus) -> None:
    """Crash the process when a watch has ended: an outdated view is worse than a restart."""
    raise await bus.wait_for_ended_watch()
