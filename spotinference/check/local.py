"""Checks of this host, the bus and the database."""

import asyncio
import http.client
import os
import shutil
import sys
import urllib.request
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from shared.bus.jetstream import connect
from shared.bus.topology import FLEET
from shared.config.fleet import Machine
from shared.config.sections import Config, GatewaySection, ServiceSection, SiteSection
from shared.database import create_engine, database_url
from shared.errors import BusError, Misconfigured
from shared.messages.waker import MachineRecord
from shared.runtime import suite_file
from shared.runtime.listener import bind, origin
from spotinference.bucket_reader import read_bucket
from spotinference.diagnostics import Diagnostic, note, ok, wrong

PROBE_SECONDS = 3.0
MAX_PAGE_BYTES = 1024
LIVE = b'{"live": true}'
"""What `/livez` of a service answers."""


def check_program(machine: Machine) -> Diagnostic | None:
    """Check that the program of the machine's command is installed."""
    if not machine.command:
        return None
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    program = machine.command[0]
    if shutil.which(program, path=path) is None:
        fix = "install it, or give its full path"
        return wrong(f"machine {machine.id}: command: program {program!r} is not on the PATH: {fix}")
    return ok(f"machine {machine.id}: {program} is installed")


def check_prices(config: Config) -> list[Diagnostic]:
    """List rented tiers without a price and without a running bill: only an invoice shows their cost."""
    if config.billing.daily_budget is not None:
        text = "no price_per_hour: while its machines are awake, today's spend is unknown and the fleet's gate closed"
    elif not config.billing.source:
        text = "no price_per_hour and no [[billing.source]]: its cost is unknown until an invoice is imported"
    else:
        return []
    return [
        note(f'tier {tier.name}: {text}. Set price_per_hour, "0" if nobody bills it')
        for tier in config.tier
        if not (tier.traits.is_local or tier.traits.has_running_bill) and tier.price_per_hour is None
    ]


def check_site(config: Config) -> list[Diagnostic]:
    """Say what the site's sign-up allows and nobody may have meant."""
    return [] if config.site.warning is None else [note(f"site: {config.site.warning}")]


def check_ports(config: Config, data_dir: Path) -> list[Diagnostic]:
    """Check that the configured ports are free, unless our own services hold them, as `up` or each by itself."""
    if suite_file.read(data_dir) is not None:
        return []  # our own services hold them
    diagnostics: list[Diagnostic] = []
    for name in ("gateway", "waker", "meter", "billing", "site"):
        section: ServiceSection = getattr(config, name)
        ports = [("metrics_port", section.metrics_host, section.metrics_port)]
        if isinstance(section, (GatewaySection, SiteSection)):
            ports.insert(0, ("port", section.host, section.port))
        faults = [check_port(f"{name}.{key}", host, port) for key, host, port in ports if port]
        if any(one.level == "wrong" for one in faults) and _runs_here(section):
            faults = [ok(f"{name}: it runs here, on its ports")]
        diagnostics += faults
    return diagnostics


def check_port(name: str, host: str, port: int) -> Diagnostic:
    """Check that one port is free."""
    try:
        bind(host, port).close()
    except OSError as error:
        return wrong(f"{name}: cannot listen on {host}:{port}: {error.strerror}: choose another port, or 0")
    return ok(f"{name}: {host}:{port} is free")


def _runs_here(section: ServiceSection) -> bool:
    """Whether one of our services serves its health pages at the section's metrics port."""
    if not section.metrics_port:
        return False
    url = f"{origin(section.metrics_host, section.metrics_port)}/livez"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy the environment names
    try:
        with direct.open(url, timeout=PROBE_SECONDS) as page:
            return bool(page.read(MAX_PAGE_BYTES) == LIVE)
    except (OSError, http.client.HTTPException):
        return False


async def check_bus(config: Config, data_dir: Path) -> tuple[list[Diagnostic], dict[str, MachineRecord]]:
    """Check the bus; also return the machines on record, by id."""
    try:
        access = suite_file.bus_access(config, data_dir, "operator")
    except Misconfigured:
        return [ok("bus: not configured; `spotinference up` runs its own")], {}
    records: dict[str, MachineRecord] = {}
    try:
        async with connect(access, name="check", wait=PROBE_SECONDS) as bus:
            try:
                for record, _ in (await read_bucket(bus, FLEET, MachineRecord)).values():
                    records[record.machine] = record
            except BusError as error:
                return [note(f"bus: connected; no machines on record: {error}")], records
    except (BusError, Misconfigured) as error:
        return [wrong(f"bus: {error}")], records
    return [ok(f"bus: connected; {len(records)} machines on record")], records


async def check_database(config: Config) -> list[Diagnostic]:
    """Check that the configured database can be reached."""
    if config.database.url is None and config.database.url_file is None:
        return [ok("database: SQLite in the data directory")]
    try:
        engine = create_engine(database_url(config, Path(), "check.sqlite"))
    except Misconfigured as error:
        return [wrong(str(error))]
    try:
        async with asyncio.timeout(PROBE_SECONDS), engine.connect():
            return [ok("database: connected")]
    except (SQLAlchemyError, OSError, TimeoutError) as error:
        return [wrong(f"database.url: {str(error).splitlines()[0] if str(error) else 'no answer'}")]
    finally:
        await engine.dispose()
