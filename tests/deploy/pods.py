"""Containers of the manifests as processes of this host: their command, their arguments and the files of their volumes.

Nothing else is given to them. Paths become folders of the test, and ports free ones.
"""

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from shared.runtime.suite_file import RunningService
from tests.deploy.manifests import Document, Manifests, Workload
from tests.kit.waiting import PATIENCE_SECONDS

FILES, DATA = "/etc/spotinference", "/var/lib/spotinference"
Secrets = dict[str, dict[str, str]]


@dataclass
class Pod:
    """One container and its volumes. `replaced`: words of ConfigMaps that name another host."""

    manifests: Manifests
    service: str
    folder: Path
    secrets: Secrets
    replaced: dict[str, str]
    process: asyncio.subprocess.Process | None = None
    _home: Path = field(init=False)

    def __post_init__(self) -> None:
        self._home = self.folder / self.service
        (self._home / "data").mkdir(parents=True)
        self._container: Document = self._workload.containers[0]
        for mount in self._container["volumeMounts"]:
            self._mount(Path(self._local(mount["mountPath"])), self._workload.volumes[mount["name"]])

    @property
    def _workload(self) -> Workload:
        return self.manifests.workload(self.service)

    @property
    def log(self) -> Path:
        return self._home / "log"

    async def read_log(self) -> str:
        return self.log.read_text("utf-8")

    def _local(self, text: str) -> str:
        local = text.replace(FILES, str(self._home / "etc")).replace(DATA, str(self._home / "data"))
        for old, new in self.replaced.items():
            local = local.replace(old, new)
        return local

    def _mount(self, folder: Path, volume: Document) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for source in [volume, *volume.get("projected", {}).get("sources", [])]:
            if "configMap" in source:
                config = self.manifests.find("ConfigMap", source["configMap"]["name"])
                assert config is not None
                for name, text in config["data"].items():
                    (folder / name).write_text(self._local(text), "utf-8")
            if "secret" in source:
                self._mount_secret(folder, source["secret"])

    def _mount_secret(self, folder: Path, secret: Document) -> None:
        name = secret.get("secretName", secret.get("name"))
        if name not in self.secrets:
            assert secret.get("optional"), f"there is no Secret {name}"
            return
        contents = self.secrets[name]
        items = secret.get("items") or [{"key": key, "path": key} for key in contents]
        for item in items:
            (folder / item["path"]).write_text(contents[item["key"]], "utf-8")

    async def start(self) -> None:
        words = [*self._container["command"], *self._container["args"]]
        assert words[0] == "python3"
        environment = {v["name"]: self._local(v["value"]) for v in self._container.get("env", [])}
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, *map(self._local, words[1:])),
                env={"PATH": os.environ["PATH"], **environment},
                stdout=subprocess.PIPE,
                stderr=log,
            )

    async def ready(self) -> RunningService:
        """Return what a service announces once it is ready; `AssertionError` with its log if it ends instead."""
        assert self.process is not None
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            line = await self.process.stdout.readline()
        assert line, self.log.read_text("utf-8")[-3000:]
        return msgspec.json.decode(line, type=RunningService)

    async def ended(self) -> int:
        """Return the exit status once it ends by itself."""
        assert self.process is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode

    async def complete(self) -> None:
        """Await the success of a job, which is started again if it fails, as by its `restartPolicy`."""
        assert self._workload.pod["restartPolicy"] == "OnFailure"
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await self.ended() != 0:
                await self.start()

    async def stop(self) -> int:
        """Send what the kubelet sends, and return the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return await self.ended()

    async def close(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
