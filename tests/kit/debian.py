"""Programs and files of Debian's packages, unpacked without being installed: nothing is started or configured."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".debian_cache"
LIBRARIES = "usr/lib/x86_64-linux-gnu"


def unpacked(*packages: str) -> Path:
    """Return a folder with the files of these packages, fetched at first use. Fails if they cannot be had here."""
    folder = HOME / packages[0]
    HOME.mkdir(exist_ok=True)
    with (HOME / f"{packages[0]}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            _fetch(packages, folder)
            (folder / "complete").touch()
    return folder


def program(name: str, *packages: str) -> list[str]:
    """Return the words that start a program: the system's own, or else that of these packages."""
    if path := shutil.which(name):
        return [path]
    folder = unpacked(*packages)
    files = [file for room in ("usr/bin", "usr/sbin", "bin", "sbin") if (file := folder / room / name).is_file()]
    assert files, f"no {name} in {', '.join(packages)}"
    return ["env", f"LD_LIBRARY_PATH={folder / LIBRARIES}:{folder / 'lib/x86_64-linux-gnu'}", str(files[0])]


def _fetch(packages: tuple[str, ...], folder: Path) -> None:
    missing = f"no {packages[0]} here: `apt-get install {packages[0]}`"
    assert shutil.which("apt-get"), missing
    if _run(["apt-get", "download", *packages], folder) is not None:
        _run(["apt-get", "update"], folder)  # a new machine has no lists yet
        fault = _run(["apt-get", "download", *packages], folder)
        assert fault is None, f"{missing}\n{fault}"
    for file in folder.glob("*.deb"):
        fault = _run(["dpkg", "-x", str(file), str(folder)], folder)
        assert fault is None, fault


def _run(words: list[str], folder: Path) -> str | None:
    """Return what went wrong."""
    result = subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        check=False,
        capture_output=True,
        text=True,
    )
    return None if result.returncode == 0 else f"{' '.join(words)}: {result.stderr.strip()}"
