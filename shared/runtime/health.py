"""Serves the second port of every service: `/livez`, `/readyz`, `/metrics`."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from shared.runtime import logs
from shared.runtime.listener import bind

log = structlog.get_logger()

Check = Callable[[], str | None]
"""Returns what is wrong, for people, or None."""


class Health:
    """Named readiness checks. The process is alive as long as it answers."""

    def __init__(self) -> None:
        self._checks: dict[str, Check] = {}
        self._alarms: dict[str, Check] = {}

    def add_check(self, name: str, check: Check) -> None:
        self._checks[name] = check

    def report(self, name: str, fault: str | None) -> None:
        """Set a check to this fault; None removes the check."""
        if fault is None:
            self.remove_check(name)
        else:
            self.add_check(name, lambda: fault)

    def add_alarm(self, name: str, check: Check) -> None:
        """Add a check for what an operator has to fix while the service keeps serving. It does not affect readiness."""
        self._alarms[name] = check

    def make_alarm(self, name: str) -> None:
        """Turn a check, if there is one, into an alarm: from now on the service is ready without it."""
        if (check := self._checks.pop(name, None)) is not None:
            self._alarms[name] = check

    def remove_check(self, name: str) -> None:
        """Remove a check, for a service that is ready without it."""
        self._checks.pop(name, None)

    def faults(self) -> dict[str, str]:
        return _failing(self._checks)

    def alarms(self) -> dict[str, str]:
        return _failing(self._alarms)


def _failing(checks: dict[str, Check]) -> dict[str, str]:
    return {name: fault for name, check in checks.items() if (fault := check()) is not None}


@asynccontextmanager
async def serve_health(health: Health, registry: CollectorRegistry, host: str, port: int) -> AsyncIterator[int]:
    """Serve the three pages and yield the port. Raises `OSError` if the port is taken."""

    async def livez(_request: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def readyz(_request: web.Request) -> web.Response:
        faults, alarms = health.faults(), health.alarms()
        page = {"ready": not faults, "faults": faults} | ({"alarms": alarms} if alarms else {})
        return web.json_response(page, status=503 if faults else 200)

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None, auto_decompress=False)  # nothing here reads a body
    await runner.setup()
    try:
        await web.SockSite(runner, bind(host, port)).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def report_unready(service: str, health: Health) -> None:
    """Say what a service that is asked to end was still waiting for, on a line for people too."""
    faults = {name: fault for name, fault in health.faults().items() if name not in ("starting", "draining")}
    log.info("service_stopped", ready=False, faults=faults)
    logs.stderr().write(f"spotinference {service}: not ready: {'; '.join(faults.values()) or 'still starting'}\n")
