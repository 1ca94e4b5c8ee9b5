"""`spotinference check`: is the configuration right, and what of it can be reached from here?"""

import asyncio
import os
import shutil
import socket
import sys
from pathlib import Path

import aiohttp
import click
from sqlalchemy.exc import SQLAlchemyError

from shared import suite
from shared.bus.jetstream import connect
from shared.config import Config, Machine, database_url
from shared.database import create_engine
from shared.errors import BusError, Misconfigured
from spotinference.context import Context, suite_options

PROBE_SECONDS = 3.0


@click.command()
@suite_options
def check(context: Context) -> None:
    """Read the configuration, say what is wrong, try what can be reached."""
    config = context.config()
    click.echo(f"ok    {context.path}: {len(config.machine)} machines, {len(config.model)} models")
    faults = asyncio.run(_tried(config, context.data_dir))
    for fault in faults:
        click.echo(f"wrong {fault}", err=True)
    sys.exit(1 if faults else 0)


async def _tried(config: Config, data_dir: Path) -> list[str]:
    faults = [fault for machine in config.machine if (fault := _command_fault(machine))]
    faults += _port_faults(config, data_dir)
    faults += await _bus_faults(config, data_dir)
    faults += await _database_faults(config, data_dir)
    faults += await _endpoint_faults(config)
    return faults


def _command_fault(machine: Machine) -> str | None:
    if not machine.command:
        return None
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    program = machine.command[0]
    if shutil.which(program, path=path) is None:
        return f"machine {machine.id}: command: no program {program!r} on the PATH: install it or give its full path"
    click.echo(f"ok    machine {machine.id}: {program} is there")
    return None


def _port_faults(config: Config, data_dir: Path) -> list[str]:
    if suite.read(data_dir) is not None:
        return []  # our own suite holds them
    faults: list[str] = []
    sections = (config.gateway, config.waker, config.meter, config.billing)
    wanted = [("gateway.port", config.gateway.host, config.gateway.port)]
    names = ("gateway", "waker", "meter", "billing")
    wanted += [(f"{n}.metrics_port", s.host, s.metrics_port) for n, s in zip(names, sections, strict=True)]
    for name, host, port in wanted:
        if port:
            try:
                socket.create_server((host, port)).close()
            except OSError as error:
                faults.append(f"{name}: cannot listen on {host}:{port}: {error.strerror}: name another port, or 0")
            else:
                click.echo(f"ok    {name}: {host}:{port} is free")
    return faults


async def _bus_faults(config: Config, data_dir: Path) -> list[str]:
    try:
        url = suite.bus_url(config, data_dir)
    except Misconfigured:
        click.echo("ok    bus: none set; `spotinference up` brings its own")
        return []
    try:
        async with connect(url, name="check", wait=PROBE_SECONDS):
            click.echo("ok    bus: connected")
    except BusError as error:
        return [f"bus: {error}"]
    return []


async def _database_faults(config: Config, data_dir: Path) -> list[str]:
    if config.database.url is None and config.database.url_file is None:
        click.echo("ok    database: SQLite in the data directory")
        return []
    engine = create_engine(database_url(config, data_dir, "check.sqlite"))
    try:
        async with asyncio.timeout(PROBE_SECONDS), engine.connect():
            click.echo("ok    database: connected")
    except (SQLAlchemyError, OSError, TimeoutError) as error:
        return [f"database.url: {str(error).splitlines()[0] if str(error) else 'no answer'}"]
    finally:
        await engine.dispose()
    return []


async def _endpoint_faults(config: Config) -> list[str]:
    faults: list[str] = []
    timeout = aiohttp.ClientTimeout(total=PROBE_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for machine in config.machine:
            if machine.endpoint is None:
                continue
            try:
                async with session.get(f"{machine.endpoint}/v1/models") as answer:
                    click.echo(f"ok    machine {machine.id}: {machine.endpoint} answers ({answer.status})")
            except (aiohttp.ClientError, TimeoutError) as error:
                faults.append(f"machine {machine.id}: endpoint {machine.endpoint}: {str(error) or 'no answer'}")
    return faults
