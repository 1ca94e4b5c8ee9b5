"""Images as a cluster runs them, without an engine's daemon: root read-only, uid 65532, one writable folder."""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from shared.runtime.suite_file import RunningService
from tests.kit.waiting import PATIENCE_SECONDS

BUILDAH = ("buildah", "--storage-driver", "vfs")
USER = 65532
DATA = "var/lib/spotinference"
CONFIG = "etc/spotinference"
"""Where the configuration's folder is mounted, as the manifests do."""

# A mount namespace of its own. Everything below ROOT is read-only but the data directory and /tmp.
RUN_SCRIPT = """
root=$1 config=$2 data=$3
shift 3
mount --bind "$root" "$root"
mount --bind "$config" "$root/etc/spotinference"
mount -o remount,bind,ro "$root/etc/spotinference"
mount -o remount,bind,ro "$root"
mount --bind "$data" "$root/var/lib/spotinference"
mount -t tmpfs -o size=16m tmpfs "$root/tmp"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
exec setpriv --no-new-privs env -i "$@"
"""


class Image:
    """An image's root folder and how it starts. Made by `mounted`."""

    def __init__(self, root: Path, described: bytes) -> None:
        config = json.loads(described)["OCIv1"]["config"]
        self.root = root
        self.user: str = config["User"]
        self.entrypoint: list[str] = config["Entrypoint"]
        self.environment: list[str] = config["Env"]

    def command(self, config: Path, data: Path, *arguments: str) -> list[str]:
        """What starts it with the folders `config` (read-only) and `data` mounted."""
        started = [*self.entrypoint, *arguments]
        run = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", RUN_SCRIPT, "run"]
        root = str(self.root)
        change = ["/usr/sbin/chroot", f"--userspec={self.user}", root]
        return [*run, root, str(config), str(data), *self.environment, *change, *started]

    def run(self, config: Path, data: Path, *arguments: str) -> str:
        """Its output, once it has ended well."""
        done = subprocess.run(
            self.command(config, data, *arguments), check=False, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def identity(target: str, tag: str) -> str:
    """The digest of everything in the image."""
    return _buildah("inspect", "--type", "image", "--format", "{{.FromImageID}}", name_of(target, tag)).decode().strip()


def name_of(target: str, tag: str) -> str:
    return f"localhost/spotinference/{target}:{tag}"


@contextmanager
def mounted(target: str, tag: str) -> Iterator[Image]:
    """The built image of `target`. Nobody else sees what happens to its root."""
    name = name_of(target, tag)
    container = _buildah("from", "--pull-never", name).decode().strip()
    try:
        image = Image(Path(_buildah("mount", container).decode().strip()), _buildah("inspect", "--type", "image", name))
        (image.root / CONFIG).mkdir(parents=True, exist_ok=True)
        yield image
    finally:
        _buildah("rm", container)


def _buildah(*arguments: str) -> bytes:
    return subprocess.run([*BUILDAH, *arguments], check=True, capture_output=True, timeout=120).stdout


class RunningImage:
    """A service that runs from its image until `stop`."""

    def __init__(self, process: asyncio.subprocess.Process, announced: RunningService, log: Path) -> None:
        self._process = process
        self.announced = announced
        self.log = log

    async def stop(self) -> int:
        """Its exit status after SIGTERM."""
        self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self._process.wait()

    def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()


async def start(image: Image, config: Path, data: Path, log: Path) -> RunningImage:
    """Returns once the service has announced that it is ready; `AssertionError` with its log if it ends instead."""
    command = image.command(config, data, "--config", f"/{CONFIG}/spotinference.toml")
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=errors)
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_SECONDS):
        line = await process.stdout.readline()
    assert line, end_of(log)
    return RunningImage(process, msgspec.json.decode(line, type=RunningService), log)


def end_of(log: Path) -> str:
    return log.read_text(encoding="utf-8")[-3000:]


def is_root_read_only(pid: int) -> bool:
    """Whether the process could write beside its volumes."""
    mounts = Path(f"/proc/{pid}/mountinfo").read_text(encoding="utf-8").splitlines()
    return any(fields[4] == "/" and "ro" in fields[5].split(",") for fields in (line.split() for line in mounts))


def user_of(pid: int) -> tuple[int, str]:
    """The process's effective user and its effective capabilities, as the kernel says."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return int(fields["Uid"].split()[1]), fields["CapEff"].strip()


def own(folder: Path) -> Path:
    """Makes the folder the images' user's."""
    folder.mkdir(exist_ok=True)
    os.chown(folder, USER, USER)
    return folder
